# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan makes of backends and workers that drain or are dead, and of services' ways of replying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import FleetPlan, plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import EdgeService, HostPlan

Inventory = dict[str, Any]
MakeFleet = Callable[..., Inventory]
KeyOf = Callable[[str], str]


def planned(fleet: Inventory, key_of: KeyOf) -> FleetPlan:
    """The plan, once through JSON."""
    plan = plan_fleet(fleet, {name: key_of(name) for name in fleet["hosts"]})
    assert all(HostPlan.from_dict(host.to_dict()) == host for host in plan.hosts)
    return plan


def dns_of(plan: FleetPlan) -> EdgeService:
    """The one service, as the first edge has it."""
    assert plan.hosts[0].edge is not None
    (service,) = plan.hosts[0].edge.services
    return service


@pytest.mark.parametrize(
    ("change", "weights"),
    [
        ({}, (1, None)),
        ({"weight": 5}, (5, None)),
        ({"weight": 0}, (0, 1)),
        ({"state": "drain"}, (0, 1)),
        ({"state": "drain", "weight": 5}, (0, 5)),
        ({"state": "drain", "weight": 0}, (0, 1)),
        ({"state": "dead"}, (0, None)),
        ({"state": "dead", "weight": 0}, (0, None)),
        ({"state": "live", "weight": 2}, (2, None)),
    ],
)
def test_a_backends_state(
    make_fleet: MakeFleet, key_of: KeyOf, change: dict[str, Any], weights: tuple[int, int | None]
) -> None:
    fleet = make_fleet()
    fleet["vars"]["edgewire_services"][0]["backends"][0].update(change)
    plan = planned(fleet, key_of)
    service = dns_of(plan)
    backends = {backend.worker: (backend.weight, backend.drain_weight) for backend in service.backends}
    assert backends == {"worker1": weights, "worker2": (1, None)}
    assert service.drain_deadline == (600 if weights[1] else None)
    assert plan.warnings == ()
    workers = [host.worker for host in plan.hosts if host.worker]
    assert [len(worker.endpoints) for worker in workers] == [1, 1], "its replies still come through"


