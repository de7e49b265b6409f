# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the maps of the programs that run to those of their successors.

Where all that is carried over is laid out alike, the successors use the very same maps: nothing is copied, so nothing
is lost, however long it takes. Else configuration is copied by field name, and of what packets write (counters, flows)
each map is shared that can be; the others are copied before the swap and brought up to date after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import adder, batches, layout, libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.convert import (
    CannotConvertError,
    convert,
    has_new_fields,
    is_same,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.counters import Counters
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.kept_builds import MapShape
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import OpenMap
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.schema import MapLayout, Schema

# What counts without regard to what the indices of other maps mean.
_INDEPENDENT = {"ew_drops", "ew_events", "ew_held_count"}


@dataclass(frozen=True)
class Running:
    """The maps of one set of programs that run, by the kernel's names; their schema, None where nobody knows it."""

    maps: Mapping[str, OpenMap]
    schema: Schema | None


@dataclass
class _Copy:
    """One map's way: what was read of the old one, and what that is in the new one."""

    old: MapLayout
    new: MapLayout
    source: OpenMap
    keys: bytes
    values: bytes
    converted: tuple[bytes, bytes, int]


@dataclass
class Transfer:
    """What becomes of the running maps' contents.

    ``shared`` are descriptors of maps that the successors use themselves, by the kernel's names. ``lost`` says why the
    configuration cannot be carried over, None where it is. ``is_whole`` tells whether it says all that the successors
    want to know.
    """

    shared: dict[str, int] = field(default_factory=dict)
    lost: str | None = None
    is_whole: bool = True
    copies: list[_Copy] = field(default_factory=list)

    def copy(self, maps: Mapping[str, int]) -> None:
        """Fill the successors' own maps (name to descriptor); before any packet meets them."""
        for item in self.copies:
            keys, values, count = item.converted
            batches.update_batch(maps[item.new.name], item.new.name, keys, values, count)

    def catch_up(self, maps: Mapping[str, int]) -> None:
        """Add what was counted and learned in the old maps since they were read; after the swap."""
        for item in self.copies:
            if item.new.is_counter:
                self._count_on(item, maps[item.new.name])
            elif item.new.is_learned:
                self._learn_on(item, maps[item.new.name])

    @staticmethod
    def _count_on(item: _Copy, target: int) -> None:
        _, values = item.source.read()
        if values == item.values:
            return
        entries = item.source.info.max_entries
        before, now = (Counters(data, entries, item.old.value) for data in (item.values, values))
        row = len(values) // entries
        names = [name for name, _ in item.new.value.fields]
        additions = []
        for index in range(entries):
            place = _place(item, index)
            if place is None or values[index * row : (index + 1) * row] == item.values[index * row : (index + 1) * row]:
                continue
            old, new = before.of(index), now.of(index)
            # A counter that was started again meanwhile counts from there.
            grown = {name: new[name] - old[name] if new[name] >= old[name] else new[name] for name in new}
            additions.append((place, [grown.get(name, 0) for name in names]))
        item.values = values
        adder.add(target, len(names), additions)

    @staticmethod
    def _learn_on(item: _Copy, target: int) -> None:
        if "hash" not in item.old.type:
            return
        keys, values = item.source.read()
        size, width = item.old.key.size, item.source.info.value_size
        known = {item.keys[start : start + size] for start in range(0, len(item.keys), size)}
        fresh = [
            (keys[n * size : (n + 1) * size], values[n * width : (n + 1) * width])
            for n in range(len(keys) // size)
            if keys[n * size : (n + 1) * size] not in known
        ]
        item.keys = keys
        if fresh:
            room = libbpf.map_info(target).max_entries
            more = b"".join(key for key, _ in fresh), b"".join(value for _, value in fresh)
            new_keys, new_values, count = convert(item.old, item.new, *more, room)
            batches.update_batch(target, item.new.name, new_keys, new_values, count)


def _place(item: _Copy, index: int) -> int | None:
    """Where an index of the old map is in the new one."""
    if item.old.indices is None or item.new.indices is None:
        return index
    name = item.old.indices[index] if index < len(item.old.indices) else None
    return item.new.indices.index(name) if name in item.new.indices else None


def open_running(program_ids: Sequence[int], schema: Schema | None, stack: ExitStack) -> Running:
    """The maps of programs that run; ``stack`` closes them."""
    maps: dict[str, OpenMap] = {}
    for program_id in program_ids:
        with libbpf.closing(libbpf.prog_fd(program_id)) as fd:
            map_ids = libbpf.prog_info(fd).map_ids
        for map_id in map_ids:
            fd = stack.enter_context(libbpf.closing(libbpf.map_fd(map_id)))
            info = libbpf.map_info(fd)
            maps.setdefault(info.name, OpenMap(fd, info))
    return Running(maps, schema)


def shares_all(running: Running, target: Running, schema: Schema) -> bool:
    """Whether two sets of programs use the same maps for everything that is carried over."""
    return all(
        name in running.maps and name in target.maps and running.maps[name].info.id == target.maps[name].info.id
        for name, item in schema.maps.items()
        if item.carried
    )


def plan(running: Running | None, shapes: Sequence[MapShape], target: Schema) -> Transfer:
    """Decide, and read what has to be copied; writes nothing."""
    if running is None:
        return Transfer()
    by_name = {shape.name: shape for shape in shapes}
    wanted = {name: item for name, item in target.maps.items() if item.carried}
    known = running.schema
    if known is None:
        return Transfer(lost="nobody knows the layout of the running maps")
    same = {name for name in wanted if name in by_name and _fits(running, known, target, name, by_name[name])}
    if same == set(wanted):
        return Transfer(shared={name: running.maps[name].fd for name in same})
    learned = {name for name in same if wanted[name].is_learned}
    try:
        if known.numbers != target.numbers:
            raise CannotConvertError("numbers in the maps mean something else")
        copies = list(_copies(running, known, {n: m for n, m in wanted.items() if n not in learned}, by_name))
    except CannotConvertError as error:
        alone = {name: item for name, item in wanted.items() if item.name in _INDEPENDENT}
        return Transfer(
            shared={name: running.maps[name].fd for name in alone if name in same},
            lost=str(error),
            copies=list(_copies(running, known, {n: m for n, m in alone.items() if n not in same}, by_name)),
        )
    whole = all(
        name in known.maps and not has_new_fields(known.maps[name], item)
        for name, item in wanted.items()
        if not item.is_learned
    )
    return Transfer(shared={name: running.maps[name].fd for name in learned}, is_whole=whole, copies=copies)


def _fits(running: Running, known: Schema, target: Schema, name: str, shape: MapShape) -> bool:
    if name not in running.maps or name not in known.maps or known.numbers != target.numbers:
        return False
    info = running.maps[name].info
    found = (info.type, info.key_size, info.value_size, info.max_entries, info.flags)
    wanted = (shape.type, shape.key_size, shape.value_size, shape.max_entries, shape.flags)
    return found == wanted and is_same(known.maps[name], target.maps[name])


def _copies(
    running: Running, known: Schema, wanted: Mapping[str, MapLayout], shapes: Mapping[str, MapShape]
) -> Iterator[_Copy]:
    for name, new in wanted.items():
        old, source = known.maps.get(name), running.maps.get(name)
        if old is None or source is None or (new.type == "percpu_array" and not new.is_counter):
            continue
        shape = (source.info.type, source.info.key_size, source.info.value_size)
        if shape != (layout.MAP_TYPES[old.type], old.key.size, old.value.size):
            raise CannotConvertError(f"{new.name} is not what its description says")
        if ("array" in old.type) != ("array" in new.type):
            raise CannotConvertError(f"{new.name} is of another kind")
        keys, values = source.read()
        try:
            converted = convert(old, new, keys, values, shapes[name].max_entries)
        except CannotConvertError:
            if new.is_learned and not new.is_counter:
                continue  # flows that start anew are learned anew
            raise
        yield _Copy(old, new, source, keys, values, converted)
