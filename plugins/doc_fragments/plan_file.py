# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The place of a host's plan."""

from __future__ import annotations


class ModuleDocFragment:
    """The option ``plan_file``."""

    DOCUMENTATION = r"""
options:
  plan_file:
    description: Where the host keeps the plan it was last given.
    type: path
    default: /etc/edgewire/plan.json
"""
