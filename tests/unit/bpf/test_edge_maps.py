# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's map planner: from any state to any other, with every packet on the way served."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any, cast

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_maps, edge_state, layout, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    BackendWanted,
    Claim,
    EdgeState,
    EdgeWanted,
    ServiceWanted,
    entries_of,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.filters import FilterWanted, Rate, source_of
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Change, Maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import FakeMaps
from hypothesis import given
from hypothesis import strategies as st

ROOMY = layout.Capacity(services=16, ranges=32, backends=64, lut=256, filters=16, sources=64)
TIGHT = layout.Capacity(services=5, ranges=5, backends=10, lut=12, workers=4, filters=5, sources=9)
WORKERS = {f"worker{n}": Relays(f"100.96.0.{n}", f"fd65::{n}") for n in range(1, 5)}
CLAIMS: list[Claim] = [
    ("203.0.113.1", 53, 53),
    ("203.0.113.1", 443, 443),
    ("203.0.113.1", 10000, 10019),
    ("2001:db8:53::1", 53, 53),
    ("2001:db8:53::1", 10000, 10003),
    ("203.0.113.2", 1, 65535),
]
TABLE = 8
OWN = Relays("100.96.0.100", "fd65::100")


@pytest.fixture(scope="module", autouse=True)
def _small_tables() -> Iterator[None]:
    """Maglev tables of 8 slots, so that a property can look at every prefix of the writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge_state, "table_size", _small_size)
        yield


def _small_size(n_backends: int, at_least: int = 0) -> int:
    return 1 if n_backends == 1 else max(TABLE, at_least)


NETWORKS = ["198.51.100.0/24", "198.51.100.7/32", "0.0.0.0/0", "2001:db8:c::/64", "::/0"]


@st.composite
def wanted_filters(draw: st.DrawFn, service: str) -> FilterWanted:
    """A service's filter; few networks and rates, so that services share lists and differ in one thing."""
    said = draw(st.dictionaries(st.sampled_from(NETWORKS), st.booleans(), max_size=3))
    sources = frozenset(source_of(network, allowed=allowed) for network, allowed in said.items())
    rates = [Rate(draw(st.sampled_from([0, 1000])), draw(st.sampled_from([1, 20]))) for _ in range(2)]
    return FilterWanted(service, sources, *rates)


@st.composite
def wanted_states(draw: st.DrawFn) -> EdgeWanted:
    """An edge with some services; an endpoint id belongs to one claim, as the plan sees to."""
    services = []
    for number in sorted(draw(st.sets(st.integers(0, len(CLAIMS) - 1), max_size=5))):
        chosen = sorted(draw(st.sets(st.integers(1, 4), max_size=3)))
        backends = tuple(
            BackendWanted(
                number * 10 + n,
                draw(st.sampled_from(sorted(WORKERS))),
                *draw(st.sampled_from([(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2)])),
            )
            for n in chosen
        )
        size = draw(st.sampled_from([0, 2 * TABLE]))
        by_client = draw(st.booleans())
        services.append(ServiceWanted(f"service{number}", *CLAIMS[number], backends, by_client, table_size=size))
    used = {backend.worker for service in services for backend in service.backends}
    names = sorted(used | draw(st.sets(st.sampled_from(sorted(WORKERS)))))
    dead = draw(st.sets(st.sampled_from(names))) if names else set()
    workers = {name: WORKERS[name] for name in names}
    held = draw(st.sets(st.sampled_from([s.name for s in services]))) if services else set()
    filters = tuple(draw(wanted_filters(name)) for name in sorted(held))
    return EdgeWanted(OWN, draw(st.integers(1, 3)), 2, workers, tuple(services), frozenset(dead), filters)


def state_of(maps: FakeMaps) -> EdgeState:
    """The maps, decoded by the code under test."""
    return edge_state.read(cast(Maps, maps))


def plan(wanted: EdgeWanted, maps: FakeMaps) -> tuple[list[Step], list[Change]]:
    """The plan from what the maps say."""
    return edge_maps.plan(wanted, state_of(maps))


