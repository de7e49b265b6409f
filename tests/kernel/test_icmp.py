# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ICMP through the real programs: answers to pings and to packets that do not fit, errors translated both ways.

Checksums are computed afresh by scapy, or judged by a kernel whose sockets hear of the error.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BOX_MAC,
    CLIENT_MAC,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    EDGE_PARAMS,
    EMPTY_DESTINATION,
    PORT,
    UDP_SEGMENT,
    V4,
    V6,
    WORKER_PARAMS,
    Box,
    EdgeBox,
    Net,
    WorkerBox,
    addresses_of,
    container_frame,
    cut,
    datagram,
    events,
    extended,
    fill_icmp_buckets,
    frame,
    header_length,
    hops_left,
    in_stage,
    ip_checksum_ok,
    limit_icmp_errors,
    packed,
    packet_length,
    relay_packet,
    source_of_packet,
    udp_socket,
    unwrapped,
    wrapped,
)
from scapy.layers.inet import ICMP, IP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.packet import Packet, Raw
from scapy.utils import checksum

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SPORT = 40_000
WIREGUARD_MTU = 1420
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # linux/in.h
IPV6_MTU_DISCOVER = 23  # linux/in6.h
# Bytes of an error packet, as long as it may be.
LONGEST = {4: 576, 6: 1280}


def fits(net: Net) -> int:
    """The longest packet that WireGuard carries with the relay option."""
    return WIREGUARD_MTU - net.option


def sized(net: Net, source: str, destination: str, sport: int, dport: int, length: int, **more: Any) -> bytes:
    """A UDP packet of a length in all; over IPv4 with DF set."""
    ip = {"flags": "DF", **more} if net is V4 else more
    return datagram(source, destination, sport, dport, bytes(length - net.header - 8), **ip)


def query(net: Net, length: int = 100, **more: Any) -> bytes:
    """A client's packet to "dns"."""
    return sized(net, net.client, net.dns_vip, SPORT, PORT, length, **more)


def icmp_checksum_ok(packet: bytes) -> bool:
    """Whether the checksum of ICMP or ICMPv6 is right."""
    start = header_length(packet)
    body = packet[start : packet_length(packet)]
    pseudo = addresses_of(packet) + struct.pack("!IHBB", len(body), 0, 0, 58) if start == 40 else b""
    return checksum(pseudo + body) == 0


def ping(
    net: Net, source: str | None = None, payload: bytes = b"payload", destination: str | None = None, **ip: Any
) -> bytes:
    """An echo request, to a VIP where nothing else is said."""
    source, vip = source or net.client, destination or net.dns_vip
    if net is V6:
        return bytes(IPv6(src=source, dst=vip, **ip) / ICMPv6EchoRequest(id=7, seq=3, data=payload))
    return bytes(IP(src=source, dst=vip, **ip) / ICMP(type=8, id=7, seq=3) / Raw(payload))


Error = Callable[[Net], Packet]


def unreachable(net: Net) -> Packet:
    """Port unreachable."""
    return ICMPv6DestUnreach(code=4) if net is V6 else ICMP(type=3, code=3)


def too_big(net: Net, mtu: int = 1300) -> Packet:
    """Packet too big, fragmentation needed."""
    return ICMPv6PacketTooBig(mtu=mtu) if net is V6 else ICMP(type=3, code=4, nexthopmtu=mtu)


def time_exceeded(net: Net) -> Packet:
    """Time exceeded in transit."""
    return ICMPv6TimeExceeded() if net is V6 else ICMP(type=11, code=0)


def parameter_problem(net: Net) -> Packet:
    """Parameter problem."""
    return ICMPv6ParamProblem(ptr=6) if net is V6 else ICMP(type=12, ptr=9)


def error_packet(net: Net, source: str, destination: str, error: Packet, quoted: bytes, **ip: Any) -> bytes:
    """An error about a packet."""
    return bytes((IPv6 if net is V6 else IP)(src=source, dst=destination, **ip) / error / Raw(quoted))


