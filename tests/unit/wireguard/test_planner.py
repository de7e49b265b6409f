# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's planner against a stateful fake device with WireGuard's own semantics."""

from __future__ import annotations

import time
from base64 import b64encode
from dataclasses import replace

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend, planner
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    DesiredDevice,
    DesiredPeer,
    Endpoint,
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
    ordered,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import PresharedKey, PrivateKey
from hypothesis import given
from hypothesis import strategies as st


def key(number: int) -> str:
    return b64encode(bytes([number]) * 32).decode()


OWN_KEY = key(200)
NETWORKS = [f"10.0.{n}.0/24" for n in range(6)] + ["fd00::/64", "fd00:1::/64"]
ADDRESSES = ["100.64.0.1/32", "100.64.0.2/32", "fd65::1/128"]
PRESHARED = [PresharedKey(bytes([n]) * 32) for n in (101, 102)]
ENDPOINTS = [Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 2), Endpoint("2001:db8::1", 3)]


class FakeDevice:
    """One device that behaves as WireGuard does, and counts what is done to it."""

    def __init__(self, device: ObservedDevice | None = None) -> None:
        self.device = device
        self.operations: list[Operation] = []

    def observe(self) -> ObservedDevice | None:
        return self.device

    def perform(self, operation: Operation) -> None:
        self.operations.append(operation)
        if isinstance(operation, CreateDevice):
            assert self.device is None
            settings = ObservedSettings(None, 0, 0, {})
            self.device = ObservedDevice("wg0", "userspace", True, 1420, False, frozenset(), settings)
            return
        assert self.device is not None
        match operation:
            case RemoveDevice():
                self.device = None
            case SetMtu(mtu):
                self.device = replace(self.device, mtu=mtu)
            case BringUp():
                self.device = replace(self.device, up=True)
            case AddAddress(address):
                assert address not in self.device.addresses
                self.device = replace(self.device, addresses=self.device.addresses | {address})
            case RemoveAddress(address):
                assert address in self.device.addresses
                self.device = replace(self.device, addresses=self.device.addresses - {address})
            case ConfigureDevice(file, port, mark, private_key):
                settings = self.device.settings
                self._settle(
                    public_key=(key(201) if private_key else OWN_KEY if file else settings.public_key),
                    listen_port=settings.listen_port if port is None else port,
                    fwmark=settings.fwmark if mark is None else mark,
                )
            case Greet(public_key, keepalive):
                assert self.device.settings.peers[public_key].persistent_keepalive == keepalive
            case _:
                self._peer(operation)

    def _settle(self, **changed: object) -> None:
        assert self.device is not None
        settings = replace(self.device.settings, **changed)  # type: ignore[arg-type]
        self.device = replace(self.device, settings=settings)

    def _peer(self, operation: Operation) -> None:
        assert self.device is not None
        peers = dict(self.device.settings.peers)
        match operation:
            case RemovePeer(public_key):
                del peers[public_key]
            case TrimPeer(public_key, allowed):
                peers[public_key] = replace(peers[public_key], allowed_ips=frozenset())
                _allow(peers, public_key, allowed)
            case SetPeer(public_key, new, endpoint, keepalive, allowed, preshared):
                assert new == (public_key not in peers)
                known = peers.get(public_key) or ObservedPeer(public_key, None, frozenset(), 0)
                peers[public_key] = replace(
                    known,
                    endpoint=endpoint or known.endpoint,
                    persistent_keepalive=(known.persistent_keepalive if keepalive is None else keepalive),
                    preshared_key=known.preshared_key if preshared is None else preshared or None,
                )
                _allow(peers, public_key, allowed)
        self._settle(peers=peers)


def _allow(peers: dict[str, ObservedPeer], owner: str, allowed: tuple[str, ...]) -> None:
    """WireGuard: an allowed IP has one owner; setting it on a peer takes it from another."""
    for name, peer in peers.items():
        if name == owner:
            peers[name] = replace(peer, allowed_ips=peer.allowed_ips | set(allowed))
        else:
            peers[name] = replace(peer, allowed_ips=peer.allowed_ips - set(allowed))


