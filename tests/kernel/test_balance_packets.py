# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that come, go, die and move, packet in and packet out, on the real programs of both roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    contents,
    edge_state,
    forwarder,
    info,
    layout,
    map_io,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BOX_MAC,
    BRIDGE_MAC,
    CLIENT_MAC,
    CONTAINER_MAC,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    EDGE_PARAMS,
    V4,
    V6,
    WORKER_PARAMS,
    XDP_DROP,
    XDP_PASS,
    Box,
    Net,
    Programs,
    Watch,
    Wire,
    WorkerBox,
    backend_of,
    build_of,
    cut,
    datagram,
    desired,
    flow_hash,
    forget,
    frame,
    make_edge_interfaces,
    make_worker_interfaces,
    relay_packet,
    translated,
    tunnel_of,
    udp_checksum_of,
    wrapped,
)

if TYPE_CHECKING:
    from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SPORT, PORT = 40_000, 8080
ON = {1: "worker1", 2: "worker1", 3: "worker2", 4: "worker2"}
MARK_AND_ETHERNET = 4 + 14


def pool(net: Net, weights: dict[int, int] | None = None, *, by_client: bool = False) -> ServiceWanted:
    """Four backends, two on each worker."""
    weights = weights or {1: 1, 2: 1, 3: 1, 4: 1}
    backends = tuple(BackendWanted(net.id(n), ON[n], weight) for n, weight in weights.items())
    return ServiceWanted("pool", net.vip(80), PORT, PORT, backends, by_client)


def pools(**more: bool) -> tuple[ServiceWanted, ServiceWanted]:
    """The same for both families."""
    return pool(V4, **more), pool(V6, **more)


def send(edge: Programs, net: Net, sport: int) -> bytes | None:
    """What the edge makes of a client's packet to the pool, from the IP header on; None where it is dropped."""
    run = edge.run("edge_xdp", frame(datagram(net.client, net.vip(80), sport, PORT, b"")))
    assert run.retval in (XDP_PASS, XDP_DROP)
    return run.data[MARK_AND_ETHERNET:] if run.retval == XDP_PASS else None


def endpoint_in(net: Net, relay: bytes | None) -> int:
    """The number of the backend in a relay packet."""
    assert relay is not None
    return int.from_bytes(relay[net.header + 4 : net.header + 8], "big") - net.base_id


def probed(net: Net, service: ServiceWanted, sport: int, dead: set[int]) -> int:
    """The backend that a flow must go to: the first along the table that lives."""
    table = service.table
    place = flow_hash(net.client, sport, PORT, by_client=service.by_client) * len(table) >> 32
    while table[place] - net.base_id in dead:
        place = (place + 1) % len(table)
    return table[place] - net.base_id


# --- Dead workers ----------------------------------------------------------------------------------------------------


def test_the_flows_of_a_dead_worker_go_to_the_others_at_once(edge_programs: Programs, net: Net) -> None:
    """No table changes, what was on the other worker stays there, and what moves spreads over its backends."""
    edge_programs.fill_edge(*pools())
    ports = range(1024, 1624)
    before = {sport: endpoint_in(net, send(edge_programs, net, sport)) for sport in ports}
    edge_programs.fill_edge(*pools(), dead=frozenset({"worker1"}))
    moved = Counter[int]()
    for sport in ports:
        relay = send(edge_programs, net, sport)
        chosen = endpoint_in(net, relay)
        assert chosen == probed(net, pool(net), sport, dead={1, 2})
        assert relay == wrapped(
            datagram(net.client, net.vip(80), sport, PORT, b""),
            net.edge_relay,
            net.worker2_relay,
            net.id(chosen),
            net.client,
            63,
        )
        if before[sport] in (3, 4):
            assert chosen == before[sport]
        else:
            moved[chosen] += 1
    assert min(moved[3], moved[4]) > sum(moved.values()) / 3
    edge_programs.fill_edge(*pools())
    assert {sport: endpoint_in(net, send(edge_programs, net, sport)) for sport in ports} == before


def test_the_end_of_the_table_is_followed_by_its_beginning(edge_programs: Programs, net: Net) -> None:
    """The worker that has the last place dies: its flows there find the first place that is another's."""
    table = pool(net).table
    dead = {n for n, worker in ON.items() if worker == ON[table[-1] - net.base_id]}
    edge_programs.fill_edge(*pools(), dead=frozenset(ON[n] for n in dead))
    tail = len(table)
    while table[tail - 1] - net.base_id in dead:
        tail -= 1
    sport = next(s for s in range(1, 65_536) if flow_hash(net.client, s, PORT) * len(table) >> 32 >= tail)
    chosen = endpoint_in(net, send(edge_programs, net, sport))
    assert chosen == next(eid - net.base_id for eid in table if eid - net.base_id not in dead)


