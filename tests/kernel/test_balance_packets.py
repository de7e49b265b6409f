# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that come, go, die and move, packet in and packet out, on the real programs of both roles."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    contents,
    edge_state,
    forwarder,
    info,
    layout,
    map_io,
    statistics,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import probe
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    ASK,
    BOX_MAC,
    CLIENT_MAC,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    EDGE2_RELAYS,
    EDGE_PARAMS,
    EDGE_RELAYS,
    FORWARDED,
    FORWARDED_TWICE,
    PLAIN,
    RETURNED,
    UDP_SEGMENT,
    V4,
    V6,
    WORKER2_RELAYS,
    WORKER_PARAMS,
    WORKER_RELAYS,
    XDP_DROP,
    XDP_PASS,
    Box,
    Net,
    Programs,
    Watch,
    Wire,
    WorkerBox,
    addresses_of,
    backend_of,
    build_of,
    container_frame,
    cut,
    datagram,
    desired,
    extended,
    flow_hash,
    forget,
    frame,
    hops_left,
    in_stage,
    ip_checksum_ok,
    make_edge_interfaces,
    make_worker_interfaces,
    packed,
    payload_of,
    ports_of,
    relay_packet,
    relays_of,
    translated,
    tunnel_of,
    udp_checksum_of,
    udp_checksum_ok,
    udp_socket,
    unwrapped,
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


def stage_of(net: Net, relay: bytes) -> int:
    """What a relay packet is on its way for."""
    return (relay[42] - 0x5E) // 32 if net.version == 6 else relay[23]


def fill(box: Box, *services: ServiceWanted, dead: frozenset[str] = frozenset()) -> None:
    """The same for an edge's programs where they are attached."""
    Programs("edge", {}, box.maps, None).fill_edge(*services, dead=dead, interfaces=("wg0", "eth0"))


def counted_events() -> dict[str, int]:
    """What forwarder_stats_info tells of the attached edge's events."""
    told = statistics.gather(0, every_reason=False)["edge"]["events"]
    assert all(entry["explanation"] == layout.EVENTS[entry["event"]] for entry in told)
    return {entry["event"]: entry["packets"] for entry in told}


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
    return layout.U32.of(next(slot for slot, record in found if record["relay"] == relay))


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
    edge_programs.put("ew_backends", layout.U32.of(slot), beyond)
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


# --- Draining: the edge -----------------------------------------------------------------------------------------------

SECOND = 10**9


def draining(net: Net, *drained: int, deadline: int = 600, by_client: bool = False) -> ServiceWanted:
    """The pool while some of its backends drain."""
    backends = tuple(
        BackendWanted(net.id(n), worker, 0, 1) if n in drained else BackendWanted(net.id(n), worker, 1)
        for n, worker in ON.items()
    )
    return ServiceWanted("pool", net.vip(80), PORT, PORT, backends, by_client, drain_deadline=deadline)


def both_draining(*drained: int, **more: Any) -> tuple[ServiceWanted, ServiceWanted]:
    """The same for both families."""
    return draining(V4, *drained, **more), draining(V6, *drained, **more)


def ports_on(net: Net, service: ServiceWanted, backend: int, count: int = 5) -> list[int]:
    """Source ports of flows that a service's table without a drain sends to a backend."""
    table = pool(net).table
    found = (s for s in range(1024, 65_536) if backend_of(table, net.client, s, PORT) == net.id(backend))
    return [next(found) for _ in range(count)]


def to_worker(net: Net, backend: int, sport: int, stage: int = PLAIN, ttl: int = 63) -> bytes:
    """The relay packet by which the edge sends a client's packet to a backend."""
    relay = net.worker_relay if ON[backend] == "worker1" else net.worker2_relay
    packet = datagram(net.client, net.vip(80), sport, PORT, b"")
    return in_stage(wrapped(packet, net.edge_relay, relay, net.id(backend), net.client, ttl), stage)


def returned(net: Net, backend: int, sport: int, ttl: int = 62, payload: bytes = b"", port: int = PORT) -> bytes:
    """The relay packet by which a backend's worker returns a client's packet."""
    relay = net.worker_relay if ON[backend] == "worker1" else net.worker2_relay
    packet = datagram(net.client, net.vip(80), sport, port, payload)
    return in_stage(wrapped(packet, relay, net.edge_relay, net.id(backend), net.client, ttl), RETURNED)


