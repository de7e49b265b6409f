# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of the real programs: per backend, and what a service keeps of those that it had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, edge_state, layout, map_io, statistics
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics import textfile
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BRIDGE_MAC,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    EDGE_PARAMS,
    XDP_PASS,
    Box,
    Net,
    Programs,
    WorkerBox,
    backend_of,
    datagram,
    frame,
    named,
    relay_packet,
)
from prometheus_client.parser import text_string_to_metric_families

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


# --- In human terms --------------------------------------------------------------------------------------------------

FIELDS = ("in_packets", "in_bytes", "out_packets", "out_bytes")


def reading(role: str) -> statistics.Reading:
    """A reading of a role that runs."""
    found = statistics.read(role)
    assert found is not None
    return found


def grown(now: dict[str, Any], before: dict[str, Any]) -> tuple[int, ...]:
    """What the counters of an entry grew by."""
    return tuple(now["counters"][name] - before["counters"][name] for name in FIELDS)


def dropped(told: dict[str, Any]) -> dict[str, int]:
    """Packets by reason."""
    return {entry["reason"]: entry["packets"] for entry in told["drops"]}


def test_an_edge_tells_services_and_backends_each_way(edge_box: Box, plan_file: Path, net: Net) -> None:
    first = reading("edge")
    there = datagram(net.client, net.echo_vip, 40_000, ECHO_PORT, b"there")
    back = datagram(net.echo_vip, net.client, ECHO_PORT, 40_000, b"and back")
    for _ in range(2):
        edge_box.wire.send(frame(there))
        edge_box.tun.read()
    edge_box.tun.write(relay_packet(net.worker_relay, net.edge_relay, net.echo_endpoint, net.client, back))
    edge_box.wire.read()
    edge_box.wire.send(frame(datagram(net.client, net.echo_vip, 40_000, ECHO_PORT, ttl=1)))
    edge_box.wire.send(frame(there))  # behind the one that is dropped, so that that was counted
    edge_box.tun.read()
    before, now = statistics.tell(first), statistics.tell(reading("edge"))
    old, echo = (named(told["services"], net.echo_vip) for told in (before, now))
    expected = (3, 3 * len(there), 1, len(back))
    assert grown(echo, old) == expected
    (backend,), (old_backend,) = echo.pop("backends"), old["backends"]
    assert grown(backend, old_backend) == expected
    del backend["counters"], echo["counters"]
    relay = net.worker_relay
    assert backend == {"endpoint_id": net.echo_endpoint, "worker": "worker1", "worker_relay_address": relay}
    assert echo == {"name": "echo", "vip": net.echo_vip, "ports": str(ECHO_PORT), "protocol": "udp", "filter": None}
    dns = [named(told["services"], net.dns_vip) for told in (now, before)]
    assert grown(dns[0], dns[1]) == (0, 0, 0, 0)
    assert dropped(now)["ttl_expired"] - dropped(before).get("ttl_expired", 0) == 1
    assert statistics.gather(0, every_reason=False)["worker"] is None


def test_a_worker_tells_its_endpoints_each_way(worker_box: WorkerBox, plan_file: Path, net: Net) -> None:
    before = statistics.tell(reading("worker"))
    there = datagram(net.client, net.echo_vip, 40_000, ECHO_PORT, b"there")
    worker_box.tun.write(relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, there))
    worker_box.wire.read()
    back = datagram(net.container, net.client, ECHO_CONTAINER_PORT, 40_000, b"and back")
    worker_box.wire.send(frame(back, destination=BRIDGE_MAC))
    worker_box.tun.read()
    now = statistics.tell(reading("worker"))
    old, echo = (named(told["endpoints"], net.echo_vip) for told in (before, now))
    assert grown(echo, old) == (1, len(there), 1, len(back))
    del echo["counters"]
    assert echo == {
        "endpoint_id": net.echo_endpoint,
        "service": "echo",
        "vip": net.echo_vip,
        "ports": str(ECHO_PORT),
        "protocol": "udp",
        "container_address": net.container,
        "container_port": ECHO_CONTAINER_PORT,
    }