def filter_meaning(state: EdgeState, index: int) -> Any:
    """What the filter of an entry says, indices gone; None where the entry has none."""
    if not index:
        return None
    record = dict(state.filters.filters[index])
    return state.filters.lists.get(record.pop("sources"), frozenset()), record


def wanted_filter(wanted: EdgeWanted, name: str) -> Any:
    """The same of what is wanted of a service."""
    (found,) = [item for item in wanted.filters if item.service == name] or [None]
    if found is None:
        return None
    record = found.record(0)
    del record["sources"]
    return found.sources, record


def resolve(state: EdgeState) -> dict[str, Any]:
    """What the maps mean, indices gone: per lookup entry its table, per endpoint its record and its way back."""
    return {
        "config": dict(state.config),
        "draining": {entry: state.draining_of(record) for entry, record in state.entries.items()},
        "workers": {(w["relay"], w["relay6"]): w["state"] for w in state.workers.values()},
        "entries": {
            entry: (state.table_of(record), record["flags"], filter_meaning(state, record["filter"]))
            for entry, record in state.entries.items()
        },
        "backends": {
            b["endpoint_id"]: (state.relay_of(b), b["vip"], b["port"], b["last_port"], b["stats_index"] == slot)
            for slot, b in state.backends.items()
        },
        "replies": {eid: state.backends.get(slot, {}).get("endpoint_id") for eid, slot in state.endpoints.items()},
        "vips": state.vips,
    }


def counter_of(state: EdgeState, claim: Claim) -> int:
    """The index of a service's retired counters; all its entries have the same."""
    (index,) = {state.entries[entry]["retired_index"] for entry in entries_of(claim)}
    return index


def meaning(wanted: EdgeWanted) -> dict[str, Any]:
    """The same of what is wanted; every backend counts in its own slot."""
    backends = {
        b.endpoint_id: (WORKERS[b.worker].for_vip(service.vip), *service.claim, True)
        for service in wanted.services
        for b in service.backends
    }
    return {
        "config": wanted.config,
        "entries": {
            entry: (service.table, service.flags, wanted_filter(wanted, service.name))
            for service in wanted.services
            for entry in entries_of(service.claim)
        },
        "draining": {
            entry: set(service.drain_table) - set(service.table)
            for service in wanted.services
            for entry in entries_of(service.claim)
        },
        "workers": {
            (relays.ipv4, relays.ipv6): layout.WORKER_DEAD if name in wanted.dead_workers else layout.WORKER_LIVE
            for name, relays in wanted.workers.items()
        },
        "backends": backends,
        "replies": {eid: eid for eid in backends},
        "vips": {service.vip for service in wanted.services},
    }


def assert_is(wanted: EdgeWanted, maps: FakeMaps) -> None:
    """The maps say what is wanted and nothing else, counters are apart, and there is nothing left to do."""
    state = state_of(maps)
    assert set(state.entries) == {entry for service in wanted.services for entry in entries_of(service.claim)}
    assert resolve(state) == meaning(wanted)
    assert len(state.backends) == len(resolve(state)["backends"]), "an endpoint in two slots"
    assert len(state.workers) == len(wanted.workers), "a worker in two slots"
    indices = [counter_of(state, service.claim) for service in wanted.services]
    assert len(set(indices)) == len(indices)
    assert len(state.filters.filters) == len(wanted.filters), "a filter for each service, and no other"
    assert sorted(map(sorted, state.filters.lists.values())) == sorted(
        sorted(sources) for sources in {item.sources for item in wanted.filters} if sources
    )
    assert plan(wanted, maps) == ([], [])


def maps_with(wanted: EdgeWanted, capacity: layout.Capacity = ROOMY) -> FakeMaps:
    """Maps that say what is wanted."""
    maps = FakeMaps("edge", capacity)
    maps.apply(plan(wanted, maps)[1])
    return maps


