# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing a role's maps in the kernel, in batches, found through the programs that are attached."""

from __future__ import annotations

import array
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import attach, batches, layout, libbpf, schema
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.counters import Counters
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, Attached
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


class OtherLayoutError(EdgewireError):
    """The running programs' maps are of another version of this collection, and cannot be read by this one."""


# One write: map name, key, value; None deletes. Order is kept between maps, see `write`.
Write = tuple[str, bytes, bytes | None]


class Fold(NamedTuple):
    """Add what a backend's slot counted to its service's retired counters, and start the slot at 0 again.

    A write whose value is known only when it is carried out: packets are counted until then.
    """

    slot: int
    retired_index: int


class Run(NamedTuple):
    """Write neighbouring entries of an array, from index ``start`` on: their values as one run of bytes."""

    name: str
    start: int
    values: bytes

    def singles(self, size: int) -> Iterator[Write]:
        """The same as single writes; ``size`` is that of a value in bytes."""
        for number, at in enumerate(range(0, len(self.values), size), self.start):
            yield self.name, layout.U32.of(number), self.values[at : at + size]


Change = Write | Run | Fold


@dataclass(frozen=True)
class OpenMap:
    """An open map: file descriptor and shape."""

    fd: int
    info: libbpf.MapInfo

    def read(self, limit: int | None = None) -> tuple[bytes, bytes]:
        """All keys and values, see :func:`batches.read_all`."""
        return batches.read_all(self.fd, self.info, limit)


@dataclass(frozen=True)
class ReadOnce(OpenMap):
    """An open map that is read from the kernel once: whoever looks again sees the same."""

    @functools.cached_property
    def _all(self) -> tuple[bytes, bytes]:
        return super().read()

    @functools.cached_property
    def _parts(self) -> dict[int, tuple[bytes, bytes]]:
        return {}

    def read(self, limit: int | None = None) -> tuple[bytes, bytes]:
        """See :meth:`OpenMap.read`."""
        if limit is None:
            return self._all
        if limit not in self._parts:
            self._parts[limit] = super().read(limit)
        return self._parts[limit]


Maps = Mapping[str, OpenMap]


def read_once(maps: Maps) -> Maps:
    """The maps as they are at the first look at each."""
    return {
        name: opened if isinstance(opened, ReadOnce) else ReadOnce(opened.fd, opened.info)
        for name, opened in maps.items()
    }


def find_attached(role: str) -> dict[str, tuple[str, Attached]]:
    """A role's programs that run on this box: program name to interface and what is attached there.

    Looks at every interface's hooks, so it needs to know no interface and trusts no pin and no file.
    """
    programs = {hook.program[: schema.NAME_LENGTH]: hook.program for hook in HOOKS[role]}
    return {
        programs[there.found.name]: (there.interface, there.found)
        for there in attach.ours_everywhere(role)
        if there.found.name in programs
    }


@contextmanager
def open_maps(role: str, program_ids: Iterable[int]) -> Iterator[dict[str, OpenMap]]:
    """The maps that the given programs reference, by name; every one checked against the layout.

    :raises OtherLayoutError: a map has another shape than this version of the collection knows.
    """
    specs = {spec.name[: schema.NAME_LENGTH]: spec for spec in layout.MAPS[role]}
    with ExitStack() as stack:
        maps: dict[str, OpenMap] = {}
        for program_id in program_ids:
            with libbpf.closing(libbpf.prog_fd(program_id)) as fd:
                map_ids = libbpf.prog_info(fd).map_ids
            for map_id in map_ids:
                fd = stack.enter_context(libbpf.closing(libbpf.map_fd(map_id)))
                info = libbpf.map_info(fd)
                spec = specs.get(info.name)
                if spec is None:
                    continue
                shape = (info.type, info.key_size, info.value_size)
                if shape != (layout.MAP_TYPES[spec.type], spec.key.size, spec.value.size):
                    raise OtherLayoutError(
                        f"map {info.name} (id {info.id}) of the running {role} programs has another layout than this"
                        " version of the collection; run xdp_forwarder or tc_delivery first"
                    )
                known = maps.setdefault(spec.name, OpenMap(fd, info))
                if known.info.id != info.id:
                    raise EdgewireError(
                        f"the running {role} programs do not share map {info.name} (ids {known.info.id} and"
                        f" {info.id}); run xdp_forwarder or tc_delivery first"
                    )
        yield maps


