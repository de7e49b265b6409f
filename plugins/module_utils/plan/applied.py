# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan that a box was last given: which one it is, and putting another in its place.

A plan says nothing of its age: it has no time in it, and a counter would be one controller's own. What can be known is
which plan a run has seen on the box before it planned. So a plan takes the place of that one and of no other: whoever
comes with a plan that was made before the box was given another one is refused, be it a second controller or a file
of last week.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import digest
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step

NONE = "none"  # in place of a hash: the box has no plan
_MODE = 0o644


def identity(plan: Mapping[str, Any] | None) -> str:
    """SHA-256 over what the plan says, however its file is formatted; ``NONE`` for no plan."""
    return NONE if plan is None else digest(json.dumps(plan, sort_keys=True, separators=(",", ":")).encode())


def stored(path: str) -> Mapping[str, Any] | None:
    """The plan in the file; None if there is none, or half of one: then nobody relies on it."""
    try:
        plan = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def give(path: str, plan: Mapping[str, Any], replaces: str | None, force: bool, check_mode: bool) -> list[Step]:
    """Put the plan into the file if it is not there.

    ``replaces`` is the identity of the plan that there was when the run looked, None if it did not
    look. EdgewireError if there is another plan now than that one, unless ``force``.
    """
    have, wanted = identity(stored(path)), identity(plan)
    file = Path(path)
    if have == wanted and file.stat().st_mode & 0o777 == _MODE:
        return []
    if have not in (wanted, NONE, replaces) and not force:
        seen = "this run has not looked which" if replaces is None else f"it had {replaces[:12]} when this run looked"
        raise EdgewireError(
            f"{path}: this host has been given another plan ({have[:12]}; {seen}), and {wanted[:12]} may be older than "
            "that. Nothing was done: run edgewire.fleet.site anew, or, to have this plan, with -e"
            " edgewire_plan_force=true"
        )
    before = None if have == NONE else {"sha256": have}
    if not check_mode:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_if_changed(file, json.dumps(plan, indent=1).encode() + b"\n", mode=_MODE, durable=True)
        file.chmod(_MODE)
    return [make_step("plan", path, before, {"sha256": wanted})]