@given(st.lists(wanted_states(), min_size=1, max_size=4))
def test_any_state_becomes_any_other(states: list[EdgeWanted]) -> None:
    maps = FakeMaps("edge", ROOMY)
    for wanted in states:
        steps, writes = plan(wanted, maps)
        assert bool(steps) == bool(writes)
        maps.apply(writes)
        assert_is(wanted, maps)


@given(wanted_states(), wanted_states())
def test_every_packet_on_the_way_finds_a_backend(old: EdgeWanted, new: EdgeWanted) -> None:
    """After each single write every service that is there leads, in every slot, to a backend it had or will have."""
    maps = maps_with(old)
    before = state_of(maps)
    mine: dict[edge_state.Entry, tuple[Claim, set[int]]] = {}
    for service in (*old.services, *new.services):
        for entry in entries_of(service.claim):
            mine.setdefault(entry, (service.claim, set()))[1].update(service.table, service.drain_table)
    stay = {s.claim for s in old.services} & {s.claim for s in new.services}
    replies = {b.endpoint_id for s in old.services for b in s.backends}
    replies &= {b.endpoint_id for s in new.services for b in s.backends}
    filters = [{s.claim: wanted_filter(w, s.name) for s in w.services} for w in (old, new)]
    for write in maps.singles(plan(new, maps)[1]):
        maps.apply([write])
        state = state_of(maps)
        for entry, record in state.entries.items():
            claim = mine[entry][0]
            now = filter_meaning(state, record["filter"])
            assert now in [side[claim] for side in filters if claim in side], "the old filter or the new one, whole"
        assert {entry for claim in stay for entry in entries_of(claim)} <= set(state.entries)
        for entry, record in state.entries.items():
            claim, endpoints = mine[entry]
            backend_of = {backend["endpoint_id"]: backend for backend in state.backends.values()}
            for endpoint_id in {*state.table_of(record), *state.drain_table_of(record)}:
                assert endpoint_id in endpoints
                backend = backend_of[endpoint_id]
                assert (backend["vip"], backend["port"], backend["last_port"]) == claim
                assert state.relay_of(backend)
        for claim in stay:
            assert counter_of(state, claim) == counter_of(before, claim), "the counter goes on"
        for endpoint_id in replies:
            assert state.backends[state.endpoints[endpoint_id]]["endpoint_id"] == endpoint_id


@given(wanted_states(), st.integers(0, 2))
def test_a_block_is_as_long_as_its_entry_says(wanted: EdgeWanted, drain_weight: int) -> None:
    alone = ServiceWanted("alone", "203.0.113.9", 1, 1, (BackendWanted(7, "worker1", 1, drain_weight),))
    for each in (*wanted.services, alone):
        slots = {eid: 100 + number for number, eid in enumerate(each.in_tables)}
        assert len(each.block(slots)) == each.span


@given(wanted_states(), wanted_states())
def test_what_is_right_is_not_written(old: EdgeWanted, new: EdgeWanted) -> None:
    maps = maps_with(old)
    state = state_of(maps)
    same = [s for s in new.services if s in old.services and wanted_filter(old, s.name) == wanted_filter(new, s.name)]
    entries = {(entry.map, entry.pack()) for s in same for entry in entries_of(s.claim)}
    ids = {b.endpoint_id for s in same for b in s.backends}
    slots = {layout.U32.of(state.endpoints[eid]) for eid in ids}
    replies = {layout.BE32.of(eid) for eid in ids}
    touched = {(write[0], write[1]) for write in maps.singles(plan(new, maps)[1])}
    assert not entries & touched
    indices = {state.entries[entry]["filter"] for s in same for entry in entries_of(s.claim)} - {0}
    assert not {("ew_filters", layout.U32.of(index)) for index in indices} & touched
    lists = {state.filters.filters[index]["sources"] for index in indices} - {0}
    sources = {key for name, key in touched if name in ("ew_sources", "ew_sources6")}
    assert not {int.from_bytes(key[4:8], "big") for key in sources} & lists
    assert not {("ew_backends", key) for key in slots} & touched
    assert not {("ew_endpoints", key) for key in replies} & touched
    assert (("ew_config", bytes(4)) in touched) == (old.config != new.config)


