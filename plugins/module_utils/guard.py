# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock-out guard: a change is taken back unless the controller reaches the box anew and says so.

Before a backend changes anything, `Guard.arm` forks a process that holds what there was, secrets included, in its
memory and nowhere else. At the deadline it takes the box's lock and restores that through the same backend. It
stands down when its record has gone; `confirm` removes that for a caller whose SSH connection is another one than that
over which the guard was armed: a connection that was there before a change may live on where no new one gets through.

The record, ``/run/edgewire/guard/NAME.json``, says who stands guard and until when, and afterwards that it fired.
Whoever changes a record holds the box's lock.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import subprocess
import syslog
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import turn

DIRECTORY = "/run/edgewire/guard"
_PROCESS_NAME = "edgewire-guard"  # 15 bytes at most, TASK_COMM_LEN
_SSH_SERVERS = ("sshd", "dropbear")  # OpenSSH 9.8 and later: sshd-session
_LOOK_SECONDS = 0.25  # between two looks at the record

Restore = Callable[[], list[Step]]


@dataclass(frozen=True)
class Record:
    """Who stands guard over what. ``deadline`` is in seconds of CLOCK_BOOTTIME."""

    name: str
    id: str  # new with each arming, also where a process that stands already goes on
    pid: int
    started: int  # with the pid, tells the process from a later one; clock ticks since boot
    connection: str  # over which it was armed, see `connection_of`
    deadline: float
    state: Literal["armed", "fired", "failed"] = "armed"
    told: str = ""  # what was restored, or why not

    @property
    def shown(self) -> dict[str, Any]:
        """The record as a step shows it: nothing in it depends on when one looks."""
        state = "lost" if self.state == "armed" and _started(self.pid) != self.started else self.state
        return {"state": state, **({"told": self.told} if self.told else {})}


class Guard:
    """The guard over one thing ("wireguard" "wg0", "routes" 7700) in a run that may change it.

    Without ``seconds``, or where the run did not come over SSH and so cannot cut itself off, it guards nothing.
    """

    def __init__(self, kind: str, thing: object, seconds: int | None = 0, connection: str | None = None) -> None:
        self.name = f"{kind}-{thing}"
        self.seconds = seconds or 0
        self.connection = connection or connection_of(os.getpid())
        self.id: str | None = None

    @property
    def shown(self) -> dict[str, Any] | None:
        """What a module returns for the controller to confirm; None where nothing is guarded."""
        return {"name": self.name, "id": self.id, "seconds": self.seconds} if self.id else None

    def found(self) -> list[Step]:
        """A step that does away with what an earlier run left: a guard that stands, or the word that it fired."""
        record = read(self.name)
        return [make_step("guard", self.name, record.shown, None)] if record else []

    def arm(self, prepare: Callable[[], Restore]) -> None:
        """Stand guard from now on; to be called before the first change. The caller holds the box's lock.

        ``prepare`` collects what the restoring will need; it is called if that is going to be used.

        Where an earlier change of the same thing was not confirmed yet, its guard goes on with a new deadline: what it
        restores is what there was when the controller was last known to get through.
        """
        if not self.seconds or self.connection is None:
            self.clear()
            return
        record = read(self.name)
        self.id, deadline = secrets.token_hex(8), _now() + self.seconds
        if record is not None and record.shown["state"] == "armed":
            _write(replace(record, id=self.id, connection=self.connection, deadline=deadline))
            return
        pid, release = _fork(self.name, prepare())
        _write(Record(self.name, self.id, pid, _started(pid) or 0, self.connection, deadline))
        release()

    def settle(self) -> None:
        """Take over what an earlier run left, in a run that has nothing to change. The caller holds the box's lock."""
        record = read(self.name)
        if record is not None and record.shown["state"] == "armed":
            self.arm(lambda: list)  # the process that stands keeps what it has
        else:
            self.clear()

    def clear(self) -> None:
        """Stand down, or forget that a guard fired. The caller holds the box's lock."""
        _path(self.name).unlink(missing_ok=True)


