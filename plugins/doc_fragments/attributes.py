# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for modules alike: the action group for all, where they run for most, reading only for some."""

from __future__ import annotations


class ModuleDocFragment:
    """The attributes that modules share; what else a module's check mode and diff say is its own."""

    DOCUMENTATION = r"""
options: {}
attributes:
  action_group:
    support: full
    membership: [edgewire.fleet.fleet]
    description: C(module_defaults) of C(group/edgewire.fleet.fleet) hold for it.
"""

    HOST = r"""
options: {}
attributes:
  platform:
    support: full
    platforms: linux
    description: Where it runs.
"""

    READS = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Changes nothing.
"""
