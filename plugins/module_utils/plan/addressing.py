# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host numbers and the addresses they stand for: from a pinned id or the host's name, never from
other hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.convert import Address
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.hashing import stable_hash
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems


@dataclass(frozen=True)
class Prefixes:
    """The fleet's four prefixes. Host number n has address n of each of them."""

    overlay_ipv4: IPv4Network
    relay_ipv4: IPv4Network
    overlay_ipv6: IPv6Network
    relay_ipv6: IPv6Network

    def named(self) -> Mapping[str, IPv4Network | IPv6Network]:
        """The prefixes by the variable that sets them."""
        return {
            "edgewire_overlay_ipv4": self.overlay_ipv4,
            "edgewire_overlay_ipv6": self.overlay_ipv6,
            "edgewire_relay_ipv4": self.relay_ipv4,
            "edgewire_relay_ipv6": self.relay_ipv6,
        }

    @property
    def highest_id(self) -> int:
        """The greatest host number that has an address in every prefix (the last address is
        broadcast).
        """
        return min(network.num_addresses for network in self.named().values()) - 2

    def owner(self, address: Address) -> str | None:
        """The variable whose prefix holds ``address``, or None."""
        for name, network in self.named().items():
            if address in network:
                return name
        return None

    def check(self, problems: Problems) -> None:
        """Report prefixes that overlap: one address would have two meanings."""
        networks = sorted(self.named().items())
        for index, (name, network) in enumerate(networks):
            for other_name, other in networks[index + 1 :]:
                if network.version == other.version and network.overlaps(other):
                    problems.add("the fleet", name, f"{network} overlaps {other_name} {other}")


@dataclass(frozen=True)
class HostAddresses:
    """A host's addresses as text, without prefix length."""

    overlay_ipv4: str
    overlay_ipv6: str
    relay_ipv4: str
    relay_ipv6: str

    @property
    def allowed_ips(self) -> tuple[str, ...]:
        """What peers accept from this host and send to it."""
        return (
            f"{self.overlay_ipv4}/32",
            f"{self.relay_ipv4}/32",
            f"{self.overlay_ipv6}/128",
            f"{self.relay_ipv6}/128",
        )

    @property
    def interface_addresses(self) -> tuple[str, ...]:
        """What the WireGuard interface bears: never the relay addresses."""
        return (f"{self.overlay_ipv4}/32", f"{self.overlay_ipv6}/128")


def addresses_of(number: int, prefixes: Prefixes) -> HostAddresses:
    """The addresses of a host number from 1 to ``prefixes.highest_id``."""
    return HostAddresses(
        overlay_ipv4=str(prefixes.overlay_ipv4[number]),
        overlay_ipv6=str(prefixes.overlay_ipv6[number]),
        relay_ipv4=str(prefixes.relay_ipv4[number]),
        relay_ipv6=str(prefixes.relay_ipv6[number]),
    )


def derived_id(name: str, highest: int, attempt: int = 0) -> int:
    """A host number from 1 to ``highest`` out of the host's name alone; later attempts are only
    ever suggested.
    """
    return 1 + stable_hash("edgewire-id", name, attempt) % highest


def assign_ids(pinned: Iterable[tuple[str, int | None]], highest: int, problems: Problems) -> dict[str, int]:
    """Host name → number, from ``(name, pinned id or None)``.

    Two hosts with one number are a problem, not something to resolve: whichever gave way would
    change its addresses because of the other. The problem says which host to pin, and to which free
    number.
    """
    numbers: dict[str, int] = {}
    holders: dict[int, list[tuple[str, bool]]] = {}
    for name, explicit in sorted(pinned):
        if explicit is not None and explicit > highest:
            problems.add(name, "edgewire_id", f"{explicit} is beyond {highest}, the last in the prefixes")
        number = derived_id(name, highest) if explicit is None else explicit
        numbers[name] = number
        holders.setdefault(number, []).append((name, explicit is not None))
    for number, hosts in holders.items():
        if len(hosts) > 1:
            _report_collision(number, hosts, holders, highest, problems)
    return numbers


def _report_collision(
    number: int,
    hosts: list[tuple[str, bool]],
    taken: Mapping[int, object],
    highest: int,
    problems: Problems,
) -> None:
    # The host whose number nobody chose is the one to pin; among equals, the last by name.
    name = max(hosts, key=lambda host: (not host[1], host[0]))[0]
    free = (derived_id(name, highest, attempt) for attempt in range(1, 65))
    suggestion = next((number for number in free if number not in taken), None)
    listed = ", ".join(f"{host} ({'pinned' if explicit else 'from its name'})" for host, explicit in hosts)
    example = "another" if suggestion is None else f"another, such as {suggestion}"
    problems.add(
        ", ".join(host for host, _ in hosts),
        "edgewire_id",
        f"id {number}, and so every overlay and relay address, is shared by {listed};"
        f" pin edgewire_id of {name} to {example}",
    )
