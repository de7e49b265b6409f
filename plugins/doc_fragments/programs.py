# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that load or judge the programs document alike."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of module_utils/bpf/options.py: CAPACITY_SPEC and SOURCES_SPEC."""

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
        description: Slots of all services' Maglev tables together, 4 bytes each. For edges.
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
