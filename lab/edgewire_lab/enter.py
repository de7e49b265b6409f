# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running a command in a box from outside, as `lab/run` does: into the namespaces of its PID 1."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from .shell import LabError

NOT_RUN = 125  # env(1), docker and podman say this, too: the command was not even tried
_CANNOT_EXECUTE = 126
_NOT_FOUND = 127
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CLONE_NEWNS = 0x00020000
_CLONE_NEWCGROUP = 0x02000000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_BOX = _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET
_PR_SET_PDEATHSIG = 1


def environment() -> dict[str, str]:
    """What a login of root would have; nothing of the host's leaks in."""
    return {
        "PATH": _PATH,
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
    }


def in_box(init_pid: int, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a box and keep what it prints; for the lab's own needs."""
    entry = ["nsenter", f"--target={init_pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
    return subprocess.run(
        [*entry, "--", *command],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def become_box_command(init_pid: int, command: Sequence[str]) -> NoReturn:
    """Run the command in the box in this process's place: its streams, its signals, its exit status.

    Not nsenter: whoever kills that leaves the command running in the box, unseen.
    """
    _set_namespaces(os.pidfd_open(init_pid), _BOX)
    _fork_and_follow(command)


def become_netns_command(netns_path: str, command: Sequence[str]) -> NoReturn:
    """The same for the router, which is only a network namespace: everything else is the host's."""
    descriptor = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
    _set_namespaces(descriptor, _CLONE_NEWNET)
    os.close(descriptor)
    _execute(command)


def _set_namespaces(descriptor: int, kinds: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kinds) != 0:
        raise LabError(f"entering it failed: {os.strerror(ctypes.get_errno())} (root is needed)")


def _fork_and_follow(command: Sequence[str]) -> NoReturn:
    """A process stays in the PID namespace that it was born in, so the command must be a child."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        # When we are killed in a way that cannot be passed on, the command goes, too.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _execute(command)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, pass_on)
    # The terminal sends this to the command itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _execute(command: Sequence[str]) -> NoReturn:
    # Python ignores SIGPIPE; what is run in a pipeline must not.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), environment())
    except FileNotFoundError:
        os.write(2, f"lab/run: {command[0]}: not found\n".encode())
        os._exit(_NOT_FOUND)
    except OSError as error:
        os.write(2, f"lab/run: {command[0]}: {error.strerror}\n".encode())
        os._exit(_CANNOT_EXECUTE)
