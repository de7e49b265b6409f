# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of routes and rules: frozen, normalised to what the kernel reads back.

A route is told from others by destination, metric and TOS in its table, as the kernel does it; a
rule by everything in it. IPv6 routes without a metric get the kernel's own default, 1024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal, TypeVar

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import nexthops
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.nexthops import Nexthop

RouteType = Literal["unicast", "blackhole", "unreachable", "prohibit"]
ROUTE_TYPES: tuple[RouteType, ...] = ("unicast", "blackhole", "unreachable", "prohibit")
Family = Literal[4, 6]

IPV6_METRIC = 1024  # IP6_RT_PRIO_USER
_SHARED_TABLES = (0, 253, 254, 255)  # unspec, default, main, local
_FIRST_FREE_PROTOCOL = 5  # 0 to 4 are the kernel's and the administrator's, rtnetlink(7)
_MAX_32 = 2**32 - 1


@dataclass(frozen=True)
class RouteKey:
    """What tells a route from the others of its table."""

    destination: str  # prefix
    metric: int
    tos: int = 0

    def __str__(self) -> str:
        tos = f" tos {self.tos}" if self.tos else ""
        return f"{self.destination} metric {self.metric}{tos}"


@dataclass(frozen=True)
class NextHop:
    """One of several ways of a route; ``weight`` is its share of the flows."""

    interface: str | None
    gateway: str | None
    weight: int = 1

    @property
    def rank(self) -> tuple[str, str, int]:
        """Sorts next hops: their order means nothing."""
        return (self.gateway or "", self.interface or "", self.weight)

    def describe(self) -> dict[str, Any]:
        """The next hop in the inventory's words."""
        return {"interface": self.interface, "gateway": self.gateway, "weight": self.weight}


@dataclass(frozen=True)
class Route:
    """A route of one table. ``other`` is set where it has what cannot be wanted here (encapsulation…).

    It has an interface, a gateway or both, or several sorted ``next_hops`` (ECMP), or none of these, or else the number
    of a ``nexthop`` object that has them; its type is then unicast, also where that object is a blackhole.
    """

    key: RouteKey
    type: RouteType | str
    interface: str | None = None
    gateway: str | None = None
    other: str = ""
    next_hops: tuple[NextHop, ...] = ()
    nexthop: int | None = None

    @property
    def family(self) -> Family:
        """4 or 6."""
        return 6 if ":" in self.key.destination else 4

    def describe(self) -> dict[str, Any]:
        """The route in the inventory's words."""
        shown: dict[str, Any] = {"type": self.type, "interface": self.interface, "gateway": self.gateway}
        if self.next_hops:
            shown["next_hops"] = [hop.describe() for hop in self.next_hops]
        if self.nexthop:
            shown["nexthop"] = self.nexthop
        return {**shown, "other": self.other} if self.other else shown