class Counted:
    """What a piece of a test counts, of drops and of other events."""

    def __init__(self, box: Box) -> None:
        self._box, self._watch, self._events = box, box.watch(), events(box.maps)

    def moved(self) -> tuple[dict[str, int], dict[str, int]]:
        """Drops by reason and other events since."""
        now = events(self._box.maps)
        return self._watch.change().drops, {
            name: n - self._events[name] for name, n in now.items() if n != self._events[name]
        }


def at_client(box: Box, packet: bytes) -> bytes:
    """What the client gets for a packet that it sends; the answer goes back where the packet came from."""
    box.wire.send(frame(packet))
    data = box.wire.read()
    assert data[:12] == bytes.fromhex((CLIENT_MAC + BOX_MAC).replace(":", ""))
    return data[14:]


def nothing_at_client(box: Box, net: Net, packet: bytes) -> None:
    """The client gets no answer: the next thing it sees is that to a ping."""
    box.wire.send(frame(packet))
    assert at_client(box, ping(net, payload=b"marker")).endswith(b"marker")


# --- Pings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 5])
def test_a_ping_to_a_vip_is_answered(edge_box: Box, net: Net, payload: bytes) -> None:
    counted = Counted(edge_box)
    sent = ping(net, payload=payload)
    got = at_client(edge_box, sent)
    got = got[: packet_length(got)]
    assert got[net.header] == (129 if net is V6 else 0)
    assert got[net.header + 1] == 0
    assert got[net.header + 4 :] == sent[net.header + 4 :]
    assert addresses_of(got) == packed(net.dns_vip) + packed(net.client)
    assert hops_left(got) == 64
    assert ip_checksum_ok(got)
    assert icmp_checksum_ok(got)
    assert counted.moved() == ({}, {"echo_answered": 1})


def test_a_ping_elsewhere_is_the_hosts(edge_box: Box, net: Net) -> None:
    """The box's own address answers by its own stack: our counter stays."""
    counted = Counted(edge_box)
    assert source_of_packet(at_client(edge_box, ping(net, destination=net.uplink))) == net.uplink
    assert counted.moved() == ({}, {})


@pytest.mark.parametrize("source", ["127.0.0.1", "0.0.0.1", "224.0.0.5", "255.255.255.255", "::1", "ff02::1"])
def test_a_ping_from_no_single_host_is_not_answered(edge_box: Box, source: str) -> None:
    net = V6 if ":" in source else V4
    counted = Counted(edge_box)
    nothing_at_client(edge_box, net, ping(net, source))
    assert counted.moved() == ({"icmp_limited": 1}, {"echo_answered": 1})


def test_pings_are_limited(edge_box: Box, net: Net) -> None:
    fill_icmp_buckets(edge_box.maps, 1 << 62)
    counted = Counted(edge_box)
    edge_box.wire.send(frame(ping(net)))
    edge_box.wire.send(frame(query(net)))
    edge_box.tun.read()
    assert counted.moved() == ({"icmp_limited": 1}, {"icmp_suppressed": 1})


# --- Packets that do not fit, or whose time is up --------------------------------------------------------------------


def expect_error(
    net: Net, got: bytes, source: str, destination: str, kind: tuple[int, int], rest: int, about: bytes
) -> None:
    """An error as RFC 792 and RFC 4443 want it, that quotes as much of the packet as it may."""
    got = got[: packet_length(got)]
    assert addresses_of(got) == packed(source) + packed(destination)
    assert ip_checksum_ok(got)
    assert icmp_checksum_ok(got)
    assert (got[net.header], got[net.header + 1]) == kind
    assert int.from_bytes(got[net.header + 4 : net.header + 8], "big") == rest
    quoted = got[net.header + 8 :]
    assert about.startswith(quoted)
    assert len(quoted) == min(len(about), LONGEST[net.version] - net.header - 8) // 4 * 4


TOO_BIG = {4: (3, 4), 6: (2, 0)}
TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}