@given(wanted_states(), wanted_states())
def test_small_maps_either_hold_it_or_say_so_before_any_write(old: EdgeWanted, new: EdgeWanted) -> None:
    maps = FakeMaps("edge", TIGHT)
    for wanted in (old, new):
        try:
            _, writes = plan(wanted, maps)
        except EdgewireError:
            return
        maps.apply(writes)  # the fake says E2BIG as the kernel would
        assert_is(wanted, maps)


GARBAGE = {
    "ew_endpoints": (layout.BE32, layout.U32),
    "ew_backends": (layout.U32, layout.BACKEND),
    "ew_workers": (layout.U32, layout.WORKER),
    "ew_lut": (layout.U32, layout.U32),
    "ew_direct": (layout.U32, layout.DIRECT),
    "ew_direct6": (layout.U32, layout.DIRECT6),
    "ew_no_range": (layout.U32, layout.U64),
    "ew_services": (layout.SERVICE_KEY, layout.SERVICE),
    "ew_services6": (layout.SERVICE6_KEY, layout.SERVICE),
    "ew_ranges": (layout.RANGE_KEY, layout.SERVICE),
    "ew_vips": (layout.ADDRESS, layout.U32),
    "ew_config": (layout.U32, layout.EDGE_CONFIG),
    "ew_filters": (layout.U32, layout.FILTER),
    "ew_sources": (layout.SOURCE_KEY, layout.U32),
    "ew_sources6": (layout.SOURCE6_KEY, layout.U32),
}


@st.composite
def corruptions(draw: st.DrawFn) -> tuple[str, int, bool, bytes]:
    """Damage to one entry of one map: which map, which of its entries, deleted or overwritten, with what."""
    name = draw(st.sampled_from(sorted(GARBAGE)))
    size = GARBAGE[name][1].size
    # Small numbers hit other valid indices, big ones lead out of the maps.
    small = st.lists(st.integers(0, 12), min_size=size // 4, max_size=size // 4).map(
        lambda words: b"".join(word.to_bytes(4, "little") for word in words)
    )
    return name, draw(st.integers(0, 63)), draw(st.booleans()), draw(small | st.binary(min_size=size, max_size=size))


def damage(maps: FakeMaps, corruption: tuple[str, int, bool, bytes]) -> None:
    """Carry it out; an array's entry cannot be deleted, so it is overwritten."""
    name, number, delete, value = corruption
    keys = sorted(maps[name].entries)
    if keys:
        key = keys[number % len(keys)]
        maps[name].put(key, None if delete and maps[name].is_hash else value)


@given(wanted_states(), st.lists(corruptions(), min_size=1, max_size=6))
def test_damage_is_found_and_repaired(wanted: EdgeWanted, corruptions: list[tuple[str, int, bool, bytes]]) -> None:
    maps = maps_with(wanted)
    for corruption in corruptions:
        damage(maps, corruption)
    steps, writes = plan(wanted, maps)
    assert bool(steps) == bool(writes)
    maps.apply(writes)
    assert_is(wanted, maps)


def service(weights: dict[int, int], port: int = 53) -> ServiceWanted:
    """A DNS service with backends by endpoint id and weight, all on worker1."""
    backends = tuple(BackendWanted(eid, "worker1", weight) for eid, weight in weights.items())
    return ServiceWanted("dns", "203.0.113.53", port, port, backends)


def edge(*services: ServiceWanted) -> EdgeWanted:
    """An edge with these services."""
    return EdgeWanted(OWN, 1, 2, WORKERS, services)


def filtered(*networks: str) -> EdgeWanted:
    """An edge whose one service denies some networks."""
    sources = frozenset(source_of(network, allowed=False) for network in networks)
    return replace(edge(service({7: 1})), filters=(FilterWanted("dns", sources),))


