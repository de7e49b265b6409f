# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules that could cut a host off document alike."""

from __future__ import annotations


class ModuleDocFragment:
    """The option ``guard_seconds``."""

    DOCUMENTATION = r"""
options:
  guard_seconds:
    description:
      - Arms the lock-out guard before the first change. The host takes the change back after so many
        seconds, unless the controller has reached it anew meanwhile, over a connection that it opens
        after the change; this task does that. V(0) is off.
      - It is for SSH. Over other connections, where a host cannot cut itself off from whoever changes
        it, nothing is armed.
      - What the guard of an earlier run has left, because that run was aborted or the host was cut
        off, is shown as a step and taken over or done away with.
    type: int
    default: 0
"""
