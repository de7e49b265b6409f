# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables of a host: names, defaults and types, as docs/architecture.md lists them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import convert
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems

# iproute2's rt_protos, the kernel's reserved tables, and the tables that well-known tools put
# routes into.
_PROTOCOL_OWNERS = {
    1: "ICMP redirects",
    2: "the kernel",
    3: "boot scripts",
    4: "static routes",
    8: "gated",
    9: "router advertisements",
    10: "mrt",
    11: "zebra",
    12: "bird",
    13: "dnrouted",
    14: "xorp",
    15: "ntk",
    16: "DHCP clients",
    17: "mrouted",
    18: "keepalived",
    42: "babeld",
    99: "openr",
    186: "BGP daemons",
    187: "IS-IS daemons",
    188: "OSPF daemons",
    189: "RIP daemons",
    192: "EIGRP daemons",
}
_TABLE_OWNERS = {
    52: "tailscale",
    253: "the kernel (default)",
    254: "the kernel (main)",
    255: "the kernel (local)",
    51820: "wg-quick",
}


class Variable(NamedTuple):
    """One variable: the default (None = none) and the converter from the raw value."""

    default: object
    convert: Callable[[object], Any]


# The bigger of the two relay headers (12 bytes in IPv4, 24 in IPv6) on top of the packet that
# everybody may send.
SMALLEST_MTU = 1280 + 24

# A host may set each of these itself; a group, or "vars", sets it for many.
HOST_VARIABLES: Mapping[str, Variable] = {
    "edgewire_id": Variable(None, convert.integer(1, 2**64)),
    "edgewire_endpoint_address": Variable(None, convert.address),
    "edgewire_listen_port": Variable(51820, convert.integer(1, 65535)),
    "edgewire_uplink": Variable("eth0", convert.interface),
    "edgewire_drop_unserved": Variable(False, convert.boolean),
    "edgewire_reply_interface": Variable(None, convert.interface),
    "edgewire_xdp_mode": Variable("native", convert.choice(("native", "generic"))),
    "edgewire_container_interface": Variable("podman0", convert.interface),
    "edgewire_worker_state": Variable("live", convert.choice(("live", "drain", "dead"))),
    "edgewire_wireguard_interface": Variable("wg0", convert.interface),
    "edgewire_wireguard_mtu": Variable(
        1420, convert.integer(SMALLEST_MTU, 65455, "(1280 for IPv6 and 24 for the relay header)")
    ),
    "edgewire_wireguard_transport": Variable("auto", convert.choice(("auto", "kernel", "userspace"))),
    "edgewire_underlay_mtu": Variable(1500, convert.integer(1280, 65535)),
    "edgewire_keepalive": Variable(25, convert.integer(0, 65535, "seconds")),
    "edgewire_route_table": Variable(7700, convert.free_number(1, 2**32 - 1, _TABLE_OWNERS, "table")),
    "edgewire_route_protocol": Variable(158, convert.free_number(1, 255, _PROTOCOL_OWNERS, "protocol number")),
    # The main table's rule is 32766: a rule behind it would never be asked.
    "edgewire_rule_priority": Variable(7700, convert.integer(1, 32765)),
}

# These hold for the whole fleet; hosts that disagree about one are an error.
FLEET_VARIABLES: Mapping[str, Variable] = {
    "edgewire_overlay_ipv4": Variable("100.64.0.0/11", convert.ipv4_network),
    "edgewire_overlay_ipv6": Variable("fd65:6467:6577::/64", convert.ipv6_network),
    "edgewire_relay_ipv4": Variable("100.96.0.0/11", convert.ipv4_network),
    "edgewire_relay_ipv6": Variable("fd65:6467:6577:1::/64", convert.ipv6_network),
    "edgewire_topology": Variable("bipartite", convert.choice(("bipartite", "full"))),
    "edgewire_peer_groups": Variable({}, convert.peer_groups),
    "edgewire_services": Variable((), lambda value: value),
    "edgewire_deny_sources": Variable((), lambda value: value),
    "edgewire_deny_spoofed": Variable(False, convert.boolean),
}


# The secret of which preshared keys are made. It never reaches the planner, which is told only whether it is there.
PRESHARED_SECRET = "edgewire_preshared_secret"


@dataclass(frozen=True)
class HostSettings:
    """A host's own variables, typed. Ports are UDP, MTUs bytes of an IP packet, keepalive seconds
    (0 = off).
    """

    id: int | None
    endpoint_address: convert.Address | None
    listen_port: int
    uplink: str
    drop_unserved: bool
    reply_interface: str | None
    xdp_mode: str
    container_interface: str
    worker_state: str
    wireguard_interface: str
    wireguard_mtu: int
    wireguard_transport: str
    underlay_mtu: int
    keepalive: int
    route_table: int
    route_protocol: int
    rule_priority: int


def read_variable(
    name: str,
    variable: Variable,
    sources: Iterable[Mapping[str, Any]],
    subject: str,
    problems: Problems,
) -> Any:
    """The typed value of a variable from the first source that sets it (null counts as not set),
    else the default.

    A bad value is a problem, and the default stands in for it so that the checks that follow still
    run.
    """
    for source in sources:
        raw = source.get(name)
        if raw is not None:
            try:
                return variable.convert(raw)
            except ValueError as error:
                problems.add(subject, name, str(error))
                break
    return None if variable.default is None else variable.convert(variable.default)


def read_host(name: str, own: Mapping[str, Any], shared: Mapping[str, Any], problems: Problems) -> HostSettings:
    """A host's settings from its own variables, those shared by the fleet, and the defaults."""
    sources = (own, shared)
    values = {
        key.removeprefix("edgewire_"): read_variable(key, variable, sources, name, problems)
        for key, variable in HOST_VARIABLES.items()
        if key != "edgewire_endpoint_address"
    }
    return HostSettings(endpoint_address=_endpoint_address(name, own, problems), **values)


def _endpoint_address(name: str, own: Mapping[str, Any], problems: Problems) -> convert.Address | None:
    # Not from the shared variables: two hosts with one address is never meant.
    for key in ("edgewire_endpoint_address", "ansible_host"):
        raw = own.get(key)
        if raw is None:
            continue
        try:
            return convert.address(raw)
        except ValueError as error:
            more = "" if key == "edgewire_endpoint_address" else "; set edgewire_endpoint_address"
            problems.add(name, key, f"{error}{more}")
            return None
    try:
        return convert.address(name)
    except ValueError:
        problems.add(
            name,
            "edgewire_endpoint_address",
            "the host has neither this nor an ansible_host: peers cannot reach it",
        )
        return None


def misspelt(names: Iterable[str]) -> list[str]:
    """Warnings for ``edgewire_*`` names that nothing reads but that look like one that is read,
    sorted.
    """
    known = [*HOST_VARIABLES, *FLEET_VARIABLES, PRESHARED_SECRET]
    warnings = []
    for name in sorted({name for name in names if name.startswith("edgewire_")} - set(known)):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if close:
            warnings.append(f"{name} is set but nothing reads it: is {close[0]} meant?")
    return warnings
