# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a role's programs onto their hooks: what ``xdp_forwarder`` and ``tc_delivery`` call."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    kept_builds,
    map_io,
    programs,
    schema,
    sources,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import (
    HOOKS,
    Attached,
    Desired,
    Observed,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


@dataclass(frozen=True)
class Build:
    """What is compiled: the flattened source of a role and the compiler's flags."""

    role: str
    source: str
    flags: tuple[str, ...]

    @property
    def identity(self) -> bytes:
        """32 bytes that the loaded programs carry."""
        return sources.identity_of(self.role, self.source, self.flags)


def preview(desired: Desired, *, wireguard_may_be_missing: bool = False) -> list[Step]:
    """What :func:`ensure` would do; reads only."""
    observed = attach.observe(desired)
    return programs.plan(desired, observed, wireguard_may_be_missing=wireguard_may_be_missing)


def ensure(desired: Desired, build: Build | None) -> list[Step]:
    """Make the hooks what is desired; the steps that were taken. ``build`` is not needed to remove.

    Compiles only where neither the hooks, nor the pins, nor the disk have the wanted build. Map contents are carried
    over from the running programs where the layout is the same, before the swap.
    """
    observed = attach.observe(desired)
    steps = programs.plan(desired, observed)
    if not desired.present:
        if steps:
            _remove(desired, observed, steps)
        return steps
    if steps:
        assert build is not None
        attach.check_bpffs()
        hooks = [step.op for step in steps if step.op is not None]
        with ExitStack() as stack:
            if hooks:
                fds, is_new = _programs(desired, observed, build, stack)
                # A new set brings new maps, so then every hook must move, also one that was right by itself.
                for hook in HOOKS[desired.role] if is_new else hooks:
                    ifindex = observed.ifindex[hook.port]
                    assert ifindex is not None  # the planner refused otherwise
                    found = observed.attached[hook.program]
                    attach.attach(desired.role, hook, ifindex, fds[hook.program], desired.xdp_mode, found)
            if kept_builds.read(desired.role, desired.build) is None:
                _compiled(desired, build, stack)
        attach.remove_pins(desired.role, keep=desired.build.hex()[:16])
    return steps


def apply(desired: Desired, build: Build, check_mode: bool) -> list[Step]:
    """:func:`ensure`, or in check mode what it would do after the tasks that make the WireGuard device."""
    return preview(desired, wireguard_may_be_missing=True) if check_mode else ensure(desired, build)


def _programs(desired: Desired, observed: Observed, build: Build, stack: ExitStack) -> tuple[dict[str, int], bool]:
    """File descriptors of the wanted build's programs, from the pins where they fit; and whether they are new."""
    wanted = programs.current_map_set(desired, observed)
    if observed.pinned_map_set is not None and observed.pinned_map_set == wanted:
        return attach.open_pinned(desired.role, desired.build, stack), False

    fds, maps = _kept(desired, stack) or _compiled(desired, build, stack)
    running = _one_set(desired, observed)
    if running and all(found.schema == schema.schema_hash(desired.role) for found in running):
        with map_io.open_maps(desired.role, [found.program_id for found in running]) as old:
            map_io.carry_over(desired.role, old, maps)
    attach.pin_programs(desired.role, desired.build, fds)
    return fds, True


def _kept(desired: Desired, stack: ExitStack) -> tuple[dict[str, int], dict[str, int]] | None:
    """Programs and maps from the build that is kept on disk; None without one, or where this kernel refuses it."""
    build = kept_builds.read(desired.role, desired.build)
    if build is None:
        return None
    try:
        fds, maps = kept_builds.load(build, desired.role, _kinds(desired.role), stack)
    except EdgewireError:  # the kernel was upgraded, and what it refuses is compiled anew, or fails with all reasons
        return None
    map_io.make_one(desired.role, fds, maps, desired.build)
    return fds, maps


def _compiled(desired: Desired, build: Build, stack: ExitStack) -> tuple[dict[str, int], dict[str, int]]:
    """Programs and maps from the compiler; what it made is kept on disk."""
    from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import compiler

    kinds = _kinds(desired.role)
    loaded = compiler.compile_and_load(desired.role, build.source, build.flags, kinds, desired.build)
    stack.callback(loaded.close)
    kept_builds.keep(desired.role, desired.build, loaded.instructions, loaded.maps)
    return loaded.programs, loaded.maps


def _kinds(role: str) -> dict[str, str]:
    return {hook.program: hook.kind for hook in HOOKS[role]}


def _one_set(desired: Desired, observed: Observed) -> list[Attached]:
    """The attached programs that share their maps with the one that packets meet first.

    An upgrade that broke off leaves two sets; contents are carried over from one of them.
    """
    order = [observed.attached[hook.program] for hook in reversed(HOOKS[desired.role])]
    ours = [found for found in order if found is not None and found.build is not None]
    return [found for found in ours if found.map_set == ours[0].map_set]


def _remove(desired: Desired, observed: Observed, steps: list[Step]) -> None:
    for step in steps:
        if step.op is not None:
            ifindex = observed.ifindex[step.op.port]
            assert ifindex is not None  # something is attached to it
            attach.detach(desired.role, step.op, ifindex)
    attach.remove_pins(desired.role)
    kept_builds.forget(desired.role)
