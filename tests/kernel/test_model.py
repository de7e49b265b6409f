# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs beside their specification (tests/model), on good packets and on mutated ones.

``make fuzz`` runs this file with more than a million packets for the kernel's test run alone, and a seed of its own;
EDGEWIRE_FUZZ_PACKETS and EDGEWIRE_FUZZ_SEED say otherwise. A failure shows the packet, what the model says of it and
what the program did.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, layout, map_io, worker_maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.filters import (
    HIGHEST_RATE,
    FilterWanted,
    Rate,
    source_of,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.worker_maps import EndpointWanted
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BRIDGE_MAC,
    CONTAINER_MAC,
    DESTINATION,
    EDGE_RELAYS,
    EMPTY_DESTINATION,
    HOP_BY_HOP,
    ROUTING,
    V4,
    V6,
    WORKER2_RELAYS,
    WORKER_RELAYS,
    Box,
    EdgeBox,
    Net,
    Programs,
    WorkerBox,
    datagram,
    extended,
    fill_icmp_buckets,
    forget,
    fragment_header,
    frame,
    in_stage,
    packed,
    relay_packet,
)
from ansible_collections.edgewire.fleet.tests.kernel.model_support import (
    Comparison,
    PoisonedRunner,
    Runner,
    Through,
    Uplink,
    fill_edge,
    fill_worker,
    on_edge,
    on_worker,
    renewing,
    stats_indices,
    tc_verdict,
    xdp_verdict,
)
from ansible_collections.edgewire.fleet.tests.model import edge, handoff, tunnel, worker
from ansible_collections.edgewire.fleet.tests.model.mutate import Mutator
from ansible_collections.edgewire.fleet.tests.model.packet import ASK, FORWARDED, FORWARDED_TWICE, PLAIN, Outcome
from ansible_collections.edgewire.fleet.tests.model.tables import edge_tables, worker_tables
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

# For each of the four programs, about. XDP gets more: that is what strangers can send to.
DEEP = 12_000  # so many take every way
PACKETS = int(os.environ.get("EDGEWIRE_FUZZ_PACKETS", DEEP))
SEED = int(os.environ.get("EDGEWIRE_FUZZ_SEED", "1"))
PORTS = {
    "dns": (53, 53),
    "games": (10_001, 10_098),
    "pool": (8080, 8080),
    "empty": (9, 9),
    "direct": (4433, 4433),
    "listed": (60, 60),
    "denying": (61, 61),
    "crowded": (62, 62),
    "loud": (63, 63),
    "moved": (70, 72),
}
CONTAINER_PORTS = {"dns": 53, "games": 30_001, "direct": 443, "pool": 65_535, "empty": 9}
CONTAINER_PORTS |= {"listed": 60, "denying": 61, "crowded": 62, "loud": 63}
NUMBERS = {"dns": 53, "games": 90, "pool": 80, "empty": 9, "direct": 44, "moved": 70}
NUMBERS |= {"listed": 60, "denying": 61, "crowded": 62, "loud": 63}
# What a rate lets through depends on the clock, but not while a bucket is never empty, or is for centuries: the buckets
# are filled and emptied anew again and again.
GENEROUS = Rate(HIGHEST_RATE, HIGHEST_RATE)
CENTURIES = struct.pack("=Q", 1 << 62)
CROWDED = frozenset({"crowded"})
LOUD = frozenset({V4.far_client, V6.far_client})
# So many of what an edge or worker sends of ICMP go out at once, and more.
ICMP_BURST = 32
FILTERS = (
    FilterWanted(
        "listed",
        frozenset(
            source_of(network, allowed=allowed)
            for network, allowed in (
                ("198.51.100.0/24", True),
                ("198.51.100.128/25", False),
                ("192.0.2.77/32", True),
                ("2001:db8:c::/48", True),
                ("2001:db8:c:8000::/49", False),
            )
        ),
    ),
    FilterWanted(
        "denying",
        frozenset(source_of(network, allowed=False) for network in ("0.0.0.0/1", "192.0.2.0/24", "2001:db8:77::/48")),
    ),
    FilterWanted("crowded", frozenset(), GENEROUS),
    FilterWanted("loud", frozenset({source_of("2001:db8:77::/48", allowed=False)}), GENEROUS, GENEROUS),
)


