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
- A list is a permutation as integer hashes make it, instead of an arithmetic sequence, where two with related steps
  moved up to 14 % of the flows that need not move. Big integers make the whole list in a few operations.
- The turns end before the last slots are taken, since few would be. The slots that are left choose instead: each
  takes, of the backends that still lack one, the one that its number ranks highest.

What a table of 4,096 slots costs in CPU time (AMD EPYC, Python 3.11): 0.6 ms for two backends that are alike, 1 to 7 ms
for other numbers up to 100.
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
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

# The sizes that a service may ask for, to have finer shares. In the least a backend that comes or goes moves less than
# 2 % of the flows of others, whatever their number (measured, 25,000 times from 2 to 700 backends: 1.94 % at most). A
# share is right to a slot, which is 0.02 % of all flows; of a hundredth of the flows it is 2.4 %.
TABLE_SIZES = (4096, 16384, 65536)
# So many backends have the least size. One more has the largest, and the service's flows are reshuffled once.
_MOST = 1024
# How many turns there are for each slot. With fewer, more slots are left to choose, and more flows move.
_ROUNDS = 6
# Of so few backends the order of all turns is remembered: many services of a fleet have the same few weights.
_FEW = 8
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
    live = sorted((weight, ident) for ident, weight in backends if weight > 0)
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
        return [live[0][1]] * size

    idents = [ident for _, ident in live]
    weights = tuple(weight for weight, _ in live)
    shares = _shares(weights, size)
    permutations = [_permutation(ident, size.bit_length() - 1) for ident in idents]
    if len(set(weights)) > 1:
        owner = _by_weight(permutations, weights, shares, size)
    elif len(live) == 2:
        owner = _halves(*permutations)
    else:
        owner = _alike(permutations, shares)
    return [idents[index] for index in owner]


class _Table:
    """A table that is being filled: ``owner`` of each slot (None: free), and how many slots each backend ``lacks``."""

    def __init__(self, shares: Sequence[int]) -> None:
        """All slots are free, as many as the shares have together."""
        self.owner: list[int | None] = [None] * sum(shares)
        self.lacks = list(shares)

    def take(self, turns: Iterable[tuple[int, int]]) -> None:
        """Have turns, each a backend and the slot that is next in its list, as long as slots are free."""
        owner, lacks = self.owner, self.lacks
        free = sum(lacks)
        for index, slot in turns:
            if owner[slot] is None and lacks[index]:
                owner[slot] = index
                lacks[index] -= 1
                free -= 1
                if not free:
                    break

    def choose(self, lists: Sequence[Sequence[int]]) -> Sequence[int]:
        """Have each slot that is left choose; whose each is."""
        waiting = [index for index, slots in enumerate(self.lacks) if slots]
        slot = -1
        while waiting:
            slot = self.owner.index(None, slot + 1)
            chosen = max((lists[index][slot % len(lists[index])], index) for index in waiting)[1]
            self.owner[slot] = chosen
            self.lacks[chosen] -= 1
            if not self.lacks[chosen]:
                waiting.remove(chosen)
        return cast("list[int]", self.owner)


def _alike(permutations: Sequence[_Permutation], shares: Sequence[int]) -> Sequence[int]:
    """Whose each slot is, of backends that have one weight: they take turns, one after another."""
    lists = [one.slots(_ROUNDS * shares[0]) for one in permutations]
    table = _Table(shares)
    table.take(zip(itertools.cycle(range(len(lists))), itertools.chain.from_iterable(zip(*lists, strict=True))))
    return table.choose(lists)


