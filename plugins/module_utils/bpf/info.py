# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running maps in human terms: addresses, ports, names. What ``forwarder_map_info`` calls."""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    edge_state,
    filters,
    layout,
    map_io,
    worker_maps,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import PORT_BITS, ports_text

PLAN_FILE = Path("/etc/edgewire/plan.json")

Names = Mapping[str, Mapping[Any, str]]


def read_names() -> Names:
    """What the last plan calls things: names only, which no map holds. Without a plan file nothing has a name."""
    with suppress(OSError, ValueError):
        plan = json.loads(PLAN_FILE.read_text())
        edge, worker = plan.get("edge") or {}, plan.get("worker") or {}
        hosts = [*edge.get("workers", ()), *worker.get("edges", ()), *worker.get("workers", ())]
        entries = [*edge.get("services", ())]
        return {
            "hosts": {
                host[key]: host["name"]
                for host in hosts
                for key in ("relay_address", "relay_address_ipv6")
                if host.get(key)
            },
            "services": {(entry["vip"], entry["port"]): entry["name"] for entry in entries}
            | {(e["vip"], e["port"]): e["service"] for e in (*worker.get("endpoints", ()), *worker.get("moved", ()))},
        }
    return {"hosts": {}, "services": {}}


def interface_name(ifindex: int) -> str | None:
    """An interface's name by its index; None where there is none."""
    with suppress(OSError):
        return socket.if_indextoname(ifindex)
    return None


def claims_of(state: edge_state.EdgeState) -> Iterable[tuple[edge_state.Claim, Mapping[str, int]]]:
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


def _backend_state(state: edge_state.EdgeState, backend: Mapping[str, Any], draining: set[int]) -> dict[str, Any]:
    """Whether a backend lives, by its worker; "unknown" is a worker that is not in the maps, which drops packets.

    One that drains is said to, and for how many seconds more it may keep flows.
    """
    states = {layout.WORKER_LIVE: "live", layout.WORKER_DEAD: "dead"}
    alive = states.get(state.workers.get(backend["worker"], {}).get("state", 0), "unknown")
    if alive != "live" or backend["endpoint_id"] not in draining:
        return {"state": alive}
    left = max(0, backend["asked_until"] - time.monotonic_ns()) // 10**9
    return {"state": "draining", "seconds_left": left}


def service_words(claim: edge_state.Claim, names: Names) -> dict[str, Any]:
    """What tells a service of the edge from others."""
    vip, port, last_port = claim
    name = names["services"].get((vip, port))
    return {"name": name, "vip": vip, "ports": ports_text(port, last_port), "protocol": "udp"}


def backend_words(endpoint_id: int, relay: str, names: Names) -> dict[str, Any]:
    """What tells a backend of a service from others; ``relay`` is its worker's relay address."""
    return {"endpoint_id": endpoint_id, "worker": names["hosts"].get(relay), "worker_relay_address": relay}


def backend_order(words: Mapping[str, Any]) -> tuple[str, int]:
    """By worker."""
    return words["worker"] or "", words["endpoint_id"]


def endpoint_words(endpoint_id: int, endpoint: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A worker's endpoint; of one that moved, which worker has it now."""
    words = {
        "endpoint_id": endpoint_id,
        "service": names["services"].get((endpoint["vip"], endpoint["port"])),
        "vip": endpoint["vip"],
        "ports": ports_text(endpoint["port"], endpoint["last_port"]),
        "protocol": "udp",
    }
    place = endpoint["container"]
    if has_moved(endpoint):
        return words | {"moved_to": names["hosts"].get(place), "moved_to_relay_address": place}
    return words | {"container_address": place, "container_port": endpoint["container_port"]}


def has_moved(endpoint: Mapping[str, Any]) -> bool:
    """Whether another worker has an endpoint now."""
    return bool(endpoint["flags"] & layout.ENDPOINT_MOVED)


def sorted_endpoints(state: worker_maps.WorkerState) -> list[tuple[int, Mapping[str, Any]]]:
    """A worker's endpoints by VIP and port."""
    return sorted(state.endpoints.items(), key=lambda item: (*order((item[1]["vip"], item[1]["port"])), item[0]))


def _edge_info(maps: map_io.Maps) -> dict[str, Any]:
    state, names = edge_state.read(maps), read_names()
    backends_of = state.backends_by_claim
    services = []
    for claim, service in sorted(claims_of(state), key=lambda item: order(item[0])):
        table = state.table_of(service)
        share, draining = Counter(table), state.draining_of(service)
        backends = [
            {
                **backend_words(backend["endpoint_id"], state.relay_of(backend), names),
                **_backend_state(state, backend, draining),
                "share": round(share[backend["endpoint_id"]] / max(len(table), 1), 4),
            }
            for backend in backends_of.get(claim, ())
        ]
        services.append(
            {
                **service_words(claim, names),
                "affinity": "client" if service["flags"] & layout.SERVICE_AFFINITY_CLIENT else "flow",
                "oversize": "fragment" if service["flags"] & layout.SERVICE_CARRIES_OVERSIZE else "refuse",
                "table_size": len(table),
                "filter": _filter_info(state.filters, service["filter"]),
                "backends": sorted(backends, key=backend_order),
            }
        )
    return {
        "relay_address": state.config["relay"],
        "relay_address_ipv6": state.config["relay6"],
        "uplink": map_io.find_attached("edge").get("edge_xdp", (None,))[0],
        "reply_interface": interface_name(state.config["uplink_ifindex"]),
        "wireguard_interface": interface_name(state.config["wireguard_ifindex"]),
        "services": services,
    }


def _filter_info(state: filters.FilterState, index: int) -> dict[str, Any] | None:
    """A filter in the inventory's words; None where there is none."""
    record = state.filters.get(index)
    return filters.describe(record, state.lists.get(record["sources"])) if record else None


def order(claim: tuple[Any, ...]) -> tuple[Any, ...]:
    """IPv4 before IPv6, addresses by number and not by text."""
    address = ipaddress.ip_address(claim[0])
    return (address.version, int(address), *claim[1:])


def _worker_info(maps: map_io.Maps) -> dict[str, Any]:
    state, names = worker_maps.read(maps), read_names()
    endpoints = [
        {
            **endpoint_words(endpoint_id, endpoint, names),
            "reply": "direct" if endpoint["flags"] & layout.ENDPOINT_DIRECT else "edge",
            "drain_idle": worker_maps.idle_seconds(endpoint),
            "oversize": "fragment" if endpoint["flags"] & layout.ENDPOINT_CARRIES_OVERSIZE else "refuse",
        }
        for endpoint_id, endpoint in sorted_endpoints(state)
        if not has_moved(endpoint)
    ]
    moved = [
        endpoint_words(endpoint_id, endpoint, names)
        for endpoint_id, endpoint in sorted_endpoints(state)
        if has_moved(endpoint)
    ]
    return {
        "relay_address": state.config["relay"],
        "relay_address_ipv6": state.config["relay6"],
        "wireguard_interface": interface_name(state.config["wireguard_ifindex"]),
        "container_interface": interface_name(state.config["container_ifindex"]),
        "uplink": interface_name(state.config["uplink_ifindex"]),
        "edges": [{"name": names["hosts"].get(relay), "relay_address": relay} for relay in sorted(state.edges)],
        "endpoints": endpoints,
        "moved": moved,
    }


def info(role: str) -> dict[str, Any] | None:
    """The running maps of a role in human terms; None where the role does not run."""
    with map_io.running_maps(role) as maps:
        if maps is None:
            return None
        return _edge_info(maps) if role == "edge" else _worker_info(maps)
