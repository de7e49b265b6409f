# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's planner: desired device, observed device -> the smallest list of steps. Pure.

**Endpoints and roaming.** WireGuard replaces a peer's endpoint by where its last authenticated
packet came from. So an endpoint that differs from the plan is drift only while the peer has no live
session: its latest handshake is older than 180 s (REJECT_AFTER_TIME, WireGuard paper section 6.1; a
session in use renews itself every 120 s) or there was none. A peer with a live session has proved
where it is; the plan's endpoint is for finding it when there is none. The price: a changed endpoint
in the inventory, of a peer that still answers at the old one, is applied once that session has
lapsed, or at once with ``roaming: false``. What is tolerated is reported (`roamed`), never hidden.

**Greetings.** A device whose listen port changes sends a keepalive to every peer whose endpoint it knows. Peers with a
live session would go on sending to the former port, where nobody listens, for up to 15 s, and their own plan, which
knows the new port, would not help while the session lives. So does one whose key changes: it has no session any more,
and its peers cannot begin one with a key that they do not expect.

**Preshared keys.** A session goes on when its preshared key changes; the next handshake (within two
minutes of use) needs the same key on both sides. So a fleet-wide change loses nothing if all hosts
get it within that time, and heals by itself, retrying every 5 s, where it takes longer.

