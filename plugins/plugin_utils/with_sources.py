# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action base: run the module of the same name on the box, with the BPF sources it needs as an argument.

A box then compiles what the controller's collection ships, in one task, with nothing to copy beforehand and nothing
on the box that could be older.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ansible.plugins.action import ActionBase
from ansible_collections.edgewire.fleet.plugins.plugin_utils.bpf_sources import source_of


class SourcesAction(ActionBase):
    """Subclasses name the roles whose sources the module gets, as option ``sources`` (role to text)."""

    roles: ClassVar[tuple[str, ...]] = ()
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Add the sources, then run the module on the box."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        args.setdefault("sources", {role: source_of(role) for role in self.roles})
        result.update(self._execute_module(module_args=args, task_vars=task_vars))
        return result
