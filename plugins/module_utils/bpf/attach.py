# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's side of a role's programs: read the hooks, swap what is on them, keep the pins.

Pins live in ``/sys/fs/bpf/edgewire/ROLE``: ``link`` is the XDP link (it holds the hook when no process does), and one
directory per build holds its programs, so that a hook can be repaired without compiling. TC goes through libbpf: the
pyroute2 of Debian 12 does not read a filter's program id.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import kept_builds, layout, libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import (
    HOOKS,
    TC_PRIORITY,
    Attached,
    Desired,
    Hook,
    Observed,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

BPFFS = Path("/sys/fs/bpf")


def pin_root(role: str) -> Path:
    """Where a role's pins are."""
    return BPFFS / "edgewire" / role


def build_directory(role: str, build: bytes) -> Path:
    """Where one build's programs are pinned."""
    return pin_root(role) / build.hex()[:16]


def ifindex_of(interface: str) -> int | None:
    """Interface index by name in this network namespace, None where there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None


def read_attached(program_id: int) -> Attached:
    """Identity of a loaded program, read through its own map ids."""
    with libbpf.closing(libbpf.prog_fd(program_id)) as fd:
        info = libbpf.prog_info(fd)
    for map_id in info.map_ids:
        with libbpf.closing(libbpf.map_fd(map_id)) as fd:
            shape = libbpf.map_info(fd)
            if shape.name == "ew_identity" and shape.value_size == layout.IDENTITY.size:
                _, value = libbpf.read_all(fd, shape)
                record = next(layout.IDENTITY.iter_unpack(value))
                return Attached(program_id, info.name, record["build"], record["schema"], map_id)
    return Attached(program_id, info.name, None, None, None)


def _read_xdp(ifindex: int, role: str) -> Attached | None:
    query = libbpf.xdp_query(ifindex)
    if query.prog_id is None:
        return None
    found = read_attached(query.prog_id)
    link = read_link(role)
    linked = link is not None and link.prog_id == query.prog_id and link.ifindex == ifindex
    return Attached(found.program_id, found.name, found.build, found.schema, found.map_set, query.mode, linked)


def read_link(role: str) -> libbpf.LinkInfo | None:
    """The pinned XDP link, None where there is no pin. Its ifindex is 0 when the interface is gone."""
    path = pin_root(role) / "link"
    if not path.exists():
        return None
    with libbpf.closing(libbpf.open_pin(str(path))) as fd:
        return libbpf.link_info(fd)


def read_hook(role: str, hook: Hook, ifindex: int) -> Attached | None:
    """What is on one hook of an interface, whoever put it there."""
    if hook.kind == "xdp":
        return _read_xdp(ifindex, role)
    program_id = libbpf.tc_query(ifindex, TC_PRIORITY[role])
    return read_attached(program_id) if program_id else None


def pinned_map_set(role: str, build: bytes) -> int | None:
    """The map set of a complete set of pinned programs of a build; None where anything is missing or mixed."""
    directory = build_directory(role, build)
    sets = set()
    for hook in HOOKS[role]:
        path = directory / hook.program
        if not path.exists():
            return None
        with libbpf.closing(libbpf.open_pin(str(path))) as fd:
            program = read_attached(libbpf.prog_info(fd).id)
        if program.build != build:
            return None
        sets.add(program.map_set)
    return sets.pop() if len(sets) == 1 else None


def observe(desired: Desired) -> Observed:
    """Read the hooks, interfaces and pins that concern a role."""
    ifindex = {port: ifindex_of(name) for port, name in desired.interfaces.items()}
    attached: dict[str, Attached | None] = {}
    for hook in HOOKS[desired.role]:
        index = ifindex[hook.port]
        attached[hook.program] = None if index is None else read_hook(desired.role, hook, index)
    root = pin_root(desired.role)
    leftovers = tuple(str(path) for path in sorted(root.iterdir())) if root.exists() else ()
    kept = kept_builds.read(desired.role, desired.build) is not None
    return Observed(attached, ifindex, pinned_map_set(desired.role, desired.build), leftovers, kept)


def check_bpffs() -> None:
    """:raises EdgewireError: where no bpffs is mounted at /sys/fs/bpf, so that nothing could be pinned."""
    if not os.path.ismount(BPFFS):
        raise EdgewireError(f"no bpffs is mounted at {BPFFS}; mount -t bpf bpf {BPFFS}")


def pin_programs(role: str, build: bytes, programs: Mapping[str, int]) -> None:
    """Pin one build's programs; the directory gets its name only when all are in it."""
    directory = build_directory(role, build)
    staging = directory.with_name(directory.name + "-new")  # bpffs refuses names with a dot
    for old in (staging, directory):
        shutil.rmtree(old, ignore_errors=True)
    staging.mkdir(parents=True, mode=0o700)
    for name, fd in programs.items():
        libbpf.pin(fd, str(staging / name))
    staging.rename(directory)