@pytest.mark.parametrize("length", [1, 91])
def test_a_packet_that_does_not_fit_is_refused(edge_box: Box, net: Net, length: int) -> None:
    counted = Counted(edge_box)
    sent = query(net, fits(net) + length)
    expect_error(net, at_client(edge_box, sent), net.dns_vip, net.client, TOO_BIG[net.version], fits(net), sent)
    assert counted.moved() == ({"too_big": 1}, {"too_big_sent": 1})


def test_a_packet_that_just_fits_is_carried(edge_box: Box, net: Net) -> None:
    edge_box.wire.send(frame(query(net, fits(net))))
    assert len(edge_box.tun.read()) == WIREGUARD_MTU


def test_a_packet_that_may_be_fragmented_is_carried(edge_box: Box) -> None:
    edge_box.wire.send(frame(query(V4, 1500, flags=0)))
    assert len(edge_box.tun.read()) == 1512


def test_fragments_are_carried_whatever_their_length(edge_box: Box, net: Net) -> None:
    """To refuse one would lose the whole datagram, which its sender has cut already."""
    counted = Counted(edge_box)
    fragments = cut(datagram(net.client, net.dns_vip, SPORT, PORT, bytes(3000)), 77)
    for fragment in fragments:
        edge_box.wire.send(frame(fragment))
    assert [len(edge_box.tun.read()) for _ in fragments] == [len(fragment) + net.option for fragment in fragments]
    assert max(map(len, fragments)) > fits(net)
    assert counted.moved() == ({}, {})


def test_a_service_that_fragments_carries_whatever_comes(edge_box: Box, net: Net) -> None:
    services = [{**service, "oversize": "fragment"} for service in EDGE_PARAMS["services"]]
    contents.ensure("edge", {**EDGE_PARAMS, "services": services})
    edge_box.wire.send(frame(query(net, 1500)))
    assert len(edge_box.tun.read()) == 1500 + net.option


def test_the_mtu_is_wireguards_own(edge_box: Box, net: Net) -> None:
    edge_box.ns.run("ip", "link", "set", "wg0", "mtu", "1304")
    steps = contents.ensure("edge", EDGE_PARAMS)
    assert [(step.kind, step.after["wireguard_mtu"]) for step in steps] == [("configuration", 1304)]
    sent = query(net, 1304 - net.option + 1)
    got = at_client(edge_box, sent)
    expect_error(net, got, net.dns_vip, net.client, TOO_BIG[net.version], 1304 - net.option, sent)


@pytest.mark.parametrize("length", [61, 64, 300, 1391])
def test_a_packet_whose_time_is_up_is_answered_from_the_vip(edge_box: Box, net: Net, length: int) -> None:
    counted = Counted(edge_box)
    sent = query(net, length, ttl=1)
    expect_error(net, at_client(edge_box, sent), net.dns_vip, net.client, TIME_EXCEEDED[net.version], 0, sent)
    assert counted.moved() == ({"ttl_expired": 1}, {"time_exceeded_sent": 1})


def test_errors_are_limited(edge_box: Box, net: Net) -> None:
    fill_icmp_buckets(edge_box.maps, 1 << 62)
    counted = Counted(edge_box)
    edge_box.wire.send(frame(query(net, 1500)))
    edge_box.wire.send(frame(query(net, ttl=1)))
    edge_box.wire.send(frame(query(net)))
    edge_box.tun.read()
    assert counted.moved() == ({"too_big": 1, "ttl_expired": 1}, {"icmp_suppressed": 2})


@pytest.mark.parametrize("source", ["127.0.0.1", "224.0.0.5", "::1", "ff02::1"])
def test_no_error_goes_to_no_single_host(edge_box: Box, source: str) -> None:
    net = V6 if ":" in source else V4
    counted = Counted(edge_box)
    nothing_at_client(edge_box, net, sized(net, source, net.dns_vip, SPORT, PORT, 100, ttl=1))
    assert counted.moved() == ({"ttl_expired": 1}, {"echo_answered": 1})


