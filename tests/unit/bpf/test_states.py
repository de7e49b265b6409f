# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of ``forwarder_map``: gathered is the inverse of written; merged removes nothing, deleted nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    contents,
    edge_maps,
    edge_state,
    gather,
    layout,
    netdev,
    states,
    worker_maps,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.worker_maps import EndpointWanted, WorkerWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import FakeMaps
from ansible_collections.edgewire.fleet.tests.unit.bpf.test_edge_maps import (  # noqa: F401
    ROOMY,
    WORKERS,
    _small_tables,
    wanted_states,
)
from hypothesis import given
from hypothesis import strategies as st

SECOND = 10**9
# lo is in every namespace, with index 1.
LO_MTU = netdev.mtu("lo")


def on_lo(wanted: EdgeWanted) -> EdgeWanted:
    """The same on interfaces that exist here."""
    return dataclasses.replace(wanted, wireguard_ifindex=1, uplink_ifindex=1, wireguard_mtu=LO_MTU)


edges = wanted_states().map(on_lo)


def names(*wanted: EdgeWanted) -> dict[str, dict[Any, str]]:
    """What a plan would call hosts and services."""
    return {
        "hosts": {address: name for name, relays in WORKERS.items() for address in relays.all},
        "services": {(s.vip, s.port): s.name for one in wanted for s in one.services},
    }


NAMELESS: dict[str, dict[Any, str]] = {"hosts": {}, "services": {}}


def write(maps: FakeMaps, options: dict[str, Any], now: int) -> list[Step]:
    """Write options as the module would; the steps."""
    steps, writes = edge_maps.plan(contents.edge_wanted(options), edge_state.read(cast(Maps, maps)), now=now)
    maps.apply(writes)
    return steps


def options_of(maps: FakeMaps, called: dict[str, dict[Any, str]], now: int) -> dict[str, Any]:
    """The maps as options."""
    return gather.edge_options(edge_state.read(cast(Maps, maps)), "lo", called, now)


def box(wanted: EdgeWanted, now: int) -> FakeMaps:
    """Maps that say what is wanted."""
    maps = FakeMaps("edge", dataclasses.replace(ROOMY, services=64, backends=128, lut=1024))
    maps.apply(edge_maps.plan(wanted, edge_state.read(cast(Maps, maps)), now=now)[1])
    return maps


@given(edges, st.booleans(), st.integers(0, 2000))
def test_what_an_edge_gathers_changes_nothing(wanted: EdgeWanted, named: bool, later: int) -> None:
    maps = box(wanted, 1000 * SECOND)
    now = (1000 + later) * SECOND + 1
    assert write(maps, options_of(maps, names(wanted) if named else NAMELESS, now), now + SECOND) == []


@given(edges)
def test_what_an_edge_gathers_is_what_was_wanted(wanted: EdgeWanted) -> None:
    maps = box(wanted, SECOND)
    found = contents.edge_wanted(options_of(maps, names(wanted), SECOND))

    def plain(one: EdgeWanted) -> Any:
        services = {
            s.claim: (s.name, frozenset(s.backends), s.by_client, s.carries_oversize, s.size) for s in one.services
        }
        held = {item.service: item.record(0) | {"list": item.sources} for item in one.filters}
        return services, held, dict(one.workers), one.dead_workers, one.config

    assert plain(found) == plain(wanted)


@given(edges, edges)
def test_merging_adds_and_changes_and_removes_nothing(old: EdgeWanted, new: EdgeWanted) -> None:
    maps = box(old, SECOND)
    called = names(old, new)
    given_options = options_of(box(new, SECOND), called, SECOND)
    united = states.merged("edge", given_options, options_of(maps, called, SECOND))
    steps = write(maps, united, SECOND)
    assert not [step for step in steps if step.verb == "remove"]
    state = edge_state.read(cast(Maps, maps))
    assert {e for one in (old, new) for s in one.services for e in s.entries} == set(state.entries)
    ids = {b["endpoint_id"] for b in state.backends.values()}
    assert ids == {b.endpoint_id for one in (old, new) for s in one.services for b in s.backends}
    again = states.merged("edge", given_options, options_of(maps, called, SECOND))
    assert write(maps, again, SECOND) == []


