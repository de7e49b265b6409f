# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge, packet in and packet out: every branch of edge_xdp and edge_egress, and the way through the box.

Most tests run once for each family (fixture ``net``).
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, direct, forwarder, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    BackendWanted,
    Entry,
    ServiceWanted,
    entries_of,
)
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    ANY_IPV4,
    ANY_IPV6,
    CLIENT_MAC,
    DESTINATION,
    ECHO_PORT,
    EMPTY_DESTINATION,
    GAMES_LAST_PORT,
    GAMES_PORT,
    HOP_BY_HOP,
    LISTED_NUMBER,
    PORT,
    ROUTING,
    V4,
    V6,
    XDP_DROP,
    XDP_PASS,
    Box,
    Net,
    Programs,
    Watch,
    backend_of,
    build_of,
    datagram,
    desired,
    examples,
    extended,
    finish_header,
    fragment_header,
    frame,
    header_length,
    hops_left,
    ip_checksum_ok,
    packed,
    payload_of,
    planned,
    ports_of,
    relay_packet,
    source_of_packet,
    udp_checksum_of,
    udp_checksum_ok,
    udp_offset,
    udp_socket,
    unwrapped,
    wrapped,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

HANDOFF_MARK, RELAY_FRAGMENT_MARK, FRAGMENT_MARK = (struct.pack("=I", 0x65646765 + n) for n in range(3))
SPORT = 40_000


def single(net: Net, name: str, number: int, port: int, *backends: BackendWanted, **more: object) -> ServiceWanted:
    """A service with one port."""
    return ServiceWanted(name, net.vip(number), port, port, backends, **more)


def dns(net: Net) -> ServiceWanted:
    """A plain service."""
    return single(net, "dns", 53, PORT, BackendWanted(net.dns_endpoint, "worker1", 1))


def pool_backends(net: Net, first: int) -> tuple[BackendWanted, ...]:
    """Backends of the weights 1, 2, 5 and 0."""
    workers = ("worker1", "worker1", "worker2", "worker2")
    return tuple(
        BackendWanted(net.id(first + n), worker, weight)
        for n, (worker, weight) in enumerate(zip(workers, (1, 2, 5, 0), strict=True))
    )


def pool(net: Net) -> ServiceWanted:
    """A service with several backends."""
    return single(net, "pool", 80, 8080, *pool_backends(net, 11))


def sticky(net: Net) -> ServiceWanted:
    """A range of ports whose flows go to a backend by client."""
    return ServiceWanted("sticky", net.vip(82), 20_000, 20_999, pool_backends(net, 31), by_client=True)


def spread(net: Net) -> ServiceWanted:
    """A range of ports whose flows go to a backend each."""
    return ServiceWanted("spread", net.vip(83), 20_000, 20_999, pool_backends(net, 41))


def drained(net: Net) -> ServiceWanted:
    """A service without a live backend."""
    return single(net, "drained", 81, 8081, BackendWanted(net.id(15), "worker1", 0))


RANGES = {"one prefix": (32_768, 36_863), "many prefixes": (10_001, 19_998), "all ports": (1, 65_535)}


def ranged(net: Net, kind: str) -> ServiceWanted:
    """A service with a range of ports."""
    number = 90 + [*RANGES].index(kind)
    return ServiceWanted(kind, net.vip(number), *RANGES[kind], (BackendWanted(net.id(number), "worker1", 1),))


SERVICES = tuple(
    service
    for net in (V4, V6)
    for service in (dns(net), pool(net), sticky(net), spread(net), drained(net), *(ranged(net, k) for k in RANGES))
)


@pytest.fixture
def edge(edge_programs: Programs) -> Programs:
    """The edge's programs with every kind of service of both families in the maps."""
    edge_programs.fill_edge(*SERVICES)
    return edge_programs


def query(net: Net, payload: bytes = b"query", **more: object) -> bytes:
    """A client's packet to the DNS service."""
    return datagram(net.client, net.dns_vip, SPORT, PORT, payload, **more)


def relayed(net: Net, packet: bytes) -> bytes:
    """What the edge must make of a client's packet to the DNS service."""
    client = source_of_packet(packet)
    return wrapped(packet, net.edge_relay, net.worker_relay, net.dns_endpoint, client, hops_left(packet) - 1)


def hit(edge: Programs, data: bytes) -> bytes:
    """Run a frame that must be relayed; the frame that comes out. The kernel shows the metadata in front of it."""
    result = edge.run("edge_xdp", data)
    assert result.retval == XDP_PASS
    assert result.data[:4] == HANDOFF_MARK
    return result.data[4:]


def chosen_by(net: Net, out: bytes) -> int:
    """The endpoint id in a frame that was relayed."""
    start = 14 + net.header + 4
    return int.from_bytes(out[start : start + 4], "big")


def expect_relayed(edge: Programs, net: Net, packet: bytes, trailer: bytes = b"") -> bytes:
    """Run a hit and compare every byte and every counter; the relay packet."""
    watch = Watch(edge.maps)
    out = hit(edge, frame(packet) + trailer)
    assert out.hex() == (frame(relayed(net, packet)) + trailer).hex()
    assert watch.change().drops == {}
    assert watch.change().stats == {"in_packets": 1, "in_bytes": len(packet)}
    return out[14:]


def expect_untouched(edge: Programs, data: bytes) -> None:
    """Run a frame that is none of ours: passed as it came, nothing counted."""
    watch = Watch(edge.maps)
    result = edge.run("edge_xdp", data)
    assert (result.retval, result.data) == (XDP_PASS, data)
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def expect_drop(edge: Programs, data: bytes, reason: str) -> None:
    """Run a frame that must be dropped for one reason, counted once, with nothing else counted."""
    watch = Watch(edge.maps)
    assert edge.run("edge_xdp", data).retval == XDP_DROP
    assert watch.change().drops == {reason: 1}
    assert watch.change().stats == {}