def test_steps_speak_of_addresses_names_and_shares() -> None:
    maps = FakeMaps("edge", ROOMY)
    wanted = edge(service({7: 1}))
    steps, writes = plan(wanted, maps)
    told = {(step.verb, step.kind, step.name): step.after for step in steps}
    backend = told["add", "backend", "dns on worker1 (7)"]
    assert backend == {
        "service": "203.0.113.53:53/udp",
        "worker": "worker1",
        "endpoint_id": 7,
        "reply_entry": True,
        "weight": 1,
    }
    table = told["add", "service", "203.0.113.53:53/udp"]
    assert table is not None
    assert (table["name"], table["backends"]) == ("dns", {"worker1 (7)": 1.0})
    assert ("add", "configuration", "edge") in told
    maps.apply(writes)
    maps["ew_endpoints"].put(layout.BE32.of(7), None)
    (step,) = plan(wanted, maps)[0]
    assert (step.verb, step.kind, step.name) == ("change", "backend", "dns on worker1 (7)")
    assert step.before == {**backend, "reply_entry": False}
    assert step.after == backend


def test_what_becomes_of_packets_that_do_not_fit_is_one_change() -> None:
    maps = FakeMaps("edge", ROOMY)
    maps.apply(plan(edge(service({7: 1})), maps)[1])
    wanted = edge(replace(service({7: 1}), carries_oversize=True))
    steps, writes = plan(wanted, maps)
    (step,) = steps
    assert step.before is not None
    assert step.before["oversize"] == "refuse"
    assert step.after == {**step.before, "oversize": "fragment"}
    assert [write[0] for write in writes] == ["ew_direct", "ew_services", "ew_direct", "ew_direct"]
    maps.apply(writes)
    assert plan(wanted, maps) == ([], [])


def drained_backend(eid: int, weight: int = 1) -> BackendWanted:
    """A backend that drains."""
    return BackendWanted(eid, "worker2", 0, weight)


def drain(*ids: int, deadline: int = 600) -> EdgeWanted:
    """A service of four backends of which these drain."""
    backends = tuple(drained_backend(n) if n in ids else BackendWanted(n, "worker1", 1) for n in (1, 2, 3, 4))
    return edge(ServiceWanted("dns", "203.0.113.53", 53, 53, backends, drain_deadline=deadline))


def asked_until(maps: FakeMaps) -> dict[int, float]:
    """Until when each endpoint is asked for flows, in seconds."""
    return {b["endpoint_id"]: b["asked_until"] / 10**9 for b in state_of(maps).backends.values()}


def at(second: int, wanted: EdgeWanted, maps: FakeMaps) -> list[Step]:
    """Plan and write at a time; the steps."""
    steps, writes = edge_maps.plan(wanted, state_of(maps), now=second * 10**9)
    maps.apply(writes)
    return steps


def test_a_drain_begins_goes_on_and_ends() -> None:
    maps = maps_with(drain())
    assert asked_until(maps) == dict.fromkeys((1, 2, 3, 4), 0)
    table = state_of(maps).table_of
    (record,) = state_of(maps).entries.values()
    before = table(record)
    (step,) = [step for step in at(100, drain(1), maps) if step.kind == "service"]
    assert step.after is not None
    assert step.after["draining"] == ["worker2 (1)"]
    state = state_of(maps)
    (record,) = state.entries.values()
    assert 1 not in state.table_of(record)
    assert state.draining_of(record) == {1}
    assert state.drain_table_of(record) == before, "the old table, place by place"
    assert asked_until(maps) == dict.fromkeys((1, 2, 3, 4), 700)
    assert at(200, drain(1), maps) == [], "a deadline that is set is no drift, also when it is over"
    assert at(900, drain(1), maps) == []
    at(300, drain(1, 2), maps)
    assert asked_until(maps) == {1: 700, 2: 900, 3: 900, 4: 900}, "one that joins has a deadline of its own"
    assert at(301, drain(1, 2), maps) == []
    assert at(302, drain(), maps) != []
    assert asked_until(maps) == dict.fromkeys((1, 2, 3, 4), 0)
    at(400, drain(1), maps)
    assert asked_until(maps)[1] == 1000, "the next drain has a new deadline"


