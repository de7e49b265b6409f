# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action behind ``fleet_report``: reads all hosts' verdicts once, shows a table, writes a page on the controller."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.inventory import EDGES
from ansible_collections.edgewire.fleet.plugins.plugin_utils.report.model import report_of
from ansible_collections.edgewire.fleet.plugins.plugin_utils.report.page import headline, render
from ansible_collections.edgewire.fleet.plugins.plugin_utils.report.table import table

_ARGUMENTS = {
    "dest": {"type": "path"},
    "verdict": {"type": "str", "default": "edgewire_verdict"},
    "plan": {"type": "str", "default": ""},
}


class ActionModule(ActionBase):
    """Runs on the controller only, once for all hosts of the play."""

    TRANSFERS_FILES = False
    BYPASS_HOST_LOOP = True
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ansible's entry; returns what RETURN in the module's documentation lists."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        hosts = [str(name) for name in variables["ansible_play_hosts_all"]]
        verdicts = {}
        for name in hosts:
            verdict = variables["hostvars"].raw_get(name).get(options["verdict"])
            if isinstance(verdict, Mapping) and "drifts" in verdict:
                verdicts[name] = verdict
        edges = frozenset(str(name) for name in variables["groups"].get(EDGES, ()))
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        report = report_of(hosts, edges, verdicts, when, options["plan"])
        result.update(changed=False, headline=headline(report), states=dict(report.states))
        result.update(table=table(hosts, verdicts), _ansible_verbose_always=True)
        if options["dest"] is None:
            return result
        dest = Path(options["dest"]).absolute()
        result.update(dest=str(dest))
        try:
            # A page about what was found is no change to the fleet, so a run that verifies stays without one.
            if not self._task.check_mode:
                write_if_changed(dest, render(report).encode())
        except OSError as error:
            message = f"{dest}: {error.strerror}. The page is written on the controller, into a directory that exists"
            result.update(failed=True, msg=message)
        return result
