# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge as a specification: what its programs do to a packet, given its services, backends and workers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.tests.model import tunnel
from ansible_collections.edgewire.fleet.tests.model.packet import (
    ASIDE,
    DESTINATION,
    DONT_FRAGMENT,
    ECHO,
    ECHO6,
    ERRORS,
    ERRORS6,
    FRAGMENT_OFFSET,
    FRAGMENT_OFFSET6,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MAX_IPV4_HEADER,
    MORE_FRAGMENTS,
    OPTION,
    OPTION6_BYTES,
    OPTION_BYTES,
    PASS,
    PLAIN,
    RETURNED,
    TIME_EXCEEDED,
    TOO_BIG,
    UDP,
    Count,
    Outcome,
    Quoted,
    drop,
    find_udp,
    is_option6,
    is_whole_relayed_icmp,
    quoted_by,
    quoted_by6,
    turn,
    turn6,
    unwrap,
    unwrap6,
    word,
    wrap,
    wrap6,
)

# The protocols of VLAN tags: IEEE 802.1Q and 802.1ad.
VLAN, SERVICE_VLAN = 0x8100, 0x88A8
# XDP looks no further into a packet for its UDP header.
LONGEST_CHAIN = 512
# How far a flow looks for a live worker along its service's table.
PROBES = 32
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Worker:
    """A worker's relay addresses, packed, and whether it is marked dead."""

    relay: bytes
    relay6: bytes
    dead: bool = False


@dataclass(frozen=True)
class Backend:
    """One endpoint of one service: its VIP, packed, and the ports that replies may come from."""

    worker: str
    vip: bytes
    port: int
    last_port: int


@dataclass(frozen=True)
class Source:
    """A network whose packets a service takes or refuses: an address, packed, and how many bits of it count."""

    network: bytes
    bits: int
    allowed: bool

    def holds(self, client: bytes) -> bool:
        """Whether an address of the same family is in it."""
        width = len(client) * 8
        difference = int.from_bytes(client, "big") ^ int.from_bytes(self.network, "big")
        return len(self.network) == len(client) and not difference >> (width - self.bits)


@dataclass(frozen=True)
class Service:
    """The ports of a VIP that a table of endpoint ids serves, to the sources that may.

    Of its rates the model knows what they are about to say: that the service's bucket is empty, and whose are. All
    others are full, at every packet.
    """

    vip: bytes
    port: int
    last_port: int
    table: Sequence[int]
    by_client: bool = False
    sources: Sequence[Source] = ()
    carries_oversize: bool = False
    exhausted: bool = False
    exhausted_sources: Set[bytes] = frozenset()

    def refuses(self, client: bytes) -> str:
        """Why a client's packet is refused; empty where it is not."""
        if not self.admits(client):
            return "source_denied"
        if self.exhausted:
            return "service_rate"
        # Whoever has one IPv6 address has its /64.
        return "source_rate" if client[:8] in self.exhausted_sources else ""

    def admits(self, client: bytes) -> bool:
        """The longest network that holds the client decides; without one, a list of allowed ones refuses."""
        holding = [source for source in self.sources if source.holds(client)]
        if holding:
            return max(holding, key=lambda source: source.bits).allowed
        return not any(source.allowed for source in self.sources)


@dataclass(frozen=True)
class Tables:
    """All that an edge knows. Addresses are packed, of 4 or 16 bytes; a relay address that is not set is empty.

    ``may_send_icmp``: the buckets of ICMP errors and of echo replies are full, at every packet; otherwise empty.
    """

    relay: bytes
    relay6: bytes
    services: Sequence[Service]
    backends: Mapping[int, Backend]
    workers: Mapping[str, Worker]
    drops_unserved: bool = False
    wireguard_mtu: int = 1420
    may_send_icmp: bool = True

    def service_of(self, vip: bytes, port: int) -> Service | None:
        """The service that has a port of a VIP; no two have the same."""
        for service in self.services:
            if service.vip == vip and service.port <= port <= service.last_port:
                return service
        return None


