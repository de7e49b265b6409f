#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `edgewire.fleet.routes`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: routes
short_description: Make a routing table and the rules to it what the plan says
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Compares the routes of one table, and the policy rules that lead to it, with the kernel, IPv4 and
    IPv6, and changes only what differs.
  - Ownership is by protocol number. Only routes in O(table) with O(protocol), and rules with
    O(protocol) that lead to O(table) or to a table named in O(rules), are changed or removed.
  - A route of another protocol with the same destination and metric is an error; it is not replaced.
options:
  table:
    description: The table, one that nothing else uses.
    type: int
    default: 7700
  protocol:
    description: The protocol number that marks what is ours, V(5) to V(255).
    type: int
    default: 158
  state:
    description:
      - V(absent) removes all routes and rules that are ours.
      - V(rendered) touches nothing, not even to look, and returns the options as configuration files,
        see RV(rendered).
      - V(gathered) returns what the kernel has of ours as options of this module, see RV(gathered).
        Given back with O(state=present), they change nothing.
    type: str
    choices: [present, absent, rendered, gathered]
    default: present
  announce:
    description:
      - Whether to tell others on the host what is ours, or with O(state=absent) to take that back.
        C(/etc/systemd/networkd.conf.d/edgewire.conf) makes systemd-networkd leave routes and rules
        alone that it did not make; one that runs and has not read this is restarted.
        C(/etc/iproute2/rt_protos.d/edgewire.conf) gives O(protocol) the name C(edgewire).
    type: bool
    default: false
  show_foreign:
    description: Whether to return RV(foreign). They are never changed.
    type: bool
    default: false
  rules:
    description: All rules that lead to the table. Each needs C(to) or C(from).
    type: list
    elements: dict
    default: []
    suboptions:
      to:
        description: Destination prefix.
        type: str
      from:
        description: Source prefix.
        type: str
      priority:
        description: The rule's priority; lower ones are looked at first.
        type: int
        required: true
      table:
        description: The table it leads to; the module's own by default.
        type: int
  routes:
    description: All routes of the table. Destination and metric together are unique.
    type: list
    elements: dict
    default: []
    suboptions:
      destination:
        description: Prefix; the family follows from it.
        type: str
        required: true
      type:
        description: A V(unicast) route needs an interface, a gateway or both; the others neither.
        type: str
        choices: [unicast, blackhole, unreachable, prohibit]
        default: unicast
      interface:
        description: Interface that packets leave by.
        type: str
      gateway:
        description: Next hop, of the destination's family.
        type: str
      next_hops:
        description:
          - Several ways (ECMP), in place of O(routes[].interface) and O(routes[].gateway). Order does
            not matter.
        type: list
        elements: dict
        default: []
        suboptions:
          interface:
            description: Interface that packets leave by.
            type: str
          gateway:
            description: Next hop, of the destination's family; the kernel wants one in IPv6.
            type: str
          weight:
            description: Share of the flows, V(1) to V(256).
            type: int
            default: 1
      metric:
        description: Metric; by default 0 for IPv4 and 1024 for IPv6, as the kernel has it.
        type: int
extends_documentation_fragment:
  - edgewire.fleet.guarded
attributes:
  check_mode:
    support: full
    description:
      - Changes nothing and says exactly what would change. A route over an interface that does not
        exist yet is shown as one to add.
  diff_mode:
    support: full
    description: Shows the steps.
  platform:
    support: full
    platforms: linux
    description: Where it runs; Linux 4.20 or later.
requirements:
  - pyroute2 (Debian package C(python3-pyroute2))
seealso:
  - module: edgewire.fleet.wireguard
"""

EXAMPLES = r"""
- name: What the host's plan says
  edgewire.fleet.routes: "{{ plan.routes }}"

- name: The overlay goes to wg0, relay addresses to nobody
  edgewire.fleet.routes:
    table: 7700
    rules:
      - {to: 100.64.0.0/11, priority: 7700}
      - {to: 100.96.0.0/11, priority: 7700}
    routes:
      - {destination: 100.64.0.0/11, interface: wg0}
      - {destination: 100.96.0.0/11, type: blackhole}

