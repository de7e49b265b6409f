# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the wanted build, ready to be attached: from pins, from disk, or from the compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    kept_builds,
    libbpf,
    map_io,
    programs,
    schema,
    sources,
    transfer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.kept_builds import KeptBuild
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, Attached, Desired, Observed
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.transfer import Transfer
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


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


@dataclass
class Successors:
    """Descriptors of programs and maps by name, what becomes of the running maps' contents, and the maps' schema.

    ``are_new`` tells a load from pins of what runs already.
    """

    programs: Mapping[str, int]
    maps: map_io.Maps
    transfer: Transfer
    schema: schema.Schema
    are_new: bool
    role: str

    @property
    def map_fds(self) -> dict[str, int]:
        """The maps' descriptors."""
        return {name: found.fd for name, found in self.maps.items()}

    @property
    def are_understood(self) -> bool:
        """Whether this version of the collection can read the maps."""
        return self.schema.hash == schema.schema_hash(self.role)


def kinds_of(role: str) -> dict[str, str]:
    """The kinds of a role's programs by name."""
    return {hook.program: hook.kind for hook in HOOKS[role]}


def running_set(desired: Desired, observed: Observed) -> list[Attached]:
    """The attached programs of the load that packets meet first.

    An upgrade that broke off leaves two; contents are carried over from one of them.
    """
    order = [observed.attached[hook.program] for hook in reversed(HOOKS[desired.role])]
    ours = [found for found in order if found is not None and found.build is not None]
    ours += [stray.found for stray in observed.strays if stray.role == desired.role]
    return [found for found in ours if found.map_set == ours[0].map_set]


def pins_will_do(desired: Desired, observed: Observed) -> bool:
    """Whether the wanted build is pinned, with the maps that the running programs use."""
    pinned = observed.pinned_map_set
    if pinned is None or pinned != programs.current_map_set(desired, observed):
        return False
    running = running_set(desired, observed)
    if all(found.map_set == pinned for found in running):
        return True
    kept = kept_builds.read(desired.role, desired.build)
    if kept is None or running[0].schema != kept.schema.hash:
        return False
    with ExitStack() as stack:
        fds = attach.open_pinned(desired.role, desired.build, stack)
        ids = [libbpf.prog_info(fd).id for fd in fds.values()]
        ours = transfer.open_running(ids, kept.schema, stack)
        theirs = transfer.open_running([found.program_id for found in running], kept.schema, stack)
        return transfer.shares_all(theirs, ours, kept.schema)


def prepare(desired: Desired, observed: Observed, build: Build | None, stack: ExitStack) -> Successors:
    """The wanted build's programs with the maps that they shall use; nothing is attached, pinned or copied yet."""
    if pins_will_do(desired, observed):
        return _pinned(desired, stack)
    kept = kept_builds.read(desired.role, desired.build)
    if kept is not None:
        try:
            return _load(desired, observed, kept, stack)
        except libbpf.BpfError:
            # The kernel was upgraded, and what it refuses is compiled anew, or fails with all reasons.
            if build is None:
                raise
    return _load(desired, observed, compiled(desired, build), stack)


def compiled(desired: Desired, build: Build | None) -> KeptBuild:
    """The wanted build from the compiler; it is kept on disk."""
    if build is None:
        raise EdgewireError(f"build {desired.build.hex()[:16]} of the {desired.role} programs is not kept on this box")
    from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import compiler

    kinds = kinds_of(desired.role)
    loaded = compiler.compile_and_load(desired.role, build.source, build.flags, kinds, desired.build)
    try:
        made = kept_builds.build_of(desired.role, desired.build, loaded.instructions, loaded.maps)
    finally:
        loaded.close()
    kept_builds.keep(desired.role, made)
    return made


def _pinned(desired: Desired, stack: ExitStack) -> Successors:
    fds = attach.open_pinned(desired.role, desired.build, stack)
    kept = kept_builds.read(desired.role, desired.build)
    known = kept.schema if kept else schema.of_role(desired.role)
    maps = transfer.open_running([libbpf.prog_info(fd).id for fd in fds.values()], known, stack).maps
    named = {known.maps[name].name: found for name, found in maps.items() if name in known.maps}
    return Successors(fds, named, Transfer(), known, False, desired.role)


def _load(desired: Desired, observed: Observed, kept: KeptBuild, stack: ExitStack) -> Successors:
    running = _running_maps(desired, observed, stack)
    moving = transfer.plan(running, kept.maps, kept.schema)
    fds, maps = kept_builds.load(kept, kinds_of(desired.role), stack, moving.shared)
    map_io.make_one(fds, maps, desired.build, kept.schema.hash)
    opened = {name: map_io.OpenMap(fd, libbpf.map_info(fd)) for name, fd in maps.items()}
    return Successors(fds, opened, moving, kept.schema, True, desired.role)


def _running_maps(desired: Desired, observed: Observed, stack: ExitStack) -> transfer.Running | None:
    running: Sequence[Attached] = running_set(desired, observed)
    if not running:
        return None
    first = running[0]
    assert first.build is not None  # these are ours
    kept = kept_builds.read(desired.role, first.build)
    known = kept.schema if kept else None
    if known is None and first.schema == schema.schema_hash(desired.role):
        known = schema.of_role(desired.role)
    return transfer.open_running([found.program_id for found in running], known, stack)
