# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's backend: what the module, ``fleet_verify`` and the boot unit call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.guard import Guard
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import planner, render
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import (
    public_key_of,
    read_private_key,
    running_private_key,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.link import marked
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.machine import (
    Host,
    Machine,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    DesiredDevice,
    ObservedDevice,
    desired_from_observed,
    desired_from_params,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import ordered
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import PrivateKey


@dataclass(frozen=True)
class Outcome:
    """What a run did, or would do, and the device as it is afterwards."""

    steps: list[Step]
    observed: ObservedDevice | None
    roamed: Mapping[str, str]  # peer name -> endpoint it is at, where that differs and is tolerated
    unknown_peers: list[str]  # public keys that are left on the device
    unknown_preshared: list[str] = field(default_factory=list)  # peers whose preshared key was not checked


def observe(interface: str) -> ObservedDevice | None:
    """The device as it is, peers with handshakes and traffic; None if there is none.

    Raises EdgewireError if what has this name is not a WireGuard device. Holds no private key.
    """
    with Host(interface) as host:
        return host.observe()


def preview(params: Mapping[str, Any]) -> list[Step]:
    """What `apply` would do for the plan's ``wireguard`` object. Read-only.

    A key file, or a peer's public key, that does not exist yet is shown as such and is no error.
    """
    return apply(params, check_mode=True).steps


def apply(
    params: Mapping[str, Any], check_mode: bool, secret_needed: bool = True, guard: Guard | None = None
) -> Outcome:
    """Make the device what the plan's ``wireguard`` object says (state present).

    ``guard`` is armed before the first change. What an earlier run's guard left is shown as a step.

    Raises EdgewireError with what a person has to mend; then a second run continues from wherever
    the first one stopped, for nothing but the kernel's state is looked at. Where peers want preshared
    keys and no secret is given, ``secret_needed`` makes that an error; else such a key is unknown.

    With ``sole`` in ``params`` other devices that carry our mark are removed first: one that had another name in an
    earlier plan holds the port and the addresses. ``keep_unknown_peers`` leaves peers that are not wanted.
    """
    desired = desired_from_params(params)
    if secret_needed:
        _check_secret(desired)
    private_key = read_private_key(desired.private_key_file)
    if not check_mode:
        _check_complete(desired, private_key is not None)
    public_key = public_key_of(private_key) if private_key else None
    guard = guard or Guard("wireguard", desired.interface)
    left = guard.found()
    former = [name for name in marked() if name != desired.interface] if params.get("sole") else []
    with Host(desired.interface) as host:
        replaced: list[Step] = []
        if former:
            before = host.observe()
            converge(host, desired, public_key, check_mode=True)  # what cannot be is refused before anything goes
            if not check_mode:
                guard.arm(
                    lambda: _ways_back([(desired.interface, before), *((name, observe(name)) for name in former)])
                )
            replaced = [step for name in former for step in apply_absent(name, False, check_mode).steps]
        outcome = converge(
            host,
            desired,
            public_key,
            check_mode,
            lambda before: None if former else guard.arm(lambda: _way_back(desired.interface, before)),
        )
    if left and not outcome.steps and not replaced and not check_mode:
        guard.settle()
    return replace(outcome, steps=[*left, *replaced, *outcome.steps])


def apply_absent(interface: str, force: bool, check_mode: bool, sole: bool = False) -> Outcome:
    """Remove the device if this collection made it, or if ``force``; clear a dead socket.

    ``sole``: remove all others that carry our mark as well.
    """
    others = [name for name in marked() if name != interface] if sole else []
    removed = [step for name in others for step in apply_absent(name, False, check_mode).steps]
    guard = Guard("wireguard", interface)
    left = guard.found()
    with Host(interface) as host:
        steps = planner.plan_absent(interface, host.observe(), force) or host.leftovers()
        if not check_mode:
            guard.clear()
            for operation in ordered(steps):
                host.perform(operation)
    return Outcome([*left, *removed, *steps], None, {}, [])


def readdress(params: Mapping[str, Any]) -> list[Step]:
    """Give a device of ours that is up the addresses that it lacks, and change nothing else; what was done."""
    desired = desired_from_params(params)
    with Host(desired.interface) as host:
        observed = host.observe()
        if observed is None or not observed.owned or not observed.up:
            return []
        steps = planner.plan_lost_addresses(desired, observed)
        for operation in ordered(steps):
            host.perform(operation)
    return steps


def rendered(params: Mapping[str, Any]) -> dict[str, str]:
    """The device that ``params`` want as files, path -> content; looks at nothing on this host."""
    return render.rendered(desired_from_params(params))


def gathered(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The device as it is, as options for `apply`; None if there is none. ``params`` may name peers."""
    observed = observe(params["interface"])
    if observed is None:
        return None
    names = _names(params.get("peers") or ())
    return render.gathered(observed, params["private_key_file"], names)


def describe(outcome: Outcome, peers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a module says about the device besides the steps. ``peers`` gives keys their names."""
    return {
        "transport": outcome.observed.transport if outcome.observed else None,
        "roamed": dict(outcome.roamed),
        "unknown_peers": outcome.unknown_peers,
        "peers": describe_peers(outcome.observed, peers),
    }


def describe_peers(observed: ObservedDevice | None, peers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The device's peers, handshakes in seconds since 1970 (0 = never); none where there is no device.

    ``peers``, of a plan, give keys their names.
    """
    names = _names(peers)
    return [
        {
            "name": names.get(peer.public_key),
            "public_key": peer.public_key,
            "endpoint": str(peer.endpoint) if peer.endpoint else None,
            "latest_handshake": peer.latest_handshake,
            "rx_bytes": peer.rx_bytes,
            "tx_bytes": peer.tx_bytes,
        }
        for peer in (observed.settings.peers.values() if observed else ())
    ]


def _names(peers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {peer["public_key"]: peer["name"] for peer in peers if peer.get("public_key")}


def converge(
    machine: Machine,
    desired: DesiredDevice,
    public_key: str | None,
    check_mode: bool,
    before_change: Callable[[ObservedDevice | None], None] | None = None,
) -> Outcome:
    """Plan against the machine and, unless in check mode, perform the plan and look again.

    ``before_change`` gets what there was, if something is going to be changed.

    Raises EdgewireError if something is still to be done after everything was accepted.
    """
    observed = machine.observe()
    steps = planner.plan(desired, observed, public_key, time.time())
    if steps and not check_mode:
        if before_change is not None:
            before_change(observed)
        purging = planner.purging(desired, observed)
        for operation in ordered(steps):
            machine.perform(operation)
        observed = machine.observe()
        settled = replace(desired, purge=purging)
        left = planner.plan(settled, observed, public_key, time.time())
        if left:
            names = ", ".join(f"{step.kind} {step.name}" for step in left)
            raise EdgewireError(
                f"{desired.interface}: accepted, but not in effect: {names}. Something else on this host changes"
                " the device (wg-quick, a network manager): have it leave the device alone, and run again"
            )
    now = time.time()
    return Outcome(
        steps=steps,
        observed=observed,
        roamed=planner.roamed(desired, observed, now),
        unknown_peers=planner.unknown_peers(desired, observed),
        unknown_preshared=planner.unknown_preshared(desired, observed),
    )


def restore(machine: Machine, interface: str, before: ObservedDevice | None, key: PrivateKey | None) -> list[Step]:
    """Make the device again what it was ``before``; None: there was none. ``key`` is the one it had.

    A device that was down stays up, and a peer that had no endpoint keeps the one that it has got since.
    """
    if before is None:
        steps = planner.plan_absent(interface, machine.observe(), force=False)
        for operation in ordered(steps):
            machine.perform(operation)
        return steps
    now = machine.observe()
    public_key = before.settings.public_key or (now.settings.public_key if now else None)
    return converge(machine, desired_from_observed(before, key), public_key, check_mode=False).steps


def _way_back(interface: str, before: ObservedDevice | None) -> Callable[[], list[Step]]:
    key = running_private_key(interface) if before is not None and before.settings.public_key else None

    def back() -> list[Step]:
        with Host(interface) as host:
            return restore(host, interface, before, key)

    return back


def _ways_back(devices: Iterable[tuple[str, ObservedDevice | None]]) -> Callable[[], list[Step]]:
    """One way back for several devices, in their order: one that is to go must do so before its port is taken again."""
    ways = [_way_back(interface, before) for interface, before in devices]
    return lambda: [step for back in ways for step in back()]


def _check_secret(desired: DesiredDevice) -> None:
    lacking = [peer.name for peer in desired.peers if peer.preshared and peer.preshared_key is None]
    if lacking:
        raise EdgewireError(
            f"{desired.interface}: peers {', '.join(lacking)} want a preshared key and no preshared_secret is given:"
            " set edgewire_preshared_secret, and give the vault's password"
        )


def _check_complete(desired: DesiredDevice, has_key: bool) -> None:
    if not has_key:
        raise EdgewireError(
            f"private key file {desired.private_key_file}: not there; edgewire.fleet.wireguard_key makes it"
        )
    missing = [peer.name for peer in desired.peers if peer.public_key is None]
    if missing:
        names = ", ".join(missing)
        raise EdgewireError(
            f"no public key is known of peers {names}; run edgewire.fleet.site over those hosts as well, which"
            " reads their keys"
        )
