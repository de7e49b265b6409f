# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both roles generate of ICMP (RFC 792) and ICMPv6 (RFC 4443): errors about packets, made from the bytes."""

from __future__ import annotations

import struct

from ansible_collections.edgewire.fleet.tests.model.packet import (
    DONT_FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    Outcome,
    checksum_of,
    drop,
    word,
)

UNREACHABLE, TIME_EXCEEDED = 3, 11
TOO_BIG6, TIME_EXCEEDED6 = 2, 3
FRAGMENTATION_NEEDED = 4
HOPS = 64
TRAFFIC_CLASS = 0xC0  # internetwork control, RFC 1812 section 4.3.2.5
# An error is no longer than this in all (RFC 1812 section 4.3.2.3; RFC 4443 section 2.4 c), in bytes.
LONGEST, LONGEST6 = 576, 1280


def may_answer(source: bytes, *, to_many: bool) -> bool:
    """Whether a packet's source is a single host, and its frame was not for many: nobody else is answered."""
    if len(source) == 4:
        return not to_many and source[0] not in (0, 127) and source[0] < 224
    return not to_many and source[:12] != bytes(12) and source[0] != 0xFF


def header(source: bytes, destination: bytes, length: int) -> bytes:
    """The IPv4 header of a message of a length in bytes."""
    made = struct.pack("!BBHHHBBH", 0x45, TRAFFIC_CLASS, 20 + length, 0, DONT_FRAGMENT, HOPS, ICMP, 0)
    made += source + destination
    return made[:10] + checksum_of(made).to_bytes(2, "big") + made[12:]


def header6(source: bytes, destination: bytes, length: int) -> bytes:
    """The same for IPv6."""
    return struct.pack("!IHBB", 6 << 28, length, ICMPV6, HOPS) + source + destination


def message(kind: int, code: int, rest: int, about: bytes, source: bytes, destination: bytes) -> bytes:
    """An error, from its type on, that quotes as much of a packet as it may, in whole words."""
    longest = LONGEST - 28 if len(source) == 4 else LONGEST6 - 48
    quoted = about[: min(len(about), longest) // 4 * 4]
    body = struct.pack("!BBHI", kind, code, 0, rest) + quoted
    pseudo = b"" if len(source) == 4 else source + destination + struct.pack("!II", len(body), ICMPV6)
    return body[:2] + checksum_of(pseudo + body).to_bytes(2, "big") + body[4:]


def length_of(packet: bytes, *, six: bool) -> int:
    """A packet's length by its own header, in bytes."""
    return 40 + word(packet, 4) if six else word(packet, 2)


def answered(frame: bytes, reason: str, mtu: int, mtu6: int, *, may_send: bool) -> Outcome:
    """A packet that is dropped because it does not fit, or because its time is up, and the error that says so.

    ``frame`` has no VLAN tags. The answer goes back where the frame came from, its source is the packet's destination.
    """
    packet, six = frame[14:], word(frame, 12) == IPV6
    source, destination = (packet[8:24], packet[24:40]) if six else (packet[12:16], packet[16:20])
    if not may_answer(source, to_many=bool(frame[0] & 1)):
        return drop(reason)
    if not may_send:
        return drop(reason, "icmp_suppressed")
    if reason == "ttl_expired":
        kind, code, rest = TIME_EXCEEDED6 if six else TIME_EXCEEDED, 0, 0
    elif six:
        kind, code, rest = TOO_BIG6, 0, mtu6
    else:
        kind, code, rest = UNREACHABLE, FRAGMENTATION_NEEDED, mtu
    about = packet[: min(length_of(packet, six=six), LONGEST6 if six else LONGEST)]
    if len(about) < min(length_of(packet, six=six), LONGEST6 - 48 if six else LONGEST - 28) // 4 * 4:
        return drop(reason)  # the header says more than there is to quote
    body = message(kind, code, rest, about, destination, source)
    head = (header6 if six else header)(destination, source, len(body))
    ethernet = frame[6:12] + frame[:6] + (IPV6 if six else IPV4).to_bytes(2, "big")
    event = "time_exceeded_sent" if reason == "ttl_expired" else "too_big_sent"
    return Outcome("answer", ethernet + head + body, reason, event=event)
