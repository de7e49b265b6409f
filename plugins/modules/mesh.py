#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.mesh`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mesh
short_description: Give a host its plan, and make WireGuard and routes what it says
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Does what M(edgewire.fleet.host_plan), M(edgewire.fleet.wireguard) and M(edgewire.fleet.routes) do,
    with the same code and in this order, as one task on a host.
  - A plan that may be older than the one that the host has is refused before anything is changed, and so
    are routes that cannot be made.
  - The fleet's WireGuard device is the only one that this collection has on the host. Another that it
    made, under the name that the inventory had before, is removed first.
options:
  plan:
    description: The host's plan, whole, as M(edgewire.fleet.fleet_plan) made it.
    type: dict
    required: true
  replaces:
    description: Which plan the host had when the run looked; see O(edgewire.fleet.host_plan#module:replaces).
    type: str
  force:
    description: Whether to give the plan to the host whatever plan that has.
    type: bool
    default: false
  layers:
    description: What to change besides the plan itself.
    type: list
    elements: str
    choices: [wireguard, routes]
    default: [wireguard, routes]
  keep_unknown_peers:
    description:
      - Whether WireGuard peers that the plan does not know stay for now. RV(unknown_peers) names them. A
        roll-out removes them when no edge sends to them any more.
    type: bool
    default: false
  preshared_secret:
    description: The fleet's secret; see O(edgewire.fleet.wireguard#module:preshared_secret).
    type: str
extends_documentation_fragment:
  - edgewire.fleet.guarded
  - edgewire.fleet.attributes
  - edgewire.fleet.plan_file
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Changes nothing and says exactly what would change.
  diff_mode:
    support: full
    description: Shows the steps; of the plan the hashes, of keys the public half.
requirements:
  - pyroute2 (Debian package C(python3-pyroute2)), wg(8) (C(wireguard-tools))
  - wireguard-go (C(wireguard-go)) where the kernel has no WireGuard
seealso:
  - module: edgewire.fleet.wireguard
  - module: edgewire.fleet.routes
  - module: edgewire.fleet.host_plan
"""

EXAMPLES = r"""
- name: Bring the host's part of the mesh to what the plan says
  edgewire.fleet.mesh:
    plan: "{{ lookup('edgewire.fleet.plan', inventory_hostname, plan_dir=planned.plan_dir) }}"
    replaces: "{{ edgewire_key.plan_sha256 }}"
    guard_seconds: 60
"""

RETURN = r"""
steps:
  description: What changed, or would change; verb, kind, name, before, after.
  returned: success
  type: list
  elements: dict
unknown_peers:
  description: Public keys on the device that the plan does not know and that were left.
  returned: success
  type: list
  elements: str
roamed:
  description: Peers whose endpoint differs and is left alone, with the endpoint where they are.
  returned: success
  type: dict
guards:
  description: The lock-out guards that were armed and confirmed.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: routes-7700, id: 5f0c2a9d4be81c07, seconds: 60}
"""

from ansible_collections.edgewire.fleet.plugins.module_utils import mesh
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module


def main() -> None:
    """Run the module."""
    layers = list(mesh.LAYERS)
    run_module(
        {
            "plan": {"type": "dict", "required": True},
            "plan_file": {"type": "path", "default": "/etc/edgewire/plan.json"},
            "replaces": {"type": "str"},
            "force": {"type": "bool", "default": False},
            "layers": {"type": "list", "elements": "str", "choices": layers, "default": layers},
            "keep_unknown_peers": {"type": "bool", "default": False},
            "preshared_secret": {"type": "str", "no_log": True},
            "guard_seconds": {"type": "int", "default": 0},
        },
        mesh.converge,
        libraries=("pyroute2",),
        exclusive=True,
    )


if __name__ == "__main__":
    main()