def test_only_flows_whose_backend_may_change_are_asked_for(edge_programs: Programs, net: Net) -> None:
    service = draining(net, 1)
    edge_programs.fill_edge(*both_draining(1))
    asked = 0
    for sport in range(1024, 1624):
        watch = Watch(edge_programs.maps)
        old = backend_of(service.drain_table, net.client, sport, PORT) - net.base_id
        new = backend_of(service.table, net.client, sport, PORT) - net.base_id
        stage = ASK if old != new else PLAIN
        assert send(edge_programs, net, sport) == to_worker(net, old, sport, stage)
        assert watch.change().events == ({"asked": 1} if stage == ASK else {})
        asked += stage == ASK
    assert 600 * 0.2 < asked < 600 * 0.3, "a quarter of the flows, and few that Maglev moves between others"


def test_a_flow_that_was_returned_goes_on_to_its_new_backend(edge_box: Box, net: Net) -> None:
    """And stays there: later packets of it are not asked for again."""
    fill(edge_box, *both_draining(1))
    service, sport = draining(net, 1), ports_on(net, pool(net), 1)[0]
    new = backend_of(service.table, net.client, sport, PORT) - net.base_id
    edge_box.wire.send(frame(datagram(net.client, net.vip(80), sport, PORT, b"")))
    assert edge_box.tun.read() == to_worker(net, 1, sport, ASK)
    watch, before = edge_box.watch(), counted_events()
    edge_box.tun.write(returned(net, 1, sport))
    assert edge_box.tun.read() == to_worker(net, new, sport, ttl=61)
    assert counted_events() == {**before, "moved": before.get("moved", 0) + 1}
    assert (watch.change().events, watch.change().drops, watch.change().stats) == ({"moved": 1}, {}, {})
    edge_box.wire.send(frame(datagram(net.client, net.vip(80), sport, PORT, b"")))
    assert edge_box.tun.read() == to_worker(net, new, sport)
    other = ports_on(net, pool(net), 1)[1]
    edge_box.wire.send(frame(datagram(net.client, net.vip(80), other, PORT, b"")))
    assert edge_box.tun.read() == to_worker(net, 1, other, ASK), "another flow of the same client"


def test_a_later_drain_asks_again(edge_box: Box, net: Net) -> None:
    """A flow that moved may have come to the backend anew, between the two."""
    sport = ports_on(net, pool(net), 1)[0]
    packet = frame(datagram(net.client, net.vip(80), sport, PORT, b""))
    fill(edge_box, *both_draining(1))
    edge_box.tun.write(returned(net, 1, sport))
    edge_box.tun.read()
    for services, stage in ((pools(), PLAIN), (both_draining(1), ASK)):
        fill(edge_box, *services)
        edge_box.wire.send(packet)
        assert edge_box.tun.read() == to_worker(net, 1, sport, stage)


