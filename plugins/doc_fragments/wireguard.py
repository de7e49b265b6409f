# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of ``wireguard``, which are those of module_utils/wireguard/arguments.py."""

from __future__ import annotations


class ModuleDocFragment:
    """A WireGuard device, its peers, and how to apply them."""

    DOCUMENTATION = r"""
options:
  interface:
    description: Name of the device, 15 characters at most.
    type: str
    default: wg0
  state:
    description:
      - V(absent) removes a device that this module made, and refuses to remove another.
      - V(rendered) touches nothing, not even to look, and returns the device as configuration files,
        see RV(rendered).
      - V(gathered) reads the device that is there and returns it as options of this module, see
        RV(gathered). Given back with O(state=present), they change nothing on a device that is up, as
        long as O(private_key_file) holds its key; M(edgewire.fleet.wireguard_key) can take that from
        the device.
    type: str
    choices: [present, absent, rendered, gathered]
    default: present
  private_key_file:
    description: The private key on the host; M(edgewire.fleet.wireguard_key) makes it.
    type: path
    default: /etc/edgewire/wireguard/wg0.key
  listen_port:
    description: UDP port. Not given, it stays as it is. Where it changes, peers whose endpoint is known are sent a keepalive at once.
    type: int
  fwmark:
    description: Mark of the encrypted packets, V(0) for none. Not given, it stays as it is.
    type: int
  mtu:
    description: MTU in bytes, at least 1280 with IPv6. Not given, it stays as it is.
    type: int
  addresses:
    description: Addresses of the device, with prefix length.
    type: list
    elements: str
    default: []
  peers:
    description: All peers of the device.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the peer is called in steps and errors.
        type: str
        required: true
      public_key:
        description: Public key in base64. V(null), not made yet, is accepted in check mode only.
        type: str
      endpoint:
        description: IP address and UDP port, C(192.0.2.1:51820) or C([2001:db8::1]:51820).
        type: str
      allowed_ips:
        description: Networks that the peer may send from, and is sent to. Order does not matter.
        type: list
        elements: str
        default: []
      persistent_keepalive:
        description: Seconds between keepalives, V(0) for none.
        type: int
        default: 0
      preshared:
        description:
          - Whether there is a preshared key with this peer, the one that follows from
            O(preshared_secret). V(false) takes one away; not given, it stays as it is.
        type: bool
  host:
    description: The host's own name, as its peers call it. Needed with O(preshared_secret).
    type: str
  preshared_secret:
    description:
      - The fleet's secret, 32 characters at least, from a vault. Each pair of hosts gets its own
        preshared key, HKDF-SHA256 (RFC 5869) of the secret with salt
        C(edgewire.fleet WireGuard preshared key 1) and as info the two names in sorted order with a
        zero byte between them.
      - Never returned, shown or logged; the diff says V(set), V(unset) or V(changed).
      - A session goes on when its key changes. The next handshake, within two minutes, fails until
        both sides have the same key, and is tried again every 5 seconds.
    type: str
  transport:
    description:
      - V(kernel) is the kernel's WireGuard, V(userspace) is C(wireguard-go).
      - V(auto) is what an existing device is. A new one is made in the kernel if that has WireGuard.
    type: str
    choices: [auto, kernel, userspace]
    default: auto
  purge:
    description:
      - Whether peers and addresses that are not wanted are removed. Not given, they are removed from
        a device that this module made and left on any other.
      - With O(state=absent), V(true) removes a device that this module did not make.
    type: bool
  sole:
    description:
      - Whether this is the only device that this collection has on the host. Others that carry its alias
        are removed first, for they may hold the port.
    type: bool
    default: false
  roaming:
    description: V(false) sets an endpoint that differs even while the peer's session is alive.
    type: bool
    default: true
"""
