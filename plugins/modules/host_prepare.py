#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.host_prepare`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_prepare
short_description: Make what must be there before a fleet is planned, and tell what is there
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Says which packages a host lacks, makes its WireGuard key as M(edgewire.fleet.wireguard_key) does,
    and says which plan it has as M(edgewire.fleet.host_plan) does. It is one module, and so one task on
    a host that has everything already.
  - Where packages are missing, no key is made, as the tool for that may be among them. Install them and
    call it again.
options:
  packages:
    description:
      - Names of Debian packages. One that carries a version or a release always counts as missing, as
        only apt can tell.
    type: list
    elements: str
    default: []
  path:
    description: Absolute path of the private key file, in a directory of its own.
    type: path
    default: /etc/edgewire/wireguard/wg0.key
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.plan_file
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Makes no key and says that it would.
  diff_mode:
    support: full
    description: Shows modes and owners, never a key.
requirements:
  - wg(8), Debian package C(wireguard-tools)
seealso:
  - module: edgewire.fleet.wireguard_key
  - module: edgewire.fleet.host_plan
  - module: edgewire.fleet.fleet_plan
"""

EXAMPLES = r"""
- name: Make the key, and see what the host has
  edgewire.fleet.host_prepare:
    packages: [wireguard-tools, python3-pyroute2]
  register: edgewire_key
"""

RETURN = r"""
missing_packages:
  description: Those of O(packages) that are not installed.
  returned: success
  type: list
  elements: str
public_key:
  description: The public key in base64; V(null) where there is none yet.
  returned: success
  type: str
  sample: 2rPgm8k8H3yVbYvVfBbG2bM3wX5M7q1Q5o5m9mQ0GkE=
plan_sha256:
  description: Which plan the host has, for O(edgewire.fleet.mesh#module:replaces). V(none) where it has none.
  returned: success
  type: str
steps:
  description: What changed, or would change.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.prepare import prepare


def main() -> None:
    """Run the module."""
    run_module(
        {
            "packages": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "default": "/etc/edgewire/wireguard/wg0.key"},
            "plan_file": {"type": "path", "default": "/etc/edgewire/plan.json"},
        },
        prepare,
        exclusive=True,
    )


if __name__ == "__main__":
    main()
