# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's map planner: from any state to any other."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, worker_maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps, Write
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.worker_maps import EndpointWanted, WorkerWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import FakeMaps
from hypothesis import given
from hypothesis import strategies as st

CAPACITY = layout.Capacity(backends=6, edges=6)
OWN = Relays("100.96.0.100", "fd65::100")


def relays_of(edge: int) -> Relays:
    """Relay addresses of an edge."""
    return Relays(f"100.96.0.{edge}", f"fd65::{edge}")


def vip_ports(eid: int) -> tuple[str, int, int]:
    """VIP, first and last port of an endpoint: both families, single ports and ranges."""
    return ("203.0.113.1" if eid % 2 else "2001:db8::1"), eid * 100, eid * 100 + eid % 3


def containers(eid: int) -> list[str]:
    """Addresses that the endpoint's container may have, of its VIP's family."""
    return ["10.88.0.1", "10.88.0.2"] if eid % 2 else ["fd00:88::1", "fd00:88::2"]


@st.composite
def wanted_states(draw: st.DrawFn) -> WorkerWanted:
    """A worker with what its small maps can hold."""
    ids = sorted(draw(st.sets(st.integers(1, 12), max_size=CAPACITY.backends)))
    endpoints = tuple(
        EndpointWanted(eid, f"service{eid}", *vip_ports(eid), draw(st.sampled_from(containers(eid))), 53) for eid in ids
    )
    edges = {f"edge{n}": relays_of(n) for n in draw(st.sets(st.integers(1, 6), max_size=CAPACITY.edges // 2))}
    return WorkerWanted(OWN, draw(st.integers(1, 3)), 2, edges, endpoints)


def plan(wanted: WorkerWanted, maps: FakeMaps) -> tuple[list[Step], list[Write]]:
    """The plan from what the maps say."""
    return worker_maps.plan(wanted, worker_maps.read(cast(Maps, maps)))


def assert_is(wanted: WorkerWanted, maps: FakeMaps) -> None:
    """The maps say what is wanted and nothing else, counters are apart, and there is nothing left to do."""
    state = worker_maps.read(cast(Maps, maps))
    assert state.edges == set(wanted.edge_relays)
    shown = ("vip", "port", "last_port", "container", "container_port")
    assert {eid: tuple(e[name] for name in shown) for eid, e in state.endpoints.items()} == {
        e.endpoint_id: (e.vip, e.port, e.last_port, e.container_address, e.container_port) for e in wanted.endpoints
    }
    assert dict(state.config) == wanted.config
    indices = {e["stats_index"] for e in state.endpoints.values()}
    assert len(indices) == len(state.endpoints)
    assert plan(wanted, maps) == ([], [])


@given(st.lists(wanted_states(), min_size=1, max_size=4))
def test_any_state_becomes_any_other(states: list[WorkerWanted]) -> None:
    """Full maps included: what goes makes room for what comes."""
    maps = FakeMaps("worker", CAPACITY)
    for wanted in states:
        steps, writes = plan(wanted, maps)
        assert bool(steps) == bool(writes)
        maps.apply(writes)
        assert_is(wanted, maps)


@given(wanted_states(), wanted_states())
def test_what_stays_is_there_all_the_time(old: WorkerWanted, new: WorkerWanted) -> None:
    maps = FakeMaps("worker", CAPACITY)
    maps.apply(plan(old, maps)[1])
    before = worker_maps.read(cast(Maps, maps))
    ids = {e.endpoint_id for e in old.endpoints} & {e.endpoint_id for e in new.endpoints}
    same = {e.endpoint_id for e in old.endpoints} & {e.endpoint_id for e in new.endpoints if e in old.endpoints}
    edges = old.edge_relays.keys() & new.edge_relays.keys()
    for write in plan(new, maps)[1]:
        name, key, _ = write
        assert name != "ew_endpoints" or int.from_bytes(key, "big") not in same
        maps.apply([write])
        state = worker_maps.read(cast(Maps, maps))
        assert edges <= state.edges
        for eid in ids:
            assert state.endpoints[eid]["stats_index"] == before.endpoints[eid]["stats_index"], "the counter goes on"
        used = [e["stats_index"] for e in state.endpoints.values()]
        assert len(set(used)) == len(used), "two endpoints count in one place"


@given(
    wanted_states(),
    st.lists(
        st.tuples(
            st.integers(0, 20), st.none() | st.binary(min_size=layout.ENDPOINT.size, max_size=layout.ENDPOINT.size)
        )
    ),
)
def test_damage_is_found_and_repaired(wanted: WorkerWanted, damage: list[tuple[int, bytes | None]]) -> None:
    maps = FakeMaps("worker", CAPACITY)
    maps.apply(plan(wanted, maps)[1])
    for number, value in damage:
        keys = sorted(maps["ew_endpoints"].entries)
        if keys:
            maps["ew_endpoints"].put(keys[number % len(keys)], value)
    maps.apply(plan(wanted, maps)[1])
    assert_is(wanted, maps)


def endpoint(eid: int, container: str = "10.88.0.53") -> EndpointWanted:
    """A DNS endpoint."""
    return EndpointWanted(eid, "dns", "203.0.113.53", 53, 53, container, 5353)


def worker(*endpoints: EndpointWanted, edges: int = 1) -> WorkerWanted:
    """A worker with these endpoints and some edges."""
    return WorkerWanted(OWN, 1, 2, {f"edge{n}": Relays(f"100.96.0.{n + 100}") for n in range(edges)}, endpoints)


def test_steps_speak_of_addresses_and_names() -> None:
    maps = FakeMaps("worker", CAPACITY)
    maps.apply(plan(worker(endpoint(7)), maps)[1])
    (step,) = plan(worker(endpoint(7, "10.88.0.54")), maps)[0]
    assert (step.verb, step.kind, step.name) == ("change", "endpoint", "dns (7)")
    assert step.before == {"service": "203.0.113.53:53/udp", "container": "10.88.0.53 port 5353", "drain_idle": "60 s"}
    assert step.after == {"service": "203.0.113.53:53/udp", "container": "10.88.0.54 port 5353", "drain_idle": "60 s"}
    (step,) = plan(worker(replace(endpoint(7), carries_oversize=True)), maps)[0]
    assert step.before is not None
    assert step.after == {**step.before, "oversize": "fragment"}
    steps = plan(worker(edges=2), maps)[0]
    assert {(s.verb, s.kind, s.name) for s in steps} == {
        ("remove", "endpoint", "7"),
        ("add", "edge", "edge1 100.96.0.101"),
    }


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (worker(*(endpoint(n) for n in range(1, 8))), "backends: 7 needed, room for 6"),
        (worker(edges=7), "edges: 7 needed, room for 6"),
    ],
)
def test_too_much_for_the_maps(wanted: WorkerWanted, told: str) -> None:
    with pytest.raises(EdgewireError, match=told):
        plan(wanted, FakeMaps("worker", CAPACITY))