def test_rates_are_the_difference_of_two_readings_a_second(edge_box: Box, net: Net) -> None:
    first = reading("edge")
    query = datagram(net.client, net.echo_vip, 40_000, ECHO_PORT)
    for _ in range(5):
        edge_box.wire.send(frame(query))
        edge_box.tun.read()
    told = statistics.tell(replace(reading("edge"), when=first.when + 2), first, every_reason=True)
    echo = named(told["services"], net.echo_vip)
    expected = {"in_packets": 2.5, "in_bytes": 2.5 * len(query), "out_packets": 0, "out_bytes": 0}
    assert echo["rates"] == expected
    assert echo["backends"][0]["rates"] == expected
    assert {entry["reason"]: (entry["explanation"], entry["rate"]) for entry in told["drops"]} == {
        reason: (text, 0) for reason, text in layout.DROP_REASONS.items()
    }


def test_only_with_an_interval_are_there_rates(edge_box: Box) -> None:
    assert "rates" in statistics.gather(0.01, every_reason=False)["edge"]["services"][0]
    assert "rates" not in statistics.gather(0, every_reason=False)["edge"]["services"][0]


def test_a_counter_that_started_afresh_did_so_at_zero() -> None:
    assert statistics.rates_of({"in_packets": 4}, {"in_packets": 10}, 2.0) == {"in_packets": 2.0}
    assert statistics.rates_of({"in_packets": 4}, {}, 2.0) == {"in_packets": 2.0}


def test_what_a_filter_refuses_is_told_with_its_services(edge_box: Box, net: Net) -> None:
    denied = {"service": "echo", "allow": [], "deny": [net.client]}
    contents.ensure("edge", {**EDGE_PARAMS, "filters": [denied]})
    first = reading("edge")
    for port in (ECHO_PORT, ECHO_PORT, 53):
        vip = net.echo_vip if port == ECHO_PORT else net.dns_vip
        edge_box.wire.send(frame(datagram(net.client, vip, 40_000, port)))
    edge_box.tun.read()  # the DNS query, sent last
    told = statistics.tell(replace(reading("edge"), when=first.when + 2), first)
    echo, dns = (named(told["services"], vip) for vip in (net.echo_vip, net.dns_vip))
    assert echo["filter"] == {
        "counters": {"source_denied": 2, "source_rate": 0, "service_rate": 0},
        "rates": {"source_denied": 1.0, "source_rate": 0, "service_rate": 0},
    }
    assert dns["filter"] is None


def test_metrics_are_what_the_programs_counted(edge_box: Box, plan_file: Path, tmp_path: Path, net: Net) -> None:
    file = tmp_path / "edgewire.prom"

    def written() -> dict[tuple[str, frozenset[str]], float]:
        assert textfile.write(file)
        assert file.stat().st_mode & 0o777 == 0o644  # node_exporter is another user
        families = text_string_to_metric_families(file.read_text())
        return {(s.name, frozenset(s.labels.values())): s.value for family in families for s in family.samples}

    before = written()
    assert not textfile.write(file)
    for ttl in (64, 1):
        edge_box.wire.send(frame(datagram(net.client, net.echo_vip, 40_000, ECHO_PORT, ttl=ttl)))
    edge_box.wire.send(frame(datagram(net.client, net.dns_vip, 40_000, 53)))
    edge_box.tun.read()
    now = written()
    echo = {"echo", net.echo_vip, str(ECHO_PORT), "in"}
    grown = {key: value - before[key] for key, value in now.items() if value != before[key]}
    assert {key: count for key, count in grown.items() if "bytes" not in key[0] and "dns" not in key[1]} == {
        ("edgewire_service_packets_total", frozenset(echo)): 1,
        ("edgewire_backend_packets_total", frozenset({*echo, "worker1", str(net.echo_endpoint)})): 1,
        ("edgewire_dropped_packets_total", frozenset({"edge", "ttl_expired"})): 1,
        ("edgewire_events_total", frozenset({"edge", "time_exceeded_sent"})): 1,
    }
    assert now.keys() == before.keys()
