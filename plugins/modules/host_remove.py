#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.host_remove`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_remove
short_description: Remove the plan, the keys and all other files that this collection keeps on a host
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Removes C(/etc/edgewire), C(/var/lib/edgewire) and C(/run/edgewire) with all that is in them, the
    private key included. The next roll-out makes another key.
  - It is the last step of a teardown. Programs, routes, the WireGuard interface and the units that restore
    the host are removed before it, by the modules that made them.
extends_documentation_fragment:
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Removes nothing and says what it would.
  diff_mode:
    support: full
    description: Names the directories.
seealso:
  - module: edgewire.fleet.host_prepare
  - module: edgewire.fleet.boot_unit
"""

EXAMPLES = r"""
- name: Leave nothing of the collection on a host whose programs, routes and interface are gone
  edgewire.fleet.host_remove:
"""

RETURN = r"""
steps:
  description: What was removed, or would be.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.remains import remove


def main() -> None:
    """Run the module."""
    run_module({}, remove, exclusive=True)


if __name__ == "__main__":
    main()