def test_a_deadline_beyond_the_planned_one_is_drift() -> None:
    """An earlier deadline in the inventory, or a number that is none."""
    maps = maps_with(drain())
    at(100, drain(1), maps)
    at(110, drain(1, deadline=60), maps)
    assert asked_until(maps)[1] == 170


def test_a_worker_dies_and_comes_back_by_one_write() -> None:
    maps = maps_with(edge(service({7: 1, 8: 1})))
    for dead, words in ((frozenset({"worker1"}), ("live", "dead")), (frozenset[str](), ("dead", "live"))):
        wanted = dataclasses.replace(edge(service({7: 1, 8: 1})), dead_workers=dead)
        (step,), (write,) = plan(wanted, maps)
        assert (step.verb, step.kind, step.name, write[0]) == ("change", "worker", "worker1", "ew_workers")
        assert step.before is not None
        assert step.after is not None
        assert (step.before["state"], step.after["state"]) == words
        maps.apply([write])
        assert_is(wanted, maps)


def test_a_worker_that_is_gone_leaves_an_empty_slot() -> None:
    maps = maps_with(edge(service({7: 1})))
    left = {name: relays for name, relays in WORKERS.items() if name != "worker4"}
    wanted = dataclasses.replace(edge(service({7: 1})), workers=left)
    (step,), (write,) = plan(wanted, maps)
    assert (step.verb, step.kind, step.name) == ("remove", "worker", WORKERS["worker4"].ipv4)
    assert write[2] == bytes(layout.WORKER.size)


def test_a_drained_service_stays_known() -> None:
    maps = maps_with(edge(service({7: 0})))
    state = state_of(maps)
    assert [record["table_size"] for record in state.entries.values()] == [0]
    assert set(state.endpoints) == {7}, "replies of flows that still run come through"


def test_a_new_services_counter_starts_at_zero() -> None:
    maps = maps_with(edge(service({7: 1})))
    maps["ew_stats"].put(bytes(4), b"\x01" * layout.STATS.size)
    maps.apply(plan(edge(), maps)[1])
    maps.apply(plan(edge(service({8: 1}, port=54)), maps)[1])
    assert maps["ew_stats"].entries[bytes(4)] == bytes(layout.STATS.size)


def total_of(maps: FakeMaps, claim: Claim) -> Counter[str]:
    """What a service has counted: its backends, and those it had."""
    state = state_of(maps)
    index = counter_of(state, claim)
    total = Counter(map_io.counters_of(cast(Maps, maps), "ew_retired", [index]).of(index))
    for slot, backend in state.backends.items():
        if (backend["vip"], backend["port"], backend["last_port"]) == claim:
            total.update(map_io.counters_of(cast(Maps, maps), "ew_stats", [slot]).of(slot))
    return total


@given(st.lists(wanted_states(), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_no_count_is_lost_and_none_is_inherited(states: list[EdgeWanted], random: Random) -> None:
    maps = maps_with(states[0])
    nothing = Counter(dict.fromkeys((name for name, _ in layout.STATS.fields), 0))
    for old, new in itertools.pairwise(states):
        for slot in state_of(maps).backends:
            counts = {name: random.randrange(1, 1000) for name, _ in layout.STATS.fields}
            maps["ew_stats"].put(layout.U32.of(slot), layout.STATS.pack(counts))
        kept = {s.claim: total_of(maps, s.claim) for s in old.services if s.claim in {n.claim for n in new.services}}
        maps.apply(plan(new, maps)[1])
        for wanted in new.services:
            assert total_of(maps, wanted.claim) == kept.get(wanted.claim, nothing)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (edge(*(service({n: 1}, port=n) for n in range(1, 7))), "services: 6 needed, room for 5"),
        (edge(ServiceWanted("all", "203.0.113.53", 1, 65535, ())), "ranges: 16 needed, room for 5"),
        (edge(service(dict.fromkeys(range(1, 12), 0))), "backends: 11 needed, room for 10"),
        (edge(*(service({n: 1, n + 100: 1}, port=n) for n in range(1, 6))), "lut: 15 needed, room for 12"),
        (dataclasses.replace(edge(), workers={**WORKERS, "worker5": OWN}), "workers: 5 needed, room for 4"),
        (filtered(*(f"10.0.{n}.0/24" for n in range(10))), "sources: 10 needed .*, room for 9"),
        (
            replace(edge(service({7: 1})), filters=tuple(FilterWanted(f"s{n}", frozenset()) for n in range(5))),
            "filters: 6 needed, room for 5",
        ),
    ],
)
def test_too_much_for_the_maps(wanted: EdgeWanted, told: str) -> None:
    with pytest.raises(EdgewireError, match=told):
        plan(wanted, FakeMaps("edge", TIGHT))


