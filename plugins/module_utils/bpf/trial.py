# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probe packets through a role's programs while they take over, held against what their own maps say.

What must come out is computed from the maps as they are read back and not from a plan: a roll-out that changes the
services comes after the programs, and a rollback has no plan at all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import adder, edge_state, filters, libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    BackendWanted,
    EdgeState,
    EdgeWanted,
    ServiceWanted,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.layout import (
    SERVICE_AFFINITY_CLIENT,
    SERVICE_DRAINING,
    STATS,
    WORKER_DEAD,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import probe

MOST_PROBES = 256  # services, spread evenly over all
_SHOWN = 3
_ETHERNET = 14
_TC_UNSPEC = 0xFFFFFFFF  # TC_ACT_UNSPEC: left to who comes after


class ProbeError(EdgewireError):
    """Packets came out of the programs otherwise than their maps say."""


@dataclass(frozen=True)
class _Carried(ServiceWanted):
    """A service as the maps have it: its table is read, not computed."""

    slots: tuple[int, ...] = ()

    @functools.cached_property
    def table(self) -> list[int]:
        return list(self.slots)


def run(role: str, programs: Mapping[str, int], maps: Maps) -> int:
    """Send probes through programs (name to descriptor) that use ``maps``; how many were sent.

    :raises ProbeError: with the packet, what had to come out and what did.
    """
    if role == "worker":
        return _worker(programs["worker_egress"])
    state = edge_state.read(maps)
    if not state.config["relay"] and not state.config["relay6"]:
        return 0  # nothing is configured yet: the program drops, and has nobody to serve
    wrong: list[str] = []
    counted: list[tuple[int, list[int]]] = []
    sent = 0
    with _on_one_cpu():
        for service, wanted in _services(state):
            for result in probe.run_probes(programs["edge_xdp"], replace(wanted, services=(service,))):
                sent += 1
                if not result.right:
                    wrong.append(_told(result.service, wanted, result.expected, result.found))
                elif result.found["verdict"] == "XDP_PASS":
                    counted += _counted(state, service, wanted)
        adder.add(maps["ew_stats"].fd, len(STATS.fields), counted)
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ProbeError(f"{len(wrong)} of {sent} probes came out wrong: {'; '.join(wrong[:_SHOWN])}{more}")
    return sent


@contextmanager
def _on_one_cpu() -> Iterator[None]:
    """Stay on a CPU: what a probe adds to that one's counters can be taken off again only there."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _counted(state: EdgeState, service: ServiceWanted, wanted: EdgeWanted) -> Iterator[tuple[int, list[int]]]:
    """What takes a probe that was relayed off the counters again: it was no client's packet."""
    client = probe.client_of(service, wanted)
    backend = probe.backend_of(service, wanted, client)
    slot = state.endpoints.get(backend.endpoint_id) if backend else None
    if slot is not None and slot in state.backends:
        counts = {"in_packets": 1, "in_bytes": len(probe.packet_to(service, client)) - _ETHERNET}
        yield state.backends[slot]["stats_index"], [-counts.get(name, 0) % (1 << 64) for name, _ in STATS.fields]


def _told(service: ServiceWanted, wanted: EdgeWanted, expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    packet = probe.packet_to(service, probe.client_of(service, replace(wanted, services=(service,))))
    return (
        f"{service.text}: packet {packet.hex()}, expected {expected['verdict']} {expected['packet']},"
        f" found {found['verdict']} {found['packet']}"
    )


def _services(state: EdgeState) -> Iterator[tuple[ServiceWanted, EdgeWanted]]:
    """Services of the maps, each with what is needed to say what must become of a packet to it."""
    workers = {str(number): Relays(record["relay"], record["relay6"]) for number, record in state.workers.items()}
    dead = frozenset(str(n) for n, record in state.workers.items() if record["state"] == WORKER_DEAD)
    backends = {b["endpoint_id"]: BackendWanted(b["endpoint_id"], str(b["worker"]), 1) for b in state.backends.values()}
    relays = Relays(state.config["relay"], state.config["relay6"])
    for entry, record in _spread(list(state.entries.items())):
        table = tuple(state.table_of(record))
        loose = record["filter"] and record["filter"] not in state.filters.filters
        if record["flags"] & SERVICE_DRAINING or loose or not all(eid in backends for eid in table):
            continue  # where a packet of those goes depends on time, or is for forwarder_map to repair
        service = _Carried(
            name="",
            vip=entry.vip,
            port=entry.port,
            last_port=entry.port,
            backends=tuple(backends[eid] for eid in sorted(set(table))),
            by_client=bool(record["flags"] & SERVICE_AFFINITY_CLIENT),
            slots=table,
        )
        yield service, EdgeWanted(relays, 0, 0, workers, (), dead, _filters(state, record["filter"]))


def _filters(state: EdgeState, index: int) -> tuple[filters.FilterWanted, ...]:
    record = state.filters.filters.get(index)
    if not index or record is None:
        return ()
    limited = filters.Rate(1) if record["interval"] or record["source_interval"] else filters.Rate()
    return (filters.FilterWanted("", state.filters.lists.get(record["sources"], frozenset()), limited),)


def _spread(
    entries: Sequence[tuple[edge_state.Entry, Mapping[str, int]]],
) -> Iterator[tuple[edge_state.Entry, Mapping[str, int]]]:
    step = max(1, -(-len(entries) // MOST_PROBES))
    return iter(entries[::step])


def _worker(egress: int) -> int:
    """What a container sends that is no reply must pass untouched.

    The other program lives on a device without link layer, which a test run cannot be given.
    """
    packet = probe.packet_to(ServiceWanted("", "192.0.2.1", 9, 9, ()), str(probe.CLIENTS[4][1]))
    run = libbpf.run_program(egress, packet)
    if (run.retval, run.data) != (_TC_UNSPEC, packet):
        raise ProbeError(
            f"a container's packet to nowhere: packet {packet.hex()}, expected TC_ACT_UNSPEC and the same packet,"
            f" found {run.retval} {run.data.hex()}"
        )
    return 1
