# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maglev tables: shares, disruption, order."""

from __future__ import annotations

import hashlib
import itertools
import operator
import random
import struct
from collections import Counter
from unittest import mock

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import maglev
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.maglev import build_table, table_size
from hypothesis import given, settings
from hypothesis import strategies as st

BACKENDS = st.dictionaries(st.integers(1, 2**32 - 1), st.integers(0, 100), min_size=1, max_size=12).map(
    lambda weights: list(weights.items())
)


def live(backends: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(ident, weight) for ident, weight in backends if weight]


@given(backends=BACKENDS)
def test_shares_follow_weights(backends: list[tuple[int, int]]) -> None:
    size = table_size(len(live(backends)))
    table = build_table(backends, size)
    assert len(table) == size
    total = sum(weight for _, weight in backends)
    counts = Counter(table)
    assert set(counts) == {ident for ident, _ in live(backends)}
    lifted = sum(size * weight < total for _, weight in live(backends))
    for ident, weight in live(backends):
        assert abs(counts[ident] / size - weight / total) <= 0.02
        assert abs(counts[ident] - size * weight / total) <= max(1, lifted)


@pytest.mark.parametrize("size", [4, 8, 256, 4096])
@given(data=st.data())
def test_a_share_is_a_slot_at_least(size: int, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.sampled_from([1, 2, 1000, 10**6]), min_size=2, max_size=min(size, 40)))
    counts = Counter(build_table(list(enumerate(weights, 1)), size))
    assert set(counts) == set(range(1, len(weights) + 1))
    assert sum(counts.values()) == size


@given(backends=BACKENDS, factor=st.sampled_from([2, 3, 7, 100]))
def test_the_scale_of_weights_does_not_matter(backends: list[tuple[int, int]], factor: int) -> None:
    size = table_size(len(live(backends)))
    scaled = [(ident, weight * factor) for ident, weight in backends]
    assert build_table(backends, size) == build_table(scaled, size)


@given(backends=BACKENDS, seed=st.integers())
def test_the_order_of_backends_does_not_matter(backends: list[tuple[int, int]], seed: int) -> None:
    size = table_size(len(live(backends)))
    other = random.Random(seed).sample(backends, len(backends))
    assert build_table(backends, size) == build_table(other, size)


@settings(deadline=None)
@given(
    ids=st.sets(st.integers(1, 2**32 - 1), min_size=2, max_size=40),
    dice=st.randoms(use_true_random=False),
)
def test_removing_one_backend_moves_little_else(ids: set[int], dice: random.Random) -> None:
    size = table_size(len(ids))
    before = build_table([(ident, 1) for ident in ids], size)
    gone = dice.choice(sorted(ids))
    after = build_table([(ident, int(ident != gone)) for ident in ids], size)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved / size <= 1 / len(ids) + 0.02


@settings(max_examples=30)
@given(backends=BACKENDS.filter(lambda backends: len(live(backends)) > 1), dice=st.randoms(use_true_random=False))
def test_removing_one_of_several_weights_moves_little_else(
    backends: list[tuple[int, int]], dice: random.Random
) -> None:
    size = table_size(12)
    gone = dice.choice(live(backends))
    before = build_table(backends, size)
    after = build_table([(ident, weight * (ident != gone[0])) for ident, weight in backends], size)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved / size <= gone[1] / sum(weight for _, weight in backends) + 0.02


@pytest.mark.parametrize("number", [2, 3, 12, 13, 24, 50, 100, 150, 163, 300, 600, 1023])
def test_a_backend_that_comes_or_goes_moves_little_else(number: int) -> None:
    dice = random.Random(number)
    size = table_size(number + 1)
    for _ in range(3):
        ids = dice.sample(range(1, 2**32), number + 1)
        before, after = (build_table([(ident, 1) for ident in some], size) for some in (ids[:number], ids))
        moved = sum(old != new for old, new in zip(before, after, strict=True))
        assert moved / size <= 1 / (number + 1) + 0.02


@pytest.mark.parametrize("number", [24, 100, 163])
def test_many_backends_have_their_shares(number: int) -> None:
    size = table_size(number)
    counts = Counter(build_table([(ident, 1) for ident in range(number)], size))
    assert all(abs(counts[ident] * number / size - 1) <= 0.04 for ident in range(number))


@given(ids=st.sets(st.integers(1, 2**32 - 1), min_size=2, max_size=2), bits=st.integers(1, 12))
def test_halves_are_what_turns_would_give(ids: set[int], bits: int) -> None:
    permutations = [maglev._permutation(ident, bits) for ident in sorted(ids)]
    assert list(maglev._halves(*permutations)) == maglev._alike(permutations, [1 << bits >> 1] * 2)


