# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker as a specification: what its programs do to a packet, given its edges, endpoints and flows."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Set
from dataclasses import dataclass
from typing import NamedTuple

from ansible_collections.edgewire.fleet.tests.model import icmp, tunnel
from ansible_collections.edgewire.fleet.tests.model.packet import (
    ASK,
    DONT_FRAGMENT,
    FORWARDED,
    FORWARDED_TWICE,
    FRAGMENT_OFFSET,
    FRAGMENT_OFFSET6,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    MAX_IPV4_HEADER,
    MORE_FRAGMENTS,
    OPTION6_BYTES,
    OPTION_BYTES,
    PASS,
    PLAIN,
    RETURNED,
    UDP,
    Count,
    Outcome,
    checksum_of,
    drop,
    find_udp,
    is_whole_relayed_icmp,
    quoted_by,
    quoted_by6,
    readdress,
    requote,
    turn,
    turn6,
    unwrap,
    unwrap6,
    update_checksum,
    update_udp_checksum,
    word,
    wrap,
    wrap6,
)

# Bytes of a frame that can be kept.
LONGEST_HELD = 1536


@dataclass(frozen=True)
class Endpoint:
    """A VIP's ports and the container's that they lead to. ``direct``: replies leave through the worker's uplink.

    One that ``moved`` has the relay address of the worker that has it now as container.
    """

    vip: bytes
    container: bytes
    port: int
    last_port: int
    container_port: int
    direct: bool = False
    moved: bool = False
    carries_oversize: bool = False


class FlowKey(NamedTuple):
    """A flow as its reply looks: from the container, or from the VIP of an endpoint that moved, to the client."""

    container: bytes
    client: bytes
    container_port: int
    client_port: int


@dataclass(frozen=True)
class Flow:
    """Where a reply goes and what it must look like there."""

    edge: bytes
    vip: bytes
    endpoint_id: int
    port: int
    direct: bool = False
    moved: bool = False
    carries_oversize: bool = False


@dataclass(frozen=True)
class Tables:
    """All that a worker knows; ``flows`` is what it learns. Addresses are packed, of 4 or 16 bytes.

    ``may_send_errors``: the bucket of ICMP errors is full, at every packet; otherwise it is empty.
    """

    relay: bytes
    relay6: bytes
    edges: Set[bytes]
    endpoints: Mapping[int, Endpoint]
    flows: MutableMapping[FlowKey, Flow]
    wireguard_mtu: int
    has_uplink: bool = True
    may_send_errors: bool = True


def ingress(packet: bytes, tables: Tables) -> Outcome:
    """worker_ingress: a packet out of WireGuard. "container" is the packet as the container gets it.

    A packet that asks whether its flow is known is taken to be of one that is.
    """
    if not tables.relay or not packet:
        return PASS
    version = packet[0] >> 4
    refused = tunnel.refuse6(packet, tables.relay6) if version == 6 else tunnel.refuse(packet, tables.relay)
    if refused is not None:
        return refused
    edge = packet[8:24] if version == 6 else packet[12:16]
    if edge not in tables.edges:
        return drop("unknown_edge")
    endpoint_id, client = tunnel.option6_of(packet) if version == 6 else tunnel.option_of(packet)
    endpoint = tables.endpoints.get(endpoint_id)
    if endpoint is None:
        return drop("unknown_endpoint")
    if packet[7 if version == 6 else 8] <= 1:
        return _expired(packet, edge, endpoint_id, endpoint, client, tables)
    if len(endpoint.container) != (16 if version == 6 else 4):
        return drop("unknown_endpoint")
    stage = tunnel.stage_of(packet)
    is_icmp = packet[40 if version == 6 else 9] == (ICMPV6 if version == 6 else ICMP)
    if stage == RETURNED or (is_icmp and stage != PLAIN):
        return drop("bad_option")
    if is_icmp:
        return _deliver_error(packet, endpoint, client, tables)
    if endpoint.moved and stage != ASK:
        return _pass_through(packet, edge, endpoint_id, endpoint, client, tables)
    if version == 6:
        inner = unwrap6(packet, client, endpoint.container)
        place = find_udp(inner[40:], inner[6])
        start, length, later = 40 + place.offset, 40 + word(inner, 4), bool(place.fragment & FRAGMENT_OFFSET6)
        if not place.found and not later:
            return drop("not_relayed")
    else:
        inner = unwrap(packet, client, endpoint.container)
        start, length, later = (inner[0] & 15) * 4, word(inner, 2), bool(word(inner, 6) & FRAGMENT_OFFSET)
    if later:
        return Outcome("container", inner, count=Count(endpoint_id, "in", length))
    if len(inner) < start + 8:
        return drop("malformed")
    port = word(inner, start + 2)
    if not endpoint.port <= port <= endpoint.last_port:
        return drop("unknown_endpoint")
    container_port = endpoint.container_port + port - endpoint.port & 0xFFFF
    key = FlowKey(endpoint.container, client, container_port, word(inner, start))
    carries = endpoint.carries_oversize
    tables.flows[key] = Flow(edge, endpoint.vip, endpoint_id, port, endpoint.direct, carries_oversize=carries)
    delivered = _translated(inner, start, 2, container_port, endpoint.vip, endpoint.container)
    return Outcome("container", delivered, count=Count(endpoint_id, "in", length))


