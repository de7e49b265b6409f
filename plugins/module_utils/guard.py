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
import secrets
import syslog
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ansible_collections.edgewire.fleet.plugins.module_utils import detached
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import turn

DIRECTORY = "/run/edgewire/guard"
_PROCESS_NAME = "edgewire-guard"
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
        state = "lost" if self.state == "armed" and detached.started(self.pid) != self.started else self.state
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
        pid, release = detached.fork(_PROCESS_NAME, _watch(self.name, prepare()))
        _write(Record(self.name, self.id, pid, detached.started(pid) or 0, self.connection, deadline))
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
        name, parent, started = detached.stat(pid) or ("", 0, 0)
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


def _watch(name: str, restore: Restore) -> Callable[[], None]:
    """Wait for the deadline or for the record to go; then restore, or do nothing."""

    def watch() -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            record = read(name)
            if record is None or record.pid != os.getpid():
                return
            if _now() < record.deadline:
                continue
            with suppress(EdgewireError), turn():  # somebody who holds the lock for long: look again after that
                # Whoever had the lock may have confirmed, or changed more.
                if read(name) == record:
                    _fire(record, restore)
                    return

    return watch


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
