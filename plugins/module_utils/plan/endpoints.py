# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Endpoint ids: one fleet-wide 32-bit number for each VIP x port or port range x backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.hashing import stable_hash
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.services import Backend, Service


class EndpointKey(NamedTuple):
    """What an endpoint id stands for, and is the hash of.

    ``last_port`` is the VIP's last port, ``container_port`` the container's first one. A backend with a
    ``name`` is known by that, wherever it is.
    """

    service: str
    vip: str
    port: int
    worker: str
    container_address: str
    container_port: int
    last_port: int
    name: str = ""

    def hashed(self) -> tuple[str | int, ...]:
        """What the id is the hash of. A single port's ids are those from before there were
        ranges.
        """
        if self.name:
            return "named", self.service, self.vip, self.port, self.last_port, self.name
        place = (self.service, self.vip, self.port, self.worker, self.container_address, self.container_port)
        return place if self.last_port == self.port else (*place, self.last_port)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint with its id, and the backend and service of the inventory that it is of."""

    id: int
    key: EndpointKey
    backend: Backend
    service: Service


def endpoints_of(services: Iterable[Service]) -> list[Endpoint]:
    """Every endpoint of the services, sorted by its key."""
    found: dict[EndpointKey, tuple[Backend, Service]] = {}
    for service in services:
        for vip in service.vips:
            for backend in service.backends:
                # The inventory was refused if there is none.
                address = str(backend.address_for(vip))
                for ports, container_ports in backend.ports.items():
                    key = EndpointKey(
                        service=service.name,
                        vip=str(vip),
                        port=ports.first,
                        worker=backend.worker,
                        container_address=address,
                        container_port=container_ports.first,
                        last_port=ports.last,
                        name=backend.name,
                    )
                    found[key] = (backend, service)
    ids = assign_endpoint_ids(found)
    return [Endpoint(ids[key], key, *found[key]) for key in sorted(found)]


def assign_endpoint_ids(keys: Iterable[EndpointKey], bits: int = 32) -> dict[EndpointKey, int]:
    """Key → id, from 1 to 2^bits - 1, all different.

    Two keys of one hash are told apart by their order among themselves, never by the order of the
    input: the lesser keeps the id, the other hashes again. There must be fewer keys than ids.
    """
    mask = (1 << bits) - 1
    taken: set[int] = set()
    ids: dict[EndpointKey, int] = {}
    pending = sorted(set(keys))
    if len(pending) > mask:
        raise ValueError(f"{len(pending)} endpoints do not fit into {bits} bits")
    attempt = 0
    while pending:
        again = []
        for key in pending:
            ident = stable_hash("edgewire-endpoint", *key.hashed(), attempt) & mask
            if ident == 0 or ident in taken:
                again.append(key)
            else:
                taken.add(ident)
                ids[key] = ident
        pending = again
        attempt += 1
    return ids
