#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: boot_unit
short_description: Have a box restore itself at boot
version_added: 0.1.0
description:
  - Leaves on the box the plan that was just rolled out to it, with the program that applies it and a systemd unit that runs that program at boot. The unit
    brings back WireGuard, routes, programs and map contents with no controller around, through the code that the modules use.
  - The programs come from the build that M(edgewire.fleet.xdp_forwarder) or M(edgewire.fleet.tc_delivery) kept on the box, so
    neither headers nor a compiler are needed. Where the kernel does not take that build, it is compiled anew.
  - Another unit brings back what a link takes along that goes down and up, which are routes and IPv6 addresses. systemd starts
    it when it hears of a link that has come up; nothing runs meanwhile.
  - What cannot be restored fails the unit, which says what to do and tries again every 15 seconds. Nothing is served until then.
    A unit that has failed is started again at once when this module runs.
  - Where the plan has C(metrics), leaves a timer as well that writes the box's counters for Prometheus every so many seconds, which
    M(edgewire.fleet.forwarder_metrics) does once. It runs as soon as it is there. Where the plan has none, a timer that was
    there is removed with the file that it wrote.
  - The secret of preshared keys is not left on the box. The keys of the host's own pairs are, for root alone, as its private
    key is.
extends_documentation_fragment:
  - edgewire.fleet.programs
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
requirements:
  - systemd
attributes:
  check_mode:
    support: full
    description: Says what would change.
  diff_mode:
    support: full
    description: One line for each file and the unit; contents are not shown.
options:
  plan:
    description: The host's plan, as M(edgewire.fleet.fleet_plan) wrote it on the controller. Needed with O(state=present).
    type: dict
  plan_file:
    description:
      - Where M(edgewire.fleet.mesh) or M(edgewire.fleet.host_plan) keeps the plan that was last given. While that is another
        one, nothing is mended after a link's flapping.
    type: path
    default: /etc/edgewire/plan.json
  preshared_secret:
    description: The same as given to M(edgewire.fleet.wireguard). Without it, keys that lie on the box stay as they are.
    type: str
  state:
    description: V(absent) removes plan, keys, programs and units. The box goes on forwarding.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: edgewire.fleet.fleet_verify
  - module: edgewire.fleet.forwarder_metrics
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Restore this box at boot
  edgewire.fleet.boot_unit:
    plan: "{{ edgewire_plan }}"

- name: Leave it alone at boot
  edgewire.fleet.boot_unit:
    state: absent
"""

RETURN = r"""
steps:
  description: What changed, or would change; verb, kind, name, before, after.
  returned: success
  type: list
  elements: dict
  sample:
    - verb: change
      kind: file
      name: /var/lib/edgewire/boot/plan.json
      before: {holds: something else}
      after: {holds: this plan}
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import unit
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import options
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Have everything in place for the next boot, or remove it."""
    return result_of(unit.apply(params, check_mode), "next boot")


def main() -> None:
    """Module entry point."""
    run_module(
        {
            "plan": {"type": "dict"},
            "plan_file": {"type": "path", "default": "/etc/edgewire/plan.json"},
            "preshared_secret": {"type": "str", "no_log": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **options.CAPACITY_SPEC,
            **options.SOURCES_SPEC,
        },
        work,
        exclusive=True,
        required_if=[("state", "present", ("plan",))],
    )


if __name__ == "__main__":
    main()