def services() -> tuple[ServiceWanted, ...]:
    """Services of every kind, in both families: single ports, a range, by client, without a live backend."""
    found = []
    for net in (V4, V6):
        for name, (first, last) in PORTS.items():
            number = NUMBERS[name] * 10
            weights = (0, 0) if name == "empty" else (1, 3)
            backends = tuple(
                BackendWanted(net.id(number + n), f"worker{n + 1}", weight) for n, weight in enumerate(weights)
            )
            found.append(ServiceWanted(name, net.vip(NUMBERS[name]), first, last, backends, name == "pool"))
    return tuple(found)


def endpoints() -> tuple[EndpointWanted, ...]:
    """Their endpoints on worker1; one has moved to worker2."""
    return tuple(
        EndpointWanted(
            net.id(NUMBERS[name] * 10),
            name,
            net.vip(NUMBERS[name]),
            *ports,
            net.worker2_relay if name == "moved" else net.container,
            CONTAINER_PORTS.get(name, 0),
            direct=name == "direct",
            moved=name == "moved",
        )
        for net in (V4, V6)
        for name, ports in PORTS.items()
    )


EDGE = edge_state.EdgeWanted(
    EDGE_RELAYS, 1, 1, {"worker1": WORKER_RELAYS, "worker2": WORKER2_RELAYS}, services(), filters=FILTERS
)
WORKER = worker_maps.WorkerWanted(
    WORKER_RELAYS, 1, 1, {"edge1": EDGE_RELAYS, "worker2": WORKER2_RELAYS}, endpoints(), 1
)


def words() -> list[bytes]:
    """Addresses, ids and ports that mean something to some program."""
    found = [struct.pack("!H", number) for pair in PORTS.values() for number in pair]
    found += [struct.pack("!H", number) for number in (*CONTAINER_PORTS.values(), 40_000, 0)]
    found += [struct.pack("!H", protocol) for protocol in (edge.VLAN, edge.SERVICE_VLAN)]
    for net in (V4, V6):
        found += [packed(net.vip(number)) for number in NUMBERS.values()]
        found += [packed(address) for address in (net.client, net.far_client, net.container, net.other_container)]
        found += [packed(a) for a in (net.edge_relay, net.edge2_relay, net.worker_relay, net.worker2_relay)]
        found += [struct.pack("!I", net.id(number * 10 + n)) for number in NUMBERS.values() for n in (0, 1)]
    return found


def dressed(packet: bytes) -> list[bytes]:
    """A packet, and the same with IPv4 options or IPv6 extension headers, and as fragments."""
    if packet[0] >> 4 == 6:
        chains = (
            (HOP_BY_HOP,),
            (EMPTY_DESTINATION, ROUTING),
            (DESTINATION, ROUTING, EMPTY_DESTINATION, HOP_BY_HOP),
            (HOP_BY_HOP, HOP_BY_HOP, HOP_BY_HOP, HOP_BY_HOP, HOP_BY_HOP),
            (fragment_header(),),
            (HOP_BY_HOP, fragment_header(more=True)),
            (fragment_header(3, more=True),),
            (fragment_header(2), DESTINATION),
        )
        return [packet, *(extended(packet, *chain) for chain in chains)]
    found = [packet]
    for words_of_options in (1, 3, 7, 8, 10):
        made = IP(packet)
        made.options = [IPOption(b"\x01" * 4 * words_of_options)]
        del made.ihl, made.len, made.chksum
        found.append(bytes(made))
    for flags, offset in ((1, 0), (1, 5), (0, 9)):
        made = IP(packet)
        made.flags, made.frag = flags, offset
        del made.chksum
        found.append(bytes(made))
    return found