def test_after_the_deadline_nothing_is_asked(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(*pools())
    now = time.monotonic_ns()
    for passed, stage in ((500, ASK), (602, PLAIN)):
        edge_programs.fill_edge(*pools())
        edge_programs.fill_edge(*both_draining(1, deadline=600), now=now - passed * SECOND)
        for sport in ports_on(net, pool(net), 1):
            new = backend_of(draining(net, 1).table, net.client, sport, PORT) - net.base_id
            assert send(edge_programs, net, sport) == to_worker(net, 1 if stage == ASK else new, sport, stage)


def test_a_dead_worker_is_asked_for_nothing(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(*both_draining(1), dead=frozenset({"worker1"}))
    for sport in ports_on(net, pool(net), 1):
        chosen = probed(net, draining(net, 1), sport, dead={1, 2})
        assert send(edge_programs, net, sport) == to_worker(net, chosen, sport)


def test_by_client_it_is_flows_that_stay(edge_programs: Programs, net: Net) -> None:
    """While the service drains, each flow of a client is asked for: its old ones stay, its new ones go elsewhere."""
    edge_programs.fill_edge(*pools(by_client=True))
    edge_programs.fill_edge(*both_draining(1, 2, by_client=True))
    service = draining(net, 1, 2, by_client=True)
    client = next(
        address
        for address in (f"{net.client[:-1]}{n}" for n in range(1, 100))
        if backend_of(service.drain_table, address, 0, 0, by_client=True) in (net.id(1), net.id(2))
        and backend_of(service.table, address, 0, 0, by_client=True) not in (net.id(1), net.id(2))
    )
    stages = set()
    for sport in (5000, 5001):
        run = edge_programs.run("edge_xdp", frame(datagram(client, net.vip(80), sport, PORT, b"")))
        stages.add(stage_of(net, run.data[MARK_AND_ETHERNET:]))
    assert stages == {ASK}


@pytest.mark.parametrize("dead", [frozenset(), frozenset({"worker2"}), frozenset({"worker1", "worker2"})], ids=len)
@pytest.mark.parametrize("drained", [(), (1,), (1, 2, 3)], ids=len)
def test_probes_expect_what_happens(edge_programs: Programs, drained: tuple[int, ...], dead: frozenset[str]) -> None:
    """Drained or dead: the packet that a probe must become is told from the plan alone."""
    services = both_draining(*drained)
    edge_programs.fill_edge(*services, dead=dead)
    workers = {"worker1": WORKER_RELAYS, "worker2": WORKER2_RELAYS}
    wanted = edge_state.EdgeWanted(EDGE_RELAYS, 1, 1, workers, services, dead)
    results = list(probe.run_probes(edge_programs.fds["edge_xdp"], wanted))
    assert [result.right for result in results] == [True, True]
    lives = any(n not in drained and worker not in dead for n, worker in ON.items())
    assert {result.found["verdict"] for result in results} == {"XDP_PASS" if lives else "XDP_DROP"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda n: returned(n, 3, SPORT), None, id="right"),
        pytest.param(lambda n: returned(n, 1, SPORT, ttl=1), "ttl_expired", id="time to live"),
        pytest.param(lambda n: returned(n, 1, SPORT, port=PORT + 1), "no_backend", id="no such service"),
        pytest.param(lambda n: returned(n, 1, SPORT)[: n.header + n.option + 4], "malformed", id="truncated"),
        pytest.param(lambda n: in_stage(returned(n, 1, SPORT), ASK), "bad_option", id="a question"),
        pytest.param(lambda n: in_stage(returned(n, 1, SPORT), 5), "bad_option", id="unknown stage"),
        pytest.param(
            lambda n: in_stage(
                wrapped(
                    datagram(n.client, n.vip(80), SPORT, PORT), n.worker2_relay, n.edge_relay, n.id(1), n.client, 62
                ),
                RETURNED,
            ),
            "wrong_worker",
            id="another worker",
        ),
    ],
)
def test_what_may_be_returned(edge_box: Box, net: Net, make: Callable[[Net], bytes], reason: str | None) -> None:
    fill(edge_box, *both_draining(1, 3))
    watch = edge_box.watch()
    edge_box.tun.write(make(net))
    assert watch.change().drops == ({reason: 1} if reason else {})
    assert watch.change().events == ({} if reason else {"moved": 1})


def test_returned_with_nowhere_to_go(edge_box: Box, net: Net) -> None:
    fill(edge_box, *both_draining(1), dead=frozenset({"worker1", "worker2"}))
    watch = edge_box.watch()
    edge_box.tun.write(returned(net, 1, SPORT))
    assert (watch.change().drops, watch.change().events) == ({"no_backend": 1}, {})


def test_nothing_outside_may_look_like_a_stage(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(*pools())
    for stage in (PLAIN, ASK, RETURNED, 3, 5):
        watch = Watch(edge_programs.maps)
        forged = in_stage(to_worker(net, 1, SPORT), stage)
        assert edge_programs.run("edge_xdp", frame(forged)).retval == XDP_DROP
        assert watch.change().drops == {"relay_from_outside": 1}


# --- Draining: the worker ---------------------------------------------------------------------------------------------


def asked(net: Net, sport: int = SPORT, port: int = ECHO_PORT, **more: Any) -> bytes:
    """A relay packet to "echo" that asks whether the flow is known."""
    inner = datagram(net.client, net.echo_vip, sport, port, b"query")
    return in_stage(relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, inner, **more), ASK)


def expect_returned(box: WorkerBox, net: Net, packet: bytes) -> None:
    """A question is answered with the packet itself, one hop on."""
    watch = box.watch()
    box.tun.write(packet)
    plain = unwrapped(in_stage(packet, PLAIN), net.client, net.echo_vip, hops_left(packet) - 1)
    back = wrapped(plain, net.worker_relay, net.edge_relay, net.echo_endpoint, net.client, hops_left(packet) - 1)
    assert box.tun.read().hex() == in_stage(back, RETURNED).hex()
    assert (watch.change().events, watch.change().drops, watch.change().stats) == ({"returned": 1}, {}, {})


