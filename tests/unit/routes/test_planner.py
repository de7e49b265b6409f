# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner of routes and rules against a stateful fake kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend, planner, render
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import (
    DesiredRouting,
    NextHop,
    ObservedRouting,
    Route,
    RouteKey,
    Rule,
    desired_from_params,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.nexthops import Nexthop
from hypothesis import given
from hypothesis import strategies as st

TABLE, PROTOCOL = 7700, 158
INTERFACES = ["eth0", "wg0"]
HOPS: dict[str, list[tuple[str | None, int, int]]] = {
    "two": [("wg0", 1, 1), ("eth0", 2, 1)],
    "weighted": [("wg0", 1, 3), ("eth0", 2, 1)],
    "found": [(None, 2, 1), ("wg0", 1, 1), (None, 3, 1)],
}


class FakeKernel:
    """Our routes and rules; refuses what the kernel refuses, and records the order."""

    def __init__(self, observed: ObservedRouting) -> None:
        self.routes = list(observed.routes)
        self.rules = list(observed.rules)
        self.foreign = dict(observed.foreign)
        self.interfaces = observed.interfaces
        self.nexthops = dict(observed.nexthops)
        self.users = dict(observed.nexthop_users())
        self.operations: list[planner.Operation] = []

    def observe(self) -> ObservedRouting:
        return ObservedRouting(
            tuple(self.routes),
            dict(self.foreign),
            tuple(self.rules),
            self.interfaces,
            nexthops=dict(self.nexthops),
            nexthop_users=lambda: self.users,
        )

    def perform(self, operation: planner.Operation) -> None:
        self.operations.append(operation)
        match operation:
            case planner.NexthopOperation("remove", nexthop):
                self._lose(nexthop.id)
            case planner.NexthopOperation(verb, nexthop):
                if verb == "renew":
                    self._lose(nexthop.id)
                elif verb == "add":
                    assert nexthop.id not in self.nexthops
                elif nexthop.id in self.nexthops:
                    assert self.nexthops[nexthop.id].like(nexthop)
                assert all(not self.nexthops[member].group for member, _ in nexthop.group)
                self.nexthops[nexthop.id] = nexthop
            case planner.RouteOperation("add", route):
                assert route.nexthop is None or route.nexthop in self.nexthops
                assert route.key not in self.foreign
                assert all(known.key != route.key for known in self.routes)
                self.routes.append(self._seen(route))
            case planner.RouteOperation("replace", route):
                first = next(known for known in self.routes if known.key == route.key)
                self.routes[self.routes.index(first)] = self._seen(route)
            case planner.RouteOperation("remove", route):
                self.routes.remove(route)
            case planner.RuleOperation("add", rule):
                assert rule not in self.rules
                self.rules.append(rule)
            case planner.RuleOperation(_, rule):
                self.rules.remove(rule)

    def _lose(self, number: int) -> None:
        """The kernel takes along what uses it: routes, and groups that have no other member."""
        assert number not in self.users
        self.nexthops.pop(number, None)
        self.routes = [route for route in self.routes if route.nexthop != number]
        for group in [nexthop for nexthop in self.nexthops.values() if nexthop.group]:
            left = tuple((member, weight) for member, weight in group.group if member != number)
            self.nexthops[group.id] = replace(group, group=left)
            if not left:
                self._lose(group.id)

    @staticmethod
    def _seen(route: Route) -> Route:
        """As the kernel reads it back: it names the interface that reaches a gateway."""
        hops = (replace(hop, interface=hop.interface or "eth0") for hop in route.next_hops)
        route = replace(route, next_hops=tuple(sorted(hops, key=lambda hop: hop.rank)))
        found = route.gateway is not None and route.interface is None
        return replace(route, interface="eth0") if found else route


def _route(destination: str, metric: int, kind: str) -> Route:
    key = RouteKey(destination, metric)
    if kind == "gateway":
        return Route(key, "unicast", None, "fe80::1" if ":" in destination else "192.0.2.1")
    if kind in HOPS:
        network = "fe80::" if ":" in destination else "192.0.2."
        hops = [NextHop(name, f"{network}{last}", weight) for name, last, weight in HOPS[kind]]
        return Route(key, "unicast", next_hops=tuple(sorted(hops, key=lambda hop: hop.rank)))
    return Route(key, "unicast", kind) if kind in INTERFACES else Route(key, kind)


kinds = st.sampled_from(["blackhole", "unreachable", "gateway", *INTERFACES, *HOPS])
destinations = st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "fd00::/64", "::/0"])
routes = st.builds(_route, destinations, st.integers(1, 2), kinds)
rules = st.builds(
    Rule,
    st.just(4),
    st.integers(1, 3),
    st.sampled_from([None, "10.0.0.0/8"]),
    st.just("10.2.0.0/16"),
    st.sampled_from([TABLE, 7701, 254]),
)