@given(edges, edges)
def test_what_leaves_an_edge_gets_no_packets_but_its_replies_are_known(old: EdgeWanted, new: EdgeWanted) -> None:
    maps, straight = box(old, SECOND), box(old, SECOND)
    called = names(old, new)
    given_options = options_of(box(new, SECOND), called, SECOND)
    staying = states.staying("edge", given_options, options_of(maps, called, SECOND))
    write(maps, staying, SECOND)
    write(straight, given_options, SECOND)

    before = {s.claim: {b.endpoint_id for b in s.backends} for s in old.services}
    wanted_claims = {s.claim for s in new.services}
    kept = {b["endpoint_id"] for b in edge_state.read(cast(Maps, maps)).backends.values()}
    assert kept >= {eid for claim, ids in before.items() if claim in wanted_claims for eid in ids}
    # What is left to do then moves no flow: the services' entries and tables are those that are wanted already.
    left = write(maps, given_options, SECOND)
    assert {step.verb for step in left if step.kind != "service"} <= {"remove"}
    assert not [step for step in left if step.kind == "service" and step.before.get("table") != step.after.get("table")]
    assert options_of(maps, called, SECOND) == options_of(straight, called, SECOND)


@given(edges, edges)
def test_deleting_takes_what_is_named_and_nothing_else(old: EdgeWanted, new: EdgeWanted) -> None:
    maps = box(old, SECOND)
    called = names(old, new)
    named = {"services": [{"vip": s.vip, "port": s.port, "last_port": s.last_port} for s in new.services]}
    left = states.deleted("edge", named, options_of(maps, called, SECOND), force=False)
    steps = write(maps, left, SECOND)
    gone = {s.claim for s in new.services}
    kept = [s for s in old.services if s.claim not in gone]
    state = edge_state.read(cast(Maps, maps))
    assert set(state.entries) == {entry for s in kept for entry in s.entries}
    assert len(state.workers) == len(old.workers)
    assert not [step for step in steps if step.verb == "add"]
    again = states.deleted("edge", named, options_of(maps, called, SECOND), force=False)
    assert write(maps, again, SECOND) == []


def dns(*backends: tuple[int, int]) -> dict[str, Any]:
    """An edge with one service, of backends by endpoint id and weight."""
    return {
        "role": "edge",
        "relay_address": "100.96.0.1",
        "uplink": "lo",
        "wireguard_interface": "lo",
        "workers": [{"name": "worker1", "relay_address": "100.96.0.3"}],
        "services": [
            {
                "name": "dns",
                "vip": "203.0.113.53",
                "port": 53,
                "backends": [{"endpoint_id": eid, "worker": "worker1", "weight": weight} for eid, weight in backends],
            }
        ],
        "filters": [],
    }


def test_the_last_backend_of_a_service_goes_only_by_force() -> None:
    both, one = (
        dns((7, 1), (8, 0)),
        {"services": [{"vip": "203.0.113.53", "port": 53, "backends": [{"endpoint_id": 7}]}]},
    )
    with pytest.raises(EdgewireError, match=r"last backend .* 203\.0\.113\.53:53/udp.* force"):
        states.deleted("edge", one, both, force=False)
    left = states.deleted("edge", one, both, force=True)
    assert [backend["endpoint_id"] for backend in left["services"][0]["backends"]] == [8]
    two = states.deleted("edge", one, dns((7, 1), (8, 1)), force=False)
    assert [backend["endpoint_id"] for backend in two["services"][0]["backends"]] == [8]


def test_a_filter_goes_with_its_service() -> None:
    running = dns((7, 1)) | {"filters": [{"service": "dns", "allow": ["192.0.2.0/24"]}]}
    left = states.deleted("edge", {"services": [{"vip": "203.0.113.53", "port": 53}]}, running, force=False)
    assert (left["services"], left["filters"]) == ([], [])
    assert contents.edge_wanted(left).services == ()


def test_rendering_needs_neither_programs_nor_interfaces() -> None:
    params = dns((7, 1)) | {"uplink": "ewt-none0", "wireguard_interface": "ewt-none1"}
    told = contents.render("edge", params)
    assert told["ew_services"][0]["key"] == {"vip": "203.0.113.53", "port": 53}
    assert told["ew_lut"] == [{"index": 0, "values": [0]}]
    assert told["ew_endpoints"] == [{"key": 7, "value": 0}]
    assert told["ew_backends"][0]["values"][0]["vip"] == "203.0.113.53"
    assert told["ew_config"][0]["value"]["wireguard_ifindex"] == 0
    assert "ew_stats" not in told, "zeros that are there anyway"


OWN = Relays("100.96.0.100", "fd65::100")
EDGES = {f"edge{n}": Relays(f"100.96.0.{n}", f"fd65::{n}") for n in (1, 2)}
OTHERS = {f"worker{n}": Relays(f"100.96.1.{n}", f"fd65::1:{n}") for n in (1, 2)}