def confirm(name: str, ident: str, connection: str | None) -> bool:
    """Stand down because the controller has come anew, over ``connection``. The caller holds the box's lock.

    False if there was nothing to do: another run has made a change since and answers for it. EdgewireError if the
    change was taken back already, or if this connection proves nothing.
    """
    record = read(name)
    if record is not None and record.state != "armed":
        _path(name).unlink()
        outcome = "was rolled back" if record.state == "fired" else "could not be rolled back"
        raise EdgewireError(f"{name}: the controller did not come back in time; the change {outcome}: {record.told}")
    if record is None or record.id != ident:
        return False
    if connection is None or connection == record.connection:
        raise EdgewireError(
            f"{name}: this is the connection over which the change was made; only a new one shows that the host can "
            "still be reached"
        )
    _path(name).unlink()
    return True


def read(name: str) -> Record | None:
    """The record, None if there is none that can be read."""
    try:
        return Record(**json.loads(_path(name).read_text(encoding="utf-8")))
    except (FileNotFoundError, PermissionError, ValueError, TypeError):
        return None


def connection_of(pid: int) -> str | None:
    """The SSH connection that a process came over, None if it came over none.

    It is the nearest ancestor that is an SSH server's process, of which there is one for each connection; unlike
    SSH_CONNECTION it is still known behind sudo.
    """
    while pid > 1:
        name, parent, started = _stat(pid) or ("", 0, 0)
        if name.startswith(_SSH_SERVERS):
            return f"{pid}:{started}"
        pid = parent
    return None


def _path(name: str) -> Path:
    return Path(DIRECTORY) / f"{name}.json"


def _write(record: Record) -> None:
    directory = Path(DIRECTORY)
    directory.parent.mkdir(mode=0o755, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    temporary = directory / f".{record.name}.tmp"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(asdict(record), stream)
    temporary.replace(_path(record.name))


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _stat(pid: int) -> tuple[str, int, int] | None:
    """Name, parent and start (clock ticks since boot) of a process, proc(5); None if it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return name, int(fields[1]), int(fields[19])


def _started(pid: int) -> int | None:
    found = _stat(pid)
    return found[2] if found else None


def _fork(name: str, restore: Restore) -> tuple[int, Callable[[], None]]:
    """A process of its own session that stands guard, and what lets it begin, once its record is written."""
    ready, begin = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _detach(ready)
            _stand(name, restore)
        finally:  # never back into the caller's stack: what is open there is the parent's
            os._exit(1)
    os.close(ready)
    _own_scope(pid)
    return pid, lambda: os.close(begin)


def _detach(ready: int) -> None:
    """Leave the session and hold nothing that is the parent's, not its output, for which SSH waits, nor the lock."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    kept = os.dup2(ready, 3)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    Path("/proc/self/comm").write_text(_PROCESS_NAME, encoding="ascii")
    os.read(kept, 1)  # ends when the parent closes its side
    os.close(kept)


def _own_scope(pid: int) -> None:
    """Move the guard out of the session's control group, so that the end of the session does not end it.

    logind does that where it says KillUserProcesses=yes. Without systemd there is no such group.
    """
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    unit = ("StartTransientUnit", "ssa(sv)a(sa(sv))", f"{_PROCESS_NAME}-{pid}.scope", "fail")
    properties = ("1", "PIDs", "au", "1", str(pid), "0")
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["busctl", "--quiet", "call", *manager, *unit, *properties]
        subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=5)


def _stand(name: str, restore: Restore) -> NoReturn:
    """Wait for the deadline or for the record to go; then restore, or do nothing."""
    while True:
        time.sleep(_LOOK_SECONDS)
        record = read(name)
        if record is None or record.pid != os.getpid():
            os._exit(0)
        if _now() < record.deadline:
            continue
        with suppress(EdgewireError), turn():  # somebody who holds the lock for long: look again after that
            # Whoever had the lock may have confirmed, or changed more.
            if read(name) == record:
                _fire(record, restore)
                os._exit(0)


def _fire(record: Record, restore: Restore) -> None:
    try:
        told = ", ".join(f"{step.verb} {step.kind} {step.name}" for step in restore())
        after = replace(record, state="fired", told=told or "nothing had been changed")
    except Exception as error:  # nobody else is there to hear of it
        after = replace(record, state="failed", told=f"{type(error).__name__}: {error}")
    _write(after)
    syslog.openlog("edgewire", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, f"{record.name}: no new connection in time; rollback {after.state}: {after.told}")


def answer(params: Mapping[str, Any]) -> dict[str, Any]:
    """What the module `guard` does and returns."""
    return {"changed": False, "confirmed": confirm(params["name"], params["id"], connection_of(os.getpid()))}
