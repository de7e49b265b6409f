# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of the real programs: per backend, and what a service keeps of those that it had."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    XDP_PASS,
    Net,
    Programs,
    backend_of,
    datagram,
    frame,
)

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

PORT, RANGE = 8080, (10_001, 19_998)


def service(net: Net, number: int, *backends: int, ports: tuple[int, int] = (PORT, PORT)) -> ServiceWanted:
    """A service whose backends are all of the same weight."""
    wanted = tuple(BackendWanted(net.id(n), "worker1", 1) for n in backends)
    return ServiceWanted(f"service{number}", net.vip(number), *ports, wanted)


def counted(edge: Programs, net: Net, *backends: int) -> dict[int, tuple[int, int]]:
    """Packets and bytes in, by the number of the backend."""
    state = edge_state.read(edge.maps)
    slots = {n: state.endpoints[net.id(n)] for n in backends}
    counters = map_io.counters_of(edge.maps, "ew_stats", slots.values())
    told = {n: counters.of(slot) for n, slot in slots.items()}
    return {n: (told[n]["in_packets"], told[n]["in_bytes"]) for n in backends}


def retired(edge: Programs, wanted: ServiceWanted) -> dict[str, int]:
    """What a service keeps of backends that are gone."""
    record = edge_state.read(edge.maps).entries[edge_state.entries_of(wanted.claim)[0]]
    counters = map_io.counters_of(edge.maps, "ew_retired", [record["retired_index"]])
    return counters.of(record["retired_index"])


def send(edge: Programs, net: Net, wanted: ServiceWanted, payload: bytes, **more: Any) -> int:
    """A packet of a client to a service; its length."""
    packet = datagram(net.client, wanted.vip, more.get("sport", 1), more.get("port", wanted.port), payload)
    assert edge.run("edge_xdp", frame(packet)).retval == XDP_PASS
    return len(packet)


@pytest.fixture
def edge(edge_programs: Programs) -> Programs:
    """The edge's programs without a service, so that every slot is free."""
    edge_programs.fill_edge()
    return edge_programs


def test_every_backend_has_its_own_counters(edge: Programs, net: Net) -> None:
    pool, ranged = service(net, 1, 11, 12), service(net, 2, 21, ports=RANGE)
    edge.fill_edge(pool, ranged)
    packets = {11: [0, 0], 12: [0, 0]}
    for sport in range(1, 33):
        number = backend_of(pool.table, net.client, sport, PORT) - net.id(0)
        packets[number][0] += 1
        packets[number][1] += send(edge, net, pool, bytes(sport), sport=sport)
    assert packets[11][0] > 0
    assert packets[12][0] > 0
    sent = sum(send(edge, net, ranged, b"", port=port) for port in (10_001, 15_000, 19_998))  # three prefixes
    assert counted(edge, net, 11, 12, 21) == {**{n: tuple(p) for n, p in packets.items()}, 21: (3, sent)}


def test_a_backend_that_goes_leaves_its_counts_to_the_service(edge: Programs, net: Net) -> None:
    pool = service(net, 1, 11, 12)
    edge.fill_edge(pool, service(net, 2, 21))
    for sport in range(1, 33):
        send(edge, net, pool, b"query", sport=sport)
    before = counted(edge, net, 11, 12)
    assert retired(edge, pool)["in_packets"] == 0

    pool = service(net, 1, 12, 13)
    edge.fill_edge(pool, service(net, 2, 21))
    assert counted(edge, net, 12) == {12: before[12]}, "who stays counts on"
    expected = {"in_packets": before[11][0], "in_bytes": before[11][1], "out_packets": 0, "out_bytes": 0}
    assert retired(edge, pool) == expected

    pool = service(net, 1, 14)  # in a slot that somebody counted in
    edge.fill_edge(pool, service(net, 2, 21))
    assert counted(edge, net, 14, 21) == {14: (0, 0), 21: (0, 0)}
    assert retired(edge, pool)["in_packets"] == 32


def test_a_new_service_starts_at_zero_where_another_was(edge: Programs, net: Net) -> None:
    old = service(net, 1, 11, 12)
    edge.fill_edge(old)
    send(edge, net, old, b"query")
    edge.fill_edge(service(net, 1, 13))
    edge.fill_edge()
    new = service(net, 2, 21)
    edge.fill_edge(new)
    assert counted(edge, net, 21) == {21: (0, 0)}
    assert set(retired(edge, new).values()) == {0}