@st.composite
def allotments(draw: st.DrawFn, least: int = 0) -> dict[int, frozenset[str]]:
    """Peers by number, with the networks of each; no network is with two."""
    numbers = draw(st.sets(st.integers(1, 6), min_size=least))
    owners = draw(st.lists(st.integers(0, 6), min_size=len(NETWORKS), max_size=len(NETWORKS)))
    return {
        number: frozenset(n for n, owner in zip(NETWORKS, owners, strict=True) if owner == number)
        for number in sorted(numbers)
    }


@st.composite
def desired_devices(draw: st.DrawFn) -> DesiredDevice:
    peers = tuple(
        DesiredPeer(
            f"host{number}",
            key(number),
            draw(st.none() | st.sampled_from(ENDPOINTS)),
            allowed,
            draw(st.sampled_from([0, 25])),
            *draw(st.sampled_from([(None, None), (False, None), *((True, key) for key in PRESHARED)])),
        )
        for number, allowed in draw(allotments()).items()
    )
    return DesiredDevice(
        interface="wg0",
        private_key_file="/nowhere",
        listen_port=draw(st.none() | st.sampled_from([51820, 51821])),
        fwmark=draw(st.none() | st.sampled_from([0, 7])),
        mtu=draw(st.none() | st.sampled_from([1400, 1420])),
        addresses=draw(st.frozensets(st.sampled_from(ADDRESSES))),
        peers=draw(st.permutations(peers).map(tuple)),
        purge=draw(st.sampled_from([None, True, False])),
        roaming=draw(st.booleans()),
    )


@st.composite
def observed_devices(draw: st.DrawFn) -> ObservedDevice | None:
    if draw(st.booleans()):
        return None
    now = int(time.time())
    peers = {
        key(number): ObservedPeer(
            key(number),
            draw(st.none() | st.sampled_from(ENDPOINTS)),
            allowed,
            draw(st.sampled_from([0, 25])),
            latest_handshake=draw(st.sampled_from([0, now - 10_000, now + 10_000])),
            preshared_key=draw(st.sampled_from([None, *PRESHARED])),
        )
        for number, allowed in draw(allotments()).items()
    }
    settings = ObservedSettings(
        draw(st.sampled_from([None, key(201), OWN_KEY])),
        draw(st.sampled_from([0, 51820])),
        draw(st.sampled_from([0, 7])),
        peers,
    )
    return ObservedDevice(
        "wg0",
        "userspace",
        draw(st.booleans()),
        draw(st.sampled_from([1400, 1420])),
        draw(st.booleans()),
        draw(st.frozensets(st.sampled_from(ADDRESSES))),
        settings,
    )


@given(desired_devices(), observed_devices())
def test_check_predicts_apply_and_a_second_run_does_nothing(
    desired: DesiredDevice, observed: ObservedDevice | None
) -> None:
    predicted = backend.converge(FakeDevice(observed), desired, OWN_KEY, check_mode=True).steps
    machine = FakeDevice(observed)
    done = backend.converge(machine, desired, OWN_KEY, check_mode=False).steps
    assert predicted == done

    settled = machine.device
    assert settled is not None
    # What was unmarked stays so; what was made is ours: the purge of the first run goes for both.
    again = replace(desired, purge=planner.purging(desired, observed))
    machine.operations.clear()
    assert backend.converge(machine, again, OWN_KEY, check_mode=False).steps == []
    assert machine.operations == []
    assert machine.device == settled


@given(desired_devices(), observed_devices())
def test_check_mode_performs_nothing(desired: DesiredDevice, observed: ObservedDevice | None) -> None:
    machine = FakeDevice(observed)
    backend.converge(machine, desired, OWN_KEY, check_mode=True)
    assert machine.operations == []