def test_how_long_a_drain_takes_is_the_services_to_say(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    fleet = make_fleet()
    service = fleet["vars"]["edgewire_services"][0]
    service.update(drain_idle=30, drain_deadline="90", reply="direct")
    service["backends"][0]["state"] = "drain"
    plan = planned(fleet, key_of)
    assert dns_of(plan).drain_deadline == 90
    endpoints = [endpoint for host in plan.hosts if host.worker for endpoint in host.worker.endpoints]
    assert [(endpoint.drain_idle, endpoint.reply) for endpoint in endpoints] == [(30, "direct")] * 2


@pytest.mark.parametrize(("wish", "said"), [(None, None), ("refuse", None), ("fragment", "fragment")])
def test_what_becomes_of_packets_that_do_not_fit(
    make_fleet: MakeFleet, key_of: KeyOf, wish: str | None, said: str | None
) -> None:
    """Both sides are told: edges carry requests, workers replies."""
    fleet = make_fleet()
    fleet["vars"]["edgewire_services"][0]["oversize"] = wish
    plan = planned(fleet, key_of)
    assert {service.oversize for host in plan.hosts if host.edge for service in host.edge.services} == {said}
    assert {end.oversize for host in plan.hosts if host.worker for end in host.worker.endpoints} == {said}


def test_a_table_is_as_large_as_its_service_says(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    fleet = make_fleet()
    assert dns_of(planned(fleet, key_of)).table_size is None
    fleet["vars"]["edgewire_services"][0]["table_size"] = "16384"
    assert dns_of(planned(fleet, key_of)).table_size == 16384


def test_a_table_that_is_too_small_for_its_backends(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    fleet = make_fleet()
    service = fleet["vars"]["edgewire_services"][0]
    service["table_size"] = 4096
    first = service["backends"][0]
    count = len(service["backends"])
    service["backends"] += [{**first, "port": 5300 + number} for number in range(1025 - count)]
    with pytest.raises(EdgewireError, match="table_size: 1025 backends need 65536 slots"):
        planned(fleet, key_of)


def test_a_worker_that_drains_drains_all_its_backends(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    fleet = make_fleet()
    fleet["vars"]["edgewire_services"][0]["backends"][0]["weight"] = 3
    fleet["hosts"]["worker1"]["edgewire_worker_state"] = "drain"
    plan = planned(fleet, key_of)
    assert {b.worker: (b.weight, b.drain_weight) for b in dns_of(plan).backends} == {
        "worker1": (0, 3),
        "worker2": (1, None),
    }
    assert plan.warnings == ()


def test_a_dead_worker_leaves_the_tables_alone(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    fleet = make_fleet()
    alive = planned(fleet, key_of)
    fleet["hosts"]["worker1"]["edgewire_worker_state"] = "dead"
    plan = planned(fleet, key_of)
    assert dns_of(plan) == dns_of(alive)
    edge = plan.hosts[0].edge
    assert edge is not None
    assert {worker.name: worker.state for worker in edge.workers} == {"worker1": "dead", "worker2": None}
    assert plan.warnings == ()


@pytest.mark.parametrize("states", [("dead", "dead"), ("drain", "dead"), ("drain", "drain")])
def test_a_service_that_nobody_serves_is_a_warning(
    make_fleet: MakeFleet, key_of: KeyOf, states: tuple[str, str]
) -> None:
    """Not an error: what a worker's state is must not wait for the inventory of its services."""
    fleet = make_fleet()
    for worker, state in zip(("worker1", "worker2"), states, strict=True):
        fleet["hosts"][worker]["edgewire_worker_state"] = state
    (warning,) = planned(fleet, key_of).warnings
    assert warning == (
        "every worker that serves dns (203.0.113.53 port 53) is marked dead or drains: new flows are dropped"
    )


def moved_fleet(make_fleet: MakeFleet, worker: str, *former: str) -> Inventory:
    """A service with a backend that has a name, on a worker, and one that has none, on another."""
    fleet = make_fleet(2, 4)
    (service,) = fleet["vars"]["edgewire_services"]
    named = {"name": "resolver", "worker": worker, "address": f"10.88.0.{worker[-1]}", "moved_from": list(former)}
    service["backends"] = [named, {"worker": "worker4", "address": "10.88.0.44"}]
    return fleet


def test_a_named_backend_stays_what_it_is_wherever_it_moves(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    before = dns_of(planned(moved_fleet(make_fleet, "worker1"), key_of))
    after = dns_of(planned(moved_fleet(make_fleet, "worker2", "worker1"), key_of))
    assert {b.endpoint_id: b.worker for b in before.backends}.keys() == {b.endpoint_id for b in after.backends}
    changed = {b.endpoint_id for b in before.backends} - {b.endpoint_id for b in before.backends if b in after.backends}
    assert {b.worker for b in after.backends if b.endpoint_id in changed} == {"worker2"}


def test_former_workers_know_where_a_backend_is(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    """They and the new one are each other's peers and take each other's packets; nobody else is any wiser."""
    plan = planned(moved_fleet(make_fleet, "worker3", "worker1", "worker2"), key_of)
    hosts = {host.host: host for host in plan.hosts if host.worker}
    (endpoint_id,) = {b.endpoint_id for b in dns_of(plan).backends if b.worker == "worker3"}
    trio = {"worker1", "worker2", "worker3"}
    for name, host in hosts.items():
        assert host.worker is not None
        others = trio - {name} if name in trio else set()
        assert {worker.name for worker in host.worker.workers} == others
        assert {peer.name for peer in host.wireguard.peers} == {"edge1", "edge2"} | others
        moved = [(item.endpoint_id, item.vip, item.port, item.moved_to) for item in host.worker.moved]
        former = name in ("worker1", "worker2")
        assert moved == ([(endpoint_id, "203.0.113.53", 53, "worker3")] if former else [])
        assert [item.endpoint_id for item in host.worker.endpoints].count(endpoint_id) == (name == "worker3")


def test_two_backends_of_one_name_in_two_services(make_fleet: MakeFleet, key_of: KeyOf) -> None:
    fleet = moved_fleet(make_fleet, "worker1")
    (service,) = fleet["vars"]["edgewire_services"]
    fleet["vars"]["edgewire_services"].append({**service, "name": "other", "ports": [54]})
    edge = planned(fleet, key_of).hosts[0].edge
    assert edge is not None
    ids = [backend.endpoint_id for made in edge.services for backend in made.backends]
    assert len(set(ids)) == len(ids) == 4
