# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients' and containers' kernels make of ICMP: pings, path MTU discovery, ports where nobody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .support import (
    ECHO_VIP,
    ECHO_VIP6,
    LARGEST,
    PMTUDISC_DO,
    PMTUDISC_DONT,
    RANGE_VIP,
    RANGE_VIP6,
    told_by,
)

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

RELAY_OPTION_BYTES = {4: 12, 6: 24}


@pytest.fixture(autouse=True)
def _nothing_known_of_paths(lab: Lab) -> None:
    """Kernels remember a path's MTU for ten minutes."""
    for family in ("-4", "-6"):
        lab.run("client1", "ip", family, "route", "flush", "cache")


def fits(lab: Lab, version: int) -> int:
    """The longest IP packet that edge1's WireGuard carries whole with the relay option."""
    return int(lab.run("edge1", "cat", "/sys/class/net/wg0/mtu").stdout) - RELAY_OPTION_BYTES[version]


def events(lab: Lab) -> dict[str, int]:
    """What edge1 counted off the plain way."""
    told = told_by(lab, "edge1", "forwarder_stats_info")["edge"]["events"]
    return {event["event"]: event["packets"] for event in told}


def test_vips_answer_pings(lab: Lab) -> None:
    before = events(lab).get("echo_answered", 0)
    for vip in (ECHO_VIP, ECHO_VIP6):
        lab.run("client1", "ping", "-n", "-c", "1", "-W", "2", vip)
    assert events(lab)["echo_answered"] == before + 2


@pytest.mark.parametrize(("version", "vip"), [(4, ECHO_VIP), (6, ECHO_VIP6)])
def test_a_client_that_forbids_fragments_learns_what_fits(lab: Lab, version: int, vip: str) -> None:
    """As QUIC does. The echo is as long as the request, so the way back carries as much."""
    said = lab.run("client1", "python3", "-c", LARGEST, vip, "7", PMTUDISC_DO).stdout
    assert said == f"{fits(lab, version)}\n"


def test_a_container_learns_what_fits(lab: Lab) -> None:
    """The client's 1,500 bytes may be cut on their way, the container's first echo may not and is refused."""
    said = lab.run("client1", "python3", "-c", LARGEST, ECHO_VIP, "7", PMTUDISC_DONT).stdout
    assert said == "1500\n"


@pytest.mark.parametrize("vip", [RANGE_VIP, RANGE_VIP6])
def test_a_client_hears_that_nobody_listens(lab: Lab, vip: str) -> None:
    """The container of the range listens on three of its ports."""
    assert lab.run("client1", "python3", "-c", LARGEST, vip, "10001", PMTUDISC_DONT).stdout == "ECONNREFUSED\n"
