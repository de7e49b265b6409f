# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is whose WireGuard peer: edges and workers of each other, more by choice, or
because backends have moved between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv6Address

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.inventory import Fleet, Host
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import Peer


class PeersSource:
    """The peers of each host, in time and memory of what comes out.

    Hosts that have the same peers share one tuple of them; others share the peers in it.
    """

    def __init__(self, fleet: Fleet, public_keys: Mapping[str, str], predict: bool) -> None:
        self._fleet = fleet
        self._keys = public_keys
        self._hosts = {host.name: host for host in (*fleet.edges, *fleet.workers)}
        self._known = frozenset(self._hosts) if predict else frozenset(self._hosts) & public_keys.keys()
        self._edges = frozenset(host.name for host in fleet.edges)
        self._workers = frozenset(self._hosts) - self._edges
        self._more: dict[str, set[str]] = {}
        for members in (*fleet.peer_groups.values(), *fleet.moves):
            for name in members:
                self._more.setdefault(name, set()).update(members)
        self._single: dict[tuple[str, int], Peer] = {}
        self._sides: dict[tuple[bool, int], tuple[Peer, ...]] = {}

    def of(self, host: Host) -> tuple[Peer, ...]:
        """The peers of one host, by name."""
        keepalive, is_edge = host.settings.keepalive, host.name in self._edges
        if self._fleet.topology == "full":
            return self._peers(self._hosts.keys() - {host.name}, keepalive)
        others = self._workers if is_edge else self._edges
        more = self._more.get(host.name, set()) - others - {host.name}
        if more:
            return self._peers(others | more, keepalive)
        side = (is_edge, keepalive)
        if side not in self._sides:
            self._sides[side] = self._peers(others, keepalive)
        return self._sides[side]

    def _peers(self, names: Collection[str], keepalive: int) -> tuple[Peer, ...]:
        return tuple(self._peer(name, keepalive) for name in sorted(self._known.intersection(names)))

    def _peer(self, name: str, keepalive: int) -> Peer:
        peer = self._single.get((name, keepalive))
        if peer is None:
            host = self._hosts[name]
            peer = self._single[name, keepalive] = Peer(
                name=name,
                public_key=self._keys.get(name),
                endpoint=_endpoint(host),
                allowed_ips=host.addresses.allowed_ips,
                persistent_keepalive=keepalive,
                preshared=self._fleet.preshared,
            )
        return peer


def _endpoint(host: Host) -> str:
    address = host.settings.endpoint_address
    text = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"{text}:{host.settings.listen_port}"
