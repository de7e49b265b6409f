# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner of routes and rules: desired, observed -> the smallest list of steps. Pure, linear.

Only what carries our protocol number, in our table, is changed or removed. Nexthop objects are added before the routes
that use them, routes before the rules that lead to them; what is removed goes the other way round. A nexthop object
that anything outside our table uses is not removed, for the kernel would take that along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import (
    DesiredRouting,
    ObservedRouting,
    Route,
    RouteKey,
    Rule,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.nexthops import Nexthop
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step


@dataclass(frozen=True)
class RouteOperation:
    """Add a route, put it in place of ours with the same key, or remove exactly this one."""

    verb: Literal["add", "replace", "remove"]
    route: Route


@dataclass(frozen=True)
class RuleOperation:
    """Add or remove a rule."""

    verb: Literal["add", "remove"]
    rule: Rule


@dataclass(frozen=True)
class NexthopOperation:
    """Add a nexthop object, put it in place of ours with the same id (``renew``: of another kind), or remove it."""

    verb: Literal["add", "replace", "renew", "remove"]
    nexthop: Nexthop


Operation = RouteOperation | RuleOperation | NexthopOperation


def plan(desired: DesiredRouting, observed: ObservedRouting) -> list[Step]:
    """The steps from ``observed`` to ``desired``.

    Raises EdgewireError, naming all of them, if foreign routes sit where ours should be.
    """
    _check_foreign(desired, observed)
    lost = _lost(desired, observed)
    steps = _nexthops(desired, observed, lost)
    return [*steps, *_routes(desired, observed, lost), *_rules(desired, observed, desired.tables)]


def plan_absent(desired: DesiredRouting, observed: ObservedRouting) -> list[Step]:
    """The steps that remove all that is ours: the rules that lead to our tables, our routes."""
    nothing = DesiredRouting(desired.table, desired.protocol, (), ())
    steps = [_removed(route) for route in observed.routes]
    steps += _rules(nothing, observed, desired.tables)
    steps += _nexthops(nothing, observed, frozenset())
    return steps


def plan_back(desired: DesiredRouting, before: ObservedRouting, observed: ObservedRouting) -> list[Step]:
    """The steps that bring back what there was ``before`` a run towards ``desired``.

    Without what no option can say, and routes over interfaces that are gone.
    """
    # Of several with one key the first is the one that packets took.
    routes = {route.key: route for route in reversed(before.routes) if not route.other}
    rules = {rule for rule in before.rules if not rule.other and rule.table in desired.tables}
    previous = DesiredRouting(
        desired.table,
        desired.protocol,
        tuple(routes.values()),
        tuple(sorted(rules, key=str)),
        tuple(before.nexthops.values()),
    )
    gone = set(missing_interfaces(previous, observed))
    objects = {
        number: nexthop
        for number, nexthop in before.nexthops.items()
        if not nexthop.other and nexthop.interface not in gone
    }
    objects = {
        number: nexthop for number, nexthop in objects.items() if all(member in objects for member, _ in nexthop.group)
    }
    kept = tuple(
        route
        for route in previous.routes
        if gone.isdisjoint({route.interface, *(hop.interface for hop in route.next_hops)})
        and (route.nexthop is None or route.nexthop in objects)
    )
    previous = replace(previous, routes=kept, nexthops=tuple(objects.values()))
    lost = _lost(previous, observed)
    steps = _nexthops(previous, observed, lost)
    return [*steps, *_routes(previous, observed, lost), *_rules(previous, observed, desired.tables)]


def missing_interfaces(desired: DesiredRouting, observed: ObservedRouting) -> list[str]:
    """Interfaces that routes want and that do not exist."""
    wanted = {route.interface for route in desired.routes}
    wanted.update(hop.interface for route in desired.routes for hop in route.next_hops)
    wanted.update(nexthop.interface for nexthop in desired.nexthops)
    return sorted({name for name in wanted if name is not None} - observed.interfaces)


def ordered(steps: Iterable[Step]) -> list[Operation]:
    """All operations of the steps in the order in which they are performed."""
    operations: list[Operation] = [operation for step in steps for operation in step.op or ()]
    return sorted(operations, key=_rank)


def _rank(operation: Operation) -> int:
    if isinstance(operation, NexthopOperation):
        if operation.verb == "remove":
            return 8 if operation.nexthop.group else 9
        return 1 if operation.nexthop.group else 0
    if isinstance(operation, RuleOperation):
        return 4 if operation.verb == "add" else 5
    if operation.verb == "remove":
        return 6
    route = operation.route
    return 3 if route.gateway or route.next_hops else 2  # a gateway is reached by a route without one


def _check_foreign(desired: DesiredRouting, observed: ObservedRouting) -> None:
    in_the_way = [
        f"{route.key} (protocol {observed.foreign[route.key]})"
        for route in desired.routes
        if route.key in observed.foreign
    ]
    if in_the_way:
        raise EdgewireError(
            f"table {desired.table} holds routes of others where ours should be; they are left "
            f"alone, remove them or use another table: {', '.join(in_the_way)}"
        )
    objects = [
        f"{nexthop.id} (protocol {observed.foreign_nexthops[nexthop.id]})"
        for nexthop in desired.nexthops
        if nexthop.id in observed.foreign_nexthops
    ]
    if objects:
        raise EdgewireError(f"nexthops of others have these ids, choose other ones: {', '.join(objects)}")


def _lost(desired: DesiredRouting, observed: ObservedRouting) -> frozenset[int]:
    """Nexthops that have to be removed to become what is wanted, and groups that go with their last member.

    With them the kernel removes the routes that use them. EdgewireError where those are not ours.
    """
    wanted = {nexthop.id: nexthop for nexthop in desired.nexthops}
    lost = {number for number, have in observed.nexthops.items() if number in wanted and not have.like(wanted[number])}
    lost |= {
        number
        for number, have in observed.nexthops.items()
        if have.group and lost.issuperset(member for member, _ in have.group)
    }
    users = observed.nexthop_users() if lost else {}
    used = [f"{number} (by {users[number]})" for number in sorted(lost & set(users))]
    if used:
        raise EdgewireError(f"nexthops cannot change their kind while others use them: {', '.join(used)}")
    return frozenset(lost)


def _nexthops(desired: DesiredRouting, observed: ObservedRouting, lost: frozenset[int]) -> list[Step]:
    steps = []
    for wanted in desired.nexthops:
        have = observed.nexthops.get(wanted.id)
        operations: list[Operation] = []
        if have is None:
            operations.append(NexthopOperation("add", wanted))
        elif wanted.id in lost:
            operations.append(NexthopOperation("renew", wanted))
        elif have != wanted or lost.intersection(member for member, _ in have.group):
            operations.append(NexthopOperation("replace", wanted))
        if operations:
            before = have.describe() if have else None
            steps.append(make_step("nexthop", str(wanted.id), before, wanted.describe(), tuple(operations)))
    unwanted = set(observed.nexthops) - {nexthop.id for nexthop in desired.nexthops}
    users = observed.nexthop_users() if unwanted else {}
    for number in sorted(unwanted - set(users)):
        nexthop = observed.nexthops[number]
        operation = NexthopOperation("remove", nexthop)
        steps.append(make_step("nexthop", str(number), nexthop.describe(), None, (operation,)))
    return steps


def _routes(desired: DesiredRouting, observed: ObservedRouting, lost: frozenset[int]) -> list[Step]:
    ours: dict[RouteKey, list[Route]] = {}
    for route in observed.routes:
        if route.nexthop not in lost:
            ours.setdefault(route.key, []).append(route)
    steps = [step for route in desired.routes for step in _route(route, ours.pop(route.key, []))]
    for routes in ours.values():
        steps += [_removed(route) for route in routes]
    return steps


def _route(wanted: Route, have: list[Route]) -> Iterator[Step]:
    name = str(wanted.key)
    if not have:
        operation = RouteOperation("add", wanted)
        yield make_step("route", name, None, wanted.describe(), (operation,))
        return
    kept = next((route for route in have if _satisfies(route, wanted)), have[0])
    if not _satisfies(kept, wanted):
        operation = RouteOperation("replace", wanted)
        yield make_step("route", name, kept.describe(), wanted.describe(), (operation,))
    for route in have:
        if route is not kept:
            yield _removed(route)


def _satisfies(have: Route, wanted: Route) -> bool:
    """Whether a route is what is wanted; the interface to a gateway is the kernel's to find."""
    if wanted.interface is None and wanted.gateway is not None:
        have = replace(have, interface=None)
    found = {hop.gateway for hop in wanted.next_hops if hop.interface is None}
    if found:
        hops = (replace(hop, interface=None) if hop.gateway in found else hop for hop in have.next_hops)
        have = replace(have, next_hops=tuple(sorted(hops, key=lambda hop: hop.rank)))
    return have == wanted


def _removed(route: Route) -> Step:
    operation = RouteOperation("remove", route)
    return make_step("route", str(route.key), route.describe(), None, (operation,))


def _rules(desired: DesiredRouting, observed: ObservedRouting, tables: frozenset[int]) -> Iterator[Step]:
    have = {rule for rule in observed.rules if rule.table in tables}
    for rule in desired.rules:
        if rule not in have:
            operation = RuleOperation("add", rule)
            yield make_step("rule", str(rule), None, rule.describe(), (operation,))
    wanted = set(desired.rules)
    for rule in observed.rules:
        if rule in have and rule not in wanted:
            operation = RuleOperation("remove", rule)
            yield make_step("rule", str(rule), rule.describe(), None, (operation,))
