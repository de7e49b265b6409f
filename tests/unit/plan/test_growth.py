# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning grows with the fleet and not with its square: by what is called, which is the same on every machine."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import Renderer
from ansible_collections.edgewire.fleet.tests.bench.bench_fleet import inventory, keys


def calls(hosts: int) -> int:
    """How many functions, Python's own included, are called to plan and render a fleet."""
    fleet = inventory(hosts)
    public, count = keys(fleet), 0

    def counted(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        plan = plan_fleet(fleet, public)
        renderer = Renderer(plan.hosts)
        for host in plan.hosts:
            renderer.render(host)
    finally:
        sys.setprofile(None)
    return count


def test_four_times_the_hosts_are_four_times_the_work() -> None:
    assert calls(1200) < 4.4 * calls(300)
