# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of ports as prefixes."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import claim_text, prefixes_of
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_prefixes_cover_a_range_exactly_and_are_few(one: int, other: int) -> None:
    first, last = sorted((one, other))
    covered = []
    prefixes = list(prefixes_of(first, last))
    for port, bits in prefixes:
        size = 1 << (16 - bits)
        assert port % size == 0, "a prefix starts where it can"
        covered += range(port, port + size)
    assert covered == list(range(first, last + 1))
    assert len(prefixes) <= 30


def test_all_ports_are_one_prefix() -> None:
    assert list(prefixes_of(0, 65535)) == [(0, 0)]


def test_claims_read_as_people_write_them() -> None:
    assert claim_text("203.0.113.53", 53, 53) == "203.0.113.53:53/udp"
    assert claim_text("2001:db8::53", 10000, 19999) == "[2001:db8::53]:10000-19999/udp"
