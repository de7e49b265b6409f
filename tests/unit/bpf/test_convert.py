# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Map contents from one version's layout to another's, by name and without a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, schema
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.convert import (
    CannotConvertError,
    convert,
    has_new_fields,
    is_same,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.layout import Record
from hypothesis import given
from hypothesis import strategies as st

SERVICES = schema.of_role("edge").maps["ew_services"]
DROPS = schema.of_role("edge").maps["ew_drops"]
STATS = schema.of_role("edge").maps["ew_stats"]
FIELDS = SERVICES.value.fields
NUMBERS = {"u16": st.integers(0, 2**16 - 1), "u32": st.integers(0, 2**32 - 1)}
ENTRIES = st.dictionaries(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65_535)),
    st.fixed_dictionaries({name: NUMBERS[kind] for name, kind in FIELDS} | {"flags": st.integers(0, 7)}),
    max_size=20,
)


def packed(entries: Mapping[tuple[int, int], Mapping[str, int]], value: Record) -> tuple[bytes, bytes]:
    """The entries as a map has them."""
    keys = (
        SERVICES.key.pack({"vip": ".".join(map(str, vip.to_bytes(4, "big"))), "port": port}) for vip, port in entries
    )
    return b"".join(keys), b"".join(value.pack(record) for record in entries.values())


@given(ENTRIES, st.permutations(FIELDS))
def test_fields_find_their_places_and_come_back(
    entries: Mapping[tuple[int, int], Mapping[str, int]], order: list[tuple[str, layout.FieldKind]]
) -> None:
    other = replace(SERVICES, value=Record("service", tuple(order)))
    here, there = packed(entries, SERVICES.value), packed(entries, other.value)
    assert convert(SERVICES, other, *here, 100) == (*there, len(entries))
    assert convert(other, SERVICES, *there, 100) == (*here, len(entries))
    assert is_same(SERVICES, other) == (tuple(order) == FIELDS)


@given(ENTRIES)
def test_a_new_field_is_0_and_one_that_is_gone_is_left_out(
    entries: Mapping[tuple[int, int], Mapping[str, int]],
) -> None:
    more = replace(SERVICES, value=Record("service", (*FIELDS, ("more", "u32"))))
    here = packed(entries, SERVICES.value)
    keys, values, count = convert(SERVICES, more, *here, 100)
    assert [row["more"] for row in more.value.iter_unpack(values)] == [0] * count
    assert convert(more, SERVICES, keys, values, 100) == (*here, len(entries))
    assert (has_new_fields(SERVICES, more), has_new_fields(more, SERVICES)) == (True, False)


@given(ENTRIES)
def test_flags_go_by_their_names(entries: Mapping[tuple[int, int], Mapping[str, int]]) -> None:
    turned = dict(zip(SERVICES.flags, reversed(SERVICES.flags.values()), strict=True))
    other = replace(SERVICES, flags=turned)
    _, values, _ = convert(SERVICES, other, *packed(entries, SERVICES.value), 100)
    for before, after in zip(entries.values(), other.value.iter_unpack(values), strict=True):
        names = {name for name, bit in SERVICES.flags.items() if before["flags"] & bit}
        assert {name for name, bit in turned.items() if after["flags"] & bit} == names


def test_a_flag_that_nobody_knows_is_not_dropped_in_silence() -> None:
    entries = {(1, 53): {"flags": SERVICES.flags["draining"]}}
    without = {name: bit for name, bit in SERVICES.flags.items() if name != "draining"}
    with pytest.raises(CannotConvertError, match="not known any more: draining"):
        convert(SERVICES, replace(SERVICES, flags=without), *packed(entries, SERVICES.value), 100)


def test_what_does_not_fit_is_refused() -> None:
    entries = {(vip, 53): {"filter": 70_000} for vip in range(3)}
    here = packed(entries, SERVICES.value)
    with pytest.raises(CannotConvertError, match="ew_services has 3 entries, and room for 2"):
        convert(SERVICES, SERVICES, *here, 2)
    short = Record("service", tuple((name, "u16" if name == "filter" else kind) for name, kind in FIELDS))
    with pytest.raises(CannotConvertError, match="does not fit its new field"):
        convert(SERVICES, replace(SERVICES, value=short), *here, 100)
    keyed = replace(SERVICES, key=Record("service_key", (("vip", "ipv4"), ("protocol", "u32"))))
    with pytest.raises(CannotConvertError, match="made of other fields"):
        convert(SERVICES, keyed, *here, 100)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4), st.permutations(["a", "b", "c", "new"]))
def test_counters_with_names_move_to_their_new_places(counts: list[int], names: list[str]) -> None:
    """Two CPUs; "gone" is counted no more."""
    old = replace(DROPS, indices=("gone", "a"))
    new = replace(DROPS, indices=tuple(names))
    keys = b"".join(layout.U32.of(index) for index in range(2))
    values = b"".join(layout.U64.of(count) for count in counts)
    found_keys, found, count = convert(old, new, keys, values, 4)
    assert count == 1
    assert found_keys == layout.U32.of(names.index("a"))
    assert found == values[16:]


def test_of_an_array_the_unused_rest_stays_behind() -> None:
    rows = [1, 0, 2, *[0] * 97]
    keys = b"".join(layout.U32.of(index) for index in range(100))
    values = b"".join(STATS.value.pack({"out_bytes": count}) for count in rows)
    assert convert(STATS, STATS, keys, values, 3) == (keys[:12], values[: 3 * STATS.value.size], 3)
    turned = replace(STATS, value=Record("stats", tuple(reversed(STATS.value.fields))))
    _, found, _ = convert(STATS, turned, keys, values, 3)
    assert [row["out_bytes"] for row in turned.value.iter_unpack(found)] == [1, 0, 2]
    with pytest.raises(CannotConvertError, match="room for 2"):
        convert(STATS, STATS, keys, values, 2)
