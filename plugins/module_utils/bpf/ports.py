# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of ports as prefixes, the form in which a longest-prefix-match map holds them."""

from __future__ import annotations

from collections.abc import Iterator

PORT_BITS = 16


def prefixes_of(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest ``(port, bits)`` prefixes that cover ``first`` … ``last`` exactly; at most 30 for any range.

    ``bits`` counts the leading bits of the 16 that are fixed: 16 is a single port, 0 all ports.
    """
    port = first
    while port <= last:
        size = port & -port or 1 << PORT_BITS
        while size > last - port + 1:
            size >>= 1
        yield port, PORT_BITS - (size.bit_length() - 1)
        port += size


def ports_text(first: int, last: int) -> str:
    """A port or a range as people write it: "53", "10000-19999"."""
    return str(first) if first == last else f"{first}-{last}"


def claim_text(vip: str, first: int, last: int) -> str:
    """What a service claims: "203.0.113.53:53/udp", "[2001:db8::53]:10000-19999/udp"."""
    host = f"[{vip}]" if ":" in vip else vip
    return f"{host}:{ports_text(first, last)}/udp"
