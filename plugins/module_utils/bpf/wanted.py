# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Map contents from module parameters, or a plan's object, to the planners' types; everything wrong is told at once."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, filters, netdev, tables, worker_maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


def _ifindex(name: str, may_be_missing: bool) -> int:
    index = netdev.ifindex_of(name)
    if index is None and not may_be_missing:
        there = ", ".join(found for _, found in socket.if_nameindex())
        raise EdgewireError(
            f"no such interface: {name}; this host has {there}. Mend the inventory, or make the interface"
        )
    return index or 0


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


@functools.lru_cache(65_536)  # a VIP has many ports, a container many endpoints
def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


class _Checks:
    """Collects everything that is wrong with the parameters, for one error."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def address(self, text: str | None, what: str) -> str:
        """An address in canonical form; empty where there is none or it is none."""
        if not text:
            return ""
        try:
            return _canonical(text)
        except ValueError:
            self.problems.append(f"{what}: {text!r} is no IP address")
            return ""

    def given(self, params: Mapping[str, Any], what: str, *names: str) -> bool:
        """Whether options are there that only ``state=deleted`` can do without."""
        missing = [name for name in names if params.get(name) is None]
        self.problems += [f"{what}: {name} is missing" for name in missing]
        return not missing

    def relays(self, params: Mapping[str, Any], what: str) -> Relays:
        """A host's relay addresses."""
        return Relays(
            self.address(params["relay_address"], f"relay_address of {what}")
            if self.given(params, what, "relay_address")
            else "",
            self.address(params.get("relay_address_ipv6"), f"relay_address_ipv6 of {what}"),
        )

    def ports(self, params: Mapping[str, Any], what: str) -> tuple[int, int]:
        """First and last port."""
        first = params["port"]
        last = first if params.get("last_port") is None else params["last_port"]
        if not 0 <= first <= last <= 65535:
            self.problems.append(f"{what}: ports {first} to {last} are no range of ports")
        return first, last

    def unique_endpoints(self, endpoint_ids: Iterable[int]) -> None:
        """One endpoint id is one entry."""
        counts = Counter(endpoint_ids)
        self.problems += [f"claimed twice: endpoint id {eid}" for eid, n in sorted(counts.items()) if n > 1]

    def raise_if_any(self) -> None:
        """:raises EdgewireError: naming every problem."""
        if self.problems:
            raise EdgewireError("; ".join(self.problems))


def _service(params: Mapping[str, Any], checks: _Checks) -> edge_state.ServiceWanted:
    first, last = checks.ports(params, f"service {params['name']}")
    return edge_state.ServiceWanted(
        name=params["name"],
        vip=checks.address(params["vip"], f"vip of service {params['name']}"),
        port=first,
        last_port=last,
        backends=tuple(
            edge_state.BackendWanted(
                b["endpoint_id"], b["worker"], b["weight"], b.get("drain_weight") or 0, b.get("leaving", False)
            )
            for b in params["backends"]
        ),
        by_client=params.get("affinity") == "client",
        drain_deadline=_given(params.get("drain_deadline"), 600),
        table_size=params.get("table_size") or 0,
        carries_oversize=params.get("oversize") == "fragment",
    )


def _check_services(
    services: Iterable[edge_state.ServiceWanted], workers: Mapping[str, Relays], checks: _Checks
) -> None:
    ordered = sorted(services, key=lambda service: service.claim)
    for service in ordered:
        for backend in service.backends:
            if backend.worker not in workers:
                text = f"{service.name} {service.text} -> {backend.worker}"
                checks.problems.append(f"backend on an unknown worker: {text}")
            elif not workers[backend.worker].for_vip(service.vip):
                text = f"worker {backend.worker} has no relay address of the family of {service.text}"
                checks.problems.append(text)
        if len(service.backends) > tables.MOST_BACKENDS:
            checks.problems.append(f"{service.name} {service.text} has more than {tables.MOST_BACKENDS:,} backends")
    for one, other in itertools.pairwise(ordered):
        if one.vip == other.vip and other.port <= one.last_port:
            checks.problems.append(f"claimed twice: {other.text} by {one.name} and {other.name}")
    checks.unique_endpoints(backend.endpoint_id for service in ordered for backend in service.backends)


def _filter(params: Mapping[str, Any], checks: _Checks) -> filters.FilterWanted:
    what = f"filter of service {params['service']}"
    verdicts: dict[tuple[bytes, int], filters.Source] = {}
    for key, allowed in (("allow", True), ("deny", False)):
        for network in params.get(key) or ():
            try:
                source = filters.source_of(network, allowed=allowed)
            except ValueError as error:
                checks.problems.append(f"{what}: {key}: {error}")
                continue
            if verdicts.setdefault(source[:2], source) != source:
                checks.problems.append(f"{what}: {network} is both allowed and denied")
    rates = []
    for prefix in ("", "per_source_"):
        per_second, burst = params.get(f"{prefix}packets_per_second") or 0, params.get(f"{prefix}burst") or 1
        if not 0 <= per_second <= filters.HIGHEST_RATE or not 1 <= burst <= filters.HIGHEST_RATE:
            checks.problems.append(
                f"{what}: {prefix}packets_per_second {per_second}, {prefix}burst {burst}: from 1 to"
                f" {filters.HIGHEST_RATE}"
            )
            continue
        rates.append(filters.Rate(per_second, burst))
    return filters.FilterWanted(params["service"], frozenset(verdicts.values()), *rates)


