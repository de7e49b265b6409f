#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_verify
short_description: Hold a host against its plan
version_added: 0.1.0
description:
  - Compares WireGuard, routes and rules, programs on their hooks, and map contents with the host's plan, all as the kernel has
    them, and what M(edgewire.fleet.boot_unit) leaves on the box, and sends a probe packet for each service through the live XDP program.
  - Reports every difference with its layer, what is expected and what was found. Does not fail on differences; the play decides
    what they mean.
  - Changes nothing, except that each service's counter of packets from clients goes up by one for the probe.
extends_documentation_fragment:
  - edgewire.fleet.programs
  - edgewire.fleet.attributes
  - edgewire.fleet.plan_file
  - edgewire.fleet.attributes.host
  - edgewire.fleet.attributes.reads
requirements:
  - python3-bpfcc (libbpf 1.x), python3-pyroute2
options:
  plan:
    description:
      - The host's plan, as M(edgewire.fleet.fleet_plan) wrote it on the controller, as JSON. A dictionary is turned into that;
        the filter C(to_json) costs much less for a plan of thousands of services.
    type: json
    required: true
  preshared_secret:
    description:
      - The same as given to M(edgewire.fleet.wireguard). Without it, preshared keys that the plan
        asks for and the device has are reported as not known to be right.
    type: str
seealso:
  - module: edgewire.fleet.fleet_plan
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Hold the host against its plan
  edgewire.fleet.fleet_verify:
    plan: "{{ edgewire_plan | to_json }}"
  register: verdict

- name: Stop where something is not as planned
  ansible.builtin.assert:
    that: verdict.drifts | length == 0
"""

RETURN = r"""
drifts:
  description: What is not as the plan says. Empty where all is well.
  returned: success
  type: list
  elements: dict
  sample:
    - layer: edge maps
      kind: service
      name: 203.0.113.53:53/udp
      expected: {name: dns, backends: {"worker1 (2771406)": 1.0}, table: 0d1f63b7c1aa}
      found:
layers:
  description:
    - The layers that were held against the plan, how many drifts each has, and its state, V(ok), V(drift), or V(unreadable) where
      it could not be read.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: wireguard, drifts: 0, state: ok}
    - {name: edge maps, drifts: 1, state: drift}
peers:
  description:
    - WireGuard peers, with the seconds since the last handshake and what these say of the session - V(up), V(stale) (the last
      handshake over 180 s ago), V(never), or V(unknown), where it is too soon after a boot or a new plan to tell, or the clock was
      set back.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: worker1, session: up, handshake_age: 31}
services:
  description: An edge's services, and whether the probe came out V(right), V(wrong), or was V(not sent).
  returned: success
  type: list
  elements: dict
  sample:
    - name: dns
      vip: 203.0.113.53
      port: 53
      last_port: 53
      backends: [{worker: worker1, endpoint_id: 2771406, state: live}]
      probe: right
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import options
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import object_of, run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import layers


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Verify and report."""
    given = {**params, "plan": object_of(params, "plan")}
    return {"changed": False, **layers.verify(given).to_dict()}


def main() -> None:
    """Module entry point."""
    run_module(
        {
            "plan": {"type": "json", "required": True},
            "plan_file": {"type": "path", "default": "/etc/edgewire/plan.json"},
            "preshared_secret": {"type": "str", "no_log": True},
            **options.CAPACITY_SPEC,
            **options.SOURCES_SPEC,
        },
        work,
        libraries=("pyroute2",),
    )


if __name__ == "__main__":
    main()
