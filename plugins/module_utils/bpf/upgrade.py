# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One build takes over from another under traffic: fill, probe, swap, probe again, or go back.

Whatever ends this in the middle, packets meet programs whose maps are whole: the old ones until their hook is swapped,
the new ones from then on. What is left half done the next run finishes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    kept_builds,
    libbpf,
    preflight,
    programs,
    successors,
    trial,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    contents as map_contents,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import (
    HOOKS,
    Attached,
    Desired,
    Hook,
    Observed,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.successors import Build, Successors
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


def take_over(
    desired: Desired,
    observed: Observed,
    hooks: Sequence[Hook],
    build: Build | None,
    contents: Mapping[str, Any] | None,
    stack: ExitStack,
) -> None:
    """Put the wanted build on its hooks; on an error everything is as it was.

    :raises EdgewireError: naming what failed; if a probe did, with the packet, what was expected and what was found.
    """
    was_kept = kept_builds.read(desired.role, desired.build) is not None
    old = _previous_programs(observed, stack)
    try:
        new = successors.prepare(desired, observed, build, stack)
        fill(desired, new, contents)
        probe_new(desired, new)
        note_previous(desired, observed)
    except EdgewireError:
        _forget_new(desired, was_kept)
        raise
    # A new load brings an identity of its own, so then every hook must move, also one that was right by itself.
    moving = HOOKS[desired.role] if new.are_new else hooks
    try:
        swap(desired, observed, moving, new)
        probe_live(desired, new)
    except Exception as error:  # whatever it was, what served before serves again
        back = go_back(desired, observed, moving, old)
        _forget_new(desired, was_kept)
        if isinstance(error, EdgewireError):
            raise EdgewireError(f"{error}; {back}") from error
        raise
    catch_up(new)
    pin(desired, observed, new)
    catch_up(new)  # what was in the old programs when their hooks were swapped has long left them


def _previous_programs(observed: Observed, stack: ExitStack) -> dict[str, int]:
    """Descriptors of the programs that are attached, ours or not, so that they outlive the swap."""
    return {
        name: stack.enter_context(libbpf.closing(libbpf.prog_fd(found.program_id)))
        for name, found in observed.attached.items()
        if found is not None
    }


def fill(desired: Desired, new: Successors, contents: Mapping[str, Any] | None) -> None:
    """Let the new maps say what the running ones say and, where that is not all, what the plan says."""
    moving = new.transfer
    if moving.lost is not None and (contents is None or not new.are_understood) and not desired.force:
        raise EdgewireError(
            f"what the running {desired.role} maps say cannot be carried over: {moving.lost}. Give the role's object of"
            " the plan as contents, so that the new maps are full before packets meet them; with force they start empty"
        )
    moving.copy(new.map_fds)
    if contents is not None and new.are_understood and (moving.lost is not None or not moving.is_whole):
        map_contents.fill(desired.role, contents, new.maps)


def probe_new(desired: Desired, new: Successors) -> None:
    """Probes through the new programs, before any packet meets them."""
    if new.are_understood:
        try:
            trial.run(desired.role, new.programs, new.maps)
        except trial.ProbeError as error:
            raise EdgewireError(f"the new {desired.role} programs were not attached: {error}") from error


def swap(desired: Desired, observed: Observed, hooks: Sequence[Hook], new: Successors) -> None:
    """Each hook in one step, receivers before senders."""
    for hook in hooks:
        ifindex = observed.ifindex[hook.port]
        assert ifindex is not None  # the planner refused otherwise
        try:
            found = observed.attached[hook.program]
            attach.attach(desired.role, hook, ifindex, new.programs[hook.program], desired.xdp_mode, found)
        except libbpf.BpfError as error:
            if hook.kind == "xdp":
                raise EdgewireError(
                    preflight.refusal(desired.interfaces[hook.port], desired.xdp_mode, error)
                ) from error
            raise


def probe_live(desired: Desired, new: Successors) -> None:
    """Read the hooks back, and send probes through what is on them now."""
    observed = attach.observe(desired)
    left = [step.name for step in programs.plan(desired, observed) if isinstance(step.op, Hook)]
    if left:
        raise EdgewireError(f"attached, but read back different: {', '.join(left)}")
    if not new.are_understood:
        return
    with ExitStack() as stack:
        live = _previous_programs(observed, stack)
        trial.run(desired.role, live, new.maps)


def go_back(desired: Desired, observed: Observed, hooks: Sequence[Hook], old: Mapping[str, int]) -> str:
    """Put back what was on the hooks; what to tell of it."""
    failed = []
    for hook in reversed(hooks):
        ifindex = observed.ifindex[hook.port]
        assert ifindex is not None  # something was attached to it
        found = observed.attached[hook.program]
        try:
            there = attach.read_hook(desired.role, hook, ifindex)
            if found is not None and (there is None or there.program_id != found.program_id):
                _put_back(desired, hook, ifindex, old[hook.program], found, there)
            elif found is None and there is not None and there.build == desired.build:
                attach.detach(desired.role, hook.kind, ifindex)
        except EdgewireError as error:
            failed.append(f"{hook.program} on {desired.interfaces[hook.port]}: {error}")
    if failed:
        return f"going back failed, too: {'; '.join(failed)}"
    return "the previous programs and maps are back" if old else "nothing is attached"


def _put_back(
    desired: Desired, hook: Hook, ifindex: int, program_fd: int, found: Attached, there: Attached | None
) -> None:
    attach.attach(desired.role, hook, ifindex, program_fd, found.mode or desired.xdp_mode, there)


def _forget_new(desired: Desired, was_kept: bool) -> None:
    """A build that never served leaves nothing behind."""
    if not was_kept:
        kept_builds.path_of(desired.role, desired.build).unlink(missing_ok=True)


def catch_up(new: Successors) -> None:
    """Carry over what was counted and learned between copy and swap."""
    new.transfer.catch_up(new.map_fds)


def pin(desired: Desired, observed: Observed, new: Successors) -> None:
    """Keep the new programs, so that a hook that loses one can be repaired without loading.

    Those that they took over from stay pinned where both use the same maps: others would be stale when they are needed.
    """
    if not new.are_new:
        return
    attach.pin_programs(desired.role, desired.build, new.programs)
    if new.transfer.copies or new.transfer.lost is not None:
        for build in _replaced(desired, observed):
            attach.remove(attach.build_directory(desired.role, build))


def _replaced(desired: Desired, observed: Observed) -> list[bytes]:
    """The builds that were attached before, by the order of hooks."""
    found = (there.build for there in observed.attached.values() if there is not None)
    return [build for build in found if build is not None and build != desired.build]


def note_previous(desired: Desired, observed: Observed) -> None:
    """Write down which build this one takes over from, for a rollback: before it does, or a crash would forget it."""
    replaced = _replaced(desired, observed)
    kept = kept_builds.read(desired.role, desired.build)
    if not replaced or kept is None:
        return
    before = kept_builds.read(desired.role, replaced[0])
    is_rollback = before is not None and before.previous == desired.build
    if not is_rollback and kept.previous != replaced[0]:
        kept_builds.follow(desired.role, kept, replaced[0])


def pin_running(desired: Desired, observed: Observed, stack: ExitStack) -> None:
    """Pin the attached programs, whose pins were lost or never made."""
    attach.pin_programs(desired.role, desired.build, _previous_programs(observed, stack))