- name: Two ways, and what others have in the table
  edgewire.fleet.routes:
    table: 7700
    routes:
      - destination: 198.51.100.0/24
        metric: 10
        next_hops:
          - {gateway: 192.0.2.1}
          - {interface: wg0, weight: 2}
    show_foreign: true
"""

RETURN = r"""
rendered:
  description:
    - Files by path, for C(ip -4 -batch) and C(ip -6 -batch), and for systemd-networkd. There are
      routes that the latter cannot have; they are comments.
  returned: O(state=rendered)
  type: dict
  sample:
    /etc/edgewire/routes-7700.ipv4: "route add blackhole 100.96.0.0/11 table 7700 proto 158\n"
gathered:
  description: What carries O(protocol), in O(table) or by rules, as options.
  returned: O(state=gathered)
  type: dict
not_gathered:
  description: What carries O(protocol) and no option can say; O(state=present) would remove it.
  returned: O(state=gathered)
  type: list
  elements: str
foreign:
  description: Routes of other protocols in O(table), and rules of other protocols that lead to it.
  returned: O(show_foreign=true)
  type: list
  elements: dict
  sample:
    - {kind: route, protocol: 4, destination: 10.0.0.0/8, metric: 0, type: blackhole, interface: null,
       gateway: null}
guard:
  description: The lock-out guard that was armed and confirmed; V(null) where nothing was guarded.
  returned: O(state=present), O(state=absent)
  type: dict
  sample: {name: routes-7700, id: 5f0c2a9d4be81c07, seconds: 60}
steps:
  description: What changed, or would change; verb, kind, name, before, after.
  returned: O(state=present), O(state=absent)
  type: list
  elements: dict
  sample:
    - verb: add
      kind: route
      name: 100.96.0.0/11 metric 0
      before: null
      after: {type: blackhole, interface: null, gateway: null}
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.guard import Guard
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import ROUTE_TYPES
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of

RULE = {
    "to": {"type": "str"},
    "from": {"type": "str"},
    "priority": {"type": "int", "required": True},
    "table": {"type": "int"},
}
NEXT_HOP = {
    "interface": {"type": "str"},
    "gateway": {"type": "str"},
    "weight": {"type": "int", "default": 1},
}
ROUTE = {
    "destination": {"type": "str", "required": True},
    "type": {"type": "str", "choices": list(ROUTE_TYPES), "default": "unicast"},
    "interface": {"type": "str"},
    "gateway": {"type": "str"},
    "next_hops": {"type": "list", "elements": "dict", "default": [], "options": NEXT_HOP},
    "metric": {"type": "int"},
}
ARGUMENTS = {
    "table": {"type": "int", "default": 7700},
    "protocol": {"type": "int", "default": 158},
    "state": {"type": "str", "choices": ["present", "absent", "rendered", "gathered"], "default": "present"},
    "announce": {"type": "bool", "default": False},
    "show_foreign": {"type": "bool", "default": False},
    "guard_seconds": {"type": "int", "default": 0},
    "rules": {"type": "list", "elements": "dict", "default": [], "options": RULE},
    "routes": {"type": "list", "elements": "dict", "default": [], "options": ROUTE},
}


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Converge the table and its rules, or only tell of them; the module's result."""
    if params["state"] == "rendered":
        return {"changed": False, "rendered": backend.rendered(params)}
    more = {"foreign": backend.foreign(params)} if params["show_foreign"] else {}
    if params["state"] == "gathered":
        options, left = backend.gathered(params)
        return {"changed": False, "gathered": options, "not_gathered": left, **more}
    guard = Guard("routes", params["table"], params["guard_seconds"])
    steps = backend.apply(params, check_mode, absent=params["state"] == "absent", guard=guard)
    return result_of(steps, f"table {params['table']}", guard=guard.shown, **more)


def main() -> None:
    """Run the module."""
    run_module(ARGUMENTS, work, libraries=("pyroute2",), exclusive=True)


if __name__ == "__main__":
    main()
