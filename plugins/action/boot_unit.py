# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action part of ``boot_unit``: hands the BPF sources to the module."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.plugins.plugin_utils.with_sources import SourcesAction


class ActionModule(SourcesAction):
    """See ``plugins/modules/boot_unit.py``."""

    roles = ("edge", "worker")
