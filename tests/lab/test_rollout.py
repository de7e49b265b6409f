# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roll-outs that go wrong: a box that is off, two controllers, a controller that dies. Each ends with a whole fleet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from .support import FLEET, answer, kill_all, recap, run_after, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]


def start(lab: Lab) -> subprocess.Popen[str]:
    """The site playbook, in a process group of its own; what it prints is for the caller to read."""
    return subprocess.Popen(
        [lab.root / ".venv/bin/ansible-playbook", "-i", "inventories/lab", "edgewire.fleet.site"],
        cwd=lab.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
    )


def peers(lab: Lab, box: str) -> set[str]:
    """The public keys of a box's peers, from the kernel or the daemon."""
    return set(lab.run(box, "wg", "show", "wg0", "peers").stdout.split())


def test_a_box_that_is_off_is_named_and_holds_up_nobody(lab: Lab) -> None:
    before = {edge: peers(lab, edge) for edge in ("edge1", "edge2")}
    lab.run("worker2", "systemctl", "poweroff")
    until(lambda: lab.run("worker2", "true", check=False).returncode == 125, 120)
    try:
        lab.run("edge1", "ip", "route", "del", "100.64.0.0/11", "table", "7700")
        run = lab.playbook("edgewire.fleet.site", check=False)
        assert run.returncode != 0
        counts = recap(run.stdout)
        assert {host: row["unreachable"] for host, row in counts.items()} == {
            **dict.fromkeys(FLEET, 0),
            "worker2": 1,
        }
        assert sum(row["failed"] for row in counts.values()) == 0
        assert {host: row["changed"] for host, row in counts.items() if row["changed"]} == {"edge1": 1}
        assert {edge: peers(lab, edge) for edge in before} == before  # it is only off, not gone
        assert all(len(keys) == 2 for keys in before.values())
        verdict = lab.playbook("edgewire.fleet.verify", check=False)
        assert verdict.returncode != 0
        assert recap(verdict.stdout)["worker2"]["unreachable"] == 1
        assert "edge1 is as planned" in verdict.stdout
    finally:
        lab.labctl("boxes")
        lab.labctl("containers")
    lab.playbook("edgewire.fleet.site")
    lab.playbook("edgewire.fleet.verify")
    assert {edge: peers(lab, edge) for edge in before} == before  # it has kept its key


def test_a_fleet_that_is_as_planned_costs_few_tasks(lab: Lab) -> None:
    """Each costs some 0.4 s of the controller for every host; what it validates and plans by itself is not counted."""
    on_controller = re.compile(r"Validating arguments|Check the inventory|Plan the fleet")
    counted = dict.fromkeys(FLEET, 0)
    for task in re.split(r"^TASK \[", lab.playbook("edgewire.fleet.site").stdout, flags=re.M)[1:]:
        if not on_controller.search(task.partition("]")[0]):
            for host in re.findall(r"^(?:ok|changed): \[(\w+)\]", task, flags=re.M):
                counted[host] += 1
    assert counted == dict.fromkeys(FLEET, 5)


def test_two_controllers_at_once(lab: Lab) -> None:
    """From bare boxes, so that both have everything to do; on each box they take turns."""
    lab.playbook("edgewire.fleet.teardown")
    runs = [start(lab) for _ in range(2)]
    said = [run.communicate(timeout=600)[0] for run in runs]
    for run, text in zip(runs, said, strict=True):
        assert "Traceback" not in text
        assert "MODULE FAILURE" not in text
        assert run.returncode == 0, text
    lab.playbook("edgewire.fleet.verify")
    run_after(lab)
    assert answer(lab) == "198.18.0.80"


def test_a_plan_from_before_another_controller_came_is_refused(lab: Lab) -> None:
    looked = yaml.safe_load(lab.ansible("edge1", "edgewire.fleet.host_plan").stdout.split("=>", 1)[1])
    old = json.loads(lab.run("edge1", "cat", "/etc/edgewire/plan.json").stdout)
    old["wireguard"]["mtu"] = 1400
    lab.playbook("edgewire.fleet.site", "--limit", "edge1", "-e", "edgewire_keepalive=20")  # the other controller
    for seen in ({"replaces": looked["sha256"]}, {}):
        arguments = json.dumps({"plan": old, **seen})
        refused = lab.ansible("edge1", "edgewire.fleet.host_plan", "-a", arguments, check=False)
        assert refused.returncode != 0
        assert "this host has been given another plan" in refused.stdout
    given = json.loads(lab.run("edge1", "cat", "/etc/edgewire/plan.json").stdout)
    assert {peer["persistent_keepalive"] for peer in given["wireguard"]["peers"]} == {20}
    # A run of its own looks anew.
    counts = recap(lab.playbook("edgewire.fleet.site").stdout)
    assert {host for host, row in counts.items() if row["changed"]} == {"edge1"}
    lab.playbook("edgewire.fleet.verify")


@pytest.mark.parametrize(
    ("task", "surely_incomplete"),
    [
        ("Make the WireGuard key on the box", FLEET),
        ("Leave the plan on the box", FLEET),
        ("Attach the delivery programs", ("edge1", "edge2")),  # their turn comes later
        ("Write the services into the forwarder's maps", ()),  # the last task may still get done
    ],
)
def test_a_controller_that_dies(lab: Lab, task: str, surely_incomplete: tuple[str, ...]) -> None:
    """SIGKILL while a task runs on bare boxes. Verify names just those on which the next run finds something to do."""
    lab.playbook("edgewire.fleet.teardown")
    run = start(lab)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("TASK [") and task in line:
            break
    else:
        pytest.fail(f"there is no task {task}")
    time.sleep(0.7)  # into the task: a module takes about a second to get there and do its work
    kill_all(run.pid)
    run.communicate()
    for box in FLEET:  # a machine that dies takes its connections along; ssh's masters, which outlive Ansible, do not
        lab.run(box, "pkill", "-f", "sshd: root@notty", check=False)
    module = "ps -eo comm=,args= | grep -qx 'python3  */usr/bin/python3'"  # not a guard, not a container's
    for box in FLEET:  # what had been started there ends by itself, and holds the lock until then
        until(lambda box=box: lab.run(box, "sh", "-c", module, check=False).returncode == 1, 60)  # type: ignore[misc]

    verdict = lab.playbook("edgewire.fleet.verify", check=False)
    incomplete = {host for host, row in recap(verdict.stdout).items() if row["failed"]}
    assert incomplete >= set(surely_incomplete)
    repaired = lab.playbook("edgewire.fleet.site").stdout
    assert incomplete == {host for host, row in recap(repaired).items() if row["changed"]}, verdict.stdout
    assert (verdict.returncode != 0) == bool(incomplete)
    for host in incomplete:
        assert re.search(rf"{host}: .+: expected .+, found .+", verdict.stdout)
    run_after(lab)
    lab.playbook("edgewire.fleet.verify")
    assert answer(lab) == "198.18.0.80"
