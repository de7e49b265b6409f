# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""IP fragments through edge and worker, both ways and both families: in any order they come out as the same set.

Everything runs on the boxes of bpf_support, because fragments that were held are received a second time.
"""

from __future__ import annotations

import itertools
import random
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import batches, layout, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.statistics import fragments_of
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BRIDGE_MAC,
    CONTAINER_MAC,
    DESTINATION,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    HOP_BY_HOP,
    MTU,
    PORT,
    ROUTING,
    TC_DROP,
    TC_NEXT,
    TC_STOLEN,
    V4,
    V6,
    Box,
    Net,
    Programs,
    WorkerBox,
    container_frame,
    cut,
    cut6,
    datagram,
    examples,
    extended,
    finish_header,
    frame,
    has_waiting,
    hops_left,
    ip_checksum_ok,
    payload_of,
    relay_packet,
    translated,
    udp_checksum_ok,
    udp_socket,
    unwrapped,
    wrapped,
)
from ansible_collections.edgewire.fleet.tests.kernel.conftest import wait_until
from hypothesis import given
from hypothesis import strategies as st

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SPORT = 40_000
BIG = bytes(random.Random(3).randbytes(4000))
_ids = itertools.count(1)  # no test meets another's datagrams


def whole(fragments: Iterable[bytes]) -> bytes:
    """The packet that fragments without options or extension headers make."""
    parts, base = {}, b""
    for packet in fragments:
        if packet[0] >> 4 == 6:
            offset, start, base = (
                int.from_bytes(packet[42:44], "big") & 0xFFF8,
                48,
                packet[:6] + packet[40:41] + packet[7:40],
            )
        else:
            offset, start, base = (int.from_bytes(packet[6:8], "big") & 0x1FFF) * 8, 20, packet[:20]
        parts[offset] = packet[start:]
    body = b"".join(parts[offset] for offset in sorted(parts))
    if base[0] >> 4 == 6:
        return base[:4] + struct.pack("!H", len(body)) + base[6:] + body
    return finish_header(base[:2] + struct.pack("!H", 20 + len(body)) + base[4:6] + b"\0\0" + base[8:]) + body


def hexes(packets: Iterable[bytes]) -> list[str]:
    """Packets in an order that does not depend on how they came."""
    return sorted(packet.hex() for packet in packets)


def entries(maps: map_io.Maps, name: str) -> int:
    """How many entries a map has."""
    return len(maps[name].read()[0]) // maps[name].info.key_size


def age(maps: map_io.Maps, name: str, record: layout.Record, stamp: str, seconds: int) -> None:
    """Let every entry of a map be so much older."""
    keys, values = maps[name].read()
    rows = [row | {stamp: row[stamp] - seconds} for row in record.iter_unpack(values)]
    batches.update_batch(maps[name].fd, name, keys, b"".join(map(record.pack, rows)), len(rows))


# --- One way through one box, told by what goes in and what must come out --------------------------------------------


class Way(ABC):
    """A direction through a box: how a fragment goes in, what it must be when it comes out."""

    def __init__(self, box: Box, net: Net) -> None:
        self.box, self.net = box, net

    @abstractmethod
    def packet(self, payload: bytes = BIG) -> bytes:
        """A datagram before it is cut."""

    @abstractmethod
    def come(self, fragment: bytes) -> None:
        """Let a fragment come to the box."""

    @abstractmethod
    def leave(self) -> bytes:
        """The next packet that leaves the box."""

    @abstractmethod
    def pair(self, ident: int, payload: bytes = BIG, mtu: int = MTU) -> tuple[list[bytes], list[bytes]]:
        """The fragments of a datagram, and what must come out for them."""

    def nothing_left(self) -> None:
        """The next thing that comes out is what is sent now."""
        sent, expected = self.pair(next(_ids), b"marker")
        self.come(sent[0])
        assert self.leave().hex() == expected[0].hex()


class EdgeIn(Way):
    """client -> edge -> tunnel."""

    def packet(self, payload: bytes = BIG) -> bytes:
        return datagram(self.net.client, self.net.dns_vip, SPORT, PORT, payload)

    def relayed(self, fragment: bytes) -> bytes:
        net = self.net
        return wrapped(
            fragment, net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, hops_left(fragment) - 1
        )

    def pair(self, ident: int, payload: bytes = BIG, mtu: int = MTU) -> tuple[list[bytes], list[bytes]]:
        sent = cut(self.packet(payload), ident, mtu)
        return sent, [self.relayed(fragment) for fragment in sent]

    def come(self, fragment: bytes) -> None:
        self.box.wire.send(frame(fragment))

    def leave(self) -> bytes:
        return self.box.tun.read()


class WorkerOut(Way):
    """container -> worker -> tunnel; the flow is known."""

    def __init__(self, box: Box, net: Net) -> None:
        super().__init__(box, net)
        key = {"container": net.container, "client": net.client}
        key |= {"container_port": ECHO_CONTAINER_PORT, "client_port": SPORT}
        flow = {"edge_relay": net.edge_relay, "endpoint_id": net.echo_endpoint, "vip": net.echo_vip, "port": ECHO_PORT}
        map_io.write(box.maps, [("ew_flows", layout.FLOW_KEY.pack(key), layout.FLOW.pack(flow))])

    def packet(self, payload: bytes = BIG) -> bytes:
        return datagram(self.net.container, self.net.client, ECHO_CONTAINER_PORT, SPORT, payload)

    def pair(self, ident: int, payload: bytes = BIG, mtu: int = MTU) -> tuple[list[bytes], list[bytes]]:
        net, packet = self.net, self.packet(payload)
        # Port and checksum of the whole datagram are translated before it is cut.
        seen = cut(translated(packet, source=net.echo_vip, sport=ECHO_PORT), ident, mtu)
        expected = [wrapped(p, net.worker_relay, net.edge_relay, net.echo_endpoint, net.client, 63) for p in seen]
        return cut(packet, ident, mtu), expected

    def come(self, fragment: bytes) -> None:
        self.box.wire.send(container_frame(fragment))

    def leave(self) -> bytes:
        return self.box.tun.read()


@pytest.fixture(params=[EdgeIn, WorkerOut], ids=["edge", "worker"])
def way(request: pytest.FixtureRequest, net: Net) -> Way:
    """Both places that look at ports: where fragments have to wait for the first one."""
    kind: type[Way] = request.param
    return kind(request.getfixturevalue("edge_box" if kind is EdgeIn else "worker_box"), net)


def counted(way: Way, sent: Sequence[bytes]) -> dict[str, int]:
    """What the counters say of so many fragments."""
    side = "in" if isinstance(way, EdgeIn) else "out"
    return {f"{side}_packets": len(sent), f"{side}_bytes": sum(map(len, sent))}


def expect_all(way: Way, sent: Sequence[bytes], expected: Sequence[bytes]) -> None:
    """Send fragments in this order; just what is expected comes out, in whatever order, and is counted."""
    watch = way.box.watch()
    for fragment in sent:
        way.come(fragment)
    assert hexes(way.leave() for _ in expected) == hexes(expected)
    assert (watch.change().drops, watch.change().stats) == ({}, counted(way, sent))


def test_in_order(way: Way) -> None:
    before = fragments_of(way.box.maps)
    sent, expected = way.pair(next(_ids))
    assert len(sent) == 3
    for fragment, relayed in zip(sent, expected, strict=True):
        way.come(fragment)
        assert way.leave().hex() == relayed.hex()
    assert fragments_of(way.box.maps) == before, "nothing had to wait"


def test_out_of_order(way: Way) -> None:
    for order in itertools.permutations(range(3)):
        before = fragments_of(way.box.maps)
        sent, expected = way.pair(next(_ids))
        expect_all(way, [sent[i] for i in order], expected)
        waiting = order.index(0)
        after = fragments_of(way.box.maps)
        assert {name: after[name] - before[name] for name in after} == {"held": waiting, "released": waiting}, order
        assert all(ip_checksum_ok(packet) for packet in expected)
    way.nothing_left()


def test_what_waits_is_sent_only_once(way: Way) -> None:
    sent, expected = way.pair(next(_ids))
    expect_all(way, sent[::-1], expected)
    way.come(sent[0])
    assert way.leave().hex() == expected[0].hex()
    way.nothing_left()


def test_nothing_goes_before_the_first(way: Way) -> None:
    sent, _ = way.pair(next(_ids))
    watch = way.box.watch()
    way.come(sent[1])
    way.come(sent[2])
    way.nothing_left()
    assert watch.change().drops == {}


def test_duplicates_stay_duplicates(way: Way) -> None:
    sent, expected = way.pair(next(_ids))
    expect_all(way, [sent[2], sent[2], sent[0], sent[0], sent[1], sent[1]], [p for p in expected for _ in range(2)])


def test_interleaved(way: Way) -> None:
    pairs = [way.pair(next(_ids), bytes([number]) * 4000) for number in range(4)]
    sent = [fragments[i] for i in (2, 0, 1) for fragments, _ in pairs]
    expect_all(way, sent, [packet for _, expected in pairs for packet in expected])


def test_the_longest_datagram_backwards(way: Way) -> None:
    sent, expected = way.pair(next(_ids), bytes(65_507 if way.net.version == 4 else 65_527))
    assert len(sent) == 45 if way.net.version == 4 else 46
    if way.net.version == 6:  # 8 bytes less in each, so the very longest has one more than are held
        sent, expected = sent[:45], expected[:45]
    expect_all(way, sent[::-1], expected)


def test_the_smallest_fragments(way: Way) -> None:
    """A first one of 8 bytes has just the ports and the checksum."""
    sent, expected = way.pair(next(_ids), bytes(range(100)), mtu={4: 28, 6: 56}[way.net.version])
    assert len(sent) == 14
    expect_all(way, sent[::-1], expected)


@examples(25)
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=4), mtu=st.integers(68, MTU), data=st.data())
def test_any_order_comes_out_as_the_same_set(way: Way, sizes: list[int], mtu: int, data: st.DataObject) -> None:
    mtu = max(mtu, 600 if max(sizes) > 2000 else 128)  # no more than are held of one datagram
    pairs = [way.pair(next(_ids), bytes([n]) * size, mtu) for n, size in enumerate(sizes)]
    sent = data.draw(st.permutations([fragment for fragments, _ in pairs for fragment in fragments]))
    expect_all(way, sent, [packet for _, expected in pairs for packet in expected])


# --- Bounds ----------------------------------------------------------------------------------------------------------


def test_an_identification_is_not_remembered_for_ever(way: Way) -> None:
    sent, expected = way.pair(next(_ids))
    expect_all(way, sent, expected)
    age(way.box.maps, "ew_fragments", layout.DATAGRAM, "first_seen", 20)
    expect_all(way, sent[1:], expected[1:])
    age(way.box.maps, "ew_fragments", layout.DATAGRAM, "first_seen", 10)
    before = fragments_of(way.box.maps)["held"]
    way.come(sent[1])
    way.nothing_left()
    assert fragments_of(way.box.maps)["held"] == before + 1, "it waits for the first one of a new datagram"


def test_nothing_waits_for_ever(way: Way) -> None:
    sent, expected = way.pair(next(_ids))
    way.come(sent[1])
    way.nothing_left()
    age(way.box.maps, "ew_held", layout.HELD, "held_since", 30)
    way.come(sent[2])
    way.come(sent[0])
    assert hexes(way.leave() for _ in range(2)) == hexes([expected[0], expected[2]])
    way.nothing_left()


def test_only_so_many_wait_for_one_datagram(way: Way) -> None:
    sent, expected = way.pair(next(_ids), bytes(8 * 46), mtu={4: 28, 6: 56}[way.net.version])
    assert len(sent) == 47
    watch = way.box.watch()
    for fragment in reversed(sent):
        way.come(fragment)
    assert hexes(way.leave() for _ in range(45)) == hexes([expected[0], *expected[3:]])
    assert watch.change().drops == {"fragment_not_held": 2}


def test_a_flood_of_later_fragments(way: Way) -> None:
    """What is bounded stays so; datagrams whose first fragment was seen, and all that is no fragment, go on."""
    flood = [way.pair(20_000 + number, bytes(1600))[0][1] for number in range(1500)]
    sent, expected = way.pair(next(_ids))
    expect_all(way, sent[:1], expected[:1])
    for fragment in flood:
        way.come(fragment)
    assert 0 < entries(way.box.maps, "ew_held") <= 512
    expect_all(way, sent[1:], expected[1:])
    way.nothing_left()


def test_a_flood_of_first_fragments(way: Way) -> None:
    """It pushes datagrams out that nothing was heard of for longest; what comes after it is served."""
    for number in range(1000):
        first, relayed = way.pair(40_000 + number, bytes(1600))
        way.come(first[0])
        assert way.leave().hex() == relayed[0].hex()
    assert 0 < entries(way.box.maps, "ew_fragments") <= 512
    sent, expected = way.pair(next(_ids))
    expect_all(way, sent[::-1], expected)


def test_a_fragment_too_long_to_be_held(worker_programs: Programs) -> None:
    later = cut(datagram(V4.container, V4.client, ECHO_CONTAINER_PORT, SPORT, bytes(4000)), next(_ids), 1600)[1]
    before = fragments_of(worker_programs.maps)["held"]
    for length, verdict in ((1522, TC_STOLEN), (1523, TC_DROP)):
        assert worker_programs.run("worker_egress", frame(later)[: 14 + length]).retval == verdict
        assert fragments_of(worker_programs.maps)["held"] - before == 1


# --- What is no service's --------------------------------------------------------------------------------------------


def host_socket(way: Way, port: int) -> socket.socket:
    """A socket of the box itself at an address that fragments for services come to, too."""
    if isinstance(way, EdgeIn):
        vip, ns = way.net.dns_vip, way.box.ns
        ns.run("ip", "address", "add", vip, "dev", "lo", *(["nodad"] if way.net.version == 6 else []))
        # Of an IPv6 address a thread of the kernel's makes the local route, some time after ip(8) has ended.
        local = ("ip", f"-{way.net.version}", "route", "show", "table", "local", vip)
        wait_until(lambda: ns.run(*local).stdout, f"packets to {vip} to be the host's")
        return udp_socket(ns, vip, port)
    return udp_socket(way.box.ns, way.net.bridge, port)


def test_the_host_gets_its_own(way: Way) -> None:
    """A port of a VIP that is no service's, and what a container sends that is no reply, are the host's as before."""
    watch, net = way.box.watch(), way.net
    with host_socket(way, 9999) as mine:
        source, destination = (net.client, net.dns_vip) if isinstance(way, EdgeIn) else (net.container, net.bridge)
        for order in itertools.permutations(range(3)):
            sent = cut(datagram(source, destination, SPORT, 9999, BIG), next(_ids))
            for i in order:
                way.come(sent[i])
            data, sender = mine.recvfrom(5000)
            assert (data, sender[:2]) == (BIG, (source, SPORT))
        assert not has_waiting(mine)
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def test_fragments_for_other_addresses_are_left_alone(edge_box: Box, net: Net) -> None:
    before = fragments_of(edge_box.maps)
    with udp_socket(edge_box.ns, net.uplink, 9999) as mine:
        for fragment in reversed(cut(datagram(net.client, net.uplink, SPORT, 9999, BIG), next(_ids))):
            edge_box.wire.send(frame(fragment))
        assert mine.recv(5000) == BIG
    assert fragments_of(edge_box.maps) == before


def test_other_protocols_fragments_are_left_alone(worker_programs: Programs, net: Net) -> None:
    packet = datagram(net.container, net.client, ECHO_CONTAINER_PORT, SPORT, BIG)
    for fragment in cut(packet, next(_ids)):
        if net.version == 4:
            other = finish_header(fragment[:9] + b"\x06" + fragment[10:20]) + fragment[20:]
        else:
            other = fragment[:40] + b"\x06" + fragment[41:]
        result = worker_programs.run("worker_egress", frame(other))
        assert (result.retval, result.data) == (TC_NEXT, frame(other))


# --- Headers ---------------------------------------------------------------------------------------------------------


def tiny(net: Net) -> list[bytes]:
    """First fragments that end before the UDP header does."""
    packet = datagram(net.client, net.dns_vip, SPORT, PORT, BIG)
    if net.version == 4:
        first = cut(packet, next(_ids), 28)[0]
        return [finish_header(first[:2] + struct.pack("!H", 20) + first[4:20])]
    return [
        cut6(packet[:40], [], 60, bytes([17, 0, 1, 4, 0, 0, 0, 0]) + packet[40:], next(_ids), 56)[0],
        extended(packet[:4] + b"\0\0" + packet[6:40], (44, struct.pack("!xHI", 1, next(_ids)))),
    ]


def test_a_first_fragment_without_ports(edge_box: Box, net: Net) -> None:
    for fragment in tiny(net):
        watch = edge_box.watch()
        edge_box.wire.send(frame(fragment) + bytes(8))  # padding is not taken for ports
        EdgeIn(edge_box, net).nothing_left()
        assert watch.change().drops == {"fragment_tiny": 1}


def test_extension_headers_around_the_fragment_header(edge_box: Box) -> None:
    way = EdgeIn(edge_box, V6)
    packet = way.packet()
    for before in ([], [HOP_BY_HOP], [HOP_BY_HOP, ROUTING]):
        for following, behind in ((17, b""), (60, bytes([17]) + DESTINATION[1])):
            sent = cut6(packet[:40], before, following, behind + packet[40:], next(_ids))
            expect_all(way, sent[::-1], [way.relayed(fragment) for fragment in sent])


def test_ip_options_are_in_every_fragment(edge_box: Box) -> None:
    way = EdgeIn(edge_box, V4)
    sent = [
        finish_header(bytes([0x47, p[1]]) + struct.pack("!H", len(p) + 8) + p[4:20] + b"\x01" * 8) + p[20:]
        for p in cut(way.packet(), next(_ids), 1492)
    ]
    expect_all(way, sent[::-1], [way.relayed(fragment) for fragment in sent])


def hopless(fragment: bytes) -> bytes:
    """A fragment whose time to live is used up."""
    if fragment[0] >> 4 == 6:
        return fragment[:7] + b"\1" + fragment[8:]
    return finish_header(fragment[:8] + b"\1" + fragment[9:20]) + fragment[20:]


def test_each_fragment_is_checked_for_itself(way: Way) -> None:
    sent, expected = way.pair(next(_ids))
    expect_all(way, sent[:1], expected[:1])
    watch = way.box.watch()
    way.come(hopless(sent[1]))
    if way.net.version == 4:
        crowded = bytes([0x4E, sent[2][1]]) + struct.pack("!H", len(sent[2]) + 36) + sent[2][4:20] + b"\x01" * 36
        way.come(finish_header(crowded) + sent[2][20:])
    way.come(sent[2])
    assert way.leave().hex() == expected[2].hex()
    refused = {"ttl_expired": 1, **({"options_too_long": 1} if way.net.version == 4 else {})}
    assert watch.change().drops == refused


def test_a_fragment_shorter_than_it_says(edge_box: Box, net: Net) -> None:
    way = EdgeIn(edge_box, net)
    sent, _ = way.pair(next(_ids))
    watch = edge_box.watch()
    way.come(sent[1][:-1])
    way.nothing_left()
    assert watch.change().drops == {"malformed": 1}


# --- The ways that only restore addresses ----------------------------------------------------------------------------


def test_from_the_tunnel_to_the_container(worker_box: WorkerBox, net: Net) -> None:
    packet = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, BIG)
    at_container = datagram(net.client, net.container, SPORT, ECHO_CONTAINER_PORT, BIG)
    for order in itertools.permutations(range(3)):
        watch, ident = worker_box.watch(), next(_ids)
        fragments, got = cut(packet, ident), []
        for i in order:
            worker_box.tun.write(
                relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, fragments[i])
            )
            got.append(worker_box.wire.read())
        assert hexes(got) == hexes(
            frame(unwrapped_by_worker(net, fragment), source=BRIDGE_MAC, destination=CONTAINER_MAC)
            for fragment in cut(at_container, ident)
        )
        assert udp_checksum_ok(whole(data[14:] for data in got))
        counted = {"in_packets": 3, "in_bytes": sum(map(len, fragments))}
        assert (watch.change().drops, watch.change().stats) == ({}, counted)


def unwrapped_by_worker(net: Net, fragment: bytes) -> bytes:
    """A fragment two hops on."""
    relayed = wrapped(fragment, net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, 63)
    return unwrapped(relayed, net.client, net.container, 62)


def test_from_the_tunnel_to_the_client(edge_box: Box, net: Net) -> None:
    packet = datagram(net.dns_vip, net.client, PORT, SPORT, BIG)
    for order in itertools.permutations(range(3)):
        watch, fragments = edge_box.watch(), cut(packet, next(_ids))
        for i in order:
            relayed = wrapped(fragments[i], net.worker_relay, net.edge_relay, net.dns_endpoint, net.client, 63)
            edge_box.tun.write(relayed)
            assert edge_box.wire.read()[14:].hex() == unwrapped(relayed, net.dns_vip, net.client, 62).hex()
        counted = {"out_packets": 3, "out_bytes": sum(map(len, fragments))}
        assert (watch.change().drops, watch.change().stats) == ({}, counted)


def test_a_container_that_gets_and_sends_4000_bytes(worker_box: WorkerBox, net: Net) -> None:
    """Its own kernel puts together and cuts, with the checksum of the whole in the first fragment."""
    any_address = "::" if net.version == 6 else "0.0.0.0"
    with udp_socket(worker_box.container, any_address, ECHO_CONTAINER_PORT) as application:
        packet = datagram(net.client, net.echo_vip, SPORT, ECHO_PORT, BIG)
        for fragment in cut(packet, next(_ids))[::-1]:
            worker_box.tun.write(
                relay_packet(net.edge_relay, net.worker_relay, net.echo_endpoint, net.client, fragment)
            )
        data, sender = application.recvfrom(5000)
        assert (data, sender[:2]) == (BIG, (net.client, SPORT))
        application.sendto(data[::-1], (net.client, SPORT))
    got = [worker_box.tun.read() for _ in range(3)]
    made = whole(unwrapped(relayed, net.echo_vip, net.client, 62) for relayed in got)
    assert udp_checksum_ok(made)
    assert payload_of(made) == BIG[::-1]


def test_two_clients_with_the_same_identification(edge_box: Box, net: Net) -> None:
    ident = next(_ids)
    way = EdgeIn(edge_box, net)
    sent, expected = way.pair(ident)
    other = cut(datagram(net.far_client, net.dns_vip, SPORT, PORT, BIG), ident)
    for fragment in (sent[2], other[1], sent[1], other[2], other[0], sent[0]):
        way.come(fragment)
    others = [wrapped(p, net.edge_relay, net.worker_relay, net.dns_endpoint, net.far_client, 63) for p in other]
    assert hexes(way.leave() for _ in range(6)) == hexes([*expected, *others])