def test_no_error_answers_a_broadcast_frame(edge_box: Box, net: Net) -> None:
    counted = Counted(edge_box)
    edge_box.wire.send(frame(query(net, ttl=1), destination="ff:ff:ff:ff:ff:ff"))
    assert at_client(edge_box, ping(net, payload=b"marker")).endswith(b"marker")
    assert counted.moved() == ({"ttl_expired": 1}, {"echo_answered": 1})


def last_hop(net: Net, length: int = 100, inner: bytes | None = None, **more: Any) -> bytes:
    """A request to "echo" as it comes out of the tunnel on the worker, with one hop left."""
    inner = inner or sized(net, net.client, net.echo_vip, SPORT, ECHO_PORT, length, ttl=1)
    client = source_of_packet(inner)
    return relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, client, inner, **{"ttl": 1, **more})


@pytest.mark.parametrize("length", [50, 61, 64, 300, 1391])
def test_a_request_whose_time_is_up_at_the_worker_is_answered_from_the_vip(
    edge_box: Box, worker_box: WorkerBox, net: Net, length: int
) -> None:
    counted, at_edge = Counted(worker_box), Counted(edge_box)
    worker_box.tun.write(last_hop(net, length))
    got = worker_box.tun.read()
    assert source_of_packet(got) == net.worker_relay
    assert counted.moved() == ({"ttl_expired": 1}, {"time_exceeded_sent": 1})
    edge_box.tun.write(got)
    about = sized(net, net.client, net.echo_vip, SPORT, ECHO_PORT, length, ttl=1)
    error = edge_box.wire.read()[14:]
    expect_error(net, error, net.echo_vip, net.client, TIME_EXCEEDED[net.version], 0, about)
    assert at_edge.moved() == ({}, {"error_relayed": 1})


def not_answered_at_the_worker(net: Net) -> list[bytes]:
    """Requests with one hop left whose client no edge would tell."""
    plain = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, bytes(2000), ttl=1)
    found = [
        last_hop(net, inner=cut(plain, 77)[1]),
        in_stage(last_hop(net), 3),
        in_stage(last_hop(net), 4),
        last_hop(net)[:-1],
        last_hop(net, inner=datagram("ff02::1" if net is V6 else "224.0.0.5", net.echo_vip, SPORT, ECHO_PORT)),
    ]
    if net is V6:
        return [*found, last_hop(net, inner=extended(query(net), EMPTY_DESTINATION))]
    options = IP(src=net.client, dst=net.echo_vip, options=[IPOption(b"\x01" * 4)]) / UDP(sport=SPORT, dport=ECHO_PORT)
    return [*found, last_hop(net, inner=bytes(options))]


def test_requests_that_the_worker_drops_in_silence(worker_box: WorkerBox, net: Net) -> None:
    counted = Counted(worker_box)
    packets = not_answered_at_the_worker(net)
    for packet in packets:
        worker_box.tun.write(packet)
    fill_icmp_buckets(worker_box.maps, 1 << 62)
    worker_box.tun.write(last_hop(net))
    assert counted.moved() == ({"ttl_expired": len(packets) + 1}, {"icmp_suppressed": 1})
    assert worker_box.tun.take() == b""


# --- Errors about replies: into the tunnel, and out of it to the container -------------------------------------------


def reply(net: Net, sport: int = PORT, dport: int = SPORT, vip: str | None = None, length: int = 200) -> bytes:
    """A reply as the client gets it, and as an error quotes it."""
    return sized(net, vip or net.dns_vip, net.client, sport, dport, length)


