#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_report
short_description: Show the state of the fleet in a table, and on a page
version_added: 0.1.0
description:
  - Shows what M(edgewire.fleet.fleet_verify) found on the hosts of the play in a table, one row a host - how many layers are as
    planned, drifts, WireGuard sessions by state, probes that came out right, and which layers differ.
  - With O(dest), writes one HTML page, complete by itself, from what M(edgewire.fleet.fleet_verify) found on the hosts of the play - a drawing of
    edges, workers and services with the sessions and backends between them, every difference from the plan, each service with
    its probes, and each host with the layers that were looked at.
  - The page needs no network and has no scripts. It fits a phone, prints, and follows the reader's choice of light or dark.
  - Runs on the controller, once for all hosts of the play. A host without a verdict is shown as not reached.
  - The playbook C(edgewire.fleet.verify) calls it, and has it write the page where V(edgewire_report) names a file.
extends_documentation_fragment:
  - edgewire.fleet.attributes
attributes:
  check_mode:
    support: full
    description: Writes nothing.
  diff_mode:
    support: none
    description: It is a report, and no change to the fleet.
  platform:
    support: full
    description: The controller.
    platforms: posix
options:
  dest:
    description:
      - The file on the controller, replaced if it is there. Its directory must exist. Without it no page is written.
    type: path
  verdict:
    description: The variable in which hosts have what M(edgewire.fleet.fleet_verify) returned.
    type: str
    default: edgewire_verdict
  plan:
    description: The hash of the plans that the hosts were held against, RV(edgewire.fleet.fleet_plan#module:fleet_hash).
    type: str
    default: ""
seealso:
  - module: edgewire.fleet.fleet_verify
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
# As the playbook does:
# ansible-playbook -i inventory edgewire.fleet.verify -e edgewire_report=fleet.html

- name: Hold the host against its plan
  edgewire.fleet.fleet_verify:
    plan: "{{ edgewire_plan }}"
  register: edgewire_verdict

- name: Write the page
  edgewire.fleet.fleet_report:
    dest: /srv/www/fleet.html
    plan: "{{ edgewire_fleet_plan.fleet_hash }}"
"""

RETURN = r"""
table:
  description: The table, line by line.
  returned: success
  type: list
  elements: str
  sample:
    - "host     layers  drifts  up  stale  never  unknown  probes  where"
    - "edge1    8/9     2       2   0      0      0        6/6     edge maps 2"
    - "worker1  8/8     0       2   0      0      0        -"
dest:
  description: The file.
  returned: with O(dest)
  type: str
  sample: /srv/www/fleet.html
headline:
  description: The page's first sentence.
  returned: success
  type: str
  sample: 2 of 40 hosts are not as planned
states:
  description: How many hosts there are of each state, V(ok), V(drift), V(unreached).
  returned: success
  type: dict
  sample: {ok: 38, drift: 2}
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Where the action plugin is not found, say so."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path"},
            "verdict": {"type": "str", "default": "edgewire_verdict"},
            "plan": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.fail_json(
        msg="edgewire.fleet.fleet_report runs on the controller, as an action: call it by its full name in a task"
    )


if __name__ == "__main__":
    main()
