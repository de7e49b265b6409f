# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile and load a role's programs with bcc, on the box that runs them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, map_io, schema
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


@dataclass(frozen=True)
class Loaded:
    """A role's programs and maps in the kernel, held by open file descriptors.

    They live until :meth:`close`, and on where they are attached or pinned by then. ``instructions`` are the programs'
    code as it was loaded: what stands for a map in it is one of the open descriptors.
    """

    programs: dict[str, int]
    maps: dict[str, int]
    instructions: dict[str, bytes]
    keep: Any

    def close(self) -> None:
        """Close all descriptors. By itself, bcc holds them until the process ends."""
        self.keep.cleanup()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """bcc's compiler and the verifier write to file descriptor 2; a module must keep that for its error message."""
    lines: list[str] = []
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def problems() -> list[str]:
    """What this machine lacks to compile, in words that say what to do; bcc itself is not imported yet."""
    found = []
    if importlib.util.find_spec("bcc") is None:
        found.append(
            f"bcc cannot be imported by {sys.executable}; install the distribution's package (Debian: python3-bpfcc)"
            " and run the module with the distribution's interpreter (ansible_python_interpreter: /usr/bin/python3)"
        )
    build = Path("/lib/modules", platform.release(), "build")
    if not build.exists() and not os.environ.get("BCC_KERNEL_SOURCE"):
        found.append(
            f"kernel headers are missing: {build} does not exist;"
            f" install them (Debian: linux-headers-{platform.release()}); linux-headers-amd64 brings those of the"
            " newest kernel, which may not be the one that runs until the next reboot"
        )
    return found


def _import_bcc() -> Any:
    try:
        import bcc
    except ImportError as exc:
        raise EdgewireError(f"bcc is there, but cannot be imported; reinstall python3-bpfcc: {exc}") from exc
    if not hasattr(bcc, "BPF"):
        raise EdgewireError(
            "the Python module bcc is not the BPF Compiler Collection (PyPI's package of that name is another thing);"
            " install the distribution's package (Debian: python3-bpfcc)"
        )
    return bcc


def compile_and_load(role: str, source: str, flags: Sequence[str], programs: dict[str, str], identity: bytes) -> Loaded:
    """Compile ``source``, load ``programs`` (name to kind, "xdp" or "tc") and write the identity into them.

    :raises EdgewireError: with the compiler's or the verifier's last lines.
    """
    missing = problems()
    if missing:
        raise EdgewireError("; ".join(missing))
    bcc = _import_bcc()
    stage = "compile"
    with _captured_stderr() as messages:
        try:
            bpf = bcc.BPF(text=source.encode(), cflags=list(flags))
            stage = "load"
            kinds = {"xdp": bcc.BPF.XDP, "tc": bcc.BPF.SCHED_CLS}
            fds = {name: bpf.load_func(name.encode(), kinds[kind]).fd for name, kind in programs.items()}
            maps = {spec.name: bpf[spec.name.encode()].map_fd for spec in layout.MAPS[role]}
            instructions = {name: bpf.dump_func(name.encode()) for name in programs}
            failure = None
        except Exception as exc:  # bcc raises bare Exception
            failure = exc
    if failure is not None:
        told = "\n".join(line for line in messages if line.strip())[-3000:]
        raise EdgewireError(f"the {role} programs did not {stage}: {failure}\n{told}")
    map_io.make_one(fds, maps, identity, schema.schema_hash(role))
    return Loaded(fds, maps, instructions, bpf)
