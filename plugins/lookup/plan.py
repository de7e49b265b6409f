# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lookup ``edgewire.fleet.plan``."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: A host's plan, as fleet_plan left it on the controller
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Reads the plan that M(edgewire.fleet.fleet_plan) wrote for a host, and puts in what it shares with
    other hosts' plans.
  - Refuses files that are not those of the manifest beside them, so that a plan that is older than the
    others, or that was changed by hand, reaches no host.
options:
  _terms:
    description: Names of hosts.
    required: true
  plan_dir:
    description: The directory of the plans, as RV(edgewire.fleet.fleet_plan#module:plan_dir) says it.
    type: path
    required: true
  fleet_hash:
    description:
      - What RV(edgewire.fleet.fleet_plan#module:fleet_hash) was in this run. If the fleet has been
        planned anew since, with another outcome, the lookup fails.
    type: str
seealso:
  - module: edgewire.fleet.fleet_plan
"""

EXAMPLES = r"""
- name: Show the peers that a host shall have
  ansible.builtin.debug:
    msg: "{{ lookup('edgewire.fleet.plan', inventory_hostname, plan_dir=planned.plan_dir).wireguard.peers }}"
"""

RETURN = r"""
_list:
  description: The plans.
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.store import load_plan


class LookupModule(LookupBase):
    """Ansible's entry."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """The plans of the hosts named by ``terms``."""
        self.set_options(var_options=variables, direct=kwargs)
        directory, fleet_hash = Path(self.get_option("plan_dir")), self.get_option("fleet_hash")
        try:
            return [load_plan(directory, host, fleet_hash) for host in terms]
        except EdgewireError as error:
            raise AnsibleError(str(error)) from None