def test_everything_that_does_not_fit_is_named_at_once_before_any_write() -> None:
    services = [replace(service({n: 1, n + 100: 1}, port=n), name=f"s{n}", vip=f"203.0.113.{n}") for n in range(1, 7)]
    wide = ServiceWanted("all", "203.0.113.53", 1, 65535, ())
    workers = {**WORKERS, "worker5": OWN}
    networks = frozenset(source_of(f"10.0.{n}.0/24", allowed=False) for n in range(10))
    held = tuple(FilterWanted(f"s{n}", networks) for n in range(1, 6))
    capacity = dataclasses.replace(TIGHT, vips=2)
    with pytest.raises(EdgewireError) as caught:
        plan(replace(edge(*services, wide), workers=workers, filters=held), FakeMaps("edge", capacity))
    for name in ("services", "ranges", "backends", "lut", "workers", "vips", "filters", "sources"):
        assert f"{name}: " in str(caught.value)
    assert "nothing was written" in str(caught.value)


def test_a_filters_step_names_what_differs() -> None:
    maps = maps_with(edge(service({7: 1})))
    steps, writes = plan(filtered("198.51.100.0/24", "2001:db8:c::/64"), maps)
    told = {(step.verb, step.kind, step.name): step for step in steps}
    added = told["add", "filter", "of service dns"].after
    assert added is not None
    assert (added["others"], added["allow"], added["deny"]) == ("allowed", 0, 2)
    assert added["networks"] == ["deny 198.51.100.0/24", "deny 2001:db8:c::/64"]
    changed = told["change", "service", "203.0.113.53:53/udp"]
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before["filtered"], changed.after["filtered"]) == (False, True)
    maps.apply(writes)

    more = filtered("198.51.100.0/24", *(f"10.0.{n}.0/24" for n in range(12)))
    step = next(step for step in plan(more, maps)[0] if step.kind == "filter")
    assert step.before is not None
    assert step.after is not None
    assert step.before["networks"] == ["deny 2001:db8:c::/64"]
    assert (len(step.after["networks"]), step.after["networks"][-1]) == (11, "and 2 more")


def test_a_filter_does_not_move_a_table() -> None:
    maps = maps_with(edge(service({7: 1})))
    touched = {write[0] for write in plan(filtered("198.51.100.0/24"), maps)[1]}
    assert touched == {"ew_sources", "ew_filters", "ew_filtered", "ew_buckets", "ew_services", "ew_direct"}


def test_a_new_filters_counters_and_bucket_start_at_zero() -> None:
    maps = FakeMaps("edge", ROOMY)
    key = layout.U32.of(1)
    maps["ew_filtered"].put(key, b"\x01" * layout.FILTERED.size)
    maps["ew_buckets"].put(key, b"\x01" * 8)
    maps.apply(plan(filtered("198.51.100.0/24"), maps)[1])
    assert state_of(maps).filters.filters.keys() == {1}
    assert not any(maps["ew_filtered"].entries[key] + maps["ew_buckets"].entries[key])


def test_full_maps_exchange_all_their_services() -> None:
    """The services map holds five: five go and five others come, in one run."""
    maps = maps_with(edge(*(service({n: 1}, port=n) for n in range(1, 6))), TIGHT)
    other = edge(*(service({n + 10: 1}, port=n + 10) for n in range(1, 6)))
    maps.apply(plan(other, maps)[1])
    assert_is(other, maps)
