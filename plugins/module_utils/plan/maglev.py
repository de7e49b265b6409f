# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weighted Maglev lookup tables: which backend a flow's hash picks, the same on every edge.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4: the backends
take slots in turns, each the first free one in a list of its own. Three things differ.

- Weights: a backend's share is fixed beforehand, to the slot, and its turns are spread evenly over the whole, whatever
  the scale of the weights.
- A backend's list is a hash's endless output instead of an arithmetic sequence, where two with related steps moved up
  to 14 % of the flows that need not move, and it comes from the C library in one piece.
- When few slots are left, a backend would look at hundreds of taken ones for each. So the last slots choose instead:
  each takes, of the backends that still lack one, the one that its number ranks highest.

What a table costs in CPU time (AMD EPYC, Python 3.11; all weights alike, or all different): 0.1 ms for 2 backends, 1.1
or 1.4 ms for 12, 4.5 or 6 ms for 100, 21 or 26 ms for 200.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

# (most backends, slots): with so many slots a backend that removing one moves less than 2 % of the flows of others
# (measured, worst of 48: 12 backends 1.7 %, 150 1.8 %), and no more, since what a table costs grows with them. Of two
# backends nothing but the share depends on the size. Few tiers, since a service that grows from one to the next
# reshuffles its flows once.
_TIERS = ((2, 256), (12, 4096), (150, 16384), (600, 65536))
# The sizes that a service may ask for, so that it can grow without being reshuffled.
TABLE_SIZES = tuple(size for _, size in _TIERS)
# The last of so many slots choose their backend. More of them cost less time and move more flows.
_LAST = 512
# How many slots a number in a list stands for: two bytes' worth.
_RANGE = 65536
# The slots' ranks are read from the beginning of the backends' lists, which all have at least so many numbers.
_RANKS = 64


def table_size(n_backends: int, at_least: int = 0) -> int:
    """The number of slots for so many backends: 0 for none, 1 for one, else a power of two.

    For 2 backends 256 slots, to 12 4,096, to 150 16,384, above 65,536; where there are several, ``at_least`` so many.
    Whoever counts drained backends (weight 0) in keeps the size, and so the other flows, when one is drained.
    """
    if n_backends <= 1:
        return max(n_backends, 0)
    needed = next((size for most, size in _TIERS if n_backends <= most), TABLE_SIZES[-1])
    return max(needed, at_least)


def build_table(backends: Sequence[tuple[int, int]], size: int) -> list[int]:
    """The table: ``size`` backend ids, from ``(id, weight)`` pairs; empty where no backend has
    weight.

    Depends on ids and weights only, not on their order. A backend has its share of the slots, rounded up or down, and
    at least one. ``size`` must be a power of two, at most 65,536, and not below the number of live backends; ids must
    differ. Raises ValueError otherwise.
    """
    live = sorted((ident, weight) for ident, weight in backends if weight > 0)
    if len({ident for ident, _ in backends}) != len(backends):
        raise ValueError("two backends have one id")
    if any(weight < 0 for _, weight in backends):
        raise ValueError("a weight is negative")
    if not live:
        return []
    if size < len(live):
        raise ValueError(f"{size} slots are too few for {len(live)} backends")
    if size & (size - 1) or size > _RANGE:
        raise ValueError(f"{size} slots are no power of two up to {_RANGE}")
    if len(live) == 1:
        return [live[0][0]] * size

    shares, turns = _turns(tuple(weight for _, weight in live), size)
    lists = [_preferences(ident, share, size) for (ident, _), share in zip(live, shares, strict=True)]
    owner: list[int | None] = [None] * size
    lacking = [0] * len(live)
    n_last = size // _LAST
    wishes = [iter(slots) for slots in lists]
    for index in turns[: size - n_last]:
        for slot in wishes[index]:
            if owner[slot] is None:
                owner[slot] = index
                break
        else:  # its list is at an end, which happens to shares of a few slots
            lacking[index] += 1
    for index in turns[size - n_last :]:
        lacking[index] += 1

    waiting = [index for index, slots in enumerate(lacking) if slots]
    slot = -1
    while waiting:
        slot = owner.index(None, slot + 1)
        rank = slot % _RANKS
        chosen = max((lists[index][rank], index) for index in waiting)[1]
        owner[slot] = chosen
        lacking[chosen] -= 1
        if not lacking[chosen]:
            waiting.remove(chosen)
    idents = [ident for ident, _ in live]
    return list(map(idents.__getitem__, cast("list[int]", owner)))


def _preferences(ident: int, share: int, size: int) -> array[int]:
    """A backend's list of slots: by hash of its id alone, so that others coming or going do not matter, and as long as
    one with such a share needs, with few exceptions.
    """
    # A slot is found after 1/f looks when a fraction f is free; over all turns that is share × ln(1/last fraction).
    length = _RANKS * (2 + int(1.1 * share * math.log(_LAST)) // _RANKS)
    digest = hashlib.shake_128(b"edgewire-maglev" + ident.to_bytes(8, "big")).digest(2 * length)
    if size < _RANGE:
        digest = (int.from_bytes(digest, "little") & _mask(length, size)).to_bytes(2 * length, "little")
    slots = array("H", digest)
    if sys.byteorder == "big":
        slots.byteswap()
    return slots


@lru_cache(maxsize=64)
def _mask(length: int, size: int) -> int:
    """What cuts each of so many 16-bit numbers down to a slot."""
    return int.from_bytes((size - 1).to_bytes(2, "little") * length, "little")


# Many services of a fleet have the same weights.
@lru_cache(maxsize=16)
def _turns(weights: tuple[int, ...], size: int) -> tuple[list[int], list[int]]:
    """Each backend's share in slots, and whose turn it is: ``size`` indices, such that after every one of them all have
    had about their part so far. A common factor of all weights changes nothing.
    """
    total = sum(weights)
    shares = [max(1, size * weight // total) for weight in weights]
    over = size - sum(shares)
    for index in sorted(range(len(weights)), key=lambda index: (-(size * weights[index] % total), index))[
        : max(over, 0)
    ]:
        shares[index] += 1
    for _ in range(-over):  # paid by the largest for those that are lifted to one slot
        shares[shares.index(max(shares))] -= 1
    # A turn is a number below 2^30, which Python sorts fastest: when it is due, above whose it is.
    bits = len(weights).bit_length()
    due: list[int] = []
    for index, (weight, share) in enumerate(zip(weights, shares, strict=True)):
        step = max(1, (total << 29 - bits) // (size * weight)) << bits
        due.extend(range(step + index, step * (share + 1) + index, step))
    whose = (1 << bits) - 1
    return shares, [turn & whose for turn in sorted(due)]
