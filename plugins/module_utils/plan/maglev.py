# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weighted Maglev lookup tables: which backend a flow's hash picks, the same on every edge.

Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4: each backend has
a list of slots, and they take slots from their lists in turns. Four things differ.

- Weights: a backend's share is fixed beforehand, to the slot, and the heavier it is, the closer are its turns, whatever
  the scale of the weights.
- A turn whose slot is taken is lost; the backend does not go on to its next free slot. So a slot is theirs who have it
  earliest in their list, as in rendezvous hashing (Thaler and Ravishankar, 1998), whatever happened in turns before.
  A backend that comes or goes moves half as many flows between the others.
- A list is a linear map over GF(2) with an offset, by a hash, instead of an arithmetic sequence, where two with related
  steps moved up to 14 % of the flows that need not move. Big integers make the whole list in a few operations.
- The turns end before the last slots are taken, since few would be. The slots that are left choose instead: each
  takes, of the backends that still lack one, the one that its number ranks highest.

What a table of 4,096 slots costs in CPU time (AMD EPYC, Python 3.11): 0.3 ms for two backends that are alike, 1 to 3 ms
otherwise, whatever their number.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import operator
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

# The sizes that a service may ask for, to have finer shares. In the least a backend that comes or goes moves less than
# 2 % of the flows of others, whatever their number (measured, worst of 2 to 1,000 backends: 1.95 %). A share is right
# to a slot, which is 0.02 % of all flows; of a hundredth of the flows it is 2.4 %.
TABLE_SIZES = (4096, 16384, 65536)
# So many backends have the least size. One more has the largest, and the service's flows are reshuffled once.
_MOST = 1024
# How many turns there are for each slot. With fewer, more slots are left to choose, and more flows move.
_ROUNDS = 6
_TIME = 1 << 40


def table_size(n_backends: int, at_least: int = 0) -> int:
    """The number of slots for so many backends: 0 for none, 1 for one, else a power of two.

    To 1,024 backends 4,096 slots, above 65,536; where there are several backends, ``at_least`` so many.
    Whoever counts drained backends (weight 0) in keeps the size, and so the other flows, when one is drained.
    """
    if n_backends <= 1:
        return max(n_backends, 0)
    return max(TABLE_SIZES[0] if n_backends <= _MOST else TABLE_SIZES[-1], at_least)


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
    if size & (size - 1) or size > TABLE_SIZES[-1]:
        raise ValueError(f"{size} slots are no power of two up to {TABLE_SIZES[-1]}")
    if len(live) == 1:
        return [live[0][0]] * size

    weights = tuple(weight for _, weight in live)
    shares = _shares(weights, size)
    maps = [_map_of(ident, size.bit_length() - 1) for ident, _ in live]
    if len(set(weights)) > 1:
        counts, whose = _turns(weights, size)
        lists = [one.slots(count) for one, count in zip(maps, counts, strict=True)]
        following = list(map(iter, lists))
        owner = _settled(lists, shares, zip(whose, map(next, map(following.__getitem__, whose)), strict=True), size)
    elif len(live) == 2:
        owner = _halves(*maps)
    else:
        lists = [one.slots(_ROUNDS * shares[0]) for one in maps]
        owner = _settled(lists, shares, _round_robin(lists), size)
    idents = [ident for ident, _ in live]
    return [idents[index] for index in owner]


