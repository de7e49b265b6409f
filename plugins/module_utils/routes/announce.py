# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling others on the host what is ours: two files, and a restart of systemd-networkd where it has not read its one.

Left to itself, systemd-networkd removes rules and blackhole routes that it did not make whenever it is given a link
(version 252, tests/kernel/test_routes.py), and with them what fails closed.
Its networkd.conf is read only at its start (networkctl reload does not), so a running one that is older than the file
is restarted; it keeps addresses and leases over a restart. iproute2's file gives our protocol number a name.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step

NETWORKD_FILE = "etc/systemd/networkd.conf.d/edgewire.conf"
PROTOCOL_FILE = "etc/iproute2/rt_protos.d/edgewire.conf"
UNIT = "systemd-networkd.service"
OUR_NAME = "edgewire"
_HEADER = "# Made by edgewire.fleet.routes, which removes it with its routes.\n"
_NETWORKD = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"


@dataclass(frozen=True)
class WriteFile:
    """Write the file; None: remove it."""

    path: Path
    content: str | None


@dataclass(frozen=True)
class RestartNetworkd:
    """Restart systemd-networkd so that it reads the file. The file is touched first: it is then older for sure."""

    path: Path


def networkd_started() -> float | None:
    """When the running systemd-networkd was started, seconds since 1970; None if none runs."""
    if not Path("/run/systemd/netif").is_dir():  # it has never run since boot
        return None
    try:
        show = ["systemctl", "show", "-p", "ActiveState", "-p", "ExecMainStartTimestampMonotonic", UNIT]
        done = subprocess.run(show, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if found.get("ActiveState") != "active":
        return None
    ago = time.clock_gettime(time.CLOCK_MONOTONIC) - int(found["ExecMainStartTimestampMonotonic"]) / 1e6
    return time.time() - ago


def check_names(table: int, protocol: int, root: Path = Path("/")) -> None:
    """EdgewireError, naming all, if another tool has given our table or our protocol number a name of its own.

    iproute2 reads NAME and NAME.d/*.conf in these directories; whoever takes a number for itself says so there.
    """
    taken = []
    for name, number, what in (("rt_tables", table, "table"), ("rt_protos", protocol, "protocol number")):
        for directory in ("etc/iproute2", "usr/share/iproute2", "usr/lib/iproute2"):
            for path in (root / directory / name, *sorted((root / directory / f"{name}.d").glob("*.conf"))):
                for line in (_read(path) or "").splitlines():
                    words = line.partition("#")[0].split()
                    if len(words) > 1 and _number(words[0]) == number and words[1] != OUR_NAME:
                        taken.append(f"{what} {number} is called {words[1]} in {path}")
    if taken:
        raise EdgewireError(f"in use by another tool, choose other numbers: {'; '.join(taken)}")


def plan(
    protocol: int,
    absent: bool,
    root: Path = Path("/"),
    started: Callable[[], float | None] = networkd_started,
) -> list[Step]:
    """The steps that make, or remove, the two files and make systemd-networkd know its one.

    Taking the file away restarts nothing: networkd minds its own business until it is restarted by somebody else.
    """
    wanted = {NETWORKD_FILE: _HEADER + _NETWORKD, PROTOCOL_FILE: f"{_HEADER}{protocol}\t{OUR_NAME}\n"}
    steps = []
    for name, content in wanted.items():
        path = root / name
        have, after = _read(path), None if absent else content
        if have != after:
            operation = (WriteFile(path, after),)
            steps.append(make_step("file", f"/{name}", _shown(have), _shown(after), operation))
    path = root / NETWORKD_FILE
    begun = None if absent else started()
    if begun is not None and (_read(path) != wanted[NETWORKD_FILE] or begun < path.stat().st_mtime):
        before, after_restart = {"knows": "not yet"}, {"knows": f"/{NETWORKD_FILE}"}
        steps.append(make_step("service", UNIT, before, after_restart, (RestartNetworkd(path),)))
    return steps


def perform(steps: list[Step]) -> None:
    """Carry out the steps of `plan`; raises EdgewireError."""
    for step in steps:
        for operation in step.op:
            try:
                _perform(operation)
            except OSError as error:
                raise EdgewireError(f"{step.name}: {error.strerror}") from None


def _perform(operation: WriteFile | RestartNetworkd) -> None:
    path = operation.path
    if isinstance(operation, RestartNetworkd):
        os.utime(path)
        done = subprocess.run(["systemctl", "restart", UNIT], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EdgewireError(f"restarting {UNIT}: {done.stderr.strip()}")
    elif operation.content is None:
        path.unlink(missing_ok=True)
        if path.parent.name == "networkd.conf.d" and not any(path.parent.iterdir()):
            path.parent.rmdir()
    else:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_if_changed(path, operation.content.encode())


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _shown(content: str | None) -> dict[str, str] | None:
    return None if content is None else {"content": content}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EdgewireError(f"{path}: {error.strerror}") from None