def flow_hash(client: bytes, ports: bytes) -> int:
    """A flow's number: murmur3's finalizer over client and ports, as a little-endian box reads them."""
    words = struct.unpack(f"<{len(client) // 4}I", client)
    if len(words) == 1:
        word_of_client = words[0]
    else:
        word_of_client = 0
        for value, factor in zip(words, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F), strict=True):
            word_of_client ^= value * factor & _MASK
    source, destination = struct.unpack("<HH", ports)
    number = (word_of_client * 0xCC9E2D51 & _MASK) ^ ((source << 16 | destination) * 0x1B873593 & _MASK)
    number ^= number >> 16
    number = number * 0x85EBCA6B & _MASK
    number ^= number >> 13
    number = number * 0xC2B2AE35 & _MASK
    return number ^ number >> 16


def pick(tables: Tables, service: Service, client: bytes, ports: bytes) -> int | None:
    """The endpoint of a flow: its place in the table, or the next one whose worker lives."""
    size = len(service.table)
    if not size:
        return None
    place = flow_hash(client, bytes(4) if service.by_client else ports) * size >> 32
    for step in range(PROBES + 1):
        endpoint_id = service.table[(place + step) % size]
        if not tables.workers[tables.backends[endpoint_id].worker].dead:
            return endpoint_id
    return None


def untagged(frame: bytes) -> bytes:
    """A frame without its outermost VLAN tags, two at most."""
    for _ in range(2):
        if len(frame) >= 18 and word(frame, 12) in (VLAN, SERVICE_VLAN):
            frame = frame[:12] + frame[16:]
    return frame


def _follow(tables: Tables, vip: bytes) -> Outcome:
    """A fragment without ports, or with ports of no service: it follows the first one if it is for a VIP."""
    return Outcome("follow") if any(service.vip == vip for service in tables.services) else PASS


def ingress(frame: bytes, tables: Tables) -> Outcome:
    """edge_xdp: a frame from the uplink.

    "relay" is the packet without link layer, on its way into WireGuard; "lead" is the same of the first fragment of
    several; "follow" is a fragment that is left to edge_handoff as it is.
    """
    frame = untagged(frame)
    if len(frame) < 14:
        return PASS
    packet, ethertype = frame[14:], word(frame, 12)
    outcome = PASS
    if ethertype == IPV4:
        outcome = _ingress4(packet, tables)
    elif ethertype == IPV6:
        outcome = _ingress6(packet, tables)
    if outcome == PASS and tables.drops_unserved and _is_unserved(packet, ethertype, tables):
        return drop("not_a_service")
    return outcome


def _is_unserved(packet: bytes, ethertype: int, tables: Tables) -> bool:
    """Whether a packet that is left to the host is for a VIP, and not ICMP."""
    vips = {service.vip for service in tables.services}
    if ethertype == IPV4:
        return len(packet) >= 20 and packet[9] != ICMP and packet[16:20] in vips
    if ethertype != IPV6 or len(packet) < 40:
        return False
    place = find_udp(packet[40:], packet[6], LONGEST_CHAIN)
    return place.following != ICMPV6 and packet[24:40] in vips


def _aside(packet: bytes, plain: bool, tables: Tables) -> Outcome:
    """ICMP: a ping or an error to a VIP is edge_handoff's, everything else the host's."""
    six = packet[0] >> 4 == 6
    icmp, vip = (packet[40:], packet[24:40]) if six else (packet[20:], packet[16:20])
    wanted = {ECHO6, *ERRORS6} if six else {ECHO, *ERRORS}
    ours = plain and len(icmp) >= 8 and icmp[0] in wanted and any(service.vip == vip for service in tables.services)
    return ASIDE if ours else PASS