def _round_robin(lists: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Turns of backends that are alike: whose each is, and the slot that is next in their list."""
    return zip(itertools.cycle(range(len(lists))), itertools.chain.from_iterable(zip(*lists, strict=True)))


def _settled(
    lists: Sequence[Sequence[int]], shares: Sequence[int], proposals: Iterable[tuple[int, int]], size: int
) -> Sequence[int]:
    """Whose each slot is, by the turns, and by the slots' choice where these end before it."""
    owner: list[int | None] = [None] * size
    lacking = list(shares)
    free = size
    for index, slot in proposals:
        if owner[slot] is None and lacking[index]:
            owner[slot] = index
            lacking[index] -= 1
            free -= 1
            if not free:
                break

    waiting = [index for index, slots in enumerate(lacking) if slots]
    slot = -1
    while waiting:
        slot = owner.index(None, slot + 1)
        chosen = max((lists[index][slot % len(lists[index])], index) for index in waiting)[1]
        owner[slot] = chosen
        lacking[chosen] -= 1
        if not lacking[chosen]:
            waiting.remove(chosen)
    return cast("list[int]", owner)


class _Map(NamedTuple):
    """A backend's list as a map of turns to slots: ``((matrix × turn ⊕ first) + offset) × stride``, modulo the size.

    The matrix is over GF(2): ``columns`` has the slots that the turn's bits stand for, from the lowest on, linearly
    independent, so each slot comes once. The sum is an ordinary one, by which no two backends' maps go together. By the
    stride, which is every backend's, neighbours in a table are far apart in the rest of it: that a slot is theirs says
    nothing of the next one, where a flow goes whose worker is dead.
    """

    bits: int
    first: int
    offset: int
    columns: Sequence[int]

    def slots(self, count: int) -> array[int]:
        """The list, ``count`` slots or a few more, at most all of them."""
        lanes, length = self.first, 1  # numbers of 32 bits side by side in one
        for column in self.columns:
            if length >= count:
                break
            lanes |= (lanes ^ column * _ones(length)) << 32 * length
            length *= 2
        ones = _ones(length)
        modulo = ((1 << self.bits) - 1) * ones
        lanes = ((lanes + self.offset * ones & modulo) * _stride(1 << self.bits)) & modulo
        slots = array("I", lanes.to_bytes(4 * length, "little"))
        if sys.byteorder == "big":
            slots.byteswap()
        return slots

    def turns(self) -> list[int]:
        """The inverse before the stride, for all slots at once: for each bit of the turn, from the lowest on, a number
        with a bit for every slot.
        """
        size = 1 << self.bits
        rows = [(column, 1 << number) for number, column in enumerate(self.columns)]
        for bit in range(self.bits):
            pivot = next(number for number in range(bit, self.bits) if rows[number][0] >> bit & 1)
            rows[bit], rows[pivot] = rows[pivot], rows[bit]
            column, made = rows[bit]
            rows = [
                (other ^ column, by ^ made) if number != bit and other >> bit & 1 else (other, by)
                for number, (other, by) in enumerate(rows)
            ]
        # Now the slot's bit number n is the sum of the columns in rows[n][1].
        everywhere = (1 << size) - 1
        turns = []
        for number in range(self.bits):
            plane = 0
            for bit, (_, by) in enumerate(rows):
                if by >> number & 1:
                    plane ^= _plane(bit, self.bits) ^ (everywhere if self.first >> bit & 1 else 0)
            turns.append((plane << self.offset | plane >> size - self.offset) & everywhere)
        return turns


def _map_of(ident: int, bits: int) -> _Map:
    """A backend's map: by hash of its id alone, so that others coming or going do not matter."""
    digest = hashlib.shake_128(b"edgewire-maglev" + ident.to_bytes(8, "big")).digest(4 * bits + 64)
    words = [word & (1 << bits) - 1 for word in struct.unpack(f"<{len(digest) // 2}H", digest)]
    columns: list[int] = []
    pivots: dict[int, int] = {}
    for word in words[2:]:
        rest = word
        while rest and (high := rest.bit_length()) in pivots:
            rest ^= pivots[high]
        if rest:
            pivots[high] = rest
            columns.append(word)
            if len(columns) == bits:
                break
    return _Map(bits, words[0], words[1], columns)


def _halves(one: _Map, other: _Map) -> Sequence[int]:
    """What :func:`_settled` makes of two backends that are alike, some times faster: for all slots at once.

    Each slot is theirs whose turn for it comes first. Who has too many gives up those that it had last.
    """
    size = 1 << one.bits
    decided = others = 0
    for mine, theirs in zip(reversed(one.turns()), reversed(other.turns()), strict=True):
        differ = (mine ^ theirs) & ~decided
        others |= differ & mine
        decided |= differ
    owner = bytearray(_strided(size)(f"{others:0{size}b}".encode().translate(_BITS)[::-1]))
    surplus = others.bit_count() - size // 2
    loser = int(surplus > 0)
    for slot in reversed((one, other)[loser].slots(size)):
        if not surplus:
            break
        if owner[slot] == loser:
            owner[slot] = 1 - loser
            surplus += 1 if surplus < 0 else -1
    return owner


_BITS = bytes.maketrans(b"01", b"\0\1")


def _stride(size: int) -> int:
    """An odd number near the golden section of the size."""
    return size * 0x9E37 >> 16 | 1


@lru_cache(4)
def _strided(size: int) -> Callable[[bytes], tuple[int, ...]]:
    """Puts what is said of all slots before the stride in their order behind it."""
    back = pow(_stride(size), -1, size)
    return operator.itemgetter(*(slot * back % size for slot in range(size)))


@lru_cache(64)
def _ones(length: int) -> int:
    """So many numbers of 32 bits side by side, all of them 1."""
    return ((1 << 32 * length) - 1) // 0xFFFFFFFF


@lru_cache(64)
def _plane(bit: int, bits: int) -> int:
    """One bit of the numbers of all slots, as a number with a bit for every slot."""
    run = ((1 << (1 << bit)) - 1) << (1 << bit)
    return sum(run << at for at in range(0, 1 << bits, 2 << bit))


# Many services of a fleet have the same weights.
@lru_cache(maxsize=16)
def _shares(weights: tuple[int, ...], size: int) -> list[int]:
    """Each backend's share in slots: its part, rounded up or down, and one slot at least."""
    total = sum(weights)
    shares = [max(1, size * weight // total) for weight in weights]
    over = size - sum(shares)
    for index in sorted(range(len(weights)), key=lambda index: (-(size * weights[index] % total), index))[
        : max(over, 0)
    ]:
        shares[index] += 1
    for _ in range(-over):  # paid by the largest for those that are lifted to one slot
        shares[shares.index(max(shares))] -= 1
    return shares


@lru_cache(maxsize=16)
def _turns(weights: tuple[int, ...], size: int) -> tuple[list[int], list[int]]:
    """How many turns each backend has, and whose they are, in order. A common factor of all weights changes nothing.

    A list has each slot once. If its turns came evenly, one with thrice the weight would have a slot earlier five times
    out of six; so they come as the first, second, third of ``size`` events do that happen at random in time.
    """
    common = math.gcd(*weights)
    parts = [weight // common for weight in weights]
    times, bits = _times(size), len(weights).bit_length()
    latest = _ROUNDS * _TIME // sum(parts)
    counts = [max(1, bisect.bisect_right(times, latest * part)) for part in parts]
    due = [
        (time // part) << bits | index
        for index, (part, count) in enumerate(zip(parts, counts, strict=True))
        for time in times[:count]
    ]
    due.sort()
    return counts, [turn & (1 << bits) - 1 for turn in due]


@lru_cache(maxsize=4)
def _times(size: int) -> list[int]:
    """When each of ``size`` exponentially distributed events is to be expected, the mean of one being :data:`_TIME`."""
    return list(itertools.accumulate(_TIME // (size - number) for number in range(size)))