def expect_taken(box: WorkerBox, net: Net, packet: bytes) -> None:
    """A packet reaches the container."""
    watch = box.watch()
    box.tun.write(packet)
    assert box.wire.read()[14:] == datagram(net.client, net.container, SPORT, ECHO_CONTAINER_PORT, b"query", ttl=62)
    assert (watch.change().events, watch.change().drops) == ({}, {})


def test_a_worker_returns_flows_that_it_does_not_know(worker_box: WorkerBox, net: Net) -> None:
    expect_returned(worker_box, net, asked(net))
    expect_taken(worker_box, net, request(net))
    expect_taken(worker_box, net, asked(net))
    expect_returned(worker_box, net, asked(net, sport=SPORT + 1))
    expect_returned(worker_box, net, asked(net, port=ECHO_PORT + 1))


def age(box: WorkerBox, ticks: int) -> None:
    """Let all flows have been silent for longer."""
    keys, values = box.maps["ew_flows"].read()
    size = layout.FLOW_KEY.size
    rows = zip(range(0, len(keys), size), layout.FLOW.iter_unpack(values), strict=True)
    aged = [(keys[at : at + size], {**flow, "last_seen": flow["last_seen"] - ticks & 0xFFFFFFFF}) for at, flow in rows]
    map_io.write(box.maps, [("ew_flows", key, layout.FLOW.pack(flow)) for key, flow in aged])


def test_a_flow_that_was_silent_too_long_is_returned(worker_box: WorkerBox, net: Net) -> None:
    """60 s are 56 ticks. What keeps it alive: a packet either way."""
    expect_taken(worker_box, net, request(net))
    age(worker_box, 54)
    expect_taken(worker_box, net, asked(net))
    age(worker_box, 54)
    worker_box.wire.send(container_frame(answer(net)))
    worker_box.tun.read()
    age(worker_box, 54)
    expect_taken(worker_box, net, asked(net))
    age(worker_box, 58)
    expect_returned(worker_box, net, asked(net))


def test_how_long_is_the_services_to_say(worker_box: WorkerBox, net: Net) -> None:
    params = deepcopy(WORKER_PARAMS)
    for endpoint in params["endpoints"]:
        endpoint["drain_idle"] = 3600
    contents.ensure("worker", params)
    expect_taken(worker_box, net, request(net))
    age(worker_box, 3300)
    expect_taken(worker_box, net, asked(net))


def test_a_flow_of_another_endpoint_is_not_known(worker_box: WorkerBox, net: Net) -> None:
    """The same container port, client and ports, but through another service: its replies would go astray."""
    expect_taken(worker_box, net, request(net))
    keys, values = worker_box.maps["ew_flows"].read()
    (flow,) = layout.FLOW.iter_unpack(values)
    other = layout.FLOW.pack({**flow, "endpoint_id": net.dns_endpoint})
    map_io.write(worker_box.maps, [("ew_flows", keys, other)])
    expect_returned(worker_box, net, asked(net))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda n: in_stage(request(n), RETURNED), "bad_option", id="returned to a worker"),
        pytest.param(lambda n: in_stage(request(n), 5), "bad_option", id="unknown stage"),
    ],
)
def test_questions_that_a_worker_drops(
    worker_box: WorkerBox, net: Net, make: Callable[[Net], bytes], reason: str
) -> None:
    watch = worker_box.watch()
    worker_box.tun.write(make(net))
    assert (watch.change().drops, watch.change().events) == ({reason: 1}, {})


def test_a_question_whose_time_is_up_is_answered(worker_box: WorkerBox, net: Net) -> None:
    watch = worker_box.watch()
    worker_box.tun.write(asked(net, ttl=1))
    assert (watch.change().drops, watch.change().events) == ({"ttl_expired": 1}, {"time_exceeded_sent": 1})


def test_a_question_without_udp(worker_box: WorkerBox) -> None:
    nothing = extended(datagram(V6.client, V6.echo_vip, SPORT, ECHO_PORT), (59, bytes(7)))
    relay = relay_packet(V6.edge_relay, V6.worker_relay, V6.echo_endpoint, V6.client, nothing)
    watch = worker_box.watch()
    worker_box.tun.write(in_stage(relay, ASK))
    assert watch.change().drops == {"not_relayed": 1}