@pytest.mark.parametrize("error", [unreachable, too_big, time_exceeded, parameter_problem])
def test_an_error_about_a_reply_goes_to_the_replys_worker(edge_box: Box, net: Net, error: Error) -> None:
    counted = Counted(edge_box)
    sent = error_packet(net, net.far_client, net.dns_vip, error(net), reply(net))
    edge_box.wire.send(frame(sent))
    relayed = wrapped(sent, net.edge_relay, net.worker_relay, net.dns_endpoint, net.far_client, hops_left(sent) - 1)
    assert edge_box.tun.read() == relayed
    assert counted.moved() == ({}, {"error_relayed": 1})


def not_ours(net: Net) -> list[bytes]:
    """Errors to a VIP about nothing that came from a service of it."""

    def about(quoted: bytes, source: str = net.client, **ip: Any) -> bytes:
        return error_packet(net, source, net.dns_vip, unreachable(net), quoted, **ip)

    found = [
        about(reply(net, sport=PORT + 1)),
        about(reply(net, vip=net.echo_vip)),
        about(reply(net)[: net.header + 7]),
        about(b""),
    ]
    if net is V6:
        return [*found, about(extended(reply(net), EMPTY_DESTINATION))]
    later = reply(net)
    fragment = later[:6] + b"\x00\x05" + later[8:]
    options = bytes(IP(src=V4.dns_vip, dst=V4.client, options=[IPOption(b"\x01" * 4)]) / Raw(later[20:]))
    tcp = later[:9] + b"\x06" + later[10:]
    padded = about(reply(net), options=[IPOption(b"\x01" * 4)])
    return [*found, about(fragment), about(options), about(tcp), padded, about(reply(net), flags="MF")]


def test_an_error_about_nothing_of_ours_is_the_hosts(edge_box: Box, net: Net) -> None:
    counted = Counted(edge_box)
    packets = not_ours(net)
    for packet in packets:
        edge_box.wire.send(frame(packet))
    edge_box.wire.send(frame(query(net)))
    assert edge_box.tun.read() == wrapped(
        query(net), net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, 63
    )
    assert counted.moved() == ({}, {})


def test_errors_that_the_edge_must_not_relay(edge_box: Box, net: Net) -> None:
    counted = Counted(edge_box)
    hops = {"hlim": 1} if net is V6 else {"ttl": 1}
    edge_box.wire.send(frame(error_packet(net, net.client, net.dns_vip, unreachable(net), reply(net), **hops)))
    whole = error_packet(net, net.client, net.dns_vip, unreachable(net), reply(net))
    edge_box.wire.send(frame(whole[:-1]))
    edge_box.wire.send(frame(query(net)))
    edge_box.tun.read()
    assert counted.moved() == ({"ttl_expired": 1, "malformed": 1}, {})


def known_flow(box: WorkerBox, net: Net) -> None:
    """Let the worker's container hear from the client, at the service "echo"."""
    request = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT)
    with udp_socket(box.container, net.container, ECHO_CONTAINER_PORT) as listening:
        box.tun.write(relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, request))
        assert listening.recv(100) == b"query"
    box.wire.read()


def relayed_error(net: Net, error: Packet, quoted: bytes, sender: str | None = None, **more: Any) -> bytes:
    """An error about a reply of "echo" as it comes out of the tunnel on the worker."""
    sender = sender or net.far_client
    inner = error_packet(net, sender, net.echo_vip, error, quoted)
    return relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, sender, inner, **more)


