# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what an edge's maps say to what they shall say: the steps, and the writes that carry them out. Pure.

Indices (a backend's slot, a table's place in ``ew_lut``, a counter's index) mean nothing outside one box. They are
taken from what is in the kernel where it has them, and from free space otherwise, so nothing that is right moves.
A changed table is written to free space and switched to by the service's entry: a packet sees the old table or the
new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct, filters, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_backends import plan_backends
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_phases import Phases
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_services import plan_services
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import Claim, EdgeState, EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Change
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Indices, Shortages
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step

_Found = Mapping[Claim, Mapping[str, int] | None]


def _check_capacity(wanted: EdgeWanted, state: EdgeState, shortages: Shortages) -> None:
    per_map = Counter(entry.map for service in wanted.services for entry in service.entries)
    needed = {
        "services": max(per_map["ew_services"], per_map["ew_services6"]),
        "ranges": max(per_map["ew_ranges"], per_map["ew_ranges6"]),
        "backends": sum(len(service.backends) for service in wanted.services),
        "lut": sum(service.span for service in wanted.services),
        "workers": len(wanted.workers),
        "vips": len(wanted.vips),
    }
    for name, count in needed.items():
        shortages.need(name, count, state.capacity[name])


def plan(wanted: EdgeWanted, state: EdgeState, cpus: int = 1, now: int = 0) -> tuple[list[Step], list[Change]]:
    """Steps in human terms, and the writes that carry them out, in the order in which they are safe.

    ``cpus`` is how many values an entry of a per-CPU map holds, ``now`` the time in ns of CLOCK_MONOTONIC, from which
    a deadline is reckoned that is set for the first time.

    :raises EdgewireError: the maps are too small.
    """
    result = Phases()
    _check_capacity(wanted, state, result.shortages)
    # What the first of a claim's entries says; the others are held against it.
    found_of = {
        service.claim: next(filter(None, map(state.entries.get, service.entries)), None) for service in wanted.services
    }
    retired = _plan_counters(wanted, state, found_of, result)
    workers = _plan_workers(wanted, state, result)
    slots = plan_backends(wanted, state, found_of, retired, workers, result, cpus, now)
    filter_of = _plan_filters(wanted, state, found_of, result, cpus)
    values = plan_services(wanted, state, found_of, retired, slots, filter_of, result)
    _plan_vips(wanted, state, result)
    _plan_config(wanted, state, result)
    _plan_direct(wanted, state, values, result)
    result.shortages.raise_if_any()
    return result.steps, list(result.writes())


def _plan_counters(wanted: EdgeWanted, state: EdgeState, found_of: _Found, result: Phases) -> dict[Claim, int]:
    """The index of every wanted service's retired counters; a new one starts at zero whatever was there before."""
    room = state.capacity["backends"]
    counts: dict[int, Claim] = {}  # of two services that claim one counter, only the first keeps it
    for service in sorted(wanted.services, key=lambda service: service.claim):
        found = found_of[service.claim]
        if found is not None and found["retired_index"] < room:
            counts.setdefault(found["retired_index"], service.claim)
    taken = {record["retired_index"] for record in state.entries.values()}
    indices = Indices(taken | counts.keys(), room, "backends", result.shortages)
    retired = {claim: index for index, claim in counts.items()}
    for service in wanted.services:
        if service.claim not in retired:
            retired[service.claim] = indices.take()
            result.put("ew_retired", retired[service.claim], bytes(layout.STATS.size))
    return retired


def _worker_words(record: Mapping[str, Any]) -> dict[str, Any]:
    state = {layout.WORKER_LIVE: "live", layout.WORKER_DEAD: "dead"}.get(record["state"], record["state"])
    addresses = {"relay_address": record["relay"], "relay_address_ipv6": record["relay6"]}
    return {**{name: address for name, address in addresses.items() if address}, "state": state}


def _plan_workers(wanted: EdgeWanted, state: EdgeState, result: Phases) -> dict[str, int]:
    """The slot of every worker by name. One that is known by its IPv4 relay address keeps its slot."""
    slot_of = {record["relay"]: slot for slot, record in sorted(state.workers.items(), reverse=True)}
    indices = Indices(state.workers, state.capacity["workers"], "workers", result.shortages)
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
            result.allocate.append(("ew_workers", layout.U32.of(slot), layout.WORKER.pack(record)))
            before = _worker_words(found) if found else None
            result.steps.append(make_step("worker", name, before, _worker_words(record)))
    kept = set(slots.values())
    for slot, found in state.workers.items():
        if slot not in kept:
            result.retire.append(("ew_workers", layout.U32.of(slot), bytes(layout.WORKER.size)))
            result.steps.append(make_step("worker", found["relay"] or found["relay6"], _worker_words(found), None))
    return slots


def _plan_filters(
    wanted: EdgeWanted, state: EdgeState, found_of: _Found, result: Phases, cpus: int
) -> Mapping[str, int]:
    """The index of every service's filter, by the service's name; services without one are left out."""
    used = {record["filter"]: f"of {entry.text}" for entry, record in state.entries.items() if record["filter"]}
    found: dict[str, list[int]] = {}
    for service in wanted.services:
        record = found_of[service.claim]
        if record is not None and record["filter"]:
            indices = found.setdefault(service.name, [])
            if record["filter"] not in indices:
                indices.append(record["filter"])
    planned = filters.plan(wanted.filters, state.filters, used, found, cpus, result.shortages)
    result.steps += planned.steps
    result.allocate += planned.before
    result.retire += planned.after
    return planned.index


def _plan_vips(wanted: EdgeWanted, state: EdgeState, result: Phases) -> None:
    for vip in sorted(wanted.vips ^ state.vips):
        there: Mapping[str, Any] = {"family": "IPv6" if ":" in vip else "IPv4"}
        comes = vip in wanted.vips
        value = layout.U32.of(0) if comes else None
        result.switch.append(("ew_vips", layout.ADDRESS.of(vip), value))
        result.steps.append(make_step("VIP", vip, None if comes else there, there if comes else None))


def _plan_config(wanted: EdgeWanted, state: EdgeState, result: Phases) -> None:
    record = wanted.config
    if dict(state.config) != record:
        result.allocate.append(("ew_config", layout.U32.of(0), layout.EDGE_CONFIG.pack(record)))
        before = dict(state.config) if state.config["uplink_ifindex"] else None
        result.steps.append(make_step("configuration", "edge", before, record))


def _plan_direct(wanted: EdgeWanted, state: EdgeState, values: Mapping[Claim, bytes], result: Phases) -> None:
    """Have the tables in front of the maps say the same; a step only where no other one brings them along."""
    entries: dict[str, dict[bytes, bytes]] = {}
    ranges: list[Claim] = []
    for service in wanted.services:
        if service.port == service.last_port:
            entry = service.entries[0]
            entries.setdefault(entry.map, {})[entry.pack()] = values[service.claim]
        else:
            ranges.append(service.claim)
    before, after = direct.plan(entries, ranges, state.direct)
    result.allocate += before
    result.settle += after
    if (before or after) and not result.steps:
        told = {"says": "what the services' entries say"}
        result.steps.append(make_step("index", "of services", {"says": "something else"}, told))
