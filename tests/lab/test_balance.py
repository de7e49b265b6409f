# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that drain and workers that die under traffic, and replies that leave directly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .support import DNS_VIP, DNS_VIP6, WORKERS, answer, told_by

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

FAMILIES = {"IPv4": DNS_VIP, "IPv6": DNS_VIP6}
# Asks which worker answers, from one socket a port, again and again until a file is there; says who answered each.
ASK = """
import json, os, socket, struct, sys, time
vip, first, count, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
name = b"".join(bytes([len(part)]) + part for part in (b"whoami", b"edge", b"example")) + b"\\0"
sockets = {}
for port in range(first, first + count):
    made = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in vip:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the same ports are in use for IPv4
    made.bind(("", port))
    made.settimeout(2)
    made.connect((vip, 53))
    sockets[port] = made
said = {port: [] for port in sockets}
while True:
    for port, made in sockets.items():
        made.send(struct.pack("!6H", port, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 16, 1))
        try:
            data = made.recv(500)
            said[port].append(next((w for w in ("worker1", "worker2") if w.encode() in data), "?"))
        except TimeoutError:
            said[port].append("lost")
    if stop == "once" or os.path.exists(stop):
        break
    time.sleep(0.2)
print(json.dumps(said))
"""


def ask(lab: Lab, vip: str, first: int, count: int, stop: str = "once") -> dict[str, list[str]]:
    """Source port to the workers that answered, in order."""
    arguments = (vip, str(first), str(count), stop)
    said: dict[str, list[str]] = json.loads(lab.run("client1", "python3", "-c", ASK, *arguments, timeout=300).stdout)
    return said


@contextmanager
def traffic(lab: Lab, first: int, count: int) -> Iterator[dict[str, dict[str, list[str]]]]:
    """Flows of both families that go on for as long as this is open; what they heard is there afterwards."""
    heard: dict[str, dict[str, list[str]]] = {}
    lab.run("client1", "rm", "-f", "/tmp/stop")

    def run(family: str, vip: str) -> None:
        heard[family] = ask(lab, vip, first, count, "/tmp/stop")

    threads = [threading.Thread(target=run, args=item) for item in FAMILIES.items()]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        lab.run("client1", "touch", "/tmp/stop")
        for thread in threads:
            thread.join()
    assert set(heard) == set(FAMILIES)


Variables = Callable[..., tuple[str, str]]


@pytest.fixture
def variables(lab: Lab, tmp_path: Path) -> Variables:
    """Arguments that change the dns service or other variables for one run: ``variables(change, name=value)``."""

    def made(change: Callable[[dict[str, Any]], None] | None = None, **more: Any) -> tuple[str, str]:
        inventory = yaml.safe_load((lab.root / "inventories/lab/group_vars/all/edgewire.yml").read_text())
        services = inventory["edgewire_services"]
        if change:
            change(next(service for service in services if service["name"] == "dns"))
        path = tmp_path / "variables.yml"
        path.write_text(yaml.safe_dump({"edgewire_services": services, **more}))
        return "-e", f"@{path}"

    return made


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
