# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service's sources and limits, from the inventory into the edges' plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import EdgeFilter, HostPlan

Inventory = dict[str, Any]


def filters_of(fleet: Inventory, key_of: Callable[[str], str]) -> tuple[EdgeFilter, ...]:
    """The filters in the plan of every edge; they are the same, and come back from its JSON."""
    plans = plan_fleet(fleet, {name: key_of(name) for name in fleet["hosts"]}).hosts
    found = {plan.edge.filters for plan in plans if plan.edge}
    assert found == {plan.edge.filters for plan in (HostPlan.from_dict(plan.to_dict()) for plan in plans) if plan.edge}
    (only,) = found
    return only


def test_a_plain_service_has_no_filter(make_fleet: Callable[..., Inventory], key_of: Callable[[str], str]) -> None:
    assert filters_of(make_fleet(), key_of) == ()


def test_sources_are_in_order_and_bursts_have_a_default(
    make_fleet: Callable[..., Inventory], key_of: Callable[[str], str]
) -> None:
    fleet = make_fleet()
    (dns,) = fleet["vars"]["edgewire_services"]
    dns["sources"] = {"allow": ["2001:db8::/32", "198.51.100.0/24", "10.0.0.0/8"], "deny": ["10.1.0.0/16"]}
    dns["limits"] = {"packets_per_second": 1000, "per_source_packets_per_second": "20"}
    assert filters_of(fleet, key_of) == (
        EdgeFilter(
            service="dns",
            allow=("10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32"),
            deny=("10.1.0.0/16",),
            packets_per_second=1000,
            burst=50,
            per_source_packets_per_second=20,
            per_source_burst=10,
        ),
    )
    dns["limits"] = {"packets_per_second": 1000, "burst": 1}
    (limited,) = filters_of(fleet, key_of)
    assert (limited.burst, limited.per_source_packets_per_second, limited.per_source_burst) == (1, None, None)


def test_sources_denied_everywhere_are_denied_but_where_a_service_names_them(
    make_fleet: Callable[..., Inventory], key_of: Callable[[str], str]
) -> None:
    fleet = make_fleet()
    (dns,) = fleet["vars"]["edgewire_services"]
    fleet["vars"]["edgewire_services"] = [
        dns,
        {**dns, "name": "lan", "ports": [54], "sources": {"allow": ["10.0.0.0/8"]}},
    ]
    fleet["vars"]["edgewire_deny_sources"] = ["192.0.2.0/24", "10.0.0.0/8"]
    assert [(item.service, item.allow, item.deny) for item in filters_of(fleet, key_of)] == [
        ("dns", (), ("10.0.0.0/8", "192.0.2.0/24")),
        ("lan", ("10.0.0.0/8",), ("192.0.2.0/24",)),
    ]


def test_bad_networks_that_are_denied_everywhere(make_fleet: Callable[..., Inventory]) -> None:
    fleet = make_fleet()
    fleet["vars"]["edgewire_deny_sources"] = ["10.0.0.1/8", "10.0.0.0"]
    with pytest.raises(EdgewireError) as raised:
        plan_fleet(fleet, {})
    for wrong in ("10.0.0.1/8 has host bits set", "'10.0.0.0' is not a prefix"):
        assert "the fleet: edgewire_deny_sources: " in str(raised.value)
        assert wrong in str(raised.value)


def test_what_is_no_client_is_denied_where_told_to(
    make_fleet: Callable[..., Inventory], key_of: Callable[[str], str]
) -> None:
    fleet = make_fleet()
    fleet["vars"]["edgewire_deny_spoofed"] = "yes"
    (dns,) = filters_of(fleet, key_of)
    for network in ("127.0.0.0/8", "224.0.0.0/3", "203.0.113.53/32", "100.64.0.0/11", "100.96.0.0/11", "ff00::/8"):
        assert network in dns.deny
    assert dns.allow == ()


def test_a_switch_that_is_neither_on_nor_off(make_fleet: Callable[..., Inventory]) -> None:
    fleet = make_fleet()
    fleet["vars"]["edgewire_deny_spoofed"] = "maybe"
    fleet["hosts"]["edge1"]["edgewire_drop_unserved"] = 1
    with pytest.raises(EdgewireError) as raised:
        plan_fleet(fleet, {})
    assert "the fleet: edgewire_deny_spoofed: 'maybe' is neither true nor false" in str(raised.value)
    assert "edge1: edgewire_drop_unserved: 1 is neither true nor false" in str(raised.value)


def test_dropping_what_no_service_wants_is_an_edges_own_choice(
    make_fleet: Callable[..., Inventory], key_of: Callable[[str], str]
) -> None:
    fleet = make_fleet()
    fleet["hosts"]["edge2"]["edgewire_drop_unserved"] = True
    plans = plan_fleet(fleet, {name: key_of(name) for name in fleet["hosts"]}).hosts
    assert {plan.host: plan.edge.drop_unserved for plan in plans if plan.edge} == {"edge1": False, "edge2": True}