@st.composite
def nexthop_sets(draw: st.DrawFn) -> dict[int, Nexthop]:
    """Of few numbers, so that two sets meet in one that is a group here and a single one there."""
    ways: Any = st.sampled_from([(4, None), (4, "192.0.2.1"), (6, None), (6, "fe80::1")])
    singles = st.builds(
        lambda number, interface, way: Nexthop(number, way[0], interface, way[1]),
        st.integers(1, 4),
        st.sampled_from(INTERFACES),
        ways,
    )
    made = {nexthop.id: nexthop for nexthop in draw(st.lists(singles, max_size=4))}
    members = st.lists(st.sampled_from(sorted(made)), min_size=1, max_size=3, unique=True) if made else st.just([])
    for number in draw(st.lists(st.integers(3, 6), max_size=2, unique=True)):
        group = tuple((member, draw(st.integers(1, 3))) for member in sorted(draw(members)))
        if group and number not in made:
            made[number] = Nexthop(number, None, group=group)
    return made


def _sharing(draw: st.DrawFn, some: list[Route], nexthops: dict[int, Nexthop]) -> list[Route]:
    """Some of the IPv4 routes, which may use objects of both families, with one instead of what they had."""
    numbers = st.sampled_from([None, *nexthops])
    return [
        Route(route.key, "unicast", nexthop=chosen) if route.family == 4 and (chosen := draw(numbers)) else route
        for route in some
    ]


@st.composite
def desired_routings(draw: st.DrawFn) -> DesiredRouting:
    nexthops = draw(nexthop_sets())
    wanted = _sharing(draw, draw(st.lists(routes, unique_by=lambda route: route.key)), nexthops)
    some = tuple(draw(st.lists(rules, unique=True, max_size=4)))
    return DesiredRouting(TABLE, PROTOCOL, tuple(wanted), some, tuple(nexthops.values()))


@st.composite
def observed_routings(draw: st.DrawFn) -> ObservedRouting:
    nexthops = draw(nexthop_sets())
    have = [FakeKernel._seen(route) for route in _sharing(draw, draw(st.lists(routes, max_size=6)), nexthops)]
    odd = draw(st.booleans())
    strays = [Rule(4, 1, None, "10.2.0.0/16", TABLE, "fwmark 7")] if odd else []
    return ObservedRouting(
        tuple(dict.fromkeys(have)),  # the kernel takes the same key twice, not the same route
        {RouteKey("172.16.0.0/12", 0): 4},
        (*draw(st.lists(rules, unique=True, max_size=4)), *strays),
        frozenset(INTERFACES),
        nexthops={**nexthops, 9: Nexthop(9, 4, "wg0")},
        nexthop_users=lambda: {9: "somebody"},
    )


@given(desired_routings(), observed_routings())
def test_check_predicts_apply_and_a_second_run_does_nothing(desired: DesiredRouting, observed: ObservedRouting) -> None:
    predicted = backend.converge(FakeKernel(observed), desired, check_mode=True)
    kernel = FakeKernel(observed)
    assert backend.converge(kernel, desired, check_mode=False) == predicted
    kernel.operations.clear()
    assert backend.converge(kernel, desired, check_mode=False) == []
    assert kernel.operations == []