def requests() -> list[bytes]:
    """What clients send to the edge, and what else is on an uplink. Without link layer."""
    found = []
    for net in (V4, V6):
        for name, (first, last) in PORTS.items():
            for port in {first, last}:
                found += dressed(datagram(net.client, net.vip(NUMBERS[name]), 40_000, port))
            found.append(datagram(net.client, net.vip(NUMBERS[name]), 40_000, last + 1))
        found.append(datagram(net.client, net.dns_vip, 40_001, 53, b""))
        found.append(datagram(net.client, net.dns_vip, 40_002, 53, bytes(range(256)) * 5))
        found.append(datagram(net.client, net.dns_vip, 40_003, 53, ttl=1))
        found.append(datagram(net.client, net.dns_vip, 40_003, 53, bytes(1000), ttl=1))
        for name in ("listed", "denying", "loud"):
            found.append(datagram(net.far_client, net.vip(NUMBERS[name]), 40_000, PORTS[name][0]))
        found.append(relayed(net, "dns", datagram(net.client, net.dns_vip, 40_000, 53)))
        base, echo = (IPv6, ICMPv6EchoRequest) if net is V6 else (IP, ICMP)
        found.append(bytes(base(src=net.client, dst=net.dns_vip) / TCP(dport=53)))
        found.append(bytes(base(src=net.client, dst=net.nowhere) / echo()))
        found += [bytes(base(src=net.client, dst=net.dns_vip) / icmp) for icmp in (echo(), *errors(net))]
    found.append(bytes(IPv6(src=V6.client, dst=V6.dns_vip) / UDP(dport=53) / bytes(1400)))
    return [*found, bytes(IP(src=V4.client, dst=V4.dns_vip, flags="DF") / UDP(dport=53) / bytes(1400))]


def for_the_edge_itself() -> list[bytes]:
    """What edge_handoff answers, would if it came from elsewhere, or relays to where the reply came from."""
    found = []
    for net, nobody, echo in ((V4, "127.0.0.1", ICMP()), (V6, "::1", ICMPv6EchoRequest())):
        base, hops = (IPv6, {"hlim": 1}) if net is V6 else (IP, {"ttl": 1})
        for source in (net.client, net.far_client, nobody):
            found += [bytes(base(src=source, dst=net.dns_vip) / echo / Raw(bytes(size))) for size in (0, 1, 900)]
            found += [datagram(source, net.dns_vip, 40_000, 53, bytes(size), ttl=1) for size in (0, 3, 700, 1300)]
            more = {} if net is V6 else {"flags": "DF"}
            found += [datagram(source, net.dns_vip, 40_000, 53, bytes(size), **more) for size in (1400, 1441)]
        quoted = [datagram(net.vip(NUMBERS[name]), net.client, PORTS[name][0], 40_000) for name in ("dns", "pool")]
        found += [bytes(base(src=net.far_client, dst=net.dns_vip) / error) for q in quoted for error in errors(net, q)]
        found.append(bytes(base(src=net.far_client, dst=net.dns_vip, **hops) / errors(net)[0]))
    return found


def errors(net: Net, quoted: bytes | None = None) -> list[Packet]:
    """ICMP errors about a packet; about a reply of "dns" where nothing else is said."""
    quoted = datagram(net.dns_vip, net.client, 53, 40_000) if quoted is None else quoted
    kinds = (
        [ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1280), ICMPv6TimeExceeded()]
        if net is V6
        else [ICMP(type=3, code=3), ICMP(type=3, code=4, nexthopmtu=1300), ICMP(type=11)]
    )
    return [kind / Raw(quoted) for kind in kinds]


def relayed(net: Net, name: str, inner: bytes) -> bytes:
    """A request on its way to worker1."""
    return relay_packet(net.edge_relay, net.worker_relay, net.id(NUMBERS[name] * 10), net.client, inner)


def relayed_requests() -> list[bytes]:
    """What comes out of WireGuard on worker1."""
    return [
        relayed(net, name, packet)
        for net in (V4, V6)
        for name, ports in PORTS.items()
        for port in set(ports)
        for packet in dressed(datagram(net.client, net.vip(NUMBERS[name]), 40_000, port))
        if packet[0] & 15 <= 12 or packet[0] >> 4 == 6
    ] + [
        relayed(net, name, bytes((IPv6 if net is V6 else IP)(src=net.client, dst=net.vip(NUMBERS[name])) / error))
        for net in (V4, V6)
        for name in ("dns", "games")
        for error in errors(net, datagram(net.vip(NUMBERS[name]), net.client, PORTS[name][0], 40_000))
    ]


def forwarded_requests() -> list[bytes]:
    """Requests that another worker sent on, once or twice."""
    return [
        in_stage(packet, stage)
        for net in (V4, V6)
        for name in ("dns", "moved")
        for packet in dressed(datagram(net.client, net.vip(NUMBERS[name]), 40_000, PORTS[name][0]))[:4]
        for packet in [
            relay_packet(net.worker2_relay, net.worker_relay, net.id(NUMBERS[name] * 10), net.client, packet)
        ]
        for stage in (FORWARDED, FORWARDED_TWICE)
    ]