@dataclass(frozen=True)
class Rule:
    """A routing policy rule. ``other`` is set where it has selectors that cannot be wanted here.

    ``selectors`` are those as netlink attributes: removing it must name them, or the kernel removes
    the first rule that agrees in the rest.
    """

    family: Family
    priority: int
    to: str | None
    from_: str | None
    table: int
    other: str = ""
    selectors: tuple[Any, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        source = f"from {self.from_}" if self.from_ else ""
        target = f"to {self.to}" if self.to else ""
        words = (f"IPv{self.family}", str(self.priority), source, target, self.other)
        return " ".join(word for word in words if word)

    def describe(self) -> dict[str, Any]:
        """The rule in the inventory's words."""
        return {
            "priority": self.priority,
            "to": self.to,
            "from": self.from_,
            "table": self.table,
        }


@dataclass(frozen=True)
class DesiredRouting:
    """What a table should hold, and which rules should lead to it."""

    table: int
    protocol: int
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    nexthops: tuple[Nexthop, ...] = ()

    @property
    def tables(self) -> frozenset[int]:
        """The tables that our rules may lead to: rules of our protocol to others are not touched."""
        return frozenset({self.table, *(rule.table for rule in self.rules)})


@dataclass(frozen=True)
class ObservedRouting:
    """What the kernel has, split into what carries our protocol and what does not."""

    routes: tuple[Route, ...]  # our table, our protocol; more than one may have the same key
    foreign: Mapping[RouteKey, int]  # our table, another protocol: that protocol's number
    rules: tuple[Rule, ...]  # our protocol
    interfaces: frozenset[str]
    # What others have in our table, and their rules that lead to it, with their protocol's number.
    strangers: tuple[tuple[int, Route | Rule], ...] = ()
    nexthops: Mapping[int, Nexthop] = field(default_factory=dict)  # our protocol, by id
    foreign_nexthops: Mapping[int, int] = field(default_factory=dict)  # id -> protocol
    # What outside our table, or of others, uses nexthops of ours: id -> what it is. Every route of the host has to be
    # read for that, so it is asked only where one of ours is to go.
    nexthop_users: Callable[[], Mapping[int, str]] = field(default=dict, compare=False)


_Made = TypeVar("_Made")


def desired_from_params(params: Mapping[str, Any]) -> DesiredRouting:
    """The desired routing from module parameters (the plan's ``routes`` object).

    Raises EdgewireError with everything that is wrong.
    """
    wrong: list[str] = []
    table, protocol = params["table"], params["protocol"]
    if table in _SHARED_TABLES or not 0 < table <= _MAX_32:
        wrong.append(f"table {table}: need a table of our own, not {_SHARED_TABLES}")
    if not _FIRST_FREE_PROTOCOL <= protocol <= 255:
        wrong.append(f"protocol {protocol}: need one of our own, 5 to 255")
    routes = _each(params.get("routes") or (), _route, "route", wrong)
    rules = _each(params.get("rules") or (), lambda entry: _rule(entry, table), "rule", wrong)
    objects = _each(params.get("nexthops") or (), nexthops.nexthop_of, "nexthop", wrong)
    nexthops.check(objects, [(str(r.key), r.nexthop, r.family) for r in routes if r.nexthop], wrong)
    _refuse_twice("route", [str(route.key) for route in routes], wrong)
    _refuse_twice("rule", [f"{rule} table {rule.table}" for rule in rules], wrong)
    if wrong:
        raise EdgewireError("routes: " + "; ".join(wrong))
    return DesiredRouting(table, protocol, tuple(routes), tuple(rules), tuple(objects))


def _each(
    entries: Iterable[Mapping[str, Any]],
    make: Callable[[Mapping[str, Any]], _Made],
    what: str,
    wrong: list[str],
) -> list[_Made]:
    made = []
    for entry in entries:
        try:
            made.append(make(entry))
        except ValueError as error:
            given = {key: value for key, value in entry.items() if value is not None}
            wrong.append(f"{what} {given}: {error}")
    return made


def _route(entry: Mapping[str, Any]) -> Route:
    network = ip_network(entry["destination"])
    kind = entry.get("type") or "unicast"
    interface, gateway, metric = entry.get("interface"), entry.get("gateway"), entry.get("metric")
    if kind not in ROUTE_TYPES:
        raise ValueError(f"type must be one of {', '.join(ROUTE_TYPES)}")
    hops, nexthop = _next_hops(entry.get("next_hops") or (), network.version), entry.get("nexthop")
    if hops and (interface or gateway):
        raise ValueError("next_hops take the place of interface and gateway")
    if nexthop and (interface or gateway or hops):
        raise ValueError("a nexthop takes the place of interface, gateway and next_hops")
    if len(hops) == 1:  # the kernel knows no difference
        interface, gateway, hops = hops[0].interface, hops[0].gateway, ()
    if kind == "unicast" and interface is None and gateway is None and not hops and not nexthop:
        raise ValueError("a unicast route needs an interface, a gateway, or both")
    if kind != "unicast" and (interface or gateway or hops or nexthop):
        raise ValueError(f"a {kind} route has neither interface nor gateway")
    gateway = _gateway(gateway, network.version)
    if metric is not None and not 0 <= metric <= _MAX_32:
        raise ValueError("metric is not a 32-bit number")
    if not metric:
        metric = IPV6_METRIC if network.version == 6 else 0
    return Route(RouteKey(str(network), metric), kind, interface, gateway, next_hops=hops, nexthop=nexthop or None)


def _gateway(text: str | None, version: int) -> str | None:
    if text is None:
        return None
    if ip_address(text).version != version:
        raise ValueError("destination and gateway are of different families")
    return str(ip_address(text))


def _next_hops(entries: Iterable[Mapping[str, Any]], version: int) -> tuple[NextHop, ...]:
    hops = []
    for entry in entries:
        weight = entry.get("weight") or 1
        hop = NextHop(entry.get("interface"), _gateway(entry.get("gateway"), version), weight)
        if hop.gateway is None and (hop.interface is None or version == 6):
            least = "a gateway (the kernel wants one in IPv6)" if version == 6 else "an interface or a gateway"
            raise ValueError(f"a next hop needs {least}")
        if not 1 <= weight <= 256:
            raise ValueError("a next hop's weight is 1 to 256")
        hops.append(hop)
    if len({(hop.interface, hop.gateway) for hop in hops}) < len(hops):
        raise ValueError("a next hop is there twice; give it a weight instead")
    return tuple(sorted(hops, key=lambda hop: hop.rank))


def _rule(entry: Mapping[str, Any], table: int) -> Rule:
    to, source = (ip_network(entry[key]) if entry.get(key) else None for key in ("to", "from"))
    versions = {network.version for network in (to, source) if network is not None}
    if len(versions) != 1:
        raise ValueError("needs 'to' or 'from', of one family")
    priority, target = entry["priority"], entry.get("table") or table
    if not 0 < priority <= _MAX_32:
        raise ValueError("priority is not 1 to 4294967295")
    if not 0 < target <= _MAX_32:
        raise ValueError("table is not a 32-bit number")
    return Rule(
        family=6 if 6 in versions else 4,
        priority=priority,
        to=_selector(to),
        from_=_selector(source),
        table=target,
    )


def _selector(network: Any) -> str | None:
    """A prefix of length 0 selects everything; the kernel reads it back as no selector."""
    return str(network) if network is not None and network.prefixlen else None


def _refuse_twice(what: str, names: Iterable[str], wrong: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            wrong.append(f"{what} {name} is there twice")
        seen.add(name)