@contextmanager
def running_maps(role: str) -> Iterator[dict[str, OpenMap] | None]:
    """The maps of the role's programs that run on this box; None where none run.

    Any one program that is attached holds them all.
    """
    found = find_attached(role)
    if not found:
        yield None
        return
    if any(there.schema != schema.schema_hash(role) for _, there in found.values()):
        raise OtherLayoutError(
            f"the running {role} programs' maps have another layout than this version of the collection;"
            " run xdp_forwarder or tc_delivery first"
        )
    with open_maps(role, [there.program_id for _, there in found.values()]) as maps:
        yield maps


def _kind_of(item: Change) -> tuple[object, ...]:
    """What neighbours must have in common to be carried out together."""
    if isinstance(item, Fold):
        return (Fold,)
    return (type(item), item[0], item[2] is None)


def write(maps: Maps, changes: Iterable[Change]) -> None:
    """Carry out changes in batches: neighbours that go to one map in one direction are one call.

    The order of these runs is the caller's: what is looked up first must be written last.
    """
    for _, items in itertools.groupby(changes, _kind_of):
        batch = list(items)
        folds = [item for item in batch if isinstance(item, Fold)]
        if folds:
            write(maps, fold_writes(maps, folds))
        else:
            _flush(maps, [item for item in batch if not isinstance(item, Fold)])


def counters_of(maps: Maps, name: str, indices: Iterable[int], record: layout.Record = layout.STATS) -> Counters:
    """The counters of a map, read as far as ``indices`` need it."""
    used = max(indices, default=-1) + 1
    keys, values = maps[name].read(limit=used) if used else (b"", b"")
    return Counters(values, len(keys) // layout.U32.size, record)


def fold_writes(maps: Maps, folds: Iterable[Fold]) -> list[Write]:
    """The writes that carry out folds, from what is counted now."""
    moves = list(folds)
    counted = counters_of(maps, "ew_stats", (fold.slot for fold in moves))
    retired = counters_of(maps, "ew_retired", (fold.retired_index for fold in moves))
    sums: dict[int, dict[str, int]] = {}
    for fold in moves:
        total = sums.setdefault(fold.retired_index, retired.of(fold.retired_index))
        for name, value in counted.of(fold.slot).items():
            total[name] += value
    zero = bytes(layout.STATS.size * counted.cpus)
    return [
        *(("ew_retired", layout.U32.of(i), layout.STATS.pack(total)) for i, total in sums.items()),
        *(("ew_stats", layout.U32.of(fold.slot), zero) for fold in moves),
    ]


def _flush(maps: Maps, batch: list[Write | Run]) -> None:
    name = batch[0][0]
    if isinstance(batch[0], Run):
        size = batches.user_value_size(maps[name].info)
        runs = [item for item in batch if isinstance(item, Run)]
        indices = array.array(
            "I", itertools.chain.from_iterable(range(r.start, r.start + len(r.values) // size) for r in runs)
        )
        batches.update_batch(maps[name].fd, name, indices.tobytes(), b"".join([r.values for r in runs]), len(indices))
        return
    singles = [item for item in batch if not isinstance(item, Run)]
    keys = b"".join([key for _, key, _ in singles])
    if singles[0][2] is None:
        batches.delete_batch(maps[name].fd, name, keys, len(singles))
    else:
        values = b"".join([value for _, _, value in singles if value is not None])
        batches.update_batch(maps[name].fd, name, keys, values, len(singles))


def make_one(programs: Mapping[str, int], maps: Mapping[str, int], identity: bytes, schema_hash: bytes) -> None:
    """Make freshly loaded programs and maps (name to descriptor) one build, told by its identity.

    Every program holds all the role's maps, so that any one that is attached leads to all of them.
    """
    for program_fd in programs.values():
        for map_fd in maps.values():
            libbpf.bind_map(program_fd, map_fd)
    record = layout.IDENTITY.pack({"build": identity, "schema": schema_hash})
    batches.update_batch(maps["ew_identity"], "ew_identity", layout.U32.of(0), record, 1)
