# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes and rules in the kernel, by rtnetlink with pyroute2's messages, over one socket.

Messages are built here, so that both pyroute2 0.7 and 0.9 send the same bytes. Dumps are filtered
by the kernel (NETLINK_GET_STRICT_CHK, Linux 4.20): a full table elsewhere costs nothing.
Source: rtnetlink(7), include/uapi/linux/{rtnetlink,fib_rules}.h.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import messages
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import (
    Family,
    NextHop,
    ObservedRouting,
    Route,
    RouteKey,
    Rule,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.nexthops import Nexthop
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.planner import (
    NexthopOperation,
    Operation,
    RouteOperation,
    RuleOperation,
)

_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_REQUEST, _ACK, _DUMP_INTR, _DUMP = 0x1, 0x4, 0x10, 0x300
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_CLONED = 0x200  # RTM_F_CLONED: a cache entry, not a route
_TO_TABLE = 1  # FR_ACT_TO_TBL
_TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_TYPE_NUMBERS = {name: number for number, name in _TYPES.items()}
_FAMILIES: Mapping[Family, int] = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_DUMP_TRIES = 5  # a dump during which the table changed is begun again
_HINTS = {
    errno.EEXIST: "somebody else added it meanwhile",
    errno.ENETDOWN: "the interface is down",
    errno.ENETUNREACH: "the gateway is not reachable",
    errno.EPERM: "this needs root (CAP_NET_ADMIN)",
}

# What a rule may carry and still be one that can be wanted here; all else is a selector or an action
# that this module never sets.
_PLAIN_RULE = {
    "FRA_DST",
    "FRA_SRC",
    "FRA_TABLE",
    "FRA_PRIORITY",
    "FRA_PROTOCOL",
    "FRA_PAD",
    "UNKNOWN",  # attributes that pyroute2 has no name for, as FRA_DSCP: seen only with their default
}
_UNSET = ("FRA_SUPPRESS_PREFIXLEN", 0xFFFFFFFF)  # dumped like this when it is not set
_OTHER_ROUTE = {"RTA_VIA", "RTA_ENCAP"}


class RouteKernel:
    """Routes and rules of the calling thread's network namespace. Close it after use."""

    def __init__(self, table: int, protocol: int) -> None:
        from pyroute2 import IPRoute

        self._table = table
        self._protocol = protocol
        self._ip: Any = IPRoute(strict_check=True)
        # pyroute2 0.9's synchronous IPRoute reads this in nlm_request() without having set it.
        status = getattr(self._ip, "status", None)
        if status is not None and "nlm_generator" not in status:
            status["nlm_generator"] = False
        self._ip.register_policy(
            {messages.NEWROUTE: messages.route_class(), messages.NEWNEXTHOP: messages.nexthop_class()}
        )

    def close(self) -> None:
        """Close the netlink socket."""
        self._ip.close()

    def __enter__(self) -> RouteKernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observe(self) -> ObservedRouting:
        """Our table's routes, and the rules with our protocol."""
        names = dict(socket.if_nameindex())
        routes: list[Route] = []
        foreign: dict[RouteKey, int] = {}
        rules: list[Rule] = []
        strangers: list[tuple[int, Route | Rule]] = []
        for family in _FAMILIES:
            for message in self._dump_routes(family):
                if message.get_attr("RTA_TABLE") != self._table or message["flags"] & _CLONED:
                    continue
                route = _route_of(message, family, names)
                if message["proto"] == self._protocol:
                    routes.append(route)
                else:
                    foreign[route.key] = message["proto"]
                    strangers.append((message["proto"], route))
            for message in self._dump_rules(family):
                owner = message.get_attr("FRA_PROTOCOL") or 0
                if owner == self._protocol:
                    rules.append(_rule_of(message, family))
                elif message.get_attr("FRA_TABLE") == self._table:
                    strangers.append((owner, _rule_of(message, family)))
        ours, others = self._nexthops(names)
        return ObservedRouting(
            tuple(routes),
            foreign,
            tuple(rules),
            frozenset(names.values()),
            tuple(strangers),
            ours,
            {nexthop.id: owner for owner, nexthop in others},
            cache(lambda: self._users(ours, others)),
        )

    def perform(self, operation: Operation) -> None:
        """Carry out one operation, or raise EdgewireError. Removing what has gone is no error."""
        match operation:
            case RouteOperation(verb="remove", route=route):
                self._change(self._route(route, removing=True), _DELROUTE, 0, f"route {route.key}")
            case RouteOperation(verb=verb, route=route):
                flags = _CREATE | (_REPLACE if verb == "replace" else _EXCL)
                self._change(self._route(route), _NEWROUTE, flags, f"route {route.key}")
            case NexthopOperation(verb="remove", nexthop=nexthop):
                self._remove_nexthop(nexthop)
            case NexthopOperation(verb=verb, nexthop=nexthop):
                if verb == "renew":
                    self._remove_nexthop(nexthop)
                flags = _CREATE | (_REPLACE if verb == "replace" else _EXCL)
                index = self._index(nexthop.interface) if nexthop.interface else None
                message = messages.nexthop_message(nexthop, self._protocol, index)
                self._change(message, messages.NEWNEXTHOP, flags, f"nexthop {nexthop.id}")
            case RuleOperation(verb="add", rule=rule):
                self._change(self._rule(rule), _NEWRULE, _CREATE | _EXCL, f"rule {rule}")
            case RuleOperation(rule=rule):
                self._change(self._rule(rule), _DELRULE, 0, f"rule {rule}")

    def _change(self, message: Any, kind: int, flags: int, what: str) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            tuple(self._ip.nlm_request(message, msg_type=kind, msg_flags=_REQUEST | _ACK | flags))
        except NetlinkError as error:
            if kind in (_DELROUTE, _DELRULE, messages.DELNEXTHOP) and error.code in (errno.ESRCH, errno.ENOENT):
                return
            hint = f" ({_HINTS[error.code]})" if error.code in _HINTS else ""
            text = f"table {self._table}: {what}: the kernel refused: {error.args[-1]}{hint}"
            raise EdgewireError(text) from None

    def _remove_nexthop(self, nexthop: Nexthop) -> None:
        message = messages.removal_message(nexthop.id)
        self._change(message, messages.DELNEXTHOP, 0, f"nexthop {nexthop.id}")

    def _nexthops(self, names: Mapping[int, str]) -> tuple[dict[int, Nexthop], list[tuple[int, Nexthop]]]:
        """Nexthop objects: ours by id, others' with their protocol."""
        ours, others = {}, []
        for message in self._dump(messages.nexthop_class()(), messages.GETNEXTHOP):
            nexthop = messages.nexthop_from(message, names)
            if message["protocol"] == self._protocol:
                ours[nexthop.id] = nexthop
            else:
                others.append((message["protocol"], nexthop))
        return ours, others

    def _users(self, ours: Mapping[int, Nexthop], others: Iterable[tuple[int, Nexthop]]) -> dict[int, str]:
        """What uses nexthops of ours and is not in our table, or not ours."""
        users = {}
        for owner, nexthop in others:
            users.update({member: f"nexthop {nexthop.id} of protocol {owner}" for member, _ in nexthop.group})
        for family in _FAMILIES:
            for message in self._dump_routes(family, every_table=True):
                number, table = message.get_attr("RTA_NH_ID"), message.get_attr("RTA_TABLE")
                if number is not None and (table, message["proto"]) != (self._table, self._protocol):
                    users[number] = f"route {_prefix(message, 'RTA_DST', 'dst_len', family)} of table {table}"
                    users.update(dict.fromkeys([member for member, _ in _members(ours, number)], users[number]))
        return {number: user for number, user in users.items() if number in ours}

    def _dump_routes(self, family: Family, every_table: bool = False) -> tuple[Any, ...]:
        message = messages.route_class()()
        message["family"] = _FAMILIES[family]
        message["attrs"] = [] if every_table else [("RTA_TABLE", self._table)]
        return self._dump(message, _GETROUTE)

    def _dump_rules(self, family: Family) -> tuple[Any, ...]:
        from pyroute2.netlink.rtnl.fibmsg import fibmsg

        message = fibmsg()
        message["family"] = _FAMILIES[family]
        return self._dump(message, _GETRULE)

    def _dump(self, message: Any, kind: int) -> tuple[Any, ...]:
        from pyroute2.netlink import exceptions

        interrupted = getattr(exceptions, "NetlinkDumpInterrupted", ())
        for _ in range(_DUMP_TRIES):
            try:
                flags = _REQUEST | _DUMP
                found = tuple(self._ip.nlm_request(message, msg_type=kind, msg_flags=flags))
            except interrupted:
                continue
            except exceptions.NetlinkError as error:
                # no such table yet, or a kernel without this family
                if error.code in (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                    return ()
                raise EdgewireError(f"reading table {self._table}: {error.args[-1]}") from None
            if not any(reply["header"]["flags"] & _DUMP_INTR for reply in found):
                return found
        raise EdgewireError(f"table {self._table} changes faster than it can be read; try again")

    def _route(self, route: Route, removing: bool = False) -> Any:
        address, _, length = route.key.destination.partition("/")
        message = messages.route_class()()
        message["family"] = _FAMILIES[route.family]
        message["dst_len"] = int(length)
        message["tos"] = route.key.tos
        message["table"] = 0  # RTA_TABLE says it: this field has 8 bits
        message["proto"] = self._protocol
        message["type"] = _TYPE_NUMBERS.get(route.type, 0)
        message["scope"] = _scope(route, removing)
        attributes: list[Any] = [("RTA_TABLE", self._table)]
        if int(length):
            attributes.append(("RTA_DST", address))
        if route.key.metric:
            attributes.append(("RTA_PRIORITY", route.key.metric))
        if route.interface is not None and not route.other:
            attributes.append(("RTA_OIF", self._index(route.interface)))
        if route.gateway is not None and not route.other:
            attributes.append(("RTA_GATEWAY", route.gateway))
        if route.next_hops and not removing:
            attributes.append(("RTA_MULTIPATH", [self._next_hop(hop) for hop in route.next_hops]))
        if route.nexthop is not None and not removing:
            attributes.append(("RTA_NH_ID", route.nexthop))
        message["attrs"] = attributes
        return message

    def _next_hop(self, hop: NextHop) -> dict[str, Any]:
        index = self._index(hop.interface) if hop.interface is not None else 0
        attributes = [("RTA_GATEWAY", hop.gateway)] if hop.gateway is not None else []
        return {"oif": index, "hops": hop.weight - 1, "attrs": attributes}

    def _rule(self, rule: Rule) -> Any:
        from pyroute2.netlink.rtnl.fibmsg import fibmsg

        message = fibmsg()
        message["family"] = _FAMILIES[rule.family]
        message["action"] = _TO_TABLE
        message["table"] = 0
        attributes: list[Any] = [
            ("FRA_TABLE", rule.table),
            ("FRA_PRIORITY", rule.priority),
            ("FRA_PROTOCOL", self._protocol),
            *rule.selectors,
        ]
        for prefix, field, name in (
            (rule.to, "dst_len", "FRA_DST"),
            (rule.from_, "src_len", "FRA_SRC"),
        ):
            if prefix is not None:
                address, _, length = prefix.partition("/")
                message[field] = int(length)
                attributes.append((name, address))
        message["attrs"] = attributes
        return message

    def _index(self, interface: str) -> int:
        try:
            return socket.if_nametoindex(interface)
        except OSError:
            raise EdgewireError(
                f"table {self._table}: interface {interface} has gone; run again when it is back"
            ) from None


def _scope(route: Route, removing: bool) -> int:
    """As iproute2 sets it: a directly connected IPv4 destination is in link scope."""
    if removing:
        return _SCOPE_NOWHERE
    if route.family == 4 and route.type == "unicast" and not (route.gateway or route.next_hops or route.nexthop):
        return _SCOPE_LINK
    return _SCOPE_UNIVERSE


def _prefix(message: Any, attribute: str, length: str, family: Family) -> str | None:
    address = message.get_attr(attribute)
    if address is None:
        return ("::/0" if family == 6 else "0.0.0.0/0") if attribute == "RTA_DST" else None
    return f"{address}/{message[length]}"


def _route_of(message: Any, family: Family, names: Mapping[int, str]) -> Route:
    kind = _TYPES.get(message["type"], f"type {message['type']}")
    key = RouteKey(
        destination=str(_prefix(message, "RTA_DST", "dst_len", family)),
        metric=message.get_attr("RTA_PRIORITY") or 0,
        tos=message["tos"],
    )
    nexthop = message.get_attr("RTA_NH_ID")
    if nexthop is not None:  # the kernel shows what it leads to as well
        return Route(key, "unicast", nexthop=nexthop)
    hops = message.get_attr("RTA_MULTIPATH") or ()
    present = {attribute[0] for part in (message, *hops) for attribute in part["attrs"]}
    other = " ".join(sorted(_OTHER_ROUTE & present))
    if kind != "unicast":  # IPv6 reads a blackhole back with the loopback interface
        return Route(key, kind, other=other)
    if len(hops) > 1:
        ways = [NextHop(_name(names, hop["oif"]), hop.get_attr("RTA_GATEWAY"), hop["hops"] + 1) for hop in hops]
        return Route(key, kind, other=other, next_hops=tuple(sorted(ways, key=lambda way: way.rank)))
    index, gateway = message.get_attr("RTA_OIF"), message.get_attr("RTA_GATEWAY")
    for hop in hops:
        index, gateway = hop["oif"], hop.get_attr("RTA_GATEWAY")
    return Route(key, kind, _name(names, index), gateway, other)


def _members(nexthops: Mapping[int, Nexthop], number: int) -> tuple[tuple[int, int], ...]:
    return nexthops[number].group if number in nexthops else ()


def _name(names: Mapping[int, str], index: int | None) -> str | None:
    return names.get(index, f"#{index}") if index else None


def _rule_of(message: Any, family: Family) -> Rule:
    selectors = tuple(
        (attribute[0], attribute[1])
        for attribute in message["attrs"]
        if attribute[0] not in _PLAIN_RULE and (attribute[0], attribute[1]) != _UNSET
    )
    others = [f"{name.removeprefix('FRA_').lower()} {value}" for name, value in selectors]
    if message["action"] != _TO_TABLE:
        others.append(f"action {message['action']}")
    return Rule(
        family=family,
        priority=message.get_attr("FRA_PRIORITY") or 0,
        to=_prefix(message, "FRA_DST", "dst_len", family),
        from_=_prefix(message, "FRA_SRC", "src_len", family),
        table=message.get_attr("FRA_TABLE") or message["table"],
        other=", ".join(sorted(others)),
        selectors=selectors,
    )
