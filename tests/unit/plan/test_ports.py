# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Port ranges, what they become in the plan, and the ids of the endpoints."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.endpoints import EndpointKey, assign_endpoint_ids
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import WorkerEndpoint
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.ports import PortRange, mapped, overlaps, port_range
from hypothesis import given
from hypothesis import strategies as st

Inventory = dict[str, Any]
ranges = st.tuples(st.integers(1, 60), st.integers(0, 15)).map(lambda item: PortRange(item[0], sum(item)))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (53, (53, 53)),
        ("53", (53, 53)),
        ("10000-19999", (10000, 19999)),
        (" 10000 - 19999 ", (10000, 19999)),
        ("7-7", (7, 7)),
        ("all", (1, 65535)),
    ],
)
def test_what_a_port_may_be(raw: object, expected: tuple[int, int]) -> None:
    assert port_range(raw) == expected


@pytest.mark.parametrize(
    "raw", [0, 65536, -1, "", "-", "1-", "-1", "2-1", "1-65536", "ALL", "1,2", 1.5, True, None, [1]]
)
def test_what_a_port_may_not_be(raw: object) -> None:
    with pytest.raises(ValueError, match=r"is not a port from 1 to 65535|is a range backwards"):
        port_range(raw)


@given(item=ranges)
def test_a_range_survives_its_text(item: PortRange) -> None:
    assert port_range(str(item)) == item


@given(item=ranges, first=st.integers(1, 65450))
def test_a_range_is_mapped_port_by_port(item: PortRange, first: int) -> None:
    whole = PortRange(first, first + item.length - 1)
    assert mapped([item], PortRange(first, first)) == mapped([item], whole) == {item: whole}
    assert mapped([item], None) == {item: item}


@given(claims=st.lists(st.tuples(ranges, st.integers(0, 3)), max_size=12), exempt=st.booleans())
def test_overlaps_are_found_and_nothing_else(claims: list[tuple[PortRange, int]], exempt: bool) -> None:
    claims = list({(item, number): None for number, item in enumerate(c[0] for c in claims)})  # each its own
    owners = [number % 3 for number in range(len(claims))]

    def clash(a: tuple[PortRange, int], b: tuple[PortRange, int]) -> bool:
        common = a[0].first <= b[0].last and b[0].first <= a[0].last
        return common and not (exempt and owners[a[1]] == owners[b[1]])

    found = list(overlaps(claims, (lambda a, b: owners[a] == owners[b]) if exempt else None))
    assert all(clash(a, b) for a, b in found)
    named = {claim for pair in found for claim in pair}
    ordered = sorted(claims, key=lambda claim: claim[0])
    late = {b for a, b in itertools.combinations(ordered, 2) if clash(a, b)}
    assert late <= named
    assert bool(found) == bool(late)


def test_overlaps_are_found_in_n_log_n() -> None:
    """Quadratic would be 10^10 comparisons, and a pair each time would be as many messages."""
    claims = [(PortRange(number % 65535 + 1, 65535), number) for number in range(100_000)]
    assert len(list(overlaps(claims))) == 99_999


def planned(service: dict[str, Any], make_fleet: Callable[..., Inventory]) -> list[WorkerEndpoint]:
    fleet = make_fleet(1, 1)
    fleet["vars"]["edgewire_services"] = [service]
    worker = plan_fleet(fleet, {}, predict=True).hosts[1].worker
    assert worker is not None
    return sorted(worker.endpoints, key=lambda item: (":" in item.vip, item.port))


@pytest.mark.parametrize(
    ("ports", "port", "expected"),
    [
        ([53], None, [(53, 53, 53)]),
        (53, None, [(53, 53, 53)]),
        ("53-54", None, [(53, 54, 53)]),
        ("all", None, [(1, 65535, 1)]),
        (["all"], 1, [(1, 65535, 1)]),
        ([53], 5353, [(53, 53, 5353)]),
        ([27015, 27016], 7777, [(27015, 27015, 7777), (27016, 27016, 7777)]),
        (["10000-10999"], 20000, [(10000, 10999, 20000)]),
        (["10000-10999"], "20000-20999", [(10000, 10999, 20000)]),
        (["10000-10999"], "64536", [(10000, 10999, 64536)]),
        ([7, "10-19", 30], None, [(7, 7, 7), (10, 19, 10), (30, 30, 30)]),
    ],
)
def test_ports_in_the_plan(
    ports: object, port: object, expected: list[tuple[int, int, int]], make_fleet: Callable[..., Inventory]
) -> None:
    service = {
        "name": "s",
        "vips": ["2001:DB8::0:9", "203.0.113.9"],
        "ports": ports,
        "backends": [{"worker": "worker1", "address": "10.88.0.9", "address_ipv6": "FD00:88::9", "port": port}],
    }
    endpoints = planned(service, make_fleet)
    shape = [(item.vip, item.container_address, item.port, item.last_port, item.container_port) for item in endpoints]
    assert shape == [
        (vip, address, *item)
        for vip, address in (("203.0.113.9", "10.88.0.9"), ("2001:db8::9", "fd00:88::9"))
        for item in expected
    ]


def test_ids_of_single_ports_stay_what_they_were() -> None:
    """Recorded before there were ranges: a fleet that takes the new version keeps its endpoints."""
    recorded = {
        EndpointKey("dns", "203.0.113.53", 53, "worker1", "10.88.0.53", 53, 53): 1_615_150_011,
        EndpointKey("echo", "203.0.113.7", 7, "worker2", "10.88.0.7", 7007, 7): 460_609_398,
    }
    assert assign_endpoint_ids(recorded) == recorded


def test_a_range_has_another_id_than_its_first_port() -> None:
    single = EndpointKey("s", "203.0.113.1", 5, "w", "10.0.0.1", 5, 5)
    keys = [single._replace(last_port=last) for last in (5, 6, 7)]
    assert len(set(assign_endpoint_ids(keys).values())) == 3
