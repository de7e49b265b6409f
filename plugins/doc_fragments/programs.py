# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that load or judge the programs document alike."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/bpf/options.py: CAPACITY_SPEC and SOURCES_SPEC; HOOKS is the rest of PROGRAMS_SPEC."""

    DOCUMENTATION = r"""
options:
  capacity:
    description: How many entries the maps hold. A change loads the programs again.
    type: dict
    default: {}
    suboptions:
      services:
        description: Pairs of VIP and port, of each address family. For edges.
        type: int
        default: 16384
      ranges:
        description: Prefixes that ranges of ports are cut into, at most 30 a range, of each address family. For edges.
        type: int
        default: 16384
      backends:
        description: Endpoints, that is VIP, ports and backend.
        type: int
        default: 65536
      lut:
        description:
          - Words of 4 bytes for all services' tables together. A table of 4096 slots takes 130 for two backends, 514 at most
            to 16, and 1024 and one for each backend to 256; twice as many while a service drains or its table changes. A
            service of one backend takes one word. For edges.
        type: int
        default: 4194304
      workers:
        description: Workers that an edge knows. For edges.
        type: int
        default: 4096
      filters:
        description: Services with a filter, those that a change replaces included. For edges.
        type: int
        default: 4096
      sources:
        description:
          - Networks in all lists of sources together, of each address family; a list that changes counts twice
            meanwhile. Memory is taken as they come. For edges.
        type: int
        default: 1048576
      rated_sources:
        description:
          - Sources that the rates per source tell apart; beyond, the one not heard of for longest is forgotten. For
            edges.
        type: int
        default: 131072
      vips:
        description: VIPs, of both address families together. For edges.
        type: int
        default: 16384
      moved:
        description: Flows that moved while their service drains; the least recently used is forgotten. For edges.
        type: int
        default: 65536
      edges:
        description: Relay addresses of edges that a worker knows. For workers.
        type: int
        default: 4096
      flows:
        description: Flows whose way back a worker remembers; the least recently used goes first. For workers.
        type: int
        default: 262144
      fragments:
        description:
          - Datagrams in fragments whose way is remembered, so that later fragments follow the first one; the least
            recently used goes first.
        type: int
        default: 16384
      held_fragments:
        description:
          - Fragments, 1.6 kB each, that wait for the first one of their datagram; the least recently used goes first.
        type: int
        default: 1024
  sources:
    description: The BPF sources by role. Set by the action plugin from the collection that the controller has.
    type: dict
"""

    HOOKS = r"""
description:
  - Before anything is touched the module looks for what would go wrong (kernel, headers, memory, bpffs, driver, MTU)
    and names it all in one error.
  - A newer build takes over under traffic. Where the layout is the same it uses the very maps of the running programs;
    else their contents are carried over by field name. Probe packets go through the new programs before the swap and
    through the live ones after it; if one comes out wrong, the previous programs and maps are back before the module
    fails, and the error shows the packet.
  - The build that was replaced is kept for M(edgewire.fleet.forwarder_rollback).
  - A hook that holds a program of somebody else is not taken over; the module fails and says who holds it.
  - Programs of this collection on other interfaces, as a change of the inventory leaves them, are removed.
options:
  state:
    description: V(absent) detaches the programs and removes the pins and builds of this collection, nothing else.
    type: str
    choices: [present, absent]
    default: present
  contents:
    description:
      - The host's C(edge) or C(worker) object of the plan. Written into new maps before packets meet them, where what
        the running maps say cannot be carried over whole. M(edgewire.fleet.forwarder_map) does the rest.
      - As JSON. A dictionary is turned into that; the filter C(to_json) costs much less with thousands of services.
    type: json
  force:
    description:
      - Take a hook from whoever holds it. Their program is detached first, so the hook is empty for a moment.
      - Also lets new maps start empty where contents cannot be carried over and none are given.
    type: bool
    default: false
  alone:
    description: Whether programs of the collection's other role, left by a host that changed its group, are removed.
    type: bool
    default: true
"""
