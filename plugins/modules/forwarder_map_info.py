#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: forwarder_map_info
short_description: Show what the forwarder's maps say
version_added: 0.1.0
description:
  - Reads the maps of the programs that run on this host and shows services, backends and endpoints in addresses,
    ports and names. What they counted is in M(edgewire.fleet.forwarder_stats_info).
  - Everything but names comes from the kernel. Names are those of the plan that the host was last given; what that does not
    know has none.
requirements:
  - python3-bpfcc (libbpf 1.x)
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
  - edgewire.fleet.attributes.reads
options: {}
seealso:
  - module: edgewire.fleet.forwarder_map
  - module: edgewire.fleet.forwarder_stats_info
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Show what edge1 forwards
  edgewire.fleet.forwarder_map_info:
  register: forwarder

# The same for one host, from the shell:
# ansible edge1 -i inventories/lab -m edgewire.fleet.forwarder_map_info
"""

RETURN = r"""
edge:
  description: The edge's maps; null where the edge's programs do not run on this host.
  returned: success
  type: dict
  sample:
    relay_address: 100.96.0.1
    relay_address_ipv6: fd65:6467:6577:1::1
    uplink: eth0
    reply_interface: eth0
    wireguard_interface: wg0
    services:
      - name: dns
        vip: 203.0.113.53
        ports: "53"
        protocol: udp
        affinity: flow
        oversize: refuse
        table_size: 256
        filter:
          others: denied
          allow: 1
          deny: 0
          list: 4f9c1d1d3a57
          packets_per_second: 50000
          burst: 2500
        backends:
          - {worker: worker1, worker_relay_address: 100.96.0.3, state: live, endpoint_id: 2771406, share: 0.5005}
worker:
  description: The worker's maps; null where the worker's programs do not run on this host.
  returned: success
  type: dict
  sample:
    relay_address: 100.96.0.3
    relay_address_ipv6: fd65:6467:6577:1::3
    wireguard_interface: wg0
    container_interface: podman0
    uplink:
    edges:
      - {name: edge1, relay_address: 100.96.0.1}
    endpoints:
      - endpoint_id: 2771406
        service: dns
        vip: 203.0.113.53
        ports: "53"
        protocol: udp
        container_address: 10.88.0.53
        container_port: 53
        reply: edge
        drain_idle: 60
        oversize: refuse
    moved:
      - endpoint_id: 460609398
        service: echo
        vip: 203.0.113.7
        ports: "7"
        protocol: udp
        moved_to: worker2
        moved_to_relay_address: 100.96.0.4
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import info
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Read both roles' maps."""
    return {"changed": False, "edge": info.info("edge"), "worker": info.info("worker")}


def main() -> None:
    """Module entry point."""
    run_module({}, work)


if __name__ == "__main__":
    main()