def _expired(
    packet: bytes, edge: bytes, endpoint_id: int, endpoint: Endpoint, client: bytes, tables: Tables
) -> Outcome:
    """A request whose time is up: its client learns that from the VIP, by way of the edge that sent it."""
    six, size = len(client) == 16, len(client)
    plain = packet[40] == UDP if six else packet[9] == UDP and packet[0] & 15 == 8
    later = not six and word(packet, 6) & FRAGMENT_OFFSET
    start = 40 + OPTION6_BYTES if six else 20 + OPTION_BYTES
    fits = start + 8 <= icmp.length_of(packet, six=six) <= len(packet)
    answers = len(endpoint.vip) == size and not endpoint.moved
    if not plain or later or not fits or not answers or tunnel.stage_of(packet) not in (PLAIN, ASK):
        return drop("ttl_expired")
    if not icmp.may_answer(client, to_many=False):
        return drop("ttl_expired")
    if not tables.may_send_errors:
        return drop("ttl_expired", "icmp_suppressed")
    hops = 7 if six else 8
    # As it came here: unwrap() takes a hop off, which is put on before.
    lifted = bytearray(packet[: icmp.length_of(packet, six=six)])
    lifted[hops] += 1
    if not six:
        check = update_checksum(word(packet, 10), packet[hops : hops + 2], bytes(lifted[hops : hops + 2]))
        lifted[10:12] = check.to_bytes(2, "big")
    about = (unwrap6 if six else unwrap)(bytes(lifted), client, endpoint.vip)
    kind = icmp.TIME_EXCEEDED6 if six else icmp.TIME_EXCEEDED
    body = icmp.message(kind, 0, 0, about, endpoint.vip, client)
    own = tables.relay6 if six else tables.relay
    # It starts here, so that no hop is taken off.
    error = (icmp.header6 if six else icmp.header)(endpoint.vip, client, len(body)) + body
    sent = bytearray((wrap6 if six else wrap)(error, own, edge, endpoint_id, client))
    sent[hops] = icmp.HOPS
    if not six:
        sent[10:12] = bytes(2)
        sent[10:12] = checksum_of(bytes(sent[:32])).to_bytes(2, "big")
    return Outcome("relay", bytes(sent), "ttl_expired", event="time_exceeded_sent")