def expect_edge_drop(edge: Programs, net: Net, reason: str, sport: int = SPORT) -> None:
    """A client's packet is dropped for one reason, and nothing else is counted."""
    watch = Watch(edge.maps)
    assert send(edge, net, sport) is None
    assert (watch.change().drops, watch.change().stats) == ({reason: 1}, {})


def test_no_worker_lives(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(*pools(), dead=frozenset({"worker1", "worker2"}))
    expect_edge_drop(edge_programs, net, "no_backend")


def worker_slot(edge: Programs, name: str) -> bytes:
    """The key of a worker's entry."""
    relay = {"worker1": V4.worker_relay, "worker2": V4.worker2_relay}[name]
    found = edge_state.read(edge.maps).workers.items()
    return layout.U32.pack({"value": next(slot for slot, record in found if record["relay"] == relay)})


def test_a_removed_worker_has_a_reason_of_its_own(edge_programs: Programs, net: Net) -> None:
    """Also where another one is dead: a flow never ends at an entry that is not there."""
    edge_programs.fill_edge(*pools())
    edge_programs.put("ew_workers", worker_slot(edge_programs, "worker1"), bytes(layout.WORKER.size))
    table = pool(net).table
    on_first = [s for s in range(1024, 1424) if backend_of(table, net.client, s, PORT) - net.base_id in (1, 2)]
    for sport in on_first[:5]:
        expect_edge_drop(edge_programs, net, "unknown_worker", sport)
    edge_programs.fill_edge(*pools(), dead=frozenset({"worker2"}))
    edge_programs.put("ew_workers", worker_slot(edge_programs, "worker1"), bytes(layout.WORKER.size))
    other = next(s for s in range(1024, 1424) if s not in on_first)
    expect_edge_drop(edge_programs, net, "no_backend", other)


def test_a_backend_whose_worker_is_outside_the_map(edge_programs: Programs, net: Net) -> None:
    service = ServiceWanted("one", net.vip(80), PORT, PORT, (BackendWanted(net.id(1), "worker1", 1),))
    edge_programs.fill_edge(service)
    ((slot, record),) = edge_state.read(edge_programs.maps).backends.items()
    beyond = layout.BACKEND.pack({**record, "worker": 0xFFFFFFFF})
    edge_programs.put("ew_backends", layout.U32.pack({"value": slot}), beyond)
    expect_edge_drop(edge_programs, net, "unknown_worker")


def test_replies_of_a_dead_worker_still_come_through(edge_box: Box, net: Net) -> None:
    """What it sent before it died, or sends where only the way to it is broken, is right all the same."""
    params = deepcopy(EDGE_PARAMS)
    params["workers"][0]["state"] = "dead"
    contents.ensure("edge", params)
    reply = datagram(net.dns_vip, net.client, 53, SPORT)
    watch = edge_box.watch()
    edge_box.tun.write(relay_packet(net.worker2_relay, net.edge_relay, net.dns_endpoint, net.client, reply))
    edge_box.tun.write(relay_packet(net.worker_relay, net.edge_relay, net.dns_endpoint, net.client, reply))
    assert edge_box.wire.read()[14:] == datagram(net.dns_vip, net.client, 53, SPORT, ttl=62)
    assert watch.change().drops == {"wrong_worker": 1}
    told = info.info("edge")
    assert told is not None
    assert {backend["state"] for service in told["services"] for backend in service["backends"]} == {"dead"}


# --- Direct replies --------------------------------------------------------------------------------------------------


@pytest.fixture
def uplink_box(shared_pins: Path, make_netns: Callable[[], Netns]) -> Iterator[tuple[WorkerBox, Wire]]:
    """A worker with an uplink of its own, at whose far end the client is; replies of "echo" leave there."""
    ns, container, client = make_netns(), make_netns(), make_netns()
    make_worker_interfaces(ns, container)
    make_edge_interfaces(ns, client)
    tun, wire, uplink = (
        tunnel_of(ns, V4.worker_overlay, V6.worker_overlay),
        Wire(container, "eth0"),
        Wire(client, "eth0"),
    )
    params = deepcopy(WORKER_PARAMS)
    params["uplink"] = "eth0"
    for endpoint in params["endpoints"]:
        endpoint["reply"] = "direct" if endpoint["service"] == "echo" else "edge"
    build = build_of("worker")
    with ns:
        forwarder.ensure(desired("worker", build), build)
        contents.ensure("worker", params)
        with map_io.running_maps("worker") as maps:
            assert maps is not None
            forget(maps, "ew_flows")
            yield WorkerBox("worker", ns, tun, wire, maps, container), uplink
    for end in (tun, wire, uplink):
        end.close()


def request(net: Net, **more: object) -> bytes:
    """A relay packet from the edge to "echo"."""
    inner = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, b"query", **more)
    return relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, inner)


