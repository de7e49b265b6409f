# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One planning session on the controller: registry + inventory → plan files, or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import FleetPlan, plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.registry import (
    check_keys,
    load_registry,
    merge_keys,
    render_registry,
    shadowed_file,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.store import (
    Written,
    locked,
    write_plans,
)


@dataclass(frozen=True)
class Outcome:
    """What a session did; ``plan_dir`` is where the plans are: in check mode not the real ones."""

    plan: FleetPlan
    written: Written
    plan_dir: Path
    registry_changed: bool


def plan_and_store(
    inventory: Mapping[str, Any],
    fresh_keys: Mapping[str, object],
    *,
    registry: Path,
    plan_dir: Path,
    check: bool,
    problems: Problems,
) -> Outcome:
    """Plan the fleet with the registry's keys and ``fresh_keys`` (host → key, just read from the
    hosts), and write it.

    ``check`` writes the plans to ``PLAN_DIR-check``, leaves registry and plans alone, and reports
    ``registry_changed`` as it would be. Raises one EdgewireError that lists everything wrong,
    before anything is written, and OSError.
    """
    if not registry.parent.is_dir():
        shadowed = shadowed_file(registry)
        if shadowed is not None:
            problems.add(
                str(shadowed),
                "",
                f"Ansible would stop reading it once {registry.parent} exists: move it to"
                f" {registry.parent / 'main.yml'}, or set the option registry",
            )
    fresh = check_keys(fresh_keys, "the keys that the hosts returned", problems)
    known = load_registry(registry, problems)
    keys = merge_keys(known, fresh)
    plan = plan_fleet(inventory, keys, predict=check, problems=problems)
    if check:
        target = plan_dir.with_name(f"{plan_dir.name}-check")
        return Outcome(plan, write_plans(target, plan.hosts), target, keys != known)

    with locked(registry.parent):
        # Another controller may have added keys since; planning under the lock instead would make
        # the directory before the input is known to be good.
        again = load_registry(registry, problems)
        problems.raise_if_any()
        if again != known:
            keys = merge_keys(again, fresh)
            plan = plan_fleet(inventory, keys, problems=problems)
        changed = bool(keys) and write_if_changed(registry, render_registry(keys), durable=True)
        return Outcome(plan, write_plans(plan_dir, plan.hosts), plan_dir, changed)