def test_a_hit_becomes_the_relay_packet(edge: Programs, net: Net) -> None:
    out = expect_relayed(edge, net, query(net))
    assert ip_checksum_ok(out)
    assert udp_checksum_ok(out, net.client, net.dns_vip), "right again once the addresses are restored"
    assert (ports_of(out), payload_of(out), hops_left(out)) == ((SPORT, PORT), b"query", 63)
    option = {4: "9e0c0100", 6: "11025e14"}[net.version]
    assert out[net.header : net.header + net.option] == (
        bytes.fromhex(option) + net.dns_endpoint.to_bytes(4, "big") + packed(net.client)
    )
    seen = IP(out) if net.version == 4 else IPv6(out)
    assert (seen.src, seen.dst) == (net.edge_relay, net.worker_relay)
    assert seen.ihl == 8 if net.version == 4 else seen.nh == 60


@examples(200)
@given(
    **ANY_IPV4,
    flags=st.sampled_from([0, 2, 4]),
)
def test_any_header_of_a_hit_comes_through(
    edge: Programs,
    source: int,
    sport: int,
    tos: int,
    ident: int,
    flags: int,
    ttl: int,
    option_words: int,
    payload: bytes,
    zero_checksum: bool,
) -> None:
    client = socket.inet_ntoa(source.to_bytes(4, "big"))
    options = [b"\x01" * (4 * option_words)] if option_words else []
    header = {"tos": tos, "id": ident, "flags": flags, "ttl": ttl, "options": options}
    packet = datagram(client, V4.dns_vip, sport, PORT, payload, zero_checksum=zero_checksum, **header)
    out = expect_relayed(edge, V4, packet)
    assert ip_checksum_ok(out)
    assert out[header_length(out) :] == packet[header_length(packet) :]


# Everything that may stand between base header and UDP, without the relay option itself.
extension_headers = st.lists(
    st.one_of(
        st.sampled_from([HOP_BY_HOP, ROUTING, EMPTY_DESTINATION, DESTINATION, fragment_header()]),
        st.integers(0, 8).map(lambda words: (60, bytes([words, 1, 6 + 8 * words - 2]) + bytes(4 + 8 * words))),
    ),
    max_size=4,
)


@examples(200)
@given(
    **ANY_IPV6,
    headers=extension_headers,
    payload=st.binary(max_size=1200),
)
def test_any_ipv6_header_of_a_hit_comes_through(
    edge: Programs,
    source: int,
    sport: int,
    tos: int,
    label: int,
    ttl: int,
    headers: list[tuple[int, bytes]],
    payload: bytes,
) -> None:
    client = socket.inet_ntop(socket.AF_INET6, source.to_bytes(16, "big"))
    packet = extended(datagram(client, V6.dns_vip, sport, PORT, payload, tos=tos, fl=label, ttl=ttl), *headers)
    out = expect_relayed(edge, V6, packet)
    assert out[64:] == packet[40:]
    assert udp_checksum_ok(out, client, V6.dns_vip)


def test_the_clients_own_ip_options_stay_behind_ours(edge: Programs) -> None:
    record_route = bytes([7, 11, 4, 1, 2, 3, 4, 0, 0, 0, 0]) + b"\0"
    out = expect_relayed(edge, V4, query(V4, options=[record_route]))
    assert out[32:44] == record_route


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([HOP_BY_HOP], id="hop by hop"),
        pytest.param([ROUTING], id="routing"),
        pytest.param([DESTINATION], id="other destination option"),
        pytest.param([EMPTY_DESTINATION], id="no destination option"),
        pytest.param([fragment_header()], id="fragment header of a whole packet"),
        pytest.param([HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION], id="four"),
        pytest.param([HOP_BY_HOP, ROUTING, fragment_header(), DESTINATION], id="four others"),
        pytest.param([(60, bytes([62, 1, 0, 1, 0, 1, 0]) + bytes(496))], id="the longest, 504 bytes"),
    ],
)
def test_the_clients_own_extension_headers_stay_behind_ours(edge: Programs, headers: list[tuple[int, bytes]]) -> None:
    packet = extended(query(V6), *headers)
    out = expect_relayed(edge, V6, packet)
    assert (out[6], out[40], out[64:]) == (60, headers[0][0], packet[40:])
    assert udp_checksum_ok(out, V6.client, V6.dns_vip)


@pytest.mark.parametrize("words", [8, 9, 10])
def test_no_room_for_the_option(edge: Programs, words: int) -> None:
    expect_drop(edge, frame(query(V4, options=[b"\x01" * (4 * words)])), "options_too_long")


def tcp(net: Net, destination: str, port: int = 80) -> bytes:
    """A TCP packet from the client."""
    layer = IPv6 if net.version == 6 else IP
    return bytes(layer(src=net.client, dst=destination) / TCP(dport=port))


def ping(net: Net, destination: str, source: str | None = None) -> bytes:
    """An echo request."""
    if net.version == 6:
        return bytes(IPv6(src=source or net.client, dst=destination) / ICMPv6EchoRequest())
    return bytes(IP(src=source or net.client, dst=destination) / ICMP())


def test_a_relay_option_from_outside_is_dropped_whatever_it_is_for(edge: Programs, net: Net) -> None:
    for inner in (query(net), datagram(net.client, net.nowhere, 1, 2), tcp(net, net.dns_vip)):
        forged = relay_packet(net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, inner)
        expect_drop(edge, frame(forged), "relay_from_outside")


@pytest.mark.parametrize("length", [0, 4, 19, 20, 21, 255])
def test_a_relay_option_from_outside_of_any_length(edge: Programs, length: int) -> None:
    """Type 0x5e is enough: what a later version of the option looks like nobody knows yet."""
    forged = extended(query(V6), (60, bytes([2, 0x5E, length]) + bytes(20)))
    expect_drop(edge, frame(forged), "relay_from_outside")


