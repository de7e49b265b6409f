# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An edge's backends: which slot each endpoint has, and until when one that drains is asked for flows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_phases import Phases
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    Claim,
    EdgeState,
    EdgeWanted,
    ServiceWanted,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Fold
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import claim_text
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Indices
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Told, make_step


def plan_backends(
    wanted: EdgeWanted,
    state: EdgeState,
    found_of: Mapping[Claim, Mapping[str, int] | None],
    retired: Mapping[Claim, int],
    workers: Mapping[str, int],
    result: Phases,
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
            "weight": backend["weight"],
            **({"drain_weight": backend["drain_weight"]} if backend["drain_weight"] else {}),
            **({"old flows until": f"{until / 1e9:.0f} s of uptime"} if (until := backend["asked_until"]) else {}),
        }

    slot_of = {backend["endpoint_id"]: slot for slot, backend in sorted(state.backends.items(), reverse=True)}
    slot_of |= {
        eid: slot for eid, slot in state.endpoints.items() if state.backends.get(slot, {}).get("endpoint_id") == eid
    }
    indices = Indices(state.backends, state.capacity["backends"], "backends", result.shortages)
    slots = {}
    for service in wanted.services:
        until = _deadlines(service, state, found_of[service.claim], slot_of, now) if service.is_draining else {}
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
                "weight": backend.weight,
                "drain_weight": backend.drain_weight,
            }
            found, reply = state.backends.get(slot), state.endpoints.get(eid) == slot
            if found == record and reply:
                continue
            if eid not in slot_of:
                result.put("ew_stats", slot, bytes(layout.STATS.size * cpus))
            result.put("ew_backends", slot, layout.BACKEND.pack(record))
            result.allocate.append(("ew_endpoints", layout.BE32.of(eid), layout.U32.of(slot)))
            after = Told(words, record, True)
            before = None
            if found is not None:
                before = words(found, reply)
                if before == after:  # only the counter differs, which has no name outside this box
                    before = {**before, "counter": "another backend's"}
            name = f"{service.name} on {backend.worker} ({eid})"
            result.steps.append(make_step("backend", name, before, after))
    _retire_backends(state, slots, retired, words, result)
    return slots


def _deadlines(
    service: ServiceWanted, state: EdgeState, record: Mapping[str, int] | None, slot_of: Mapping[int, int], now: int
) -> dict[int, int]:
    """Until when each backend of a draining service is asked for flows, in ns of CLOCK_MONOTONIC.

    A deadline that is set stays. Flows between backends that live are asked for, too, where the two tables differ: as
    long as for any.
    """
    latest = now + service.drain_deadline * 10**9
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
    result: Phases,
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
            result.retire.append(("ew_backends", layout.U32.of(slot), zero))
    for eid, slot in state.endpoints.items():
        if eid not in slots:
            result.retire.append(("ew_endpoints", layout.BE32.of(eid), None))
            if state.backends.get(slot, {}).get("endpoint_id") != eid:
                found = {"endpoint_id": eid, "slot": slot}
                result.steps.append(make_step("reply entry", str(eid), found, None))