**Purging.** Peers and addresses that the plan does not know are removed from a device that carries
our mark, and left on any other, unless ``purge`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    DesiredDevice,
    DesiredPeer,
    ObservedDevice,
    ObservedPeer,
    ObservedSettings,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import (
    AddAddress,
    BringUp,
    ConfigureDevice,
    CreateDevice,
    Greet,
    Operation,
    RemoveAddress,
    RemoveDevice,
    RemovePeer,
    SetMtu,
    SetPeer,
    TrimPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import (
    NO_PRESHARED_KEY,
    PresharedKey,
)

SESSION_SECONDS = 180  # REJECT_AFTER_TIME: no session outlives it
NO_KEY_YET = "(the key file does not exist yet)"
_NOTHING = ObservedSettings(public_key=None, listen_port=0, fwmark=0, peers={})


def plan(desired: DesiredDevice, observed: ObservedDevice | None, public_key: str | None, now: float) -> list[Step]:
    """The steps from ``observed`` to ``desired``.

    ``public_key`` belongs to the desired private key (None: not made yet, check mode only); ``now``
    is the time of the observation in seconds since 1970. Raises EdgewireError where the device
    cannot become what is wanted without being removed first.
    """
    _check(desired, observed, public_key)
    settings = observed.settings if observed else _NOTHING
    steps = list(_device(desired, observed, public_key or NO_KEY_YET))
    steps += _addresses(desired, observed)
    purge_peers = purging(desired, observed) and not desired.keep_unknown_peers
    steps += _peers(desired, settings, purge_peers, now)
    return steps


def plan_absent(interface: str, observed: ObservedDevice | None, force: bool) -> list[Step]:
    """The steps that remove the device; EdgewireError if it is not ours and ``force`` is false."""
    if observed is None:
        return []
    if not observed.owned and not force:
        raise EdgewireError(
            f"{interface} was not made by this collection (its alias is not the mark), so it is "
            "not removed; purge: true removes it all the same"
        )
    before = {"transport": observed.transport, "peers": len(observed.settings.peers)}
    return [make_step("device", interface, before, None, (RemoveDevice(),))]


def purging(desired: DesiredDevice, observed: ObservedDevice | None) -> bool:
    """Whether what the plan does not know is removed from this device."""
    if desired.purge is not None:
        return desired.purge
    return observed is None or observed.owned


def roamed(desired: DesiredDevice, observed: ObservedDevice | None, now: float) -> dict[str, str]:
    """Peers, by name, whose endpoint differs from the plan and is tolerated: where they are."""
    found: dict[str, str] = {}
    for peer in desired.peers if observed else ():
        known = observed.settings.peers.get(peer.public_key or "") if observed else None
        if known is not None and peer.endpoint not in (None, known.endpoint) and _tolerated(desired, known, now):
            found[peer.name] = str(known.endpoint)
    return found


def unknown_peers(desired: DesiredDevice, observed: ObservedDevice | None) -> list[str]:
    """Public keys of the device's peers that the plan does not know."""
    wanted = {peer.public_key for peer in desired.peers}
    return sorted(set(observed.settings.peers) - wanted) if observed else []


def unknown_preshared(desired: DesiredDevice, observed: ObservedDevice | None) -> list[str]:
    """Peers, by name, that have a preshared key which cannot be told right or wrong without the secret."""
    peers = observed.settings.peers if observed else {}
    return [
        peer.name
        for peer in desired.peers
        if peer.preshared
        and peer.preshared_key is None
        and peer.public_key is not None
        and peer.public_key in peers
        and peers[peer.public_key].preshared_key
    ]


def _check(desired: DesiredDevice, observed: ObservedDevice | None, public_key: str | None) -> None:
    if observed and desired.transport not in ("auto", observed.transport):
        raise EdgewireError(
            f"{desired.interface} is a {observed.transport} WireGuard device and "
            f"{desired.transport} is wanted: remove it first (state: absent)"
        )
    for peer in desired.peers:
        if public_key is not None and peer.public_key == public_key:
            raise EdgewireError(
                f"peer {peer.name} has the public key of {desired.interface} itself: "
                "two hosts share a private key, or the key registry is wrong"
            )


def _device(desired: DesiredDevice, observed: ObservedDevice | None, public_key: str) -> Iterator[Step]:
    wanted: dict[str, Any] = {
        "public_key": public_key,
        "listen_port": desired.listen_port,
        "fwmark": desired.fwmark,
        "mtu": desired.mtu,
        "up": True,
    }
    have: dict[str, Any] = {}
    if observed is not None:
        have = {
            "public_key": observed.settings.public_key,
            "listen_port": observed.settings.listen_port,
            "fwmark": observed.settings.fwmark,
            "mtu": observed.mtu,
            "up": observed.up,
        }
    changed = [key for key, value in wanted.items() if value not in (None, have.get(key))]
    if not changed:
        return
    operations: list[Operation] = [] if observed else [CreateDevice(desired.transport)]
    configure = ConfigureDevice(
        desired.private_key_file if "public_key" in changed else None,
        desired.listen_port if "listen_port" in changed else None,
        desired.fwmark if "fwmark" in changed else None,
        desired.private_key if "public_key" in changed else None,
    )
    if configure != ConfigureDevice():
        operations.append(configure)
    if desired.mtu is not None and "mtu" in changed:
        operations.append(SetMtu(desired.mtu))
    if "up" in changed:
        operations.append(BringUp())
    if observed and not {"listen_port", "public_key"}.isdisjoint(changed):
        operations += _greetings(desired, observed)
    after = {key: wanted[key] for key in changed}
    before = {key: have[key] for key in changed} if observed else None
    yield make_step("device", desired.interface, before, after, tuple(operations))


def _greetings(desired: DesiredDevice, observed: ObservedDevice) -> Iterator[Greet]:
    for peer in desired.peers:
        known = observed.settings.peers.get(peer.public_key) if peer.public_key else None
        if known is not None and (peer.endpoint or known.endpoint):
            yield Greet(known.public_key, peer.persistent_keepalive)


def plan_lost_addresses(desired: DesiredDevice, observed: ObservedDevice | None) -> list[Step]:
    """The steps that add the addresses which the device lacks."""
    lacking = desired.addresses - (observed.addresses if observed else frozenset())
    shown = {"interface": desired.interface}
    return [make_step("address", address, None, shown, (AddAddress(address),)) for address in sorted(lacking)]


def _addresses(desired: DesiredDevice, observed: ObservedDevice | None) -> Iterator[Step]:
    yield from plan_lost_addresses(desired, observed)
    have = observed.addresses if observed else frozenset()
    shown = {"interface": desired.interface}
    if purging(desired, observed):
        for address in sorted(have - desired.addresses):
            yield make_step("address", address, shown, None, (RemoveAddress(address),))


def _peers(desired: DesiredDevice, settings: ObservedSettings, purge: bool, now: float) -> Iterator[Step]:
    claimed = {network for peer in desired.peers for network in peer.allowed_ips}
    for peer in desired.peers:
        known = settings.peers.get(peer.public_key) if peer.public_key else None
        step = _peer(desired, peer, known, claimed, now)
        if step is not None:
            yield step
    wanted = {peer.public_key for peer in desired.peers}
    for key in sorted(set(settings.peers) - wanted):
        stranger = settings.peers[key]
        lost = stranger.allowed_ips & claimed
        name = f"unknown {key}"
        if purge:
            yield make_step("peer", name, _shown_known(stranger), None, (RemovePeer(key),))
        elif lost:  # the kernel takes them from it when they are set on the peer that wants them
            before = {"allowed_ips": sorted(stranger.allowed_ips)}
            after = {"allowed_ips": sorted(stranger.allowed_ips - lost)}
            yield make_step("peer", name, before, after, ())


def _peer(
    desired: DesiredDevice,
    peer: DesiredPeer,
    known: ObservedPeer | None,
    claimed: set[str],
    now: float,
) -> Step | None:
    if known is None:
        operations: list[Operation] = []
        if peer.public_key is not None:
            allowed = tuple(sorted(peer.allowed_ips))
            keepalive = peer.persistent_keepalive
            operations.append(SetPeer(peer.public_key, True, peer.endpoint, keepalive, allowed, peer.preshared_key))
        return make_step("peer", peer.name, None, _shown_desired(peer), tuple(operations))

    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if peer.endpoint is not None and peer.endpoint != known.endpoint and not _tolerated(desired, known, now):
        before["endpoint"] = str(known.endpoint) if known.endpoint else None
        after["endpoint"] = str(peer.endpoint)
    if peer.persistent_keepalive != known.persistent_keepalive:
        before["persistent_keepalive"] = known.persistent_keepalive
        after["persistent_keepalive"] = peer.persistent_keepalive
    if peer.allowed_ips != known.allowed_ips:
        before["allowed_ips"] = sorted(known.allowed_ips)
        after["allowed_ips"] = sorted(peer.allowed_ips)
    preshared = _preshared(peer, known)
    if preshared is not None or (peer.preshared and not known.preshared_key):
        before["preshared_key"] = "set" if known.preshared_key else "unset"
        wanted = "changed" if known.preshared_key else "set"
        after["preshared_key"] = wanted if peer.preshared else "unset"
    if not after:
        return None
    added = SetPeer(
        known.public_key,
        False,
        peer.endpoint if "endpoint" in after else None,
        peer.persistent_keepalive if "persistent_keepalive" in after else None,
        tuple(sorted(peer.allowed_ips - known.allowed_ips)),
        preshared,
    )
    operations = [added] if added != SetPeer(known.public_key, False) else []
    if known.allowed_ips - peer.allowed_ips - claimed:
        operations.append(TrimPeer(known.public_key, tuple(sorted(peer.allowed_ips))))
    return make_step("peer", peer.name, before, after, tuple(operations))


def _preshared(peer: DesiredPeer, known: ObservedPeer) -> PresharedKey | None:
    """The preshared key that has to be set: None if what is there is right, or may be."""
    if peer.preshared is False and known.preshared_key:
        return NO_PRESHARED_KEY
    return peer.preshared_key if peer.preshared_key != known.preshared_key else None


def _tolerated(desired: DesiredDevice, known: ObservedPeer, now: float) -> bool:
    return desired.roaming and now - known.latest_handshake < SESSION_SECONDS


def _shown_desired(peer: DesiredPeer) -> Mapping[str, Any]:
    return {
        "public_key": peer.public_key,
        "endpoint": str(peer.endpoint) if peer.endpoint else None,
        "allowed_ips": sorted(peer.allowed_ips),
        "persistent_keepalive": peer.persistent_keepalive,
        **({"preshared_key": "set"} if peer.preshared else {}),
    }


def _shown_known(peer: ObservedPeer) -> Mapping[str, Any]:
    return {
        "public_key": peer.public_key,
        "endpoint": str(peer.endpoint) if peer.endpoint else None,
        "allowed_ips": sorted(peer.allowed_ips),
        "persistent_keepalive": peer.persistent_keepalive,
        **({"preshared_key": "set"} if peer.preshared_key else {}),
    }