def _pass_through(
    packet: bytes, sender: bytes, endpoint_id: int, endpoint: Endpoint, client: bytes, tables: Tables
) -> Outcome:
    """A packet of an endpoint that moved: on to the worker that has it, or a reply from there on to its edge."""
    is_v6, stage = len(client) == 16, tunnel.stage_of(packet)
    if is_v6:
        place = find_udp(packet[40 + OPTION6_BYTES :], packet[40])
        start, later = 40 + OPTION6_BYTES + place.offset, bool(place.fragment & FRAGMENT_OFFSET6)
        length = 40 + (word(packet, 4) - OPTION6_BYTES & 0xFFFF)
        if not place.found and not later:
            return drop("not_relayed")
    else:
        start, later = (packet[0] & 15) * 4, bool(word(packet, 6) & FRAGMENT_OFFSET)
        length = word(packet, 2) - OPTION_BYTES & 0xFFFF
    if not later and len(packet) < start + 8:
        return drop("malformed")

    def sent(to: bytes, stage: int, way: str) -> Outcome:
        own, on = (tables.relay6, turn6) if is_v6 else (tables.relay, turn)
        count, event = Count(endpoint_id, way, length), "passed_back" if way == "out" else "forwarded"
        return Outcome("relay", on(packet, own, to, endpoint_id, stage), count=count, event=event)

    if stage == PLAIN and sender == endpoint.container:
        flow = None
        if not later:
            flow = tables.flows.get(FlowKey(endpoint.vip, client, word(packet, start), word(packet, start + 2)))
        if flow is None or flow.endpoint_id != endpoint_id:
            return drop("no_way_back")
        return sent(flow.edge, PLAIN, "out")
    if stage == FORWARDED_TWICE:
        return drop("too_many_hops")
    if not later:
        port = word(packet, start + 2)
        key = FlowKey(endpoint.vip, client, port, word(packet, start))
        tables.flows[key] = Flow(sender, endpoint.vip, endpoint_id, port, endpoint.direct, True)
    return sent(endpoint.container, FORWARDED if stage == PLAIN else FORWARDED_TWICE, "in")


def _deliver_error(packet: bytes, endpoint: Endpoint, sender: bytes, tables: Tables) -> Outcome:
    """An error about a reply that the container has sent, as the container gets it."""
    six = packet[0] >> 4 == 6
    message = packet[64:] if six else packet[32:]
    quoted = quoted_by6(message) if six else quoted_by(message)
    whole = six or is_whole_relayed_icmp(packet)
    if quoted is None or not whole or quoted.source != endpoint.vip:
        return drop("not_relayed")
    if not endpoint.port <= quoted.sport <= endpoint.last_port:
        return drop("unknown_endpoint")
    port = endpoint.container_port + quoted.sport - endpoint.port & 0xFFFF
    if FlowKey(endpoint.container, quoted.destination, port, quoted.dport) not in tables.flows:
        return drop("unknown_flow")
    translated = requote(message, 0, endpoint.container, port, pseudo=six)
    made = packet[: len(packet) - len(message)] + translated
    delivered = (unwrap6 if six else unwrap)(made, sender, endpoint.container)
    return Outcome("container", delivered, event="error_relayed")


def _send_error(packet: bytes, tables: Tables, *, six: bool) -> Outcome:
    """A container's error about a request of a client's; any other is the host's."""
    start, size = (40, 16) if six else (20, 4)
    source, destination = packet[start - 2 * size : start - size], packet[start - size : start]
    quoted = quoted_by6(packet[start:]) if six else quoted_by(packet[start:])
    if quoted is None or (quoted.source, quoted.destination) != (destination, source):
        return PASS
    if not six and (packet[0] & 15 != 5 or word(packet, 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)):
        return PASS
    flow = tables.flows.get(FlowKey(source, destination, quoted.dport, quoted.sport))
    if flow is None or flow.moved:
        return PASS
    if not (tables.relay6 if six else tables.relay):
        return drop("not_configured")
    if packet[7 if six else 8] <= 1:
        return drop("ttl_expired")
    if flow.direct and not tables.has_uplink:
        return drop("not_configured", "error_relayed")
    made = packet[:start] + requote(packet[start:], 1, flow.vip, flow.port, pseudo=six)
    if flow.direct:
        sent = _readdress6(made, flow.vip) if six else readdress(made, flow.vip)
        return Outcome("uplink", sent, event="error_relayed")
    relay, wrapper = (tables.relay6, wrap6) if six else (tables.relay, wrap)
    return Outcome("relay", wrapper(made, relay, flow.edge, flow.endpoint_id, destination), event="error_relayed")


def _readdress6(packet: bytes, source: bytes) -> bytes:
    return packet[:7] + bytes([packet[7] - 1]) + source + packet[24:]


def _translated(packet: bytes, start: int, at: int, port: int, old: bytes, new: bytes) -> bytes:
    """A packet with the UDP port at ``start + at`` replaced; its checksum is put right for that and the address."""
    made = bytearray(packet)
    number = port.to_bytes(2, "big")
    check = update_udp_checksum(word(packet, start + 6), old, new)
    check = update_udp_checksum(check, packet[start + at : start + at + 2], number)
    made[start + 6 : start + 8] = check.to_bytes(2, "big")
    made[start + at : start + at + 2] = number
    return bytes(made)


