# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what an edge's maps say to what they shall say: the steps, and the writes that carry them out. Pure.

Indices (a backend's slot, a table's place in ``ew_lut``, a counter's index) mean nothing outside one box. They are
taken from what is in the kernel where it has them, and from free space otherwise, so nothing that is right moves.
A changed table is written to free space and switched to by the service's entry: a packet sees the old table or the
new one.
"""

from __future__ import annotations

import array
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import filters, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    SERVICE_MAPS,
    Claim,
    EdgeState,
    EdgeWanted,
    ServiceWanted,
    entries_of,
    span_of,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Fold, Write
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import claim_text
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Indices, Space
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step


def _check_capacity(wanted: EdgeWanted, tables: Mapping[Claim, list[int]], state: EdgeState) -> None:
    """Refuse what will not fit before anything is written, so that no service is left half there."""
    per_map = Counter(entry.map for service in wanted.services for entry in entries_of(service.claim))
    needed = {
        "services": max(per_map["ew_services"], per_map["ew_services6"]),
        "ranges": max(per_map["ew_ranges"], per_map["ew_ranges6"]),
        "backends": sum(len(service.backends) for service in wanted.services),
        "lut": sum(len(table) for table in tables.values()),
        "workers": len(wanted.workers),
        "vips": len(wanted.vips),
    }
    full = [
        f"{name}: {count} needed, room for {state.capacity[name]}"
        for name, count in needed.items()
        if count > state.capacity[name]
    ]
    if full:
        raise EdgewireError("the maps are too small (" + "; ".join(full) + ")")


def _label(workers: Mapping[int, str], eid: int) -> str:
    return f"{workers.get(eid, 'nowhere')} ({eid})"


def _share_words(table: Sequence[int], workers: Mapping[int, str]) -> dict[str, Any]:
    counts = Counter(table)
    return {
        "backends": {_label(workers, eid): round(count / len(table), 4) for eid, count in sorted(counts.items())},
        "table": hashlib.sha256(array.array("I", table).tobytes()).hexdigest()[:12],
    }


@dataclass
class _Plan:
    """The writes in phases: a map that is looked up first is written last and cleared first."""

    steps: list[Step]
    allocate: list[Write]
    tables: list[Write]
    switch: list[Write]
    folds: list[Fold]
    retire: list[Write]

    def writes(self) -> Iterator[Write | Fold]:
        for phase in (self.allocate, self.tables, self.switch, self.retire):
            if phase is self.retire:  # no packet goes to these backends any more, and they can still be told by name
                yield from self.folds
            # In `switch`, which only knows services and VIPs, those that go make room for those that come.
            yield from sorted(phase, key=lambda write: ((write[2] is None) != (phase is self.switch), _ORDER[write[0]]))


_ORDER = {
    name: number
    for number, name in enumerate(
        (
            *("ew_stats", "ew_retired", "ew_workers", "ew_backends", "ew_endpoints", "ew_lut"),
            *("ew_sources", "ew_sources6", "ew_filtered", "ew_buckets", "ew_filters"),
            *(*SERVICE_MAPS, "ew_vips", "ew_config"),
        )
    )
}


def plan(wanted: EdgeWanted, state: EdgeState, cpus: int = 1, now: int = 0) -> tuple[list[Step], list[Write | Fold]]:
    """Steps in human terms, and the writes that carry them out, in the order in which they are safe.

    ``cpus`` is how many values an entry of a per-CPU map holds, ``now`` the time in ns of CLOCK_MONOTONIC, from which
    a deadline is reckoned that is set for the first time.

    :raises EdgewireError: the maps are too small.
    """
    tables = {service.claim: [*service.table, *service.drain_table] for service in wanted.services}
    _check_capacity(wanted, tables, state)
    result = _Plan([], [], [], [], [], [])
    retired = _plan_counters(wanted, state, result)
    workers = _plan_workers(wanted, state, result)
    slots = _plan_backends(wanted, state, retired, workers, result, cpus, now)
    filter_of = _plan_filters(wanted, state, result, cpus)
    _plan_services(wanted, state, tables, retired, slots, filter_of, result)
    _plan_vips(wanted, state, result)
    _plan_config(wanted, state, result)
    return result.steps, list(result.writes())


def _found_entry(state: EdgeState, claim: Claim) -> Mapping[str, int] | None:
    """What the first of a claim's entries says; the others are held against it."""
    found = (state.entries.get(entry) for entry in entries_of(claim))
    return next((record for record in found if record is not None), None)


def _plan_counters(wanted: EdgeWanted, state: EdgeState, result: _Plan) -> dict[Claim, int]:
    """The index of every wanted service's retired counters; a new one starts at zero whatever was there before."""
    room = state.capacity["backends"]
    counts: dict[int, Claim] = {}  # of two services that claim one counter, only the first keeps it
    for service in sorted(wanted.services, key=lambda service: service.claim):
        found = _found_entry(state, service.claim)
        if found is not None and found["retired_index"] < room:
            counts.setdefault(found["retired_index"], service.claim)
    taken = {record["retired_index"] for record in state.entries.values()}
    indices = Indices(taken | counts.keys(), room)
    retired = {claim: index for index, claim in counts.items()}
    for service in wanted.services:
        if service.claim not in retired:
            retired[service.claim] = indices.take()
            key = layout.U32.pack({"value": retired[service.claim]})
            result.allocate.append(("ew_retired", key, bytes(layout.STATS.size)))
    return retired


def _worker_words(record: Mapping[str, Any]) -> dict[str, Any]:
    state = {layout.WORKER_LIVE: "live", layout.WORKER_DEAD: "dead"}.get(record["state"], record["state"])
    addresses = {"relay_address": record["relay"], "relay_address_ipv6": record["relay6"]}
    return {**{name: address for name, address in addresses.items() if address}, "state": state}


def _plan_workers(wanted: EdgeWanted, state: EdgeState, result: _Plan) -> dict[str, int]:
    """The slot of every worker by name. One that is known by its IPv4 relay address keeps its slot."""
    slot_of = {record["relay"]: slot for slot, record in sorted(state.workers.items(), reverse=True)}
    indices = Indices(state.workers, state.capacity["workers"])
    slots: dict[str, int] = {}
    for name, relays in wanted.workers.items():
        slot = slots[name] = slot_of[relays.ipv4] if relays.ipv4 in slot_of else indices.take()
        dead = name in wanted.dead_workers
        record = {
            "relay": relays.ipv4,
            "relay6": relays.ipv6,
            "state": layout.WORKER_DEAD if dead else layout.WORKER_LIVE,
        }
        found = state.workers.get(slot)
        if found != record:
            result.allocate.append(("ew_workers", layout.U32.pack({"value": slot}), layout.WORKER.pack(record)))
            before = _worker_words(found) if found else None
            result.steps.append(make_step("worker", name, before, _worker_words(record)))
    kept = set(slots.values())
    for slot, found in state.workers.items():
        if slot not in kept:
            result.retire.append(("ew_workers", layout.U32.pack({"value": slot}), bytes(layout.WORKER.size)))
            result.steps.append(make_step("worker", found["relay"] or found["relay6"], _worker_words(found), None))
    return slots


def _plan_backends(
    wanted: EdgeWanted,
    state: EdgeState,
    retired: Mapping[Claim, int],
    workers: Mapping[str, int],
    result: _Plan,
    cpus: int,
    now: int,
) -> dict[int, int]:
    """The slot of every wanted endpoint; steps for backends that are missing, wrong or not wanted."""
    names = wanted.names
    name_of = {slot: name for name, slot in workers.items()}

    def words(backend: Mapping[str, Any], reply: bool) -> dict[str, Any]:
        relay = state.relay_of(backend)
        return {
            "service": claim_text(backend["vip"], backend["port"], backend["last_port"]),
            "worker": name_of.get(backend["worker"]) or names.get(relay, relay),
            "endpoint_id": backend["endpoint_id"],
            "reply_entry": reply,
            **({"old flows until": f"{until / 1e9:.0f} s of uptime"} if (until := backend["asked_until"]) else {}),
        }

    slot_of = {backend["endpoint_id"]: slot for slot, backend in sorted(state.backends.items(), reverse=True)}
    slot_of |= {
        eid: slot for eid, slot in state.endpoints.items() if state.backends.get(slot, {}).get("endpoint_id") == eid
    }
    indices = Indices(state.backends, state.capacity["backends"])
    slots = {}
    for service in wanted.services:
        until = _deadlines(service, state, slot_of, now)
        for backend in service.backends:
            eid = backend.endpoint_id
            slot = slots[eid] = slot_of[eid] if eid in slot_of else indices.take()
            record = {
                "endpoint_id": eid,
                "stats_index": slot,
                "worker": workers[backend.worker],
                "port": service.port,
                "last_port": service.last_port,
                "vip": service.vip,
                "asked_until": until.get(eid, 0),
            }
            found, reply = state.backends.get(slot), state.endpoints.get(eid) == slot
            if found == record and reply:
                continue
            key = layout.U32.pack({"value": slot})
            if eid not in slot_of:
                result.allocate.append(("ew_stats", key, bytes(layout.STATS.size * cpus)))
            result.allocate.append(("ew_backends", key, layout.BACKEND.pack(record)))
            result.allocate.append(("ew_endpoints", layout.BE32.pack({"value": eid}), key))
            before = words(found, reply) if found else None
            after = words(record, True)
            if before == after:  # only the counter differs, which has no name outside this box
                before = {**after, "counter": "another backend's"}
            name = f"{service.name} on {backend.worker} ({eid})"
            result.steps.append(make_step("backend", name, before, after))
    _retire_backends(state, slots, retired, words, result)
    return slots


def _deadlines(service: ServiceWanted, state: EdgeState, slot_of: Mapping[int, int], now: int) -> dict[int, int]:
    """Until when each backend of a draining service is asked for flows, in ns of CLOCK_MONOTONIC.

    A deadline that is set stays. Flows between backends that live are asked for, too, where the two tables differ: as
    long as for any.
    """
    if not service.is_draining:
        return {}
    latest = now + service.drain_deadline * 10**9
    record = _found_entry(state, service.claim)
    known = state.draining_of(record) if record else set()
    until = {}
    for backend in service.backends:
        if backend.drain_weight:
            eid = backend.endpoint_id
            found = state.backends[slot_of[eid]]["asked_until"] if eid in slot_of and eid in known else 0
            until[eid] = found if 0 < found <= latest else latest
    return {backend.endpoint_id: max(until.values()) for backend in service.backends} | until


def _retire_backends(
    state: EdgeState,
    slots: Mapping[int, int],
    retired: Mapping[Claim, int],
    words: Callable[[Mapping[str, Any], bool], dict[str, Any]],
    result: _Plan,
) -> None:
    kept = set(slots.values())
    for slot, found in state.backends.items():
        if slot not in kept:
            eid = found["endpoint_id"]
            shown = words(found, state.endpoints.get(eid) == slot)
            name = f"{shown['service']} on {shown['worker']} ({eid})"
            result.steps.append(make_step("backend", name, shown, None))
            claim = found["vip"], found["port"], found["last_port"]
            if claim in retired:  # the service stays, and so do the packets it has had
                result.folds.append(Fold(slot, retired[claim]))
            zero = bytes(layout.BACKEND.size)
            result.retire.append(("ew_backends", layout.U32.pack({"value": slot}), zero))
    for eid, slot in state.endpoints.items():
        if eid not in slots:
            result.retire.append(("ew_endpoints", layout.BE32.pack({"value": eid}), None))
            if state.backends.get(slot, {}).get("endpoint_id") != eid:
                found = {"endpoint_id": eid, "slot": slot}
                result.steps.append(make_step("reply entry", str(eid), found, None))


def _plan_filters(wanted: EdgeWanted, state: EdgeState, result: _Plan, cpus: int) -> Mapping[str, int]:
    """The index of every service's filter, by the service's name; services without one are left out."""
    used = {record["filter"]: f"of {entry.text}" for entry, record in state.entries.items() if record["filter"]}
    found: dict[str, list[int]] = {}
    for service in wanted.services:
        record = _found_entry(state, service.claim)
        if record is not None and record["filter"]:
            indices = found.setdefault(service.name, [])
            if record["filter"] not in indices:
                indices.append(record["filter"])
    planned = filters.plan(wanted.filters, state.filters, used, found, cpus)
    result.steps += planned.steps
    result.allocate += planned.before
    result.retire += planned.after
    return planned.index


def _plan_services(
    wanted: EdgeWanted,
    state: EdgeState,
    tables: Mapping[Claim, list[int]],
    retired: Mapping[Claim, int],
    slots: Mapping[int, int],
    filter_of: Mapping[str, int],
    result: _Plan,
) -> None:
    names = wanted.names
    relays = {b["endpoint_id"]: state.relay_of(b) for b in state.backends.values()}
    workers = {eid: names.get(relay, relay) for eid, relay in relays.items()}
    workers |= {b.endpoint_id: b.worker for s in wanted.services for b in s.backends}
    room = state.capacity["lut"]
    ranges = {(s["lut_offset"], span_of(s)) for s in state.entries.values()}
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
            told["draining"] = [_label(workers, eid) for eid in sorted(draining)]
        return {**({"name": name} if name else {}), **told}

    def found_words(name: str | None, found: Mapping[str, int]) -> dict[str, Any]:
        return words(name, state.table_of(found), found, state.draining_of(found))

    kept = set()
    for service in wanted.services:
        entries = entries_of(service.claim)
        kept.update(entries)
        table = tables[service.claim]
        fixed = {
            "retired_index": retired[service.claim],
            "flags": service.flags,
            "filter": filter_of.get(service.name, 0),
        }
        found = _found_entry(state, service.claim)
        right = found is not None and state.slots_of(found) == [slots[eid] for eid in table]
        sizes = {"lut_size": len(service.table), **fixed}
        record = {"lut_offset": found["lut_offset"], **sizes} if found and right else None
        if record and all(state.entries.get(entry) == record for entry in entries):
            continue
        draining = {backend.endpoint_id for backend in service.backends if service.is_draining and backend.drain_weight}
        after = words(service.name, service.table, fixed, draining)
        before = found_words(service.name, found) if found else None
        if before == after:  # what differs has no name outside this box, or not all entries of a range are there
            there = sum(state.entries.get(entry) == found for entry in entries)
            where = "through other slots, filtered or counted elsewhere"
            before = {**before, "entries": f"{there} of {len(entries)}, {where}"}
        result.steps.append(make_step("service", service.text, before, after))
        if record is None:
            offset = _place_table(service, len(table), found, space, room)
            for position, eid in enumerate(table):
                slot = layout.U32.pack({"value": slots[eid]})
                result.tables.append(("ew_lut", layout.U32.pack({"value": offset + position}), slot))
            record = {"lut_offset": offset, **sizes}
        value = layout.SERVICE.pack(record)
        result.switch += [(e.map, e.pack(), value) for e in entries if state.entries.get(e) != record]
    for entry, found in state.entries.items():
        if entry not in kept:
            result.switch.append((entry.map, entry.pack(), None))
            before = found_words(None, found)
            result.steps.append(make_step("service", entry.text, before, None))


def _place_table(service: ServiceWanted, size: int, found: Mapping[str, int] | None, space: Space, room: int) -> int:
    """Where a service's new table goes: free space, or its own place, slot by slot, where the map is full."""
    offset = space.take(size) if size else 0
    if offset is not None:
        return offset
    if found is None or span_of(found) < size or found["lut_offset"] + span_of(found) > room:
        raise EdgewireError(f"no room in ew_lut for the table of {service.text} ({size} slots); the map holds {room}")
    return found["lut_offset"]


def _plan_vips(wanted: EdgeWanted, state: EdgeState, result: _Plan) -> None:
    for vip in sorted(wanted.vips ^ state.vips):
        there: Mapping[str, Any] = {"family": "IPv6" if ":" in vip else "IPv4"}
        comes = vip in wanted.vips
        value = layout.U32.pack({}) if comes else None
        result.switch.append(("ew_vips", layout.ADDRESS.pack({"value": vip}), value))
        result.steps.append(make_step("VIP", vip, None if comes else there, there if comes else None))


def _plan_config(wanted: EdgeWanted, state: EdgeState, result: _Plan) -> None:
    record = wanted.config
    if dict(state.config) != record:
        result.allocate.append(("ew_config", layout.U32.pack({}), layout.EDGE_CONFIG.pack(record)))
        before = dict(state.config) if state.config["uplink_ifindex"] else None
        result.steps.append(make_step("configuration", "edge", before, record))
