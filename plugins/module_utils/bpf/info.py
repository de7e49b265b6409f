# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running maps in human terms: addresses, ports, names, counters. What ``forwarder_map_info`` calls."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    edge_state,
    layout,
    libbpf,
    map_io,
    worker_maps,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.counters import total_of
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import PORT_BITS, ports_text

PLAN_FILE = Path("/etc/edgewire/plan.json")


def _drops(maps: map_io.Maps) -> dict[str, int]:
    counts = [row["value"] for row in layout.U64.iter_unpack(maps["ew_drops"].read()[1])]
    cpus = libbpf.possible_cpus()
    return {
        reason: sum(counts[number * cpus : (number + 1) * cpus]) for number, reason in enumerate(layout.DROP_REASONS)
    }


def _names() -> dict[str, Any]:
    """What the last plan calls things: names only, which no map holds. Without a plan file nothing has a name."""
    with suppress(OSError, ValueError):
        plan = json.loads(PLAN_FILE.read_text())
        edge, worker = plan.get("edge") or {}, plan.get("worker") or {}
        hosts = [*edge.get("workers", ()), *worker.get("edges", ())]
        entries = [*edge.get("services", ())]
        return {
            "hosts": {
                host[key]: host["name"]
                for host in hosts
                for key in ("relay_address", "relay_address_ipv6")
                if host.get(key)
            },
            "services": {(entry["vip"], entry["port"]): entry["name"] for entry in entries}
            | {(e["vip"], e["port"]): e["service"] for e in worker.get("endpoints", ())},
        }
    return {"hosts": {}, "services": {}}


def _interface(ifindex: int) -> str | None:
    with suppress(OSError):
        return socket.if_indextoname(ifindex)
    return None


def _claims(state: edge_state.EdgeState) -> Iterable[tuple[edge_state.Claim, Mapping[str, int]]]:
    """The services that the entries make up: single ports as they are, a range from the prefixes it was cut into."""
    parts: dict[tuple[str, int], list[tuple[int, int, Mapping[str, int]]]] = defaultdict(list)
    for entry, record in state.entries.items():
        last = entry.port + (1 << (PORT_BITS - entry.bits)) - 1
        parts[entry.vip, record["retired_index"]].append((entry.port, last, record))
    for (vip, _), found in parts.items():
        found.sort(key=lambda part: part[:2])
        first, last, record = found[0]
        for start, end, other in found[1:]:
            if start != last + 1:
                yield (vip, first, last), record
                first, record = start, other
            last = end
        yield (vip, first, last), record


def _worker_state(worker: Mapping[str, Any] | None) -> str:
    """Whether a backend's worker lives; "unknown" is one that is not in the maps, for which packets are dropped."""
    states = {layout.WORKER_LIVE: "live", layout.WORKER_DEAD: "dead"}
    return states.get(worker["state"], "unknown") if worker else "unknown"


def _edge_info(maps: map_io.Maps) -> dict[str, Any]:
    state, names = edge_state.read(maps), _names()
    counters = map_io.counters_of(maps, "ew_stats", state.backends)
    retired = map_io.counters_of(maps, "ew_retired", (record["retired_index"] for record in state.entries.values()))
    backends_of = defaultdict(list)
    for backend in state.backends.values():
        backends_of[backend["vip"], backend["port"], backend["last_port"]].append(backend)
    services = []
    for (vip, port, last_port), service in sorted(_claims(state), key=lambda item: _order(item[0])):
        table = state.table_of(service)
        share = Counter(table)
        backends = [
            {
                "endpoint_id": backend["endpoint_id"],
                "worker": names["hosts"].get(state.relay_of(backend)),
                "worker_relay_address": state.relay_of(backend),
                "state": _worker_state(state.workers.get(backend["worker"])),
                "share": round(share[backend["endpoint_id"]] / max(len(table), 1), 4),
            }
            for backend in backends_of[vip, port, last_port]
        ]
        services.append(
            {
                "name": names["services"].get((vip, port)),
                "vip": vip,
                "ports": ports_text(port, last_port),
                "protocol": "udp",
                "affinity": "client" if service["flags"] & layout.SERVICE_AFFINITY_CLIENT else "flow",
                "table_size": len(table),
                "backends": sorted(backends, key=lambda b: (b["worker"] or "", b["endpoint_id"])),
                "counters": total_of(
                    [retired.of(service["retired_index"])]
                    + [counters.of(backend["stats_index"]) for backend in backends_of[vip, port, last_port]]
                ),
            }
        )
    return {
        "relay_address": state.config["relay"],
        "relay_address_ipv6": state.config["relay6"],
        "uplink": _interface(state.config["uplink_ifindex"]),
        "wireguard_interface": _interface(state.config["wireguard_ifindex"]),
        "services": services,
    }


def _order(claim: tuple[Any, ...]) -> tuple[Any, ...]:
    """IPv4 before IPv6, addresses by number and not by text."""
    address = ipaddress.ip_address(claim[0])
    return (address.version, int(address), *claim[1:])


def _worker_info(maps: map_io.Maps) -> dict[str, Any]:
    state, names = worker_maps.read(maps), _names()
    counters = map_io.counters_of(maps, "ew_stats", (e["stats_index"] for e in state.endpoints.values()))
    endpoints = [
        {
            "endpoint_id": endpoint_id,
            "service": names["services"].get((endpoint["vip"], endpoint["port"])),
            "vip": endpoint["vip"],
            "ports": ports_text(endpoint["port"], endpoint["last_port"]),
            "protocol": "udp",
            "container_address": endpoint["container"],
            "container_port": endpoint["container_port"],
            "reply": "direct" if endpoint["flags"] & layout.ENDPOINT_DIRECT else "edge",
            "counters": counters.of(endpoint["stats_index"]),
        }
        for endpoint_id, endpoint in sorted(
            state.endpoints.items(), key=lambda item: (*_order((item[1]["vip"], item[1]["port"])), item[0])
        )
    ]
    return {
        "relay_address": state.config["relay"],
        "relay_address_ipv6": state.config["relay6"],
        "wireguard_interface": _interface(state.config["wireguard_ifindex"]),
        "container_interface": _interface(state.config["container_ifindex"]),
        "uplink": _interface(state.config["uplink_ifindex"]),
        "edges": [{"name": names["hosts"].get(relay), "relay_address": relay} for relay in sorted(state.edges)],
        "endpoints": endpoints,
    }


def info(role: str) -> dict[str, Any] | None:
    """The running maps of a role in human terms, with counters and drops; None where the role does not run."""
    with map_io.running_maps(role) as maps:
        if maps is None:
            return None
        told = _edge_info(maps) if role == "edge" else _worker_info(maps)
        return {**told, "drops": {reason: n for reason, n in _drops(maps).items() if n}}
