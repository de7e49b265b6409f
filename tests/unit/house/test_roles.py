# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's defaults and its argument_specs say the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.tests.unit.house.tree import ROLES, load, options_in

TYPES: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "dict": (dict,),
    "float": (int, float),
    "int": (int,),
    "list": (list,),
    "path": (str,),
    "raw": (object,),
    "str": (str,),
}
# Entry points that only document: what the inventory has is read by the planner, and no role is called with it.
WITHOUT_TASKS = {("mesh", "inventory")}


def entries_of(role: Path) -> dict[str, Any]:
    """The role's entry points by name."""
    entries: dict[str, Any] = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    return entries


def defaults_of(role: Path) -> dict[str, Any]:
    """What defaults/main.yml says."""
    path = role / "defaults" / "main.yml"
    return (load(path) or {}) if path.exists() else {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestRole:
    def test_every_default_is_described(self, role: Path) -> None:
        described = {name for entry in entries_of(role).values() for name in entry.get("options", {})}
        assert set(defaults_of(role)) <= described

    def test_defaults_are_as_described(self, role: Path) -> None:
        defaults = defaults_of(role)
        for entry, spec in entries_of(role).items():
            for name, option in spec.get("options", {}).items():
                if name not in defaults:
                    continue
                value = defaults[name]
                templated = isinstance(value, str) and "{{" in value
                if "default" in option and not templated:
                    assert option["default"] == value, f"{entry}: {name}"
                if not templated:
                    assert isinstance(value, TYPES[option["type"]]), f"{entry}: {name}"
                    assert option["type"] in {"bool", "raw"} or not isinstance(value, bool), f"{entry}: {name}"

    def test_described_defaults_have_their_type(self, role: Path) -> None:
        for entry, spec in entries_of(role).items():
            for name, option in options_in(spec.get("options"), "options"):
                if option.get("default") is not None:
                    assert isinstance(option["default"], TYPES[option["type"]]), f"{entry}: {name}"

    def test_entries_that_share_an_option_agree(self, role: Path) -> None:
        seen: dict[str, tuple[Any, Any]] = {}
        for spec in entries_of(role).values():
            for name, option in spec.get("options", {}).items():
                said = (option["type"], option.get("default"))
                assert seen.setdefault(name, said) == said, name

    def test_every_entry_point_and_option_is_described(self, role: Path) -> None:
        for entry, spec in entries_of(role).items():
            assert spec.get("short_description"), entry
            assert spec.get("description"), entry
            assert (role / "tasks" / f"{entry}.yml").exists() == ((role.name, entry) not in WITHOUT_TASKS), entry
            for name, option in options_in(spec.get("options"), "options"):
                assert option.get("description"), f"{entry}: {name}"
                assert option["type"] != "list" or "elements" in option, f"{entry}: {name}"
                assert not (option.get("required") and "default" in option), f"{entry}: {name}"
