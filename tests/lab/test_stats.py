# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the boxes counted, asked for in the way in which an operator asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .support import DNS_VIP, DNS_VIP6, WORKERS, answer, told_by

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]


def dns_of(entries: list[dict[str, Any]], vip: str) -> dict[str, Any]:
    """The one entry of a VIP."""
    (entry,) = [entry for entry in entries if entry["vip"] == vip]
    return entry


def packets(entry: dict[str, Any]) -> tuple[int, int]:
    """In and out."""
    return entry["counters"]["in_packets"], entry["counters"]["out_packets"]


@pytest.mark.parametrize("vip", [DNS_VIP, DNS_VIP6])
def test_edge_and_workers_agree_about_a_services_packets(lab: Lab, vip: str) -> None:
    """Of every backend: what the edge sent to it and got from it is what its worker got and sent."""

    def on_edge() -> dict[str, tuple[int, int]]:
        service = dns_of(told_by(lab, "edge1", "forwarder_stats_info")["edge"]["services"], vip)
        assert service["name"] == "dns"
        found = {backend["worker"]: packets(backend) for backend in service["backends"]}
        return {**found, "all": packets(service)}

    def on_workers() -> dict[str, tuple[int, int]]:
        told = {worker: told_by(lab, worker, "forwarder_stats_info")["worker"]["endpoints"] for worker in WORKERS}
        found = {worker: packets(dns_of(endpoints, vip)) for worker, endpoints in told.items()}
        return {**found, "all": tuple(sum(column) for column in zip(*found.values(), strict=True))}  # type: ignore[dict-item]

    before = on_edge(), on_workers()
    for _ in range(12):
        assert answer(lab, name="whoami.edge.example", kind="TXT", vip=vip)
    after = on_edge(), on_workers()
    grown = [
        {name: tuple(n - o for n, o in zip(now[name], old[name], strict=True)) for name in now}
        for now, old in zip(after, before, strict=True)
    ]
    assert grown[0] == grown[1]
    assert grown[0]["all"] == (12, 12)
    assert set(grown[0]) == {*WORKERS, "all"}


def test_rates_and_every_reason_on_request(lab: Lab) -> None:
    told = told_by(lab, "edge1", "forwarder_stats_info", "-a", "interval=0.2 every_reason=true")
    assert {"counters", "rates"} < set(dns_of(told["edge"]["services"], DNS_VIP))
    assert "no_backend" in {drop["reason"] for drop in told["edge"]["drops"]}
    assert told["worker"] is None
