# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that change a box take turns."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import turns
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lock"
    monkeypatch.setattr(turns, "LOCK", str(path))
    return path


def test_the_second_waits_until_the_first_is_gone_however_that_ended(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(turns, "LOCK_SECONDS", 0.0)
        with pytest.raises(EdgewireError, match="another run has been changing this host"), turns.turn():
            pytest.fail("two at once")
        holder.kill()
    with turns.turn():
        pass


def test_who_may_not_lock_is_left_to_fail_by_itself(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(turns.os, "open", refused)
    with turns.turn():
        pass


def test_a_lock_that_was_removed_while_waiting_is_not_taken_for_the_lock(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teardown removes it; who waited for that file must not go on beside who made a new one."""
    lock.touch()
    seen: list[int] = []
    take = turns._locked

    def remove_once(handle: int) -> bool:
        if not seen:
            lock.unlink()
        seen.append(handle)
        return take(handle)

    monkeypatch.setattr(turns, "_locked", remove_once)
    with turns.turn(), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(seen) == 2
