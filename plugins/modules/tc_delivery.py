#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: tc_delivery
short_description: Compile, load and attach the worker's delivery programs
version_added: 0.1.0
description:
  - Puts the two programs of a worker on their hooks, namely C(worker_ingress) on TC ingress of the WireGuard interface, which
    hands relayed packets to containers with the client's address as source, and C(worker_egress) on TC ingress of the bridge
    that the containers hang on, which sends their replies back to the edge.
  - What runs is told from the attached programs themselves, which carry the hash of their sources, compiler flags and map
    layouts. Nothing is compiled where that is already what is wanted.
  - Filters of others on the same hooks stay where they are, in their order.
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
  wireguard_interface:
    description: The WireGuard interface that leads to the edges.
    type: str
    default: wg0
  container_interface:
    description: The bridge that the containers hang on. It must exist, which with podman means that a container runs.
    type: str
    default: podman0
seealso:
  - module: edgewire.fleet.forwarder_map
  - module: edgewire.fleet.xdp_forwarder
author:
  - The edgewire.fleet contributors (@edgewire)
"""

EXAMPLES = r"""
- name: Deliver to the containers of podman's default bridge
  edgewire.fleet.tc_delivery:
    container_interface: podman0

- name: Take the programs off
  edgewire.fleet.tc_delivery:
    container_interface: podman0
    state: absent
"""

RETURN = r"""
build:
  description: First 16 hexadecimal digits of the identity of the wanted build.
  returned: success
  type: str
  sample: 5b0d2a7790b1f3ce
steps:
  description: What was changed, or would be in check mode; verb, kind, name, before and after.
  returned: success
  type: list
  elements: dict
  sample:
    - verb: add
      kind: program
      name: worker_ingress on wg0
      before:
      after: {hook: TC ingress, build: 5b0d2a7790b1f3ce}
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import forwarder, options
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import object_of, run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Attach or detach the worker's programs."""
    build = options.build_from("worker", params)
    desired = options.programs_from("worker", params, build)
    contents = None if params["contents"] is None else object_of(params, "contents")
    steps = forwarder.apply(desired, build, check_mode, contents)
    return result_of(steps, "worker programs", build=build.identity.hex()[:16])


def main() -> None:
    """Module entry point."""
    run_module(
        {
            "wireguard_interface": {"type": "str", "default": "wg0"},
            "container_interface": {"type": "str", "default": "podman0"},
            **options.PROGRAMS_SPEC,
        },
        work,
        exclusive=True,
    )


if __name__ == "__main__":
    main()