def replies_in_transit() -> list[bytes]:
    """Replies from worker2 to what worker1 sent on."""
    return [
        relay_packet(net.worker2_relay, net.worker_relay, net.id(NUMBERS["moved"] * 10), net.client, packet)
        for net in (V4, V6)
        for port in PORTS["moved"]
        for packet in dressed(datagram(net.vip(NUMBERS["moved"]), net.client, port, 40_000))
        if packet[0] & 15 <= 12 or packet[0] >> 4 == 6
    ]


def relayed_replies() -> list[bytes]:
    """What comes out of WireGuard on the edge, from both workers."""
    return [
        relay_packet(source, net.edge_relay, net.id(NUMBERS[name] * 10 + n), net.client, packet)
        for net in (V4, V6)
        for n, source in enumerate((net.worker_relay, net.worker2_relay))
        for name, ports in PORTS.items()
        for port in set(ports)
        for packet in dressed(datagram(net.vip(NUMBERS[name]), net.client, port, 40_000))
        if packet[0] & 15 <= 12 or packet[0] >> 4 == 6
    ] + [
        relay_packet(
            net.worker_relay,
            net.edge_relay,
            net.id(530),
            net.client,
            bytes((IPv6 if net is V6 else IP)(src=net.dns_vip, dst=net.client) / error),
        )
        for net in (V4, V6)
        for error in errors(net, datagram(net.client, net.dns_vip, 40_000, 53))
    ]


def replies() -> list[bytes]:
    """What containers on worker1 send: answers, and traffic of their own."""
    found = []
    for net in (V4, V6):
        for port in CONTAINER_PORTS.values():
            found += dressed(datagram(net.container, net.client, port, 40_000))
        found.append(datagram(net.container, net.client, 53, 40_000, zero_checksum=True))
        found.append(datagram(net.container, net.far_client, 53, 40_000))
        found.append(datagram(net.other_container, net.client, 53, 40_000))
        found.append(datagram(net.vip(NUMBERS["moved"]), net.client, PORTS["moved"][0], 40_000))
        found.append(datagram(net.container, net.client, 53, 40_000, ttl=1))
        more = {} if net is V6 else {"flags": "DF"}
        found.append(datagram(net.container, net.client, 53, 40_000, bytes(1400), **more))
        for port in (53, 443, 30_001):
            for error in errors(net, datagram(net.client, net.container, 40_000, port)):
                found.append(bytes((IPv6 if net is V6 else IP)(src=net.container, dst=net.client) / error))
    found.append(datagram(V4.container, V4.client, 53, 40_000, bytes(1600), frag=9))
    found.append(extended(datagram(V6.container, V6.client, 53, 40_000, bytes(1600)), fragment_header(9)))
    return found


def set_rates(maps: map_io.Maps, indices: dict[str, int]) -> None:
    """Empty the bucket of the service that is crowded, and those of loud sources, and fill all others."""
    empty = [("ew_buckets", layout.U32.of(indices["crowded"]), CENTURIES)]
    full = [("ew_buckets", layout.U32.of(indices["loud"]), bytes(8))]
    for client in map(packed, LOUD):
        network = int.from_bytes(client[:8].ljust(8, b"\0"), sys.byteorder)
        source = {"filter": indices["loud"], "version": 4 if len(client) == 4 else 6, "network": network}
        empty.append(("ew_source_buckets", layout.SOURCE_RATE_KEY.pack(source), CENTURIES))
    map_io.write(maps, empty + full)


def filter_indices(maps: map_io.Maps) -> dict[str, int]:
    """The filters' numbers by service."""
    entries = edge_state.read(maps).entries
    return {service.name: entries[edge_state.entries_of(service.claim)[0]]["filter"] for service in services()}


def compare_xdp(programs: Programs, wanted: edge_state.EdgeWanted, share: float) -> Comparison:
    """edge_xdp beside its model, on clients' frames with and without VLAN tags."""
    maps = programs.maps
    fill_edge(maps, wanted)
    run, indices = PoisonedRunner(programs.fds["edge_xdp"]), filter_indices(maps)
    comparison = Comparison(
        "edge",
        maps,
        functools.partial(edge.ingress, tables=edge_tables(wanted, CROWDED, LOUD)),
        renewing(lambda packet: xdp_verdict(run(packet), packet), lambda: set_rates(maps, indices), 16),
    )
    frames = framed(requests())
    comparison.run(packets_of([*frames, *tagged(frames[::3])], 14, share))
    return comparison


