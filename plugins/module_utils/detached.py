# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that goes on after the module: it has the module's memory, and nothing of it is on disk or in arguments."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def fork(name: str, work: Callable[[], None]) -> tuple[int, Callable[[], None]]:
    """A process of its own session that does ``work`` and ends: its number, and what lets it begin.

    ``name``, at most 15 bytes (TASK_COMM_LEN), is what ps(1) and pgrep(1) call it.
    """
    ready, begin = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _detach(name, ready)
            work()
            os._exit(0)
        finally:  # never back into the caller's stack: what is open there is the parent's
            os._exit(1)
    os.close(ready)
    _own_scope(name, pid)
    return pid, lambda: os.close(begin)


def stat(pid: int) -> tuple[str, int, int] | None:
    """Name, parent and start (clock ticks since boot) of a process, proc(5); None if it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]), int(fields[19])


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot: with its number, this tells it from a later one."""
    found = stat(pid)
    return found[2] if found else None


def _detach(name: str, ready: int) -> None:
    """Leave the session and hold nothing that is the parent's, not its output, for which SSH waits, nor the lock."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    kept = os.dup2(ready, 3)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    Path("/proc/self/comm").write_text(name, encoding="ascii")
    os.read(kept, 1)  # ends when the parent closes its side
    os.close(kept)


def _own_scope(name: str, pid: int) -> None:
    """Move the process out of the session's control group, so that the end of the session does not end it.

    logind does that where it says KillUserProcesses=yes. Without systemd there is no such group.
    """
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    unit = ("StartTransientUnit", "ssa(sv)a(sa(sv))", f"{name}-{pid}.scope", "fail")
    properties = ("1", "PIDs", "au", "1", str(pid), "0")
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["busctl", "--quiet", "call", *manager, *unit, *properties]
        subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=5)