@given(desired_devices(), observed_devices())
def test_the_result_is_what_was_wanted(desired: DesiredDevice, observed: ObservedDevice | None) -> None:
    machine = FakeDevice(observed)
    backend.converge(machine, desired, OWN_KEY, check_mode=False)
    device = machine.device
    assert device is not None
    assert device.up
    assert device.settings.public_key == OWN_KEY
    for peer in desired.peers:
        assert peer.public_key is not None
        settled = device.settings.peers[peer.public_key]
        assert settled.allowed_ips == peer.allowed_ips
        if peer.preshared is not None:
            assert settled.preshared_key == peer.preshared_key
        elif observed and peer.public_key in observed.settings.peers:
            assert settled.preshared_key == observed.settings.peers[peer.public_key].preshared_key
    if planner.purging(desired, observed):
        assert device.addresses == desired.addresses
        assert set(device.settings.peers) == {peer.public_key for peer in desired.peers}
    else:
        assert device.addresses >= desired.addresses
        before = set(observed.settings.peers) if observed else set()
        assert set(device.settings.peers) >= before


@given(desired_devices(), observed_devices())
def test_a_change_can_be_taken_back(desired: DesiredDevice, observed: ObservedDevice | None) -> None:
    machine = FakeDevice(observed)
    backend.converge(machine, desired, OWN_KEY, check_mode=False)
    backend.restore(machine, "wg0", observed, None if observed is None else PrivateKey(bytes([201]) * 32))
    if observed is None:
        assert machine.device is None
        return
    assert machine.device is not None
    settings, before = machine.device.settings, observed.settings
    assert settings.public_key == (before.public_key or OWN_KEY)
    assert (settings.listen_port, settings.fwmark) == (before.listen_port, before.fwmark)
    assert (machine.device.mtu, machine.device.addresses) == (observed.mtu, observed.addresses)
    assert set(settings.peers) == set(before.peers)
    for public_key, was in before.peers.items():
        peer = settings.peers[public_key]
        assert peer.endpoint == was.endpoint or was.endpoint is None
        assert (peer.allowed_ips, peer.persistent_keepalive) == (was.allowed_ips, was.persistent_keepalive)
        assert peer.preshared_key == was.preshared_key


@given(desired_devices(), observed_devices())
def test_a_run_cut_short_anywhere_is_completed_by_the_next(
    desired: DesiredDevice, observed: ObservedDevice | None
) -> None:
    desired = replace(desired, purge=True)
    steps = backend.converge(FakeDevice(observed), desired, OWN_KEY, check_mode=True).steps
    operations = ordered(steps)
    for cut in range(len(operations)):
        machine = FakeDevice(observed)
        for operation in operations[:cut]:
            machine.perform(operation)
        backend.converge(machine, desired, OWN_KEY, check_mode=False)
        assert backend.converge(machine, desired, OWN_KEY, check_mode=True).steps == []


@given(allotments(least=1), allotments(least=1))
def test_a_network_that_stays_wanted_always_has_an_owner(
    before: dict[int, frozenset[str]], after: dict[int, frozenset[str]]
) -> None:
    peers = {key(n): ObservedPeer(key(n), None, allowed, 0) for n, allowed in before.items()}
    settings = ObservedSettings(OWN_KEY, 0, 0, peers)
    observed = ObservedDevice("wg0", "userspace", True, 1420, True, frozenset(), settings)
    wanted = tuple(DesiredPeer(f"host{n}", key(n), None, a, 0) for n, a in after.items())
    desired = DesiredDevice("wg0", "/nowhere", None, None, None, frozenset(), wanted)
    staying = set().union(*before.values()) & set().union(*after.values())
    machine = FakeDevice(observed)
    for operation in ordered(planner.plan(desired, observed, OWN_KEY, time.time())):
        machine.perform(operation)
        assert machine.device is not None
        owned = (peer.allowed_ips for peer in machine.device.settings.peers.values())
        assert staying <= set().union(*owned)


