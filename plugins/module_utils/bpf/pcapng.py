# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the pcapng file format that a capture with comments needs, as bytes.

Format: draft-ietf-opsawg-pcapng, sections 3.1 (blocks), 3.5 (options), 4.1 to 4.3. All interfaces here are Ethernet
with the same length limit, because libpcap, and so tcpdump, reads no file in which these differ.
"""

from __future__ import annotations

import struct

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_COMMENT, _INTERFACE_NAME, _RESOLUTION = 1, 2, 9  # option codes
_NANOSECONDS = bytes([9])  # 10^-9 s
LINKTYPE_ETHERNET = 1


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes, *options: bytes) -> bytes:
    content = body + b"".join(options) + (struct.pack("=HH", 0, 0) if options else b"")
    length = struct.pack("=I", 12 + len(content))
    return struct.pack("=I", kind) + length + content + length


def section(comment: str) -> bytes:
    """The file's first block; its byte order is this machine's, its length is not told."""
    return _block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1), _option(_COMMENT, comment.encode()))


def interface(name: str, snaplen: int) -> bytes:
    """An interface; packets refer to it by its place in the file, counted from 0."""
    body = struct.pack("=HHI", LINKTYPE_ETHERNET, 0, snaplen)
    return _block(_INTERFACE, body, _option(_INTERFACE_NAME, name.encode()), _option(_RESOLUTION, _NANOSECONDS))


def packet(interface_number: int, when: int, data: bytes, length: int, comment: str) -> bytes:
    """A packet.

    :param when: nanoseconds since the epoch.
    :param data: from the Ethernet header on, as far as it was captured.
    :param length: bytes that the packet had.
    """
    fixed = struct.pack("=IIIII", interface_number, when >> 32, when & 0xFFFFFFFF, len(data), length)
    return _block(_PACKET, fixed + _padded(data), _option(_COMMENT, comment.encode()))