@given(desired_routings(), observed_routings())
def test_routes_come_before_rules_and_go_after_them(desired: DesiredRouting, observed: ObservedRouting) -> None:
    kernel = FakeKernel(observed)
    backend.converge(kernel, desired, check_mode=False)
    shown = [(isinstance(operation, planner.RuleOperation), operation.verb) for operation in kernel.operations]
    if (True, "add") in shown:
        first = shown.index((True, "add"))
        assert all(entry not in ((False, "add"), (False, "replace")) for entry in shown[first:])
    if (False, "remove") in shown:
        assert (True, "remove") not in shown[shown.index((False, "remove")) :]


@given(desired_routings(), observed_routings())
def test_absent_leaves_nothing_of_ours_and_all_of_others(desired: DesiredRouting, observed: ObservedRouting) -> None:
    kernel = FakeKernel(observed)
    backend.converge(kernel, desired, check_mode=False, absent=True)
    assert kernel.routes == []
    assert set(kernel.nexthops) == set(kernel.users)
    assert all(rule.table not in desired.tables for rule in kernel.rules)
    kept = [rule for rule in observed.rules if rule.table not in desired.tables]
    assert kernel.rules == kept
    assert backend.converge(kernel, desired, check_mode=True, absent=True) == []


@given(desired_routings(), observed_routings())
def test_a_change_can_be_taken_back(desired: DesiredRouting, observed: ObservedRouting) -> None:
    kernel = FakeKernel(observed)
    backend.converge(kernel, desired, check_mode=False)
    backend.restore(kernel, desired, observed)
    # Of routes with the same key one is enough: it is the one that was asked.
    assert {route.key: route for route in kernel.routes} == {route.key: route for route in reversed(observed.routes)}
    assert set(kernel.rules) == {rule for rule in observed.rules if not rule.other}
    assert kernel.nexthops == observed.nexthops


@given(observed_routings())
def test_gathered_options_change_nothing(observed: ObservedRouting) -> None:
    options, left = render.gathered(observed, TABLE, PROTOCOL)
    kernel = FakeKernel(observed)
    names = {step.name for step in backend.converge(kernel, desired_from_params(options), check_mode=True)}
    # What no option can say is named, and only that would be removed.
    assert names == {name.partition(" ")[2] for name in left}
    assert any("fwmark" in name for name in left) == any(rule.other for rule in observed.rules)


def test_a_foreign_route_in_the_way_is_an_error_that_names_all() -> None:
    wanted = tuple(_route(f"10.{n}.0.0/16", 0, "blackhole") for n in range(3))
    foreign = {wanted[0].key: 4, wanted[2].key: 16}
    observed = ObservedRouting((), foreign, (), frozenset())
    kernel = FakeKernel(observed)
    with pytest.raises(EdgewireError) as caught:
        backend.converge(kernel, DesiredRouting(TABLE, PROTOCOL, wanted, ()), check_mode=True)
    assert "10.0.0.0/16 metric 0 (protocol 4)" in str(caught.value)
    assert "10.2.0.0/16 metric 0 (protocol 16)" in str(caught.value)
    assert "10.1.0.0/16" not in str(caught.value)


def test_a_missing_interface_is_previewed_and_refused() -> None:
    wanted = (_route("10.0.0.0/8", 0, "wg0"), _route("10.1.0.0/16", 0, "blackhole"))
    desired = DesiredRouting(TABLE, PROTOCOL, wanted, ())
    kernel = FakeKernel(ObservedRouting((), {}, (), frozenset()))
    assert len(backend.converge(kernel, desired, check_mode=True)) == 2
    with pytest.raises(EdgewireError, match="do not exist: wg0"):
        backend.converge(kernel, desired, check_mode=False)
    assert kernel.operations == []


def params(**changed: Any) -> dict[str, Any]:
    return {"table": TABLE, "protocol": PROTOCOL, **changed}


