# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which plan a box takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.applied import NONE, give, identity, stored

OLD, NEW, OTHER = ({"host": "edge1", "schema": 1, "generation": name} for name in ("old", "new", "other"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "etc" / "plan.json")


def change(path: str, plan: dict[str, object], replaces: str | None, force: bool = False) -> bool:
    predicted = give(path, plan, replaces, force, check_mode=True)
    done = give(path, plan, replaces, force, check_mode=False)
    assert done == predicted
    assert stored(path) == plan
    assert give(path, plan, None, False, check_mode=False) == []  # the one it has is taken from everybody
    return bool(done)


def test_a_plan_takes_the_place_of_the_one_that_the_run_saw(path: str) -> None:
    assert identity(stored(path)) == NONE
    assert change(path, OLD, NONE)
    assert Path(path).stat().st_mode & 0o777 == 0o644
    assert change(path, NEW, identity(OLD))
    assert change(path, OLD, identity(NEW))  # the inventory went back: a new run, so no old plan
    assert not change(path, OLD, identity(NEW))


@pytest.mark.parametrize(("seen", "says"), [(identity(OLD), "when this run looked"), (None, "has not looked which")])
def test_a_plan_from_before_the_box_was_given_another_is_refused(path: str, seen: str | None, says: str) -> None:
    change(path, OTHER, NONE)
    for check_mode in (True, False):
        with pytest.raises(EdgewireError, match=says):
            give(path, NEW, seen, False, check_mode)
    assert stored(path) == OTHER
    assert change(path, NEW, seen, force=True)


def test_format_and_order_do_not_matter_and_half_a_file_is_none(path: str) -> None:
    change(path, OLD, NONE)
    Path(path).write_text(json.dumps(dict(reversed(OLD.items()))))
    assert not change(path, OLD, None)
    Path(path).write_text(json.dumps(OLD)[:-3])
    assert identity(stored(path)) == NONE
    assert change(path, NEW, identity(OLD))
    Path(path).chmod(0o600)
    assert change(path, NEW, None)
