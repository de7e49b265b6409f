#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.wireguard_key`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_key
short_description: Make a host's WireGuard private key on the host
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Makes the private key where it is used, and returns the public key. The private key never leaves
    the host and is in no output, log or process list.
  - An existing key is never overwritten. A file that holds no valid key is an error and is left as
    it is.
  - The file has mode V(0600), its directory V(0700), both owned by the user that the module runs as.
    Other modes or owners are repaired. A directory that holds other things than keys is not closed
    but refused.
options:
  path:
    description: Absolute path of the private key file, in a directory of its own.
    type: path
    default: /etc/edgewire/wireguard/wg0.key
  state:
    description:
      - V(next) makes another key beside this one, unless there is one, and returns its public key.
      - V(rotated) puts the next key, if there is one, in the place of this one. The old one is then gone.
        C(edgewire.fleet.rotate_keys) does both in the right order.
    type: str
    choices: [present, next, rotated]
    default: present
  adopt:
    description:
      - A running WireGuard device. If there is no key file yet, it gets this device's private key
        instead of a new one, so that a device made by hand can be taken over with its key.
    type: str
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Changes nothing and says what would change.
  diff_mode:
    support: full
    description: Shows modes and owners, never a key.
requirements:
  - wg(8), Debian package C(wireguard-tools)
seealso:
  - module: edgewire.fleet.wireguard
"""

EXAMPLES = r"""
- name: The host's key exists
  edgewire.fleet.wireguard_key:
  register: key

- name: Keep the key of a device that somebody made by hand
  edgewire.fleet.wireguard_key:
    adopt: wg0

- name: Show the public key
  ansible.builtin.debug:
    var: key.public_key
"""

RETURN = r"""
public_key:
  description: >-
    The public key in base64; V(null) in check mode where there is no key yet and none to adopt. With
    O(state=next) that of the next key.
  returned: success
  type: str
  sample: 2rPgm8k8H3yVbYvVfBbG2bM3wX5M7q1Q5o5m9mQ0GkE=
path:
  description: The private key file.
  returned: success
  type: str
  sample: /etc/edgewire/wireguard/wg0.key
exists:
  description: Whether there is a private key now; V(false) only in check mode.
  returned: success
  type: bool
steps:
  description: What changed, or would change.
  returned: success
  type: list
  elements: dict
  sample:
    - verb: add
      kind: private_key
      name: /etc/edgewire/wireguard/wg0.key
      before: null
      after: {mode: "0600", uid: 0, gid: 0}
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import (
    ensure_key,
    ensure_next_key,
    rotate_key,
)


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Make or repair the key file; the module's result."""
    path = params["path"]
    if params["state"] == "next":
        key = ensure_next_key(path, check_mode)
    elif params["state"] == "rotated":
        key = rotate_key(path, check_mode)
    else:
        key = ensure_key(path, check_mode, params["adopt"])
    return result_of(key.steps, path, public_key=key.public_key, path=path, exists=key.exists)


def main() -> None:
    """Run the module."""
    path = {"type": "path", "default": "/etc/edgewire/wireguard/wg0.key"}
    state = {"type": "str", "choices": ["present", "next", "rotated"], "default": "present"}
    run_module({"path": path, "state": state, "adopt": {"type": "str"}}, work, exclusive=True)


if __name__ == "__main__":
    main()
