# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans and manifest → bytes. The same plan always gives the same bytes, one line an item, so files
diff well.

A long list that other hosts are likely to have, too, is written once, as a part named by its
content's hash, and a plan's file has ``{"part": HASH}`` in its place: written out in full, the
plans of 10,000 hosts would be 7.6 GB.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import (
    SCHEMA,
    HostPlan,
    Peer,
    encode,
)

PART = "part"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(", ", ": "))


# Fields of which many hosts have the same list. One that is shorter than this many characters stays
# in the plan's file, so that a small fleet's plans can be read as they are.
_SHARED = frozenset({"peers", "workers", "services", "edges"})
_SHORTEST_PART = 4096


class Renderer:
    """Renders the plans of one fleet; the text of tuples that plans share is made once.

    ``parts`` are the parts of all plans rendered so far: hash → bytes. Only a list that several of
    ``plans`` have becomes one: in a full mesh each host's peers are its own.
    """

    def __init__(self, plans: Iterable[HostPlan] = ()) -> None:
        self.parts: dict[str, bytes] = {}
        self._users = Counter(
            id(value) for plan in plans for _, section in _sections(plan) for value in vars(section).values()
        )
        self._items: dict[int, tuple[Any, str]] = {}
        # By identity: comparing two peer lists costs as much as rendering one. The tuple is kept,
        # so its id stays its own.
        self._lists: dict[int, tuple[tuple[Any, ...], str]] = {}

    def render(self, plan: HostPlan) -> bytes:
        """The plan as UTF-8 JSON with a newline at the end."""
        entries = [
            f'"schema": {plan.schema}',
            f'"host": {_compact(plan.host)}',
            *(f'"{name}": {self._section(section)}' for name, section in _sections(plan)),
        ]
        return ("{\n  " + ",\n  ".join(entries) + "\n}\n").encode()

    def _section(self, section: Any) -> str:
        entries = []
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            is_list = isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0])
            text = self._list(value, field.name in _SHARED) if is_list else _compact(encode(value))
            entries.append(f'"{field.name}": {text}')
        return "{\n    " + ",\n    ".join(entries) + "\n  }"

    def _list(self, items: tuple[Any, ...], shared: bool) -> str:
        known = self._lists.get(id(items))
        if known is not None:
            return known[1]
        lines = ",\n      ".join(self._item(item) for item in items)
        text = f"[\n      {lines}\n    ]"
        is_shared = self._users[id(items)] > 1
        if shared and is_shared and len(text) >= _SHORTEST_PART:
            part = f"{text}\n".encode()
            name = digest(part)
            self.parts[name] = part
            text = _compact({PART: name})
        if is_shared:
            self._lists[id(items)] = (items, text)
        return text

    def _item(self, item: Any) -> str:
        if not isinstance(item, Peer):
            return _compact(encode(item))
        known = self._items.get(id(item))
        if known is None:
            known = self._items[id(item)] = (item, _compact(encode(item)))
        return known[1]


def _sections(plan: HostPlan) -> Iterator[tuple[str, Any]]:
    """The parts of a plan by name, those that it has."""
    return ((name, section) for name, section in vars(plan).items() if dataclasses.is_dataclass(section))


def digest(data: bytes) -> str:
    """SHA-256 of a plan's bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def render_manifest(hashes: Mapping[str, str]) -> tuple[bytes, str]:
    """The manifest's bytes, and the fleet's hash, from host → hash of its plan."""
    listed = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    fleet = digest(f"{SCHEMA}\n{listed}".encode())
    manifest = {"schema": SCHEMA, "fleet": fleet, "hosts": dict(sorted(hashes.items()))}
    return (json.dumps(manifest, indent=1) + "\n").encode(), fleet
