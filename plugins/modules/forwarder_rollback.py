#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: forwarder_rollback
short_description: Put back the programs that ran before the last upgrade
version_added: 0.1.0
description:
  - Replaces the programs of this collection that run on a box by those that they took the place of. The box has kept that
    build, so nothing is compiled, and no packet is lost. Services and counters are those of now.
  - Probe packets go through the programs as at an upgrade; if one comes out wrong, nothing is changed.
  - It goes back one version and no further. Where none is kept, nothing is changed.
  - What the inventory asks for is still the newer build. M(edgewire.fleet.fleet_verify) reports the difference, and the next
    roll-out or reboot goes forward again; install the older version of the collection on the controller to stay.
requirements:
  - libbpf 1.x (Debian package libbpf1), python3-pyroute2
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Says which programs would be put back.
  diff_mode:
    support: full
    description: One line for each hook that changes.
options:
  role:
    description: Whose programs.
    type: str
    choices: [edge, worker]
    required: true
seealso:
  - module: edgewire.fleet.xdp_forwarder
  - module: edgewire.fleet.tc_delivery
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Go back to the forwarder that ran before
  edgewire.fleet.forwarder_rollback:
    role: edge
"""

RETURN = r"""
build:
  description: First 16 hexadecimal digits of the identity of the build that runs now, or would in check mode.
  returned: success
  type: str
  sample: 0d5c1f6a1e4b9c21
replaced:
  description: The same of the build that ran before; equal to RV(build) where there was nothing to go back to.
  returned: success
  type: str
  sample: 5b0d2a7790b1f3ce
steps:
  description: What was changed, or would be in check mode; verb, kind, name, before and after.
  returned: success
  type: list
  elements: dict
  sample:
    - verb: change
      kind: program
      name: edge_xdp on eth0
      before: {hook: XDP native, build: 5b0d2a7790b1f3ce}
      after: {hook: XDP native, build: 0d5c1f6a1e4b9c21}
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import rollback
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Go back one build."""
    role = params["role"]
    done = rollback.roll_back(role, check_mode)
    build, replaced = done.build.hex()[:16], done.replaced.hex()[:16]
    return result_of(done.steps, f"{role} programs", build=build, replaced=replaced)


def main() -> None:
    """Module entry point."""
    run_module(
        {"role": {"type": "str", "choices": ["edge", "worker"], "required": True}},
        work,
        exclusive=True,
    )


if __name__ == "__main__":
    main()