def _filters(params: Mapping[str, Any], checks: _Checks) -> tuple[filters.FilterWanted, ...]:
    names = {service["name"] for service in params["services"]}
    made = [_filter(item, checks) for item in params.get("filters") or ()]
    for name, count in sorted(Counter(item.service for item in made).items()):
        if count > 1:
            checks.problems.append(f"service {name} has {count} filters")
        if name not in names:
            checks.problems.append(f"filter of an unknown service: {name}")
    return tuple(made)


def edge_wanted(
    params: Mapping[str, Any], *, may_be_missing: bool = False, elsewhere: bool = False
) -> edge_state.EdgeWanted:
    """The edge's desired contents from a plan's ``edge`` object.

    :param may_be_missing: the WireGuard interface need not exist yet (check mode); its index is then 0.
    :param elsewhere: the contents are another box's, so no interface need exist here.
    :raises EdgewireError: naming everything that is wrong with it, or the interface that is missing.
    """
    checks = _Checks()
    workers = {worker["name"]: checks.relays(worker, worker["name"]) for worker in params.get("workers") or ()}
    services = tuple(_service(service, checks) for service in params.get("services") or ())
    relays = checks.relays(params, "this host")
    _check_services(services, workers, checks)
    wanted_filters = _filters(params, checks)
    checks.raise_if_any()
    return edge_state.EdgeWanted(
        relays,
        _ifindex(params["wireguard_interface"], may_be_missing or elsewhere),
        _ifindex(params.get("reply_interface") or params["uplink"], elsewhere),
        workers,
        services,
        frozenset(worker["name"] for worker in params.get("workers") or () if worker.get("state") == "dead"),
        wanted_filters,
        bool(params.get("drop_unserved")),
        netdev.mtu(params["wireguard_interface"]),
    )


def _endpoint(params: Mapping[str, Any], checks: _Checks) -> worker_maps.EndpointWanted | None:
    what = f"endpoint {params['endpoint_id']}"
    if not checks.given(params, what, "service", "vip", "port", "container_address", "container_port"):
        return None
    first, last = checks.ports(params, what)
    endpoint = worker_maps.EndpointWanted(
        endpoint_id=params["endpoint_id"],
        service=params["service"],
        vip=checks.address(params["vip"], f"vip of {what}"),
        port=first,
        last_port=last,
        container_address=checks.address(params["container_address"], f"container_address of {what}"),
        container_port=params["container_port"],
        direct=params.get("reply") == "direct",
        drain_idle=_given(params.get("drain_idle"), 60),
        carries_oversize=params.get("oversize") == "fragment",
    )
    if (":" in endpoint.vip) != (":" in endpoint.container_address):
        checks.problems.append(
            f"{what}: VIP {endpoint.vip} and container {endpoint.container_address} differ in family"
        )
    if not 0 <= endpoint.container_port <= 65535 - (last - first):
        checks.problems.append(f"{what}: container_port {endpoint.container_port} leaves no room for all its ports")
    return endpoint


def _moved(
    params: Mapping[str, Any], workers: Mapping[str, Relays], checks: _Checks
) -> worker_maps.EndpointWanted | None:
    what = f"endpoint {params['endpoint_id']}"
    if not checks.given(params, what, "service", "vip", "port", "moved_to"):
        return None
    first, last = checks.ports(params, what)
    vip, name = checks.address(params["vip"], f"vip of {what}"), params["moved_to"]
    relay = workers[name].for_vip(vip) if name in workers else ""
    if not relay:
        checks.problems.append(f"{what}: moved to {name}, which is no worker with a relay address of that family")
    return worker_maps.EndpointWanted(params["endpoint_id"], params["service"], vip, first, last, relay, 0, moved=True)


def worker_wanted(
    params: Mapping[str, Any], *, may_be_missing: bool = False, elsewhere: bool = False
) -> worker_maps.WorkerWanted:
    """The worker's desired contents from a plan's ``worker`` object; see :func:`edge_wanted`."""
    checks = _Checks()
    found = [_endpoint(endpoint, checks) for endpoint in params.get("endpoints") or ()]
    workers = {worker["name"]: checks.relays(worker, worker["name"]) for worker in params.get("workers") or ()}
    found += [_moved(endpoint, workers, checks) for endpoint in params.get("moved") or ()]
    endpoints = tuple(endpoint for endpoint in found if endpoint is not None)
    edges = {edge["name"]: checks.relays(edge, edge["name"]) for edge in params.get("edges") or ()}
    relays = checks.relays(params, "this host")
    checks.unique_endpoints(endpoint.endpoint_id for endpoint in endpoints)
    checks.raise_if_any()
    return worker_maps.WorkerWanted(
        relays,
        _ifindex(params["wireguard_interface"], may_be_missing or elsewhere),
        _ifindex(params["container_interface"], elsewhere),
        {**edges, **workers},
        endpoints,
        _ifindex(params["uplink"], elsewhere or not any(endpoint.direct for endpoint in endpoints)),
        netdev.mtu(params["wireguard_interface"]),
    )
