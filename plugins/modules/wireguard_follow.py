#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.wireguard_follow`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_follow
short_description: Follow a WireGuard peer that is about to change its key
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Takes the peer's new key on and leaves a process that waits for the first handshake with it. At that
    moment it moves allowed IPs, endpoint, keepalive and preshared key from the old key to the new one
    and removes the old one, so that hardly a packet is lost.
  - If no handshake comes in time, the new key is removed again.
  - The playbook C(edgewire.fleet.rotate_keys) runs this on all peers of the host whose key changes.
options:
  interface:
    description: The WireGuard device.
    type: str
    default: wg0
  public_key:
    description: The key that the peer has now.
    type: str
    required: true
  next_public_key:
    description: The key that the peer will have.
    type: str
    required: true
  seconds:
    description: How long to wait for it.
    type: int
    default: 600
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: full
    description: Shows both keys.
requirements:
  - pyroute2 (Debian package C(python3-pyroute2))
seealso:
  - module: edgewire.fleet.wireguard_key
  - module: edgewire.fleet.wireguard
"""

EXAMPLES = r"""
- name: Wait for edge1 to change its key
  edgewire.fleet.wireguard_follow:
    public_key: 2rPgm8k8H3yVbYvVfBbG2bM3wX5M7q1Q5o5m9mQ0GkE=
    next_public_key: "{{ hostvars.edge1.edgewire_next.public_key }}"
"""

RETURN = r"""
steps:
  description: What is going to change; empty where the device has no peer with the old key.
  returned: success
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import follow


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Begin to follow; the module's result."""
    name, old, new = params["interface"], params["public_key"], params["next_public_key"]
    return result_of(follow.follow(name, old, new, params["seconds"], check_mode), name)


def main() -> None:
    """Run the module."""
    key = {"type": "str", "required": True, "no_log": False}
    run_module(
        {
            "interface": {"type": "str", "default": "wg0"},
            "public_key": key,
            "next_public_key": key,
            "seconds": {"type": "int", "default": 600},
        },
        work,
        libraries=("pyroute2",),
        exclusive=True,
    )


if __name__ == "__main__":
    main()
