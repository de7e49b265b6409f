# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a role's programs onto their hooks: what ``xdp_forwarder`` and ``tc_delivery`` call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    kept_builds,
    netdev,
    preflight,
    programs,
    successors,
    upgrade,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import (
    Desired,
    Hook,
    Observed,
    Stray,
    SwitchOn,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.successors import Build
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


def preview(desired: Desired, *, wireguard_may_be_missing: bool = False) -> list[Step]:
    """What :func:`ensure` would do; reads only."""
    observed = attach.observe(desired)
    return programs.plan(desired, observed, wireguard_may_be_missing=wireguard_may_be_missing)


def ensure(desired: Desired, build: Build | None, contents: Mapping[str, Any] | None = None) -> list[Step]:
    """Make the hooks what is desired; the steps that were taken.

    Compiles only where neither the hooks, nor the pins, nor the disk have the wanted build.

    :param build: how the wanted build is compiled; not needed to remove, nor where it is kept.
    :param contents: the role's object of the plan; written into new maps before packets meet them, where what the
        running maps say cannot be carried over whole.
    """
    observed = attach.observe(desired)
    steps = programs.plan(desired, observed)
    if not desired.present:
        if steps:
            _remove(desired, observed, steps)
    elif steps:
        _carry_out(desired, observed, build, contents, steps)
    return steps


def apply(desired: Desired, build: Build, check_mode: bool, contents: Mapping[str, Any] | None = None) -> list[Step]:
    """:func:`ensure`, or in check mode what it would do after the tasks that make the WireGuard device."""
    return preview(desired, wireguard_may_be_missing=True) if check_mode else ensure(desired, build, contents)


def xdp_mode_in_force(desired: Desired) -> str | None:
    """The mode in which a program of ours is on the role's XDP hook, as the kernel says; None where none is."""
    for hook in programs.HOOKS[desired.role]:
        ifindex = netdev.ifindex_of(desired.interfaces[hook.port])
        found = attach.read_hook(desired.role, hook, ifindex) if hook.kind == "xdp" and ifindex else None
        if found is not None and found.build is not None:
            return found.mode
    return None


def _carry_out(
    desired: Desired,
    observed: Observed,
    build: Build | None,
    contents: Mapping[str, Any] | None,
    steps: list[Step],
) -> None:
    hooks = [step.op for step in steps if isinstance(step.op, Hook)]
    kinds = {step.kind for step in steps}
    loads = bool(hooks) and not successors.pins_will_do(desired, observed)
    compiles = not observed.kept and (loads or "build" in kinds)
    preflight.check(desired, observed, build.flags if build else None, loads=loads, compiles=compiles)
    for step in steps:
        if isinstance(step.op, SwitchOn):
            netdev.set_up(step.op.interface)
    with ExitStack() as stack:
        if hooks:
            upgrade.take_over(desired, observed, hooks, build, contents, stack)
        elif "pin" in kinds:
            upgrade.pin_running(desired, observed, stack)
        if kept_builds.read(desired.role, desired.build) is None:
            successors.compiled(desired, build)
    for step in steps:
        if isinstance(step.op, Stray):
            attach.detach(step.op.role, step.op.kind, step.op.ifindex)
            if step.op.role != desired.role:
                attach.remove_pins(step.op.role)
                kept_builds.forget(step.op.role)
    for hook in programs.HOOKS[desired.role]:
        ifindex = observed.ifindex[hook.port]
        if hook.kind == "xdp" and ifindex is not None:
            attach.tidy_links(desired.role, ifindex)
    for path in attach.leftovers(desired.role, {desired.build}):
        attach.remove(Path(path))


def _remove(desired: Desired, observed: Observed, steps: list[Step]) -> None:
    for step in steps:
        if isinstance(step.op, Hook):
            ifindex = observed.ifindex[step.op.port]
            assert ifindex is not None  # something is attached to it
            attach.detach(desired.role, step.op.kind, ifindex)
        elif isinstance(step.op, Stray):
            attach.detach(desired.role, step.op.kind, step.op.ifindex)
    attach.remove_pins(desired.role)
    kept_builds.forget(desired.role)
