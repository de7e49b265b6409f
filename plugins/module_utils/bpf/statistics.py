# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of the running programs in human terms, and rates between two readings: ``forwarder_stats_info``."""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, info, layout, map_io, worker_maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.counters import total_of

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Reading:
    """A role's counters at one time.

    ``counts`` has those of each service (by claim), backend and endpoint (by endpoint id), and what each filter
    refused (by "filter" and its index); ``when`` is in seconds of the monotonic clock. ``fragments`` counts those
    that were held for their datagram's first one, and those of them that were released when it came.
    """

    state: edge_state.EdgeState | worker_maps.WorkerState
    counts: Mapping[Hashable, Counts]
    drops: Counts
    fragments: Counts
    events: Counts
    when: float


def _named(maps: map_io.Maps, name: str, names: Collection[str]) -> dict[str, int]:
    """A map with one counter for each of ``names``, all CPUs together."""
    counts = array.array("Q", maps[name].read()[1])
    cpus = len(counts) // len(names)
    return {counted: sum(counts[number * cpus : (number + 1) * cpus]) for number, counted in enumerate(names)}


def drops_of(maps: map_io.Maps) -> dict[str, int]:
    """Dropped packets by reason, all CPUs together."""
    return _named(maps, "ew_drops", layout.DROP_REASONS)


def events_of(maps: map_io.Maps) -> dict[str, int]:
    """What happened to packets off the plain way, all CPUs together."""
    return _named(maps, "ew_events", layout.EVENTS)


def fragments_of(maps: map_io.Maps) -> dict[str, int]:
    """Fragments that were held, and those of them that were released, all CPUs together."""
    rows = list(layout.HELD_COUNT.iter_unpack(maps["ew_held_count"].read()[1]))
    return {name: sum(row[name] for row in rows) for name, _ in layout.HELD_COUNT.fields}


def _edge_counts(maps: map_io.Maps, state: edge_state.EdgeState) -> dict[Hashable, Counts]:
    counters = map_io.counters_of(maps, "ew_stats", state.backends)
    retired = map_io.counters_of(maps, "ew_retired", (record["retired_index"] for record in state.entries.values()))
    counts: dict[Hashable, Counts] = {
        backend["endpoint_id"]: counters.of(slot) for slot, backend in state.backends.items()
    }
    backends = state.backends_by_claim
    for claim, record in info.claims_of(state):
        counts[claim] = total_of(
            [retired.of(record["retired_index"]), *(counts[b["endpoint_id"]] for b in backends.get(claim, ()))]
        )
    filters = state.filters.filters
    refused = map_io.counters_of(maps, "ew_filtered", filters, layout.FILTERED)
    counts.update({("filter", index): refused.of(index) for index in filters})
    return counts


def read(role: str) -> Reading | None:
    """The counters of a role's running programs; None where they do not run."""
    with map_io.running_maps(role) as maps:
        if maps is None:
            return None
        state: edge_state.EdgeState | worker_maps.WorkerState
        counts: dict[Hashable, Counts]
        if role == "edge":
            state = edge_state.read(maps)
            counts = _edge_counts(maps, state)
        else:
            state = worker_maps.read(maps)
            indices = {endpoint_id: endpoint["stats_index"] for endpoint_id, endpoint in state.endpoints.items()}
            counters = map_io.counters_of(maps, "ew_stats", indices.values())
            counts = {endpoint_id: counters.of(index) for endpoint_id, index in indices.items()}
        return Reading(state, counts, drops_of(maps), fragments_of(maps), events_of(maps), time.monotonic())


def _teller(now: Reading, before: Reading | None) -> Callable[[Hashable], dict[str, Any]]:
    """What is told of the counters by their key: totals and, with an earlier reading, rates per second."""

    def tell(key: Hashable) -> dict[str, Any]:
        counts = now.counts[key]
        if before is None:
            return {"counters": counts}
        return {"counters": counts, "rates": rates_of(counts, before.counts.get(key, {}), now.when - before.when)}

    return tell


def rates_of(now: Counts, before: Counts, seconds: float) -> dict[str, float]:
    """What counters grew by, per second; one that started afresh in between did so at 0."""
    rates = {}
    for name, count in now.items():
        old = before.get(name, 0)
        rates[name] = round((count - old if count >= old else count) / seconds, 1)
    return rates


def _drop_words(now: Reading, before: Reading | None, every_reason: bool) -> list[dict[str, Any]]:
    rates = rates_of(now.drops, before.drops, now.when - before.when) if before else {}
    return _counted_words("reason", layout.DROP_REASONS, now.drops, rates, every_reason)


def _event_words(now: Reading, before: Reading | None, every_event: bool) -> list[dict[str, Any]]:
    rates = rates_of(now.events, before.events, now.when - before.when) if before else {}
    return _counted_words("event", layout.EVENTS, now.events, rates, every_event)


def _counted_words(
    what: str, meanings: Mapping[str, str], counts: Counts, rates: Mapping[str, float], every_one: bool
) -> list[dict[str, Any]]:
    return [
        {
            what: name,
            "explanation": meanings[name],
            "packets": packets,
            **({"rate": rates[name]} if rates else {}),
        }
        for name, packets in counts.items()
        if packets or every_one
    ]


def tell(now: Reading, before: Reading | None = None, *, every_reason: bool = False) -> dict[str, Any]:
    """A reading in human terms.

    :param before: an earlier reading of the same role; with it, rates per second are told too.
    :param every_reason: also tell reasons for which nothing was dropped, and events that there were none of.
    """
    names, of = info.read_names(), _teller(now, before)
    rest: dict[str, Any] = {"fragments": now.fragments}
    rest |= {
        "drops": _drop_words(now, before, every_reason),
        "events": _event_words(now, before, every_reason),
    }
    if isinstance(now.state, worker_maps.WorkerState):
        endpoints = info.sorted_endpoints(now.state)
        return {
            "endpoints": [{**info.endpoint_words(eid, e, names), **of(eid)} for eid, e in endpoints],
            **rest,
        }
    services, state = [], now.state
    backends_of = state.backends_by_claim
    for claim, record in sorted(info.claims_of(state), key=lambda item: info.order(item[0])):
        backends = [
            {**info.backend_words(b["endpoint_id"], state.relay_of(b), names), **of(b["endpoint_id"])}
            for b in backends_of.get(claim, ())
        ]
        backends.sort(key=info.backend_order)
        refused = ("filter", record["filter"])
        told = {**info.service_words(claim, names), **of(claim), "backends": backends}
        services.append({**told, "filter": of(refused) if refused in now.counts else None})
    return {"services": services, **rest}


def gather(interval: float, *, every_reason: bool) -> dict[str, Any]:
    """Both roles' counters in human terms, None for a role that does not run here.

    :param interval: seconds between two readings whose difference makes the rates; 0 for one reading and no rates.
    """
    first = {role: read(role) for role in layout.MAPS}
    second = first
    if interval and any(first.values()):
        time.sleep(interval)
        second = {role: read(role) for role in layout.MAPS}
    before: Mapping[str, Reading | None] = first if second is not first else {}
    return {
        role: None if now is None else tell(now, before.get(role), every_reason=every_reason)
        for role, now in second.items()
    }
