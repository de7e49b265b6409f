# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the BPF tests share: compiled programs, a bpffs of their own, boxes of namespaces, a model of the relay packet.

A test module takes the fixtures in by ``pytest_plugins``. The model of the relay packet is written from
docs/architecture.md and not from the C code, so that the two can disagree. PYTEST_DONT_REWRITE (a plugin that its
test modules also import from).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    batches,
    compiler,
    contents,
    direct,
    edge_maps,
    edge_state,
    filters,
    forwarder,
    info,
    kept_builds,
    layout,
    libbpf,
    map_io,
    proofs,
    sources,
    successors,
    worker_maps,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, Desired
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import Renderer
from ansible_collections.edgewire.fleet.plugins.plugin_utils.bpf_sources import source_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum

if TYPE_CHECKING:
    from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

XDP_DROP, XDP_PASS = 1, 2  # enum xdp_action (linux/bpf.h)
# TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_STOLEN, TC_ACT_REDIRECT (linux/pkt_cls.h)
TC_NEXT, TC_DROP, TC_STOLEN, TC_REDIRECT = 0xFFFFFFFF, 2, 4, 7

CLIENT_MAC, BOX_MAC = "02:00:00:00:00:07", "02:00:00:00:00:01"
CONTAINER_MAC, BRIDGE_MAC = "02:00:00:00:88:53", "02:00:00:00:88:01"


# What any packet may have in its header and still come through: arguments of `given`.
_ANY_HEADER = {"sport": st.integers(0, 65535), "tos": st.integers(0, 255), "ttl": st.integers(2, 255)}
ANY_IPV4 = {
    **_ANY_HEADER,
    "source": st.integers(1, 2**32 - 2),
    "ident": st.integers(0, 65535),
    "option_words": st.integers(0, 7),
    "payload": st.binary(max_size=1400),
    "zero_checksum": st.booleans(),
}
ANY_IPV6 = {**_ANY_HEADER, "source": st.integers(1, 2**128 - 2), "label": st.integers(0, 2**20 - 1)}