def ethertype_of(net: Net) -> int:
    """IPv4 or IPv6."""
    return {4: 0x0800, 6: 0x86DD}[net.version]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda n: frame(datagram(n.client, n.dns_vip, SPORT, PORT + 1)), id="other port"),
        pytest.param(lambda n: frame(datagram(n.client, n.vip(7), SPORT, PORT)), id="other VIP"),
        pytest.param(lambda n: frame(datagram(n.dns_vip, n.client, PORT, SPORT)), id="from the VIP"),
        pytest.param(lambda n: frame(tcp(n, n.dns_vip, PORT)), id="TCP"),
        pytest.param(lambda n: frame(ping(n, n.nowhere)), id="ping"),
        pytest.param(lambda n: bytes(Ether() / Dot1Q(vlan=7) / Raw(query(n))), id="VLAN, of no IP packet"),
        pytest.param(lambda n: frame(query(n, version=5), ethertype=ethertype_of(n)), id="version 5"),
        pytest.param(lambda n: frame(query(n), ethertype=0x88B5), id="other ethertype"),
        pytest.param(lambda n: frame(query(n), ethertype={4: 0x86DD, 6: 0x0800}[n.version]), id="the other's type"),
    ],
)
def test_what_is_not_for_a_service_passes_untouched(edge: Programs, net: Net, make: Callable[[Net], bytes]) -> None:
    expect_untouched(edge, make(net))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes(Ether() / ARP(pdst=V4.dns_vip)), id="ARP"),
        pytest.param(frame(datagram(V4.client, V4.nowhere, SPORT, PORT, frag=185)), id="non-first fragment"),
        pytest.param(frame(datagram(V4.client, V4.nowhere, SPORT, PORT, flags="MF")), id="first fragment"),
        pytest.param(frame(query(V4, ihl=4)), id="header shorter than a header"),
    ],
)
def test_what_is_not_for_an_ipv4_service_passes_untouched(edge: Programs, data: bytes) -> None:
    expect_untouched(edge, data)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION, EMPTY_DESTINATION], id="five headers"),
        pytest.param([EMPTY_DESTINATION] * 8, id="eight headers"),
        pytest.param([(60, bytes([64, 1, 0]) + bytes(516))], id="a header too long"),
        pytest.param([(51, bytes([4, 0, 0, 0, 0, 0, 1]) + bytes(16))], id="authentication header"),
        pytest.param([(59, bytes(7))], id="no next header"),
        pytest.param([(135, bytes([0, 0, 0, 0, 0, 0, 0]))], id="unknown extension header"),
        pytest.param([DESTINATION, (59, bytes(7))], id="nothing behind"),
    ],
)
def test_what_is_not_for_an_ipv6_service_passes_untouched(edge: Programs, headers: list[tuple[int, bytes]]) -> None:
    expect_untouched(edge, frame(extended(query(V6), *headers)))


def test_fragments_get_marks_of_their_own(edge: Programs, net: Net) -> None:
    """A first one is made a relay packet like any other; what has no ports, or none of a service, is left to TC."""
    other = datagram(net.client, net.dns_vip, SPORT, PORT + 1)
    if net.version == 4:
        first, later = query(net, flags="MF"), [query(net, frag=185), query(net, frag=185, flags="MF")]
        later.append(datagram(net.client, net.dns_vip, SPORT, PORT + 1, flags="MF"))
    else:
        first = extended(query(net), HOP_BY_HOP, fragment_header(more=True), DESTINATION)
        later = [extended(query(net), fragment_header(185, more)) for more in (False, True)]
        later += [extended(query(net), HOP_BY_HOP, fragment_header(1), DESTINATION)]
        later += [extended(other, fragment_header(more=True))]
    result = edge.run("edge_xdp", frame(first))
    assert (result.retval, result.data) == (XDP_PASS, RELAY_FRAGMENT_MARK + frame(relayed(net, first)))
    for packet in later:
        watch = Watch(edge.maps)
        result = edge.run("edge_xdp", frame(packet))
        assert (result.retval, result.data) == (XDP_PASS, FRAGMENT_MARK + frame(packet))
        assert (watch.change().drops, watch.change().stats) == ({}, {})


@pytest.mark.parametrize("ttl", [0, 1])
def test_time_to_live_used_up(edge: Programs, net: Net, ttl: int) -> None:
    """XDP only says so; edge_handoff drops the packet and answers."""
    watch, data = Watch(edge.maps), frame(query(net, ttl=ttl))
    result = edge.run("edge_xdp", data)
    mark = struct.pack("=I", 0x65646765 + 4)
    assert (result.retval, result.data) == (XDP_PASS, mark + data)
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def test_the_last_hop_but_one_still_passes(edge: Programs, net: Net) -> None:
    assert hops_left(expect_relayed(edge, net, query(net, ttl=2))) == 1


@pytest.mark.parametrize("length", [0, 19, 20, 27, 34, 1500, 65535])
def test_lengths_that_contradict_each_other(edge: Programs, length: int) -> None:
    packet = query(V4)
    expect_drop(edge, frame(finish_header(packet[:2] + struct.pack("!H", length) + packet[4:])), "malformed")