@pytest.mark.parametrize("error", [unreachable, too_big, time_exceeded, parameter_problem])
@pytest.mark.parametrize("zero_checksum", [False, True])
def test_an_error_reaches_the_container_translated(
    worker_box: WorkerBox, net: Net, error: Error, zero_checksum: bool
) -> None:
    known_flow(worker_box, net)
    counted = Counted(worker_box)
    quoted = datagram(net.echo_vip, net.client, ECHO_PORT, SPORT, b"reply", zero_checksum=zero_checksum)
    worker_box.tun.write(relayed_error(net, error(net), quoted))
    got = worker_box.wire.read()[14:]
    theirs = datagram(net.container, net.client, ECHO_CONTAINER_PORT, SPORT, b"reply", zero_checksum=zero_checksum)
    hops = {"hlim": 62} if net is V6 else {"ttl": 62}
    assert got == error_packet(net, net.far_client, net.container, error(net), theirs, **hops)
    assert counted.moved() == ({}, {"error_relayed": 1})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda net: relayed_error(net, unreachable(net), reply(net, ECHO_PORT, SPORT + 1, net.echo_vip)),
            "unknown_flow",
        ),
        (lambda net: relayed_error(net, unreachable(net), reply(net, PORT, SPORT, net.echo_vip)), "unknown_endpoint"),
        (lambda net: relayed_error(net, unreachable(net), reply(net, ECHO_PORT)), "not_relayed"),
        (lambda net: relayed_error(net, unreachable(net), b"short"), "not_relayed"),
        (
            lambda net: relayed_error(net, unreachable(net), reply(net, ECHO_PORT, SPORT, net.echo_vip), ttl=1),
            "ttl_expired",
        ),
        (
            lambda net: relay_packet(
                net.edge_relay,
                net.worker_relay,
                net.echo_endpoint,
                net.client,
                ping(net, destination=net.echo_vip, payload=reply(net, ECHO_PORT, SPORT, net.echo_vip)),
            ),
            "not_relayed",
        ),
    ],
)
def test_errors_that_no_container_may_get(
    worker_box: WorkerBox, net: Net, make: Callable[[Net], bytes], reason: str
) -> None:
    known_flow(worker_box, net)
    counted = Counted(worker_box)
    worker_box.tun.write(make(net))
    known_flow(worker_box, net)
    assert counted.moved() == ({reason: 1}, {})


def connected(box: WorkerBox, net: Net) -> socket.socket:
    """The container's own socket towards the client, which hears of errors."""
    known_flow(box, net)
    made = udp_socket(box.container, net.container, ECHO_CONTAINER_PORT)
    made.connect((net.client, SPORT))
    return made


def test_an_application_hears_that_nobody_listens(worker_box: WorkerBox, net: Net) -> None:
    with connected(worker_box, net) as made:
        made.send(b"answer")
        worker_box.tun.read()
        worker_box.tun.write(relayed_error(net, unreachable(net), reply(net, ECHO_PORT, SPORT, net.echo_vip)))
        with pytest.raises(ConnectionRefusedError):
            made.recv(100)


def forbid_fragments(made: socket.socket, net: Net) -> None:
    """Do path MTU discovery as QUIC does: the kernel must not fragment (ip(7), ipv6(7))."""
    level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if net is V6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
    made.setsockopt(level, option, IP_PMTUDISC_DO)


def longest_payload(made: socket.socket, net: Net) -> int:
    """What the kernel lets a socket send over the path, in bytes of UDP payload."""
    level, option = (socket.IPPROTO_IPV6, 24) if net is V6 else (socket.IPPROTO_IP, 14)  # IPV6_MTU, IP_MTU
    return made.getsockopt(level, option) - net.header - 8


def test_an_application_learns_the_mtu_of_the_clients_path(worker_box: WorkerBox, net: Net) -> None:
    with connected(worker_box, net) as made:
        forbid_fragments(made, net)
        made.send(bytes(1300))
        worker_box.tun.read()
        quoted = reply(net, ECHO_PORT, SPORT, net.echo_vip, net.header + 8 + 1300)[:500]
        worker_box.tun.write(relayed_error(net, too_big(net, 1290), quoted))
        with pytest.raises(OSError, match="too long") as raised:
            made.recv(100)
        assert raised.value.errno == errno.EMSGSIZE
        assert longest_payload(made, net) == 1290 - net.header - 8


# --- Replies that do not fit -----------------------------------------------------------------------------------------


