#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: forwarder_map
short_description: Write what the forwarder's maps shall say
version_added: 0.1.0
description:
  - Compares the maps of the running programs, found through the programs themselves, with what is wanted, and writes the
    difference in batches, in an order in which every packet finds whole entries. What was written is read back.
  - A service's load balancing table (weighted Maglev, the same on every edge) is written to free space and switched to by one
    entry, so that a packet sees the old table or the new one.
  - Everything that does not fit the maps is named in one error, before the first write.
  - The maps belong to this collection; a map is found through a program of this collection that is attached, never by its name.
extends_documentation_fragment:
  - edgewire.fleet.map_contents
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
requirements:
  - python3-bpfcc (libbpf 1.x)
attributes:
  check_mode:
    support: full
    description: Reads the running maps. Where the programs do not run yet, everything is shown as to be added.
  diff_mode:
    support: full
    description: One line for each service, backend, endpoint or edge that changes, in addresses, ports and names.
seealso:
  - module: edgewire.fleet.forwarder_map_info
  - module: edgewire.fleet.forwarder_stats_info
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Write an edge's services
  edgewire.fleet.forwarder_map:
    role: edge
    relay_address: 100.96.0.1
    uplink: eth0
    workers:
      - {name: worker1, relay_address: 100.96.0.3}
    services:
      - name: dns
        vip: 203.0.113.53
        port: 53
        backends:
          - {endpoint_id: 2771406, worker: worker1, weight: 1}

- name: Write a worker's endpoints from its plan
  edgewire.fleet.forwarder_map:
    role: worker
    contents: "{{ edgewire_plan.worker | to_json }}"

- name: Take a service out of an edge, at once and with all its backends
  edgewire.fleet.forwarder_map:
    role: edge
    state: deleted
    services:
      - {name: dns, vip: 203.0.113.53, port: 53}

- name: Keep what runs as it is, as options
  edgewire.fleet.forwarder_map:
    role: edge
    state: gathered
  register: forwarder
"""

RETURN = r"""
steps:
  description: What was changed, or would be in check mode; verb, kind, name, before and after.
  returned: success
  type: list
  elements: dict
  sample:
    - verb: add
      kind: service
      name: 203.0.113.53:53/udp
      before:
      after: {name: dns, backends: {"worker1 (2771406)": 1.0}, table: 0d1f63b7c1aa}
leaving:
  description: Whether anything has stayed that O(keep_leaving=false) would remove.
  returned: with O(keep_leaving=true)
  type: bool
steps_left_out:
  description: How many more steps there were than the 2,000 that are told of, in RV(steps) and in the diff.
  returned: where there were more
  type: int
  sample: 23000
gathered:
  description: What the maps say, as options of this module; null where the programs do not run.
  returned: with O(state=gathered)
  type: dict
  sample:
    role: edge
    relay_address: 100.96.0.1
    services:
      - {name: dns, vip: 203.0.113.53, port: 53, last_port: 53, backends: [{endpoint_id: 2771406, worker: worker1, weight: 1}]}
rendered:
  description: What would be written to empty maps, by map; entries with key and value, or a run of an array's values.
  returned: with O(state=rendered)
  type: dict
  sample:
    ew_lut: [{index: 0, values: [0]}]
    ew_endpoints: [{key: 2771406, value: 0}]
"""

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, keeping
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.options import CONTENTS_SPEC
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, result_of

# To tell of 50,000 steps takes Ansible longer than taking them.
_MOST_STEPS = 2000


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Compare and write the maps of one role, or tell of them."""
    if params["contents"] is None:
        return _work(params["role"], params, params, check_mode)
    try:
        return _work(params["role"], json.loads(params["contents"]), params, check_mode)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"contents are no plan's object for role {params['role']}: {type(error).__name__} {error}"
        raise EdgewireError(told) from error


def _work(role: str, given: Mapping[str, Any], params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    state = params["state"]
    said = {**given, "state": state, "force": params["force"]}
    if state == "gathered":
        return {"changed": False, "gathered": contents.gathered(role, said)}
    if state == "rendered":
        return {"changed": False, "rendered": contents.render(role, said)}
    if state == "overridden" and params["keep_leaving"]:
        steps, leaving = keeping.ensure_keeping(role, said, check_mode)
        return _told(role, steps, leaving=leaving)
    steps = contents.preview(role, said, may_be_missing=True) if check_mode else contents.ensure(role, said)
    return _told(role, steps)


def _told(role: str, steps: list[Step], **more: Any) -> dict[str, Any]:
    left_out = len(steps) - _MOST_STEPS
    if left_out > 0:
        more["steps_left_out"] = left_out
    return result_of(steps[:_MOST_STEPS], f"{role} maps", **more)


def main() -> None:
    """Module entry point."""
    run_module(CONTENTS_SPEC, work, exclusive=True)


if __name__ == "__main__":
    main()