@pytest.mark.parametrize("headers", [[], [HOP_BY_HOP, DESTINATION]], ids=["plain", "extended"])
def test_ipv6_lengths_that_contradict_each_other(edge: Programs, headers: list[tuple[int, bytes]]) -> None:
    packet = extended(query(V6), *headers)
    whole = len(packet) - 40
    for length in (0, 7, whole - 6, whole + 1, 1500, 65535):
        expect_drop(edge, frame(packet[:4] + struct.pack("!H", length) + packet[6:]), "malformed")
    shortest = packet[:4] + struct.pack("!H", whole - 5) + packet[6:]
    assert len(hit(edge, frame(shortest))) == 14 + len(packet) + 24, "bytes behind the packet are padding"


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "with options"])
def test_a_truncated_packet_is_never_forwarded(edge: Programs, net: Net, plain: bool) -> None:
    text = b"a payload of some length"
    packet = query(net, text) if net.version == 6 else query(net, text, options=[] if plain else [b"\x01" * 8])
    if net.version == 6 and not plain:
        packet = extended(packet, HOP_BY_HOP, ROUTING, DESTINATION)
    whole, reached = frame(packet), 14 + udp_offset(packet) + 8
    for length in range(14, len(whole)):
        watch = Watch(edge.maps)
        result = edge.run("edge_xdp", whole[:length])
        seen = watch.change()
        if length >= reached:
            assert result.retval == XDP_DROP, length
            assert (seen.drops, seen.stats) == ({"malformed": 1}, {}), length
        else:
            assert (result.retval, result.data) == (XDP_PASS, whole[:length]), length
            assert (seen.drops, seen.stats) == ({}, {}), length
    expect_relayed(edge, net, packet)


def test_no_udp_checksum_stays_none(edge: Programs, net: Net) -> None:
    """In IPv6 that is none of the edge's business: whoever gets the packet drops it."""
    assert udp_checksum_of(expect_relayed(edge, net, query(net, zero_checksum=True))) == b"\0\0"


def test_a_wrong_header_checksum_is_not_made_right(edge: Programs) -> None:
    packet = query(V4)
    wrong = packet[:10] + bytes([packet[10] ^ 0x55]) + packet[11:]
    assert not ip_checksum_ok(hit(edge, frame(wrong))[14:])


def test_ethernet_padding_is_not_taken_for_payload(edge: Programs, net: Net) -> None:
    expect_relayed(edge, net, query(net, b""), trailer=bytes(18))


# --- Which backend ---------------------------------------------------------------------------------------------------


def many_clients(net: Net, number: int) -> str:
    """One of many clients."""
    if net.version == 6:
        return f"2001:db8:c:{number // 250:x}::{number % 250 + 1:x}"
    return f"198.51.{100 + number // 250 % 4}.{number % 250 + 1}"


def test_flows_follow_the_maglev_table(edge: Programs, net: Net) -> None:
    service, seen = pool(net), Counter[int]()
    table = service.table
    relay_of = {11: net.worker_relay, 12: net.worker_relay, 13: net.worker2_relay}
    destination = slice(30, 34) if net.version == 4 else slice(38, 54)
    for number in range(3000):
        client = many_clients(net, number)
        out = hit(edge, frame(datagram(client, service.vip, 1024 + number * 7, service.port, b"")))
        chosen = chosen_by(net, out)
        assert chosen == backend_of(table, client, 1024 + number * 7, service.port)
        assert out[destination] == packed(relay_of[chosen - net.base_id])
        seen[chosen - net.base_id] += 1
    # Shares 1:2:5 of 3000 flows, within five standard deviations of a fair hash.
    for endpoint_id, weight in ((11, 1), (12, 2), (13, 5)):
        share = weight / 8
        assert abs(seen[endpoint_id] - 3000 * share) < 5 * (3000 * share * (1 - share)) ** 0.5, seen
    assert set(seen) == {11, 12, 13}, "weight 0 gets no flow"


def test_every_word_of_an_ipv6_client_counts(edge: Programs) -> None:
    service = pool(V6)
    for position in range(8):
        seen = set()
        for value in range(1, 120):
            words = [0x2001, 0xDB8, 0, 0, 0, 0, 0, 1]
            words[position] = value * 257
            client = socket.inet_ntop(socket.AF_INET6, struct.pack("!8H", *words))
            seen.add(chosen_by(V6, hit(edge, frame(datagram(client, service.vip, 5000, service.port, b"")))))
        assert len(seen) == 3, position


def test_one_flow_has_one_backend(edge: Programs, net: Net) -> None:
    service = pool(net)
    packets = [datagram(net.client, service.vip, 5000, service.port, bytes(n), tos=n) for n in range(20)]
    assert len({chosen_by(net, hit(edge, frame(packet))) for packet in packets}) == 1


def test_draining_one_backend_moves_only_its_flows(edge: Programs, net: Net) -> None:
    service = pool(net)

    def chosen() -> list[int]:
        frames = (frame(datagram(net.client, service.vip, 1024 + n, service.port, b"")) for n in range(500))
        return [chosen_by(net, hit(edge, f)) for f in frames]

    before, gone = chosen(), net.id(11)
    left = tuple(b if b.endpoint_id != gone else BackendWanted(gone, "worker1", 0) for b in service.backends)
    edge.fill_edge(dns(net), single(net, "pool", 80, 8080, *left), drained(net))
    moved = [(old, new) for old, new in zip(before, chosen(), strict=True) if old != new]
    assert gone not in {new for _, new in moved}
    assert sum(old == gone for old, _ in moved) == before.count(gone)
    assert sum(old != gone for old, _ in moved) < 25, "under 5 %"


def backends_of_flows(edge: Programs, net: Net, service: ServiceWanted, client: str) -> Counter[int]:
    """Which backends a client's flows go to, over many source ports and ports of the service."""
    seen, table = Counter[int](), service.table
    for n in range(200):
        sport, dport = 1024 + n * 13, service.port + n * 5 % (service.last_port - service.port + 1)
        chosen = chosen_by(net, hit(edge, frame(datagram(client, service.vip, sport, dport, b""))))
        assert chosen == backend_of(table, client, sport, dport, by_client=service.by_client)
        seen[chosen] += 1
    return seen


