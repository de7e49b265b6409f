#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.guard`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guard
short_description: Tell a host that its controller still gets through after a change
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Ends the lock-out guard that M(edgewire.fleet.mesh), M(edgewire.fleet.wireguard) or
    M(edgewire.fleet.routes) armed with C(guard_seconds). Their tasks do this themselves; it is here for who calls the modules in another
    way.
  - Counts only over an SSH connection that is another one than that over which the change was made.
    Reset the connection before.
  - Fails if the host has already taken the change back.
options:
  name:
    description: The guard's name, as the module that armed it returned it.
    type: str
    required: true
  id:
    description: The guard's id, as the module that armed it returned it.
    type: str
    required: true
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: none
    description: In check mode no guard is armed.
  diff_mode:
    support: none
    description: Changes nothing that lasts.
seealso:
  - module: edgewire.fleet.wireguard
  - module: edgewire.fleet.routes
"""

EXAMPLES = r"""
- name: Come back over a new connection
  ansible.builtin.meta: reset_connection

- name: The change may stay
  edgewire.fleet.guard:
    name: wireguard-wg0
    id: "{{ changed_by_hand.guard.id }}"
"""

RETURN = r"""
confirmed:
  description: V(false) if another run has made a change since and answers for it.
  returned: success
  type: bool
"""

from ansible_collections.edgewire.fleet.plugins.module_utils import guard
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module


def main() -> None:
    """Run the module."""
    text = {"type": "str", "required": True}
    run_module(
        {"name": text, "id": text},
        lambda params, _: guard.answer(params),
        exclusive=True,
        supports_check_mode=False,
    )


if __name__ == "__main__":
    main()