def _pair(endpoint: Endpoint, handshake: int) -> tuple[DesiredDevice, ObservedDevice]:
    peer = DesiredPeer("worker1", key(1), ENDPOINTS[0], frozenset(), 0)
    desired = DesiredDevice("wg0", "/nowhere", None, None, None, frozenset(), (peer,))
    peers = {key(1): ObservedPeer(key(1), endpoint, frozenset(), 0, latest_handshake=handshake)}
    settings = ObservedSettings(OWN_KEY, 0, 0, peers)
    return desired, ObservedDevice("wg0", "userspace", True, 1420, True, frozenset(), settings)


def test_a_roamed_endpoint_is_tolerated_while_the_session_lives() -> None:
    desired, observed = _pair(ENDPOINTS[1], handshake=1000)
    assert planner.plan(desired, observed, OWN_KEY, now=1179.0) == []
    assert planner.roamed(desired, observed, now=1179.0) == {"worker1": "192.0.2.2:2"}


def test_an_endpoint_without_a_session_or_roaming_is_drift() -> None:
    desired, observed = _pair(ENDPOINTS[1], handshake=1000)
    (step,) = planner.plan(desired, observed, OWN_KEY, now=1180.0)
    assert step.before == {"endpoint": "192.0.2.2:2"}
    assert step.after == {"endpoint": "192.0.2.1:1"}
    assert len(planner.plan(replace(desired, roaming=False), observed, OWN_KEY, now=1001.0)) == 1


@pytest.mark.parametrize(
    ("have", "preshared", "wanted", "shown"),
    [
        (None, True, PRESHARED[0], ("unset", "set")),
        (PRESHARED[0], True, PRESHARED[1], ("set", "changed")),
        (PRESHARED[0], False, None, ("set", "unset")),
        (None, True, None, ("unset", "set")),  # the secret is not known, but a key there should be
        (PRESHARED[0], True, None, None),
        (PRESHARED[0], None, None, None),
        (PRESHARED[0], True, PRESHARED[0], None),
        (None, False, None, None),
    ],
)
def test_a_preshared_key_is_told_as_set_unset_or_changed(
    have: PresharedKey | None,
    preshared: bool | None,
    wanted: PresharedKey | None,
    shown: tuple[str, str] | None,
) -> None:
    desired, observed = _pair(ENDPOINTS[0], handshake=0)
    peers = {name: replace(peer, preshared_key=have) for name, peer in observed.settings.peers.items()}
    observed = replace(observed, settings=replace(observed.settings, peers=peers))
    peer = replace(desired.peers[0], preshared=preshared, preshared_key=wanted)
    desired = replace(desired, peers=(peer,))
    steps = planner.plan(desired, observed, OWN_KEY, 0.0)
    assert [(s.before, s.after) for s in steps] == (
        [({"preshared_key": shown[0]}, {"preshared_key": shown[1]})] if shown else []
    )
    unknown = ["worker1"] if (have and preshared and wanted is None) else []
    assert planner.unknown_preshared(desired, observed) == unknown


def test_absent_refuses_a_device_that_is_not_ours() -> None:
    _, observed = _pair(ENDPOINTS[0], handshake=0)
    assert len(planner.plan_absent("wg0", observed, force=False)) == 1
    stranger = replace(observed, owned=False)
    with pytest.raises(EdgewireError, match="was not made by this collection"):
        planner.plan_absent("wg0", stranger, force=False)
    assert len(planner.plan_absent("wg0", stranger, force=True)) == 1
    assert planner.plan_absent("wg0", None, force=False) == []


def test_a_peer_without_a_key_yet_is_shown_as_one_to_add() -> None:
    desired, observed = _pair(ENDPOINTS[0], handshake=0)
    new = DesiredPeer("worker2", None, None, frozenset(), 0)
    (step,) = planner.plan(replace(desired, peers=(*desired.peers, new)), observed, OWN_KEY, 0.0)
    assert (step.verb, step.name) == ("add", "worker2")
    assert step.after is not None
    assert step.after["public_key"] is None


def test_a_peer_with_our_own_key_is_refused() -> None:
    desired, observed = _pair(ENDPOINTS[0], handshake=0)
    with pytest.raises(EdgewireError, match="worker1 has the public key of wg0 itself"):
        planner.plan(desired, observed, key(1), 0.0)
