# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner of routes and rules: desired, observed -> the smallest list of steps. Pure, linear.

Only what carries our protocol number, in our table, is changed or removed. Routes are added before
the rules that lead to them, rules removed before the routes behind them.
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


Operation = RouteOperation | RuleOperation


def plan(desired: DesiredRouting, observed: ObservedRouting) -> list[Step]:
    """The steps from ``observed`` to ``desired``.

    Raises EdgewireError, naming all of them, if foreign routes sit where ours should be.
    """
    _check_foreign(desired, observed)
    return [*_routes(desired, observed), *_rules(desired, observed, desired.tables)]


def plan_absent(desired: DesiredRouting, observed: ObservedRouting) -> list[Step]:
    """The steps that remove all that is ours: the rules that lead to our tables, our routes."""
    nothing = DesiredRouting(desired.table, desired.protocol, (), ())
    steps = [_removed(route) for route in observed.routes]
    steps += _rules(nothing, observed, desired.tables)
    return steps


def plan_back(desired: DesiredRouting, before: ObservedRouting, observed: ObservedRouting) -> list[Step]:
    """The steps that bring back what there was ``before`` a run towards ``desired``.

    Without what no option can say, and routes over interfaces that are gone.
    """
    # Of several with one key the first is the one that packets took.
    routes = {route.key: route for route in reversed(before.routes) if not route.other}
    rules = {rule for rule in before.rules if not rule.other and rule.table in desired.tables}
    previous = DesiredRouting(desired.table, desired.protocol, tuple(routes.values()), tuple(sorted(rules, key=str)))
    gone = set(missing_interfaces(previous, observed))
    kept = tuple(
        route
        for route in previous.routes
        if gone.isdisjoint({route.interface, *(hop.interface for hop in route.next_hops)})
    )
    previous = replace(previous, routes=kept)
    return [*_routes(previous, observed), *_rules(previous, observed, desired.tables)]


def missing_interfaces(desired: DesiredRouting, observed: ObservedRouting) -> list[str]:
    """Interfaces that routes want and that do not exist."""
    wanted = {route.interface for route in desired.routes}
    wanted.update(hop.interface for route in desired.routes for hop in route.next_hops)
    return sorted({name for name in wanted if name is not None} - observed.interfaces)


def ordered(steps: Iterable[Step]) -> list[Operation]:
    """All operations of the steps in the order in which they are performed."""
    operations: list[Operation] = [operation for step in steps for operation in step.op or ()]
    return sorted(operations, key=_rank)


def _rank(operation: Operation) -> int:
    if isinstance(operation, RuleOperation):
        return 2 if operation.verb == "add" else 3
    if operation.verb == "remove":
        return 4
    route = operation.route
    return 1 if route.gateway or route.next_hops else 0  # a gateway is reached by a route without one


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


def _routes(desired: DesiredRouting, observed: ObservedRouting) -> list[Step]:
    ours: dict[RouteKey, list[Route]] = {}
    for route in observed.routes:
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