def test_returned_without_udp(edge_box: Box) -> None:
    fill(edge_box, *both_draining(1))
    nothing = extended(datagram(V6.client, V6.vip(80), SPORT, PORT), (59, bytes(7)))
    relay = relay_packet(V6.worker_relay, V6.edge_relay, V6.id(1), V6.client, nothing)
    watch = edge_box.watch()
    edge_box.tun.write(in_stage(relay, RETURNED))
    assert watch.change().drops == {"not_relayed": 1}


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
    box.wire.send(container_frame(packet))
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
        box.wire.send(container_frame(fragments[i]))
    sent = cut(translated(answer(net, bytes(range(250)) * 16, ttl=63), source=net.echo_vip, sport=ECHO_PORT), 77)
    expected = sorted(frame(packet, source=BOX_MAC, destination=CLIENT_MAC).hex() for packet in sent)
    assert sorted(uplink.read().hex() for _ in order) == expected
    counted = {"out_packets": 3, "out_bytes": sum(map(len, fragments))}
    assert (watch.change().drops, watch.change().stats) == ({}, counted)


def expect_at_uplink(net: Net, uplink: Wire, payload: bytes) -> None:
    """What leaves the uplink next is the VIP's answer with this payload, whatever id and flags its kernel chose."""
    data = uplink.read()
    packet = data[14:]
    assert data[:14] == frame(packet, source=BOX_MAC, destination=CLIENT_MAC)[:14]
    assert addresses_of(packet) == packed(net.echo_vip) + packed(net.client)
    assert (ports_of(packet), hops_left(packet)) == ((ECHO_PORT, SPORT), 63)
    assert payload_of(packet) == payload
    assert ip_checksum_ok(packet)
    assert udp_checksum_ok(packet)


@contextmanager
def application_of(box: WorkerBox, net: Net) -> Iterator[socket.socket]:
    """The application of "echo", which the client has asked. The uplink's kernel does what it left to the device."""
    box.ns.run("ethtool", "--offload", "eth0", "tx", "off")
    with udp_socket(box.container, net.container, ECHO_CONTAINER_PORT) as application:
        box.tun.write(request(net))
        assert application.recvfrom(100)[1][:2] == (net.client, SPORT)
        yield application


def test_a_direct_answer_whose_checksum_is_left_to_the_device(uplink_box: tuple[WorkerBox, Wire], net: Net) -> None:
    box, uplink = uplink_box
    with application_of(box, net) as application:
        for payload in (b"", b"odd", b"even", bytes(1452)):
            application.sendto(payload, (net.client, SPORT))
            expect_at_uplink(net, uplink, payload)


@pytest.mark.parametrize("size", [1452, 999, 1])
def test_every_segment_of_a_direct_answer_is_the_vips(uplink_box: tuple[WorkerBox, Wire], net: Net, size: int) -> None:
    """Also of segments that WireGuard could not carry: they do not go that way."""
    box, uplink = uplink_box
    with application_of(box, net) as application:
        watch = box.watch()
        application.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        payload = (bytes(range(250)) * 15)[: size * 40]
        application.sendto(payload, (net.client, SPORT))
        for start in range(0, len(payload), size):
            expect_at_uplink(net, uplink, payload[start : start + size])
        sent = {"out_packets": 1, "out_bytes": net.header + 8 + len(payload)}
        assert (watch.change().drops, watch.change().stats) == ({}, sent), "one packet until the uplink cuts it"


def test_direct_replies_expire_too(uplink_box: tuple[WorkerBox, Wire], net: Net) -> None:
    box, uplink = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    watch = box.watch()
    box.wire.send(container_frame(answer(net, ttl=1)))
    box.wire.send(container_frame(answer(net, b"marker")))
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
    box.wire.send(container_frame(answer(net)))
    uplink.read()
    box.tun.write(request(net))
    box.wire.read()
    box.wire.send(container_frame(answer(net)))
    inner = translated(answer(net), source=net.echo_vip, sport=ECHO_PORT)
    assert box.tun.read() == wrapped(inner, net.worker_relay, net.edge_relay, net.echo_endpoint, net.client, 63)


def test_a_direct_reply_without_an_uplink(uplink_box: tuple[WorkerBox, Wire], net: Net) -> None:
    box, _ = uplink_box
    box.tun.write(request(net))
    box.wire.read()
    (config,) = layout.WORKER_CONFIG.iter_unpack(box.maps["ew_config"].read()[1])
    none = layout.WORKER_CONFIG.pack({**config, "uplink_ifindex": 0})
    map_io.write(box.maps, [("ew_config", layout.U32.of(0), none)])
    watch = box.watch()
    box.wire.send(container_frame(answer(net)))
    box.tun.write(request(net))  # its arrival says that the answer was dealt with
    box.wire.read()
    assert watch.change().drops == {"not_configured": 1}


