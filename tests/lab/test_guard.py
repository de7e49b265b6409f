# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock-out guard on real boxes: a change that cuts the controller off, and runs that are aborted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .support import FLEET, kill_all, recap, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

TABLE = 7799
RECORD = f"/run/edgewire/guard/routes-{TABLE}.json"
EDGE1_OVERLAY, WORKER1_UNDERLAY = "100.64.0.1", "192.0.2.21"
HARMLESS = [{"destination": "198.18.99.0/24", "type": "blackhole"}]


def options(seconds: int, **more: Any) -> str:
    """Arguments of `routes` for a table that only this test uses."""
    return json.dumps({"table": TABLE, "protocol": 159, "guard_seconds": seconds, **more})


def table(lab: Lab) -> str:
    return lab.run("edge1", "ip", "route", "show", "table", str(TABLE), check=False).stdout.strip()


def state(lab: Lab) -> str | None:
    said = lab.run("edge1", "cat", RECORD, check=False)
    return str(json.loads(said.stdout)["state"]) if said.returncode == 0 else None


def endpoints(lab: Lab) -> str:
    """Where edge1 has its peers."""
    return lab.run("edge1", "wg", "show", "wg0", "endpoints").stdout


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    yield
    lab.ansible("edge1", "edgewire.fleet.routes", "-a", options(0, state="absent"))
    assert lab.run("edge1", "ls", "/run/edgewire/guard").stdout == ""
    until(lambda: lab.run("edge1", "pgrep", "-x", "edgewire-guard", check=False).returncode == 1)


def abort(lab: Lab, seconds: int) -> None:
    """A run that dies between its change and the confirmation."""
    command = ["ansible", "edge1", "-i", "inventories/lab", "-m", "edgewire.fleet.routes"]
    wanted = options(seconds, routes=HARMLESS)
    with subprocess.Popen(
        [lab.root / ".venv/bin" / command[0], *command[1:], "-a", wanted],
        cwd=lab.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        lab.run("edge1", "sh", "-c", f"until [ -e {RECORD} ]; do sleep 0.02; done")
        kill_all(run.pid)
    assert state(lab) == "armed"


def test_a_change_that_cuts_the_controller_off_is_taken_back(lab: Lab) -> None:
    controller = lab.run("edge1", "sh", "-c", "ss -Htn state established '( sport = :22 )' | head -n 1").stdout
    address = controller.split()[3].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:")
    swallow = {
        "rules": [{"to": f"{address}/32", "priority": 99}],
        "routes": [{"destination": f"{address}/32", "type": "blackhole"}],
    }
    run = lab.ansible("edge1", "edgewire.fleet.routes", "-a", options(8, **swallow), check=False)
    assert run.returncode != 0
    # Either the task was still waiting and tells, or SSH gave the connection up before.
    assert "the change was rolled back: " in run.stdout or "UNREACHABLE" in run.stdout, run.stdout + run.stderr
    until(lambda: state(lab) in ("fired", None))
    assert table(lab) == ""
    assert f"to {address}" not in lab.run("edge1", "ip", "rule").stdout
    assert "SUCCESS" in lab.ansible("edge1", "ansible.builtin.ping").stdout
    assert "no new connection in time; rollback fired" in lab.run("edge1", "journalctl", "-t", "edgewire").stdout


def test_an_aborted_run_rolls_back_and_the_next_one_says_so(lab: Lab) -> None:
    abort(lab, seconds=10)
    assert "198.18.99.0/24" in table(lab)
    until(lambda: state(lab) == "fired")
    assert table(lab) == ""
    again = lab.ansible("edge1", "edgewire.fleet.routes", "-a", options(60, routes=HARMLESS), "--diff").stdout
    assert f'guard routes-{TABLE}: {{"state": "fired"' in again
    assert "198.18.99.0/24" in table(lab)
    assert state(lab) is None  # confirmed


def test_a_run_right_after_an_aborted_one_takes_its_guard_over(lab: Lab) -> None:
    abort(lab, seconds=600)
    assert lab.run("edge1", "pgrep", "-x", "edgewire-guard").stdout
    # It hangs on no session: neither on the one it came from, nor on the SSH server.
    scopes = lab.run("edge1", "systemctl", "list-units", "--no-legend", "edgewire-guard-*.scope").stdout
    assert "running" in scopes
    again = lab.ansible("edge1", "edgewire.fleet.routes", "-a", options(600, routes=HARMLESS), "--diff").stdout
    assert f'guard routes-{TABLE}: {{"state": "armed"}}' in again
    assert state(lab) is None  # confirmed
    assert "198.18.99.0/24" in table(lab)
    last = lab.ansible("edge1", "edgewire.fleet.routes", "-a", options(600, routes=HARMLESS)).stdout
    assert "SUCCESS" in last  # nothing changed


def test_site_confirms_what_it_changes(lab: Lab) -> None:
    """A port that has wandered off, and edge1 has followed: when the port is back, edge1 follows without waiting."""
    lab.run("worker1", "wg", "set", "wg0", "listen-port", "51821")
    lab.run("worker1", "ping", "-n", "-c", "1", "-W", "2", EDGE1_OVERLAY)
    assert f"{WORKER1_UNDERLAY}:51821" in endpoints(lab)
    lab.run("edge1", "ip", "route", "del", "100.64.0.0/11", "table", "7700")
    counts = recap(lab.playbook("edgewire.fleet.site").stdout)
    assert {host: row["changed"] for host, row in counts.items()} == {
        **dict.fromkeys(FLEET, 0),
        "edge1": 1,
        "worker1": 1,
    }
    assert f"{WORKER1_UNDERLAY}:51820" in endpoints(lab)
    for box in ("edge1", "worker1"):
        assert lab.run(box, "ls", "/run/edgewire/guard").stdout == ""
