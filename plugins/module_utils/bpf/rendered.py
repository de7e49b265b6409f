# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would be written to empty maps, as data. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Change, Fold, Run


def _plain(record: layout.Record, data: bytes) -> Any:
    """One record as a dict, or as the value that it is."""
    row = next(record.iter_unpack(data))
    return row["value"] if set(row) == {"value"} else row


def rendered(role: str, changes: Iterable[Change]) -> dict[str, list[dict[str, Any]]]:
    """Changes to empty maps by map: ``key`` and ``value`` of each entry, or ``index`` and ``values`` of a run of them.

    Zeros in arrays are left out: a map starts as that. So are the tables in front of the services' maps, which say
    nothing else.
    """
    specs = {spec.name: spec for spec in layout.MAPS[role]}
    told: dict[str, list[dict[str, Any]]] = {}
    for change in changes:
        if isinstance(change, Fold):
            continue  # there is nothing yet that could have counted
        name, _, value = change
        if name in direct.MAPS:
            continue
        spec = specs[name]
        if isinstance(change, Run):
            if name != "ew_lut" and not any(change.values):  # in a table, 0 is a place as any other
                continue
            values = [_plain(spec.value, one) for _, _, one in change.singles(spec.value.size) if one is not None]
            told.setdefault(name, []).append({"index": change.start, "values": values})
        elif value is not None and (any(value) or not spec.type.endswith("array")):
            entry = {"key": _plain(spec.key, change[1]), "value": _plain(spec.value, value)}
            told.setdefault(name, []).append(entry)
    return told