# --- Backends that moved to another worker ---------------------------------------------------------------------------

WORKERS = [{"name": "worker2", **relays_of(WORKER2_RELAYS)}]
EDGES = [*WORKER_PARAMS["edges"], {"name": "edge2", **relays_of(EDGE2_RELAYS)}]


def echo_moved(to: str = "worker2", **more: Any) -> dict[str, Any]:
    """A worker's plan in which another one has "echo" now; "dns" has stayed."""
    shared = ("endpoint_id", "service", "vip", "port", "last_port")
    moved = [e for e in WORKER_PARAMS["endpoints"] if e["service"] == "echo"]
    return {
        **deepcopy(WORKER_PARAMS),
        "edges": EDGES,
        "workers": WORKERS,
        "endpoints": [e for e in WORKER_PARAMS["endpoints"] if e["service"] != "echo"],
        "moved": [{**{key: endpoint[key] for key in shared}, "moved_to": to} for endpoint in moved],
        **more,
    }


@pytest.fixture
def former_box(worker_box: WorkerBox) -> WorkerBox:
    """worker1, from which "echo" has moved to worker2."""
    contents.ensure("worker", echo_moved())
    return worker_box


def passing(net: Net, source: str, destination: str, inner: bytes, stage: int = PLAIN, ttl: int = 63) -> bytes:
    """A relay packet of "echo" between two relays."""
    return in_stage(relay_packet(source, destination, net.echo_endpoint, net.client, inner, ttl=ttl), stage)


def asked_of_echo(net: Net, sport: int = SPORT) -> bytes:
    """What the client sent."""
    return datagram(net.client, net.echo_vip, sport, ECHO_PORT, b"query")


def answered_by_echo(net: Net, sport: int = SPORT) -> bytes:
    """What the client shall get."""
    return datagram(net.echo_vip, net.client, ECHO_PORT, sport, b"answer")


@pytest.mark.parametrize("options", [{}, {"options": [b"\x01" * 8]}, {"zero_checksum": True}, {"tos": 184}])
def test_a_former_worker_sends_packets_on_and_their_replies_back(
    former_box: WorkerBox, net: Net, options: dict[str, object]
) -> None:
    """To each edge those of its own flows, under the only address from which it takes them."""
    if net.version == 6:
        options = {name: value for name, value in options.items() if name == "tos"}
    box, here, there = former_box, net.worker_relay, net.worker2_relay
    relays, before = {1: net.edge_relay, 2: net.edge2_relay}, counted_worker_events()
    watch = box.watch()
    for n, edge in relays.items():
        inner = datagram(net.client, net.echo_vip, SPORT + n, ECHO_PORT, b"query", **options)
        box.tun.write(passing(net, edge, here, inner))
        assert box.tun.read().hex() == passing(net, here, there, inner, FORWARDED, ttl=62).hex()
    for n, edge in relays.items():
        inner = datagram(net.echo_vip, net.client, ECHO_PORT, SPORT + n, b"answer", **options)
        box.tun.write(passing(net, there, here, inner))
        assert box.tun.read().hex() == passing(net, here, edge, inner, ttl=62).hex()
    bytes_in, bytes_out = (
        2 * len(datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, p, **options)) for p in (b"query", b"answer")
    )
    change = watch.change()
    assert (change.events, change.drops) == ({"forwarded": 2, "passed_back": 2}, {})
    assert change.stats == {"in_packets": 2, "in_bytes": bytes_in, "out_packets": 2, "out_bytes": bytes_out}
    told = counted_worker_events()
    assert {name: told[name] - before.get(name, 0) for name in ("forwarded", "passed_back")} == {
        "forwarded": 2,
        "passed_back": 2,
    }


def counted_worker_events() -> dict[str, int]:
    """What forwarder_stats_info tells of the attached worker's events."""
    told = statistics.gather(0, every_reason=False)["worker"]["events"]
    return {entry["event"]: entry["packets"] for entry in told}