def open_pinned(role: str, build: bytes, stack: ExitStack) -> dict[str, int]:
    """File descriptors of one build's pinned programs, by name; ``stack`` closes them."""
    directory = build_directory(role, build)
    return {
        hook.program: stack.enter_context(libbpf.closing(libbpf.open_pin(str(directory / hook.program))))
        for hook in HOOKS[role]
    }


def _drop_link(path: Path) -> None:
    """Take the pinned link off its hook and remove the pin; without a pin there is nothing to do.

    Unpinning alone frees the hook only later: whoever attaches or looks at once would find it taken.
    """
    if path.exists():
        with libbpf.closing(libbpf.open_pin(str(path))) as fd:
            libbpf.link_detach(fd)
        path.unlink()


def _pin_new_link(path: Path, program_fd: int, ifindex: int, mode: str) -> None:
    with libbpf.closing(libbpf.xdp_link_create(program_fd, ifindex, mode)) as fd:
        libbpf.pin(fd, str(path))


def attach_xdp(role: str, ifindex: int, program_fd: int, mode: str, found: Attached | None) -> None:
    """Put a program on the XDP hook: by swapping our link's program, else by a new pinned link.

    A change of mode cannot be a swap (the mode belongs to the link): there the hook is empty for a moment.
    """
    path = pin_root(role) / "link"
    link = read_link(role)
    if link is not None and found is not None and link.ifindex == ifindex and found.mode == mode:
        with libbpf.closing(libbpf.open_pin(str(path))) as fd:
            libbpf.link_update(fd, program_fd)
        return
    with ExitStack() as stack:
        old_fd = stack.enter_context(libbpf.closing(libbpf.prog_fd(found.program_id))) if found is not None else None
        if link is not None:
            _drop_link(path)  # of another interface, another mode, or outliving an interface that is gone
        try:
            _pin_new_link(path, program_fd, ifindex, mode)
        except libbpf.BpfError:
            if old_fd is not None and found is not None and found.mode is not None:
                _pin_new_link(path, old_fd, ifindex, found.mode)  # what worked before goes on working
            raise


def attach(role: str, hook: Hook, ifindex: int, program_fd: int, mode: str, found: Attached | None) -> None:
    """Put a program on its hook, replacing an older one of ours in one step."""
    if hook.kind == "xdp":
        attach_xdp(role, ifindex, program_fd, mode, found)
    else:
        libbpf.tc_attach(ifindex, TC_PRIORITY[role], program_fd)


def detach(role: str, hook: Hook, ifindex: int) -> None:
    """Take our program off its hook."""
    if hook.kind == "xdp":
        _drop_link(pin_root(role) / "link")
    else:
        libbpf.tc_detach(ifindex, TC_PRIORITY[role])
        _remove_empty_qdisc(ifindex)


def _remove_empty_qdisc(ifindex: int) -> None:
    """An empty clsact qdisc does nothing; leave none behind, but never remove one that somebody's filter is on."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        for parent in (0xFFFFFFF2, 0xFFFFFFF3):  # clsact's ingress and egress (linux/pkt_sched.h)
            if any(True for _ in route.get_filters(index=ifindex, parent=parent)):
                return
    libbpf.tc_remove_qdisc(ifindex)


def remove_pins(role: str, keep: str | None = None) -> None:
    """Remove pinned builds other than ``keep``; without ``keep`` everything of the role."""
    root = pin_root(role)
    if not root.exists():
        return
    for path in root.iterdir():
        if keep is None or path.name not in (keep, "link"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    if keep is None:
        root.rmdir()
        if not any(root.parent.iterdir()):
            root.parent.rmdir()
