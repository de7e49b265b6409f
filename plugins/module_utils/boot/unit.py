# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a box runs with no controller around: what restores it at boot, what mends it when links flap, and, where asked
for, what writes its metrics.

To restore itself it needs its plan, the program that applies it, and the systemd unit that runs that.

Pure planning over a root directory; :func:`perform` carries the steps out.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import bundle, links, timer
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import derive

UNIT = "edgewire-restore.service"
UNIT_FILE = Path(f"etc/systemd/system/{UNIT}")
ENABLED = Path(f"etc/systemd/system/multi-user.target.wants/{UNIT}")
_DIRECTORY = Path("var/lib/edgewire/boot")
PROGRAM = _DIRECTORY / "restore.pyz"
SETTINGS = _DIRECTORY / "settings.json"
# Not the plan that the box was last given (plan/applied.py): the one that was last rolled out to the end. Where the
# lock-out guard took a change back, a reboot must not bring that change again.
PLAN = _DIRECTORY / "plan.json"
PRESHARED = _DIRECTORY / "preshared.json"
_SYSTEMD = Path("run/systemd/system")  # sd_booted(3)

# An edge comes before whatever waits for the network. A worker cannot: its bridge comes with the containers, and those
# may be waiting for the network.
_ORDER = {"edge": "Before=network-online.target\n", "worker": ""}
_UNIT_TEXT = """\
# Made by edgewire.fleet.boot_unit.
[Unit]
Description=Restore this box's part of the edgewire fleet from its last plan
After=local-fs.target systemd-sysctl.service network-pre.target
{order}StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
{check}
ExecStart=/usr/bin/python3 /{program} /{settings}
TimeoutStartSec=300
# What was missing may come.
Restart=on-failure
RestartSec=15

[Install]
WantedBy=multi-user.target
"""


_FILES = (UNIT_FILE, PROGRAM, SETTINGS, PRESHARED, PLAN)
_ABSENT: timer.Wanted = {**dict.fromkeys(_FILES, (None, 0, "")), **links.ABSENT}


@dataclass(frozen=True)
class WriteFile:
    """Write a file of this mode; None removes it."""

    path: Path
    content: bytes | None
    mode: int = 0o644


@dataclass(frozen=True)
class Enable:
    """Have a unit start at boot, or not; one that ``runs`` starts and stops with that, too."""

    unit: str
    link: Path
    target: Path
    wanted: bool
    runs: bool = False


def plan(params: Mapping[str, Any], root: Path = Path("/")) -> list[Step]:
    """The steps that make, or with ``state`` absent remove, what the box needs at boot and when links flap.

    ``params`` are the module's options: ``plan``, ``plan_file``, ``sources`` by role, ``capacity`` and, where the fleet
    has one, ``preshared_secret``. The secret itself stays off the box; the keys of its own pairs are kept, like its
    private key, for root alone.
    """
    absent = params.get("state") == "absent"
    metrics = None if absent else params["plan"].get("metrics")
    # What runs and is not wanted stops before its files go, what is starts when all is there.
    runs = [
        (bool(metrics), _switch(root, timer.UNIT, timer.ENABLED, timer.TIMER, bool(metrics), runs=True)),
        (not absent, _switch(root, links.UNIT, links.ENABLED, links.SOCKET, not absent, runs=True)),
    ]
    wanted = {**(_ABSENT if absent else _present(params)), **timer.wanted(metrics, root)}
    steps = [step for is_wanted, switch in runs for step in switch if not is_wanted]
    steps += [
        step for path, (content, mode, shown) in wanted.items() if (step := _file(root, path, content, mode, shown))
    ]
    steps += _switch(root, UNIT, ENABLED, UNIT_FILE, not absent)
    return steps + [step for is_wanted, switch in runs for step in switch if is_wanted]


def _switch(root: Path, unit: str, link: Path, target: Path, wanted: bool, runs: bool = False) -> list[Step]:
    """The step that enables or disables a unit, none where it is as wanted."""
    enabled = (root / link).is_symlink() and (root / link).readlink() == Path("/") / target
    before = "enabled" if enabled else "disabled"
    if runs and enabled and not _is_active(root, unit):
        before = "stopped"
    elif enabled and unit == UNIT and failure(root):
        before = "failed"
    after = "enabled" if wanted else "disabled"
    if before == after:
        return []
    return [
        make_step("unit", unit, {"state": before}, {"state": after}, Enable(unit, root / link, target, wanted, runs))
    ]


def _is_active(root: Path, unit: str) -> bool:
    """Whether a unit runs; where systemd does not, it is taken to."""
    return not (root / _SYSTEMD).is_dir() or _systemctl("is-active", "--quiet", unit).returncode == 0


def failure(root: Path = Path("/")) -> str | None:
    """How the unit that restores the box failed when it last ran (systemd.exec(5), ``$SERVICE_RESULT``), else None."""
    if not (root / _SYSTEMD).is_dir():
        return None
    done = _systemctl("show", "--property=Result", "--value", UNIT)
    result = done.stdout.strip()
    return result if done.returncode == 0 and result not in ("", "success") else None