def _ingress4(packet: bytes, tables: Tables) -> Outcome:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return PASS
    header, fragment = (packet[0] & 15) * 4, word(packet, 6)
    if header > 20:
        if len(packet) < 21:
            return PASS
        if packet[20] == OPTION:
            return drop("relay_from_outside")
    if packet[9] == ICMP:
        return _aside(packet, header == 20 and not fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET), tables)
    if packet[9] != UDP or header < 20:
        return PASS
    client, vip, ports = packet[12:16], packet[16:20], packet[header : header + 4]
    is_fragment = bool(fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS))
    if fragment & FRAGMENT_OFFSET or len(packet) < header + 8:
        return _follow(tables, vip) if is_fragment else PASS
    service = tables.service_of(vip, word(ports, 2))
    if service is None:
        return _follow(tables, vip) if is_fragment else PASS
    refused = service.refuses(client)
    if refused:
        return drop(refused)
    length = word(packet, 2)
    if not header + 8 <= length <= len(packet):
        return drop("malformed")
    if packet[8] <= 1:
        return TIME_EXCEEDED
    may_refuse = not is_fragment and not service.carries_oversize
    if may_refuse and fragment & DONT_FRAGMENT and length + OPTION_BYTES > tables.wireguard_mtu:
        return TOO_BIG
    if header + OPTION_BYTES > MAX_IPV4_HEADER:
        return drop("options_too_long")
    if not tables.relay:
        return drop("not_configured")
    endpoint_id = pick(tables, service, client, ports)
    if endpoint_id is None:
        return drop("no_backend")
    worker = tables.workers[tables.backends[endpoint_id].worker]
    relayed = wrap(packet, tables.relay, worker.relay, endpoint_id, client)
    return Outcome("lead" if is_fragment else "relay", relayed, count=Count(endpoint_id, "in", length))


def _ingress6(packet: bytes, tables: Tables) -> Outcome:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return PASS
    rest = packet[40:]
    if packet[6] == DESTINATION:
        if len(rest) < 4:
            return PASS
        if is_option6(rest[2]):
            return drop("relay_from_outside")
    if packet[6] == ICMPV6:
        return _aside(packet, True, tables)
    place = find_udp(rest, packet[6], LONGEST_CHAIN)
    client, vip, ports = packet[8:24], packet[24:40], rest[place.offset : place.offset + 4]
    follows = bool(place.fragment) and place.may_be_udp
    if not place.found or len(rest) < place.offset + 8:
        return _follow(tables, vip) if follows else PASS
    service = tables.service_of(vip, word(ports, 2))
    if service is None:
        return _follow(tables, vip) if follows else PASS
    refused = service.refuses(client)
    if refused:
        return drop(refused)
    length = word(packet, 4)
    if not place.offset + 8 <= length <= len(rest):
        return drop("malformed")
    if packet[7] <= 1:
        return TIME_EXCEEDED
    may_refuse = not place.fragment and not service.carries_oversize
    if may_refuse and 40 + length + OPTION6_BYTES > tables.wireguard_mtu:
        return TOO_BIG
    if not tables.relay6:
        return drop("not_configured")
    endpoint_id = pick(tables, service, client, ports)
    if endpoint_id is None:
        return drop("no_backend")
    worker = tables.workers[tables.backends[endpoint_id].worker]
    relayed = wrap6(packet, tables.relay6, worker.relay6, endpoint_id, client)
    return Outcome("lead" if place.fragment else "relay", relayed, count=Count(endpoint_id, "in", 40 + length))


def _replying(tables: Tables, endpoint_id: int, source: bytes) -> Backend | str:
    """The backend that a reply is from, or why it is none's: WireGuard vouches for the source alone."""
    backend = tables.backends.get(endpoint_id)
    if backend is None:
        return "unknown_endpoint"
    worker = tables.workers[backend.worker]
    return backend if source == (worker.relay if len(backend.vip) == 4 else worker.relay6) else "wrong_worker"


def egress(packet: bytes, tables: Tables) -> Outcome:
    """edge_egress: a packet out of WireGuard. "uplink" is the reply as the client gets it."""
    if not tables.relay or not packet:
        return PASS
    if packet[0] >> 4 == 6:
        return _egress6(packet, tables)
    return _egress4(packet, tables)


