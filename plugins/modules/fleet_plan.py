#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action ``fleet_plan``; the work is in plugins/action/fleet_plan.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_plan
short_description: Compute what every host of the fleet should be, once, on the controller
version_added: 0.1.0
description:
  - Reads the whole inventory once, checks it, and writes one plan a host as a JSON file on the
    controller. The roles read each host's plan and nothing else of the inventory.
  - All hosts in the groups C(edgewire_edges) and C(edgewire_workers) are planned, also those
    outside C(--limit) and those that are down.
  - Bad input is refused before any host is touched and before any file is written, in one message
    that lists everything wrong.
  - Keeps the registry of WireGuard public keys. A key that was once seen stays a peer everywhere;
    keys are added and replaced, never removed. The keys of this run are read from each host's
    registered variable C(edgewire_key) (the result of M(edgewire.fleet.wireguard_key)) and from
    O(public_keys).
  - A host whose key is not known cannot be a peer yet. It is left out of the other hosts' peers,
    its backends get weight 0, and RV(missing_keys) and a warning name it.
  - Variables are read as they apply outside of any play, so the C(vars) of a play or a task and the
    defaults of a role have no effect on the plan.
options:
  plan_dir:
    description:
      - Directory on the controller for the plans. It is made if it does not exist.
      - The default is C(.edgewire/plans) beside the inventory. Ansible does not read hidden
        directories as inventory.
    type: path
  registry:
    description:
      - The registry file, a YAML mapping C(edgewire_public_keys) of hosts to keys.
      - The default is C(group_vars/all/edgewire_public_keys.yml) beside the inventory.
    type: path
  public_keys:
    description: Public keys by host, merged over the registry and over what the hosts returned.
    type: dict
    default: {}
  drain:
    description:
      - Hosts to take out of service. A worker gets no new flows; that an edge's addresses are no longer announced is the
        playbook's business. They stay so in later runs, by the file C(edgewire_drained.yml) beside O(registry).
      - Refused where a service would have no backend left, or the fleet no edge, unless O(drain_force=true).
    type: list
    elements: str
    default: []
  undrain:
    description: Hosts to bring back.
    type: list
    elements: str
    default: []
  drain_force:
    description: Whether hosts are drained although nobody else serves what they serve.
    type: bool
    default: false
extends_documentation_fragment:
  - edgewire.fleet.attributes
attributes:
  check_mode:
    support: full
    description: >-
      Writes the plans to another directory, named like O(plan_dir) with C(-check) behind it, and
      leaves the real plans and the registry alone. A host without a key is then a peer with
      C(public_key) V(null).
  diff_mode:
    support: none
    description: The diff that matters is each host's own, against its kernel.
  platform:
    support: full
    platforms: all
    description: Runs on the controller and needs no connection.
  bypass_host_loop:
    support: none
    description: Use C(run_once).
notes:
  - RV(ignore:changed) is always V(false), since plans are files on the controller that follow from
    the inventory. A new key in the registry is reported as RV(registry_changed).
seealso:
  - module: edgewire.fleet.wireguard_key
  - module: edgewire.fleet.wireguard
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Make or read each host's key
  edgewire.fleet.wireguard_key:
    path: /etc/edgewire/wireguard/wg0.key
  register: edgewire_key

- name: Plan the fleet
  edgewire.fleet.fleet_plan:
  run_once: true
  register: edgewire_fleet_plan

- name: Take this host's plan
  ansible.builtin.set_fact:
    edgewire_plan: >-
      {{ lookup('edgewire.fleet.plan', inventory_hostname, plan_dir=edgewire_fleet_plan.plan_dir,
                fleet_hash=edgewire_fleet_plan.fleet_hash) }}
"""

RETURN = r"""
plan_dir:
  description: >-
    The directory that holds the plans C(HOST.json), in C(parts) what they share, and
    C(manifest.json); in check mode the one for checks. P(edgewire.fleet.plan#lookup) puts a plan
    together.
  returned: success
  type: str
  sample: /srv/fleet/inventory/.edgewire/plans
registry:
  description: The registry file.
  returned: success
  type: str
registry_changed:
  description: Whether the registry was written; in check mode, whether it would be.
  returned: success
  type: bool
drained:
  description: Hosts that are out of service, sorted.
  returned: success
  type: list
  elements: str
drained_changed:
  description: Whether that changed; in check mode, whether it would.
  returned: success
  type: bool
fleet_hash:
  description: >-
    SHA-256 over all plans. The manifest has it as C(fleet), beside each host's hash in C(hosts).
  returned: success
  type: str
hosts:
  description: Number of hosts planned.
  returned: success
  type: int
edges:
  description: Number of edges.
  returned: success
  type: int
workers:
  description: Number of workers.
  returned: success
  type: int
services:
  description: Number of services.
  returned: success
  type: int
written:
  description: Number of plan files whose content changed.
  returned: success
  type: int
removed:
  description: Number of plan files removed, since their hosts left the inventory.
  returned: success
  type: int
missing_keys:
  description: Hosts whose public key is not known, sorted.
  returned: success
  type: list
  elements: str
problems:
  description: Everything wrong with the input, one entry a problem.
  returned: failure
  type: list
  elements: str
  sample: ["service dns, backend 1: worker: 'worker9' is not a host in group edgewire_workers"]
"""

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped,unused-ignore]


def main() -> None:
    """Only reached where the action plugin is not."""
    module = AnsibleModule(
        argument_spec={
            "plan_dir": {"type": "path"},
            "registry": {"type": "path"},
            "public_keys": {"type": "dict", "default": {}},
            "drain": {"type": "list", "elements": "str", "default": []},
            "undrain": {"type": "list", "elements": "str", "default": []},
            "drain_force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.fail_json(
        msg="edgewire.fleet.fleet_plan runs on the controller, as an action: call it by its full name in a task"
    )


if __name__ == "__main__":
    main()
