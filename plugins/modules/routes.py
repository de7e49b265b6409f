#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.routes`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: routes
short_description: Make a routing table and the rules to it what the plan says
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Compares the routes of one table, the nexthop objects that they share, and the policy rules that lead
    to the table with the kernel, IPv4 and IPv6, and changes only what differs.
  - Ownership is by protocol number. Only routes in O(table) with O(protocol), nexthop objects with
    O(protocol), and rules with O(protocol) that lead to O(table) or to a table named in O(rules), are
    changed or removed.
  - A route of another protocol with the same destination and metric is an error; it is not replaced.
extends_documentation_fragment:
  - edgewire.fleet.routes
  - edgewire.fleet.guarded
  - edgewire.fleet.attributes
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

- name: Routes that one write moves together
  edgewire.fleet.routes:
    table: 7701
    protocol: 159
    nexthops:
      - {id: 1, interface: eth1, gateway: 192.0.2.1}
      - {id: 2, interface: eth2, gateway: 192.0.2.5}
      - {id: 10, group: [{id: 1, weight: 2}, {id: 2}]}
    routes:
      - {destination: 198.51.100.0/24, nexthop: 10}
      - {destination: 203.0.113.0/24, nexthop: 10}

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
    - Files by path, for C(ip -4 -batch), C(ip -6 -batch) and, with groups of nexthops, C(ip -batch), to
      be read in this order; and files for systemd-networkd. There are routes that the latter cannot
      have; they are comments.
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
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import arguments, backend
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of


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
    run_module(arguments.SPEC, work, libraries=("pyroute2",), exclusive=True)


if __name__ == "__main__":
    main()