@st.composite
def workers(draw: st.DrawFn) -> WorkerWanted:
    """A worker with endpoints of both families, some of which have moved."""
    endpoints = []
    for eid in sorted(draw(st.sets(st.integers(1, 12), max_size=6))):
        vip, container = ("203.0.113.1", "10.88.0.1") if eid % 2 else ("2001:db8::1", "fd00:88::1")
        place = (eid, f"service{eid}", vip, eid * 100, eid * 100 + eid % 3)
        if draw(st.booleans()):
            relay = OTHERS[draw(st.sampled_from(sorted(OTHERS)))].for_vip(vip)
            endpoints.append(EndpointWanted(*place, relay, 0, moved=True))
        else:
            idle, flags = draw(st.integers(1, 5000)), [draw(st.booleans()) for _ in range(2)]
            endpoints.append(
                EndpointWanted(*place, container, 53, direct=flags[0], drain_idle=idle, carries_oversize=flags[1])
            )
    known = {name: relays for name, relays in EDGES.items() if draw(st.booleans())}
    return WorkerWanted(OWN, 1, 1, {**known, **OTHERS}, tuple(endpoints), 1, LO_MTU)


def worker_names(wanted: WorkerWanted) -> dict[str, dict[Any, str]]:
    """What a plan would call hosts and services."""
    hosts = {address: name for name, relays in {**EDGES, **OTHERS}.items() for address in relays.all}
    return {"hosts": hosts, "services": {(e.vip, e.port): e.service for e in wanted.endpoints}}


def write_worker(maps: FakeMaps, wanted: WorkerWanted) -> list[Step]:
    """Write what is wanted; the steps."""
    steps, writes = worker_maps.plan(wanted, worker_maps.read(cast(Maps, maps)))
    maps.apply(writes)
    return steps


def worker_options(maps: FakeMaps, called: dict[str, dict[Any, str]]) -> dict[str, Any]:
    """The maps as options."""
    return gather.worker_options(worker_maps.read(cast(Maps, maps)), called)


@given(workers(), st.booleans())
def test_what_a_worker_gathers_changes_nothing(wanted: WorkerWanted, named: bool) -> None:
    maps = FakeMaps("worker", layout.Capacity(backends=32, edges=32))
    write_worker(maps, wanted)
    options = worker_options(maps, worker_names(wanted) if named else NAMELESS)
    assert write_worker(maps, contents.worker_wanted(options)) == []


@given(workers(), workers())
def test_a_worker_that_merges_keeps_what_it_has(old: WorkerWanted, new: WorkerWanted) -> None:
    maps, other = (FakeMaps("worker", layout.Capacity(backends=32, edges=32)) for _ in range(2))
    write_worker(maps, old)
    write_worker(other, new)
    options = worker_options(other, worker_names(new))
    for first in (True, False):
        united = states.merged("worker", options, worker_options(maps, worker_names(old)))
        steps = write_worker(maps, contents.worker_wanted(united))
        assert not [step for step in steps if step.verb == "remove"]
        assert first or not steps
    state = worker_maps.read(cast(Maps, maps))
    assert state.edges == old.edge_relays.keys() | new.edge_relays.keys()
    assert set(state.endpoints) == {e.endpoint_id for one in (old, new) for e in one.endpoints}


def test_a_worker_deletes_by_endpoint_id() -> None:
    maps = FakeMaps("worker", layout.Capacity(backends=32, edges=32))
    endpoints = tuple(EndpointWanted(n, "dns", "203.0.113.1", n, n, "10.88.0.1", 53) for n in (1, 2))
    write_worker(maps, WorkerWanted(OWN, 1, 1, EDGES, endpoints, 1, LO_MTU))
    named = {"endpoints": [{"endpoint_id": 2}, {"endpoint_id": 3}]}
    left = states.deleted("worker", named, worker_options(maps, NAMELESS), force=False)
    (step,) = write_worker(maps, contents.worker_wanted(left))
    assert (step.verb, step.kind, step.name) == ("remove", "endpoint", "2")


def test_what_only_deleting_can_do_without_is_missed() -> None:
    params = {"relay_address": None, "wireguard_interface": "lo", "container_interface": "lo", "uplink": "lo"}
    with pytest.raises(EdgewireError) as caught:
        contents.worker_wanted({**params, "endpoints": [{"endpoint_id": 7, "service": "dns", "vip": "203.0.113.1"}]})
    for told in ("this host: relay_address", "endpoint 7: port", "endpoint 7: container_address"):
        assert f"{told} is missing" in str(caught.value)
