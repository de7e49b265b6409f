# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's side of a role's programs: read the hooks, swap what is on them, keep the pins.

Pins live in ``/sys/fs/bpf/edgewire/ROLE``: ``link`` is the XDP link (it holds the hook when no process does; for a
moment there is ``link-new`` beside it), and one directory per build holds its programs, so that a hook can be repaired
without compiling. TC goes through libbpf: the pyroute2 of Debian 12 does not read a filter's program id.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    batches,
    holders,
    kept_builds,
    layout,
    libbpf,
    netdev,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import (
    HOOKS,
    TC_PRIORITY,
    Attached,
    Desired,
    Hook,
    HookKind,
    Observed,
    Stray,
)

BPFFS = Path("/sys/fs/bpf")


def pin_root(role: str) -> Path:
    """Where a role's pins are."""
    return BPFFS / "edgewire" / role


def build_directory(role: str, build: bytes) -> Path:
    """Where one build's programs are pinned."""
    return pin_root(role) / build.hex()[:16]


def read_attached(program_id: int) -> Attached:
    """Identity of a loaded program, read through its own map ids."""
    with libbpf.closing(libbpf.prog_fd(program_id)) as fd:
        info = libbpf.prog_info(fd)
    for map_id in info.map_ids:
        with libbpf.closing(libbpf.map_fd(map_id)) as fd:
            shape = libbpf.map_info(fd)
            if shape.name == "ew_identity" and shape.value_size == layout.IDENTITY.size:
                _, value = batches.read_all(fd, shape)
                record = next(layout.IDENTITY.iter_unpack(value))
                return Attached(program_id, info.name, record["build"], record["schema"], map_id)
    return Attached(program_id, info.name, None, None, None)


def _read_xdp(ifindex: int, role: str) -> Attached | None:
    query = libbpf.xdp_query(ifindex)
    if query.prog_id is None:
        return None
    found = read_attached(query.prog_id)
    links = pinned_links(role).values()
    linked = any((link.prog_id, link.ifindex) == (query.prog_id, ifindex) for link in links)
    return replace(found, mode=query.mode, linked=linked)


def pinned_links(role: str) -> dict[Path, libbpf.LinkInfo]:
    """The pinned XDP links by path. An ifindex is 0 where the interface is gone."""
    found = {}
    for path in (pin_root(role) / "link", pin_root(role) / "link-new"):
        if path.exists():
            with libbpf.closing(libbpf.open_pin(str(path))) as fd:
                found[path] = libbpf.link_info(fd)
    return found


def _read(role: str, kind: HookKind, ifindex: int) -> Attached | None:
    if kind == "xdp":
        return _read_xdp(ifindex, role)
    program_id = libbpf.tc_query(ifindex, TC_PRIORITY[role])
    return read_attached(program_id) if program_id else None


def read_hook(role: str, hook: Hook, ifindex: int) -> Attached | None:
    """What is on one hook of an interface, whoever put it there; of others also who they are."""
    found = _read(role, hook.kind, ifindex)
    if found is None or (found.build is not None and found.linked):
        return found
    link = holders.xdp_link_of(ifindex, found.program_id) if hook.kind == "xdp" else None
    return replace(found, holder=holders.describe(found.program_id, found.name, link, hook.kind))


def ours_everywhere(role: str) -> Iterator[Stray]:
    """A role's programs on the hooks of all interfaces of this network namespace; no pin and no file is trusted."""
    for ifindex, interface in socket.if_nameindex():
        for kind in sorted({hook.kind for hook in HOOKS[role]}):
            found = _read(role, kind, ifindex)
            if found is not None and found.build is not None:
                yield Stray(role, kind, interface, ifindex, found)


def _strays(desired: Desired) -> tuple[Stray, ...]:
    """Programs of ours where none is wanted: after a change of an interface's or a host's role in the inventory."""
    wanted = {(hook.kind, desired.interfaces[hook.port]) for hook in HOOKS[desired.role]}
    roles = sorted(HOOKS) if desired.alone and desired.present else [desired.role]
    return tuple(
        stray
        for role in roles
        for stray in ours_everywhere(role)
        if role != desired.role or (stray.kind, stray.interface) not in wanted
    )


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
    ifindex = {port: netdev.ifindex_of(name) for port, name in desired.interfaces.items()}
    attached: dict[str, Attached | None] = {}
    for hook in HOOKS[desired.role]:
        index = ifindex[hook.port]
        attached[hook.program] = None if index is None else read_hook(desired.role, hook, index)
    root = pin_root(desired.role)
    pins = tuple(str(path) for path in sorted(root.iterdir())) if root.exists() else ()
    kept = kept_builds.read(desired.role, desired.build) is not None
    # A WireGuard interface that is down is repaired with the rest of it.
    given = {desired.interfaces[hook.port] for hook in HOOKS[desired.role] if hook.port != "wireguard"}
    down = tuple(sorted(name for name in given if netdev.ifindex_of(name) and not netdev.is_up(name)))
    running = {found.build for found in attached.values() if found is not None and found.build is not None}
    return Observed(
        attached,
        ifindex,
        pinned_map_set(desired.role, desired.build),
        pins,
        kept,
        _strays(desired),
        down if desired.present else (),
        tuple(leftovers(desired.role, {desired.build, *running})) if desired.present else (),
    )


