# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A description of a role's maps that outlives the version which wrote it.

It is kept beside each build, so that a later version can read the maps of programs that it did not load: records by
field name, and what the numbers in them mean by the names of those meanings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout

NAME_LENGTH = 15  # the kernel keeps so many characters of a map's or a program's name (BPF_OBJ_NAME_LEN - 1)

# Numbers that mean the same wherever they stand; where one differs, the maps cannot be understood.
_NUMBERS = {
    "tick_shift": layout.TICK_SHIFT,
    "worker_live": layout.WORKER_LIVE,
    "worker_dead": layout.WORKER_DEAD,
    "source_allowed": layout.SOURCE_ALLOWED,
}
# Bits of the field ``flags`` by record.
_FLAGS = {
    "edge_config": {"drops_unserved": layout.EDGE_DROPS_UNSERVED},
    "service": {
        "affinity_client": layout.SERVICE_AFFINITY_CLIENT,
        "draining": layout.SERVICE_DRAINING,
        "carries_oversize": layout.SERVICE_CARRIES_OVERSIZE,
    },
    "filter": {"admits": layout.FILTER_ADMITS},
    "endpoint": {
        "direct": layout.ENDPOINT_DIRECT,
        "moved": layout.ENDPOINT_MOVED,
        "carries_oversize": layout.ENDPOINT_CARRIES_OVERSIZE,
    },
}
# Maps whose indices are places in a list of names.
_INDICES = {"ew_drops": list(layout.DROP_REASONS), "ew_events": list(layout.EVENTS)}


@dataclass(frozen=True)
class MapLayout:
    """One map: ``carried`` as in :class:`layout.MapSpec`, ``indices`` the names that its indices stand for."""

    name: str
    type: str
    key: layout.Record
    value: layout.Record
    carried: bool
    indices: tuple[str, ...] | None
    flags: Mapping[str, int]

    @property
    def short_name(self) -> str:
        """The name as the kernel has it."""
        return self.name[:NAME_LENGTH]

    @property
    def is_counter(self) -> bool:
        """Whether the programs count in it: 64-bit numbers, for each CPU."""
        return self.type == "percpu_array" and all(kind == "u64" for _, kind in self.value.fields)

    @property
    def is_learned(self) -> bool:
        """Whether packets write it, and nobody else."""
        return self.type in ("percpu_array", "lru_hash")


@dataclass(frozen=True)
class Schema:
    """A role's maps by their short names."""

    maps: Mapping[str, MapLayout]
    numbers: Mapping[str, int]
    text: str

    @property
    def hash(self) -> bytes:
        """SHA-256: equal exactly where map contents mean the same byte for byte."""
        return hashlib.sha256(self.text.encode()).digest()


def describe(role: str) -> str:
    """The description of a role's maps as this version has them, as JSON."""
    maps = [
        {
            "name": spec.name,
            "type": spec.type,
            "key": asdict(spec.key),
            "value": asdict(spec.value),
            "entries": spec.max_entries,
            "carried": spec.carried,
            "indices": _INDICES.get(spec.name),
            "flags": _FLAGS.get(spec.value.name, {}),
        }
        for spec in layout.MAPS[role]
    ]
    return json.dumps({"maps": maps, "numbers": _NUMBERS}, sort_keys=True)


def parse(text: str) -> Schema:
    """The schema of a description.

    :raises ValueError: it is none, or has kinds of fields that this version does not know.
    """
    try:
        content = json.loads(text)
        maps = [_map_of(item) for item in content["maps"]]
        return Schema({item.short_name: item for item in maps}, content["numbers"], text)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no description of maps: {error}") from None


def of_role(role: str) -> Schema:
    """The schema of a role in this version."""
    return parse(describe(role))


def schema_hash(role: str) -> bytes:
    """What the role's programs carry in ``ew_identity``."""
    return hashlib.sha256(describe(role).encode()).digest()


def _record_of(content: Mapping[str, Any]) -> layout.Record:
    record = layout.Record(content["name"], tuple((name, kind) for name, kind in content["fields"]))
    record.size  # noqa: B018  a kind that is not known shows here
    return record


def _map_of(content: Mapping[str, Any]) -> MapLayout:
    indices = content["indices"]
    return MapLayout(
        name=content["name"],
        type=content["type"],
        key=_record_of(content["key"]),
        value=_record_of(content["value"]),
        carried=content["carried"],
        indices=None if indices is None else tuple(indices),
        flags=content["flags"],
    )