def framed(packets: Sequence[bytes], source: str = CONTAINER_MAC, destination: str = BRIDGE_MAC) -> list[bytes]:
    """Packets in Ethernet frames, and a frame that is no IP."""
    arp = bytes(Ether(src=source, dst="ff:ff:ff:ff:ff:ff") / ARP())
    return [arp, *(frame(packet, source=source, destination=destination) for packet in packets)]


def tagged(frames: Sequence[bytes]) -> list[bytes]:
    """Some of the frames with one VLAN tag, some with two, some with three."""
    tags = [edge.VLAN.to_bytes(2, "big") + b"\x00\x64", edge.SERVICE_VLAN.to_bytes(2, "big") + b"\xe0\x07"]
    return [data[:12] + b"".join((tags * 2)[: 1 + n % 3]) + data[12:] for n, data in enumerate(frames)]


def for_test_run(packets: Iterator[bytes]) -> Iterator[bytes]:
    """The kernel's test run makes no packet buffer of a frame that is too short for the IP header that it announces."""
    shortest = {b"\x08\x00": 34, b"\x86\xdd": 54}
    return (packet for packet in packets if len(packet) >= shortest.get(packet[12:14], 14))


def packets_of(good: Sequence[bytes], start: int, share: float = 1.0) -> Iterator[bytes]:
    """The good packets as they are, then mutated ones. What is too short for Ethernet no device delivers."""
    print(f"seed {SEED}")
    yield from good
    mutate = Mutator(SEED, good, start, words())
    made = (packet for packet in iter(mutate, None) if start < len(packet) < 3000)
    yield from islice(made, int(PACKETS * share))


def assert_deep(comparison: Comparison, *actions: str) -> None:
    """The packets were worth it: the program took each of these ways. Where there are too few for all: it took some."""
    print(f"{comparison.packets} packets: {dict(comparison.actions)}")
    assert comparison.actions
    if PACKETS >= DEEP:
        assert set(actions) <= set(comparison.actions), set(actions) - set(comparison.actions)


@pytest.mark.parametrize("dead", [frozenset(), frozenset({"worker2"}), frozenset({"worker1", "worker2"})])
def test_edge_xdp_does_what_the_model_says(edge_programs: Programs, dead: frozenset[str]) -> None:
    wanted = replace(EDGE, dead_workers=dead)
    comparison = compare_xdp(edge_programs, wanted, 0.1 if dead else 1.6)
    ways = {"pass", "relay_from_outside", "malformed", "follow", "time_exceeded", "too_big", "icmp", "no_backend"}
    ways |= {"options_too_long", "source_denied", "source_rate", "service_rate"}
    assert_deep(comparison, *ways, *(["relay", "lead"] if len(dead) < 2 else []))


def test_edge_xdp_drops_what_no_service_wants_as_the_model_says(edge_programs: Programs) -> None:
    wanted = replace(EDGE, drop_unserved=True)
    comparison = compare_xdp(edge_programs, wanted, 0.2)
    assert_deep(comparison, "pass", "relay", "follow", "not_a_service")


def test_edge_handoff_leaves_alone_what_has_no_mark(edge_programs: Programs) -> None:
    """The mark is metadata, so no packet's own bytes can be taken for it."""
    run = Runner(edge_programs.fds["edge_handoff"])
    for packet in for_test_run(packets_of(framed(requests()), 14, 0.1)):
        assert tc_verdict(run(packet), packet).action == "pass"


def one_station(frames: Iterator[bytes]) -> Iterator[bytes]:
    """What a link carries: frames of a length that it takes, from one station."""
    return (data for data in frames if len(data) <= 1514 and not data[6] & 1)


