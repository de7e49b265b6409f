# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's relay addresses, one of each family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relays:
    """Relay addresses in canonical text form; ``ipv6`` is empty where the plan has none."""

    ipv4: str
    ipv6: str = ""

    def for_vip(self, vip: str) -> str:
        """The one of the VIP's family."""
        return self.ipv6 if ":" in vip else self.ipv4

    @property
    def all(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address)
