# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running maps as options of ``forwarder_map``: written with them, the maps stay as they are.

Everything but names comes from the kernel. Names only tell things apart here: hosts and services that nobody has named
are called by their addresses.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, filters, layout, map_io, worker_maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.info import (
    Names,
    claims_of,
    has_moved,
    interface_name,
    order,
    read_names,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import claim_text

Options = dict[str, Any]


def gather(role: str, maps: map_io.Maps, params: Mapping[str, Any]) -> Options:
    """What the maps of a role's running programs say. ``params`` may name hosts and services."""
    names = _names_of(params, read_names())
    if role == "worker":
        return worker_options(worker_maps.read(maps), names)
    uplink = map_io.find_attached("edge").get("edge_xdp", ("",))[0]
    return edge_options(edge_state.read(maps), uplink, names, time.monotonic_ns())


def _names_of(params: Mapping[str, Any], known: Names) -> Names:
    """The names that options give to addresses, before those that are known already."""
    hosts = [*(params.get("workers") or ()), *(params.get("edges") or ())]
    keys = ("relay_address", "relay_address_ipv6")
    named = {host[key]: host["name"] for host in hosts for key in keys if host.get(key)}
    services = {(s["vip"], s["port"]): s["name"] for s in params.get("services") or () if "name" in s}
    return {"hosts": {**known["hosts"], **named}, "services": {**known["services"], **services}}


def _host(name: str, ipv4: str, ipv6: str) -> Options:
    """One host; one that has only an IPv6 relay address has that as its only one."""
    return {"name": name, "relay_address": ipv4 or ipv6, "relay_address_ipv6": ipv6 if ipv4 else None}


def edge_options(state: edge_state.EdgeState, uplink: str, names: Names, now: int) -> Options:
    """An edge's maps. ``now`` is in ns of CLOCK_MONOTONIC: what is left of deadlines counts from then."""
    hosts = {
        slot: names["hosts"].get(worker["relay"] or worker["relay6"], worker["relay"] or worker["relay6"])
        for slot, worker in state.workers.items()
    }
    backends_of = state.backends_by_claim
    services: list[Options] = []
    held: dict[int, str] = {}
    for claim, record in sorted(claims_of(state), key=lambda item: order(item[0])):
        vip, port, last_port = claim
        name = names["services"].get((vip, port)) or claim_text(*claim)
        # A filter is for all services of a name, so those that share one have to have one.
        name = held.setdefault(record["filter"], name) if record["filter"] else name
        backends = sorted(backends_of.get(claim, ()), key=lambda backend: int(backend["endpoint_id"]))
        deadline = max((b["asked_until"] for b in backends if b["drain_weight"]), default=0)
        services.append(
            {
                "name": name,
                "vip": vip,
                "port": port,
                "last_port": last_port,
                "affinity": "client" if record["flags"] & layout.SERVICE_AFFINITY_CLIENT else "flow",
                "oversize": "fragment" if record["flags"] & layout.SERVICE_CARRIES_OVERSIZE else "refuse",
                **({"table_size": size} if (size := edge_state.asked_size(record, len(backends))) else {}),
                **({"drain_deadline": max(0, -((now - deadline) // 10**9))} if deadline else {}),
                "backends": [_backend(backend, hosts) for backend in backends],
            }
        )
    return {
        "role": "edge",
        "relay_address": state.config["relay"],
        "relay_address_ipv6": state.config["relay6"] or None,
        "uplink": uplink,
        "reply_interface": interface_name(state.config["uplink_ifindex"]),
        "wireguard_interface": interface_name(state.config["wireguard_ifindex"]),
        "drop_unserved": bool(state.config["flags"] & layout.EDGE_DROPS_UNSERVED),
        "workers": [
            {
                **_host(hosts[slot], worker["relay"], worker["relay6"]),
                "state": "dead" if worker["state"] == layout.WORKER_DEAD else "live",
            }
            for slot, worker in sorted(state.workers.items())
        ],
        "services": services,
        "filters": [_filter(state.filters, index, name) for index, name in held.items()],
    }


def _backend(backend: Mapping[str, Any], hosts: Mapping[int, str]) -> Options:
    worker = hosts.get(backend["worker"], f"worker in slot {backend['worker']}")
    shown = {name: backend[name] for name in ("endpoint_id", "weight")}
    return {**shown, "worker": worker, **({"drain_weight": w} if (w := backend["drain_weight"]) else {})}


def _filter(state: filters.FilterState, index: int, service: str) -> Options:
    record = state.filters.get(index)
    if record is None:  # an entry that leads to no filter lets nobody in
        return {"service": service, "deny": ["0.0.0.0/0", "::/0"]}
    sources = sorted(state.lists.get(record["sources"], ()))
    rates = {}
    for prefix, fields in (("", ""), ("per_source_", "source_")):
        interval = record[f"{fields}interval"]
        if interval:  # the slowest rate that comes to this interval
            rates[f"{prefix}packets_per_second"] = -(-filters.NANOSECONDS // interval)
            rates[f"{prefix}burst"] = record[f"{fields}tolerance"] // interval + 1
    return {
        "service": service,
        "allow": [source.text for source in sources if source.allowed],
        "deny": [source.text for source in sources if not source.allowed],
        **rates,
    }


def worker_options(state: worker_maps.WorkerState, names: Names) -> Options:
    """A worker's maps. Who its endpoints have moved to are ``workers``; of whom it takes packets else, ``edges``."""
    moved = {record["container"] for record in state.endpoints.values() if has_moved(record)}
    ordered = sorted(state.endpoints.items())
    return {
        "role": "worker",
        "relay_address": state.config["relay"],
        "relay_address_ipv6": state.config["relay6"] or None,
        "uplink": interface_name(state.config["uplink_ifindex"]) or "",
        "wireguard_interface": interface_name(state.config["wireguard_ifindex"]),
        "container_interface": interface_name(state.config["container_ifindex"]),
        **_peers(state.edges, moved, names),
        "endpoints": [_endpoint(eid, record, names) for eid, record in ordered if not has_moved(record)],
        "moved": [
            {
                **_place(eid, record, names),
                "moved_to": names["hosts"].get(record["container"], record["container"]),
            }
            for eid, record in ordered
            if has_moved(record)
        ],
    }


def _peers(relays: Iterable[str], moved: set[str], names: Names) -> Options:
    """Relay addresses as hosts by name, one of each family; what has no name is a host by itself."""
    addresses: dict[str, list[str]] = {}
    for relay in sorted({*relays, *moved}, key=lambda relay: order((relay,))):
        addresses.setdefault(names["hosts"].get(relay, relay), []).append(relay)
    found: dict[str, list[Options]] = {"edges": [], "workers": []}
    for name, own in addresses.items():
        families = {":" in relay: relay for relay in own}
        kind = "workers" if moved & set(own) else "edges"
        host = _host(name, families.get(False, ""), families.get(True, ""))
        if kind == "workers":  # looked for by family
            host["relay_address_ipv6"] = families.get(True)
        found[kind].append(host)
    return found


def _place(endpoint_id: int, record: Mapping[str, Any], names: Names) -> Options:
    place = (record["vip"], record["port"])
    return {
        "endpoint_id": endpoint_id,
        "service": names["services"].get(place) or claim_text(*place, record["last_port"]),
        **{name: record[name] for name in ("vip", "port", "last_port")},
    }


def _endpoint(endpoint_id: int, record: Mapping[str, Any], names: Names) -> Options:
    return {
        **_place(endpoint_id, record, names),
        "container_address": record["container"],
        "container_port": record["container_port"],
        "reply": "direct" if record["flags"] & layout.ENDPOINT_DIRECT else "edge",
        "drain_idle": worker_maps.idle_seconds(record),
        "oversize": "fragment" if record["flags"] & layout.ENDPOINT_CARRIES_OVERSIZE else "refuse",
    }
