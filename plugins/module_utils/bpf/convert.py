# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Contents of one version's map as contents of another version's: by field name, without any kernel."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.schema import MapLayout


class CannotConvertError(Exception):
    """The contents mean nothing in the other version; the text says why."""


def is_same(old: MapLayout, new: MapLayout) -> bool:
    """Whether the very bytes mean the same in both."""
    return (old.type, old.key, old.value, old.indices, old.flags) == (
        new.type,
        new.key,
        new.value,
        new.indices,
        new.flags,
    )


def has_new_fields(old: MapLayout, new: MapLayout) -> bool:
    """Whether the newer record says something that the older one does not."""
    return bool(_names(new.value) - _names(old.value))


def convert(old: MapLayout, new: MapLayout, keys: bytes, values: bytes, capacity: int) -> tuple[bytes, bytes, int]:
    """Keys, values and their number as the newer map takes them; ``capacity`` is how many that are at most.

    A field that is new is 0, one that is gone is left out. Of an array the unused rest is left out.

    :raises CannotConvertError: the keys are of another kind, something does not fit, or numbers are too large.
    """
    count = len(keys) // old.key.size
    if not count:
        return b"", b"", 0
    size = len(values) // count
    if is_same(old, new):
        return _as_it_is(new, keys, values, capacity)
    entries = _entries(old, keys, values, size)
    if "array" in new.type:
        rows = _array_rows(old, new, dict(entries), size)
        wanted = list(rows.items())
    else:
        if _names(old.key) != _names(new.key):
            raise CannotConvertError(f"the keys of {new.name} are made of other fields")
        wanted = [(_repacked(new.name, old.key, new.key, key, {}, {}), value) for key, value in entries]
    wanted = wanted[: _room(new, len(wanted), capacity)]
    if old.value != new.value or old.flags != new.flags:
        wanted = [(key, _each_cpu(old, new, value)) for key, value in wanted]
    return b"".join(key for key, _ in wanted), b"".join(value for _, value in wanted), len(wanted)


def _room(new: MapLayout, count: int, capacity: int) -> int:
    """How many of ``count`` entries go on: what was learned may be cut short."""
    if count > capacity and (new.is_counter or not new.is_learned):
        raise CannotConvertError(f"{new.name} has {count} entries, and room for {capacity}")
    return min(count, capacity)


def _as_it_is(new: MapLayout, keys: bytes, values: bytes, capacity: int) -> tuple[bytes, bytes, int]:
    """The fast way: millions of entries without looking at any."""
    step = new.key.size
    count = len(keys) // step
    size = len(values) // count
    used = -(-len(values.rstrip(b"\0")) // size) if "array" in new.type else count
    taken = _room(new, used, capacity)
    return keys[: taken * step], values[: taken * size], taken


def _names(record: layout.Record) -> set[str]:
    return {name for name, _ in record.fields if name != "zero"}


def _entries(old: MapLayout, keys: bytes, values: bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    step = old.key.size
    for number in range(len(keys) // step):
        yield keys[number * step : (number + 1) * step], values[number * size : (number + 1) * size]


def _array_rows(old: MapLayout, new: MapLayout, rows: Mapping[bytes, bytes], size: int) -> dict[bytes, bytes]:
    """The rows in use, from index 0 on without a gap, under their new indices."""
    empty = bytes(size)
    if old.indices is not None and new.indices is not None:
        place = {name: number for number, name in enumerate(new.indices)}
        moved = [(place.get(name), layout.U32.of(i)) for i, name in enumerate(old.indices)]
        return {layout.U32.of(to): rows.get(key, empty) for to, key in moved if to is not None}
    last = max((int.from_bytes(key, "little") for key, value in rows.items() if value != empty), default=-1)
    found = (layout.U32.of(index) for index in range(last + 1))
    return {key: rows.get(key, empty) for key in found}


def _each_cpu(old: MapLayout, new: MapLayout, value: bytes) -> bytes:
    """A value; of a per-CPU map one for each CPU, padded to 8 bytes (batches.user_value_size)."""
    if old.type != "percpu_array":
        return _repacked(new.name, old.value, new.value, value, old.flags, new.flags)
    padded = (old.value.size + 7) // 8 * 8
    target = (new.value.size + 7) // 8 * 8
    parts = (value[start : start + old.value.size] for start in range(0, len(value), padded))
    made = (_repacked(new.name, old.value, new.value, part, old.flags, new.flags) for part in parts)
    return b"".join(part.ljust(target, b"\0") for part in made)


def _repacked(
    name: str,
    old: layout.Record,
    new: layout.Record,
    data: bytes,
    old_flags: Mapping[str, int],
    new_flags: Mapping[str, int],
) -> bytes:
    if old == new and old_flags == new_flags:
        return data
    content: dict[str, Any] = next(old.iter_unpack(data))
    if "flags" in content:
        known = {flag: bit for flag, bit in old_flags.items() if content["flags"] & bit}
        unknown = content["flags"] & ~sum(old_flags.values())
        gone = sorted(set(known) - set(new_flags))
        if unknown or gone:
            raise CannotConvertError(f"{name} has flags that are not known any more: {', '.join(gone) or unknown}")
        content["flags"] = sum(new_flags[flag] for flag in known)
    try:
        return new.pack({field: content[field] for field in _names(new) & _names(old)})
    except (struct.error, OSError, OverflowError, ValueError) as error:
        raise CannotConvertError(f"a value in {name} does not fit its new field: {error}") from None