def _present(params: Mapping[str, Any]) -> timer.Wanted:
    host_plan = params["plan"]
    roles = [role for role in ("edge", "worker") if host_plan.get(role)]
    names = [peer["name"] for peer in host_plan["wireguard"]["peers"] if peer.get("preshared")]
    secret = params.get("preshared_secret")
    keys = {} if secret is None else {name: derive(secret, host_plan["host"], name).reveal_base64() for name in names}
    settings = {
        "plan_file": f"/{PLAN}",
        "preshared_file": f"/{PRESHARED}",
        "sources": {role: params["sources"][role] for role in roles},
        "capacity": params.get("capacity") or {},
    }
    program = bundle.archive()
    unit = _UNIT_TEXT.format(
        order="".join(_ORDER[role] for role in roles),
        check=bundle.check_line(Path("/") / PROGRAM, program, "this box is not serving"),
        program=PROGRAM,
        settings=SETTINGS,
    )
    wanted: dict[Path, tuple[bytes | None, int, str]] = {
        PLAN: (_json(host_plan), 0o644, "this plan"),
        PRESHARED: (_json(keys) if keys else None, 0o600, f"keys of {len(keys)} peers"),
        SETTINGS: (_json(settings), 0o644, "sources and settings of this version"),
        PROGRAM: (program, 0o644, "the program of this version"),
        UNIT_FILE: (unit.encode(), 0o644, "the unit of this version"),
        **links.wanted(f"/{PLAN}", params["plan_file"]),
    }
    if names and secret is None:  # whether the keys on the box are right cannot be told without it
        del wanted[PRESHARED]
    return wanted


def _json(content: Any) -> bytes:
    # Without indent: with it, Python leaves the fast encoder aside, and the plan of a large fleet takes a second.
    return (json.dumps(content) + "\n").encode()


def _file(root: Path, path: Path, content: bytes | None, mode: int, shown: str) -> Step | None:
    """The step that gives a file its content and mode, None where it has both; the content itself is never shown."""
    target = root / path
    try:
        found: bytes | None = target.read_bytes()
        found_mode = target.stat().st_mode & 0o777
    except FileNotFoundError:
        found, found_mode = None, mode
    except OSError as error:
        raise EdgewireError(f"{target}: {error.strerror}") from None
    if found == content and found_mode == mode:
        return None
    before = None if found is None else {"holds": shown if found == content else "something else"}
    after = None if content is None else {"holds": shown}
    if before and after and found_mode != mode:
        before["mode"], after["mode"] = f"{found_mode:04o}", f"{mode:04o}"
    return make_step("file", f"/{path}", before, after, WriteFile(target, content, mode))


def perform(steps: list[Step], root: Path = Path("/")) -> None:
    """Carry out the steps of :func:`plan`, and let a running systemd know.

    :raises EdgewireError: naming the file that could not be written, or the unit that did not start.
    """
    booted = (root / _SYSTEMD).is_dir()
    for step in steps:
        try:
            if booted and isinstance(step.op, Enable) and not step.op.wanted:
                # What has no file any more would stay in systemd's memory for as long as it is active or failed. What a
                # timer or a socket has started may be at work, and would fail or leave something without its files.
                stopped = dict.fromkeys((step.op.unit, f"{step.op.unit.rpartition('.')[0]}.service"))
                _systemctl("stop", *stopped)
                _systemctl("reset-failed", *stopped)
            _perform(step.op)
        except OSError as error:
            raise EdgewireError(f"{step.name}: {error.strerror}") from None
    units = [step for step in steps if step.kind == "unit" or Path(step.name).parent == Path("/") / UNIT_FILE.parent]
    if not units or not booted:
        return
    _must("daemon-reload")
    started = [step.op.unit for step in units if isinstance(step.op, Enable) and step.op.runs and step.op.wanted]
    written = [Path(step.name).name for step in units if step.kind == "file" and step.after]
    for name in (timer.UNIT, links.UNIT):
        if name in (*started, *written):
            _must("restart", name)
    if any(step.name == UNIT and step.before == {"state": "failed"} and step.after for step in units):
        # It would try again by itself, but later. Not waited for: it takes its turn on the box after the caller's.
        _must("restart", "--no-block", UNIT)


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def _must(*arguments: str) -> None:
    done = _systemctl(*arguments)
    if done.returncode != 0:
        raise EdgewireError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")


def _perform(operation: WriteFile | Enable) -> None:
    if isinstance(operation, Enable):
        operation.link.unlink(missing_ok=True)
        if operation.wanted:
            operation.link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            operation.link.symlink_to(Path("/") / operation.target)
    elif operation.content is None:
        operation.path.unlink(missing_ok=True)
        _remove_if_empty(operation.path.parent)
    else:
        operation.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Durable: at boot, after a loss of power too, there may be no controller that could write it anew.
        write_if_changed(operation.path, operation.content, mode=operation.mode, durable=True)
        operation.path.chmod(operation.mode)


def _remove_if_empty(directory: Path) -> None:
    """Remove a directory of ours, and its parent of ours, where nothing is left in them."""
    for path in (directory, directory.parent):
        if path.name in ("boot", "edgewire") and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def apply(params: Mapping[str, Any], check_mode: bool) -> list[Step]:
    """Plan and, unless in check mode, perform; the steps."""
    steps = plan(params)
    if not check_mode:
        perform(steps)
    return steps
