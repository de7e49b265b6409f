# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the boxes counted, asked for in the way in which an operator asks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .support import CLIENTS, CLIENTS6, DNS_VIP, DNS_VIP6, WORKERS, answer, told_by, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]


def dns_of(entries: list[dict[str, Any]], vip: str) -> dict[str, Any]:
    """The one entry of a VIP."""
    (entry,) = [entry for entry in entries if entry["vip"] == vip]
    return entry


def packets(entry: dict[str, Any]) -> tuple[int, int]:
    """In and out."""
    return entry["counters"]["in_packets"], entry["counters"]["out_packets"]


@pytest.mark.parametrize("vip", [DNS_VIP, DNS_VIP6])
def test_edge_and_workers_agree_about_a_services_packets(lab: Lab, vip: str) -> None:
    """Of every backend: what the edge sent to it and got from it is what its worker got and sent."""

    def on_edge() -> dict[str, tuple[int, int]]:
        service = dns_of(told_by(lab, "edge1", "forwarder_stats_info")["edge"]["services"], vip)
        assert service["name"] == "dns"
        found = {backend["worker"]: packets(backend) for backend in service["backends"]}
        return {**found, "all": packets(service)}

    def on_workers() -> dict[str, tuple[int, int]]:
        told = {worker: told_by(lab, worker, "forwarder_stats_info")["worker"]["endpoints"] for worker in WORKERS}
        found = {worker: packets(dns_of(endpoints, vip)) for worker, endpoints in told.items()}
        return {**found, "all": tuple(sum(column) for column in zip(*found.values(), strict=True))}  # type: ignore[dict-item]

    before = on_edge(), on_workers()
    for _ in range(12):
        assert answer(lab, name="whoami.edge.example", kind="TXT", vip=vip)
    after = on_edge(), on_workers()
    grown = [
        {name: tuple(n - o for n, o in zip(now[name], old[name], strict=True)) for name in now}
        for now, old in zip(after, before, strict=True)
    ]
    assert grown[0] == grown[1]
    assert grown[0]["all"] == (12, 12)
    assert set(grown[0]) == {*WORKERS, "all"}


def test_rates_and_every_reason_on_request(lab: Lab) -> None:
    told = told_by(lab, "edge1", "forwarder_stats_info", "-a", "interval=0.2 every_reason=true")
    assert {"counters", "rates"} < set(dns_of(told["edge"]["services"], DNS_VIP))
    assert "no_backend" in {drop["reason"] for drop in told["edge"]["drops"]}
    assert told["worker"] is None


@contextmanager
def forging(lab: Lab, vip: str) -> Iterator[None]:
    """client1 sends packets with a relay option of its own making for as long as the block runs."""
    send = f"""
import select, socket, sys
v6 = ":" in "{vip}"
with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as client:
    if v6:  # the kernel fills in the first byte, the next header
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 2, 0x5E, 20]) + bytes(20))
    else:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([158, 12, 1, 0]) + bytes(8))
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        client.sendto(b"forged", ("{vip}", 53))
"""
    command = [lab.root / "lab/run", "client1", "python3", "-c", send]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
        yield
        assert sender.poll() is None, sender.communicate()[1].decode()
        sender.communicate()  # its input ends, and so does it


@pytest.mark.parametrize(
    ("vip", "sender"),
    [(DNS_VIP, f" IP {CLIENTS['client1']}."), (DNS_VIP6, f" IP6 {CLIENTS6['client1']} ")],
    ids=["IPv4", "IPv6"],
)
def test_a_forged_packet_is_caught_with_the_reason(lab: Lab, vip: str, sender: str) -> None:
    path = "/root/drops.pcapng"
    options = f"dest={path} reasons=relay_from_outside count=3 seconds=60"
    try:
        with forging(lab, vip):
            told = told_by(lab, "edge1", "forwarder_capture", "-a", options)
        assert (told["packets"], told["reasons"]) == (3, {"relay_from_outside": 3})
        shown = lab.run("edge1", "tcpdump", "-n", "-r", path).stdout.splitlines()
        assert len(shown) == 3
        assert all(sender in line and f" > {vip}" in line for line in shown), shown
        assert "relay_from_outside: " in lab.run("edge1", "cat", "-v", path).stdout
        assert lab.run("edge1", "stat", "-c", "%a", path).stdout == "600\n"
    finally:
        lab.run("edge1", "rm", "-f", path)


METRICS = "/var/lib/prometheus/node-exporter/edgewire.prom"
TIMER = "edgewire-metrics.timer"


def metrics_of(lab: Lab, box: str) -> dict[tuple[str, frozenset[str]], float]:
    """What the box's timer has written, by name and label values; empty while there is nothing."""
    written = lab.run(box, "cat", METRICS, check=False)
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(written.stdout)
        for sample in family.samples
    }


def test_boxes_write_metrics_by_themselves_and_no_more_when_not_asked(lab: Lab) -> None:
    boxes = ("edge1", "worker1")
    for box in boxes:
        lab.run(box, "mkdir", "-p", METRICS.rpartition("/")[0])
    wanted = ("-e", f"edgewire_metrics_file={METRICS}", "-e", "edgewire_metrics_seconds=5")
    lab.playbook("edgewire.fleet.site", *wanted)
    for box in boxes:
        until(lambda box=box: bool(metrics_of(lab, box)), 30)
    asked = ("edgewire_service_packets_total", frozenset({"dns", DNS_VIP, "53", "in"}))
    before = metrics_of(lab, "edge1")[asked]
    for _ in range(5):
        assert answer(lab, vip=DNS_VIP)
    until(lambda: metrics_of(lab, "edge1")[asked] == before + 5, 30)
    assert metrics_of(lab, "worker1")["edgewire_programs_attached", frozenset({"worker"})] == 1
    assert metrics_of(lab, "edge1")[
        "edgewire_wireguard_last_handshake_timestamp_seconds", frozenset({"wg0", "worker1"})
    ]

    assert lab.playbook("edgewire.fleet.verify", *wanted, check=False).returncode == 0
    lab.run("edge1", "systemctl", "stop", TIMER)
    verdict = lab.playbook("edgewire.fleet.verify", *wanted, "--limit", "edge1", check=False)
    assert verdict.returncode != 0
    assert f"unit {TIMER}" in verdict.stdout

    lab.playbook("edgewire.fleet.site")
    for box in boxes:
        assert lab.run(box, "systemctl", "is-active", TIMER, check=False).stdout.strip() == "inactive"
        assert lab.run(box, "ls", METRICS, check=False).returncode != 0
