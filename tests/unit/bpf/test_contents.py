# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module parameters to desired contents: everything wrong is told at once, before a map is opened."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


def backend(endpoint_id: int, worker: str = "worker1") -> dict[str, Any]:
    return {"endpoint_id": endpoint_id, "worker": worker, "weight": 1}


def edge(*services: tuple[str, int, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    """The ``edge`` object of a plan."""
    return {
        "uplink": "lo",
        "wireguard_interface": "lo",
        "relay_address": "100.96.0.1",
        "workers": [{"name": "worker1", "relay_address": "100.96.0.3"}],
        "services": [{"name": vip, "vip": vip, "port": port, "backends": backends} for vip, port, backends in services],
        **more,
    }


def endpoint(endpoint_id: int, port: int) -> dict[str, Any]:
    return {
        "endpoint_id": endpoint_id,
        "service": "dns",
        "vip": "203.0.113.53",
        "port": port,
        "container_address": "10.88.0.53",
        "container_port": 53,
    }


def worker(*endpoints: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The ``worker`` object of a plan."""
    return {
        "container_interface": "lo",
        "uplink": "lo",
        "wireguard_interface": "lo",
        "relay_address": "100.96.0.3",
        "edges": [{"name": "edge1", "relay_address": "100.96.0.1"}],
        "endpoints": list(endpoints),
        **more,
    }


def test_an_edge() -> None:
    wanted = contents.edge_wanted(edge(("203.0.113.53", 53, [backend(7)])))
    assert (wanted.wireguard_ifindex, wanted.workers) == (1, {"worker1": Relays("100.96.0.3")})
    assert [(s.vip, s.port, [b.endpoint_id for b in s.backends]) for s in wanted.services] == [
        ("203.0.113.53", 53, [7])
    ]


def test_everything_wrong_is_told_at_once() -> None:
    params = edge(
        ("203.0.113.53", 53, [backend(7, "nowhere")]),
        ("203.0.113.53", 53, [backend(8)]),
        ("203.0.113.54", 53, [backend(8)]),
    )
    with pytest.raises(EdgewireError) as caught:
        contents.edge_wanted(params)
    assert "backend on an unknown worker: 203.0.113.53 203.0.113.53:53/udp -> nowhere" in str(caught.value)
    assert "claimed twice: 203.0.113.53:53/udp" in str(caught.value)
    assert "claimed twice: endpoint id 8" in str(caught.value)


def test_ranges_families_and_addresses_are_checked() -> None:
    params = edge(
        ("203.0.113.53", 60, []),
        ("2001:db8::53", 53, [backend(9)]),
        ("203.0.113.999", 1, []),
    )
    params["services"].append({"name": "many", "vip": "203.0.113.53", "port": 50, "last_port": 99, "backends": []})
    params["services"].append({"name": "backwards", "vip": "203.0.113.54", "port": 9, "last_port": 8, "backends": []})
    with pytest.raises(EdgewireError) as caught:
        contents.edge_wanted(params)
    for told in (
        "claimed twice: 203.0.113.53:60/udp by many and 203.0.113.53",
        "worker worker1 has no relay address of the family of [2001:db8::53]:53/udp",
        "'203.0.113.999' is no IP address",
        "service backwards: ports 9 to 8 are no range of ports",
    ):
        assert told in str(caught.value)
    mixed = {**endpoint(7, 53), "container_address": "fd00:88::53"}
    with pytest.raises(EdgewireError, match="differ in family"):
        contents.worker_wanted(worker(mixed))
    with pytest.raises(EdgewireError, match="leaves no room for all its ports"):
        contents.worker_wanted(worker({**endpoint(7, 1), "last_port": 65535, "container_port": 2}))


def test_filters_are_checked() -> None:
    params = edge(("203.0.113.53", 53, [backend(9)]))
    name = params["services"][0]["name"]
    params["filters"] = [
        {"service": name, "allow": ["198.51.100.7/24", "192.0.2.0/24"], "deny": ["192.0.2.0/24"]},
        {"service": name, "packets_per_second": 10_000_001},
        {"service": "other", "per_source_packets_per_second": 1, "per_source_burst": -1},
    ]
    with pytest.raises(EdgewireError) as caught:
        contents.edge_wanted(params)
    for told in (
        f"filter of service {name}: allow: 198.51.100.7/24 has host bits set",
        f"filter of service {name}: 192.0.2.0/24 is both allowed and denied",
        f"filter of service {name}: packets_per_second 10000001, burst 1: from 1 to 10000000",
        "filter of service other: per_source_packets_per_second 1, per_source_burst -1: from 1 to 10000000",
        f"service {name} has 2 filters",
        "filter of an unknown service: other",
    ):
        assert told in str(caught.value)


def test_an_endpoint_id_twice_on_a_worker() -> None:
    with pytest.raises(EdgewireError, match="claimed twice: endpoint id 7"):
        contents.worker_wanted(worker(endpoint(7, 53), endpoint(7, 54)))


def test_an_interface_that_is_missing() -> None:
    with pytest.raises(EdgewireError, match="no such interface: ewt-none0"):
        contents.worker_wanted(worker(wireguard_interface="ewt-none0"))
    wanted = contents.worker_wanted(worker(wireguard_interface="ewt-none0"), may_be_missing=True)
    assert wanted.wireguard_ifindex == 0
