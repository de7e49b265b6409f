# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action base: run the module of the same name on the box, and if it armed the lock-out guard, come back anew.

The change and its confirmation are one task, so that the time between them is that of one host, however many there are.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# How long after the host's deadline to go on trying: the rollback itself, and a connection attempt.
_GRACE_SECONDS = 20
_PAUSE_SECONDS = 1


class GuardedAction(ActionBase):
    """See ``module_utils/guard.py`` for the box's side."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module; after a change that is guarded, confirm it over a new connection."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        guards = result["guards"] if "guards" in result else [result.get("guard")]
        for guard in guards if not result.get("failed") else ():
            answer = self._confirm(guard, task_vars) if guard else {}
            if answer.get("failed"):
                result.update(failed=True, msg=answer.get("msg", "the guard did not answer"))
                break
        return result

    def _confirm(self, guard: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The guard's answer. While there is no way through, and the host may still roll back, go on trying."""
        end = time.monotonic() + guard["seconds"] + _GRACE_SECONDS
        arguments = {"name": guard["name"], "id": guard["id"]}
        while True:
            try:
                if hasattr(self._connection, "reset"):
                    self._connection.reset()
                answer: dict[str, Any] = self._execute_module(
                    module_name="edgewire.fleet.guard", module_args=arguments, task_vars=task_vars
                )
                return answer
            except AnsibleConnectionFailure as error:
                if time.monotonic() > end:
                    raise
                Display().warning(f"after a change the host cannot be reached; it will take the change back: {error}")
                time.sleep(_PAUSE_SECONDS)
