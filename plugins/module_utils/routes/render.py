# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes and rules as configuration files, and those of the kernel as the module's options. Pure.

Sources: ip-route(8), ip-rule(8), systemd.network(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import (
    ROUTE_TYPES,
    DesiredRouting,
    NextHop,
    ObservedRouting,
    Route,
    Rule,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.nexthops import Nexthop

_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_LO = "/etc/systemd/network/50-edgewire-lo.network"


def rendered(desired: DesiredRouting) -> dict[str, str]:
    """Path -> content: files for ``ip -4 -batch``, ``ip -6 -batch`` and, with groups, ``ip -batch``, in this order.

    And files for systemd-networkd.

    networkd keeps a route with its interface: those go into drop-ins of ``50-INTERFACE.network``, as
    `wireguard` renders it, rules and routes without an interface into one of the loopback interface.
    """
    files = {}
    for family in (4, 6, None):  # groups have none, and come after their members
        objects = [_ip_nexthop(nexthop, desired) for nexthop in desired.nexthops if nexthop.family == family]
        if objects:
            name = f"ipv{family}" if family else "groups"
            files[f"/etc/edgewire/nexthops-{desired.table}.{name}"] = "".join(f"{line}\n" for line in objects)
    for family in (4, 6):
        lines = [_ip_route(route, desired) for route in desired.routes if route.family == family]
        lines += [_ip_rule(rule, desired) for rule in desired.rules if rule.family == family]
        if lines:
            files[f"/etc/edgewire/routes-{desired.table}.ipv{family}"] = "".join(f"{line}\n" for line in lines)
    by_interface: dict[str | None, list[str]] = {}
    for nexthop in desired.nexthops:
        by_interface.setdefault(nexthop.interface, []).append(_networkd_nexthop(nexthop))
    for route in desired.routes:
        by_interface.setdefault(_home(route), []).append(_networkd_route(route, desired))
    by_interface.setdefault(None, []).extend(_networkd_rule(rule) for rule in desired.rules)
    loopback = by_interface.pop(None)
    for interface, sections in sorted(by_interface.items(), key=lambda item: str(item[0])):
        files[f"/etc/systemd/network/50-{interface}.network.d/edgewire.conf"] = "\n".join(sections)
    if loopback:
        files[_LO] = "\n".join(["[Match]\nName=lo\n", *loopback])
    return files


def gathered(observed: ObservedRouting, table: int, protocol: int) -> tuple[dict[str, Any], list[str]]:
    """What carries our protocol, as options that would change nothing; and the names of what no option can say."""
    routes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    left: list[str] = []
    seen = set()
    for route in observed.routes:
        if route.other or route.key.tos or route.type not in ROUTE_TYPES or route.key in seen:
            left.append(f"route {route.key}")
            continue
        seen.add(route.key)
        routes.append(_route_options(route))
    for rule in observed.rules:
        if rule.other or not rule.priority:
            left.append(f"rule {rule}")
            continue
        rules.append(_rule_options(rule))
    nexthops = [_nexthop_options(nexthop) for nexthop in observed.nexthops.values() if not nexthop.other]
    left += [f"nexthop {nexthop.id}" for nexthop in observed.nexthops.values() if nexthop.other]
    return {"table": table, "protocol": protocol, "rules": rules, "nexthops": nexthops, "routes": routes}, left


def foreign(observed: ObservedRouting) -> list[dict[str, Any]]:
    """What others have in our table, and their rules that lead to it."""
    found = []
    for protocol, thing in observed.strangers:
        kind = "route" if isinstance(thing, Route) else "rule"
        shown = {"destination": thing.key.destination, "metric": thing.key.metric} if isinstance(thing, Route) else {}
        found.append({"kind": kind, "protocol": protocol, **shown, **thing.describe()})
    return found


def _route_options(route: Route) -> dict[str, Any]:
    return {
        "destination": route.key.destination,
        "type": route.type,
        "interface": route.interface,
        "gateway": route.gateway,
        "next_hops": [hop.describe() for hop in route.next_hops],
        "nexthop": route.nexthop,
        "metric": route.key.metric,
    }


def _nexthop_options(nexthop: Nexthop) -> dict[str, Any]:
    return {"id": nexthop.id, **nexthop.describe()}


def _rule_options(rule: Rule) -> dict[str, Any]:
    return {**rule.describe(), "to": rule.to or (None if rule.from_ else _EVERYTHING[rule.family])}


def _words(pairs: Iterable[tuple[str, Any]]) -> str:
    return "".join(f" {name} {value}" for name, value in pairs if value is not None)


def _hop_words(hop: NextHop | Route) -> str:
    return _words((("via", hop.gateway), ("dev", hop.interface)))


def _ip_route(route: Route, desired: DesiredRouting) -> str:
    kind = "" if route.type == "unicast" else f"{route.type} "
    hops = "".join(f" nexthop{_hop_words(hop)} weight {hop.weight}" for hop in route.next_hops)
    more = _words(
        (
            ("nhid", route.nexthop),
            ("metric", route.key.metric or None),
            ("table", desired.table),
            ("proto", desired.protocol),
        )
    )
    return f"route add {kind}{route.key.destination}{_hop_words(route)}{more}{hops}"


def _ip_nexthop(nexthop: Nexthop, desired: DesiredRouting) -> str:
    if nexthop.group:
        what = " group " + "/".join(f"{member},{weight}" for member, weight in nexthop.group)
    else:
        what = " blackhole" if nexthop.blackhole else _words((("via", nexthop.gateway), ("dev", nexthop.interface)))
    return f"nexthop add id {nexthop.id}{what} proto {desired.protocol}"


def _ip_rule(rule: Rule, desired: DesiredRouting) -> str:
    options = _rule_options(rule)
    pairs: Mapping[str, Any] = {"from": options["from"], "to": options["to"], "priority": rule.priority}
    return f"rule add{_words(pairs.items())} table {rule.table} protocol {desired.protocol}"


def _home(route: Route) -> str | None:
    """The interface in whose file networkd keeps the route."""
    return route.interface or next((hop.interface for hop in route.next_hops if hop.interface), None)


def _networkd_route(route: Route, desired: DesiredRouting) -> str:
    hops = route.next_hops
    homeless = _home(route) is None and route.nexthop is None
    if route.type == "unicast" and (homeless or any(hop.gateway is None for hop in hops)):
        return f"# systemd-networkd cannot say: {_ip_route(route, desired)}\n"
    pairs = [
        ("Destination", route.key.destination),
        ("Type", route.type),
        ("Gateway", route.gateway),
        ("NextHop", route.nexthop),
        *(("MultiPathRoute", _networkd_hop(hop)) for hop in hops),
        ("Metric", route.key.metric or None),
        ("Table", desired.table),
        ("Protocol", desired.protocol),
    ]
    return "[Route]\n" + "".join(f"{key}={value}\n" for key, value in pairs if value is not None)


def _networkd_nexthop(nexthop: Nexthop) -> str:
    """systemd-networkd has no protocol number for them."""
    pairs = [
        ("Id", nexthop.id),
        ("Family", f"ipv{nexthop.family}" if nexthop.family and not nexthop.gateway else None),
        ("Gateway", nexthop.gateway),
        ("Blackhole", "yes" if nexthop.blackhole else None),
        ("Group", " ".join(f"{member}:{weight}" for member, weight in nexthop.group) or None),
    ]
    return "[NextHop]\n" + "".join(f"{key}={value}\n" for key, value in pairs if value is not None)


def _networkd_hop(hop: NextHop) -> str:
    return f"{hop.gateway}{f'@{hop.interface}' if hop.interface else ''} {hop.weight}"


def _networkd_rule(rule: Rule) -> str:
    pairs = (("From", rule.from_), ("To", rule.to), ("Family", f"ipv{rule.family}"))
    more = (("Priority", rule.priority), ("Table", rule.table))
    return "[RoutingPolicyRule]\n" + "".join(f"{key}={value}\n" for key, value in (*pairs, *more) if value)
