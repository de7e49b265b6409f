# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables in front of the services' maps: at any moment they say what those say, or that they must be asked."""

from __future__ import annotations

import array
from collections import Counter

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct, edge_maps, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    BackendWanted,
    Claim,
    EdgeWanted,
    ServiceWanted,
    entries_of,
    read,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import PLACES, FakeMaps
from hypothesis import given
from hypothesis import strategies as st

CAPACITY = layout.Capacity(services=64, ranges=256, backends=64, lut=256, filters=2, sources=2, workers=2)
WORKERS = {"worker1": Relays("100.96.0.1", "fd65::1")}
VIPS = ("203.0.113.1", "203.0.113.2", "2001:db8:53::1", "2001:db8:53::2")
CLAIMS: list[Claim] = [(vip, port, port) for vip in VIPS for port in (53, 443, 853, 5060, 65_535)]
# Each claim with which of its endpoints it has, so that a service may stay and have another table.
services = st.dictionaries(st.sampled_from(CLAIMS), st.integers(0, 2), max_size=12)
RANGES: list[Claim] = [(vip, *ports) for vip in VIPS for ports in ((54, 60), (6000, 7023), (10_000, 19_999))]
ALL = [*CLAIMS, *RANGES]
services_with_ranges = st.dictionaries(st.sampled_from(ALL), st.integers(0, 2), max_size=8)


def wanted(chosen: dict[Claim, int]) -> EdgeWanted:
    """An edge with these services."""
    items = tuple(
        ServiceWanted(f"{claim}", *claim, (BackendWanted(1 + 3 * ALL.index(claim) + number, "worker1", 1),))
        for claim, number in chosen.items()
    )
    return EdgeWanted(Relays("100.96.0.100", "fd65::100"), 7, 8, WORKERS, items)


def look_up(maps: FakeMaps, claim: Claim) -> bytes | None:
    """What a packet for the claim finds, the way that bpf/services.h looks."""
    (entry,) = entries_of(claim)
    key, name = entry.pack(), "ew_direct6" if ":" in claim[0] else "ew_direct"
    record = layout.DIRECT6 if ":" in claim[0] else layout.DIRECT
    place = layout.U32.of(direct.place_of(key, PLACES))
    found = maps[name].entries.get(place, bytes(record.size))
    head = record.size - layout.SERVICE.size
    if found[:head] == key[:-2] + layout.DIRECT_ONE.to_bytes(2, "little"):
        return found[head:]
    if found[head - 2 : head] == layout.DIRECT_ASK.to_bytes(2, "little"):
        return maps[entry.map].entries.get(key)
    return None


@given(services, services)
def test_at_any_moment_both_lookups_tell_the_same(old: dict[Claim, int], new: dict[Claim, int]) -> None:
    maps = FakeMaps("edge", CAPACITY)
    for chosen in (old, new):
        _, writes = edge_maps.plan(wanted(chosen), read(maps))  # type: ignore[arg-type]
        for write in maps.singles(writes):
            maps.apply([write])
            for claim in CLAIMS:
                (entry,) = entries_of(claim)
                assert look_up(maps, claim) == maps[entry.map].entries.get(entry.pack())


@given(services, services)
def test_a_place_changes_its_entry_only_while_it_asks(old: dict[Claim, int], new: dict[Claim, int]) -> None:
    maps = FakeMaps("edge", CAPACITY)
    maps.apply(edge_maps.plan(wanted(old), read(maps))[1])  # type: ignore[arg-type]
    before = direct.read(maps)  # type: ignore[arg-type]
    for write in maps.singles(edge_maps.plan(wanted(new), read(maps))[1]):  # type: ignore[arg-type]
        maps.apply([write])
        after = direct.read(maps)  # type: ignore[arg-type]
        for name in direct.MAPS:
            size = maps[name].spec.value.size
            head = size - layout.SERVICE.size
            for at in range(0, size * PLACES, size):
                was, now = (side[name][at : at + size] for side in (before, after))
                if any(now[head:]) and was[head:] != now[head:]:
                    assert not any(was[:head]), "a packet that compares the key finds the entry that it had"
                    assert not any(now[:head])
        before = after


def rules_out(maps: FakeMaps, claim: Claim) -> bool:
    """Whether a packet for some port of the range is kept from asking the trie."""
    bits = array.array("Q", maps["ew_no_range"].read()[1])
    places = direct.places_of(*claim, 64 * len(bits))
    return any(bits[place // 64] >> place % 64 & 1 for place in places)


@given(services_with_ranges, services_with_ranges)
def test_no_bit_ever_hides_a_range(old: dict[Claim, int], new: dict[Claim, int]) -> None:
    maps = FakeMaps("edge", CAPACITY)
    for chosen in (old, new):
        steps, writes = edge_maps.plan(wanted(chosen), read(maps))  # type: ignore[arg-type]
        assert steps or not writes
        for write in maps.singles(writes):
            maps.apply([write])
            for claim in RANGES:
                there = any(entry.pack() in maps[entry.map].entries for entry in entries_of(claim))
                assert not (there and rules_out(maps, claim)), claim
        bits = array.array("Q", maps["ew_no_range"].read()[1])
        count = 64 * len(bits)
        kept = {place for claim in chosen if claim in RANGES for place in direct.places_of(*claim, count)}
        assert {place for place in range(count) if not bits[place // 64] >> place % 64 & 1} == kept


def test_a_bit_that_hides_a_range_is_repaired() -> None:
    maps = FakeMaps("edge", CAPACITY)
    chosen = {RANGES[0]: 0}
    maps.apply(edge_maps.plan(wanted(chosen), read(maps))[1])  # type: ignore[arg-type]
    for word in range(PLACES):
        maps["ew_no_range"].put(layout.U32.of(word), bytes(8 * [0xFF]))
    assert rules_out(maps, RANGES[0])
    steps, writes = edge_maps.plan(wanted(chosen), read(maps))  # type: ignore[arg-type]
    assert [step.kind for step in steps] == ["index"]
    maps.apply(writes)
    assert not rules_out(maps, RANGES[0])
    assert edge_maps.plan(wanted(chosen), read(maps)) == ([], [])  # type: ignore[arg-type]


def test_a_range_has_the_places_of_all_blocks_that_it_reaches_into() -> None:
    for vip, record in (("203.0.113.1", layout.SERVICE_KEY), ("2001:db8::1", layout.SERVICE6_KEY)):
        found = list(direct.places_of(vip, 1023, 2048, layout.DIRECT_PLACES))
        ports = (0, 1024, 2048)
        assert found == [direct.place_of(record.pack({"vip": vip, "port": p}), layout.DIRECT_PLACES) for p in ports]


def test_hashes_spread_what_people_have() -> None:
    pairs = [(f"203.0.113.{n}", port) for n in range(64) for port in range(5000, 5064)]
    pairs6 = [(f"2001:db8::{n:x}", port) for n in range(64) for port in range(5000, 5064)]
    for record, found in ((layout.SERVICE_KEY, pairs), (layout.SERVICE6_KEY, pairs6)):
        keys = [record.pack({"vip": vip, "port": port}) for vip, port in found]
        shares = Counter(direct.place_of(key, layout.DIRECT_PLACES) for key in keys)
        alone = sum(1 for count in shares.values() if count == 1)
        assert alone > 0.85 * len(keys), "by chance 94 of 100 are alone"