def leftovers(role: str, builds: Collection[bytes]) -> list[str]:
    """Pins and kept builds that are neither of the given builds nor of those from which or to which these lead."""
    root = pin_root(role)
    files = kept_builds.leftovers(role, builds)
    known = {"link", *(build_directory(role, build).name for build in kept_builds.related(role, builds))}
    pins = [path for path in sorted(root.iterdir()) if path.name not in known] if root.exists() else []
    return [str(path) for path in (*pins, *files)]


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


def attach_xdp(role: str, ifindex: int, program_fd: int, mode: str, found: Attached | None) -> None:
    """Put a program on the XDP hook: by swapping our link's program, else by a new pinned link.

    A change of mode cannot be a swap (the mode belongs to the link): there the hook is empty for a moment. Our link of
    another interface goes when the new one is there.
    """
    path = pin_root(role) / "link"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    links = pinned_links(role)
    # Of another namespace's interface of the same number our link does not hold this hook's program.
    ours = [p for p, link in links.items() if found and (link.ifindex, link.prog_id) == (ifindex, found.program_id)]
    if ours and found is not None and found.mode == mode:
        with libbpf.closing(libbpf.open_pin(str(ours[0]))) as fd:
            libbpf.link_update(fd, program_fd)
    else:
        if found is not None and not ours:
            holders.displace_xdp(ifindex, found.program_id, found.mode or mode)  # the planner was told to
        fresh = path.with_name("link-new")
        for other in {*ours, fresh}:
            _drop_link(other)
        with libbpf.closing(libbpf.xdp_link_create(program_fd, ifindex, mode)) as fd:
            libbpf.pin(fd, str(fresh))
    tidy_links(role, ifindex)


def tidy_links(role: str, ifindex: int) -> None:
    """Keep the link that holds an interface's hook, under its name; every other one goes.

    An older link may name the same number and program, if its interface is in another namespace now: where the newer
    one could be made, the older did not hold this hook.
    """
    held = libbpf.xdp_query(ifindex).prog_id
    links = dict(reversed(pinned_links(role).items()))
    kept = [path for path, link in links.items() if (link.ifindex, link.prog_id) == (ifindex, held)]
    for path in links:
        if path not in kept[:1]:
            _drop_link(path)
    if kept and kept[0].name != "link":
        kept[0].rename(kept[0].with_name("link"))


def attach(role: str, hook: Hook, ifindex: int, program_fd: int, mode: str, found: Attached | None) -> None:
    """Put a program on its hook, replacing an older one of ours in one step."""
    if hook.kind == "xdp":
        attach_xdp(role, ifindex, program_fd, mode, found)
    else:
        libbpf.tc_attach(ifindex, TC_PRIORITY[role], program_fd)


def detach(role: str, kind: HookKind, ifindex: int) -> None:
    """Take our program off a hook."""
    if kind == "tc":
        libbpf.tc_detach(ifindex, TC_PRIORITY[role])
        _remove_empty_qdisc(ifindex)
        return
    for path, link in pinned_links(role).items():
        if link.ifindex == ifindex:
            _drop_link(path)
    left = _read_xdp(ifindex, role)
    if left is not None and left.build is not None and left.mode is not None:
        holders.displace_xdp(ifindex, left.program_id, left.mode)  # ours, by a link that lost its pin


def _remove_empty_qdisc(ifindex: int) -> None:
    """An empty clsact qdisc does nothing; leave none behind, but never remove one that somebody's filter is on."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        for parent in (0xFFFFFFF2, 0xFFFFFFF3):  # clsact's ingress and egress (linux/pkt_sched.h)
            if any(True for _ in route.get_filters(index=ifindex, parent=parent)):
                return
    libbpf.tc_remove_qdisc(ifindex)


def remove(path: Path) -> None:
    """Remove a pin, or a directory of pins; one that is gone already is no error."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_pins(role: str) -> None:
    """Remove all pins of a role; a link is taken off its hook, if that is still there."""
    root = pin_root(role)
    if not root.exists():
        return
    for path in pinned_links(role):
        _drop_link(path)
    for path in root.iterdir():
        remove(path)
    root.rmdir()
    if not any(root.parent.iterdir()):
        root.parent.rmdir()
