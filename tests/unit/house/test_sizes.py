# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules are thin, files are short, and nothing is written twice."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.tests.unit.house.tree import ROOT

LIMITS = {"plugins/modules": 200, "plugins/module_utils": 400, "plugins/plugin_utils": 400, "bpf": 400}

# Longer than that, and how long: these may only shrink, and one that has shrunk enough leaves the list.
LONGER: dict[str, int] = {}


def lines_in(path: Path) -> int:
    """How many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(("room", "limit"), LIMITS.items())
def test_files_are_short(room: str, limit: int) -> None:
    long = {
        str(path.relative_to(ROOT)): lines_in(path)
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in {".py", ".c", ".h"} and lines_in(path) > limit
    }
    allowed = {name: most for name, most in LONGER.items() if name.startswith(f"{room}/")}
    assert {name: lines for name, lines in long.items() if lines > allowed.get(name, limit)} == {}
    assert set(allowed) <= set(long), "short enough now: take it off the list"


def test_no_helper_is_written_twice() -> None:
    """Functions of three statements or more whose bodies are the same."""
    bodies: dict[str, list[str]] = defaultdict(list)
    for room in ("plugins", "lab"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.FunctionDef):
                    continue
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if sum(isinstance(inner, ast.stmt) for outer in body for inner in ast.walk(outer)) >= 3:
                    bodies[ast.dump(ast.Module(body, []))].append(f"{path.relative_to(ROOT)}: {node.name}")
    assert [places for places in bodies.values() if len(places) > 1] == []