def test_replies_go_to_the_edge_that_the_flow_came_by_last(former_box: WorkerBox, net: Net) -> None:
    for edge in (net.edge_relay, net.edge2_relay):
        former_box.tun.write(passing(net, edge, net.worker_relay, asked_of_echo(net)))
        former_box.tun.read()
    former_box.tun.write(passing(net, net.worker2_relay, net.worker_relay, answered_by_echo(net)))
    expected = passing(net, net.worker_relay, net.edge2_relay, answered_by_echo(net), ttl=62)
    assert former_box.tun.read() == expected


def test_what_has_not_moved_is_delivered(former_box: WorkerBox, net: Net) -> None:
    inner = datagram(net.client, net.dns_vip, SPORT, 53, b"query")
    former_box.tun.write(relay_packet(net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, inner))
    assert former_box.wire.read()[14:] == datagram(net.client, net.container, SPORT, 53, b"query", ttl=62)


def test_the_new_worker_takes_them_and_answers_the_former_one(worker_box: WorkerBox, net: Net) -> None:
    """Here worker1 is the new one."""
    contents.ensure("worker", {**WORKER_PARAMS, "workers": WORKERS})
    for stage in (FORWARDED, FORWARDED_TWICE):
        worker_box.tun.write(passing(net, net.worker2_relay, net.worker_relay, asked_of_echo(net), stage))
        assert worker_box.wire.read()[14:] == datagram(
            net.client, net.container, SPORT, ECHO_CONTAINER_PORT, b"query", ttl=62
        )
    worker_box.wire.send(container_frame(answer(net)))
    reply = passing(net, net.worker_relay, net.worker2_relay, answered_by_echo(net), ttl=63)
    assert worker_box.tun.read() == reply


def test_two_workers_that_name_each_other_soon_stop(worker_box: WorkerBox, net: Net) -> None:
    """One box plays both, so that each step is the program's own."""
    first = echo_moved()
    second = echo_moved("worker1", workers=[{"name": "worker1", **relays_of(WORKER_RELAYS)}])
    second |= relays_of(WORKER2_RELAYS)
    packet, watch = passing(net, net.edge_relay, net.worker_relay, asked_of_echo(net)), worker_box.watch()
    for params in (first, second):
        contents.ensure("worker", params)
        worker_box.tun.write(packet)
        packet = worker_box.tun.read()
    inner = asked_of_echo(net)
    assert packet == passing(net, net.worker2_relay, net.worker_relay, inner, FORWARDED_TWICE, ttl=61)
    contents.ensure("worker", first)
    worker_box.tun.write(packet)
    assert (watch.change().drops, watch.change().events) == ({"too_many_hops": 1}, {"forwarded": 2})


def test_a_question_about_what_moved_is_returned(former_box: WorkerBox, net: Net) -> None:
    """Also of a flow that was sent on: whoever asks has other backends for it."""
    former_box.tun.write(request(net))
    former_box.tun.read()
    expect_returned(former_box, net, asked(net))


def test_fragments_of_requests_go_on(former_box: WorkerBox, net: Net) -> None:
    """A later one alone as well: where it goes depends on no port."""
    fragments = cut(datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, bytes(range(250)) * 16), 77)
    watch = former_box.watch()
    for part in fragments[::-1]:
        former_box.tun.write(passing(net, net.edge_relay, net.worker_relay, part))
        expected = passing(net, net.worker_relay, net.worker2_relay, part, FORWARDED, ttl=62)
        assert former_box.tun.read().hex() == expected.hex()
    assert (watch.change().events, watch.change().drops) == ({"forwarded": len(fragments)}, {})


