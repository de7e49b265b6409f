# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds a hook that is not ours: link, processes, pins; and how it is taken from them where that is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf

_BPF_LINK_TYPE_XDP = 6  # enum bpf_link_type
# libxdp's program, which calls those that its users attach one after another.
_DISPATCHER = "xdp_dispatcher"
_MOST_PINS = 10_000


def xdp_link_of(ifindex: int, program_id: int) -> int | None:
    """The id of the link by which a program is on an interface's XDP hook; None where it is there without one."""
    for link_id in libbpf.link_ids():
        with suppress(libbpf.BpfError), libbpf.closing(libbpf.link_fd(link_id)) as fd:
            info = libbpf.link_info(fd)
            if info.type == _BPF_LINK_TYPE_XDP and (info.ifindex, info.prog_id) == (ifindex, program_id):
                return link_id
    return None


def describe(program_id: int, name: str, link_id: int | None, kind: str) -> str:
    """What is known of a holder, for a person who has to decide: "link 9, process 123 (agent), pinned at …"."""
    told = []
    if kind == "xdp":
        told.append(f"link {link_id}" if link_id is not None else "attached without a link")
    wanted = {f"prog_id:\t{program_id}"} | ({f"link_id:\t{link_id}"} if link_id is not None else set())
    told += [f"process {pid} ({command})" for pid, command in _processes(wanted)]
    told += [f"pinned at {path}" for path in _pins(program_id, link_id)]
    if name == _DISPATCHER:
        told.append("libxdp's dispatcher, which runs the programs of others: see xdp-loader status")
    return ", ".join(told)


def _processes(wanted: set[str]) -> Iterator[tuple[int, str]]:
    """Processes that hold a descriptor whose fdinfo has one of the wanted lines."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for entry in (process / "fdinfo").iterdir():
                with suppress(OSError):
                    if wanted & set(entry.read_text().splitlines()):
                        yield int(process.name), (process / "comm").read_text().strip()
                        break


def _pins(program_id: int, link_id: int | None) -> Iterator[str]:
    """Where the program or the link is pinned, in every bpffs of this mount namespace."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    looked_at = 0
    for root in sorted({fields[1] for fields in (line.split() for line in mounts) if fields[2] == "bpf"}):
        for path in Path(root).rglob("*"):
            looked_at += 1
            if looked_at > _MOST_PINS:
                return
            with suppress(libbpf.BpfError, OSError), libbpf.closing(libbpf.open_pin(str(path))) as fd:
                kind = re.search(r"bpf[-_](prog|link)", str(Path(f"/proc/self/fd/{fd}").readlink()))
                if kind and kind[1] == "prog" and libbpf.prog_info(fd).id == program_id:
                    yield str(path)
                if kind and kind[1] == "link" and libbpf.link_info(fd).id == link_id:
                    yield str(path)


def displace_xdp(ifindex: int, program_id: int, mode: str) -> None:
    """Take a program off the XDP hook, whoever put it there."""
    link_id = xdp_link_of(ifindex, program_id)
    if link_id is None:
        libbpf.xdp_detach(ifindex, mode)
        return
    with libbpf.closing(libbpf.link_fd(link_id)) as fd:
        libbpf.link_detach(fd)
