# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would go wrong when programs are loaded and attached, all of it at once and before anything is touched."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import re
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import attach, compiler, layout, libbpf, netdev
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, Desired, Observed
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

OLDEST_KERNEL = (6, 1)
# Peak of bcc's compiler, measured with both roles' programs, in bytes.
COMPILER_MEMORY = 200 << 20
# What a native XDP frame must leave of its page: XDP_PACKET_HEADROOM, and struct skb_shared_info on 64 bit machines.
_PAGE_OVERHEAD, _ETHERNET = 256 + 320, 14
_MEMINFO = Path("/proc/meminfo")
_PASS = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit


def check(desired: Desired, observed: Observed, flags: Sequence[str] | None, *, loads: bool, compiles: bool) -> None:
    """Look for everything that the next steps need.

    :param flags: the compiler's, which have the maps' sizes; None where they are not known.
    :param loads: programs and maps are to be loaded; ``compiles``: and compiled before that.
    :raises EdgewireError: one, naming all that is wrong and what to do.
    """
    problems = [*_kernel(), *_bpffs()]
    if compiles:
        problems += compiler.problems()
    if loads and flags is not None:
        problems += _memory(desired.role, flags, compiles)
    if not problems:
        problems += _xdp(desired, observed)
    if problems:
        raise EdgewireError(f"nothing was changed: {'; '.join(problems)}")


def _kernel() -> list[str]:
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    if release is None or (int(release[1]), int(release[2])) < OLDEST_KERNEL:
        wanted = ".".join(map(str, OLDEST_KERNEL))
        return [f"Linux {platform.release()} is too old; the programs need {wanted} or newer"]
    return []


def _bpffs() -> list[str]:
    where = attach.BPFFS
    if not os.path.ismount(where):
        return [f"no bpffs is mounted at {where}; mount -t bpf bpf {where}"]
    if os.statvfs(where).f_flag & os.ST_RDONLY:
        return [f"the bpffs at {where} is mounted read-only; mount -o remount,rw {where}"]
    return []


def _memory(role: str, flags: Sequence[str], compiles: bool) -> list[str]:
    needed = maps_memory(role, flags) * (2 if compiles else 1)  # the compiler makes a set of its own
    needed += COMPILER_MEMORY if compiles else 0
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
    available = int(found[1]) << 10 if found else needed
    if available < needed:
        return [
            f"loading the {role} programs needs about {needed >> 20} MB of memory, and {available >> 20} MB are"
            " available; lower edgewire_capacity, or free some"
        ]
    return []


def maps_memory(role: str, flags: Sequence[str]) -> int:
    """Bytes that a role's maps take when they are made; those that grow with their contents count as empty."""
    sizes = {m[1].lower(): int(m[2]) for flag in flags if (m := re.match(r"-DMAX_(\w+)=(\d+)$", flag))}
    total = 0
    for spec in layout.MAPS[role]:
        entries = spec.max_entries if isinstance(spec.max_entries, int) else sizes[spec.max_entries]
        value = (spec.value.size + 7) // 8 * 8 * (libbpf.possible_cpus() if spec.type == "percpu_array" else 1)
        element = {"lpm_trie": 0, "hash": 64, "lru_hash": 80}.get(spec.type)  # struct htab_elem, and its bucket
        total += entries * (value if element is None else 0 if not element else element + spec.key.size + value)
    return total


def _xdp(desired: Desired, observed: Observed) -> list[str]:
    """Whether a hook that is free takes XDP in the wanted mode: only the driver knows, so it is asked."""
    problems = []
    for hook in HOOKS[desired.role]:
        ifindex = observed.ifindex[hook.port]
        if hook.kind != "xdp" or observed.attached.get(hook.program) is not None or ifindex is None:
            continue
        with ExitStack() as stack:
            program = stack.enter_context(libbpf.closing(libbpf.prog_load("ew_preflight", "xdp", _PASS)))
            try:
                link = stack.enter_context(
                    libbpf.closing(libbpf.xdp_link_create(program, ifindex, desired.xdp_mode)),
                )
                libbpf.link_detach(link)
            except libbpf.BpfError as error:
                problems.append(refusal(desired.interfaces[hook.port], desired.xdp_mode, error))
    return problems


def refusal(interface: str, mode: str, error: libbpf.BpfError) -> str:
    """Why an interface may have refused XDP, and what to do."""
    driver = netdev.driver_of(interface)
    who = f"{interface} ({driver})" if driver else interface
    mtu, largest = netdev.mtu(interface), mmap.PAGESIZE - _PAGE_OVERHEAD - _ETHERNET
    if mode == "native" and error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE) and mtu > largest:
        return (
            f"{who} refuses native XDP with an MTU of {mtu}: a frame must fit one page, which leaves {largest} bytes;"
            f" lower the MTU (ip link set {interface} mtu {largest}; of a veth, its peer's), or set xdp_mode generic"
        )
    if mode == "native" and error.errno == errno.EOPNOTSUPP:
        return (
            f"the driver of {who} has no native XDP; set xdp_mode (edgewire_xdp_mode) to generic, which works"
            " everywhere and is several times slower"
        )
    if mode == "native" and error.errno in (errno.EINVAL, errno.ERANGE):
        return (
            f"{who} refuses native XDP as it is set up ({error}); the kernel log says why: the MTU ({mtu}, of a veth"
            " its peer's), the number of queues and large receive offload are what drivers refuse; or set xdp_mode"
            " generic"
        )
    return f"{who} refuses XDP in {mode} mode: {error}"
