# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processes are the lab's. The process table is the only truth: there is no pid file that could be stale."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .shell import LabError
from .topology import Box


def nspawn_of(box: Box) -> list[int]:
    return [pid for pid, argv in _all() if _is_nspawn(argv, f"--directory={box.root}")]


def supervisor_of(box: Box) -> int | None:
    for pid, argv in _all():
        if _is_supervisor(argv, box.state) and argv[-1] == box.name:
            return pid
    return None


def init_of(box: Box) -> int | None:
    """The box's PID 1, as the host numbers it; None while the box is down or still being put together."""
    for parent in nspawn_of(box):
        for pid in _children(parent):
            # Until it becomes systemd, PID 1 is a fork of nspawn and looks like it.
            argv = _argv(pid)
            if argv and _pid_in_namespace(pid) == 1 and not _is_nspawn(argv, ""):
                return pid
    return None


def all_of(state: Path, netns: Iterable[Path]) -> list[int]:
    """Everything that runs because of the lab: supervisors first, then machines, then whoever is in a lab namespace."""
    table = list(_all())
    supervisors = [pid for pid, argv in table if _is_supervisor(argv, state)]
    machines = [pid for pid, argv in table if _is_nspawn(argv, f"--directory={state}/")]
    spaces = {_identity(path) for path in netns if path.exists()}
    dwellers = [pid for pid, _ in table if _identity(Path(f"/proc/{pid}/ns/net")) in spaces]
    return list(dict.fromkeys([*supervisors, *machines, *dwellers]))


def kill(pids: Iterable[int], seconds: float = 15.0) -> None:
    """Kill and wait until they are gone: a mount or a namespace is busy as long as one of them lives."""
    waiting = list(pids)
    for pid in waiting:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while waiting := [pid for pid in waiting if _is_alive(pid)]:
        if time.monotonic() > deadline:
            raise LabError(f"these processes of the lab do not die: {' '.join(map(str, waiting))}")
        time.sleep(0.05)


def _all() -> Iterator[tuple[int, list[str]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name), _argv(int(entry.name))


def _argv(pid: int) -> list[str]:
    """Empty for kernel threads, zombies, and whoever has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _is_nspawn(argv: list[str], directory: str) -> bool:
    return bool(argv) and Path(argv[0]).name == "systemd-nspawn" and any(arg.startswith(directory) for arg in argv)


def _is_supervisor(argv: list[str], state: Path) -> bool:
    return len(argv) > 4 and argv[-4:-1] == ["--state", str(state), "supervise"] and argv[-5].endswith("labctl")


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _pid_in_namespace(pid: int) -> int | None:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return int(numbers[-1]) if len(numbers) > 1 else None
    return None


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
