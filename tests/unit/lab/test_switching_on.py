# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A box that is being switched on is never taken for one that has gone down again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.edgewire.fleet.lab.edgewire_lab import boxes, processes

# Enough, side by side, for the kernel to be seen in the middle of an exec.
SIDE_BY_SIDE = 6
TIMES = 20


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory whose boxes are supervised by a process that does nothing."""
    labctl = tmp_path / "labctl"
    labctl.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(boxes, "_LABCTL", labctl)
    yield tmp_path
    processes.kill(processes.all_of(tmp_path, []))


def switch_on(state: Path, name: str) -> bool:
    """Switch a box on; say whether it has a supervisor when that is done."""
    box = SimpleNamespace(name=name, state=state, log=state / f"{name}.log")
    boxes._switch_on(box)
    return processes.supervisor_of(box) is not None


def test_a_box_that_was_switched_on_has_a_supervisor_at_once(state: Path) -> None:
    names = [f"box{number}" for number in range(SIDE_BY_SIDE * TIMES)]
    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool:
        supervised = list(pool.map(lambda name: switch_on(state, name), names))
    assert supervised == [True] * len(names)
