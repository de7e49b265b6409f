# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's uplink as a specification: edge_xdp and edge_handoff together, a frame in, what leaves the edge out."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.tests.model import edge, icmp
from ansible_collections.edgewire.fleet.tests.model.packet import (
    ECHO,
    ECHO6,
    FRAGMENT_OFFSET,
    FRAGMENT_OFFSET6,
    IPV4,
    MORE_FRAGMENTS,
    OPTION6_BYTES,
    OPTION_BYTES,
    PASS,
    UDP,
    Outcome,
    checksum_of,
    drop,
    find_udp,
    quoted_by,
    quoted_by6,
    update_checksum,
    word,
    wrap,
    wrap6,
)


def uplink(frame: bytes, tables: edge.Tables) -> Outcome:
    """What becomes of a frame from the uplink that no fragment of the same datagram came before.

    "relay" goes into WireGuard, "answer" is a frame back to where this one came from, "held" waits for the first
    fragment.
    """
    outcome = edge.ingress(frame, tables)
    frame = edge.untagged(frame)
    if outcome.action == "lead":
        return Outcome("relay", outcome.packet, count=outcome.count)
    if outcome.action in ("time_exceeded", "too_big"):
        reason = "ttl_expired" if outcome.action == "time_exceeded" else "too_big"
        mtus = tables.wireguard_mtu - OPTION_BYTES, tables.wireguard_mtu - OPTION6_BYTES
        return icmp.answered(frame, reason, *mtus, may_send=tables.may_send_icmp)
    if outcome.action == "icmp":
        return _icmp(frame, tables)
    return _fragment(frame, tables) if outcome.action == "follow" else outcome


def _icmp(frame: bytes, tables: edge.Tables) -> Outcome:
    """A ping or an error to a VIP."""
    packet, six = frame[14:], word(frame, 12) != IPV4
    start = 40 if six else 20
    if not start + 8 <= icmp.length_of(packet, six=six) <= len(packet):
        return drop("malformed")
    if packet[start] != (ECHO6 if six else ECHO):
        return _error(packet, tables, six=six)
    source, vip = (packet[8:24], packet[24:40]) if six else (packet[12:16], packet[16:20])
    if not icmp.may_answer(source, to_many=bool(frame[0] & 1)):
        return drop("icmp_limited")
    if not tables.may_send_icmp:
        return drop("icmp_limited", "icmp_suppressed")
    message = bytearray(packet[start:])
    message[0] = ECHO6 + 1 if six else 0
    check = update_checksum(word(packet, start + 2), packet[start : start + 2], bytes(message[:2]))
    message[2:4] = check.to_bytes(2, "big")
    if six:
        head = packet[:7] + bytes([icmp.HOPS]) + vip + source
    else:
        head = packet[:8] + bytes([icmp.HOPS, packet[9], 0, 0]) + vip + source
        head = head[:10] + checksum_of(head).to_bytes(2, "big") + head[12:]
    answer = frame[6:12] + frame[:6] + frame[12:14] + head + bytes(message)
    return Outcome("answer", answer, event="echo_answered")


def _error(packet: bytes, tables: edge.Tables, *, six: bool) -> Outcome:
    """An error to a VIP: to the worker that has the flow of the reply that it quotes, the host's where it has none."""
    start = 40 if six else 20
    quoted = quoted_by6(packet[start:]) if six else quoted_by(packet[start:])
    sender, vip = (packet[8:24], packet[24:40]) if six else (packet[12:16], packet[16:20])
    if quoted is None or quoted.source != vip:
        return PASS
    service = tables.service_of(vip, quoted.sport)
    if service is None:
        return PASS
    if packet[7 if six else 8] <= 1:
        return drop("ttl_expired")
    relay = tables.relay6 if six else tables.relay
    if not relay:
        return drop("not_configured")
    ports = quoted.dport.to_bytes(2, "big") + quoted.sport.to_bytes(2, "big")
    endpoint_id = edge.pick(tables, service, quoted.destination, ports)
    if endpoint_id is None:
        return drop("no_backend")
    worker = tables.workers[tables.backends[endpoint_id].worker]
    to = worker.relay6 if six else worker.relay
    sent = (wrap6 if six else wrap)(packet, relay, to, endpoint_id, sender)
    return Outcome("relay", sent, event="error_relayed")


def _fragment(frame: bytes, tables: edge.Tables) -> Outcome:
    """A fragment for a VIP without ports, or with ports that no service has."""
    packet = frame[14:]
    if word(frame, 12) == IPV4:
        header, length, have = (packet[0] & 15) * 4, word(packet, 2), len(packet)
        later = word(packet, 6) & FRAGMENT_OFFSET
        if packet[9] != UDP or not word(packet, 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET):
            return PASS
        tiny = length < header + 8
    else:
        place = find_udp(packet[40:], packet[6])
        if not place.fragment or not place.may_be_udp:
            return PASS
        length, have = word(packet, 4), len(packet) - 40
        later = place.fragment & FRAGMENT_OFFSET6
        tiny = not place.found or length < place.offset + 8
    if length > have:
        return drop("malformed")
    if later:
        return Outcome("held")
    if tiny:
        return drop("fragment_tiny")
    return drop("not_a_service") if tables.drops_unserved else PASS
