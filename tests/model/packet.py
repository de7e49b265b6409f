# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the models of all programs share: outcomes, checksums, and the relay option put in and taken out.

The models are the data plane's specification as pure functions: the bytes of a packet and what the maps mean in, what
becomes of the packet out. They are written from docs/architecture.md and the RFCs. A packet has no link layer here;
the callers take Ethernet off and put it on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

IPV4, IPV6 = 0x0800, 0x86DD  # EtherTypes
UDP, ICMP, ICMPV6 = 17, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60  # RFC 8200 section 4
DONT_FRAGMENT, MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x4000, 0x2000, 0x1FFF  # RFC 791 section 3.1
MORE_FRAGMENTS6, FRAGMENT_OFFSET6 = 0x0001, 0xFFF8  # RFC 8200 section 4.5
# The relay option (docs/architecture.md).
OPTION, OPTION_BYTES, OPTION_VERSION = 158, 12, 1
OPTION6, OPTION6_BYTES = 0x5E, 24
# What a relayed packet is on its way for: a byte in IPv4, the option's number in IPv6.
PLAIN, ASK, RETURNED, FORWARDED, FORWARDED_TWICE, STAGES = range(6)
OPTION6_STEP = 32
MAX_IPV4_HEADER = 60
MAX_EXTENSION_HEADERS = 4


@dataclass(frozen=True)
class Count:
    """What is counted for a packet that goes on: the endpoint or backend, the way, and the IP length."""

    endpoint_id: int
    way: str
    bytes: int


@dataclass(frozen=True)
class Outcome:
    """What becomes of a packet.

    ``action``: "pass" leaves it untouched to the host; "drop" counts ``reason``; the others say where ``packet`` goes.
    "answer" drops it, too, and ``packet`` is what is sent instead. ``event``: what else is counted.
    """

    action: str
    packet: bytes = b""
    reason: str = ""
    count: Count | None = None
    event: str = ""


PASS = Outcome("pass")
# A packet that edge_xdp leaves as it is to edge_handoff, which answers it or finds its way.
TIME_EXCEEDED, TOO_BIG, ASIDE = Outcome("time_exceeded"), Outcome("too_big"), Outcome("icmp")


def drop(reason: str, event: str = "") -> Outcome:
    """A packet that ends here."""
    return Outcome("drop", reason=reason, event=event)


class UdpPlace(NamedTuple):
    """Where UDP is in an IPv6 packet, from the base header's end, and the fragment header's offset and flag.

    ``following`` is the number of the header at which the walk ended.
    """

    offset: int
    fragment: int
    found: bool
    following: int

    @property
    def may_be_udp(self) -> bool:
        """Whether UDP is, or may come, where the walk ended."""
        return self.following in (UDP, ROUTING, DESTINATION)


def word(data: bytes, offset: int) -> int:
    """16 bits in network order."""
    return data[offset] << 8 | data[offset + 1]


