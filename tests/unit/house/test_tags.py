# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tags choose layers: every task bears the one of the layer that it changes."""

from __future__ import annotations

import pytest
from ansible_collections.edgewire.fleet.tests.unit.house.tree import ROOT, Task, tasks_in

# Two more than the layers have: what comes at boot, and packages.
TAGS = {"plan", "wireguard", "routes", "xdp", "maps", "verify", "boot", "packages", "always"}

# Which tags a task may bear that calls the module. `always` stands where a run in parts needs the task, too.
OF_MODULE = {
    "boot_unit": {"boot"},
    "fleet_plan": {"plan", "always"},
    "fleet_report": {"verify"},
    "forwarder_map": {"maps"},
    "host_plan": {"plan", "always"},
    "routes": {"routes"},
    "tc_delivery": {"xdp"},
    "wireguard": {"wireguard"},
    "xdp_forwarder": {"xdp"},
}

# These do one thing as a whole; half of it would be harm. The lab is not part of a fleet.
WHOLE = {"drain.yml", "undrain.yml", "rotate_keys.yml", "rollback.yml", "lab_up.yml", "lab_down.yml"}

# Taken in by a task that bears the tags.
TAKEN_IN = {"roles/mesh/tasks/packages.yml"}

# A checkout may lie in a directory that is called lab, too.
FILES = [
    path
    for path in [*sorted(ROOT.glob("roles/*/tasks/*.yml")), *sorted(ROOT.glob("playbooks/*.yml"))]
    if path.name not in WHOLE
    and "lab" not in path.relative_to(ROOT).parts
    and str(path.relative_to(ROOT)) not in TAKEN_IN
]
TASKS = [task for path in FILES for task in tasks_in(path)]


def test_tasks_were_found() -> None:
    assert {"edgewire.fleet.xdp_forwarder", "edgewire.fleet.fleet_verify"} <= {task.module for task in TASKS}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.file}: {task.name}")
def test_a_task_has_its_tags(task: Task) -> None:
    assert task.name[:1].isupper(), "a task's name is a sentence"
    assert task.tags <= TAGS
    # A role that is imported brings its tasks' own tags along, and `meta` decides about the run as a whole.
    if task.module in {"ansible.builtin.import_role", "ansible.builtin.meta"}:
        return
    assert task.tags, "without a tag, --tags passes it by"
    wanted = OF_MODULE.get(task.module.removeprefix("edgewire.fleet."))
    assert wanted is None or task.tags & wanted
