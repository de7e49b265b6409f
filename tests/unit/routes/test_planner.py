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
        self.operations: list[planner.Operation] = []

    def observe(self) -> ObservedRouting:
        return ObservedRouting(tuple(self.routes), dict(self.foreign), tuple(self.rules), self.interfaces)

    def perform(self, operation: planner.Operation) -> None:
        self.operations.append(operation)
        match operation:
            case planner.RouteOperation("add", route):
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
def desired_routings(draw: st.DrawFn) -> DesiredRouting:
    wanted = draw(st.lists(routes, unique_by=lambda route: route.key))
    return DesiredRouting(TABLE, PROTOCOL, tuple(wanted), tuple(draw(st.lists(rules, unique=True, max_size=4))))


@st.composite
def observed_routings(draw: st.DrawFn) -> ObservedRouting:
    have = [FakeKernel._seen(route) for route in draw(st.lists(routes, max_size=6))]
    odd = draw(st.booleans())
    strays = [Rule(4, 1, None, "10.2.0.0/16", TABLE, "fwmark 7")] if odd else []
    return ObservedRouting(
        tuple(dict.fromkeys(have)),  # the kernel takes the same key twice, not the same route
        {RouteKey("172.16.0.0/12", 0): 4},
        (*draw(st.lists(rules, unique=True, max_size=4)), *strays),
        frozenset(INTERFACES),
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
    ):
        assert part in str(caught.value)
