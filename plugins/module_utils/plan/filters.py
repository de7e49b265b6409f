# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``sources`` and ``limits`` of a service → its typed filter, with every problem reported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import convert
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.convert import Address
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems

Network = IPv4Network | IPv6Network

# An interval between packets is whole nanoseconds in the kernel: up to here a rate is right within 1 %.
_rate = convert.integer(1, 10_000_000)
# Without a word about it, what comes in a twentieth of a second may come at once, but no less than this.
_SMALLEST_BURST, _BURSTS_A_SECOND = 10, 20

# What each key is, in Markdown for the inventory reference.
SOURCES_KEYS: Mapping[str, str] = {
    "allow": (
        "Networks that are let in; with any, nobody else is. Of several networks that hold the client the longest "
        "decides."
    ),
    "deny": "Networks that are kept out.",
}
LIMITS_KEYS: Mapping[str, str] = {
    "packets_per_second": (
        "Of all clients together, on all VIPs and ports of the service, on one edge; up to 10,000,000."
    ),
    "burst": "How many of these at once. Default: a twentieth of a second's, at least 10.",
    "per_source_packets_per_second": "Of one IPv4 address or one IPv6 /64, on one edge.",
    "per_source_burst": "How many of these at once. The same default.",
}


@dataclass(frozen=True)
class Limit:
    """Packets a second in the long run, and at once."""

    packets_per_second: int
    burst: int


@dataclass(frozen=True)
class Filter:
    """Who may send to a service, networks in order, and how much, of all sources together and of each."""

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    limit: Limit | None = None
    source_limit: Limit | None = None

    def without(self, denied: Iterable[Network]) -> Filter:
        """The same with networks denied besides, but for those that it names itself."""
        more = set(denied) - set(self.allow) - set(self.deny)
        return Filter(self.allow, _ordered({*self.deny, *more}), self.limit, self.source_limit)

    def __bool__(self) -> bool:
        return self != Filter()


def _ordered(networks: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(sorted(networks, key=lambda item: (item.version, int(item.network_address), item.prefixlen)))


def never_clients(vips: Iterable[Address], inside: Iterable[Network]) -> tuple[Network, ...]:
    """Networks that no client's packet is from: unspecified, loopback, multicast and reserved addresses (RFC 6890), in
    IPv6 link-local ones (RFC 4291: they mean nothing beyond their link), VIPs, and the networks inside WireGuard. A
    packet from a VIP would make two services answer each other without end.
    """
    never = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/32", "fe80::/10", "ff00::/8")
    return _ordered({*map(ip_network, never), *map(ip_network, vips), *inside})


def parse_networks(raw: object, key: str, subject: str, problems: Problems) -> tuple[Network, ...]:
    """A list of networks in order; what is wrong goes to ``problems`` and is left out."""
    if raw is None:
        return ()
    if not isinstance(raw, (list, tuple)):
        problems.add(subject, key, f"{convert.shown(raw)} is not a list of networks")
        return ()
    found: set[Network] = set()
    for item in raw:
        try:
            network = convert.network(item)
        except ValueError as error:
            problems.add(subject, key, str(error))
            continue
        if network in found:
            problems.add(subject, key, f"{network} is listed twice")
        found.add(network)
    return _ordered(found)


def parse_filter(service: Mapping[str, Any], subject: str, problems: Problems) -> Filter:
    """The filter that a service's ``sources`` and ``limits`` describe; an empty one where it has neither."""
    sources = _mapping(service, "sources", SOURCES_KEYS, subject, problems)
    limits = _mapping(service, "limits", LIMITS_KEYS, subject, problems)
    allow, deny = (parse_networks(sources.get(key), f"sources.{key}", subject, problems) for key in SOURCES_KEYS)
    for network in sorted(set(allow) & set(deny), key=str):
        problems.add(subject, "sources", f"{network} is both allowed and denied")
    return Filter(allow, deny, *(_limit(limits, prefix, subject, problems) for prefix in ("", "per_source_")))


def _mapping(
    service: Mapping[str, Any], key: str, known: Collection[str], subject: str, problems: Problems
) -> Mapping[str, Any]:
    raw = service.get(key)
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        problems.add(subject, key, f"{convert.shown(raw)} is not a mapping")
        return {}
    for name in raw:
        if name not in known:
            problems.add(subject, f"{key}.{name}", f"unknown key; the known ones are {', '.join(known)}")
    return raw


def _limit(limits: Mapping[str, Any], prefix: str, subject: str, problems: Problems) -> Limit | None:
    values: dict[str, int] = {}
    for name in (f"{prefix}packets_per_second", f"{prefix}burst"):
        if limits.get(name) is not None:
            try:
                values[name] = _rate(limits[name])
            except ValueError as error:
                problems.add(subject, f"limits.{name}", str(error))
    rate, burst = values.get(f"{prefix}packets_per_second"), values.get(f"{prefix}burst")
    if rate is None:
        if burst is not None and limits.get(f"{prefix}packets_per_second") is None:
            problems.add(subject, f"limits.{prefix}burst", f"says nothing without {prefix}packets_per_second")
        return None
    return Limit(rate, max(_SMALLEST_BURST, rate // _BURSTS_A_SECOND) if burst is None else burst)
