# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleet + public keys → one plan per host, in time and memory O(hosts + endpoints).

What many hosts have in common (all edges have the same peers, workers and services) is built once
and shared, so a plan is small until it is written out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import drains
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.checks import check_public_keys
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.endpoints import (
    Endpoint,
    EndpointKey,
    endpoints_of,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.filters import Filter
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.inventory import (
    Fleet,
    Host,
    parse_inventory,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import (
    SCHEMA,
    EdgeFilter,
    EdgePlan,
    EdgeService,
    HostPlan,
    MetricsPlan,
    MovedEndpoint,
    Peer,
    RelayHost,
    Route,
    RoutesPlan,
    Rule,
    ServiceBackend,
    WireGuardPlan,
    WorkerEndpoint,
    WorkerPlan,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.peers import PeersSource
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.ports import PortRange, overlaps
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.services import Service
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.variables import HostSettings

KEY_DIRECTORY = "/etc/edgewire/wireguard"


@dataclass(frozen=True)
class FleetPlan:
    """The plans, sorted by host, with what the user should know about them."""

    hosts: tuple[HostPlan, ...]
    missing_keys: tuple[str, ...]
    warnings: tuple[str, ...]


def plan_fleet(
    inventory: Mapping[str, Any],
    public_keys: Mapping[str, str],
    *,
    predict: bool = False,
    request: drains.Request = drains.NOTHING,
    problems: Problems | None = None,
) -> FleetPlan:
    """Plan the fleet that ``inventory`` (its shape: the module ``inventory``) describes.

    A host without a public key cannot be a peer: it is left out of its peers' plans, its backends
    get weight 0, and a warning names it. With ``predict`` (check mode, where keys are not made) it
    is a peer with ``public_key`` None and keeps its weight, as it will when the key exists.
    ``request`` is whom to drain and to bring back, beside whom ``inventory`` says is drained.
    ``problems`` may hold what the caller found already. Raises one EdgewireError that lists
    everything wrong.
    """
    problems = Problems() if problems is None else problems
    before = inventory.get("drained", ())
    fleet = parse_inventory({**inventory, "drained": request.of(before)}, problems)
    drains.check(fleet, before, request, problems)
    names = [host.name for host in (*fleet.edges, *fleet.workers)]
    check_public_keys(names, public_keys, problems)
    problems.raise_if_any()
    return build(fleet, public_keys, predict=predict)


def build(fleet: Fleet, public_keys: Mapping[str, str], *, predict: bool = False) -> FleetPlan:
    """The plans of a valid fleet; see ``plan_fleet``."""
    missing = sorted(host.name for host in (*fleet.edges, *fleet.workers) if host.name not in public_keys)
    unreachable = frozenset() if predict else frozenset(missing)
    endpoints = endpoints_of(fleet.services)
    services = _edge_services(endpoints, unreachable, fleet.draining)
    filters = _edge_filters(fleet.services)
    by_worker: dict[str, list[WorkerEndpoint]] = {host.name: [] for host in fleet.workers}
    moved: dict[str, list[MovedEndpoint]] = {host.name: [] for host in fleet.workers}
    for endpoint in endpoints:
        by_worker[endpoint.key.worker].append(_worker_endpoint(endpoint))
        for former in endpoint.backend.moved_from:
            moved[former].append(_moved_endpoint(endpoint))
    partners: dict[str, set[str]] = {}
    for members in fleet.moves:
        for name in members:
            partners.setdefault(name, set()).update(members)

    relays = _relay_hosts(fleet.workers)
    place = {relay.name: n for n, relay in enumerate(relays)}
    workers = tuple(
        dataclasses.replace(worker, state="dead") if host.settings.worker_state == "dead" else worker
        for host, worker in zip(fleet.workers, relays, strict=True)
    )
    edges = _relay_hosts(fleet.edges)
    peers = PeersSource(fleet, public_keys, predict)
    routes = _RoutesSource(fleet)
    plans = []
    for host in fleet.edges:
        settings = host.settings
        edge = EdgePlan(
            uplink=settings.uplink,
            reply_interface=settings.reply_interface or settings.uplink,
            drop_unserved=settings.drop_unserved,
            xdp_mode=settings.xdp_mode,
            wireguard_interface=settings.wireguard_interface,
            relay_address=host.addresses.relay_ipv4,
            relay_address_ipv6=host.addresses.relay_ipv6,
            workers=workers,
            services=services,
            filters=filters,
        )
        wireguard = _wireguard(host, peers.of(host))
        plans.append(HostPlan(SCHEMA, host.name, wireguard, routes.of(host), edge=edge, metrics=_metrics(settings)))
    for host in fleet.workers:
        settings = host.settings
        worker = WorkerPlan(
            uplink=settings.uplink,
            container_interface=settings.container_interface,
            wireguard_interface=settings.wireguard_interface,
            relay_address=host.addresses.relay_ipv4,
            relay_address_ipv6=host.addresses.relay_ipv6,
            edges=edges,
            # By place, and not by going through all workers for each of them.
            workers=tuple(
                relays[n] for n in sorted(place[name] for name in partners.get(host.name, set()) - {host.name})
            ),
            endpoints=tuple(sorted(by_worker[host.name], key=lambda item: item.endpoint_id)),
            moved=tuple(sorted(moved[host.name], key=lambda item: item.endpoint_id)),
        )
        wireguard = _wireguard(host, peers.of(host))
        plans.append(HostPlan(SCHEMA, host.name, wireguard, routes.of(host), worker=worker, metrics=_metrics(settings)))
    plans.sort(key=lambda plan: plan.host)
    dead = frozenset(host.name for host in fleet.workers if host.settings.worker_state == "dead")
    warnings = [*fleet.warnings, *_key_warnings(missing, services, predict), *_dead_warnings(dead, services)]
    warnings += _shared_port_warnings(endpoints)
    return FleetPlan(tuple(plans), tuple(missing), tuple(warnings))


def _wireguard(host: Host, peers: tuple[Peer, ...]) -> WireGuardPlan:
    settings = host.settings
    return WireGuardPlan(
        interface=settings.wireguard_interface,
        listen_port=settings.listen_port,
        mtu=settings.wireguard_mtu,
        transport=settings.wireguard_transport,
        private_key_file=f"{KEY_DIRECTORY}/{settings.wireguard_interface}.key",
        addresses=host.addresses.interface_addresses,
        peers=peers,
    )


def _metrics(settings: HostSettings) -> MetricsPlan | None:
    return MetricsPlan(settings.metrics_file, settings.metrics_seconds) if settings.metrics_file else None


def _relay_hosts(hosts: Sequence[Host]) -> tuple[RelayHost, ...]:
    return tuple(RelayHost(host.name, host.addresses.relay_ipv4, host.addresses.relay_ipv6) for host in hosts)


class _RoutesSource:
    """Rules and routes; nearly all hosts of a fleet share one RoutesPlan."""

    def __init__(self, fleet: Fleet) -> None:
        prefixes = fleet.prefixes
        self._overlays = (str(prefixes.overlay_ipv4), str(prefixes.overlay_ipv6))
        self._relays = (str(prefixes.relay_ipv4), str(prefixes.relay_ipv6))
        self._known: dict[tuple[int, int, int, str], RoutesPlan] = {}

    def of(self, host: Host) -> RoutesPlan:
        """The rules and routes of one host."""
        settings = host.settings
        interface = settings.wireguard_interface
        key = (
            settings.route_table,
            settings.route_protocol,
            settings.rule_priority,
            interface,
        )
        if key not in self._known:
            prefixes = (*self._overlays, *self._relays)
            self._known[key] = RoutesPlan(
                table=settings.route_table,
                protocol=settings.route_protocol,
                rules=tuple(Rule(prefix, settings.rule_priority) for prefix in prefixes),
                routes=(
                    *(Route(prefix, "unicast", interface) for prefix in self._overlays),
                    *(Route(prefix, "blackhole") for prefix in self._relays),
                ),
            )
        return self._known[key]


def _edge_services(
    endpoints: Sequence[Endpoint], unreachable: frozenset[str], draining: frozenset[str]
) -> tuple[EdgeService, ...]:
    grouped: dict[tuple[str, str, int, int], list[ServiceBackend]] = {}
    services: dict[str, Service] = {}
    for endpoint in endpoints:
        key = endpoint.key
        services[key.service] = endpoint.service
        weight, old = endpoint.backend.share, endpoint.backend.drain_share
        if key.worker in draining:
            weight, old = 0, old or weight
        if key.worker in unreachable:
            weight = old = 0
        backend = ServiceBackend(endpoint.id, key.worker, weight, old or None)
        grouped.setdefault((key.service, key.vip, key.port, key.last_port), []).append(backend)
    return tuple(
        EdgeService(
            *claim,
            affinity=service.affinity,
            backends=tuple(sorted(backends, key=lambda item: item.endpoint_id)),
            drain_deadline=service.drain_deadline if any(backend.drain_weight for backend in backends) else None,
            oversize=_unless_refused(service.oversize),
            table_size=service.table_size,
        )
        for claim, backends in sorted(grouped.items())
        for service in (services[claim[0]],)
    )


def _unless_refused(oversize: str) -> str | None:
    """What a plan says of packets that do not fit: nothing where it is the default."""
    return oversize if oversize == "fragment" else None


def _edge_filters(services: Sequence[Service]) -> tuple[EdgeFilter, ...]:
    return tuple(_edge_filter(service.name, service.filter) for service in services if service.filter)


def _edge_filter(name: str, wanted: Filter) -> EdgeFilter:
    limit, source_limit = wanted.limit, wanted.source_limit
    return EdgeFilter(
        service=name,
        allow=tuple(map(str, wanted.allow)),
        deny=tuple(map(str, wanted.deny)),
        packets_per_second=limit.packets_per_second if limit else None,
        burst=limit.burst if limit else None,
        per_source_packets_per_second=source_limit.packets_per_second if source_limit else None,
        per_source_burst=source_limit.burst if source_limit else None,
    )


def _worker_endpoint(endpoint: Endpoint) -> WorkerEndpoint:
    key = endpoint.key
    return WorkerEndpoint(
        endpoint_id=endpoint.id,
        service=key.service,
        vip=key.vip,
        port=key.port,
        last_port=key.last_port,
        container_address=key.container_address,
        container_port=key.container_port,
        drain_idle=endpoint.service.drain_idle,
        reply="direct" if endpoint.service.reply == "direct" else None,
        oversize=_unless_refused(endpoint.service.oversize),
    )


def _moved_endpoint(endpoint: Endpoint) -> MovedEndpoint:
    key = endpoint.key
    return MovedEndpoint(endpoint.id, key.service, key.vip, key.port, key.last_port, moved_to=key.worker)


def _key_warnings(missing: Sequence[str], services: Sequence[EdgeService], predict: bool) -> list[str]:
    if not missing:
        return []
    names = _shown(missing)
    if predict:
        return [f"no public key is known yet for {names}: shown as peers with public_key null"]
    warnings = [
        f"no public key is known for {names}: left out as peers, and their backends get no flows,"
        " until a run reaches them"
    ]
    unserved = [_named(service) for service in services if not any(backend.weight for backend in service.backends)]
    if unserved:
        warnings.append(f"no worker with a known key serves {_shown(unserved)}")
    return warnings


def _dead_warnings(dead: frozenset[str], services: Sequence[EdgeService]) -> list[str]:
    """Not an error: whoever marks a worker wants its packets gone from it, whatever else is true."""
    unserved = []
    for service in services:
        able = [backend for backend in service.backends if backend.weight or backend.drain_weight]
        if able and not any(backend.weight and backend.worker not in dead for backend in able):
            unserved.append(_named(service))
    if not unserved:
        return []
    return [f"every worker that serves {_shown(unserved)} is marked dead or drains: new flows are dropped"]


def _shared_port_warnings(endpoints: Sequence[Endpoint]) -> list[str]:
    """Containers' ports that answer for several VIPs or ports: return flows do not tell those apart."""
    claims: dict[tuple[str, str], list[tuple[PortRange, EndpointKey]]] = {}
    for endpoint in endpoints:
        key = endpoint.key
        ports = PortRange(key.container_port, key.container_port + key.last_port - key.port)
        claims.setdefault((key.worker, key.container_address), []).append((ports, key))
    services = sorted({pair[1].service for claimed in claims.values() for both in overlaps(claimed) for pair in both})
    if not services:
        return []
    return [
        f"several VIPs or ports lead to one port of a container of {_shown(services)}: a client that uses two of them"
        " from one socket gets all replies from one"
    ]


def _named(service: EdgeService) -> str:
    return f"{service.name} ({service.vip} port {PortRange(service.port, service.last_port)})"


def _shown(names: Sequence[str]) -> str:
    """The first few of the names."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
