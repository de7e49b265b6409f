# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults that only real boxes have: full disks, an edge cut off from a worker, a boot with nothing to load."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from .support import FAMILIES, WORKERS, answer, ask, reboot, run_after, until

if TYPE_CHECKING:
    from .conftest import Lab

PLAN, BOOT = "/etc/edgewire", "/var/lib/edgewire/boot"
BUILDS = "/var/lib/edgewire/builds"
UNIT = "edgewire-restore.service"
# Between edge1 and worker2 on the underlay, both ways.
CUT = """
add table inet edgewire_test
add chain inet edgewire_test in { type filter hook input priority -300; }
add chain inet edgewire_test out { type filter hook output priority -300; }
add rule inet edgewire_test in ip saddr 192.0.2.22 drop
add rule inet edgewire_test in ip6 saddr 2001:db8:a::22 drop
add rule inet edgewire_test out ip daddr 192.0.2.22 drop
add rule inet edgewire_test out ip6 daddr 2001:db8:a::22 drop
"""
HEADERS = "for d in /usr/lib/modules/*; do [ ! -e $d/{0} ] || mv $d/{0} $d/{1}; done"


@pytest.fixture(scope="module")
def no_leftovers(lab: Lab) -> None:
    """Take away what a killed run of these tests has left."""
    lab.run("edge1", "sh", "-c", f"umount {PLAN}; umount {BOOT}; nft delete table inet edgewire_test", check=False)
    lab.run("edge2", "sh", "-c", HEADERS.format("build.away", "build"))


pytestmark = [pytest.mark.lab, pytest.mark.faults, pytest.mark.usefixtures("no_leftovers", "whole_fleet")]


@contextmanager
def full_disk(lab: Lab, box: str, directory: str) -> Iterator[Callable[[], None]]:
    """A file system over a directory that has its files and no room; gives what makes room."""

    def sh(*commands: str) -> None:
        lab.run(box, "sh", "-c", f"set -e; cd /; d={directory}; k=/root/kept; " + "; ".join(commands))

    filled = "cat /dev/zero >$d/filler 2>/dev/null || true"
    sh("rm -rf $k", "cp -a $d $k", "mount -t tmpfs -o size=2m,mode=755 none $d", "cp -a $k/. $d", filled)
    try:
        yield lambda: sh("rm -f $d/filler")
    finally:
        # What was written meanwhile goes on to the disk, as if it had been there all the time.
        sh("rm -rf $k $d/filler", "cp -a $d $k", "umount $d", "rm -rf $d/*", "cp -a $k/. $d", "rm -rf $k")


@pytest.mark.parametrize("directory", [PLAN, BOOT])
def test_a_disk_that_is_full(lab: Lab, directory: str) -> None:
    """The run says so and the old plan is whole, the one that the box was given or the one that it would boot with. The
    box serves meanwhile, and with room the next run does what is left.
    """
    before = lab.run("edge1", "cat", f"{directory}/plan.json").stdout
    change = ("--limit", "edge1", "-e", "edgewire_drop_unserved=true")
    with full_disk(lab, "edge1", directory) as make_room:
        files = lab.run("edge1", "ls", "-A", directory).stdout
        run = lab.playbook("edgewire.fleet.site", *change, check=False)
        assert run.returncode != 0
        assert re.search(rf"{directory}/plan.json: .*[Nn]o space left on device", run.stdout), run.stdout
        assert "Traceback" not in run.stdout
        assert lab.run("edge1", "cat", f"{directory}/plan.json").stdout == before
        assert lab.run("edge1", "ls", "-A", directory).stdout == files
        assert answer(lab) == "198.18.0.80"
        make_room()
        lab.playbook("edgewire.fleet.site", *change)
        run_after(lab, *change)
        assert lab.run("edge1", "cat", f"{directory}/plan.json").stdout != before
    lab.playbook("edgewire.fleet.site", "--limit", "edge1")
    run_after(lab, "--limit", "edge1")
    lab.playbook("edgewire.fleet.verify", "--limit", "edge1")


def test_an_edge_that_is_cut_off_from_one_worker(lab: Lab) -> None:
    """What is not between the two goes on, verify names them, and when they meet again there is nothing to repair."""
    before = {vip: ask(lab, vip, 48_000, 8) for vip in FAMILIES.values()}
    assert all({who for said in flows.values() for who in said} == set(WORKERS) for flows in before.values())
    lab.run("edge1", "nft", "-f", "-", input=CUT)
    try:
        for vip, flows in before.items():
            during = {"worker1": ["worker1"], "worker2": ["lost"]}
            assert ask(lab, vip, 48_000, 8) == {port: during[said[0]] for port, said in flows.items()}
        lab.switch("edge2")
        assert {vip: ask(lab, vip, 48_000, 8) for vip in before} == before, "by the other edge all is as ever"
        lab.switch("edge1")

        # Both forget their session, as if three minutes had passed, and have had their plans for longer than the grace.
        for box, other in (("edge1", "192.0.2.22"), ("worker2", "192.0.2.11")):
            forget = f"wg set wg0 peer $(wg show wg0 endpoints | grep -F {other}: | cut -f 1) remove"
            lab.run(box, "sh", "-c", f"set -e; {forget}; touch -d '10 minutes ago' {PLAN}/plan.json")
        lab.playbook("edgewire.fleet.site")
        run_after(lab)  # there is nothing that a run could repair
        told = lab.playbook("edgewire.fleet.verify").stdout
        lost = dict(re.findall(r"(edge\d|worker\d) .*no session with (\w+)", told))
        assert lost == {"edge1": "worker2", "worker2": "edge1"}, told
    finally:
        lab.switch("edge1")
        lab.run("edge1", "nft", "delete", "table", "inet", "edgewire_test")
    until(lambda: "no session with" not in lab.playbook("edgewire.fleet.verify").stdout, 60)
    assert {vip: ask(lab, vip, 48_000, 8) for vip in before} == before
    run_after(lab)


def test_a_boot_with_nothing_to_load_and_nothing_to_compile(lab: Lab) -> None:
    """A new kernel without its headers, and the kept build lost: the unit fails, says why, and the box serves nothing.
    Once the headers are there it comes back by itself.
    """
    lab.run("edge2", "sh", "-c", HEADERS.format("build", "build.away") + f"; rm -r {BUILDS}")
    try:
        reboot(lab, "edge2")
        assert lab.run("edge2", "systemctl", "is-active", UNIT, check=False).returncode != 0
        said = lab.run("edge2", "journalctl", "--no-pager", "-b", "-u", UNIT).stdout
        assert "this box is not serving" in said
        assert "linux-headers" in said
        assert "edgewire.fleet.site" in said
        assert "edge_xdp" not in lab.run("edge2", "bpftool", "net").stdout
        lab.switch("edge2")
        assert answer(lab) == ""
    finally:
        lab.switch("edge1")
        lab.run("edge2", "sh", "-c", HEADERS.format("build.away", "build"))
    until(lambda: lab.run("edge2", "systemctl", "is-active", UNIT, check=False).returncode == 0, 120)
    run_after(lab)
    lab.playbook("edgewire.fleet.verify")
