# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters and sessions of a box as Prometheus metrics: pure, from what ``statistics`` tells and WireGuard's peers.

Names and units by https://prometheus.io/docs/practices/naming/. A service's own counters hold those of backends that it
has no more, so a sum over backends may be less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.metrics.exposition import Family

Told = Mapping[str, Any]
_DIRECTIONS = ("in", "out")


class Families:
    """All metrics of this collection, without samples at first; in the order in which they are written."""

    def __init__(self) -> None:
        both = "; in is from clients, out to them"
        self.attached = Family("edgewire_programs_attached", "gauge", "1 where the role's programs run, 0 where not.")
        self.service = _pair("service", f"of a service at its VIP and port{both}")
        self.backend = _pair("backend", f"of a service's backend, as its edge counts them{both}")
        self.endpoint = _pair("endpoint", f"of a container, as its worker counts them{both}")
        self.dropped = Family("edgewire_dropped_packets_total", "counter", "Packets dropped, by reason.")
        self.refused = Family(
            "edgewire_refused_packets_total",
            "counter",
            "Packets that a service's filter refused, by reason, since it last changed; also among the dropped.",
        )
        self.events = Family("edgewire_events_total", "counter", "What is off the plain way and no drop, by event.")
        self.held = Family(
            "edgewire_held_fragments_total", "counter", "Fragments held because they came before their first."
        )
        self.released = Family(
            "edgewire_released_fragments_total", "counter", "Held fragments that went on; the others were lost."
        )
        self.handshake = Family(
            "edgewire_wireguard_last_handshake_timestamp_seconds",
            "gauge",
            "When the last handshake with a peer was, in seconds since 1970; 0 is never.",
        )
        self.received = Family(
            "edgewire_wireguard_receive_bytes_total", "counter", "Bytes from a WireGuard peer, its overhead included."
        )
        self.sent = Family(
            "edgewire_wireguard_transmit_bytes_total", "counter", "Bytes to a WireGuard peer, its overhead included."
        )

    def all(self) -> list[Family]:
        """In order."""
        return [
            self.attached,
            *self.service,
            *self.backend,
            *self.endpoint,
            self.dropped,
            self.refused,
            self.events,
            self.held,
            self.released,
            self.handshake,
            self.received,
            self.sent,
        ]


def _pair(what: str, about: str) -> tuple[Family, Family]:
    return (
        Family(f"edgewire_{what}_packets_total", "counter", f"Packets {about}."),
        Family(f"edgewire_{what}_bytes_total", "counter", f"IP bytes {about}, without link layer and relay option."),
    )


def _count(pair: tuple[Family, Family], counters: Mapping[str, int], **labels: str | int | None) -> None:
    for direction in _DIRECTIONS:
        for family, unit in zip(pair, ("packets", "bytes"), strict=True):
            family.add(counters[f"{direction}_{unit}"], **labels, direction=direction)


def _edge(told: Told, families: Families) -> None:
    filtered: set[str] = set()
    for service in told["services"]:
        where = {"vip": service["vip"], "port": service["ports"]}
        _count(families.service, service["counters"], service=service["name"], **where)
        for backend in service["backends"]:
            which = {"worker": backend["worker"], "endpoint_id": backend["endpoint_id"]}
            _count(families.backend, backend["counters"], service=service["name"], **where, **which)
        # One filter is that of all VIPs and ports of a name. Without a plan there are no names, but places.
        name = service["name"] or f"{service['vip']}:{service['ports']}"
        if service["filter"] and name not in filtered:
            filtered.add(name)
            for reason, packets in service["filter"]["counters"].items():
                families.refused.add(packets, service=name, reason=reason)


def _worker(told: Told, families: Families) -> None:
    for endpoint in told["endpoints"]:
        _count(
            families.endpoint,
            endpoint["counters"],
            service=endpoint["service"],
            vip=endpoint["vip"],
            port=endpoint["ports"],
            container=endpoint.get("container_address"),
            moved_to=endpoint.get("moved_to"),
            endpoint_id=endpoint["endpoint_id"],
        )


def families_of(told: Mapping[str, Told | None], peers: Iterable[Mapping[str, Any]], interface: str) -> list[Family]:
    """All metrics of a box.

    :param told: role to what ``statistics.tell`` says with ``every_reason``; None for one that should run and does not.
    :param peers: WireGuard's, as ``wireguard.backend.describe`` tells them, of ``interface``.
    """
    families = Families()
    for role, counted in told.items():
        families.attached.add(int(counted is not None), role=role)
        if counted is None:
            continue
        (_edge if role == "edge" else _worker)(counted, families)
        for drop in counted["drops"]:
            families.dropped.add(drop["packets"], role=role, reason=drop["reason"])
        for event in counted["events"]:
            families.events.add(event["packets"], role=role, event=event["event"])
        families.held.add(counted["fragments"]["held"], role=role)
        families.released.add(counted["fragments"]["released"], role=role)
    for peer in peers:
        labels = {"interface": interface, "peer": peer["name"] or peer["public_key"]}
        families.handshake.add(peer["latest_handshake"], **labels)
        families.received.add(peer["rx_bytes"], **labels)
        families.sent.add(peer["tx_bytes"], **labels)
    return families.all()