@pytest.mark.parametrize("may_send", [True, False])
def test_the_uplink_does_what_the_model_says(edge_box: EdgeBox, may_send: bool) -> None:
    """edge_handoff needs the mark that edge_xdp leaves, and a test run of the kernel's has no room for one."""
    maps = edge_box.maps
    wanted = on_edge(edge_box, replace(EDGE, drop_unserved=not may_send))
    indices = filter_indices(maps)

    def renew() -> None:
        set_rates(maps, indices)
        fill_icmp_buckets(maps, 0 if may_send else 1 << 62)

    comparison = Comparison(
        "edge",
        maps,
        functools.partial(handoff.uplink, tables=edge_tables(wanted, CROWDED, LOUD, may_send_icmp=may_send)),
        renewing(Uplink(edge_box), renew, 16),
    )
    frames = framed(requests()) + framed(for_the_edge_itself()) * 4
    frames += framed(for_the_edge_itself(), destination="ff:ff:ff:ff:ff:ff")
    comparison.run(one_station(packets_of(frames, 14, 0.3 if may_send else 0.1)))
    ways = {"pass", "relay", "held", "ttl_expired", "too_big", "icmp_limited", "malformed", "error_relayed"}
    ways |= {"time_exceeded_sent", "too_big_sent", "echo_answered"} if may_send else {"icmp_suppressed"}
    assert_deep(comparison, *(ways - {"ttl_expired", "too_big"} if may_send else ways))


def flow_records(maps: map_io.Maps) -> dict[worker.FlowKey, worker.Flow]:
    """What a worker has learnt, in the model's words."""

    def address(text: str) -> bytes:
        return packed(text) if text else b""

    keys, values = maps["ew_flows"].read()
    rows = zip(layout.FLOW_KEY.iter_unpack(keys), layout.FLOW.iter_unpack(values), strict=True)
    return {
        worker.FlowKey(
            address(key["container"]), address(key["client"]), key["container_port"], key["client_port"]
        ): worker.Flow(
            address(flow["edge_relay"]),
            address(flow["vip"]),
            flow["endpoint_id"],
            flow["port"],
            bool(flow["flags"] & layout.ENDPOINT_DIRECT),
            bool(flow["flags"] & layout.ENDPOINT_MOVED),
        )
        for key, flow in rows
    }


def is_routable(client: bytes) -> bool:
    """Whether a kernel sends to and for such a client at all: unicast, and not its own."""
    if len(client) == 4:
        return 1 <= client[0] <= 223 and client[0] != 127
    return client[0] >> 5 == 1  # 2000::/3 (RFC 4291 section 2.4)


def client_is_routable(packet: bytes) -> bool:
    """The same for the client in a relay option; where there is none it does not matter."""
    start, size = (48, 16) if packet[0] >> 4 == 6 else (28, 4)
    client = packet[start : start + size]
    return len(client) < size or is_routable(client)


def tunnelled(packets: Iterator[bytes]) -> Iterator[bytes]:
    """A device without link layer takes nothing but IP."""
    return (packet for packet in packets if packet[0] >> 4 in (4, 6))


def depends_on_flows(packet: bytes) -> bool:
    """Whether what becomes of a relayed packet depends on whether its flow is known."""
    relayed = tunnel.refuse(packet, packed(WORKER.relays.ipv4)) if packet[0] >> 4 == 4 else None
    relayed = tunnel.refuse6(packet, packed(WORKER.relays.ipv6)) if packet[0] >> 4 == 6 else relayed
    from_worker2 = {6: packet[8:24], 4: packet[12:16]}.get(packet[0] >> 4) in map(packed, WORKER2_RELAYS.all)
    return relayed is None and (tunnel.stage_of(packet) == ASK or (from_worker2 and tunnel.stage_of(packet) == PLAIN))


def is_about_one_of_many_flows(packet: bytes, tables: worker.Tables, first: worker.Tables) -> bool:
    """Whether an error is about a flow that the worker learnt after its first ones, and may have forgotten since."""
    is_v6 = packet[0] >> 4 == 6
    if len(packet) < 41 or packet[40 if is_v6 else 9] != (socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP):
        return False
    return worker.ingress(packet, tables) != worker.ingress(packet, first)


def test_edge_egress_does_what_the_model_says(edge_box: Box) -> None:
    # Whatever client a mutated option names, it is behind the one gateway whose link-layer address is known.
    edge_box.ns.run("ip", "address", "flush", "dev", "eth0")
    for gateway in (V4.client, V6.client):
        edge_box.ns.run("ip", "route", "replace", gateway, "dev", "eth0")
        edge_box.ns.run("ip", "route", "replace", "default", "via", gateway, "dev", "eth0")
    wanted = on_edge(edge_box, EDGE)
    comparison = Comparison(
        "edge",
        edge_box.maps,
        functools.partial(edge.egress, tables=edge_tables(wanted)),
        Through(edge_box),
        client_is_routable,
    )
    comparison.run(tunnelled(packets_of(relayed_replies(), 0)))
    ways = {"uplink", "pass", "not_relayed", "bad_option", "unknown_endpoint", "wrong_worker", "wrong_port"}
    assert_deep(comparison, *ways, "ttl_expired", "malformed")


