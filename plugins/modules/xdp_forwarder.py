#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: xdp_forwarder
short_description: Compile, load and attach the edge's UDP forwarder
version_added: 0.1.0
description:
  - Puts the three programs of an edge on their hooks, namely C(edge_xdp) on XDP of the uplink, C(edge_handoff) on TC ingress
    of the uplink and C(edge_egress) on TC ingress of the WireGuard interface. They come from one build and share their maps.
  - What runs is told from the attached programs themselves, which carry the hash of their sources, compiler flags and map
    layouts. Nothing is compiled where that is already what is wanted.
  - XDP is held by a pinned BPF link, so that it outlives the module and nobody else's attach displaces it.
extends_documentation_fragment:
  - edgewire.fleet.programs
  - edgewire.fleet.programs.hooks
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
requirements:
  - Linux 6.1 or newer
  - python3-bpfcc (bcc 0.26 or newer, libbpf 1.x), python3-pyroute2
  - kernel headers of the running kernel
  - a bpffs at C(/sys/fs/bpf)
attributes:
  check_mode:
    support: full
    description: Says what would be attached; compiles and loads nothing.
  diff_mode:
    support: full
    description: One line for each hook that changes.
options:
  uplink:
    description: The interface on which clients' packets arrive.
    type: str
    default: eth0
  wireguard_interface:
    description: The WireGuard interface that leads to the workers.
    type: str
    default: wg0
  xdp_mode:
    description:
      - V(native) runs in the driver and is refused by drivers without XDP support. V(generic) works everywhere, after the
        kernel has allocated its packet buffer, and is several times slower.
      - A change of mode leaves the hook empty for a moment. The mode in force is read back from the kernel.
    type: str
    choices: [native, generic]
    default: native
seealso:
  - module: edgewire.fleet.forwarder_map
  - module: edgewire.fleet.tc_delivery
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Attach the forwarder to the uplink
  edgewire.fleet.xdp_forwarder:
    uplink: eth0
    wireguard_interface: wg0

- name: Attach it where the driver has no XDP support
  edgewire.fleet.xdp_forwarder:
    uplink: eth0
    xdp_mode: generic

- name: Take it off
  edgewire.fleet.xdp_forwarder:
    uplink: eth0
    state: absent
"""

RETURN = r"""
build:
  description: First 16 hexadecimal digits of the identity of the wanted build.
  returned: success
  type: str
  sample: 0d5c1f6a1e4b9c21
xdp_mode:
  description: The mode that is in force after the module, as the kernel tells it; null where nothing is attached.
  returned: success
  type: str
  sample: native
steps:
  description: What was changed, or would be in check mode; verb, kind, name, before and after.
  returned: success
  type: list
  elements: dict
  sample:
    - verb: add
      kind: program
      name: edge_xdp on eth0
      before:
      after: {hook: XDP native, build: 0d5c1f6a1e4b9c21}
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import forwarder, options
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import object_of, run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Attach or detach the edge's programs."""
    build = options.build_from("edge", params)
    desired = options.programs_from("edge", params, build)
    contents = None if params["contents"] is None else object_of(params, "contents")
    steps = forwarder.apply(desired, build, check_mode, contents)
    mode = forwarder.xdp_mode_in_force(desired)
    return result_of(steps, "edge programs", build=build.identity.hex()[:16], xdp_mode=mode)


def main() -> None:
    """Module entry point."""
    run_module(
        {
            "uplink": {"type": "str", "default": "eth0"},
            "wireguard_interface": {"type": "str", "default": "wg0"},
            "xdp_mode": {"type": "str", "choices": ["native", "generic"], "default": "native"},
            **options.PROGRAMS_SPEC,
        },
        work,
        exclusive=True,
    )


if __name__ == "__main__":
    main()
