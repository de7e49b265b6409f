# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether maps hold, byte for byte, what a plan's writes must have left in them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Change, Fold, Run

# All keys and all values of each map, as they were read.
Read = Mapping[str, tuple[bytes, bytes]]


class _Writes(NamedTuple):
    """What goes to one map, in order; to one entry of an array never a single write after a run."""

    singles: list[tuple[bytes, bytes | None]]
    runs: list[Run]


def is_as_written(role: str, before: Read, changes: Iterable[Change], after: Read) -> bool:
    """Whether a role's maps say what they said before, but for the changes; of those in ``after``."""
    writes = {name: _Writes([], []) for name in after}
    for change in changes:
        if isinstance(change, Run):
            if change.name in writes:
                writes[change.name].runs.append(change)
        elif not isinstance(change, Fold):
            name, key, value = change
            if name in writes:
                writes[name].singles.append((key, value))
    specs = {spec.name: spec for spec in layout.MAPS[role]}
    return all(_holds(specs[name], before[name], writes[name], found) for name, found in after.items())


def _holds(spec: layout.MapSpec, before: tuple[bytes, bytes], writes: _Writes, after: tuple[bytes, bytes]) -> bool:
    if spec.type == "array":
        return _array_holds(spec.value.size, before[1], writes, after[1])
    expected = _entries(spec, *before)
    for key, value in writes.singles:
        if value is None:
            expected.pop(key, None)
        else:
            expected[key] = value
    return expected == _entries(spec, *after)


def _array_holds(size: int, before: bytes, writes: _Writes, after: bytes) -> bool:
    # An array may have been read in part. What is behind that part and was not written, nobody looks at.
    expected = bytearray(before[: len(after)] + after[len(before) :])
    places = layout.U32.codec.iter_unpack(b"".join([key for key, _ in writes.singles]))
    for (place,), (_, value) in zip(places, writes.singles, strict=True):
        if value is not None:
            expected[place * size : (place + 1) * size] = value
    for run in writes.runs:
        expected[run.start * size : run.start * size + len(run.values)] = run.values
    return expected == after


def _entries(spec: layout.MapSpec, keys: bytes, values: bytes) -> dict[bytes, bytes]:
    key_size, size = spec.key.size, spec.value.size
    rows = (values[at : at + size] for at in range(0, len(values), size))
    return dict(zip([keys[at : at + key_size] for at in range(0, len(keys), key_size)], rows, strict=True))