def test_of_a_fragmented_reply_only_the_first_part_finds_its_edge(former_box: WorkerBox, net: Net) -> None:
    former_box.tun.write(request(net))
    former_box.tun.read()
    first, *rest = cut(datagram(net.echo_vip, net.client, ECHO_PORT, SPORT, bytes(range(250)) * 16), 77)
    watch = former_box.watch()
    former_box.tun.write(passing(net, net.worker2_relay, net.worker_relay, first))
    assert former_box.tun.read() == passing(net, net.worker_relay, net.edge_relay, first, ttl=62)
    for part in rest:
        former_box.tun.write(passing(net, net.worker2_relay, net.worker_relay, part))
    assert (watch.change().events, watch.change().drops) == ({"passed_back": 1}, {"no_way_back": len(rest)})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(
            lambda n: passing(n, n.worker2_relay, n.worker_relay, answered_by_echo(n, SPORT + 1)),
            "no_way_back",
            id="reply of a flow that is not known",
        ),
        pytest.param(
            lambda n: passing(n, n.edge_relay, n.worker_relay, asked_of_echo(n), FORWARDED_TWICE),
            "too_many_hops",
            id="sent on twice",
        ),
        pytest.param(
            lambda n: passing(n, n.edge_relay, n.worker_relay, asked_of_echo(n), RETURNED),
            "bad_option",
            id="returned",
        ),
        pytest.param(
            lambda n: passing(n, n.edge_relay, n.worker_relay, asked_of_echo(n), ttl=1),
            "ttl_expired",
            id="request's time to live",
        ),
        pytest.param(
            lambda n: passing(n, n.worker2_relay, n.worker_relay, answered_by_echo(n), ttl=1),
            "ttl_expired",
            id="reply's time to live",
        ),
        pytest.param(
            lambda n: passing(n, n.vip(99), n.worker_relay, answered_by_echo(n)),
            "unknown_edge",
            id="from nobody that is known",
        ),
        pytest.param(
            lambda n: passing(n, n.edge_relay, n.worker_relay, asked_of_echo(n))[: n.header + n.option + 4],
            "malformed",
            id="truncated request",
        ),
        pytest.param(
            lambda n: passing(n, n.worker2_relay, n.worker_relay, answered_by_echo(n))[: n.header + n.option + 4],
            "malformed",
            id="truncated reply",
        ),
    ],
)
def test_what_a_former_worker_drops(former_box: WorkerBox, net: Net, make: Callable[[Net], bytes], reason: str) -> None:
    former_box.tun.write(request(net))
    former_box.tun.read()
    watch = former_box.watch()
    former_box.tun.write(make(net))
    assert (watch.change().drops, watch.change().events) == ({reason: 1}, {})


def test_a_reply_of_another_endpoint_of_the_same_vip(former_box: WorkerBox, net: Net) -> None:
    """A flow belongs to the endpoint that it was sent on for."""
    former_box.tun.write(request(net))
    former_box.tun.read()
    keys, values = former_box.maps["ew_flows"].read()
    (flow,) = layout.FLOW.iter_unpack(values)
    map_io.write(former_box.maps, [("ew_flows", keys, layout.FLOW.pack({**flow, "endpoint_id": net.dns_endpoint}))])
    watch = former_box.watch()
    former_box.tun.write(passing(net, net.worker2_relay, net.worker_relay, answered_by_echo(net)))
    assert watch.change().drops == {"no_way_back": 1}


def test_what_moved_without_udp(former_box: WorkerBox) -> None:
    nothing = extended(asked_of_echo(V6), (59, bytes(7)))
    watch = former_box.watch()
    former_box.tun.write(passing(V6, V6.edge_relay, V6.worker_relay, nothing))
    assert watch.change().drops == {"not_relayed": 1}


def test_what_moved_in_human_terms(worker_box: WorkerBox, plan_file: Path) -> None:
    plan_file.write_text(json.dumps({"worker": echo_moved()}))
    steps = {(step.verb, step.name): (step.before, step.after) for step in contents.ensure("worker", echo_moved())}
    assert contents.ensure("worker", echo_moved()) == []
    before, after = steps["change", f"echo ({V4.echo_endpoint})"]
    assert before is not None
    assert before["container"] == f"{V4.container} port {ECHO_CONTAINER_PORT}"
    assert after == {"service": f"{V4.echo_vip}:{ECHO_PORT}/udp", "moved_to": V4.worker2_relay}
    told = info.info("worker")
    assert told is not None
    assert {endpoint["service"] for endpoint in told["endpoints"]} == {"dns", "games"}
    assert told["moved"] == [
        {
            "endpoint_id": net.echo_endpoint,
            "service": "echo",
            "vip": net.echo_vip,
            "ports": str(ECHO_PORT),
            "protocol": "udp",
            "moved_to": "worker2",
            "moved_to_relay_address": net.worker2_relay,
        }
        for net in (V4, V6)
    ]
    assert {edge["name"] for edge in told["edges"]} == {"edge1", "edge2", "worker2"}


def test_all_that_is_wrong_with_what_moved(worker_box: WorkerBox) -> None:
    params = echo_moved("worker9")
    params["moved"][0]["endpoint_id"] = params["endpoints"][0]["endpoint_id"]
    with pytest.raises(EdgewireError) as refused:
        contents.ensure("worker", params)
    assert str(refused.value).count("moved to worker9, which is no worker") == 2
    assert "claimed twice: endpoint id" in str(refused.value)
