# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of libbpf that this collection calls, with Python types and exceptions.

libbpf.so.1 comes with ``python3-bpfcc`` (Debian: libbpf1), so reading and writing programs, links and maps needs no
compiler and does not pay for importing bcc. Signatures are libbpf 1.x's ``bpf/bpf.h``; all calls return a negative
errno on failure, which becomes :class:`BpfError`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf_structs as structs
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

XDP_FLAGS = {"generic": 1 << 1, "native": 1 << 2, "offload": 1 << 3}
XDP_MODES = {1: "native", 2: "generic", 3: "offload", 4: "multiple"}
BPF_XDP = 37  # enum bpf_attach_type
PROG_TYPES = {"tc": 3, "xdp": 6}  # enum bpf_prog_type: BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP
BPF_TC_INGRESS, BPF_TC_EGRESS = 1, 2  # enum bpf_tc_attach_point
BPF_TC_F_REPLACE = 1
BPF_TCX_INGRESS = 46  # enum bpf_attach_type
_MOST_TCX = 64  # BPF_MPROG_MAX
TC_HANDLE = 1
BPF_MAP_TYPE_ARRAY = 2  # enum bpf_map_type
BPF_MAP_TYPE_PERCPU_ARRAY = 6


class BpfError(EdgewireError):
    """A bpf(2) call failed. ``errno`` is the positive error number."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
        self.errno = number


@dataclass(frozen=True)
class ProgInfo:
    """A loaded program: kernel id, name (15 characters at most) and the ids of the maps it references."""

    id: int
    name: str
    map_ids: tuple[int, ...]


@dataclass(frozen=True)
class MapInfo:
    """A map: kernel id, name, type number, sizes in bytes of one key and one value, capacity in entries."""

    id: int
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class LinkInfo:
    """A BPF link. ``ifindex`` is 0 when the interface it held is gone."""

    id: int
    type: int
    prog_id: int
    ifindex: int


@dataclass(frozen=True)
class XdpQuery:
    """What the kernel says is on an interface's XDP hook: program id and mode, or None and None."""

    prog_id: int | None
    mode: str | None


@dataclass(frozen=True)
class ProgramRun:
    """What a program made of one packet: its return value, the packet after it, nanoseconds a run."""

    retval: int
    data: bytes
    duration: int


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf, loaded at the first call."""
    try:
        loaded = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as exc:
        raise EdgewireError(
            f"libbpf.so.1 is not there; it comes with python3-bpfcc (Debian package libbpf1): {exc}"
        ) from exc
    loaded.libbpf_set_print(None)  # it would write the kernel's messages into a module's stderr
    return loaded


def call(what: str, name: str, *args: object) -> int:
    """Call a function of the library; what it returns.

    :raises BpfError: it returned a negative number.
    """
    result = int(getattr(library(), name)(*args))
    if result < 0:
        raise BpfError(what, -result if result != -1 else ctypes.get_errno() or -result)
    return result


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a file descriptor that a call of this module returned, whatever happens."""
    try:
        yield fd
    finally:
        os.close(fd)


