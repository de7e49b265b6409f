# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An edge's services: their entries, and the tables that these lead to. Pure."""

from __future__ import annotations

import array
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, tables
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_phases import Phases
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    Claim,
    EdgeState,
    EdgeWanted,
    ServiceWanted,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Shortages, Space
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Told, make_step


class _WorkerNames:
    """The worker of an endpoint by name, or by relay address; looked for only where a step tells of it."""

    def __init__(self, wanted: EdgeWanted, state: EdgeState) -> None:
        self._wanted, self._state = wanted, state

    @functools.cached_property
    def _by_endpoint(self) -> dict[int, str]:
        names = self._wanted.names
        relays = {b["endpoint_id"]: self._state.relay_of(b) for b in self._state.backends.values()}
        found = {eid: names.get(relay, relay) for eid, relay in relays.items()}
        return found | {b.endpoint_id: b.worker for s in self._wanted.services for b in s.backends}

    def label(self, endpoint_id: int) -> str:
        """An endpoint as a step names it."""
        return f"{self._by_endpoint.get(endpoint_id, 'nowhere')} ({endpoint_id})"


def _share_words(table: Sequence[int], workers: _WorkerNames) -> dict[str, Any]:
    counts = sorted(Counter(table).items())
    return {
        "backends": {workers.label(eid): round(count / len(table), 4) for eid, count in counts},
        "table": hashlib.sha256(array.array("I", table).tobytes()).hexdigest()[:12],
    }


def plan_services(
    wanted: EdgeWanted,
    state: EdgeState,
    found_of: Mapping[Claim, Mapping[str, int] | None],
    retired: Mapping[Claim, int],
    slots: Mapping[int, int],
    filter_of: Mapping[str, int],
    result: Phases,
) -> dict[Claim, bytes]:
    """Steps for entries that are missing, wrong or not wanted; a table that changed goes to free space.

    Returns what the entries of each claim say in the end, packed.
    """
    workers = _WorkerNames(wanted, state)
    room = state.capacity["lut"]
    ranges = {(s["table_offset"], tables.span_of(s)) for s in state.entries.values()}
    space = Space(((offset, size) for offset, size in ranges if offset + size <= room), room)

    def words(name: str | None, table: Sequence[int], record: Mapping[str, int], draining: set[int]) -> dict[str, Any]:
        affinity = "client" if record["flags"] & layout.SERVICE_AFFINITY_CLIENT else "flow"
        oversize = "fragment" if record["flags"] & layout.SERVICE_CARRIES_OVERSIZE else "refuse"
        told = {
            "affinity": affinity,
            "oversize": oversize,
            "filtered": bool(record["filter"]),
            **_share_words(table, workers),
        }
        if draining:
            told["draining"] = [workers.label(eid) for eid in sorted(draining)]
        return {**({"name": name} if name else {}), **told}

    def found_words(name: str | None, found: Mapping[str, int]) -> dict[str, Any]:
        return words(name, state.table_of(found), found, state.draining_of(found))

    def wanted_words(service: ServiceWanted, fixed: Mapping[str, int]) -> dict[str, Any]:
        draining = {backend.endpoint_id for backend in service.backends if backend.drain_weight and service.is_draining}
        return words(service.name, service.table, fixed, draining)

    kept = set()
    values: dict[Claim, bytes] = {}
    for service in wanted.services:
        kept.update(service.entries)
        fixed = {
            **service.shape,
            "retired_index": retired[service.claim],
            "filter": filter_of.get(service.name, 0),
        }
        found = found_of[service.claim]
        block = service.block(slots)  # held against the kernel's, whole
        record = None
        if found is not None and state.block_of(found) == block:
            record = {"table_offset": found["table_offset"], **fixed}
            if all(state.entries.get(entry) == record for entry in service.entries):
                values[service.claim] = layout.SERVICE.pack(record)
                continue
        after = Told(wanted_words, service, fixed)
        before = None
        if found is not None:
            before = found_words(service.name, found)
            if before == after:  # what differs has no name outside this box, or not all entries of a range are there
                there = sum(state.entries.get(entry) == found for entry in service.entries)
                where = "through other slots, filtered or counted elsewhere"
                before = {**before, "entries": f"{there} of {len(service.entries)}, {where}"}
        result.steps.append(make_step("service", service.text, before, after))
        if record is None:
            offset = _place_block(len(block), service, found, space, room, result.shortages)
            if block:
                result.put("ew_lut", offset, block.tobytes(), len(block))
            record = {"table_offset": offset, **fixed}
        value = values[service.claim] = layout.SERVICE.pack(record)
        result.switch += [(e.map, e.pack(), value) for e in service.entries if state.entries.get(e) != record]
    for entry, found in state.entries.items():
        if entry not in kept:
            result.switch.append((entry.map, entry.pack(), None))
            result.steps.append(make_step("service", entry.text, Told(found_words, None, found), None))
    return values


def _place_block(
    size: int,
    service: ServiceWanted,
    found: Mapping[str, int] | None,
    space: Space,
    room: int,
    shortages: Shortages,
) -> int:
    """Where a service's new block goes: free space or, where the map is full, its own place, word by word.

    That takes a block of the same shape: then a place that is new counts in a palette that is still old, or the other
    way round, and leads to one of the service's backends all the same.
    """
    offset = space.take(size) if size else 0
    if offset is not None:
        return offset
    if (
        found is not None
        and found["table_offset"] + size <= room
        and tables.shape_of(found) == tables.shape_of(service.shape)
    ):
        return found["table_offset"]
    shortages.need("lut", room + size, room, " while the tables that change lie beside their old ones")
    return 0
