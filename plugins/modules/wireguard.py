#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module `edgewire.fleet.wireguard`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard
short_description: Make a WireGuard device what the plan says
version_added: 0.1.0
author: The edgewire.fleet contributors (@edgewire)
description:
  - Compares device, MTU, addresses and peers with the kernel, or with C(wireguard-go), never with a
    file, and changes only what differs. Sessions of peers that are not changed go on.
  - A device that this module makes carries the interface alias C(edgewire.fleet). Peers and
    addresses that are not wanted are removed only from a device so marked, see O(purge).
  - A peer's endpoint that differs while its session is alive (latest handshake less than 180 seconds
    ago) was learned by roaming and is no drift, see O(roaming).
extends_documentation_fragment:
  - edgewire.fleet.wireguard
  - edgewire.fleet.guarded
  - edgewire.fleet.attributes
  - edgewire.fleet.attributes.host
attributes:
  check_mode:
    support: full
    description: Changes nothing and says exactly what would change.
  diff_mode:
    support: full
    description: Shows the steps; keys are shown by their public half only.
requirements:
  - pyroute2 (Debian package C(python3-pyroute2)), wg(8) (C(wireguard-tools))
  - wireguard-go (C(wireguard-go)) where the kernel has no WireGuard
seealso:
  - module: edgewire.fleet.wireguard_key
  - module: edgewire.fleet.routes
"""

EXAMPLES = r"""
- name: What the host's plan says
  edgewire.fleet.wireguard: "{{ plan.wireguard }}"

- name: One device by hand
  edgewire.fleet.wireguard:
    interface: wg0
    listen_port: 51820
    mtu: 1420
    addresses: [100.64.0.1/32]
    peers:
      - name: worker1
        public_key: 2rPgm8k8H3yVbYvVfBbG2bM3wX5M7q1Q5o5m9mQ0GkE=
        endpoint: 192.0.2.21:51820
        allowed_ips: [100.64.0.3/32]
        persistent_keepalive: 25
        preshared: true
    host: edge1
    preshared_secret: "{{ edgewire_preshared_secret }}"

- name: Read a device that somebody made by hand
  edgewire.fleet.wireguard:
    interface: wg0
    state: gathered
  register: found
"""

RETURN = r"""
rendered:
  description:
    - Files by path, for wg-quick(8) and for systemd-networkd. They name the file of the private key;
      neither that nor a preshared key is in them.
  returned: O(state=rendered)
  type: dict
  sample:
    /etc/wireguard/wg0.conf: "[Interface]\nListenPort = 51820\n…"
    /etc/systemd/network/50-wg0.netdev: "[NetDev]\nName = wg0\n…"
    /etc/systemd/network/50-wg0.network: "[Match]\nName = wg0\n…"
gathered:
  description:
    - The device as options; V(null) if there is none. Peers are called as in O(peers), others by their
      public key. Of a preshared key nothing is returned; C(preshared) is then V(null).
  returned: O(state=gathered)
  type: dict
steps:
  description: What changed, or would change; verb, kind, name, before, after.
  returned: O(state=present), O(state=absent)
  type: list
  elements: dict
transport:
  description: What the device is, V(kernel) or V(userspace); V(null) where there is none.
  returned: O(state=present), O(state=absent)
  type: str
peers:
  description: The device's peers; handshake in seconds since 1970, 0 if there was none.
  returned: O(state=present), O(state=absent)
  type: list
  elements: dict
  sample:
    - {name: worker1, public_key: 2rPg…, endpoint: "192.0.2.21:51820", latest_handshake: 0,
       rx_bytes: 0, tx_bytes: 0}
roamed:
  description: Peers whose endpoint differs and is left alone, with the endpoint where they are.
  returned: O(state=present), O(state=absent)
  type: dict
guard:
  description: The lock-out guard that was armed and confirmed; V(null) where nothing was guarded.
  returned: O(state=present)
  type: dict
  sample: {name: wireguard-wg0, id: 5f0c2a9d4be81c07, seconds: 60}
unknown_peers:
  description: Public keys on the device that are not wanted and were left.
  returned: O(state=present), O(state=absent)
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.guard import Guard
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import arguments, backend


def work(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Converge or remove the device, or only tell of it; the module's result."""
    if params["state"] == "rendered":
        return {"changed": False, "rendered": backend.rendered(params)}
    if params["state"] == "gathered":
        return {"changed": False, "gathered": backend.gathered(params)}
    guard = Guard("wireguard", params["interface"], params["guard_seconds"])
    if params["state"] == "absent":
        force = params["purge"] is True
        outcome = backend.apply_absent(params["interface"], force, check_mode, params["sole"])
    else:
        outcome = backend.apply(params, check_mode, guard=guard)
    shown = backend.describe(outcome, params["peers"])
    return result_of(outcome.steps, params["interface"], guard=guard.shown, **shown)


def main() -> None:
    """Run the module."""
    run_module(arguments.SPEC, work, libraries=("pyroute2",), exclusive=True)


if __name__ == "__main__":
    main()