def _held(packet: bytes) -> Outcome:
    """A later fragment of a datagram whose first one has not come: it is kept for it, if it is not too long."""
    return Outcome("held") if 14 + len(packet) <= LONGEST_HELD else drop("fragment_not_held")


def egress(frame: bytes, tables: Tables) -> Outcome:
    """worker_egress: a frame from a container, which no fragment of the same datagram came before.

    "relay" goes into WireGuard, "uplink" straight to the client; "held" waits for the first fragment; "answer" is the
    frame that the container gets instead.
    """
    packet, ethertype = frame[14:], word(frame, 12)
    outcome = PASS
    if ethertype == IPV4:
        outcome = _egress4(packet, tables)
    elif ethertype == IPV6:
        outcome = _egress6(packet, tables)
    if outcome.reason != "too_big":
        return outcome
    mtus = tables.wireguard_mtu - OPTION_BYTES, tables.wireguard_mtu - OPTION6_BYTES
    return icmp.answered(frame, "too_big", *mtus, may_send=tables.may_send_errors)


def _answered(packet: bytes, start: int, container: bytes, client: bytes, tables: Tables) -> Flow | None:
    if len(packet) < start + 8:
        return None
    flow = tables.flows.get(FlowKey(container, client, word(packet, start), word(packet, start + 2)))
    return None if flow is None or flow.moved else flow


def _egress4(packet: bytes, tables: Tables) -> Outcome:
    if len(packet) < 20:
        return PASS
    header, fragment = (packet[0] & 15) * 4, word(packet, 6)
    if packet[9] == ICMP:
        return _send_error(packet, tables, six=False)
    if packet[9] != UDP or header < 20:
        return PASS
    if fragment & FRAGMENT_OFFSET:
        return _held(packet)
    container, client = packet[12:16], packet[16:20]
    flow = _answered(packet, header, container, client, tables)
    if flow is None:
        return PASS
    if not tables.relay:
        return drop("not_configured")
    if packet[8] <= 1:
        return drop("ttl_expired")
    refuses = not flow.direct and not flow.carries_oversize
    whole = fragment & (DONT_FRAGMENT | MORE_FRAGMENTS) == DONT_FRAGMENT
    if refuses and whole and word(packet, 2) + OPTION_BYTES > tables.wireguard_mtu:
        return drop("too_big")
    if not flow.direct and header + OPTION_BYTES > MAX_IPV4_HEADER:
        return drop("options_too_long")
    if flow.direct and not tables.has_uplink:
        return drop("not_configured")
    reply = _translated(packet, header, 0, flow.port, container, flow.vip)
    count = Count(flow.endpoint_id, "out", word(packet, 2))
    if flow.direct:
        return Outcome("uplink", readdress(reply, flow.vip), count=count)
    return Outcome("relay", wrap(reply, tables.relay, flow.edge, flow.endpoint_id, client), count=count)


def _egress6(packet: bytes, tables: Tables) -> Outcome:
    if len(packet) < 40:
        return PASS
    if packet[6] == ICMPV6:
        return _send_error(packet, tables, six=True)
    place = find_udp(packet[40:], packet[6])
    if place.fragment & FRAGMENT_OFFSET6 and place.may_be_udp:
        return _held(packet)
    if not place.found:
        return PASS
    container, client = packet[8:24], packet[24:40]
    flow = _answered(packet, 40 + place.offset, container, client, tables)
    if flow is None:
        return PASS
    if not tables.relay6:
        return drop("not_configured")
    if packet[7] <= 1:
        return drop("ttl_expired")
    refuses = not flow.direct and not flow.carries_oversize
    if refuses and not place.fragment and 40 + word(packet, 4) + OPTION6_BYTES > tables.wireguard_mtu:
        return drop("too_big")
    if flow.direct and not tables.has_uplink:
        return drop("not_configured")
    reply = _translated(packet, 40 + place.offset, 0, flow.port, container, flow.vip)
    count = Count(flow.endpoint_id, "out", 40 + word(packet, 4))
    if flow.direct:
        return Outcome("uplink", _readdress6(reply, flow.vip), count=count)
    return Outcome("relay", wrap6(reply, tables.relay6, flow.edge, flow.endpoint_id, client), count=count)
