# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``routes``, which are those of module_utils/routes/arguments.py."""

from __future__ import annotations


class ModuleDocFragment:
    """A routing table, the rules that lead to it, and how to apply them."""

    DOCUMENTATION = r"""
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
  nexthops:
    description:
      - All nexthop objects with O(protocol), for routes to share (Linux 5.3). They belong to the host and
        not to a table, so two tables with such objects need a protocol number each. One that anything
        outside O(table) uses is not removed, as the kernel would remove the user along with it.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: The object's number, unique on the host.
        type: int
        required: true
      interface:
        description: Interface that packets leave by.
        type: str
      gateway:
        description: Next hop behind O(nexthops[].interface).
        type: str
      blackhole:
        description: Whether packets are dropped.
        type: bool
        default: false
      family:
        description: Follows from O(nexthops[].gateway); without one V(ipv4) by default.
        type: str
        choices: [ipv4, ipv6]
      group:
        description: Several ways by weight; members are other objects of the list, and no groups.
        type: list
        elements: dict
        default: []
        suboptions:
          id:
            description: The member.
            type: int
            required: true
          weight:
            description: Share of the flows, V(1) to V(256).
            type: int
            default: 1
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
      nexthop:
        description: One of O(nexthops), in place of interface, gateway and O(routes[].next_hops).
        type: int
      metric:
        description: Metric; by default 0 for IPv4 and 1024 for IPv6, as the kernel has it.
        type: int
"""