def answer(net: Net, payload: bytes = b"answer", **more: object) -> bytes:
    """What the container sends."""
    return datagram(net.container, net.client, ECHO_CONTAINER_PORT, SPORT, payload, **more)


def from_container(packet: bytes) -> bytes:
    """In a frame to the bridge."""
    return frame(packet, source=CONTAINER_MAC, destination=BRIDGE_MAC)


@pytest.mark.parametrize("options", [{}, {"tos": 184, "ttl": 2}, {"options": [b"\x01" * 40]}, {"zero_checksum": True}])
def test_a_direct_reply_leaves_by_the_workers_own_uplink(
    uplink_box: tuple[WorkerBox, Wire], net: Net, options: dict[str, object]
) -> None:
    """Also one whose own options leave no room for a relay option: it needs none."""
    if net.version == 6:
        options = {name: value for name, value in options.items() if name not in ("options", "zero_checksum")}
    box, uplink = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    packet, watch = answer(net, **options), box.watch()
    box.wire.send(from_container(packet))
    sent = translated(
        answer(net, **{**options, "ttl": int(str(options.get("ttl", 64))) - 1}), source=net.echo_vip, sport=ECHO_PORT
    )
    assert uplink.read().hex() == frame(sent, source=BOX_MAC, destination=CLIENT_MAC).hex()
    assert (udp_checksum_of(sent) == b"\0\0") == ("zero_checksum" in options)
    assert (watch.change().drops, watch.change().stats) == ({}, {"out_packets": 1, "out_bytes": len(packet)})


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_fragments_of_a_direct_reply(uplink_box: tuple[WorkerBox, Wire], net: Net, order: tuple[int, ...]) -> None:
    """Each leaves by the uplink, in whatever order they come."""
    box, uplink = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    fragments, watch = cut(answer(net, bytes(range(250)) * 16), 77), box.watch()
    for i in order:
        box.wire.send(from_container(fragments[i]))
    sent = cut(translated(answer(net, bytes(range(250)) * 16, ttl=63), source=net.echo_vip, sport=ECHO_PORT), 77)
    expected = sorted(frame(packet, source=BOX_MAC, destination=CLIENT_MAC).hex() for packet in sent)
    assert sorted(uplink.read().hex() for _ in order) == expected
    counted = {"out_packets": 3, "out_bytes": sum(map(len, fragments))}
    assert (watch.change().drops, watch.change().stats) == ({}, counted)


def test_direct_replies_expire_too(uplink_box: tuple[WorkerBox, Wire], net: Net) -> None:
    box, uplink = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    watch = box.watch()
    box.wire.send(from_container(answer(net, ttl=1)))
    box.wire.send(from_container(answer(net, b"marker")))
    assert uplink.read().endswith(b"marker")
    assert watch.change().drops == {"ttl_expired": 1}


def test_the_way_of_replies_changes_with_the_next_packet(uplink_box: tuple[WorkerBox, Wire], net: Net) -> None:
    """What the plan says now holds for a flow from its next packet on."""
    box, uplink = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    told = info.info("worker")
    assert told is not None
    assert told["uplink"] == "eth0"
    assert {e["container_port"] for e in told["endpoints"] if e["reply"] == "direct"} == {ECHO_CONTAINER_PORT}
    contents.ensure("worker", WORKER_PARAMS)
    box.wire.send(from_container(answer(net)))
    uplink.read()
    box.tun.write(request(net))
    box.wire.read()
    box.wire.send(from_container(answer(net)))
    inner = translated(answer(net), source=net.echo_vip, sport=ECHO_PORT)
    assert box.tun.read() == wrapped(inner, net.worker_relay, net.edge_relay, net.echo_endpoint, net.client, 63)


def test_a_direct_reply_without_an_uplink(uplink_box: tuple[WorkerBox, Wire], net: Net) -> None:
    box, _ = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    (config,) = layout.WORKER_CONFIG.iter_unpack(box.maps["ew_config"].read()[1])
    none = layout.WORKER_CONFIG.pack({**config, "uplink_ifindex": 0})
    map_io.write(box.maps, [("ew_config", layout.U32.pack({}), none)])
    watch = box.watch()
    box.wire.send(from_container(answer(net)))
    box.tun.write(request(net))  # its arrival says that the answer was dealt with
    box.wire.read()
    assert watch.change().drops == {"not_configured": 1}
