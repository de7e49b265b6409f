# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that drain and workers that die under traffic, and replies that leave directly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from .support import FAMILIES, WORKERS, answer, ask, told_by, traffic

if TYPE_CHECKING:
    from .conftest import Lab, Variables

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]


def drain_first(service: dict[str, Any]) -> None:
    """Let the backend on worker1 drain."""
    service["backends"][0]["state"] = "drain"


def test_a_drain_under_traffic_moves_no_established_flow(lab: Lab, variables: Variables) -> None:
    with traffic(lab, 45_000, 16) as heard:
        for vip in FAMILIES.values():
            assert {who for said in ask(lab, vip, 45_100, 16).values() for who in said} == set(WORKERS)
        lab.playbook("edgewire.fleet.site", *variables(drain_first))
        fresh = {family: ask(lab, vip, 45_200, 24) for family, vip in FAMILIES.items()}
        told = told_by(lab, "edge1", "forwarder_map_info")["edge"]["services"]
        lab.playbook("edgewire.fleet.verify", *variables(drain_first))
    for family, flows in heard.items():
        assert {len(set(said)) for said in flows.values()} == {1}, (family, flows)
        assert {who for said in flows.values() for who in said} == set(WORKERS), "some of them at the one that drains"
        assert {who for said in fresh[family].values() for who in said} == {"worker2"}
    for service in (service for service in told if service["name"] == "dns"):
        states = {backend["worker"]: backend["state"] for backend in service["backends"]}
        assert states == {"worker1": "draining", "worker2": "live"}
    events = {e["event"]: e["packets"] for e in told_by(lab, "edge1", "forwarder_stats_info")["edge"]["events"]}
    assert events["asked"] > events["moved"] > 0
    lab.playbook("edgewire.fleet.site")


def rename(service: dict[str, Any]) -> None:
    """Give the backends names, and so other endpoint ids, as another address or port would."""
    for number, backend in enumerate(service["backends"]):
        backend["name"] = f"resolver{number}"


def test_endpoints_that_change_under_traffic_lose_nothing(lab: Lab, variables: Variables) -> None:
    """Workers know the new ones before edges send there, and the old ones until no reply can be on its way."""
    with traffic(lab, 47_000, 16) as heard:
        lab.playbook("edgewire.fleet.site", *variables(rename))
        lab.playbook("edgewire.fleet.verify", *variables(rename))  # nothing of the old ones has stayed
        lab.playbook("edgewire.fleet.site")
        lab.playbook("edgewire.fleet.verify")
    for family, flows in heard.items():
        assert "lost" not in {who for said in flows.values() for who in said}, (family, flows)


def test_a_dead_workers_flows_go_on_with_the_others(lab: Lab, variables: Variables) -> None:
    state = "{{ 'dead' if inventory_hostname == 'worker1' else 'live' }}"
    with traffic(lab, 46_000, 16) as heard:
        lab.playbook("edgewire.fleet.site", *variables(edgewire_worker_state=state))
        after = {family: ask(lab, vip, 46_100, 16) for family, vip in FAMILIES.items()}
    for family, flows in heard.items():
        assert {said[-1] for said in flows.values()} == {"worker2"}
        assert "lost" not in {who for said in flows.values() for who in said}
        assert {who for said in after[family].values() for who in said} == {"worker2"}
    lab.playbook("edgewire.fleet.site")
    for vip in FAMILIES.values():
        assert {who for said in ask(lab, vip, 46_200, 24).values() for who in said} == set(WORKERS)


def test_direct_replies_leave_by_the_workers_own_uplink(lab: Lab, variables: Variables) -> None:
    lab.playbook("edgewire.fleet.site", *variables(lambda service: service.update(reply="direct")))
    for vip in FAMILIES.values():
        script = f"timeout 20 tcpdump -n -l -i eth0 -c 1 'udp and src host {vip} and src port 53' 2>/dev/null"
        seen: dict[str, str] = {}

        def watch(worker: str, script: str = script, seen: dict[str, str] = seen) -> None:
            seen[worker] = lab.run(worker, "sh", "-c", script, check=False).stdout

        threads = [threading.Thread(target=watch, args=(worker,)) for worker in WORKERS]
        for thread in threads:
            thread.start()
        answered = set()
        while any(thread.is_alive() for thread in threads):
            answered.add(answer(lab, name="whoami.edge.example", kind="TXT", vip=vip))
        assert answered == {'"worker1"', '"worker2"'}
        assert all(vip in line for line in seen.values()), seen
    services = told_by(lab, "edge1", "forwarder_stats_info")["edge"]["services"]
    before = {service["vip"]: service["counters"]["out_packets"] for service in services}
    assert answer(lab)
    services = told_by(lab, "edge1", "forwarder_stats_info")["edge"]["services"]
    assert {service["vip"]: service["counters"]["out_packets"] for service in services} == before


def on_one_worker(worker: str, *former: str) -> Callable[[dict[str, Any]], None]:
    """Let one named backend serve dns, on a worker, which it came to from others."""

    def change(service: dict[str, Any]) -> None:
        (backend,) = [item for item in service["backends"] if item["worker"] == worker]
        service["backends"] = [{**backend, "name": "resolver", "moved_from": list(former)}]

    return change


def test_an_edge_that_knows_nothing_of_a_move_still_serves(lab: Lab, variables: Variables) -> None:
    """The former worker sends its packets on to the new one, and the replies back, until a run reaches the edge."""

    def sent_on() -> dict[str, int]:
        told = told_by(lab, "worker1", "forwarder_stats_info")["worker"]["events"]
        return {entry["event"]: entry["packets"] for entry in told}

    lab.playbook("edgewire.fleet.site", *variables(on_one_worker("worker1")))
    lab.switch("edge2")
    try:
        for vip in FAMILIES.values():
            assert {who for said in ask(lab, vip, 47_000, 8).values() for who in said} == {"worker1"}
        before = sent_on()
        moved = variables(on_one_worker("worker2", "worker1"))
        lab.playbook("edgewire.fleet.site", "--limit", "all:!edge2", *moved)
        for vip in FAMILIES.values():
            assert {who for said in ask(lab, vip, 47_000, 8).values() for who in said} == {"worker2"}
        during = sent_on()
        assert {name: during[name] - before.get(name, 0) for name in ("forwarded", "passed_back")} == {
            "forwarded": 16,
            "passed_back": 16,
        }
        told = told_by(lab, "edge2", "forwarder_map_info")["edge"]["services"]
        assert {b["worker"] for s in told if s["name"] == "dns" for b in s["backends"]} == {"worker1"}, "it is stale"
        told_moved = told_by(lab, "worker1", "forwarder_map_info")["worker"]["moved"]
        assert {(entry["vip"], entry["moved_to"]) for entry in told_moved} == {
            (vip, "worker2") for vip in FAMILIES.values()
        }
        lab.playbook("edgewire.fleet.site", *moved)
        lab.playbook("edgewire.fleet.verify", *moved)
        for vip in FAMILIES.values():
            assert {who for said in ask(lab, vip, 47_000, 8).values() for who in said} == {"worker2"}
        assert sent_on() == during, "once it knows, straight there"
    finally:
        lab.switch("edge1")
        lab.playbook("edgewire.fleet.site")
