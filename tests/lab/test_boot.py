# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boxes that reboot while no controller is around: they come back by themselves, or they say why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .support import DNS_VIP, DNS_VIP6, answer, reboot, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

UNIT = "edgewire-restore.service"


def test_boxes_come_back_without_a_controller_and_without_a_compiler(lab: Lab) -> None:
    headers = "for d in /usr/lib/modules/*; do mv $d/{0} $d/{1}; done"
    lab.run("edge1", "sh", "-c", headers.format("build", "build.away"))
    try:
        reboot(lab, "edge1", "worker1", "worker2")
        for box in ("edge1", "worker1", "worker2"):
            # A worker's bridge comes with its containers, which may take longer than the boot.
            until(lambda box=box: lab.run(box, "systemctl", "is-active", UNIT, check=False).returncode == 0, 120)
        lab.labctl("containers")  # waits for those that take longer than the bridge
        for vip in (DNS_VIP, DNS_VIP6):
            assert answer(lab, vip=vip)
        verdict = lab.playbook("edgewire.fleet.verify", check=False)
        assert verdict.returncode == 0, verdict.stdout
    finally:
        lab.run("edge1", "sh", "-c", headers.format("build.away", "build"))


def test_a_box_mends_by_itself_what_a_flapping_link_took_along(lab: Lab) -> None:
    ask = "ip route show table 7700; ip -6 route show table 7700; ip -o addr show dev wg0 scope global"

    def shown() -> list[str]:
        return sorted(lab.run("edge1", "sh", "-c", ask).stdout.splitlines())

    before = shown()
    assert sum("wg0" in line for line in before) == 4
    lab.run("edge1", "sh", "-c", "ip link set wg0 down; ip link set wg0 up")
    until(lambda: shown() == before, 60)
    lab.playbook("edgewire.fleet.verify", "--limit", "edge1")
    assert answer(lab)


def test_a_box_whose_plan_is_damaged_says_so_and_serves_nothing(lab: Lab) -> None:
    lab.run("edge2", "sh", "-c", "echo '{' >/var/lib/edgewire/boot/plan.json")
    reboot(lab, "edge2")
    assert lab.run("edge2", "systemctl", "is-active", UNIT, check=False).returncode != 0
    said = lab.run("edge2", "journalctl", "--no-pager", "-b", "-u", UNIT).stdout
    assert "/var/lib/edgewire/boot/plan.json: damaged" in said
    assert "edgewire.fleet.site" in said
    assert "wg0" not in lab.run("edge2", "ip", "-o", "link").stdout
    assert "edge_xdp" not in lab.run("edge2", "bpftool", "net").stdout
    verdict = lab.playbook("edgewire.fleet.verify", "--limit", "edge2", check=False)
    assert verdict.returncode != 0
    assert "/var/lib/edgewire/boot/plan.json" in verdict.stdout
    lab.playbook("edgewire.fleet.site", "--limit", "edge2")
    lab.playbook("edgewire.fleet.verify", "--limit", "edge2")
