# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's map contents: what is wanted, what is there, and the writes between. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps, Write
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import claim_text
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Shortages
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step


@dataclass(frozen=True)
class EndpointWanted:
    """One container endpoint of this worker, and the VIP and ports that it answers for.

    ``container_port`` is where the first port goes; the others follow. ``direct``: replies leave through this
    worker's own uplink. ``drain_idle`` is in seconds: while it drains, a flow that was silent longer goes elsewhere.
    One that ``moved`` is on another worker now, and has that one's relay address as ``container_address``.
    ``carries_oversize``: WireGuard fragments replies that it cannot carry whole.
    """

    endpoint_id: int
    service: str
    vip: str
    port: int
    last_port: int
    container_address: str
    container_port: int
    direct: bool = False
    drain_idle: int = 60
    moved: bool = False
    carries_oversize: bool = False

    @property
    def idle(self) -> int:
        """``drain_idle`` in the maps' ticks; never shorter."""
        return -(-self.drain_idle * 10**9 >> layout.TICK_SHIFT)

    @property
    def flags(self) -> int:
        """The endpoint's flags in its map entry."""
        flags = layout.ENDPOINT_DIRECT if self.direct else 0
        flags |= layout.ENDPOINT_CARRIES_OVERSIZE if self.carries_oversize else 0
        return flags | (layout.ENDPOINT_MOVED if self.moved else 0)


@dataclass(frozen=True)
class WorkerWanted:
    """Everything a worker's maps shall say.

    ``edges`` maps names to relay addresses: of the edges, and of the workers that backends have moved between.

    ``wireguard_mtu`` is in bytes of an IP packet. ``uplink_ifindex`` is where direct replies leave; 0 where there is
    no such interface.
    """

    relays: Relays
    wireguard_ifindex: int
    container_ifindex: int
    edges: Mapping[str, Relays]
    endpoints: tuple[EndpointWanted, ...]
    uplink_ifindex: int = 0
    wireguard_mtu: int = 1420

    @property
    def config(self) -> dict[str, Any]:
        """The configuration record."""
        return {
            "relay": self.relays.ipv4,
            "relay6": self.relays.ipv6,
            "wireguard_ifindex": self.wireguard_ifindex,
            "container_ifindex": self.container_ifindex,
            "uplink_ifindex": self.uplink_ifindex,
            "wireguard_mtu": self.wireguard_mtu,
        }

    @property
    def edge_relays(self) -> dict[str, str]:
        """Relay address to edge name, both families."""
        return {address: name for name, relays in self.edges.items() for address in relays.all}


@dataclass(frozen=True)
class WorkerState:
    """What a worker's maps say now, decoded: endpoints by id, the relay addresses of known edges."""

    config: Mapping[str, Any]
    edges: frozenset[str]
    endpoints: Mapping[int, Mapping[str, Any]]
    capacity: Mapping[str, int]


EMPTY = WorkerState(
    {
        "relay": "",
        "relay6": "",
        "wireguard_ifindex": 0,
        "container_ifindex": 0,
        "uplink_ifindex": 0,
        "wireguard_mtu": 0,
    },
    frozenset(),
    {},
    asdict(layout.Capacity()),
)


def read(maps: Maps) -> WorkerState:
    """Decode the worker's maps."""
    keys, _ = maps["ew_edges"].read()
    edges = frozenset(key["value"] for key in layout.ADDRESS.iter_unpack(keys))
    keys, values = maps["ew_endpoints"].read()
    endpoints = {
        key["value"]: value
        for key, value in zip(layout.BE32.iter_unpack(keys), layout.ENDPOINT.iter_unpack(values), strict=True)
    }
    config = next(layout.WORKER_CONFIG.iter_unpack(maps["ew_config"].read()[1]))
    capacity = {
        "edges": maps["ew_edges"].info.max_entries,
        "backends": maps["ew_endpoints"].info.max_entries,
    }
    return WorkerState(config, edges, endpoints, capacity)


def idle_seconds(endpoint: Mapping[str, Any]) -> int:
    """How long a flow may be silent while the endpoint drains, from its entry."""
    return (int(endpoint["idle"]) << layout.TICK_SHIFT) // 10**9


