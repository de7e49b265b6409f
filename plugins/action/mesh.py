# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action part of ``mesh``: confirms a change over a new connection."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.plugins.plugin_utils.guarded import GuardedAction


class ActionModule(GuardedAction):
    """See ``plugins/modules/mesh.py``."""