def test_worker_ingress_does_what_the_model_says(worker_box: WorkerBox) -> None:
    wanted = on_worker(worker_box, WORKER)
    flows: dict[worker.FlowKey, worker.Flow] = {}
    tables = worker_tables(wanted, flows)
    comparison = Comparison(
        "worker",
        worker_box.maps,
        functools.partial(worker.ingress, tables=tables),
        renewing(Through(worker_box), lambda: fill_icmp_buckets(worker_box.maps), ICMP_BURST),
        client_is_routable,
    )
    comparison.run(relayed_requests() + replies_in_transit())
    # Later, what is known depends on what the map has forgotten: see test_balance_packets.py.
    first = worker_tables(wanted, dict(flows))
    good = [*relayed_requests(), *forwarded_requests(), *replies_in_transit()]
    comparison.run(
        packet
        for packet in tunnelled(packets_of(good, 0))
        if not depends_on_flows(packet) and not is_about_one_of_many_flows(packet, tables, first)
    )
    ways = {"container", "pass", "relay", "not_relayed", "bad_option", "unknown_edge", "unknown_endpoint"}
    ways |= {"ttl_expired", "time_exceeded_sent", "error_relayed", "forwarded", "passed_back"}
    assert_deep(comparison, *ways, "malformed", "too_many_hops", "no_way_back", "unknown_flow")
    # The map forgets what was not used for longest.
    learnt = flow_records(worker_box.maps)
    assert len(learnt) > (50 if PACKETS >= DEEP else 20)
    assert learnt.items() <= flows.items()


def flows_of_worker() -> dict[worker.FlowKey, worker.Flow]:
    """What a worker knows after a client has asked every service of both families."""
    tables = worker_tables(WORKER, {})
    for packet in relayed_requests():
        worker.ingress(packet, tables)
    return dict(tables.flows)


def write_flows(maps: map_io.Maps, flows: dict[worker.FlowKey, worker.Flow], indices: dict[int, int]) -> None:
    """Make a worker's map say that it knows these."""

    def text(address: bytes) -> str:
        return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)

    for key, flow in flows.items():
        words_of_key = key._asdict() | {"container": text(key.container), "client": text(key.client)}
        words_of_flow = {
            "edge_relay": text(flow.edge),
            "vip": text(flow.vip),
            "endpoint_id": flow.endpoint_id,
            "stats_index": indices[flow.endpoint_id],
            "port": flow.port,
            "flags": layout.ENDPOINT_DIRECT * flow.direct | layout.ENDPOINT_MOVED * flow.moved,
        }
        map_io.write(maps, [("ew_flows", layout.FLOW_KEY.pack(words_of_key), layout.FLOW.pack(words_of_flow))])


# An uplink or none; and whether errors may be sent.
@pytest.mark.parametrize(("uplink_ifindex", "may_send"), [(1, True), (0, False)])
def test_worker_egress_does_what_the_model_says(worker_programs: Programs, uplink_ifindex: int, may_send: bool) -> None:
    wanted = replace(WORKER, uplink_ifindex=uplink_ifindex)
    maps = worker_programs.maps
    fill_worker(maps, wanted)
    flows = flows_of_worker()
    forget(maps, "ew_flows")
    write_flows(maps, flows, stats_indices(maps, "worker"))
    run = Runner(worker_programs.fds["worker_egress"])

    def program(packet: bytes) -> Outcome:
        forget(maps, "ew_fragments")
        forget(maps, "ew_held")
        return tc_verdict(run(packet), packet)

    comparison = Comparison(
        "worker",
        maps,
        functools.partial(worker.egress, tables=worker_tables(wanted, flows, may_send_errors=may_send)),
        renewing(program, lambda: fill_icmp_buckets(maps, 0 if may_send else 1 << 62), ICMP_BURST),
    )
    comparison.run(for_test_run(packets_of(framed(replies()), 14, 1.0 if uplink_ifindex else 0.1)))
    ways = {"relay", "pass", "held", "fragment_not_held", "ttl_expired", "options_too_long", "error_relayed"}
    ways |= {"too_big_sent", "answer"} if may_send else {"icmp_suppressed", "too_big"}
    assert_deep(comparison, *ways, "uplink" if uplink_ifindex else "not_configured")
