# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host keeps of this collection in files, and how all of it goes: the last step of a teardown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step, result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import LOCK

# Plan and keys; what restores the box at boot, with its records; what guards and probes have left.
DIRECTORIES = ("/etc/edgewire", "/var/lib/edgewire", "/run/edgewire")


def plan(directories: Iterable[str]) -> list[Step]:
    """A step for each of the directories that is there."""
    return [make_step("directory", name, {"present": True}, None) for name in directories if os.path.lexists(name)]


def remove(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the module ``host_remove`` does and returns. Raises OSError where a file system lets nothing go."""
    steps = plan(DIRECTORIES)
    if not check_mode:
        for step in steps:
            # A link to another disk is ours; what it leads to may be shared.
            if Path(step.name).is_symlink():
                Path(step.name).unlink()
            else:
                shutil.rmtree(step.name)
        # The caller holds it; whoever waits for it finds that it is gone and makes another (turns.py). It is no
        # change: every run makes it.
        Path(LOCK).unlink(missing_ok=True)
    return result_of(steps)
