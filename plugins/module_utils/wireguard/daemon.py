# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting and stopping wireguard-go, the daemon behind a userspace device.

Where systemd runs, the daemon is a transient unit. It is not restarted on failure: a fresh daemon
makes a fresh device, without key, peers, addresses, routes and our mark, and an empty device hides
from a glance what a missing one shows. Applying the plan again is what repairs it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.userspace import (
    elsewhere,
    socket_path,
    socket_state,
)

_SECONDS = 10.0  # to start or to stop; it takes some 0.1 s
_PROGRAM = "wireguard-go"


def unit_name(interface: str) -> str:
    """The transient systemd unit that runs the daemon of this device."""
    return f"edgewire-wireguard-go-{interface}.service"


def start(interface: str, link_exists: Callable[[], bool]) -> None:
    """Start the daemon and wait until its device and its socket are there.

    Raises EdgewireError if wireguard-go is missing, fails, or the socket belongs to somebody else.
    """
    if socket_state(interface) == "live":
        where = "another network namespace" if elsewhere(interface) else "a daemon without a device"
        raise EdgewireError(f"{socket_path(interface)} is in use by {where}; stop that first")
    socket_path(interface).unlink(missing_ok=True)
    if not Path("/dev/net/tun").exists():
        raise EdgewireError(
            f"{interface}: wireguard-go needs /dev/net/tun, which is not there: modprobe tun, or give the"
            " container the device"
        )
    running = _start_unit(interface) if _systemd() else _spawn(interface)
    deadline = time.monotonic() + _SECONDS
    while not (link_exists() and socket_state(interface) == "live"):
        if not running() or time.monotonic() > deadline:
            raise EdgewireError(
                f"{interface}: wireguard-go did not come up; journalctl -u {unit_name(interface)} says why, or,"
                f" without systemd, {_PROGRAM} -f {interface}"
            )
        time.sleep(0.02)


def stop(interface: str, remove_link: Callable[[], None]) -> None:
    """End the daemon by taking its device away, and clear its unit, its socket, and the directory where it is empty."""
    if _systemd():
        for verb in ("stop", "reset-failed"):
            _run("systemctl", verb, "--quiet", unit_name(interface), check=False)
    remove_link()
    deadline = time.monotonic() + _SECONDS
    while socket_state(interface) == "live" and not elsewhere(interface):
        if time.monotonic() > deadline:
            raise EdgewireError(
                f"{interface}: its wireguard-go does not end: kill the process that has {socket_path(interface)} open"
            )
        time.sleep(0.02)
    clear_dead_socket(interface)
    with suppress(OSError):  # it has other daemons' sockets, or was never made
        socket_path(interface).parent.rmdir()


def clear_dead_socket(interface: str) -> None:
    """Remove a socket at which nobody answers."""
    if socket_state(interface) == "dead":
        socket_path(interface).unlink(missing_ok=True)


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _start_unit(interface: str) -> Callable[[], bool]:
    unit = unit_name(interface)
    _run("systemctl", "reset-failed", "--quiet", unit, check=False)
    _run(
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        f"--description=WireGuard device {interface} (edgewire.fleet)",
        "--property=Restart=no",
        "--setenv=LOG_LEVEL=error",
        _PROGRAM,
        "-f",
        interface,
    )

    def running() -> bool:
        state = ("systemctl", "is-active", "--quiet", unit)
        return _run(*state, check=False).returncode == 0

    return running


def _spawn(interface: str) -> Callable[[], bool]:
    """Without systemd: a child in a session of its own, in this process's network namespace."""
    try:
        daemon = subprocess.Popen(
            [_PROGRAM, "-f", interface],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "LOG_LEVEL": "error"},
            cwd="/",
        )
    except FileNotFoundError:
        raise EdgewireError(_missing()) from None
    return lambda: daemon.poll() is None


def _run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EdgewireError(f"{argv[0]} is missing on this host; install the package that brings it") from None
    if check and done.returncode != 0:
        text = done.stderr.strip()
        detail = _missing() if "executable" in text or "not found" in text else text
        raise EdgewireError(f"{argv[0]} failed with status {done.returncode}: {detail}")
    return done


def _missing() -> str:
    package = f"apt-get install --no-install-recommends {_PROGRAM}"
    return f"{_PROGRAM} is missing, and the kernel has no WireGuard. On Debian: {package}"
