# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make before break: writing maps without taking away what packets on their way still need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


def ensure_keeping(role: str, params: Mapping[str, Any], check_mode: bool) -> tuple[list[Step], bool]:
    """As :func:`contents.ensure`, but what packets on their way need stays, see :func:`states.staying`.

    The steps that were taken, and whether anything has stayed, for a later call of that to remove.
    """
    whole = contents.preview(role, params, may_be_missing=True, remember=not check_mode)
    if not whole:  # nothing is to be removed, and nothing else to be done
        return [], False
    keeping = {**params, "keep_leaving": True}
    steps = contents.preview(role, keeping, may_be_missing=True) if check_mode else contents.ensure(role, keeping)
    return steps, steps != whole