def _sum(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def checksum_of(data: bytes) -> int:
    """The Internet checksum of whole 16-bit words, with 0 where it will lie (RFC 1071)."""
    total = _sum(data)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def update_checksum(check: int, removed: bytes, added: bytes) -> int:
    """An Internet checksum after some of what it covers was replaced (RFC 1624); whole 16-bit words, whatever order."""
    total = (~check & 0xFFFF) + _sum(bytes(~byte & 0xFF for byte in removed)) + _sum(added)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def update_udp_checksum(check: int, removed: bytes, added: bytes) -> int:
    """The same for UDP, where 0 means "none" and stays so, and a sum of 0 is sent as 0xffff (RFC 768)."""
    return (update_checksum(check, removed, added) or 0xFFFF) if check else 0


def wrap(packet: bytes, source: bytes, destination: bytes, endpoint_id: int, client: bytes) -> bytes:
    """An IPv4 packet with the relay's addresses, the option behind its base header, and a hop less to live."""
    option = struct.pack("!BBBBI4s", OPTION, OPTION_BYTES, OPTION_VERSION, 0, endpoint_id, client)
    length = word(packet, 2) + OPTION_BYTES & 0xFFFF
    head = bytearray(packet[:20])
    head[0] += OPTION_BYTES // 4
    head[2:4] = length.to_bytes(2, "big")
    head[8] -= 1
    head[12:20] = source + destination
    return _sealed(packet[:20], head, b"", option) + option + packet[20:]


def unwrap(packet: bytes, source: bytes, destination: bytes) -> bytes:
    """The opposite of :func:`wrap`."""
    option = packet[20 : 20 + OPTION_BYTES]
    head = bytearray(packet[:20])
    head[0] -= OPTION_BYTES // 4
    head[2:4] = (word(packet, 2) - OPTION_BYTES & 0xFFFF).to_bytes(2, "big")
    head[8] -= 1
    head[12:20] = source + destination
    return _sealed(packet[:20], head, option, b"") + packet[20 + OPTION_BYTES :]


def readdress(packet: bytes, source: bytes) -> bytes:
    """An IPv4 packet with another source and a hop less to live."""
    head = bytearray(packet[:20])
    head[8] -= 1
    head[12:16] = source
    return _sealed(packet[:20], head, b"", b"") + packet[20:]


def _sealed(old: bytes, new: bytearray, removed: bytes, added: bytes) -> bytes:
    # Incrementally: a checksum that was wrong stays wrong, and whoever receives the packet sees it.
    check = update_checksum(word(old, 10), old[:10] + old[12:] + removed, bytes(new[:10]) + bytes(new[12:]) + added)
    new[10:12] = check.to_bytes(2, "big")
    return bytes(new)


def wrap6(packet: bytes, source: bytes, destination: bytes, endpoint_id: int, client: bytes) -> bytes:
    """An IPv6 packet with the relay's addresses, the option's header behind its base header, and a hop less to live."""
    option = struct.pack(
        "!BBBBI16s", packet[6], OPTION6_BYTES // 8 - 1, OPTION6, OPTION6_BYTES - 4, endpoint_id, client
    )
    length = word(packet, 4) + OPTION6_BYTES & 0xFFFF
    head = packet[:4] + struct.pack("!HBB", length, DESTINATION, packet[7] - 1) + source + destination
    return head + option + packet[40:]


def unwrap6(packet: bytes, source: bytes, destination: bytes) -> bytes:
    """The opposite of :func:`wrap6`."""
    length = word(packet, 4) - OPTION6_BYTES & 0xFFFF
    head = packet[:4] + struct.pack("!HBB", length, packet[40], packet[7] - 1) + source + destination
    return head + packet[40 + OPTION6_BYTES :]


def turn(packet: bytes, source: bytes, destination: bytes, endpoint_id: int, stage: int = PLAIN) -> bytes:
    """A relayed IPv4 packet sent on between other relays, with another endpoint and stage, and a hop less to live."""
    head, option = bytearray(packet[:20]), packet[20 : 20 + OPTION_BYTES]
    head[8] -= 1
    head[12:20] = source + destination
    changed = option[:3] + bytes([stage]) + endpoint_id.to_bytes(4, "big") + option[8:]
    return _sealed(packet[:20], head, option, changed) + changed + packet[20 + OPTION_BYTES :]


def turn6(packet: bytes, source: bytes, destination: bytes, endpoint_id: int, stage: int = PLAIN) -> bytes:
    """The same for IPv6."""
    head = packet[:7] + bytes([packet[7] - 1]) + source + destination + packet[40:42]
    return head + bytes([OPTION6 + stage * OPTION6_STEP]) + packet[43:44] + endpoint_id.to_bytes(4, "big") + packet[48:]


def is_option6(number: int) -> bool:
    """Whether an IPv6 option is the relay's, in any stage, a later version's included."""
    return number >= OPTION6 and (number - OPTION6) % OPTION6_STEP == 0


def find_udp(data: bytes, following: int, longest: int | None = None) -> UdpPlace:
    """Walk extension headers (RFC 8200 section 4) to UDP; ``data`` is what follows the base header.

    At most :data:`MAX_EXTENSION_HEADERS`, and no further than ``longest`` bytes. Of a later fragment, nothing behind
    its fragment header is looked at: that is payload.
    """
    offset, fragment = 0, 0
    if following == UDP:
        return UdpPlace(0, 0, True, UDP)
    for _ in range(MAX_EXTENSION_HEADERS):
        if (longest is not None and offset > longest) or offset + 8 > len(data):
            break
        if following == FRAGMENT:
            fragment, length = word(data, offset + 2) & (FRAGMENT_OFFSET6 | MORE_FRAGMENTS6), 8
        elif following in (HOP_BY_HOP, ROUTING, DESTINATION):
            length = (data[offset + 1] + 1) * 8
        else:
            break
        following = data[offset]
        offset += length
        if fragment & FRAGMENT_OFFSET6:
            break
        if following == UDP:
            return UdpPlace(offset, fragment, longest is None or offset <= longest, UDP)
    return UdpPlace(offset, fragment, False, following)


# ICMP and ICMPv6 errors (RFC 792, RFC 4443); redirects are none.
ERRORS, ERRORS6 = {3, 11, 12}, {1, 2, 3, 4}
ECHO, ECHO6 = 8, 128


def is_whole_relayed_icmp(packet: bytes) -> bool:
    """Whether a relayed IPv4 packet has no options but ours and is no fragment, as ICMP must."""
    return packet[0] & 15 == 8 and not word(packet, 6) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)


