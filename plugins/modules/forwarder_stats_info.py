#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: forwarder_stats_info
short_description: Show what the forwarder has relayed and dropped
version_added: 0.1.0
description:
  - Reads the counters of the programs that run on this host. On an edge, packets and bytes each way for each service and each
    of its backends; on a worker, for each endpoint; on both, dropped packets by reason.
  - Bytes are those of IP packets as clients and containers see them, without link layer and relay option.
  - Everything but names comes from the kernel. Names are those of the plan that the host was last given; what that does not
    know has none.
requirements:
  - python3-bpfcc (libbpf 1.x)
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
  - edgewire.fleet.attributes.reads
options:
  interval:
    description: Seconds between two readings. Their difference is returned as rates per second; with 0 there is one reading.
    type: float
    default: 0
  every_reason:
    description: Whether reasons for which nothing was dropped are returned too, and events that there were none of.
    type: bool
    default: false
seealso:
  - module: edgewire.fleet.forwarder_map_info
  - module: edgewire.fleet.forwarder_metrics
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Show what edge1 relays and drops, and how much of it in a second
  edgewire.fleet.forwarder_stats_info:
    interval: 1
  register: forwarder

# The same for one host, from the shell:
# ansible edge1 -i inventories/lab -m edgewire.fleet.forwarder_stats_info -a interval=1
"""

RETURN = r"""
edge:
  description:
    - The edge's counters; null where the edge's programs do not run on this host.
    - In is what came from clients, out what went to them. A service's counters include those of backends that it has no more.
    - The key C(filter) has the packets that the filter of the services of this name refused, by reason, since it was last changed;
      null where there is none.
    - The keys C(rates) and C(rate), per second, are there with O(interval) only.
    - The keys C(fragments) of RV(edge) and RV(worker) count IP fragments that came before their datagram's first one and were
      held, and those of them that went on when it came; the others were lost.
    - The keys C(events) of RV(edge) and RV(worker) count what is off the plain way and no drop, such as flows that move while a service
      drains, pings answered, ICMP errors sent or taken on, and those not sent because there were too many.
  returned: success
  type: dict
  sample:
    services:
      - name: dns
        vip: 203.0.113.53
        ports: "53"
        protocol: udp
        counters: {in_packets: 12, in_bytes: 816, out_packets: 12, out_bytes: 1104}
        rates: {in_packets: 1.0, in_bytes: 68.0, out_packets: 1.0, out_bytes: 92.0}
        backends:
          - worker: worker1
            worker_relay_address: 100.96.0.3
            endpoint_id: 2771406
            counters: {in_packets: 7, in_bytes: 476, out_packets: 7, out_bytes: 644}
            rates: {in_packets: 1.0, in_bytes: 68.0, out_packets: 1.0, out_bytes: 92.0}
        filter:
          counters: {source_denied: 3, source_rate: 0, service_rate: 0}
          rates: {source_denied: 0.0, source_rate: 0.0, service_rate: 0.0}
    fragments: {held: 4, released: 4}
    drops:
      - {reason: ttl_expired, explanation: time to live used up, packets: 1, rate: 0.0}
    events:
      - {event: moved, explanation: "returned by a draining backend, and sent on to the flow's new one", packets: 2, rate: 0.0}
worker:
  description:
    - The worker's counters; null where the worker's programs do not run on this host.
    - In is what came from edges, out what went to them.
  returned: success
  type: dict
  sample:
    endpoints:
      - endpoint_id: 2771406
        service: dns
        vip: 203.0.113.53
        ports: "53"
        protocol: udp
        container_address: 10.88.0.53
        container_port: 53
        counters: {in_packets: 12, in_bytes: 816, out_packets: 12, out_bytes: 1104}
        rates: {in_packets: 1.0, in_bytes: 68.0, out_packets: 1.0, out_bytes: 92.0}
    fragments: {held: 0, released: 0}
    drops: []
    events: []
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import statistics
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read both roles' counters."""
    if not 0 <= params["interval"] <= 3600:
        raise EdgewireError(f"interval: {params['interval']} is not between 0 and 3600 seconds")
    return {"changed": False, **statistics.gather(params["interval"], every_reason=params["every_reason"])}


def main() -> None:
    """Module entry point."""
    run_module(
        {"interval": {"type": "float", "default": 0}, "every_reason": {"type": "bool", "default": False}},
        work,
    )


if __name__ == "__main__":
    main()
