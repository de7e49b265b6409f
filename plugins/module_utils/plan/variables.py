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
    """One variable: the default (None = none), the converter from the raw value, and what it is, in Markdown for the
    inventory reference.
    """

    default: object
    convert: Callable[[object], Any]
    about: str


# The bigger of the two relay headers (12 bytes in IPv4, 24 in IPv6) on top of the packet that
# everybody may send.
SMALLEST_MTU = 1280 + 24

# A host may set each of these itself; a group, or "vars", sets it for many.
HOST_VARIABLES: Mapping[str, Variable] = {
    "edgewire_id": Variable(
        None,
        convert.integer(1, 2**64),
        "The host's number inside WireGuard, from which its overlay and relay addresses are made; at most "
        "2^21-2 with the default prefixes. Default: derived from the host's name. Pin it only where the planner "
        "reports that two names collide.",
    ),
    "edgewire_endpoint_address": Variable(
        None,
        convert.address,
        "The underlay address that peers use, an IP literal. Default: `ansible_host`, then the host's name.",
    ),
    "edgewire_listen_port": Variable(
        51820,
        convert.integer(1, 65535),
        "WireGuard's UDP port.",
    ),
    "edgewire_uplink": Variable(
        "eth0",
        convert.interface,
        "The interface of the uplink: on an edge the one on which clients' packets arrive, on a worker the one "
        "by which direct replies leave.",
    ),
    "edgewire_drop_unserved": Variable(
        False,
        convert.boolean,
        "Edge: drop what is for a VIP and none of its services, but for ICMP (`not_a_service`), instead of "
        "leaving it to the host.",
    ),
    "edgewire_reply_interface": Variable(
        None,
        convert.interface,
        "Edge: the interface by which packets leave to clients. Default: the uplink; `eth0.100` where frames "
        "bear a VLAN tag.",
    ),
    "edgewire_xdp_mode": Variable(
        "native",
        convert.choice(("native", "generic")),
        "Edge: `native` needs a driver that has XDP; `generic` works on any device and is slower. Never chosen "
        "for you.",
    ),
    "edgewire_container_interface": Variable(
        "podman0",
        convert.interface,
        "Worker: the bridge that the containers hang on.",
    ),
    "edgewire_worker_state": Variable(
        "live",
        convert.choice(("live", "drain", "dead")),
        "Worker: with `drain` all its backends drain; with `dead` they get no packets, of established flows neither.",
    ),
    "edgewire_wireguard_interface": Variable(
        "wg0",
        convert.interface,
        "The name of the WireGuard interface.",
    ),
    "edgewire_wireguard_mtu": Variable(
        1420,
        convert.integer(SMALLEST_MTU, 65455, "(1280 for IPv6 and 24 for the relay header)"),
        "Bytes of an IP packet inside WireGuard: what the underlay leaves, 60 less than its MTU over IPv4 and "
        "80 over IPv6.",
    ),
    "edgewire_wireguard_transport": Variable(
        "auto",
        convert.choice(("auto", "kernel", "userspace")),
        "`kernel` is the kernel's own WireGuard, `userspace` wireguard-go; `auto` takes the kernel's where it "
        "is there.",
    ),
    "edgewire_underlay_mtu": Variable(
        1500,
        convert.integer(1280, 65535),
        "Bytes of the largest IP packet that the network between the boxes carries.",
    ),
    "edgewire_metrics_file": Variable(
        None,
        convert.metrics_file,
        "A file that the host's counters are written to for Prometheus, by the host itself. Its directory is the one "
        "that node_exporter's textfile collector reads. Default: none is written.",
    ),
    "edgewire_metrics_seconds": Variable(
        30,
        convert.integer(5, 3600, "seconds"),
        "Seconds between two writes.",
    ),
    "edgewire_keepalive": Variable(
        25,
        convert.integer(0, 65535, "seconds"),
        "Seconds between keepalives to each peer; 0 is off.",
    ),
    "edgewire_route_table": Variable(
        7700,
        convert.free_number(1, 2**32 - 1, _TABLE_OWNERS, "table"),
        "The routing table that belongs to this collection. One that another tool has named is refused. Before it is "
        "changed, hosts are torn down: routes of the former table would stay.",
    ),
    "edgewire_route_protocol": Variable(
        158,
        convert.free_number(1, 255, _PROTOCOL_OWNERS, "protocol number"),
        "The routing protocol number by which this collection knows its own routes. One that another tool has "
        "named is refused. Before it is changed, hosts are torn down, as for the table.",
    ),
    # The main table's rule is 32766: a rule behind it would never be asked.
    "edgewire_rule_priority": Variable(
        7700,
        convert.integer(1, 32765),
        "The priority of the rules that lead to the table.",
    ),
}

# These hold for the whole fleet; hosts that disagree about one are an error.
FLEET_VARIABLES: Mapping[str, Variable] = {
    "edgewire_overlay_ipv4": Variable(
        "100.64.0.0/11",
        convert.ipv4_network,
        "Addresses that are assigned to the WireGuard interfaces. They must be used nowhere else, and are hard "
        "to change later.",
    ),
    "edgewire_overlay_ipv6": Variable(
        "fd65:6467:6577::/64",
        convert.ipv6_network,
        "The same for IPv6.",
    ),
    "edgewire_relay_ipv4": Variable(
        "100.96.0.0/11",
        convert.ipv4_network,
        "Relay addresses: what relayed packets bear inside WireGuard. They are never assigned to an interface.",
    ),
    "edgewire_relay_ipv6": Variable(
        "fd65:6467:6577:1::/64",
        convert.ipv6_network,
        "The same for IPv6.",
    ),
    "edgewire_topology": Variable(
        "bipartite",
        convert.choice(("bipartite", "full")),
        "`bipartite`: edges and workers are each other's peers; `full`: everybody is everybody's.",
    ),
    "edgewire_peer_groups": Variable(
        {},
        convert.peer_groups,
        "`{name: [hosts]}`: hosts that are each other's peers as well, in a bipartite fleet.",
    ),
    "edgewire_services": Variable(
        (),
        lambda value: value,
        "The services, see below.",
    ),
    "edgewire_deny_sources": Variable(
        (),
        lambda value: value,
        "Networks from which no service takes packets, but one that names the same network itself.",
    ),
    "edgewire_deny_spoofed": Variable(
        False,
        convert.boolean,
        "Let no service take packets from addresses that no client has: the fleet's own VIPs and prefixes, "
        "loopback, multicast and the like.",
    ),
}


# The secret of which preshared keys are made. It never reaches the planner, which is told only whether it is there.
PRESHARED_SECRET = "edgewire_preshared_secret"
PRESHARED_SECRET_ABOUT = (
    "A text of 32 characters or more, vaulted, of which a preshared key for each pair of hosts is derived. "
    "Never written to"
    " a plan, a log or a box."
)


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
    metrics_file: str | None
    metrics_seconds: int


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
