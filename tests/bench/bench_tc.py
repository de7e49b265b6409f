# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the TC programs take for a packet, beside an empty TC program on the same hook: part of ``make bench``.

A test run's loop cannot undo what these do, and it has no devices without link layer. So they get real packets in
namespaces, through a TUN device in place of WireGuard's, and the kernel's own clock around each run of a program
(BPF_STATS_RUN_TIME) says how long it took. The clock is part of each figure, of the empty program's as well.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator

import bcc
import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import TC_PRIORITY
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BRIDGE_MAC,
    CONTAINER_MAC,
    PORT,
    V4,
    V6,
    Box,
    Net,
    WorkerBox,
    datagram,
    frame,
    relay_packet,
)

pytest_plugins = [f"ansible_collections.edgewire.fleet.tests.kernel.{name}" for name in ("conftest", "bpf_support")]
pytestmark = pytest.mark.kernel

ROUNDS, PACKETS, WARM = 11, 4000, 1000
SPORT = 40_000
_EMPTY = b"""
#include <uapi/linux/pkt_cls.h>

int empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}
"""


@pytest.fixture(autouse=True)
def _stats() -> Iterator[None]:
    """One core, and the kernel measures every run of every BPF program as long as this is open."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    descriptor = bcc.libbcc.lib.bpf_enable_stats(0)
    assert descriptor >= 0, "the kernel does not measure BPF programs"
    yield
    os.close(descriptor)
    os.sched_setaffinity(0, cores)


def spent(program_id: int) -> tuple[int, int]:
    """Nanoseconds and runs of a program so far."""
    shown = json.loads(subprocess.check_output(["bpftool", "-j", "prog", "show", "id", str(program_id)]))
    return shown.get("run_time_ns", 0), shown.get("run_cnt", 0)


def measure(box: Box, interface: str, send: Callable[[], object], name: str) -> None:
    """Print what a program on an interface of the box and an empty one before it take for what ``send`` sends."""
    empty = bcc.BPF(text=_EMPTY).load_func(b"empty", bcc.BPF.SCHED_CLS)
    with box.ns:
        ifindex = socket.if_nametoindex(interface)
        libbpf.tc_attach(ifindex, 1, empty.fd)
        real = libbpf.tc_query(ifindex, TC_PRIORITY[box.role])
    assert real is not None
    programs = {"empty": libbpf.prog_info(empty.fd).id, "real": real}
    times: dict[str, list[float]] = {key: [] for key in programs}
    for _ in range(WARM):
        send()
    for _ in range(ROUNDS):
        before = {key: spent(program) for key, program in programs.items()}
        watch = box.watch()
        for _ in range(PACKETS):
            send()
        for key, program in programs.items():
            time, runs = (now - then for now, then in zip(spent(program), before[key], strict=True))
            assert runs >= PACKETS
            times[key].append(time / runs)
        assert not watch.change().drops
    row = "".join(f"{value:>8.0f}" for value in map(statistics.median, times.values()))
    print(f"\n{name:36}{row}{min(times['empty']):>12.0f}{min(times['real']):>8.0f}", end=" ")


def test_header() -> None:
    """The head of the table."""
    print(f"\nTC programs, ns a packet, 1 flow: {ROUNDS} rounds of {PACKETS} packets; each beside an empty TC program")
    print(f"{'':36}{'empty':>8}{'median':>8}{'empty, min':>12}{'min':>8}", end="")


@pytest.mark.parametrize("net", [V4, V6], ids=["IPv4", "IPv6"])
def test_edge_handoff(edge_box: Box, net: Net) -> None:
    """A request, behind edge_xdp."""
    request = frame(datagram(net.client, net.dns_vip, SPORT, PORT))
    measure(edge_box, "eth0", lambda: edge_box.wire.send(request), f"edge_handoff, IPv{net.version}")


@pytest.mark.parametrize("net", [V4, V6], ids=["IPv4", "IPv6"])
def test_worker_ingress(worker_box: WorkerBox, net: Net) -> None:
    """A request out of WireGuard."""
    inner = datagram(net.client, net.dns_vip, SPORT, PORT)
    request = relay_packet(net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, inner)
    measure(worker_box, "wg0", lambda: worker_box.tun.write(request), f"worker_ingress, IPv{net.version}")


@pytest.mark.parametrize("net", [V4, V6], ids=["IPv4", "IPv6"])
def test_worker_egress(worker_box: WorkerBox, net: Net) -> None:
    """A container's reply, after the request that it answers."""
    inner = datagram(net.client, net.dns_vip, SPORT, PORT)
    worker_box.tun.write(relay_packet(net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, inner))
    packet = datagram(net.container, net.client, PORT, SPORT)
    reply = frame(packet, source=CONTAINER_MAC, destination=BRIDGE_MAC)
    measure(worker_box, "podman0", lambda: worker_box.wire.send(reply), f"worker_egress, IPv{net.version}")


@pytest.mark.parametrize("net", [V4, V6], ids=["IPv4", "IPv6"])
def test_edge_egress(edge_box: Box, net: Net) -> None:
    """A reply out of WireGuard."""
    inner = datagram(net.dns_vip, net.client, PORT, SPORT)
    reply = relay_packet(net.worker_relay, net.edge_relay, net.dns_endpoint, net.client, inner)
    measure(edge_box, "wg0", lambda: edge_box.tun.write(reply), f"edge_egress, IPv{net.version}")
