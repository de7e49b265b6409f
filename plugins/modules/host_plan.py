#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.host_plan`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_plan
short_description: Give a host its plan, unless it has been given another one meanwhile
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Keeps on the host the plan that it was last given, and refuses one that may be older.
  - A plan takes the place of the one that the host had when the run looked, before it planned, and of
    no other. So of two controllers at once the one that planned first and comes last is refused, and so
    is a plan file from another day. Going back to an earlier inventory is a new run and not refused.
options:
  path:
    description: Where the plan lies.
    type: path
    default: /etc/edgewire/plan.json
  plan:
    description: The plan, whole. Not given, the module only looks.
    type: dict
  replaces:
    description:
      - What RV(sha256) was when the run looked. Not given, only a host that has no plan takes one that it
        does not have.
    type: str
  force:
    description: Whether to give the plan to the host whatever plan that has.
    type: bool
    default: false
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Writes nothing; refuses what a run would refuse.
  diff_mode:
    support: full
    description: Shows the hashes.
seealso:
  - module: edgewire.fleet.fleet_plan
  - plugin: edgewire.fleet.plan
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Look at the plan that the host has
  edgewire.fleet.host_plan:
  register: before

- name: Give it another one, unless somebody else has
  edgewire.fleet.host_plan:
    plan: "{{ lookup('edgewire.fleet.plan', inventory_hostname, plan_dir=planned.plan_dir) }}"
    replaces: "{{ before.sha256 }}"
"""

RETURN = r"""
sha256:
  description:
    - Which plan the host has now, in check mode would have; SHA-256 of what it says, whatever the file's
      format. V(none) where it has none.
  returned: success
  type: str
steps:
  description: What changed, or would change.
  returned: success
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import applied
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Look, or give the plan; the module's result."""
    path, plan = params["path"], params["plan"]
    if plan is None:
        return result_of([], path, sha256=applied.identity(applied.stored(path)))
    steps = applied.give(path, plan, params["replaces"], params["force"], check_mode)
    return result_of(steps, path, sha256=applied.identity(plan))


def main() -> None:
    """Run the module."""
    run_module(
        {
            "path": {"type": "path", "default": "/etc/edgewire/plan.json"},
            "plan": {"type": "dict"},
            "replaces": {"type": "str"},
            "force": {"type": "bool", "default": False},
        },
        work,
        exclusive=True,
    )


if __name__ == "__main__":
    main()
