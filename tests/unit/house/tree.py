# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the house share: where things are, and tasks as a flat list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLES = [path.parent.parent for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))]

_CHILDREN = ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks", "handlers")


@dataclass(frozen=True)
class Task:
    """One task: its file, its name, what it calls ("" for a play or an import of a playbook) and its tags."""

    file: str
    name: str
    module: str
    arguments: dict[str, Any]
    tags: frozenset[str]


def tasks_in(path: Path) -> Iterator[Task]:
    """All tasks of a file of tasks or plays, tags of blocks and plays handed down. A block is no task."""
    yield from _walk(path, load(path), frozenset())


def _walk(path: Path, items: list[dict[str, Any]], inherited: frozenset[str]) -> Iterator[Task]:
    for item in items:
        own = item.get("tags", [])
        tags = inherited | {own} if isinstance(own, str) else inherited | set(own)
        children = [key for key in _CHILDREN if key in item]
        for key in children:
            yield from _walk(path, item[key], tags)
        if children or "hosts" in item or "import_playbook" in item:
            continue
        modules = [key for key in item if "." in key]
        assert len(modules) == 1, f"{path}: {item.get('name')}: one module by its full name, not {modules}"
        yield Task(
            str(path.relative_to(ROOT)), item.get("name", ""), modules[0], item[modules[0]] or {}, frozenset(tags)
        )


def options_in(options: Mapping[str, Any] | None, inner: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Options with their names, also those that are under the key ``inner`` of others."""
    for name, option in (options or {}).items():
        yield name, option
        for below, suboption in options_in(option.get(inner), inner):
            yield f"{name}.{below}", suboption


def load(path: Path) -> Any:
    """A YAML file's content."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