def test_values_are_normalised_to_what_the_kernel_reads_back() -> None:
    desired = desired_from_params(
        params(
            routes=[
                {"destination": "FD00::/64", "type": "blackhole"},
                {"destination": "10.0.0.0/8", "interface": "wg0"},
                {"destination": "10.1.0.0/16", "next_hops": [{"interface": "wg0", "weight": 5}]},
            ],
            rules=[{"to": "0.0.0.0/0", "priority": 5}, {"from": "fd00::/8", "priority": 6}],
        )
    )
    assert desired.routes == (
        Route(RouteKey("fd00::/64", 1024), "blackhole"),
        Route(RouteKey("10.0.0.0/8", 0), "unicast", "wg0"),
        Route(RouteKey("10.1.0.0/16", 0), "unicast", "wg0"),
    )
    assert desired.rules == (
        Rule(4, 5, None, None, TABLE),
        Rule(6, 6, None, "fd00::/8", TABLE),
    )


def test_everything_wrong_is_in_one_message() -> None:
    bad = params(
        table=254,
        protocol=4,
        routes=[
            {"destination": "10.0.0.1/8", "type": "blackhole"},
            {"destination": "10.0.0.0/8"},
            {"destination": "10.0.0.0/8", "gateway": "fd00::1"},
            {"destination": "10.9.0.0/16", "type": "blackhole", "interface": "wg0"},
            {"destination": "10.8.0.0/16", "interface": "wg0"},
            {"destination": "10.8.0.0/16", "type": "blackhole"},
            {"destination": "10.7.0.0/16", "next_hops": [{"gateway": "192.0.2.1"}], "interface": "wg0"},
            {"destination": "10.7.1.0/24", "next_hops": [{"weight": 1}]},
            {"destination": "fd07::/64", "next_hops": [{"interface": "wg0"}, {"gateway": "fe80::1"}]},
            {"destination": "10.7.2.0/24", "next_hops": [{"interface": "wg0", "weight": 257}]},
            {"destination": "10.7.3.0/24", "next_hops": [{"interface": "wg0"}, {"interface": "wg0"}]},
            {"destination": "10.7.4.0/24", "nexthop": 99},
            {"destination": "10.7.5.0/24", "nexthop": 1, "interface": "wg0"},
            {"destination": "fd07:1::/64", "nexthop": 1},
        ],
        nexthops=[
            {"id": 1, "interface": "wg0"},
            {"id": 2, "group": [{"id": 1}]},
            {"id": 2, "blackhole": True},
            {"id": 3, "group": [{"id": 98}]},
            {"id": 4, "interface": "wg0", "blackhole": True},
            {"id": 5, "interface": "wg0", "gateway": "fe80::1", "family": "ipv4"},
            {"id": 6, "group": [{"id": 1, "weight": 257}]},
            {"id": 0, "blackhole": True},
        ],
        rules=[{"priority": 1}, {"to": "10.0.0.0/8", "from": "fd00::/8", "priority": 1}],
    )
    with pytest.raises(EdgewireError) as caught:
        desired_from_params(bad)
    for part in (
        "table 254",
        "protocol 4",
        "has host bits set",
        "needs an interface, a gateway, or both",
        "different families",
        "neither interface nor gateway",
        "route 10.8.0.0/16 metric 0 is there twice",
        "needs 'to' or 'from', of one family",
        "next_hops take the place of interface and gateway",
        "needs an interface or a gateway",
        "the kernel wants one in IPv6",
        "weight is 1 to 256",
        "a next hop is there twice",
        "nexthop 99 is not among the nexthops",
        "a nexthop takes the place of",
        "nexthop 1 is not of its family",
        "nexthop 2 is there twice",
        "98 is none of the nexthops that a group can have",
        "needs one of interface, blackhole and group",
        "gateway is not of this family",
        "a member's weight is 1 to 256",
        "id is not 1 to 4294967295",
    ):
        assert part in str(caught.value)
