# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ages of handshakes, and what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.verify.sessions import (
    Clocks,
    handshake_age,
    judge,
    read_clocks,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000
LONG = Clocks(NOW, uptime=86_400, plan_age=86_400)


@pytest.mark.parametrize(
    ("handshake", "age", "session"),
    [
        (NOW, 0, "up"),
        (NOW - 180, 180, "up"),
        (NOW - 181, 181, "stale"),
        (0, None, "never"),
        (NOW + 1, 0, "up"),
        (NOW + 3600, -3600, "unknown"),
    ],
)
def test_a_session(handshake: int, age: int | None, session: str) -> None:
    assert handshake_age(handshake, LONG) == age
    assert judge(age, LONG) == session


@pytest.mark.parametrize("clocks", [Clocks(NOW, 5, 86_400), Clocks(NOW, 86_400, 5), Clocks(NOW, 5, None)])
def test_after_a_boot_or_a_change_nothing_is_known_but_what_is_up(clocks: Clocks) -> None:
    assert judge(None, clocks) == judge(1000, clocks) == "unknown"
    assert judge(7, clocks) == "up"


@given(st.integers(0, 2 * NOW), st.floats(0, 1e6), st.none() | st.floats(0, 1e6))
def test_every_session_is_judged_and_no_old_one_is_up(handshake: int, uptime: float, plan_age: float | None) -> None:
    clocks = Clocks(NOW, uptime, plan_age)
    age = handshake_age(handshake, clocks)
    session = judge(age, clocks)
    assert (session == "up") == (age is not None and 0 <= age <= 180)
    assert session != "unknown" or clocks.in_grace or (age or 0) < 0


def test_the_plans_file_tells_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert read_clocks(path).plan_age is None
    path.write_text("{}")
    clocks = read_clocks(path)
    assert clocks.plan_age is not None
    assert clocks.in_grace
    os.utime(path, (clocks.now - 1000, clocks.now - 1000))
    later = read_clocks(path)
    assert later.plan_age is not None
    assert later.plan_age >= 1000
