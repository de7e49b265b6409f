#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: forwarder_capture
short_description: Capture packets that the forwarder drops
version_added: 0.1.0
description:
  - Samples packets that the programs on this host drop, as they are when they are dropped, into a pcapng file. Each packet has a
    comment that names the reason; Wireshark shows it, C(tcpdump) reads the packets.
  - Packets from a WireGuard interface, which has no link layer, get an Ethernet header without addresses, because C(tcpdump) wants
    all packets of a file to be of one kind.
  - What is not dropped is never captured and pays nothing. The programs stop sampling at a time that is set beforehand, also if the
    module is killed.
  - Ends when O(count) packets are in the file or after O(seconds). One capture at a time runs on a host.
requirements:
  - python3-bpfcc (libbpf 1.x)
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Checks the options and tells which interfaces and reasons would be watched.
  diff_mode:
    support: none
    description: What it makes is a file of packets.
options:
  dest:
    description: The file, replaced when the capture is complete, with mode 0600. Its directory must exist.
    type: path
    required: true
  reasons:
    description:
      - The reasons to look for, by the names that M(edgewire.fleet.forwarder_stats_info) shows with
        O(edgewire.fleet.forwarder_stats_info#module:every_reason=true).
      - Without any, all.
    type: list
    elements: str
    default: []
  count:
    description: Packets at most, up to 1,000,000.
    type: int
    default: 100
  seconds:
    description: Seconds at most, up to 3600.
    type: int
    default: 10
  snaplen:
    description: Bytes of each packet at most, 64 to 9000.
    type: int
    default: 256
  per_second:
    description:
      - Packets a second at most, up to 10,000, so that a flood of drops costs no more than this many samples. For the programs of
        each role.
    type: int
    default: 1000
seealso:
  - module: edgewire.fleet.forwarder_stats_info
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: See what is sent to services from outside with a relay option
  edgewire.fleet.forwarder_capture:
    dest: /root/forged.pcapng
    reasons: [relay_from_outside]
    seconds: 60

# The same from the shell, all reasons:
# ansible edge1 -i inventories/lab -m edgewire.fleet.forwarder_capture -a "dest=/root/drops.pcapng seconds=30"
"""

RETURN = r"""
path:
  description: The file.
  returned: success, not in check mode
  type: str
  sample: /root/forged.pcapng
packets:
  description: Packets in the file.
  returned: success, not in check mode
  type: int
  sample: 3
reasons:
  description: How many of them were dropped for which reason.
  returned: success, not in check mode
  type: dict
  sample: {relay_from_outside: 3}
lost:
  description: Samples that were lost because they came faster than they could be read.
  returned: success, not in check mode
  type: int
  sample: 0
interfaces:
  description: The interfaces on which the programs are.
  returned: success
  type: list
  elements: str
  sample: [eth0, wg0]
watched:
  description: The reasons that were looked for.
  returned: success
  type: list
  elements: str
  sample: [relay_from_outside]
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import capture
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Capture, or say what would be."""
    request = capture.request_from(params)
    return {"changed": True, **(capture.preview(request) if check_mode else capture.capture(request))}


def main() -> None:
    """Module entry point."""
    run_module(
        {
            "dest": {"type": "path", "required": True},
            "reasons": {"type": "list", "elements": "str", "default": []},
            "count": {"type": "int", "default": 100},
            "seconds": {"type": "int", "default": 10},
            "snaplen": {"type": "int", "default": 256},
            "per_second": {"type": "int", "default": 1000},
        },
        work,
    )


if __name__ == "__main__":
    main()