def test_an_application_learns_what_wireguard_carries(worker_box: WorkerBox, net: Net) -> None:
    with connected(worker_box, net) as made:
        forbid_fragments(made, net)
        counted = Counted(worker_box)
        made.send(bytes(1440))
        with pytest.raises(OSError, match="too long") as raised:
            made.recv(100)
        assert raised.value.errno == errno.EMSGSIZE
        assert longest_payload(made, net) == fits(net) - net.header - 8
        made.send(bytes(longest_payload(made, net)))
        assert len(worker_box.tun.read()) == WIREGUARD_MTU
        assert counted.moved() == ({"too_big": 1}, {"too_big_sent": 1})


def test_segments_count_and_not_what_they_are_cut_from(worker_box: WorkerBox, net: Net) -> None:
    with connected(worker_box, net) as made:
        forbid_fragments(made, net)
        made.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1300)
        made.send(bytes(3900))
        assert [len(worker_box.tun.read()) for _ in range(3)] == [1300 + 8 + net.header + net.option] * 3


def test_segments_that_do_not_fit_are_refused(worker_box: WorkerBox, net: Net) -> None:
    with connected(worker_box, net) as made:
        forbid_fragments(made, net)
        made.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1440)
        made.send(bytes(4320))
        with pytest.raises(OSError, match="too long"):
            made.recv(100)
        assert longest_payload(made, net) == fits(net) - net.header - 8


def test_a_containers_fragments_are_carried_whatever_their_length(worker_box: WorkerBox, net: Net) -> None:
    with connected(worker_box, net) as made:
        made.send(bytes(3000))
        sizes = [len(worker_box.tun.read()) for _ in range(3)]
    assert max(sizes) > WIREGUARD_MTU


def test_an_endpoint_that_fragments_carries_whatever_comes(worker_box: WorkerBox, net: Net) -> None:
    endpoints = [{**endpoint, "oversize": "fragment"} for endpoint in WORKER_PARAMS["endpoints"]]
    contents.ensure("worker", {**WORKER_PARAMS, "endpoints": endpoints})
    with connected(worker_box, net) as made:
        forbid_fragments(made, net)
        made.send(bytes(1440))
        assert len(worker_box.tun.read()) == 1440 + 8 + net.header + net.option


# --- A container's errors: into the tunnel, and out of it to the client ----------------------------------------------


def test_a_containers_error_goes_back_as_the_vips(worker_box: WorkerBox, net: Net) -> None:
    """Nobody listens in the container, so its kernel says so about the request."""
    limit_icmp_errors(worker_box.container, 0)
    counted = Counted(worker_box)
    request = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT)
    worker_box.tun.write(relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, request))
    got = worker_box.tun.read()
    assert source_of_packet(got) == net.worker_relay
    inner = unwrapped(got, net.echo_vip, net.client, hops_left(got))
    assert ip_checksum_ok(inner)
    assert icmp_checksum_ok(inner)
    assert tuple(inner[net.header : net.header + 2]) == ((1, 4) if net is V6 else (3, 3))
    delivered = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, ttl=62)
    assert inner[net.header + 8 :] == delivered
    assert counted.moved() == ({}, {"error_relayed": 1})


def about_request(net: Net, quoted: bytes | None = None, source: str | None = None, **ip: Any) -> bytes:
    """A container's error about a request of the flow that :func:`known_flow` made."""
    quoted = datagram(net.client, net.container, SPORT, ECHO_CONTAINER_PORT) if quoted is None else quoted
    return error_packet(net, source or net.container, net.client, unreachable(net), quoted, **ip)


def test_a_containers_other_errors_are_the_hosts(worker_box: WorkerBox, net: Net) -> None:
    known_flow(worker_box, net)
    counted = Counted(worker_box)
    others = [
        about_request(net, datagram(net.client, net.container, SPORT + 1, ECHO_CONTAINER_PORT)),
        about_request(net, datagram(net.far_client, net.container, SPORT, ECHO_CONTAINER_PORT)),
        about_request(net, source=net.other_container),
        about_request(net, b"short"),
    ]
    if net is V4:
        others += [about_request(net, flags="MF"), about_request(net, options=[IPOption(b"\x01" * 4)])]
    for packet in others:
        worker_box.wire.send(container_frame(packet))
    worker_box.wire.send(container_frame(about_request(net)))
    got = worker_box.tun.read()
    assert got[net.header + net.option + 8 :] == datagram(net.client, net.echo_vip, SPORT, ECHO_PORT)
    assert counted.moved() == ({}, {"error_relayed": 1})


