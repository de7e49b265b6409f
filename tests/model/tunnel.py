# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both roles ask of a packet that comes out of WireGuard. Nothing else may be sent to a relay address."""

from __future__ import annotations

import struct

from ansible_collections.edgewire.fleet.tests.model.packet import (
    DESTINATION,
    ICMP,
    OPTION,
    OPTION6,
    OPTION6_BYTES,
    OPTION6_STEP,
    OPTION_BYTES,
    OPTION_VERSION,
    PASS,
    STAGES,
    UDP,
    Outcome,
    drop,
    is_option6,
)


def refuse(packet: bytes, relay: bytes) -> Outcome | None:
    """What becomes of an IPv4 packet that is no relayed one for this relay address; None for one that is."""
    if len(packet) < 20 or packet[16:20] != relay:
        return PASS
    if (packet[0] & 15) * 4 < 20 + OPTION_BYTES or packet[9] not in (UDP, ICMP):
        return drop("not_relayed")
    if len(packet) < 20 + OPTION_BYTES:
        return drop("malformed")
    if packet[20] != OPTION or packet[21] != OPTION_BYTES:
        return drop("not_relayed")
    return None if packet[22] == OPTION_VERSION and packet[23] < STAGES else drop("bad_option")


def refuse6(packet: bytes, relay: bytes) -> Outcome | None:
    """The same for IPv6."""
    if len(packet) < 40 or not relay or packet[24:40] != relay:
        return PASS
    if packet[6] != DESTINATION:
        return drop("not_relayed")
    if len(packet) < 40 + OPTION6_BYTES:
        return drop("malformed")
    if not is_option6(packet[42]):
        return drop("not_relayed")
    right = packet[41] == OPTION6_BYTES // 8 - 1 and packet[43] == OPTION6_BYTES - 4
    return None if right and stage_of(packet) < STAGES else drop("bad_option")


def stage_of(packet: bytes) -> int:
    """What a relayed packet is on its way for."""
    return (packet[42] - OPTION6) // OPTION6_STEP if packet[0] >> 4 == 6 else packet[23]


def option_of(packet: bytes) -> tuple[int, bytes]:
    """Endpoint id and client of a relayed IPv4 packet."""
    endpoint_id, client = struct.unpack_from("!I4s", packet, 24)
    return endpoint_id, client


def option6_of(packet: bytes) -> tuple[int, bytes]:
    """Endpoint id and client of a relayed IPv6 packet."""
    endpoint_id, client = struct.unpack_from("!I16s", packet, 44)
    return endpoint_id, client