def _egress4(packet: bytes, tables: Tables) -> Outcome:
    refused = tunnel.refuse(packet, tables.relay)
    if refused is not None:
        return refused
    endpoint_id, client = tunnel.option_of(packet)
    backend = _replying(tables, endpoint_id, packet[12:16])
    if isinstance(backend, str):
        return drop(backend)
    if packet[8] <= 1:
        return drop("ttl_expired")
    if tunnel.stage_of(packet) == RETURNED and packet[9] == UDP:
        return _passed_on(packet, (packet[0] & 15) * 4, backend, client, tables)
    if tunnel.stage_of(packet) != PLAIN:
        return drop("bad_option")
    if packet[9] == ICMP:
        if not is_whole_relayed_icmp(packet) or not _about_its_port(quoted_by(packet[32:]), client, backend):
            return drop("wrong_port")
        return Outcome("uplink", unwrap(packet, backend.vip, client), event="error_relayed")
    if not word(packet, 6) & FRAGMENT_OFFSET and not _from_its_port(packet, (packet[0] & 15) * 4, backend):
        return drop("wrong_port")
    # An endpoint of the other family's VIP: its worker's address is not an IPv4 one, so it was refused above.
    reply = unwrap(packet, backend.vip, client)
    return Outcome("uplink", reply, count=Count(endpoint_id, "out", word(reply, 2)))


def _egress6(packet: bytes, tables: Tables) -> Outcome:
    refused = tunnel.refuse6(packet, tables.relay6)
    if refused is not None:
        return refused
    endpoint_id, client = tunnel.option6_of(packet)
    backend = _replying(tables, endpoint_id, packet[8:24])
    if isinstance(backend, str):
        return drop(backend)
    if packet[7] <= 1:
        return drop("ttl_expired")
    place = find_udp(packet[64:], packet[40])
    if tunnel.stage_of(packet) == RETURNED and packet[40] != ICMPV6:
        return _passed_on(packet, 64 + place.offset, backend, client, tables) if place.found else drop("not_relayed")
    if tunnel.stage_of(packet) != PLAIN:
        return drop("bad_option")
    if packet[40] == ICMPV6:
        if not _about_its_port(quoted_by6(packet[64:]), client, backend):
            return drop("wrong_port")
        return Outcome("uplink", unwrap6(packet, backend.vip, client), event="error_relayed")
    if not place.fragment & FRAGMENT_OFFSET6:
        if not place.found:
            return drop("not_relayed")
        if not _from_its_port(packet, 64 + place.offset, backend):
            return drop("wrong_port")
    reply = unwrap6(packet, backend.vip, client)
    return Outcome("uplink", reply, count=Count(endpoint_id, "out", 40 + word(reply, 4)))


def _passed_on(packet: bytes, start: int, old: Backend, client: bytes, tables: Tables) -> Outcome:
    """A client's packet that a worker returned: on to the backend that the flow has by the table."""
    if len(packet) < start + 8:
        return drop("malformed")
    ports = packet[start : start + 4]
    service = tables.service_of(old.vip, word(ports, 2))
    endpoint_id = None if service is None else pick(tables, service, client, ports)
    if endpoint_id is None:
        return drop("no_backend")
    worker = tables.workers[tables.backends[endpoint_id].worker]
    if len(client) == 4:
        return Outcome("relay", turn(packet, tables.relay, worker.relay, endpoint_id), event="moved")
    return Outcome("relay", turn6(packet, tables.relay6, worker.relay6, endpoint_id), event="moved")


def _about_its_port(quoted: Quoted | None, client: bytes, backend: Backend) -> bool:
    if quoted is None or (quoted.source, quoted.destination) != (client, backend.vip):
        return False
    return backend.port <= quoted.dport <= backend.last_port


def _from_its_port(packet: bytes, offset: int, backend: Backend) -> bool:
    return len(packet) >= offset + 8 and backend.port <= word(packet, offset) <= backend.last_port