def container_error(net: Net, quoted: bytes, error: Packet | None = None, **more: Any) -> bytes:
    """A container's error about a request to "dns" as it comes out of the tunnel on the edge."""
    inner = error_packet(net, net.container, net.edge_relay, error or unreachable(net), quoted)
    if net is V6:  # the worker made the checksum right for what the client gets
        inner = error_packet(net, net.dns_vip, net.client, error or unreachable(net), quoted)
    return relay_packet(net.worker_relay, net.edge_relay, net.dns_endpoint, net.client, inner, **more)


def test_a_containers_error_reaches_the_client_from_the_vip(edge_box: Box, net: Net) -> None:
    counted = Counted(edge_box)
    edge_box.tun.write(container_error(net, query(net)))
    got = edge_box.wire.read()[14:]
    hops = {"hlim": 62} if net is V6 else {"ttl": 62}
    assert got == error_packet(net, net.dns_vip, net.client, unreachable(net), query(net), **hops)
    assert counted.moved() == ({}, {"error_relayed": 1})


@pytest.mark.parametrize("stage", [1, 2])
def test_errors_are_neither_asked_for_nor_returned(edge_box: Box, worker_box: WorkerBox, net: Net, stage: int) -> None:
    """Only requests are, while a service drains."""
    known_flow(worker_box, net)
    counted, at_edge = Counted(worker_box), Counted(edge_box)
    quoted = datagram(net.echo_vip, net.client, ECHO_PORT, SPORT, b"reply")
    worker_box.tun.write(in_stage(relayed_error(net, unreachable(net), quoted), stage))
    worker_box.tun.write(relayed_error(net, unreachable(net), quoted))
    worker_box.wire.read()
    assert counted.moved() == ({"bad_option": 1}, {"error_relayed": 1})
    edge_box.tun.write(in_stage(container_error(net, query(net)), stage))
    edge_box.tun.write(container_error(net, query(net)))
    edge_box.wire.read()
    assert at_edge.moved() == ({"bad_option": 1}, {"error_relayed": 1})


@pytest.mark.parametrize(
    "make",
    [
        lambda net: container_error(net, sized(net, net.client, net.dns_vip, SPORT, PORT + 1, 100)),
        lambda net: container_error(net, sized(net, net.client, net.echo_vip, SPORT, PORT, 100)),
        lambda net: container_error(net, sized(net, net.far_client, net.dns_vip, SPORT, PORT, 100)),
        lambda net: container_error(net, b"short"),
        lambda net: container_error(net, query(net), ICMPv6EchoRequest() if net is V6 else ICMP(type=8)),
    ],
)
def test_errors_that_no_worker_may_send(edge_box: Box, net: Net, make: Callable[[Net], bytes]) -> None:
    counted = Counted(edge_box)
    edge_box.tun.write(make(net))
    edge_box.tun.write(container_error(net, query(net)))
    edge_box.wire.read()
    assert counted.moved() == ({"wrong_port": 1}, {"error_relayed": 1})


def test_a_client_hears_that_nobody_listens(edge_box: EdgeBox, net: Net) -> None:
    """The client's kernel checks what it gets."""
    edge_box.client.run("ip", "route", "add", net.dns_vip, "via", net.uplink)
    with udp_socket(edge_box.client, net.client, SPORT) as made:
        made.connect((net.dns_vip, PORT))
        made.send(b"query")
        request = edge_box.tun.read()
        inner = unwrapped(request, net.client, net.dns_vip, hops_left(request))
        edge_box.tun.write(container_error(net, inner))
        with pytest.raises(ConnectionRefusedError):
            made.recv(100)
