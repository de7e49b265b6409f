# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleets for the planner's tests: one by hand, and any that hypothesis thinks of."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

Inventory = dict[str, Any]


def _key_of(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


def _fleet(edges: int = 2, workers: int = 2) -> Inventory:
    edge_names = [f"edge{n}" for n in range(1, edges + 1)]
    worker_names = [f"worker{n}" for n in range(1, workers + 1)]
    return {
        "hosts": {
            name: {"ansible_host": f"192.0.{2 + n // 250}.{1 + n % 250}", "edgewire_id": n + 1}
            for n, name in enumerate(edge_names + worker_names)
        },
        "groups": {"edgewire_edges": edge_names, "edgewire_workers": worker_names},
        "vars": {
            "edgewire_services": [
                {
                    "name": "dns",
                    "vips": ["203.0.113.53"],
                    "ports": [53],
                    "backends": [{"worker": name, "address": "10.88.0.53"} for name in worker_names],
                }
            ]
        },
    }


@st.composite
def _ports(draw: st.DrawFn) -> tuple[Any, list[Any]]:
    """A service's ports as the inventory has them, and what the port of a backend may be."""
    if draw(st.integers(0, 9)) == 0:
        return "all", [None, 1, "1-65535"]
    bounds = sorted(draw(st.lists(st.integers(2000, 60000), min_size=2, max_size=6, unique=True)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    ranges = [(a, draw(st.sampled_from([a, b]))) for a, b in pairs]
    ports = [a if a == b else f"{a}-{b}" for a, b in ranges]
    targets: list[Any] = [None]
    if all(a == b for a, b in ranges):
        targets += [1053, "1053"]
    elif len(ranges) == 1:
        length = ranges[0][1] - ranges[0][0]
        targets += [1053, f"1053-{1053 + length}"]
    return ports, targets


_NETWORKS = ["198.51.100.0/24", "198.51.100.7/32", "0.0.0.0/0", "2001:db8:c::/48", "::/0"]


@st.composite
def _fleets(draw: st.DrawFn) -> Inventory:
    fleet = _fleet(draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    for host in fleet["hosts"].values():
        if draw(st.booleans()):
            # From the name: nine names in two million numbers, and these do not collide.
            del host["edgewire_id"]
        host["edgewire_keepalive"] = draw(st.sampled_from([0, 25]))
        host["edgewire_metrics_file"] = draw(st.sampled_from([None, "/srv/edgewire.prom"]))
    workers = fleet["groups"]["edgewire_workers"]
    services = []
    for number in range(draw(st.integers(0, 4))):
        vips = [f"203.0.113.{10 * number + n}" for n in range(1, 4)]
        vips += [f"2001:db8:{number}::{n}" for n in range(1, 3)]
        vips = draw(st.lists(st.sampled_from(vips), min_size=1, unique=True))
        ports, targets = draw(_ports())
        backends = draw(
            st.lists(
                st.tuples(
                    st.sampled_from(workers),
                    st.integers(2, 9),
                    st.integers(0, 3),
                    st.sampled_from(targets),
                ),
                min_size=1,
                max_size=6,
                unique_by=lambda item: item[:2],
            )
        )
        service = {
            "name": f"service{number}",
            "vips": vips,
            "ports": ports,
            "backends": [
                {
                    "worker": worker,
                    "weight": weight if index else 1,
                    **({} if port is None else {"port": port}),
                    **({"address": f"10.88.{number}.{last}"} if any("." in vip for vip in vips) else {}),
                    **({"address_ipv6": f"fd00:88:{number}::{last}"} if any(":" in vip for vip in vips) else {}),
                }
                for index, (worker, last, weight, port) in enumerate(backends)
            ],
        }
        if affinity := draw(st.sampled_from([None, "flow", "client"])):
            service["affinity"] = affinity
        if sources := draw(st.dictionaries(st.sampled_from(_NETWORKS), st.sampled_from(["allow", "deny"]))):
            service["sources"] = {
                key: [network for network, said in sources.items() if said == key] for key in set(sources.values())
            }
        if rates := draw(st.dictionaries(st.sampled_from(["", "per_source_"]), st.integers(1, 10_000_000))):
            service["limits"] = {f"{prefix}packets_per_second": rate for prefix, rate in rates.items()}
        services.append(service)
    fleet["vars"]["edgewire_services"] = services
    if denied := draw(st.lists(st.sampled_from(_NETWORKS), unique=True)):
        fleet["vars"]["edgewire_deny_sources"] = denied
    return fleet


@pytest.fixture(scope="session")
def key_of() -> Callable[[str], str]:
    """A public key for a name."""
    return _key_of


@pytest.fixture(scope="session")
def make_fleet() -> Callable[..., Inventory]:
    """A plain valid fleet: ``make_fleet(edges, workers)``, pinned ids, one service."""
    return _fleet


@pytest.fixture(scope="session")
def fleets() -> st.SearchStrategy[Inventory]:
    """Any valid fleet."""
    return _fleets()