def test_by_client_all_flows_of_a_client_go_to_one_backend(edge: Programs, net: Net) -> None:
    per_client = [backends_of_flows(edge, net, sticky(net), many_clients(net, n * 41)) for n in range(30)]
    assert {len(seen) for seen in per_client} == {1}
    assert {chosen for seen in per_client for chosen in seen} == {net.id(31 + n) for n in range(3)}, "clients spread"


def test_by_flow_the_flows_of_a_client_spread(edge: Programs, net: Net) -> None:
    for number in (0, 77):
        assert len(backends_of_flows(edge, net, spread(net), many_clients(net, number))) == 3


def test_affinity_changes_in_place(edge: Programs, net: Net) -> None:
    was = spread(net)
    changed = ServiceWanted(was.name, was.vip, was.port, was.last_port, was.backends, by_client=True)
    edge.fill_edge(changed)
    assert len(backends_of_flows(edge, net, changed, net.client)) == 1
    edge.fill_edge(was)
    assert len(backends_of_flows(edge, net, was, net.client)) == 3


# --- Ranges of ports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RANGES)
def test_a_range_of_ports(edge: Programs, net: Net, kind: str) -> None:
    service = ranged(net, kind)
    first, last = RANGES[kind]
    boundaries = {entry.port for entry in entries_of(service.claim)}
    for port in {first, first + 1, (first + last) // 2, last - 1, last} | boundaries | {b - 1 for b in boundaries}:
        packet = datagram(net.client, service.vip, SPORT, port)
        if port < first:
            expect_untouched(edge, frame(packet))
            continue
        watch = Watch(edge.maps)
        out = hit(edge, frame(packet))[14:]
        endpoint_id = service.backends[0].endpoint_id
        assert out.hex() == wrapped(packet, net.edge_relay, net.worker_relay, endpoint_id, net.client, 63).hex(), port
        assert (watch.change().drops, watch.change().stats) == ({}, {"in_packets": 1, "in_bytes": len(packet)})


@pytest.mark.parametrize("kind", RANGES)
def test_just_outside_a_range(edge: Programs, net: Net, kind: str) -> None:
    first, last = RANGES[kind]
    for port in {first - 1, (last + 1) % 65_536, 0}:
        expect_untouched(edge, frame(datagram(net.client, ranged(net, kind).vip, SPORT, port)))


def test_how_many_entries_the_ranges_have(net: Net) -> None:
    """The names above say what they mean."""
    counts = {kind: len(entries_of(ranged(net, kind).claim)) for kind in RANGES}
    assert counts["one prefix"] == 1
    assert counts["many prefixes"] > 10
    assert counts["all ports"] == 16


def test_every_port_of_a_range_is_in_and_no_other(edge: Programs, net: Net) -> None:
    """The kernel's lookup against arithmetic, for all 65,536 ports of an awkward range."""
    service, data = ranged(net, "many prefixes"), bytearray(frame(query(net, b"", zero_checksum=True)))
    start = 14 + (16 if net.version == 4 else 24)
    data[start : start + len(packed(service.vip))] = packed(service.vip)
    data[14 : 14 + net.header] = finish_header(bytes(data[14 : 14 + net.header]))
    place = 14 + net.header + 2
    found = set()
    for port in range(0, 65_536):
        data[place : place + 2] = port.to_bytes(2, "big")
        if len(edge.run("edge_xdp", bytes(data)).data) != len(data):
            found.add(port)
    assert found == set(range(10_001, 19_999))


def test_a_drained_range(edge_programs: Programs, net: Net) -> None:
    vip, backend = net.vip(99), BackendWanted(net.id(99), "worker1", 0)
    edge_programs.fill_edge(ServiceWanted("drained range", vip, 100, 200, (backend,)))
    expect_drop(edge_programs, frame(datagram(net.client, vip, 1, 150)), "no_backend")


def test_the_last_range_goes(edge_programs: Programs, net: Net) -> None:
    service = ranged(net, "many prefixes")
    packet = frame(datagram(net.client, service.vip, 1, 12_345))
    edge_programs.fill_edge(service)
    hit(edge_programs, packet)
    edge_programs.fill_edge(dns(net))
    expect_untouched(edge_programs, packet)
    assert all(edge_programs.maps[name].read()[0] == b"" for name in ("ew_ranges", "ew_ranges6"))


def record_of(edge: Programs, service: ServiceWanted) -> bytes:
    """A service's record as it lies in its map."""
    entry = entries_of(service.claim)[0]
    keys, values = edge.maps[entry.map].read()
    size = len(entry.pack())
    at = [keys[i : i + size] for i in range(0, len(keys), size)].index(entry.pack())
    return values[at * layout.SERVICE.size : (at + 1) * layout.SERVICE.size]


def test_the_narrowest_claim_wins(edge: Programs, net: Net) -> None:
    """The planner refuses overlaps; what the lookup does with one is certain all the same."""
    family, wide = "6" if net.version == 6 else "", ranged(net, "all ports")
    packet = frame(datagram(net.client, wide.vip, SPORT, 40_005))
    assert chosen_by(net, hit(edge, packet)) == wide.backends[0].endpoint_id
    other = record_of(edge, dns(net)), record_of(edge, ranged(net, "one prefix"))
    narrow = Entry("ew_ranges" + family, wide.vip, 40_000, 13)
    edge.put("ew_ranges" + family, narrow.pack(), other[0])
    assert chosen_by(net, hit(edge, packet)) == net.dns_endpoint, "the longer prefix"
    single_port = Entry("ew_services" + family, wide.vip, 40_005, 16)
    edge.put_service(single_port, other[1])
    assert chosen_by(net, hit(edge, packet)) == net.id(90), "the single port"
    edge.fill_edge(*SERVICES)
    assert chosen_by(net, hit(edge, packet)) == wide.backends[0].endpoint_id, "strays are removed"


# --- The tables in front of the services' maps ------------------------------------------------------------------------


def front_of(net: Net) -> tuple[str, bytes, Entry]:
    """The front table's name, the place of the DNS service in it, and that service's entry."""
    (entry,) = entries_of(dns(net).claim)
    place = direct.place_of(entry.pack(), layout.DIRECT_PLACES)
    return direct.FRONT_OF[entry.map], layout.U32.of(place), entry


def test_a_service_alone_at_its_place_needs_no_hash_map(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(dns(net))
    _, _, entry = front_of(net)
    edge_programs.put(entry.map, entry.pack(), None)
    expect_relayed(edge_programs, net, query(net))


def test_a_place_that_asks_leads_to_the_hash_map(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(dns(net))
    name, place, entry = front_of(net)
    edge_programs.put(name, place, bytes(edge_programs.maps[name].info.value_size))
    expect_relayed(edge_programs, net, query(net))
    edge_programs.put(entry.map, entry.pack(), None)
    expect_untouched(edge_programs, frame(query(net)))


def test_nothing_is_asked_for_a_port_that_no_service_has(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(dns(net))
    expect_untouched(edge_programs, frame(datagram(net.client, net.dns_vip, SPORT, PORT + 1)))
    name, place, _ = front_of(net)
    nobody = layout.DIRECT6 if net.version == 6 else layout.DIRECT
    edge_programs.put(name, place, nobody.pack({"state": layout.DIRECT_NOBODY}))
    expect_untouched(edge_programs, frame(query(net)))


def place_of_port(vip: str, port: int) -> int:
    """The place of a service of one port."""
    return direct.place_of(entries_of((vip, port, port))[0].pack(), layout.DIRECT_PLACES)


def test_services_that_share_a_place_are_all_found(edge_programs: Programs, net: Net) -> None:
    first = dns(net)
    place = place_of_port(first.vip, first.port)
    others = itertools.product(range(60, 90), range(1, 65_536))  # about one port of each address has any given place
    number, port = next((number, port) for number, port in others if place_of_port(net.vip(number), port) == place)
    second = single(net, "second", number, port, BackendWanted(net.id(99), "worker1", 1))
    edge_programs.fill_edge(first, second)
    for service in (first, second):
        packet = frame(datagram(net.client, service.vip, SPORT, service.port))
        assert chosen_by(net, hit(edge_programs, packet)) == service.backends[0].endpoint_id


@pytest.mark.parametrize("kind", RANGES)
def test_a_trie_is_asked_only_where_no_bit_rules_it_out(edge_programs: Programs, net: Net, kind: str) -> None:
    service = ranged(net, kind)
    edge_programs.fill_edge(service)
    packet = datagram(net.client, service.vip, SPORT, service.last_port)
    (place,) = direct.places_of(service.vip, service.last_port, service.last_port, layout.DIRECT_PLACES)
    word, bit = divmod(place, 64)
    for value, is_relayed in ((0, True), (~(1 << bit) & (1 << 64) - 1, True), (1 << bit, False)):
        edge_programs.put("ew_no_range", layout.U32.of(word), layout.U64.of(value))
        if is_relayed:
            hit(edge_programs, frame(packet))
        else:
            expect_untouched(edge_programs, frame(packet))


# --- Maps that say what they should not ------------------------------------------------------------------------------


def test_no_live_backend(edge: Programs, net: Net) -> None:
    service = drained(net)
    expect_drop(edge, frame(datagram(net.client, service.vip, 1, service.port)), "no_backend")


def test_a_table_that_leads_to_an_empty_slot(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge()
    edge_programs.fill_edge(dns(net))
    edge_programs.put("ew_backends", layout.U32.of(0), bytes(layout.BACKEND.size))
    expect_drop(edge_programs, frame(query(net)), "no_backend")
    edge_programs.fill_edge(dns(net))
    expect_relayed(edge_programs, net, query(net))


def test_a_table_that_ends_outside_its_map(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(dns(net))
    (entry,) = entries_of(dns(net).claim)
    beyond = {"table_offset": 0, "table_size": 0xFFFFFFFF, "retired_index": 0}
    edge_programs.put_service(entry, layout.SERVICE.pack(beyond))
    expect_drop(edge_programs, frame(query(net)), "no_backend")
    edge_programs.fill_edge(dns(net))
    expect_relayed(edge_programs, net, query(net))


def test_not_configured(edge_programs: Programs, net: Net) -> None:
    edge_programs.fill_edge(dns(net))
    edge_programs.put("ew_config", layout.U32.of(0), layout.EDGE_CONFIG.pack({}))
    expect_drop(edge_programs, frame(query(net)), "not_configured")
    expect_untouched(edge_programs, frame(datagram(net.client, net.nowhere, 1, 2)))


# --- On interfaces ---------------------------------------------------------------------------------------------------


def answer(net: Net, payload: bytes = b"answer", **more: object) -> bytes:
    """A container's reply as the client shall see it, but for the time to live."""
    return datagram(net.dns_vip, net.client, PORT, SPORT, payload, **more)


def reply(net: Net, inner: bytes | None = None, **more: object) -> bytes:
    """A relay packet from the worker, for ``inner`` (what the client shall see)."""
    relay = {
        "source": net.worker_relay,
        "destination": net.edge_relay,
        "endpoint_id": net.dns_endpoint,
        "client": net.client,
        **more,
    }
    return relay_packet(inner=inner or answer(net), **relay)


def restored(net: Net, relay: bytes) -> bytes:
    """What the client must get for a relay packet of the DNS service."""
    return unwrapped(relay, net.dns_vip, net.client, hops_left(relay) - 1)


def expect_at_client(box: Box, packet: bytes) -> bytes:
    """What leaves the uplink next is this packet, in a frame to the client's address."""
    got = box.wire.read()
    assert got.hex() == frame(packet, source="02:00:00:00:00:01", destination=CLIENT_MAC).hex()
    return got[14:]


def expect_nothing_at_client(box: Box, net: Net) -> None:
    """Nothing left the uplink: the next thing there is what is sent now."""
    marker = reply(net, answer(net, b"marker"))
    box.tun.write(marker)
    expect_at_client(box, restored(net, marker))


def test_from_the_wire_into_the_tunnel(edge_box: Box, net: Net) -> None:
    watch, packet = edge_box.watch(), query(net)
    edge_box.wire.send(frame(packet))
    assert edge_box.tun.read().hex() == relayed(net, packet).hex()
    assert (watch.change().drops, watch.change().stats) == ({}, {"in_packets": 1, "in_bytes": len(packet)})


def test_generic_xdp_does_the_same(edge_box: Box) -> None:
    build = build_of("edge")
    steps = forwarder.ensure(desired("edge", build, xdp_mode="generic"), build)
    assert [(step.verb, step.name) for step in steps] == [("change", "edge_xdp on eth0")]
    for net in (V4, V6):
        edge_box.wire.send(frame(query(net)))
        assert edge_box.tun.read().hex() == relayed(net, query(net)).hex()


def test_what_is_not_for_a_service_reaches_the_box_itself(edge_box: Box, net: Net) -> None:
    with udp_socket(edge_box.ns, net.uplink, 9999) as mine:
        edge_box.wire.send(frame(datagram(net.client, net.uplink, SPORT, 9999, b"for the box")))
        data, sender = mine.recvfrom(100)
        assert (data, sender[:2]) == (b"for the box", (net.client, SPORT))


def test_a_forged_relay_packet_from_the_wire_goes_nowhere(edge_box: Box, net: Net) -> None:
    watch = edge_box.watch()
    forged = relay_packet(net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, query(net))
    edge_box.wire.send(frame(forged))
    edge_box.wire.send(frame(reply(net)))
    edge_box.wire.send(frame(query(net, b"marker")))
    assert edge_box.tun.read().hex() == relayed(net, query(net, b"marker")).hex()
    assert watch.change().drops == {"relay_from_outside": 2}


def test_from_the_tunnel_to_the_client(edge_box: Box, net: Net) -> None:
    watch = edge_box.watch()
    edge_box.tun.write(reply(net))
    packet = expect_at_client(edge_box, restored(net, reply(net)))
    assert ip_checksum_ok(packet)
    assert udp_checksum_ok(packet)
    assert packet == answer(net, ttl=62)
    assert (watch.change().drops, watch.change().stats) == ({}, {"out_packets": 1, "out_bytes": len(packet)})


@pytest.mark.parametrize(
    "inner",
    [
        *(
            pytest.param(make(net), id=f"{name} IPv{net.version}")
            for net in (V4, V6)
            for name, make in {
                "empty": partial(answer, payload=b""),
                "odd": partial(answer, payload=b"odd"),
                "large": partial(answer, payload=bytes(range(256)) * 5),
                "class": partial(answer, tos=184),
            }.items()
        ),
        pytest.param(answer(V4, zero_checksum=True), id="no checksum"),
        pytest.param(answer(V4, options=[b"\x01" * 28], tos=184, id=77, flags="DF"), id="header"),
        pytest.param(answer(V4, flags="MF"), id="first fragment"),
        pytest.param(answer(V4, frag=100), id="last fragment"),
        pytest.param(extended(answer(V6, fl=0xABCDE), DESTINATION), id="extension header"),
        pytest.param(extended(answer(V6), fragment_header(more=True)), id="first fragment IPv6"),
        pytest.param(extended(answer(V6), fragment_header(100)), id="last fragment IPv6"),
    ],
)
def test_any_reply_comes_through(edge_box: Box, inner: bytes) -> None:
    net = V6 if inner[0] >> 4 == 6 else V4
    edge_box.tun.write(reply(net, inner))
    expect_at_client(edge_box, restored(net, reply(net, inner)))


def test_a_client_behind_a_gateway(edge_box: Box, net: Net) -> None:
    relay = reply(net, datagram(net.dns_vip, net.far_client, PORT, SPORT), client=net.far_client)
    edge_box.tun.write(relay)
    assert udp_checksum_ok(expect_at_client(edge_box, unwrapped(relay, net.dns_vip, net.far_client, 62)))


def at_relay(net: Net) -> tuple[str, str]:
    """From the worker's relay address to the edge's."""
    return net.worker_relay, net.edge_relay


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(partial(reply, endpoint_id=999), "unknown_endpoint", id="unknown endpoint"),
        pytest.param(partial(reply, endpoint_id=0), "unknown_endpoint", id="endpoint 0"),
        pytest.param(lambda n: reply(n, source=n.worker2_relay), "wrong_worker", id="another worker's endpoint"),
        pytest.param(lambda n: reply(n, source=n.worker_overlay), "wrong_worker", id="not a relay address"),
        pytest.param(
            lambda n: reply(n, endpoint_id={4: V6, 6: V4}[n.version].dns_endpoint),
            "wrong_worker",
            id="the other family's endpoint",
        ),
        pytest.param(
            lambda n: reply(n, datagram(n.dns_vip, n.client, PORT + 1, SPORT)),
            "wrong_port",
            id="another service's port",
        ),
        pytest.param(partial(reply, ttl=1), "ttl_expired", id="time to live 1"),
        pytest.param(partial(reply, ttl=0), "ttl_expired", id="time to live 0"),
        pytest.param(lambda n: datagram(*at_relay(n), 1, 2), "not_relayed", id="no option"),
        pytest.param(lambda n: tcp(n, n.edge_relay), "not_relayed", id="TCP"),
        pytest.param(lambda n: ping(n, n.edge_relay, n.worker_relay), "not_relayed", id="ping"),
        pytest.param(lambda n: reply(n)[: n.header + 4], "malformed", id="truncated"),
    ],
)
def test_what_the_tunnel_must_not_bring(edge_box: Box, net: Net, make: Callable[[Net], bytes], reason: str) -> None:
    watch = edge_box.watch()
    edge_box.tun.write(make(net))
    assert (watch.change().drops, watch.change().stats) == ({reason: 1}, {})
    expect_nothing_at_client(edge_box, net)


def extended6(*headers: tuple[int, bytes]) -> bytes:
    """A packet between the relay addresses without a relay option, but with other headers."""
    return extended(datagram(*at_relay(V6), 1, 2), *headers)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(reply(V4, head=b"\x9e\x0c\x02"), "bad_option", id="other version"),
        pytest.param(reply(V4, head=b"\x9e\x10"), "not_relayed", id="other length"),
        pytest.param(reply(V4, head=b"\x01\x01"), "not_relayed", id="other option"),
        pytest.param(datagram(*at_relay(V4), 1, 2, options=[b"\x01" * 8]), "not_relayed", id="no room"),
        pytest.param(reply(V6, head=b"\x11\x03"), "bad_option", id="other header length IPv6"),
        pytest.param(reply(V6, head=b"\x11\x02\x5e\x13"), "bad_option", id="shorter option IPv6"),
        pytest.param(reply(V6, head=b"\x11\x02\x5e\x15"), "bad_option", id="longer option IPv6"),
        pytest.param(reply(V6, head=b"\x11\x02\x1e\x14"), "not_relayed", id="other option IPv6"),
        pytest.param(extended6(DESTINATION), "not_relayed", id="other destination option IPv6"),
        pytest.param(extended6(HOP_BY_HOP), "not_relayed", id="hop by hop IPv6"),
        pytest.param(extended(reply(V6), HOP_BY_HOP), "not_relayed", id="not the first header IPv6"),
    ],
)
def test_options_that_the_tunnel_must_not_bring(edge_box: Box, packet: bytes, reason: str) -> None:
    watch = edge_box.watch()
    edge_box.tun.write(packet)
    assert (watch.change().drops, watch.change().stats) == ({reason: 1}, {})
    expect_nothing_at_client(edge_box, V6 if packet[0] >> 4 == 6 else V4)


def test_a_relay_packet_truncated_anywhere(edge_box: Box, net: Net) -> None:
    """WireGuard lets none through that is shorter than it says; neither does this."""
    whole = reply(net)
    for length in range(1, net.header + net.option):
        watch = edge_box.watch()
        edge_box.tun.write(whole[:length])
        expected = {"malformed": 1} if length >= net.header else {}
        assert (watch.change().drops, watch.change().stats) == (expected, {}), length
    expect_nothing_at_client(edge_box, net)


def test_ordinary_overlay_traffic_passes(edge_box: Box, net: Net) -> None:
    watch = edge_box.watch()
    with udp_socket(edge_box.ns, net.edge_overlay, 9999) as mine:
        edge_box.tun.write(datagram(net.worker_overlay, net.edge_overlay, 1234, 9999, b"overlay"))
        data, sender = mine.recvfrom(100)
        assert (data, sender[:2]) == (b"overlay", (net.worker_overlay, 1234))
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def expect_there_and_back(box: Box, net: Net, vip: str, port: int, endpoint_id: int) -> None:
    """A client's packet to a port goes to this endpoint, and its answer from there to the client."""
    packet = datagram(net.client, vip, SPORT, port)
    box.wire.send(frame(packet))
    out = box.tun.read()
    assert out.hex() == wrapped(packet, net.edge_relay, net.worker_relay, endpoint_id, net.client, 63).hex(), port
    box.tun.write(reply(net, datagram(vip, net.client, port, SPORT), endpoint_id=endpoint_id))
    expect_at_client(box, datagram(vip, net.client, port, SPORT, ttl=62))


def test_a_second_service_has_its_own_way(edge_box: Box, net: Net) -> None:
    expect_there_and_back(edge_box, net, net.echo_vip, ECHO_PORT, net.echo_endpoint)


@pytest.mark.parametrize("port", [GAMES_PORT, 10_050, GAMES_LAST_PORT])
def test_a_port_of_a_range_there_and_back(edge_box: Box, net: Net, port: int) -> None:
    expect_there_and_back(edge_box, net, net.games_vip, port, net.games_endpoint)


def test_a_service_of_two_ports_and_a_range_has_these_and_no_others(edge_box: Box, net: Net) -> None:
    """Each of the three has an endpoint of its own, and no other's answers are taken for its own."""
    params, vip = planned([7, "10-19", 30])["edge"], net.vip(LISTED_NUMBER)
    contents.ensure("edge", {**params, "drop_unserved": True})
    endpoints = {
        service["port"]: service["backends"][0]["endpoint_id"]
        for service in params["services"]
        if service["vip"] == vip
    }
    assert set(endpoints) == {7, 10, 30}
    inside, outside = {7: 7, 10: 10, 11: 10, 18: 10, 19: 10, 30: 30}, (0, 6, 8, 9, 20, 29, 31)
    watch = edge_box.watch()
    for port, first in inside.items():
        expect_there_and_back(edge_box, net, vip, port, endpoints[first])
    for port in outside:
        edge_box.wire.send(frame(datagram(net.client, vip, SPORT, port)))
        edge_box.tun.write(reply(net, datagram(vip, net.client, port, SPORT), endpoint_id=endpoints[10]))
    edge_box.tun.write(reply(net, datagram(vip, net.client, 30, SPORT), endpoint_id=endpoints[7]))
    expect_there_and_back(edge_box, net, vip, 7, endpoints[7])  # what comes next at either end is this
    change = watch.change()
    assert change.drops == {"not_a_service": len(outside), "wrong_port": len(outside) + 1}
    assert (change.stats["in_packets"], change.stats["out_packets"]) == (len(inside) + 1, len(inside) + 1)