def _info(fd: int, info: ctypes.Structure, what: str) -> None:
    size = ctypes.c_uint32(ctypes.sizeof(info))
    call(what, "bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(size))


def prog_info(fd: int) -> ProgInfo:
    """Id, name and map ids of the program behind ``fd``."""
    info = structs.ProgInfo()
    _info(fd, info, "reading program info")
    ids = (ctypes.c_uint32 * info.nr_map_ids)()
    count = info.nr_map_ids
    # The second call must not ask for the instructions again, only for the map ids.
    info = structs.ProgInfo(nr_map_ids=count, map_ids=ctypes.addressof(ids))
    _info(fd, info, "reading program info")
    return ProgInfo(info.id, info.name.decode(), tuple(ids))


def map_info(fd: int) -> MapInfo:
    """Shape and name of the map behind ``fd``."""
    info = structs.MapInfo()
    _info(fd, info, "reading map info")
    return MapInfo(
        info.id,
        info.name.decode(),
        info.type,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
    )


def link_info(fd: int) -> LinkInfo:
    """What the BPF link behind ``fd`` holds."""
    info = structs.LinkInfo()
    _info(fd, info, "reading link info")
    return LinkInfo(info.id, info.type, info.prog_id, info.ifindex)


def prog_fd(prog_id: int) -> int:
    """A new file descriptor for a program by id; the caller closes it."""
    return call(f"opening program {prog_id}", "bpf_prog_get_fd_by_id", ctypes.c_uint32(prog_id))


def map_fd(map_id: int) -> int:
    """A new file descriptor for a map by id; the caller closes it."""
    return call(f"opening map {map_id}", "bpf_map_get_fd_by_id", ctypes.c_uint32(map_id))


def bind_map(program_fd: int, map_fd: int) -> None:
    """Make a program hold a map, also one that its code does not use (BPF_PROG_BIND_MAP, Linux 5.10)."""
    call("binding a map to a program", "bpf_prog_bind_map", program_fd, map_fd, None)


def map_create(name: str, kind: int, key_size: int, value_size: int, max_entries: int, flags: int) -> int:
    """A new map's file descriptor; ``kind`` is of enum bpf_map_type, sizes are in bytes."""
    opts = structs.MapCreateOpts(sz=ctypes.sizeof(structs.MapCreateOpts), map_flags=flags)
    shape = (key_size, value_size, max_entries, ctypes.byref(opts))
    return call(f"making map {name}", "bpf_map_create", kind, name.encode(), *shape)


def prog_load(name: str, kind: str, instructions: bytes) -> int:
    """Load instructions, whose map loads hold descriptors, as a program of ``kind`` "xdp" or "tc"; its descriptor."""
    count = ctypes.c_size_t(len(instructions) // 8)
    return call(
        f"loading program {name}", "bpf_prog_load", PROG_TYPES[kind], name.encode(), b"GPL", instructions, count, None
    )


def pin(fd: int, path: str) -> None:
    """Pin a program, map or link at a path below a bpffs."""
    call(f"pinning {path}", "bpf_obj_pin", fd, path.encode())


def open_pin(path: str) -> int:
    """A new file descriptor for what is pinned at ``path``; the caller closes it."""
    try:
        return call(f"opening pin {path}", "bpf_obj_get", path.encode())
    except BpfError as error:
        if error.errno == errno.EROFS:  # links cannot be opened for reading only
            raise EdgewireError(
                f"{path} is on a bpffs that is mounted read-only; mount -o remount,rw that, and run again"
            ) from None
        raise


def xdp_link_create(program_fd: int, ifindex: int, mode: str) -> int:
    """Attach a program to an interface's XDP hook by a link; the link's file descriptor.

    :raises BpfError: EBUSY where somebody else holds the hook, EOPNOTSUPP where the driver lacks the mode.
    """
    opts = structs.LinkCreateOpts(sz=ctypes.sizeof(structs.LinkCreateOpts), flags=XDP_FLAGS[mode])
    what = f"attaching XDP in {mode} mode to interface index {ifindex}"
    return call(what, "bpf_link_create", program_fd, ifindex, BPF_XDP, ctypes.byref(opts))


def link_update(link_fd: int, program_fd: int) -> None:
    """Swap the program of a link atomically."""
    call("swapping the program of a link", "bpf_link_update", link_fd, program_fd, None)


def link_detach(link_fd: int) -> None:
    """Take a link off its hook at once; closing or unpinning the last reference only does so in the kernel's time."""
    call("detaching the link", "bpf_link_detach", link_fd)


def link_ids() -> Iterator[int]:
    """The ids of all BPF links of this machine, of every namespace."""
    number = ctypes.c_uint32(0)
    while library().bpf_link_get_next_id(number, ctypes.byref(number)) == 0:
        yield number.value


def link_fd(link_id: int) -> int:
    """A new file descriptor for a link by id; the caller closes it."""
    return call(f"opening link {link_id}", "bpf_link_get_fd_by_id", ctypes.c_uint32(link_id))


def xdp_detach(ifindex: int, mode: str) -> None:
    """Take off an interface's XDP hook what was attached there in a mode without a link."""
    call(f"detaching XDP from interface index {ifindex}", "bpf_xdp_detach", ifindex, XDP_FLAGS[mode], None)


def xdp_query(ifindex: int) -> XdpQuery:
    """The program on an interface's XDP hook and the mode in force, from the kernel (rtnetlink IFLA_XDP)."""
    opts = structs.XdpQueryOpts(sz=ctypes.sizeof(structs.XdpQueryOpts))
    what = f"querying XDP of interface index {ifindex}"
    call(what, "bpf_xdp_query", ifindex, 0, ctypes.byref(opts))
    prog_id = opts.prog_id or opts.drv_prog_id or opts.skb_prog_id or opts.hw_prog_id
    return XdpQuery(prog_id or None, XDP_MODES.get(opts.attach_mode))


def _tc_hook(ifindex: int, points: int = BPF_TC_INGRESS) -> structs.TcHook:
    return structs.TcHook(sz=ctypes.sizeof(structs.TcHook), ifindex=ifindex, attach_point=points)


def _tc_opts(priority: int, **more: int) -> structs.TcOpts:
    return structs.TcOpts(sz=ctypes.sizeof(structs.TcOpts), handle=TC_HANDLE, priority=priority, **more)


def tc_query(ifindex: int, priority: int) -> int | None:
    """Program id of the filter on an interface's TC ingress at a priority (handle 1), None where there is none."""
    opts = _tc_opts(priority)
    try:
        what = f"querying TC ingress of interface index {ifindex}"
        call(what, "bpf_tc_query", ctypes.byref(_tc_hook(ifindex)), ctypes.byref(opts))
    except BpfError as exc:
        # EINVAL is what the kernel says where there is no clsact qdisc at all; ENODEV: gone since it was listed.
        if exc.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
            return None
        raise
    return int(opts.prog_id) or None


def tcx_ingress(ifindex: int) -> list[int]:
    """Ids of the programs that run before all filters of TC ingress (tcx, Linux 6.6); none on older kernels."""
    ids, count, flags = (ctypes.c_uint32 * _MOST_TCX)(), ctypes.c_uint32(_MOST_TCX), ctypes.c_uint32()
    found = library().bpf_prog_query(ifindex, BPF_TCX_INGRESS, 0, ctypes.byref(flags), ids, ctypes.byref(count))
    return list(ids[: count.value]) if found == 0 else []


def tc_attach(ifindex: int, priority: int, program_fd: int) -> None:
    """Put a direct-action filter on TC ingress, in one step where there is one at that priority already."""
    what = f"attaching to TC ingress of interface index {ifindex}"
    hook = _tc_hook(ifindex)
    try:
        call(what, "bpf_tc_hook_create", ctypes.byref(hook))
    except BpfError as exc:
        if exc.errno != errno.EEXIST:  # the clsact qdisc may be there, ours or another's
            raise
    opts = _tc_opts(priority, prog_fd=program_fd, flags=BPF_TC_F_REPLACE)
    call(what, "bpf_tc_attach", ctypes.byref(hook), ctypes.byref(opts))


def tc_detach(ifindex: int, priority: int) -> None:
    """Remove the filter at a priority from TC ingress; the qdisc stays."""
    what = f"detaching from TC ingress of interface index {ifindex}"
    call(what, "bpf_tc_detach", ctypes.byref(_tc_hook(ifindex)), ctypes.byref(_tc_opts(priority)))


def tc_remove_qdisc(ifindex: int) -> None:
    """Remove an interface's clsact qdisc with all that is on it: the caller made sure that nothing is."""
    what = f"removing the clsact qdisc of interface index {ifindex}"
    hook = _tc_hook(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS)
    call(what, "bpf_tc_hook_destroy", ctypes.byref(hook))


def run_program(program_fd: int, packet: bytes, repeat: int = 1, out_size: int = 4096, flags: int = 0) -> ProgramRun:
    """Run a loaded program on one packet (BPF_PROG_TEST_RUN); nothing is sent.

    ``packet`` starts at the Ethernet header. ``duration`` is the mean of ``repeat`` runs in ns.
    """
    data_in = ctypes.create_string_buffer(packet, len(packet))
    data_out = ctypes.create_string_buffer(out_size)
    opts = structs.TestRunOpts(
        sz=ctypes.sizeof(structs.TestRunOpts),
        data_in=ctypes.addressof(data_in),
        data_size_in=len(packet),
        data_out=ctypes.addressof(data_out),
        data_size_out=out_size,
        repeat=repeat,
        flags=flags,
    )
    call("running a program on a packet", "bpf_prog_test_run_opts", program_fd, ctypes.byref(opts))
    return ProgramRun(opts.retval, data_out.raw[: opts.data_size_out], opts.duration)


@functools.cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds for one key."""
    return call("counting CPUs", "libbpf_num_possible_cpus")
