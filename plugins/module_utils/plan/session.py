# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One planning session on the controller: registry + inventory → plan files, or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import drains
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
    drained: tuple[str, ...]
    drained_changed: bool


def plan_and_store(
    inventory: Mapping[str, Any],
    fresh_keys: Mapping[str, object],
    *,
    registry: Path,
    plan_dir: Path,
    check: bool,
    problems: Problems,
    request: drains.Request = drains.NOTHING,
) -> Outcome:
    """Plan the fleet with the registry's keys and ``fresh_keys`` (host → key, just read from the
    hosts), and write it. Those hosts are out of service that the file beside the registry names (see
    the module ``drains``) or ``request`` asks for.

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
    drained = registry.with_name(drains.FILE)
    known, out = load_registry(registry, problems), drains.load(drained, problems)
    keys = merge_keys(known, fresh)
    plan = plan_fleet({**inventory, "drained": out}, keys, predict=check, request=request, problems=problems)
    names = request.of(out)
    if check:
        target = plan_dir.with_name(f"{plan_dir.name}-check")
        return Outcome(plan, write_plans(target, plan.hosts), target, keys != known, names, names != out)

    with locked(registry.parent):
        # Another controller may have added keys or drained hosts since; planning under the lock instead would make
        # the directory before the input is known to be good.
        again, out_again = load_registry(registry, problems), drains.load(drained, problems)
        problems.raise_if_any()
        if (again, out_again) != (known, out):
            keys, names = merge_keys(again, fresh), request.of(out_again)
            plan = plan_fleet({**inventory, "drained": out_again}, keys, request=request, problems=problems)
        changed = bool(keys) and write_if_changed(registry, render_registry(keys), durable=True)
        moved = drains.store(drained, names)
        return Outcome(plan, write_plans(plan_dir, plan.hosts), plan_dir, changed, names, moved)
