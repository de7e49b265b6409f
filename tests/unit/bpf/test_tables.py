# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables as words: what goes in comes out, place by place, in no more words than it needs."""

from __future__ import annotations

from array import array

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import tables
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def places(draw: st.DrawFn) -> tuple[list[int], int]:
    """Numbers, and the width that holds them."""
    width = draw(st.integers(0, 5))
    return draw(st.lists(st.integers(0, (1 << (1 << width)) - 1), min_size=1, max_size=300)), width


@given(places())
def test_unpack_is_the_inverse_of_pack(some: tuple[list[int], int]) -> None:
    numbers, width = some
    words = tables.pack(numbers, width)
    assert len(words) == tables.words_for(len(numbers), width)
    assert list(tables.unpack(words, width, len(numbers))) == numbers
    if width < tables.WIDTH_SLOT:
        table = tables.PackedTable(words, width, len(numbers), range(1 << (1 << width)))
        assert [table[place] for place in range(-len(numbers), len(numbers))] == numbers * 2
        assert (list(table), table[1:3], len(table)) == (numbers, numbers[1:3], len(numbers))


@given(places())
def test_a_place_lies_where_the_programs_look_for_it(some: tuple[list[int], int]) -> None:
    """As bpf/tables.h reads it, in the words' own terms."""
    numbers, width = some
    bits = 1 << width
    whole = sum(number << (bits * place) for place, number in enumerate(numbers))
    expected = [whole >> 32 * word & 0xFFFFFFFF for word in range(-(-len(numbers) * bits // 32))]
    assert tables.pack(numbers, width) == array("I", expected)


@pytest.mark.parametrize(
    ("n_backends", "width"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (16, 2), (17, 3), (256, 3), (257, 4), (65_535, 4)]
)
def test_as_wide_as_needed(n_backends: int, width: int) -> None:
    assert tables.width_for(n_backends, 4096) == width


def test_one_place_is_the_slot_itself() -> None:
    assert tables.width_for(1, 1) == tables.WIDTH_SLOT
    assert tables.pack([70_000], tables.WIDTH_SLOT) == array("I", [70_000])


def test_what_ends_too_early_is_cut_short() -> None:
    words = tables.pack([1, 0] * 40, 0)
    assert list(tables.unpack(words[:1], 0, 80)) == [1, 0] * 16
