# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables as the kernel has them, instead of building them again.

To build a table takes a millisecond or more, to hash one some microseconds. So what was built is remembered by a hash
of the words that came out, and of all that went in: ids, weights, size, and the code. A table in the kernel that has
such a hash is what would be built. One changed service of 10,000 costs one table.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, layout, proofs, tables
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import EdgeState, EdgeWanted, ServiceWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps

_FILE = "tables"
# The cached properties of a service that hold its tables, in the order of its block.
_TABLES = ("table", "drain_table")


def _proof(code: bytes, service: ServiceWanted, name: str, table: tables.PackedTable) -> bytes:
    asked = repr((name, service.size, service.weights)).encode()
    return hashlib.sha256(code + asked + table.words.tobytes()).digest()


class _Kernel(NamedTuple):
    """What the maps say: services' entries, the words of ``ew_lut``, and the endpoint id of a slot."""

    entries: Mapping[edge_state.Entry, Mapping[str, int]]
    lut: array[int]
    endpoint_of: Callable[[int], int]

    def tables_of(self, service: ServiceWanted) -> dict[str, tables.PackedTable]:
        """A service's tables by name; none where they are of another shape, or count in another palette."""
        record = self.entries.get(service.entries[0])
        if record is None or tables.shape_of(record) != tables.shape_of(service.shape):
            return {}
        parts, palette = tables.parts_of(self.lut, record)
        if [self.endpoint_of(slot) for slot in palette] != service.in_tables:
            return {}
        return {
            name: tables.PackedTable(words, record["width"], service.size, service.in_tables)
            for name, words in zip(_TABLES, parts, strict=False)
        }


def _large(wanted: EdgeWanted) -> Iterator[ServiceWanted]:
    """The services whose tables take time to build."""
    return (service for service in wanted.services if service.size > 1)


def take_known(wanted: EdgeWanted, state: EdgeState) -> None:
    """Have those tables from the kernel that are known to be what would be built."""
    known = set(proofs.kept(_FILE))
    if not known:
        return
    code = proofs.code()
    kernel = _Kernel(state.entries, state.lut, state.endpoint_at)
    for service in _large(wanted):
        for name, table in kernel.tables_of(service).items():
            if _proof(code, service, name, table) in known:
                vars(service)[name] = table  # what a cached_property keeps its value in


def take_all(wanted: EdgeWanted, maps: Maps) -> None:
    """Have all tables from maps that were found to be as wanted."""
    backends = maps["ew_backends"].read()[1]
    size, offset = layout.BACKEND.size, layout.BACKEND.offset("endpoint_id")

    def endpoint_of(slot: int) -> int:
        return int.from_bytes(backends[slot * size + offset : slot * size + offset + 4], "big")

    kernel = _Kernel(dict(edge_state.read_entries(maps)), edge_state.read_lut(maps), endpoint_of)
    for service in _large(wanted):
        vars(service).update(kernel.tables_of(service))


def remember(wanted: EdgeWanted) -> None:
    """Keep the proofs of all tables; where that cannot be, the next run builds them again."""
    code = proofs.code()
    made = {
        _proof(code, service, name, table)
        for service in _large(wanted)
        for name, table in zip(_TABLES, (service.table, service.drain_table), strict=True)
        if isinstance(table, tables.PackedTable)
    }
    proofs.keep(_FILE, sorted(made))
