# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Following a peer that is about to change its key.

A device has one key, and an allowed IP one peer. So when a host changes its key, each of its peers has to move the
allowed IPs from the old key to the new one just then, or packets between the two are lost until it has. Here the peer
is told beforehand: it takes the new key on as a peer that may send nothing, and a process waits for the first handshake
with it, which says that the host has changed, and moves everything at that moment.
"""

from __future__ import annotations

import time

from ansible_collections.edgewire.fleet.plugins.module_utils import detached
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import turn
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.machine import Host, Machine
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import RemovePeer, SetPeer

_PROCESS_NAME = "edgewire-follow"
_LOOK_SECONDS = 0.02


def follow(interface: str, old: str, new: str, seconds: int, check_mode: bool) -> list[Step]:
    """Take on the key ``new`` of the peer that has ``old``; follow it within ``seconds``. The caller holds the lock.

    Nothing where the device has no peer with the old key: then it has followed already, or does not know that peer.
    """
    with Host(interface) as host:
        device = host.observe()
        peer = device.settings.peers.get(old) if device else None
        if device is None or peer is None or old == new:
            return []
        if not check_mode:
            if new not in device.settings.peers:
                host.perform(SetPeer(new, True, preshared_key=peer.preshared_key))
            _, release = detached.fork(_PROCESS_NAME, lambda: _wait(interface, old, new, seconds))
            release()
    return [make_step("peer", f"of {old}", {"public_key": old}, {"public_key": new})]


def move(machine: Machine, old: str, new: str) -> bool:
    """Give the new key what the old one has, if a handshake says that it is in use; whether nothing is left to do."""
    device = machine.observe()
    peers = device.settings.peers if device else {}
    if old not in peers or new not in peers:
        return True  # another run has settled it
    if not peers[new].latest_handshake:
        return False
    before = peers[old]
    allowed = tuple(sorted(before.allowed_ips))
    machine.perform(SetPeer(new, False, before.endpoint, before.persistent_keepalive, allowed))
    machine.perform(RemovePeer(old))
    return True


def _wait(interface: str, old: str, new: str, seconds: int) -> None:
    end = time.monotonic() + seconds
    with Host(interface) as host:
        while time.monotonic() < end:
            device = host.observe()
            peers = device.settings.peers if device else {}
            if new not in peers or peers[new].latest_handshake or old not in peers:
                with turn():
                    move(host, old, new)
                return
            time.sleep(_LOOK_SECONDS)
        with turn():
            if not move(host, old, new):
                host.perform(RemovePeer(new))