def _by_weight(
    permutations: Sequence[_Permutation], weights: Sequence[int], shares: Sequence[int], size: int
) -> Sequence[int]:
    """Whose each slot is, of backends of several weights. A common factor of all weights changes nothing."""
    common = math.gcd(*weights)
    parts = tuple(weight // common for weight in weights)
    ends = _ends(parts, size)
    lists = [one.slots(end) for one, end in zip(permutations, ends[-1], strict=True)]
    table = _Table(shares)
    if len(parts) <= _FEW:
        order = _order(parts, size)
        following = list(map(iter, lists))
        table.take(zip(order, map(next, map(following.__getitem__, order)), strict=True))
        return table.choose(lists)

    # Most turns are lost, most of all in later rounds. Those that are when their round begins need not be put in order.
    times, owner = _times(size), table.owner
    for begin, end in itertools.pairwise([[0] * len(parts), *ends]):
        due: list[int] = []
        for index, (part, slots, first, last) in enumerate(zip(parts, lists, begin, end, strict=True)):
            if table.lacks[index]:
                whose = index << 16
                due += [
                    time // part << 32 | whose | slot
                    for time, slot in zip(times[first:last], slots[first:last], strict=True)
                    if owner[slot] is None
                ]
        due.sort()
        table.take(zip([turn >> 16 & 0xFFFF for turn in due], [turn & 0xFFFF for turn in due], strict=True))
    return table.choose(lists)


class _Permutation(NamedTuple):
    """A backend's list as a map of turns to slots, below two to the power of ``bits``.

    In each of its rounds a number is multiplied with an odd factor and an addend is added, modulo the size, and its
    upper half is XORed into the lower one. Each of these can be undone. Two rounds are not enough: one of two backends
    then has far more than half of the slots earlier in its list, more often than chance would have it.
    """

    bits: int
    rounds: Sequence[tuple[int, int]]  # factor and addend

    def slots(self, count: int) -> array[int]:
        """The list, ``count`` slots or a few more, at most all of them."""
        length = min(1 << (count - 1).bit_length(), 1 << self.bits)
        lanes, ones = _numbers(length), _ones(length)
        half, modulo = (self.bits + 1) // 2, ((1 << self.bits) - 1) * ones
        for factor, addend in self.rounds:
            lanes = lanes * factor + addend * ones & modulo
            lanes ^= lanes >> half & modulo
        return _array(lanes, length)

    def turns(self) -> array[int]:
        """The inverse: the turn of each slot."""
        size = 1 << self.bits
        lanes, ones = _numbers(size), _ones(size)
        half, modulo = (self.bits + 1) // 2, (size - 1) * ones
        for factor, addend in reversed(self.rounds):
            lanes ^= lanes >> half & modulo
            inverse = pow(factor, -1, size)
            lanes = lanes * inverse + (-addend * inverse % size) * ones & modulo
        return _array(lanes, size)


def _permutation(ident: int, bits: int) -> _Permutation:
    """A backend's list: by hash of its id alone, so that others coming or going do not matter."""
    words = struct.unpack("<8H", hashlib.shake_128(b"edgewire-maglev" + ident.to_bytes(8, "big")).digest(16))
    last = (1 << bits) - 1
    return _Permutation(bits, [(words[at] & last | 1, words[at + 1] & last) for at in range(0, 8, 2)])


@lru_cache(64)
def _ones(length: int) -> int:
    """So many numbers of 32 bits side by side in one, its lanes, all of them 1."""
    return ((1 << 32 * length) - 1) // 0xFFFFFFFF


@lru_cache(64)
def _numbers(length: int) -> int:
    """As many lanes, which count from 0."""
    return int.from_bytes(struct.pack(f"<{length}I", *range(length)), "little")


def _array(lanes: int, length: int) -> array[int]:
    numbers = array("I", lanes.to_bytes(4 * length, "little"))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _halves(one: _Permutation, other: _Permutation) -> Sequence[int]:
    """What :func:`_alike` makes of two backends, some times faster: for all slots at once.

    Each slot is theirs whose turn for it comes first. Who has too many gives up those that it had last.
    """
    size = 1 << one.bits
    owner = bytearray(map(operator.gt, one.turns(), other.turns()))
    surplus = sum(owner) - size // 2
    loser = int(surplus > 0)
    for slot in reversed((one, other)[loser].slots(size)):
        if not surplus:
            break
        if owner[slot] == loser:
            owner[slot] = 1 - loser
            surplus += 1 if surplus < 0 else -1
    return owner


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
def _ends(parts: tuple[int, ...], size: int) -> list[list[int]]:
    """How many turns each backend has had by the end of each round; by the last, one at least.

    A list has each slot once. If its turns came evenly, one with thrice the weight would have a slot earlier five times
    out of six; so they come as the first, second, third of ``size`` events do that happen at random in time.
    """
    times, total = _times(size), sum(parts)
    ends = [
        [bisect.bisect_right(times, number * _TIME // total * part) for part in parts]
        for number in range(1, _ROUNDS + 1)
    ]
    return [*ends[:-1], [max(1, end) for end in ends[-1]]]


@lru_cache(maxsize=16)
def _order(parts: tuple[int, ...], size: int) -> list[int]:
    """Whose the turns are, in order."""
    bits = len(parts).bit_length()
    due = [
        (time // part) << bits | index
        for index, (part, end) in enumerate(zip(parts, _ends(parts, size)[-1], strict=True))
        for time in _times(size)[:end]
    ]
    due.sort()
    return [turn & (1 << bits) - 1 for turn in due]


@lru_cache(maxsize=4)
def _times(size: int) -> list[int]:
    """When each of ``size`` exponentially distributed events is to be expected, the mean of one being :data:`_TIME`."""
    return list(itertools.accumulate(_TIME // (size - number) for number in range(size)))
