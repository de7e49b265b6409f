# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records and maps: bytes in, bytes out, and the C compiler as the referee."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from hypothesis import given
from hypothesis import strategies as st

RECORDS = sorted(
    {record for specs in layout.MAPS.values() for spec in specs for record in (spec.key, spec.value)},
    key=lambda record: (record.name, record.fields),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "ipv4": st.integers(0, 2**32 - 1).map(lambda n: socket.inet_ntoa(n.to_bytes(4, "big"))),
    # Empty is no address. What lies below 2**64 is left out: it holds the IPv4-mapped addresses, which are IPv4's.
    "address": st.just("")
    | st.integers(0, 2**32 - 1).map(lambda n: socket.inet_ntoa(n.to_bytes(4, "big")))
    | st.integers(2**64, 2**128 - 1).map(lambda n: socket.inet_ntop(socket.AF_INET6, n.to_bytes(16, "big"))),
    "ipv6": st.integers(0, 2**128 - 1).map(lambda n: socket.inet_ntop(socket.AF_INET6, n.to_bytes(16, "big"))),
    "be16": st.integers(0, 2**16 - 1),
    "be32": st.integers(0, 2**32 - 1),
    "u16": st.integers(0, 2**16 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "u64": st.integers(0, 2**64 - 1),
    "frame": st.binary(min_size=1536, max_size=1536),
    "hash": st.binary(min_size=32, max_size=32),
}


def values_of(record: layout.Record) -> st.SearchStrategy[dict[str, Any]]:
    """Any values of a record's fields; padding stays 0."""
    return st.fixed_dictionaries({name: VALUES[kind] for name, kind in record.fields if name != "zero"})


@given(st.data())
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name or record.fields[0][1])
def test_unpack_is_the_inverse_of_pack(record: layout.Record, data: st.DataObject) -> None:
    rows = data.draw(st.lists(values_of(record), max_size=3))
    packed = b"".join(record.pack(row) for row in rows)
    assert len(packed) == len(rows) * record.size
    assert list(record.iter_unpack(packed)) == rows


def test_network_order() -> None:
    packed = layout.SERVICE_KEY.pack({"vip": "203.0.113.53", "port": 53})
    assert packed == bytes([203, 0, 113, 53, 0, 53, 0, 0])


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name or record.fields[0][1])
def test_no_implicit_padding(record: layout.Record) -> None:
    """Every field lies where C aligns it, so C puts nothing between them."""
    offset = 0
    for name, kind in record.fields:
        size = layout.Record("", ((name, kind),)).size
        assert offset % (4 if kind in ("address", "ipv4", "ipv6") else min(size, 8)) == 0, name
        offset += size
    assert offset == record.size


def test_every_capacity_is_a_compiler_flag() -> None:
    capacity = layout.Capacity(
        services=1,
        ranges=6,
        backends=2,
        lut=3,
        workers=10,
        filters=7,
        sources=8,
        rated_sources=9,
        moved=14,
        edges=4,
        flows=5,
        vips=11,
        fragments=12,
        held_fragments=13,
    )
    assert " ".join(capacity.flags()) == (
        "-DMAX_BACKENDS=2 -DMAX_EDGES=4 -DMAX_FILTERS=7 -DMAX_FLOWS=5 -DMAX_FRAGMENTS=12 -DMAX_HELD_FRAGMENTS=13"
        " -DMAX_LUT=3 -DMAX_MOVED=14 -DMAX_RANGES=6 -DMAX_RATED_SOURCES=9 -DMAX_SERVICES=1 -DMAX_SOURCES=8"
        " -DMAX_STATS=2 -DMAX_VIPS=11 -DMAX_WORKERS=10"
    )