def examples(number: int) -> settings:
    """So many examples of a property, all of them on the one box that the test's fixture has made."""
    return settings(max_examples=number, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Net:
    """The addresses of one family that every test here uses: documentation ranges, or the collection's defaults.

    The same names in both families, so that a test is written once and runs in both.
    """

    version: int
    client: str
    far_client: str  # behind a gateway that has the client's address
    uplink: str
    vip_prefix: str
    edge_relay: str
    edge2_relay: str
    worker_relay: str
    worker2_relay: str
    edge_overlay: str
    worker_overlay: str
    container: str
    other_container: str
    bridge: str
    nowhere: str  # no VIP, and not the box's
    base_id: int

    @property
    def header(self) -> int:
        """Bytes of a base header; where the relay option lies."""
        return 40 if self.version == 6 else 20

    @property
    def option(self) -> int:
        """Bytes of the relay option."""
        return 24 if self.version == 6 else 12

    def vip(self, number: int) -> str:
        """A VIP."""
        return f"{self.vip_prefix}{number}"

    def id(self, number: int) -> int:
        """An endpoint id; different in the two families, which share a map."""
        return self.base_id + number

    @property
    def dns_vip(self) -> str:
        """The VIP of the service "dns"."""
        return self.vip(53)

    @property
    def echo_vip(self) -> str:
        """The VIP of the service "echo"."""
        return self.vip(7)

    @property
    def games_vip(self) -> str:
        """The VIP of the service "games", which has a range of ports."""
        return self.vip(90)

    @property
    def dns_endpoint(self) -> int:
        """The endpoint id of "dns"."""
        return self.id(2_771_406)

    @property
    def echo_endpoint(self) -> int:
        """The endpoint id of "echo"; its highest bit is set."""
        return self.id(4_000_000_001)

    @property
    def games_endpoint(self) -> int:
        """The endpoint id of "games"."""
        return self.id(90)


V4 = Net(
    version=4,
    client="198.51.100.7",
    far_client="192.0.2.77",
    uplink="198.51.100.1",
    vip_prefix="203.0.113.",
    edge_relay="100.96.0.1",
    edge2_relay="100.96.0.2",
    worker_relay="100.96.0.3",
    worker2_relay="100.96.0.4",
    edge_overlay="100.64.0.1",
    worker_overlay="100.64.0.3",
    container="10.88.0.53",
    other_container="10.88.0.54",
    bridge="10.88.0.1",
    nowhere="192.0.2.1",
    base_id=0,
)
V6 = Net(
    version=6,
    client="2001:db8:c::7",
    far_client="2001:db8:77::77",
    uplink="2001:db8:c::1",
    vip_prefix="2001:db8:53::",
    edge_relay="fd65:6467:6577:1::1",
    edge2_relay="fd65:6467:6577:1::2",
    worker_relay="fd65:6467:6577:1::3",
    worker2_relay="fd65:6467:6577:1::4",
    edge_overlay="fd65:6467:6577::1",
    worker_overlay="fd65:6467:6577::3",
    container="fd00:88::53",
    other_container="fd00:88::54",
    bridge="fd00:88::1",
    nowhere="2001:db8:2::1",
    base_id=1_000_000,
)
PORT, ECHO_PORT, ECHO_CONTAINER_PORT = 53, 7, 7007
GAMES_PORT, GAMES_LAST_PORT, GAMES_CONTAINER_PORT = 10_001, 10_098, 30_001

# The names of what most tests of maps and programs need of IPv4.
CLIENT, VIP, ECHO_VIP, CONTAINER, BRIDGE = V4.client, V4.dns_vip, V4.echo_vip, V4.container, V4.bridge
EDGE_RELAY, WORKER_RELAY, WORKER2_RELAY = V4.edge_relay, V4.worker_relay, V4.worker2_relay
DNS_ENDPOINT, ECHO_ENDPOINT = V4.dns_endpoint, V4.echo_endpoint
EDGE_RELAYS = Relays(V4.edge_relay, V6.edge_relay)
EDGE2_RELAYS = Relays(V4.edge2_relay, V6.edge2_relay)
WORKER_RELAYS = Relays(V4.worker_relay, V6.worker_relay)
WORKER2_RELAYS = Relays(V4.worker2_relay, V6.worker2_relay)


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def net(request: pytest.FixtureRequest) -> Net:
    """Both families, one after the other."""
    given: Net = request.param
    return given


# Small maps: they are cleared and read for every test.
SMALL = layout.Capacity(
    services=64,
    ranges=512,
    backends=256,
    lut=65_536,
    filters=32,
    sources=4096,
    workers=16,
    moved=256,
    rated_sources=1024,
    edges=16,
    flows=1024,
    vips=128,
    fragments=512,
    held_fragments=512,
)


# --- The relay packet, from the documentation -----------------------------------------------------------------------


_EXTENSIONS = {0, 43, 44, 60}  # hop-by-hop, routing, fragment, destination options


def packed(address: str) -> bytes:
    """An address of either family as it is in the packet."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _is_v6(packet: bytes) -> bool:
    return packet[0] >> 4 == 6


def finish_header(header: bytes) -> bytes:
    """An IPv4 header with its checksum computed afresh; IPv6 has none."""
    if _is_v6(header):
        return header
    blank = header[:10] + b"\0\0" + header[12:]
    return blank[:10] + struct.pack("!H", checksum(blank)) + blank[12:]


def header_length(packet: bytes) -> int:
    """Bytes of a packet's base header, with the options in IPv4."""
    return 40 if _is_v6(packet) else (packet[0] & 15) * 4


def udp_offset(packet: bytes) -> int:
    """Where the UDP header of a packet starts, behind all extension headers."""
    offset = header_length(packet)
    if not _is_v6(packet):
        return offset
    following = packet[6]
    while following in _EXTENSIONS:
        here, following = following, packet[offset]
        offset += 8 if here == 44 else (packet[offset + 1] + 1) * 8
    assert following == 17
    return offset


def packet_length(packet: bytes) -> int:
    """Bytes of a packet as its header says."""
    return 40 + int.from_bytes(packet[4:6], "big") if _is_v6(packet) else int.from_bytes(packet[2:4], "big")


def addresses_of(packet: bytes) -> bytes:
    """Source and destination."""
    return packet[8:40] if _is_v6(packet) else packet[12:20]


def source_of_packet(packet: bytes) -> str:
    """The source address as text."""
    both = addresses_of(packet)
    return socket.inet_ntop(socket.AF_INET6 if _is_v6(packet) else socket.AF_INET, both[: len(both) // 2])


def hops_left(packet: bytes) -> int:
    """Time to live or hop limit."""
    return packet[7] if _is_v6(packet) else packet[8]


def _wrapped6(packet: bytes, addresses: bytes, endpoint_id: int, client: str, hop_limit: int) -> bytes:
    option = struct.pack("!BBBBI16s", packet[6], 2, 0x5E, 20, endpoint_id, packed(client))
    length = int.from_bytes(packet[4:6], "big") + len(option)
    return packet[:4] + struct.pack("!HBB", length, 60, hop_limit) + addresses + option + packet[40:]


def wrapped(packet: bytes, source: str, destination: str, endpoint_id: int, client: str, ttl: int) -> bytes:
    """The relay packet for ``packet``: new addresses, and the option right behind the base header."""
    if _is_v6(packet):
        return _wrapped6(packet, packed(source) + packed(destination), endpoint_id, client, ttl)
    header, rest = packet[: header_length(packet)], packet[header_length(packet) :]
    option = struct.pack("!BBBBI4s", 158, 12, 1, 0, endpoint_id, packed(client))
    length = int.from_bytes(header[2:4], "big") + len(option)
    base = bytes([header[0] + 3, header[1]]) + struct.pack("!H", length) + header[4:8] + bytes([ttl]) + header[9:12]
    return finish_header(base + packed(source) + packed(destination) + option + header[20:]) + rest


def unwrapped(packet: bytes, source: str, destination: str, ttl: int) -> bytes:
    """The packet that a relay packet becomes when the option is taken out and addresses are restored."""
    if _is_v6(packet):
        length = int.from_bytes(packet[4:6], "big") - 24
        base = packet[:4] + struct.pack("!HBB", length, packet[40], ttl)
        return base + packed(source) + packed(destination) + packet[64:]
    header, rest = packet[: header_length(packet)], packet[header_length(packet) :]
    length = int.from_bytes(header[2:4], "big") - 12
    base = bytes([header[0] - 3, header[1]]) + struct.pack("!H", length) + header[4:8] + bytes([ttl]) + header[9:12]
    return finish_header(base + packed(source) + packed(destination) + header[32:]) + rest


def ip_checksum_ok(packet: bytes) -> bool:
    """Whether a packet's header checksum is right; IPv6 has none."""
    return _is_v6(packet) or checksum(packet[: header_length(packet)]) == 0


def udp_checksum_ok(packet: bytes, source: str | None = None, destination: str | None = None) -> bool:
    """Whether a packet's UDP checksum is right, for its own or for other addresses; 0 is not."""
    udp = packet[udp_offset(packet) : packet_length(packet)]
    both = addresses_of(packet)
    addresses = packed(source) if source else both[: len(both) // 2]
    addresses += packed(destination) if destination else both[len(both) // 2 :]
    return udp[6:8] != b"\0\0" and checksum(addresses + struct.pack("!HH", 17, len(udp)) + udp) == 0


def udp_checksum_of(packet: bytes) -> bytes:
    """The UDP checksum that a packet carries."""
    return packet[udp_offset(packet) + 6 :][:2]


def ports_of(packet: bytes) -> tuple[int, int]:
    """UDP source and destination port."""
    source, destination = struct.unpack_from("!HH", packet, udp_offset(packet))
    return source, destination


def payload_of(packet: bytes) -> bytes:
    """UDP payload."""
    return packet[udp_offset(packet) + 8 : packet_length(packet)]


def translated(
    packet: bytes,
    *,
    source: str | None = None,
    destination: str | None = None,
    sport: int | None = None,
    dport: int | None = None,
) -> bytes:
    """A packet after SNAT or DNAT: addresses and ports replaced, checksums computed afresh; no checksum stays none."""
    made, start, both = bytearray(packet), udp_offset(packet), addresses_of(packet)
    size = len(both) // 2
    first = header_length(packet) - 2 * size if _is_v6(packet) else 12
    made[first : first + 2 * size] = (packed(source) if source else both[:size]) + (
        packed(destination) if destination else both[size:]
    )
    old = ports_of(packet)
    made[start : start + 4] = struct.pack("!HH", old[0] if sport is None else sport, old[1] if dport is None else dport)
    if packet[start + 6 : start + 8] != b"\0\0":
        made[start + 6 : start + 8] = b"\0\0"
        udp = bytes(made[start : packet_length(packet)])
        pseudo = addresses_of(bytes(made)) + struct.pack("!HH", 17, len(udp))
        made[start + 6 : start + 8] = struct.pack("!H", checksum(pseudo + udp) or 0xFFFF)
    length = header_length(packet)
    return finish_header(bytes(made[:length])) + bytes(made[length:])


def datagram(source: str, destination: str, sport: int, dport: int, payload: bytes = b"query", **ip: Any) -> bytes:
    """A UDP packet without link layer, as scapy builds it; the addresses say of which family.

    ``zero_checksum=True`` leaves UDP's checksum out; ``ttl`` and ``tos`` mean IPv6's fields there.
    """
    more = {"chksum": 0} if ip.pop("zero_checksum", False) else {}
    more |= ip.pop("udp", {})
    udp = UDP(sport=sport, dport=dport, **more) / Raw(payload)
    ip = {"ttl": 64, **ip}
    if ":" in source:
        names = {"ttl": "hlim", "tos": "tc"}
        return bytes(IPv6(src=source, dst=destination, **{names.get(name, name): v for name, v in ip.items()}) / udp)
    return bytes(IP(src=source, dst=destination, **ip) / udp)


UDP_SEGMENT = 103  # linux/udp.h: one send, many datagrams (GSO)
# Extension headers (RFC 8200 section 4) without their first byte, the next header's number.
HOP_BY_HOP = (0, bytes([0, 1, 4, 0, 0, 0, 0]))  # padding
ROUTING = (43, bytes([2, 4, 0, 0, 0, 0, 0]) + bytes(16))  # nothing left to visit
DESTINATION = (60, bytes([1, 0x1E, 4, 1, 2, 3, 4, 1, 4, 0, 0, 0, 0, 0, 0]))  # another experimental option
EMPTY_DESTINATION = (60, bytes([0, 1, 4, 0, 0, 0, 0]))


def fragment_header(offset: int = 0, more: bool = False) -> tuple[int, bytes]:
    """A fragment header; ``offset`` in 8-byte units."""
    return (44, struct.pack("!xHI", offset << 3 | more, 77))


def extended(packet: bytes, *headers: tuple[int, bytes]) -> bytes:
    """An IPv6 packet with extension headers put in front of what follows its base header."""
    following, chain = packet[6], b""
    for number, body in reversed(headers):
        chain = bytes([following]) + body + chain
        following = number
    length = int.from_bytes(packet[4:6], "big") + len(chain)
    return packet[:4] + struct.pack("!HB", length, following) + packet[7:40] + chain + packet[40:]


MTU = 1500  # of a client's link


def cut(packet: bytes, ident: int, mtu: int = MTU) -> list[bytes]:
    """The fragments of a packet without options or extension headers, in order (RFC 791, RFC 8200)."""
    if packet[0] >> 4 == 6:
        return cut6(packet[:40], [], packet[6], packet[40:], ident, mtu)
    body, room = packet[20:], (mtu - 20) // 8 * 8
    made = []
    for start in range(0, len(body), room):
        part, more = body[start : start + room], start + room < len(body)
        head = packet[:2] + struct.pack("!HHH", 20 + len(part), ident, more << 13 | start // 8) + packet[8:20]
        made.append(finish_header(head) + part)
    return made


def cut6(
    base: bytes, before: Sequence[tuple[int, bytes]], following: int, body: bytes, ident: int, mtu: int = MTU
) -> list[bytes]:
    """The fragments of an IPv6 packet: ``before`` is repeated in each, ``body`` is what is cut."""
    room = (mtu - 48 - sum(len(header) + 1 for _, header in before)) // 8 * 8
    made = []
    for start in range(0, len(body), room):
        part, more = body[start : start + room], start + room < len(body)
        header = (44, struct.pack("!xHI", start | more, ident))
        plain = base[:4] + struct.pack("!HB", len(part), following) + base[7:40] + part
        made.append(extended(plain, *before, header))
    return made


def frame(packet: bytes, ethertype: int | None = None, source: str = CLIENT_MAC, destination: str = BOX_MAC) -> bytes:
    """An Ethernet frame around ``packet``."""
    if ethertype is None:
        ethertype = 0x86DD if _is_v6(packet) else 0x0800
    return bytes(Ether(src=source, dst=destination, type=ethertype) / Raw(packet))


def container_frame(packet: bytes) -> bytes:
    """A frame from the container to its gateway."""
    return frame(packet, source=CONTAINER_MAC, destination=BRIDGE_MAC)


# What a relay packet is on its way for.
PLAIN, ASK, RETURNED, FORWARDED, FORWARDED_TWICE = range(5)


def in_stage(relay: bytes, stage: int) -> bytes:
    """A plain relay packet in another stage: a byte of the IPv4 option, the type of the IPv6 one."""
    place, value = (42, 0x5E + 32 * stage) if _is_v6(relay) else (23, stage)
    changed = relay[:place] + bytes([value]) + relay[place + 1 :]
    length = header_length(changed)
    return finish_header(changed[:length]) + changed[length:]


def relay_packet(
    source: str, destination: str, endpoint_id: int, client: str, inner: bytes, *, ttl: int = 63, head: bytes = b""
) -> bytes:
    """A relay packet as the other end sends it; ``head`` overwrites the option from its first byte on."""
    packet = bytearray(wrapped(inner, source, destination, endpoint_id, client, ttl))
    start = 40 if _is_v6(inner) else 20
    packet[start : start + len(head)] = head
    start = header_length(packet)
    return finish_header(bytes(packet[:start])) + bytes(packet[start:])


def _client_word(client: str) -> int:
    words = struct.unpack(f"<{len(packed(client)) // 4}I", packed(client))
    if len(words) == 1:
        return int(words[0])
    word = 0
    for value, factor in zip(words, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F), strict=True):
        word ^= value * factor & 0xFFFFFFFF
    return word


def flow_hash(client: str, sport: int, dport: int, *, by_client: bool = False) -> int:
    """The edge's hash of a flow; on a little-endian box, as all of the fleet's are."""
    mask = 0xFFFFFFFF
    ports = int.from_bytes(struct.pack("!H", sport), "little") << 16 | int.from_bytes(
        struct.pack("!H", dport), "little"
    )
    h = _client_word(client) * 0xCC9E2D51 & mask ^ (0 if by_client else ports) * 0x1B873593 & mask
    h ^= h >> 16
    h = h * 0x85EBCA6B & mask
    h ^= h >> 13
    h = h * 0xC2B2AE35 & mask
    return h ^ h >> 16


def backend_of(table: list[int], client: str, sport: int, dport: int, *, by_client: bool = False) -> int:
    """The endpoint id that a flow must go to by a service's table."""
    return table[flow_hash(client, sport, dport, by_client=by_client) * len(table) >> 32]


# --- Reading the maps ------------------------------------------------------------------------------------------------


def _named_counts(maps: map_io.Maps, name: str, names: Iterable[str]) -> dict[str, int]:
    cpus = libbpf.possible_cpus()
    values = [row["value"] for row in layout.U64.iter_unpack(maps[name].read()[1])]
    return {reason: sum(values[i * cpus : (i + 1) * cpus]) for i, reason in enumerate(names)}


def drops(maps: map_io.Maps) -> dict[str, int]:
    """The drop counters, summed over the CPUs."""
    return _named_counts(maps, "ew_drops", layout.DROP_REASONS)


def events(maps: map_io.Maps) -> dict[str, int]:
    """The counters of what is off the plain way, summed over the CPUs."""
    return _named_counts(maps, "ew_events", layout.EVENTS)


def stats(maps: map_io.Maps) -> dict[str, int]:
    """The packet and byte counters, summed over CPUs and over all services or endpoints."""
    total = dict.fromkeys((name for name, _ in layout.STATS.fields), 0)
    for row in layout.STATS.iter_unpack(maps["ew_stats"].read()[1]):
        for name, value in row.items():
            total[name] += value
    return total


@dataclass
class Change:
    """What a piece of a test changed in the counters: those that moved, by how much."""

    drops: dict[str, int]
    stats: dict[str, int]
    events: dict[str, int]


class Watch:
    """Counters now, to be compared with later."""

    def __init__(self, maps: map_io.Maps) -> None:
        self._maps = maps
        self._drops, self._stats, self._events = drops(maps), stats(maps), events(maps)

    def change(self) -> Change:
        """What moved since."""
        return Change(
            {name: n - self._drops[name] for name, n in drops(self._maps).items() if n != self._drops[name]},
            {name: n - self._stats[name] for name, n in stats(self._maps).items() if n != self._stats[name]},
            {name: n - self._events[name] for name, n in events(self._maps).items() if n != self._events[name]},
        )


# --- Programs by BPF_PROG_TEST_RUN -----------------------------------------------------------------------------------


@dataclass
class Programs:
    """A role's real programs in the kernel, attached nowhere."""

    role: str
    fds: Mapping[str, int]
    maps: map_io.Maps
    keep: Any = field(repr=False)

    def run(self, program: str, packet: bytes) -> libbpf.ProgramRun:
        """One packet through a program."""
        return libbpf.run_program(self.fds[program], packet)

    def fill_edge(
        self,
        *services: edge_state.ServiceWanted,
        dead: frozenset[str] = frozenset(),
        filters: tuple[filters.FilterWanted, ...] = (),
        drop_unserved: bool = False,
        now: int | None = None,
        interfaces: tuple[str, str] = ("lo", "lo"),
    ) -> None:
        """Make the maps say so: the edge's services, their filters, the dead workers; ``now`` is the planner's."""
        workers = {"worker1": WORKER_RELAYS, "worker2": WORKER2_RELAYS}
        wireguard, uplink = (socket.if_nametoindex(name) for name in interfaces)
        wanted = edge_state.EdgeWanted(EDGE_RELAYS, wireguard, uplink, workers, services, dead, filters, drop_unserved)
        now = time.monotonic_ns() if now is None else now
        _, writes = edge_maps.plan(wanted, edge_state.read(self.maps), libbpf.possible_cpus(), now)
        map_io.write(self.maps, writes)

    def fill_worker(self, *endpoints: worker_maps.EndpointWanted) -> None:
        """Make the maps say that these are the worker's endpoints."""
        wanted = worker_maps.WorkerWanted(WORKER_RELAYS, 1, 1, {"edge1": EDGE_RELAYS}, endpoints)
        _, writes = worker_maps.plan(wanted, worker_maps.read(self.maps), libbpf.possible_cpus())
        map_io.write(self.maps, writes)

    def put(self, name: str, key: bytes, value: bytes | None) -> None:
        """One write past the planner, to make what should never be."""
        map_io.write(self.maps, [(name, key, value)])

    def put_service(self, entry: edge_state.Entry, value: bytes | None) -> None:
        """The same for a service of one port, to be found: its place in front of the hash map asks for it."""
        name = direct.FRONT_OF[entry.map]
        key = layout.U32.of(direct.place_of(entry.pack(), layout.DIRECT_PLACES))
        self.put(name, key, bytes(self.maps[name].info.value_size))
        self.put(entry.map, entry.pack(), value)


def build_of(role: str, capacity: layout.Capacity = SMALL) -> successors.Build:
    """The project's sources of a role, with small maps."""
    return successors.Build(role, source_of(role), tuple(sources.flags_of(capacity)))


def load(role: str) -> Programs:
    """Compile and load a role's programs, the project's way."""
    build = build_of(role)
    kinds: dict[str, str] = {hook.program: hook.kind for hook in HOOKS[role]}
    loaded = compiler.compile_and_load(role, build.source, build.flags, kinds, build.identity)
    maps = {name: map_io.OpenMap(fd, libbpf.map_info(fd)) for name, fd in loaded.maps.items()}
    return Programs(role, loaded.programs, maps, loaded)


@pytest.fixture(scope="session")
def edge_programs() -> Programs:
    """The edge's programs, compiled once a session."""
    return load("edge")


@pytest.fixture(scope="session")
def worker_programs() -> Programs:
    """The worker's programs, compiled once a session."""
    return load("worker")


# --- A bpffs that nobody else uses -----------------------------------------------------------------------------------

_BPFFS_PREFIX = "ewt-bpffs-"


def _unmount(path: Path) -> None:
    subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)
    with suppress(OSError):
        path.rmdir()


def _mount() -> Path:
    """Mount a bpffs in a directory that carries this process's id; first remove those of killed runs."""
    for path in Path(tempfile.gettempdir()).glob(f"{_BPFFS_PREFIX}*"):
        pid = path.name.removeprefix(_BPFFS_PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            _unmount(path)
    path = Path(tempfile.mkdtemp(prefix=f"{_BPFFS_PREFIX}{os.getpid()}-"))
    subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def _session_bpffs() -> Iterator[Path]:
    path = _mount()
    yield path
    _unmount(path)


@pytest.fixture(scope="session")
def _session_builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.fixture
def shared_pins(_session_bpffs: Path, _session_builds: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pins that outlive the test: what one test compiled, the next attaches from its pin."""
    monkeypatch.setattr(attach, "BPFFS", _session_bpffs)
    monkeypatch.setattr(kept_builds, "DIRECTORY", _session_builds)
    monkeypatch.setattr(proofs, "DIRECTORY", _session_builds / "proofs")
    return _session_bpffs


@pytest.fixture
def fresh_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty bpffs for one test, and no build on disk."""
    path = _mount()
    monkeypatch.setattr(attach, "BPFFS", path)
    monkeypatch.setattr(kept_builds, "DIRECTORY", tmp_path / "builds")
    monkeypatch.setattr(proofs, "DIRECTORY", tmp_path / "proofs")
    yield path
    _unmount(path)


@pytest.fixture
def quick_compiler(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile a build once and not in every test: what came out is found by its identity, so it is never stale."""
    cache = pytestconfig.cache
    assert cache is not None
    shelf = cache.mkdir("edgewire-builds")
    real = successors.compiled

    def compiled(wanted: Desired, build: successors.Build | None) -> kept_builds.KeptBuild:
        kept = kept_builds.path_of(wanted.role, wanted.build)
        stored = shelf / kept.name
        if build is None or not stored.exists():
            made = real(wanted, build)
            shutil.copy(kept, stored)
            return made
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy(stored, kept)
        found = kept_builds.read(wanted.role, wanted.build)
        return found if found is not None else real(wanted, build)

    monkeypatch.setattr(successors, "compiled", compiled)


# --- Boxes made of namespaces ----------------------------------------------------------------------------------------

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def _is_chatter(packet: bytes) -> bool:
    """Neither IPv4 nor IPv6, or multicast listener and neighbour discovery: what a kernel sends of its own accord."""
    if not packet or packet[0] >> 4 not in (4, 6):
        return True
    return _is_v6(packet) and ((packet[6], packet[40]) == (0, 58) or (packet[6] == 58 and packet[40] >= 130))


def _readable(descriptor: int, deadline: float) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(max(0.0, deadline - time.monotonic()) * 1000))


class Tun:
    """A TUN device in place of WireGuard's: an L3 device whose other end is this object.

    What is written arrives at TC ingress of the device, as a decrypted packet does; what the box sends into the
    device is read here.
    """

    def __init__(self, ns: Netns, name: str = "wg0") -> None:
        with ns:
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))

    def write(self, packet: bytes) -> None:
        """Let an IP packet come out of the tunnel."""
        os.write(self._fd, packet)

    def read(self, seconds: float = 5.0) -> bytes:
        """The next IP packet that the box sent into the tunnel, but for chatter; fails in time."""
        deadline = time.monotonic() + seconds
        while _readable(self._fd, deadline):
            packet = os.read(self._fd, 65535)
            if not _is_chatter(packet):
                return packet
        return pytest.fail(f"nothing came into the tunnel in {seconds} s")

    def take(self) -> bytes:
        """The next IP packet that the box has sent into the tunnel already; empty where there is none."""
        with suppress(BlockingIOError):
            while _is_chatter(packet := os.read(self._fd, 65535)):
                pass
            return packet
        return b""

    def close(self) -> None:
        """Remove the device; once more does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Wire:
    """The far end of an interface: a packet socket that puts frames on it and takes the IP unicast that arrives.

    Chatter is left out.
    """

    def __init__(self, ns: Netns, interface: str) -> None:
        self.ns = ns
        with ns:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
            self._socket.bind((interface, 3))

    def send(self, data: bytes) -> None:
        """Put a frame on the wire."""
        self._socket.send(data)

    def read(self, seconds: float = 5.0) -> bytes:
        """The next frame that arrived; fails in time."""
        deadline = time.monotonic() + seconds
        while _readable(self._socket.fileno(), deadline):
            data = self.take()
            if data:
                return data
        return pytest.fail(f"no frame arrived in {seconds} s")

    def take(self) -> bytes:
        """The next frame that has arrived already; empty where none has."""
        with suppress(BlockingIOError):
            while True:
                data, address = self._socket.recvfrom(65535, socket.MSG_DONTWAIT)
                if address[2] != socket.PACKET_OUTGOING and not data[0] & 1 and not _is_chatter(data[14:]):
                    return data
        return b""

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def udp_socket(ns: Netns, address: str, port: int) -> socket.socket:
    """A bound UDP socket inside a namespace."""
    with ns:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.settimeout(5.0)
    return made


def has_waiting(made: socket.socket) -> bool:
    """Whether something can be read at once."""
    return _readable(made.fileno(), 0.0)


def _script(ns: Netns, commands: str) -> None:
    """Run ip(8) commands, one a line, in one process."""
    ns.run("ip", "-batch", "-", input=commands)


def quiet(ns: Netns) -> None:
    """IPv6 without chatter on the interfaces that come: no link-local addresses, no duplicate address detection."""
    settings = ("addr_gen_mode=1", "accept_dad=0", "accept_ra=0", "router_solicitations=0")
    ns.run("sysctl", "-qw", *(f"net.ipv6.conf.default.{setting}" for setting in settings))


def make_edge_interfaces(edge: Netns, client: Netns, number: int | None = None) -> None:
    """An uplink from edge to client, with static neighbours. A gateway to other clients is at the client's address.

    ``number`` is the uplink's ifindex, where it matters.
    """
    index = f"index {number} " if number else ""
    quiet(edge)
    quiet(client)
    _script(
        edge,
        f"""link add eth0 {index}address {BOX_MAC} type veth peer name eth0 address {CLIENT_MAC} netns {client.name}
        address add {V4.uplink}/24 dev eth0
        address add {V6.uplink}/64 dev eth0 nodad
        link set eth0 up
        neighbour replace {V4.client} lladdr {CLIENT_MAC} dev eth0 nud permanent
        neighbour replace {V6.client} lladdr {CLIENT_MAC} dev eth0 nud permanent""",
    )
    _script(
        client,
        f"""address add {V4.client}/24 dev eth0
        address add {V6.client}/64 dev eth0 nodad
        link set eth0 up""",
    )
    _script(
        edge,
        f"""route add 192.0.2.0/24 via {V4.client}
        route add 2001:db8:77::/64 via {V6.client}""",
    )


def limit_icmp_errors(ns: Netns, milliseconds: int) -> None:
    """How long a namespace's kernel waits between two ICMP errors to a host; 0 for no limit (kernel doc, ip-sysctl)."""
    names = ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit")
    ns.run("sysctl", "-qw", *(f"{name}={milliseconds}" for name in names))


def make_worker_interfaces(worker: Netns, container: Netns) -> None:
    """A bridge with one container on it, as a container engine makes them, with static neighbours.

    Where nobody listens in the container its kernel sends no errors, which would be relayed as replies are: see
    :func:`limit_icmp_errors`.
    """
    quiet(worker)
    quiet(container)
    limit_icmp_errors(container, 2_000_000_000)
    _script(
        worker,
        f"""link add podman0 address {BRIDGE_MAC} type bridge
        address add {V4.bridge}/16 dev podman0
        address add {V6.bridge}/64 dev podman0 nodad
        link set podman0 up
        link add veth0 type veth peer name eth0 address {CONTAINER_MAC} netns {container.name}
        link set veth0 master podman0 up
        neighbour replace {V4.container} lladdr {CONTAINER_MAC} dev podman0 nud permanent
        neighbour replace {V6.container} lladdr {CONTAINER_MAC} dev podman0 nud permanent""",
    )
    _script(
        container,
        f"""address add {V4.container}/16 dev eth0
        address add {V6.container}/64 dev eth0 nodad
        link set eth0 up
        neighbour replace {V4.bridge} lladdr {BRIDGE_MAC} dev eth0 nud permanent
        neighbour replace {V6.bridge} lladdr {BRIDGE_MAC} dev eth0 nud permanent
        route add default via {V4.bridge}
        route add default via {V6.bridge}""",
    )


def tunnel_of(ns: Netns, overlay: str, overlay6: str) -> Tun:
    """The stand-in for wg0, with its overlay addresses, up."""
    tun = Tun(ns)
    _script(
        ns,
        f"""address add {overlay}/32 dev wg0
        address add {overlay6}/128 dev wg0 nodad
        link set wg0 up mtu 1420
        route add 100.64.0.0/11 dev wg0
        route add fd65:6467:6577::/64 dev wg0""",
    )
    return tun


def _service(name: str, vip: str, ports: tuple[int, int], endpoint_id: int) -> dict[str, Any]:
    backends = [{"endpoint_id": endpoint_id, "worker": "worker1", "weight": 1}]
    return {"name": name, "vip": vip, "port": ports[0], "last_port": ports[1], "backends": backends}


def _endpoint(net: Net, name: str, vip: str, ports: tuple[int, int, int], endpoint_id: int) -> dict[str, Any]:
    return {
        "endpoint_id": endpoint_id,
        "service": name,
        "vip": vip,
        "port": ports[0],
        "last_port": ports[1],
        "container_address": net.container,
        "container_port": ports[2],
    }


def relays_of(relays: Relays) -> dict[str, str]:
    """Relay addresses as a plan has them."""
    return {"relay_address": relays.ipv4, "relay_address_ipv6": relays.ipv6}


EDGE_PARAMS: dict[str, Any] = {
    "uplink": "eth0",
    "wireguard_interface": "wg0",
    **relays_of(EDGE_RELAYS),
    "workers": [
        {"name": "worker1", **relays_of(WORKER_RELAYS)},
        {"name": "worker2", **relays_of(WORKER2_RELAYS)},
    ],
    "services": [
        service
        for net in (V4, V6)
        for service in (
            _service("dns", net.dns_vip, (PORT, PORT), net.dns_endpoint),
            _service("echo", net.echo_vip, (ECHO_PORT, ECHO_PORT), net.echo_endpoint),
            _service("games", net.games_vip, (GAMES_PORT, GAMES_LAST_PORT), net.games_endpoint),
        )
    ],
}
WORKER_PARAMS: dict[str, Any] = {
    "container_interface": "podman0",
    "uplink": "eth0",
    "wireguard_interface": "wg0",
    **relays_of(WORKER_RELAYS),
    "edges": [{"name": "edge1", **relays_of(EDGE_RELAYS)}],
    "endpoints": [
        endpoint
        for net in (V4, V6)
        for endpoint in (
            _endpoint(net, "dns", net.dns_vip, (PORT, PORT, PORT), net.dns_endpoint),
            _endpoint(net, "echo", net.echo_vip, (ECHO_PORT, ECHO_PORT, ECHO_CONTAINER_PORT), net.echo_endpoint),
            _endpoint(
                net, "games", net.games_vip, (GAMES_PORT, GAMES_LAST_PORT, GAMES_CONTAINER_PORT), net.games_endpoint
            ),
        )
    ],
}


def plans_of(inventory: dict[str, Any], keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Each host's plan as its box gets it."""
    return {plan.host: json.loads(Renderer().render(plan)) for plan in plan_fleet(inventory, keys).hosts}


LISTED_NUMBER = 20  # of the VIPs of the service that :func:`planned` plans


def planned(ports: Sequence[int | str], container_port: int | None = None) -> dict[str, dict[str, Any]]:
    """What the planner makes of a service's ports, by role: a service "listed" of both families, and nothing else.

    Edge and worker have the relay addresses that they have here everywhere.
    """
    backend = {"worker": "worker1", "address": V4.container, "address_ipv6": V6.container, "port": container_port}
    vips = [net.vip(LISTED_NUMBER) for net in (V4, V6)]
    hosts = {
        name: {"edgewire_id": number, "edgewire_endpoint_address": f"198.18.0.{number}"}
        for name, number in (("edge1", 1), ("worker1", 3))
    }
    inventory: dict[str, Any] = {
        "hosts": hosts,
        "groups": {"edgewire_edges": ["edge1"], "edgewire_workers": ["worker1"]},
        "vars": {"edgewire_services": [{"name": "listed", "vips": vips, "ports": ports, "backends": [backend]}]},
    }
    keys = {name: base64.b64encode(name.ljust(32).encode()).decode() for name in hosts}
    plans = plans_of(inventory, keys)
    return {role: plans[f"{role}1"][role] for role in ("edge", "worker")}


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plan that names come from."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"edge": EDGE_PARAMS, "worker": WORKER_PARAMS}))
    monkeypatch.setattr(info, "PLAN_FILE", path)
    return path


def named(entries: list[dict[str, Any]], vip: str) -> dict[str, Any]:
    """The one entry of a VIP."""
    (entry,) = [entry for entry in entries if entry["vip"] == vip]
    return entry


def desired(role: str, build: successors.Build, *, present: bool = True, xdp_mode: str = "native") -> Desired:
    """The role's programs on the interfaces that the boxes here have."""
    ports = {"edge": {"uplink": "eth0"}, "worker": {"container": "podman0"}}[role]
    return Desired(role, {**ports, "wireguard": "wg0"}, build.identity, xdp_mode, present)


class BareEdge:
    """A namespace with an edge's interfaces and nothing of ours yet, and this thread inside it."""

    def __init__(self, ns: Netns, tun: Tun, wire: Wire) -> None:
        self.ns, self.tun, self.wire = ns, tun, wire
        self.build = build_of("edge")

    def counters(self) -> dict[str, int]:
        """The running counters of packets and bytes."""
        with map_io.running_maps("edge") as maps:
            assert maps is not None
            return stats(maps)

    def relay_one(self) -> None:
        """A client's packet of each family goes through: the programs work together."""
        for net in (V4, V6):
            self.wire.send(frame(datagram(net.client, net.dns_vip, 40_000, PORT)))
            option = self.tun.read()[net.header :]
            assert option[4:8] == net.dns_endpoint.to_bytes(4, "big")


@dataclass
class Box:
    """One box with a role's programs attached and its maps filled by the collection's own code."""

    role: str
    ns: Netns
    tun: Tun
    wire: Wire
    maps: map_io.Maps

    def watch(self) -> Watch:
        """Counters from here on."""
        return Watch(self.maps)


def forget(maps: map_io.Maps, name: str) -> None:
    """Empty one of the tables that the programs fill."""
    keys, _ = maps[name].read()
    if keys:
        batches.delete_batch(maps[name].fd, name, keys, len(keys) // maps[name].info.key_size)


def fill_icmp_buckets(maps: map_io.Maps, full_at: int = 0) -> None:
    """Say when the ICMP buckets of all CPUs and kinds are full again, in ns of the monotonic clock.

    0 lets ICMP be generated; a time that is centuries off does not.
    """
    for kind in range(2):
        value = struct.pack("=Q", full_at) * libbpf.possible_cpus()
        map_io.write(maps, [("ew_icmp_buckets", layout.U32.of(kind), value)])


@dataclass
class EdgeBox(Box):
    """An edge, and the namespace of its one client."""

    client: Netns


@pytest.fixture
def edge_box(shared_pins: Path, make_netns: Callable[[], Netns]) -> Iterator[EdgeBox]:
    """An edge whose uplink's far end is ``wire`` and whose tunnel is ``tun``."""
    ns, client = make_netns(), make_netns()
    make_edge_interfaces(ns, client)
    tun, wire = tunnel_of(ns, V4.edge_overlay, V6.edge_overlay), Wire(client, "eth0")
    build = build_of("edge")
    with ns:
        forwarder.ensure(desired("edge", build), build)
        contents.ensure("edge", EDGE_PARAMS)
        with map_io.running_maps("edge") as maps:
            assert maps is not None
            fill_icmp_buckets(maps)  # no test pays for what another sent: the next box goes on with these maps
            yield EdgeBox("edge", ns, tun, wire, maps, client)
    tun.close()
    wire.close()


@dataclass
class WorkerBox(Box):
    """A worker, and the namespace of its one container."""

    container: Netns


@pytest.fixture
def worker_box(shared_pins: Path, make_netns: Callable[[], Netns]) -> Iterator[WorkerBox]:
    """A worker whose container's own end of the bridge is ``wire`` and whose tunnel is ``tun``."""
    ns, container = make_netns(), make_netns()
    make_worker_interfaces(ns, container)
    tun, wire = tunnel_of(ns, V4.worker_overlay, V6.worker_overlay), Wire(container, "eth0")
    build = build_of("worker")
    with ns:
        forwarder.ensure(desired("worker", build), build)
        contents.ensure("worker", WORKER_PARAMS)
        with map_io.running_maps("worker") as maps:
            assert maps is not None
            forget(maps, "ew_flows")
            fill_icmp_buckets(maps)
            yield WorkerBox("worker", ns, tun, wire, maps, container)
    tun.close()
    wire.close()
