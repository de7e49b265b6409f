# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the models know, made from the same wishes that the maps are filled with, past the maps' planner."""

from __future__ import annotations

import socket
from collections.abc import MutableMapping, Set

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.worker_maps import WorkerWanted
from ansible_collections.edgewire.fleet.tests.model import edge, worker


def packed(address: str | None) -> bytes:
    """An address of either family as in a packet; empty for none."""
    if not address:
        return b""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def edge_tables(
    wanted: EdgeWanted, crowded: Set[str] = frozenset(), loud: Set[str] = frozenset(), *, may_send_icmp: bool = True
) -> edge.Tables:
    """An edge's knowledge.

    :param crowded: names of services whose bucket is empty.
    :param loud: addresses whose buckets are empty at all services that have a rate for one source.
    """
    services, backends = [], {}
    for service in wanted.services:
        vip = packed(service.vip)
        wish = wanted.filter_of(service)
        sources = [edge.Source(*source) for source in sorted(wish.sources)] if wish else []
        services.append(
            edge.Service(
                vip,
                service.port,
                service.last_port,
                service.table,
                service.by_client,
                sources,
                service.carries_oversize,
                service.name in crowded,
                frozenset(packed(client)[:8] for client in loud if wish and wish.source_rate.per_second),
            )
        )
        for backend in service.backends:
            backends[backend.endpoint_id] = edge.Backend(backend.worker, vip, service.port, service.last_port)
    workers = {
        name: edge.Worker(packed(relays.ipv4), packed(relays.ipv6), name in wanted.dead_workers)
        for name, relays in wanted.workers.items()
    }
    return edge.Tables(
        packed(wanted.relays.ipv4),
        packed(wanted.relays.ipv6),
        services,
        backends,
        workers,
        wanted.drop_unserved,
        wanted.wireguard_mtu,
        may_send_icmp,
    )


def worker_tables(
    wanted: WorkerWanted, flows: MutableMapping[worker.FlowKey, worker.Flow], *, may_send_errors: bool = True
) -> worker.Tables:
    """A worker's knowledge."""
    endpoints = {
        endpoint.endpoint_id: worker.Endpoint(
            packed(endpoint.vip),
            packed(endpoint.container_address),
            endpoint.port,
            endpoint.last_port,
            endpoint.container_port,
            endpoint.direct,
            endpoint.moved,
            endpoint.carries_oversize,
        )
        for endpoint in wanted.endpoints
    }
    edges = {packed(address) for relays in wanted.edges.values() for address in relays.all}
    relays = packed(wanted.relays.ipv4), packed(wanted.relays.ipv6)
    rest = wanted.wireguard_mtu, bool(wanted.uplink_ifindex), may_send_errors
    return worker.Tables(*relays, edges, endpoints, flows, *rest)