def endpoint_words(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint's entry as people read it."""
    service = claim_text(endpoint["vip"], endpoint["port"], endpoint["last_port"])
    if endpoint["flags"] & layout.ENDPOINT_MOVED:
        return {"service": service, "moved_to": endpoint["container"]}
    return {
        "service": service,
        "container": f"{endpoint['container']} port {endpoint['container_port']}",
        **({"reply": "direct"} if endpoint["flags"] & layout.ENDPOINT_DIRECT else {}),
        "drain_idle": f"{idle_seconds(endpoint)} s",
        **({"oversize": "fragment"} if endpoint["flags"] & layout.ENDPOINT_CARRIES_OVERSIZE else {}),
    }


def plan(wanted: WorkerWanted, state: WorkerState, cpus: int = 1) -> tuple[list[Step], list[Write]]:
    """Steps in human terms, and the writes that carry them out: what comes before what goes.

    Only where both do not fit together what goes has to make room first.

    ``cpus`` is how many values an entry of a per-CPU map holds.

    :raises EdgewireError: the maps are too small.
    """
    shortages = Shortages()
    shortages.need("edges", len(wanted.edge_relays), state.capacity["edges"])
    shortages.need("backends", len(wanted.endpoints), state.capacity["backends"])
    shortages.raise_if_any()
    steps: list[Step] = []
    writes: list[Write] = []
    removals: list[Write] = []
    _plan_endpoints(wanted, state, cpus, steps, writes, removals)
    _plan_edges(wanted, state, steps, writes, removals)
    record = wanted.config
    if dict(state.config) != record:
        writes.append(("ew_config", layout.U32.of(0), layout.WORKER_CONFIG.pack(record)))
        before = dict(state.config) if state.config["container_ifindex"] else None
        steps.append(make_step("configuration", "worker", before, record))
    both = {
        "edges": len(wanted.edge_relays.keys() | state.edges),
        "backends": len({endpoint.endpoint_id for endpoint in wanted.endpoints} | state.endpoints.keys()),
    }
    fits = all(count <= state.capacity[name] for name, count in both.items())
    return steps, writes + removals if fits else removals + writes


def _plan_endpoints(
    wanted: WorkerWanted,
    state: WorkerState,
    cpus: int,
    steps: list[Step],
    writes: list[Write],
    removals: list[Write],
) -> None:
    kept = {endpoint.endpoint_id for endpoint in wanted.endpoints}
    counts: dict[int, int] = {}  # counter index -> endpoint id; of two that claim one, only the first keeps it
    for endpoint_id, known in sorted(state.endpoints.items()):
        if endpoint_id in kept and known["stats_index"] < state.capacity["backends"]:
            counts.setdefault(known["stats_index"], endpoint_id)
    # A counter of what goes is taken last: it counts until that is gone.
    going = {known["stats_index"] for known in state.endpoints.values()} - counts.keys()
    free = itertools.chain(
        (index for index in range(state.capacity["backends"]) if index not in counts and index not in going),
        sorted(index for index in going if index < state.capacity["backends"]),
    )
    index_of = {endpoint_id: index for index, endpoint_id in counts.items()}
    entries: list[Write] = []
    for endpoint in wanted.endpoints:
        found = state.endpoints.get(endpoint.endpoint_id)
        index = index_of.get(endpoint.endpoint_id)
        if index is None:
            index = next(free)
            zero = bytes(layout.STATS.size * cpus)
            writes.append(("ew_stats", layout.U32.of(index), zero))
        record = {
            "vip": endpoint.vip,
            "container": endpoint.container_address,
            "port": endpoint.port,
            "last_port": endpoint.last_port,
            "container_port": endpoint.container_port,
            "flags": endpoint.flags,
            "stats_index": index,
            "idle": endpoint.idle,
        }
        if found != record:
            key = layout.BE32.of(endpoint.endpoint_id)
            entries.append(("ew_endpoints", key, layout.ENDPOINT.pack(record)))
            before = endpoint_words(found) if found else None
            after = endpoint_words(record)
            if before == after:  # only the counter or an unknown flag differs, which have no name outside this box
                before = {**after, "counter": "another endpoint's"}
            name = f"{endpoint.service} ({endpoint.endpoint_id})"
            steps.append(make_step("endpoint", name, before, after))
    writes += entries
    for endpoint_id, known in sorted(state.endpoints.items()):
        if endpoint_id not in kept:
            removals.append(("ew_endpoints", layout.BE32.of(endpoint_id), None))
            steps.append(make_step("endpoint", str(endpoint_id), endpoint_words(known), None))


def _plan_edges(
    wanted: WorkerWanted,
    state: WorkerState,
    steps: list[Step],
    writes: list[Write],
    removals: list[Write],
) -> None:
    for relay, name in wanted.edge_relays.items():
        if relay not in state.edges:
            one = layout.U32.of(1)
            writes.append(("ew_edges", layout.ADDRESS.of(relay), one))
            steps.append(make_step("edge", f"{name} {relay}", None, {"relay_address": relay}))
    for relay in sorted(state.edges - wanted.edge_relays.keys()):
        removals.append(("ew_edges", layout.ADDRESS.of(relay), None))
        steps.append(make_step("edge", relay, {"relay_address": relay}, None))