@given(backends=BACKENDS.filter(lambda backends: len({weight for _, weight in live(backends)}) > 1))
def test_turns_in_order_by_rounds_give_what_all_in_order_give(backends: list[tuple[int, int]]) -> None:
    tables = []
    for few in 1, len(backends):
        with mock.patch.object(maglev, "_FEW", few):
            tables.append(build_table(backends, table_size(len(backends))))
    assert tables[0] == tables[1]


@given(ident=st.integers(1, 2**32 - 1), bits=st.integers(1, 12))
def test_a_list_has_each_slot_once_and_turns_are_its_inverse(ident: int, bits: int) -> None:
    one = maglev._permutation(ident, bits)
    slots = list(one.slots(1 << bits))
    assert sorted(slots) == list(range(1 << bits))
    assert list(map(one.turns().__getitem__, slots)) == list(range(1 << bits))
    assert list(one.slots(1)) == slots[:1]


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_any_two_lists_are_as_good_as_random(bits: int) -> None:
    """Of two backends each has half of the slots earlier. If one had many more, they would change hands where a third
    one comes or goes. Of 7,000 pairs of shuffled lists the most was 2.3 times what tossing a coin deviates by; of as
    many pairs with two rounds instead of four it was 5.6 times.
    """
    dice = random.Random(bits)
    size = 1 << bits
    lists = [maglev._permutation(dice.getrandbits(32), bits).turns() for _ in range(120 >> (bits - 12) // 2)]
    for one, other in itertools.combinations(lists, 2):
        assert abs(sum(map(operator.lt, one, other)) - size / 2) <= 3.2 * size**0.5 / 2


# bpf/services.h: how far a flow looks for a live worker along its service's table.
MAX_PROBES = 32


@pytest.mark.parametrize("number", [2, 3, 4, 8])
def test_neighbours_are_as_good_as_random(number: int) -> None:
    """The flows of a backend whose worker is dead find another one, and spread over all."""
    dice = random.Random(number)
    for _ in range(30):
        ids = dice.sample(range(1, 2**32), number)
        table = build_table([(ident, 1) for ident in ids], 4096)
        heirs: Counter[int] = Counter()
        for slot in (slot for slot, ident in enumerate(table) if ident == ids[0]):
            heirs[next(at for k in range(1, MAX_PROBES) if (at := table[(slot + k) % 4096]) != ids[0])] += 1
        fair = heirs.total() / (number - 1)
        assert all(0.6 * fair <= heirs[ident] <= 1.4 * fair for ident in ids[1:])


def test_sizes() -> None:
    sizes = [table_size(number) for number in range(3000)]
    assert sizes[:2] == [0, 1]
    assert sizes == sorted(sizes)
    assert set(sizes[2:1025]) == {4096}, "nobody is reshuffled on the way"
    assert [table_size(number, 16384) for number in (0, 1, 2, 12, 1025)] == [0, 1, 16384, 16384, 65536]
    assert all(size & (size - 1) == 0 and size <= 65_536 for size in sizes)


def test_nothing_live_is_an_empty_table() -> None:
    assert build_table([], 4096) == []
    assert build_table([(7, 0)], 4096) == []
    assert build_table([(7, 0), (8, 3)], 1) == [8]


@pytest.mark.parametrize(
    ("backends", "size"), [([(1, 1), (1, 2)], 4096), ([(1, -1)], 4096), ([(1, 1), (2, 1)], 1), ([(1, 1), (2, 1)], 4093)]
)
def test_nonsense_is_refused(backends: list[tuple[int, int]], size: int) -> None:
    with pytest.raises(ValueError, match=r"id|weight|slots"):
        build_table(backends, size)


def test_the_table_is_what_it_always_was() -> None:
    """Edges of two versions serve one fleet during a rollout; a table that changes moves their
    flows.
    """
    assert build_table([(1, 1), (2, 2), (3, 0)], 16) == [1, 2, 1, 2, 2, 2, 1, 2, 2, 1, 2, 2, 2, 2, 2, 1]
    table = build_table([(ident, 1 + ident % 3) for ident in range(1, 101)], 16384)
    digest = hashlib.sha256(struct.pack(">16384I", *table)).hexdigest()
    assert digest == "42d648b1d4c30145216e8ac9266dbc30580251eb15d2b11f4b69a285a3ea7970"
    pair = build_table([(7, 1), (8, 1)], 4096)
    digest = hashlib.sha256(struct.pack(">4096I", *pair)).hexdigest()
    assert digest == "ed65cba8966dedae2664df56d2cfb8893f71dfe142bd75ee6f37156c5cbde6ce"
