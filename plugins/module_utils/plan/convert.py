# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw inventory values → typed values; each function raises ValueError with a sentence for the
user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address

_BROADCAST = IPv4Address("255.255.255.255")
_DECIMAL = re.compile(r"-?[0-9]{1,18}\Z")
_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}\Z")
_METRICS_FILE = re.compile(r"/[A-Za-z0-9_./-]+\.prom\Z")
_SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


def shown(value: object) -> str:
    """A value as an error quotes it: short, and never a page long."""
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def integer(low: int, high: int, unit: str = "") -> Callable[[object], int]:
    """A converter to a whole number in ``low`` … ``high``; decimal strings count (``-e`` makes
    them).
    """

    def convert(value: object) -> int:
        number: int | None = None
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number or (isinstance(value, str) and _DECIMAL.match(value)):
            number = int(str(value))
        if number is None or not low <= number <= high:
            what = f"{shown(value)} is not a whole number from {low} to {high}"
            raise ValueError(f"{what} {unit}".rstrip())
        return number

    return convert


def one_number(options: Collection[int]) -> Callable[[object], int]:
    """A converter to one of ``options``; decimal strings count."""
    read = integer(min(options), max(options))

    def convert(value: object) -> int:
        with suppress(ValueError):
            if (number := read(value)) in options:
                return number
        raise ValueError(f"{shown(value)} is not one of {', '.join(map(str, sorted(options)))}")

    return convert


def boolean(value: object) -> bool:
    """True or false, as YAML or ``-e`` gives it."""
    known = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in known:
        raise ValueError(f"{shown(value)} is neither true nor false")
    return known[value.lower()]


def choice(options: Collection[str]) -> Callable[[object], str]:
    """A converter that accepts one of ``options`` as it is."""

    def convert(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"{shown(value)} is not one of {', '.join(sorted(options))}")
        return str(value)

    return convert


def interface(value: object) -> str:
    """A Linux interface name: 1 to 15 of the characters that tools and file names bear."""
    if not isinstance(value, str) or not _INTERFACE.match(value) or value in (".", ".."):
        raise ValueError(f"{shown(value)} is not an interface name (1 to 15 letters, digits, and _ . @ -)")
    return str(value)


def metrics_file(value: object) -> str:
    """A file that node_exporter reads: by its name, and of characters that a systemd unit takes as they are."""
    if not isinstance(value, str) or not _METRICS_FILE.match(value):
        raise ValueError(f"{shown(value)} is not an absolute path that ends in .prom (letters, digits, and _ . - /)")
    return str(value)


def service_name(value: object, what: str = "service") -> str:
    """A service's or a backend's name: it appears in counters, logs and hashes, so it is plain."""
    if not isinstance(value, str) or not _SERVICE_NAME.match(value):
        raise ValueError(
            f"{shown(value)} is not a {what} name (1 to 63 letters, digits, and _ . -, a letter or digit first)"
        )
    return str(value)


def address(value: object) -> Address:
    """An IPv4 or IPv6 address literal of one host: no prefix length, no zone, no name."""
    if not isinstance(value, str) or "%" in value:
        raise ValueError(f"{shown(value)} is not an IP address")
    try:
        parsed = ip_address(str(value))
    except ValueError:
        raise ValueError(f"{shown(value)} is not an IP address") from None
    if parsed.is_multicast or parsed.is_unspecified or parsed.is_loopback:
        raise ValueError(f"{shown(value)} is not an address of a single host")
    if parsed == _BROADCAST:
        raise ValueError(f"{shown(value)} is not an address of a single host")
    return parsed


def ipv4_address(value: object) -> IPv4Address:
    """An IPv4 address literal of one host."""
    parsed = address(value)
    if isinstance(parsed, IPv6Address):
        raise ValueError(f"{shown(value)} is an IPv6 address, not an IPv4 one")
    return parsed


def ipv6_address(value: object) -> IPv6Address:
    """An IPv6 address literal of one host, reachable beyond its link."""
    parsed = routed_address(value)
    if isinstance(parsed, IPv4Address):
        raise ValueError(f"{shown(value)} is an IPv4 address, not an IPv6 one")
    return parsed


def routed_address(value: object) -> Address:
    """An address of one host that packets bear on the wire, beyond its link."""
    parsed = address(value)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            raise ValueError(f"{shown(value)} is an IPv4 address in IPv6 clothes; write the former")
        if parsed.is_link_local:
            raise ValueError(f"{shown(value)} is link-local: it means nothing beyond its link")
    return parsed


def network(value: object) -> IPv4Network | IPv6Network:
    """A prefix of either family, of any length, with no host bits set."""
    if not isinstance(value, str) or "/" not in value:
        raise ValueError(f"{shown(value)} is not a prefix such as 100.64.0.0/11")
    try:
        return ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not a prefix: {error}") from None


def ipv4_network(value: object) -> IPv4Network:
    """An IPv4 prefix with at least two host numbers and no host bits set."""
    parsed = network(value)
    if not isinstance(parsed, IPv4Network) or parsed.prefixlen > 30:
        raise ValueError(f"{shown(value)} is not an IPv4 prefix of length 30 or less")
    return parsed


def ipv6_network(value: object) -> IPv6Network:
    """An IPv6 prefix with at least two host numbers and no host bits set."""
    parsed = network(value)
    if not isinstance(parsed, IPv6Network) or parsed.prefixlen > 126:
        raise ValueError(f"{shown(value)} is not an IPv6 prefix of length 126 or less")
    return parsed


def free_number(low: int, high: int, taken: Mapping[int, str], what: str) -> Callable[[object], int]:
    """A converter to a whole number that is not one of those known to belong to somebody else."""
    whole = integer(low, high)

    def convert(value: object) -> int:
        number = whole(value)
        if number in taken:
            raise ValueError(f"{number} is the {what} of {taken[number]}; choose another")
        return number

    return convert


def peer_groups(value: object) -> Mapping[str, tuple[str, ...]]:
    """A converter: group → two hosts or more, each once, sorted."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{shown(value)} is not a mapping of groups to lists of hosts")
    groups = {}
    for group, members in value.items():
        if not isinstance(members, (list, tuple)) or not all(isinstance(name, str) for name in members):
            raise ValueError(f"{group}: {shown(members)} is not a list of hosts")
        names = [str(name) for name in members]
        if len(set(names)) < len(names):
            raise ValueError(f"{group}: {shown(names)} names a host twice")
        if len(names) < 2:
            raise ValueError(f"{group}: {shown(names)} is not a list of two hosts or more")
        groups[str(group)] = tuple(sorted(names))
    return groups
