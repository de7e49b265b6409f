# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module says of itself. That it is true, ansible-test holds against the code (validate-modules)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edgewire.fleet.tests.unit.house.tree import ROOT, load, options_in

MODULES = [path.stem for path in sorted(ROOT.glob("plugins/modules/*.py"))]
GROUP = "edgewire.fleet.fleet"


@pytest.fixture(scope="module")
def pages() -> dict[str, Any]:
    """Every module's documentation, doc fragments merged, as ansible-doc reads it."""
    names = [f"edgewire.fleet.{name}" for name in MODULES]
    command = [str(Path(sys.executable).with_name("ansible-doc")), "-t", "module", "--json", *names]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    read: dict[str, Any] = json.loads(done.stdout)
    return {name.removeprefix("edgewire.fleet."): page for name, page in read.items()}


@pytest.mark.parametrize("name", MODULES)
def test_a_page_is_complete(pages: Mapping[str, Any], name: str) -> None:
    page = pages[name]
    for option, said in options_in(page["doc"].get("options"), "suboptions"):
        assert said.get("description"), option
        assert said.get("type"), option
        assert said["type"] != "list" or said.get("elements"), option
    assert page["doc"]["attributes"]["action_group"]["membership"] == [GROUP]
    assert {"check_mode", "diff_mode", "platform"} <= set(page["doc"]["attributes"])
    assert page["return"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_use_what_there_is(pages: Mapping[str, Any], name: str) -> None:
    known = pages[name]["doc"].get("options") or {}
    mine = [task for task in yaml.safe_load(pages[name]["examples"]) if f"edgewire.fleet.{name}" in task]
    assert mine, "no example calls the module by its full name"
    for task in mine:
        assert task.get("name", "")[:1].isupper()
        given = task[f"edgewire.fleet.{name}"] or {}
        if isinstance(given, str):  # a template that passes on what another task returned
            continue
        assert set(given) <= set(known)
        assert {option for option, said in known.items() if said.get("required")} <= set(given)


def test_the_action_group_has_every_module() -> None:
    assert load(ROOT / "meta" / "runtime.yml")["action_groups"]["fleet"] == MODULES