class Quoted(NamedTuple):
    """What an error says of the UDP packet that it is about."""

    source: bytes
    destination: bytes
    sport: int
    dport: int


def quoted_by(icmp: bytes) -> Quoted | None:
    """The UDP packet that an ICMP error quotes; only without IP options, and no later fragment."""
    if len(icmp) < 36 or icmp[0] not in ERRORS or icmp[8] != 0x45 or icmp[17] != UDP:
        return None
    if word(icmp, 14) & FRAGMENT_OFFSET:
        return None
    return Quoted(icmp[20:24], icmp[24:28], word(icmp, 28), word(icmp, 30))


def quoted_by6(icmp: bytes) -> Quoted | None:
    """The same for ICMPv6, without extension headers."""
    if len(icmp) < 56 or icmp[0] not in ERRORS6 or icmp[8] >> 4 != 6 or icmp[14] != UDP:
        return None
    return Quoted(icmp[16:32], icmp[32:48], word(icmp, 48), word(icmp, 50))


def requote(icmp: bytes, at: int, address: bytes, port: int, *, pseudo: bool) -> bytes:
    """An error with the quoted packet's source (``at`` 0) or destination (1) replaced, and all checksums put right.

    ``pseudo``: the error's own address changes alike, and its checksum covers that.
    """
    made, number = bytearray(icmp), port.to_bytes(2, "big")
    size = len(address)
    udp = 8 + (40 if size == 16 else 20)
    start, place = udp - 2 * size + at * size, udp + 2 * at
    old, old_port = icmp[start : start + size], icmp[place : place + 2]
    if size == 4:
        made[18:20] = update_checksum(word(icmp, 18), old, address).to_bytes(2, "big")
    check = update_udp_checksum(word(icmp, udp + 6), old + old_port, address + number).to_bytes(2, "big")
    made[start : start + size], made[place : place + 2], made[udp + 6 : udp + 8] = address, number, check
    removed, added = old_port + icmp[udp + 6 : udp + 8], number + check
    if pseudo:
        removed, added = removed + old + old, added + address + address
    made[2:4] = update_checksum(word(icmp, 2), removed, added).to_bytes(2, "big")
    return bytes(made)
