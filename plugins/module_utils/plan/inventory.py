# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory as data → a validated ``Fleet``.

The inventory is one mapping::

    {"hosts": {"edge1": {"ansible_host": "192.0.2.11", "edgewire_id": 1, ...}, ...},
     "groups": {"edgewire_edges": ["edge1", ...], "edgewire_workers": ["worker1", ...]},
     "vars": {"edgewire_services": [...], "edgewire_wireguard_mtu": 1420, ...},
     "preshared": true, "drained": ["worker2"]}

``preshared`` (default false) says that there is an ``edgewire_preshared_secret``; the secret itself
is none of the planner's business. ``drained`` (default none) are hosts that are out of service,
see the module ``drains``.

A host's variables override ``vars``, which override the defaults. The fleet-wide variables
(prefixes and services) belong in ``vars``; a host that sets one differently is a problem. Names
that do not begin with ``edgewire_`` are ignored, but for ``ansible_host``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import checks, convert
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.addressing import (
    HostAddresses,
    Prefixes,
    addresses_of,
    assign_ids,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.filters import never_clients, parse_networks
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.services import (
    Service,
    parse_services,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.variables import (
    FLEET_VARIABLES,
    HostSettings,
    misspelt,
    read_host,
    read_variable,
)

EDGES = "edgewire_edges"
WORKERS = "edgewire_workers"

# The name becomes a file's name, and "manifest" is taken there.
_HOST_NAME = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:@-]{0,200}\Z")
_RESERVED_NAMES = frozenset({"manifest"})


@dataclass(frozen=True)
class Host:
    """One box: its name in the inventory, its own settings, its addresses inside WireGuard."""

    name: str
    settings: HostSettings
    addresses: HostAddresses


@dataclass(frozen=True)
class Fleet:
    """Everything the planner needs; hosts and services sorted by name."""

    prefixes: Prefixes
    edges: tuple[Host, ...]
    workers: tuple[Host, ...]
    services: tuple[Service, ...]
    warnings: tuple[str, ...]
    preshared: bool = False
    topology: str = "bipartite"  # or "full": everybody is everybody's peer
    peer_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # who else is each other's
    drained: frozenset[str] = frozenset()

    @property
    def draining(self) -> frozenset[str]:
        """The workers all of whose backends drain."""
        return frozenset(
            host.name
            for host in self.workers
            if host.settings.worker_state == "drain"
            or (host.settings.worker_state == "live" and host.name in self.drained)
        )

    @property
    def moves(self) -> frozenset[tuple[str, ...]]:
        """The workers between which backends have moved: for each, where it is and where it was."""
        backends = (backend for service in self.services for backend in service.backends)
        return frozenset((backend.worker, *backend.moved_from) for backend in backends if backend.moved_from)


def parse_inventory(inventory: Mapping[str, Any], problems: Problems) -> Fleet:
    """The fleet that ``inventory`` (see the module) describes.

    Everything wrong goes to ``problems``; the fleet may be used only if there are none in the end.
    """
    hosts = _mapping(inventory, "hosts", problems)
    shared = _mapping(inventory, "vars", problems)
    groups = _mapping(inventory, "groups", problems)
    for key in sorted(set(map(str, inventory)) - {"hosts", "groups", "vars", "preshared", "drained"}):
        problems.add("the inventory", key, "unknown key; the known ones are drained, groups, hosts, preshared, vars")
    edges = _group(groups, EDGES, hosts, problems)
    workers = _group(groups, WORKERS, hosts, problems)
    _check_membership(hosts, edges, workers, problems)

    fleet_wide = {
        key: read_variable(key, variable, (shared,), "the fleet", problems) for key, variable in FLEET_VARIABLES.items()
    }
    services = parse_services(fleet_wide.pop("edgewire_services"), workers, problems)
    denied = parse_networks(fleet_wide.pop("edgewire_deny_sources"), "edgewire_deny_sources", "the fleet", problems)
    deny_spoofed = fleet_wide.pop("edgewire_deny_spoofed")
    topology, peer_groups = fleet_wide.pop("edgewire_topology"), fleet_wide.pop("edgewire_peer_groups")
    for group, members in peer_groups.items():
        for name in sorted(set(members) - edges - workers):
            problems.add(
                "the fleet", f"edgewire_peer_groups.{group}", f"{convert.shown(name)} is not a host of the fleet"
            )
    prefixes = Prefixes(**{key.removeprefix("edgewire_"): value for key, value in fleet_wide.items()})
    prefixes.check(problems)

    settings: dict[str, HostSettings] = {}
    names_set: set[str] = set(map(str, shared))
    for name in sorted(edges | workers):
        own = hosts[name]
        names_set.update(map(str, own))
        for key in FLEET_VARIABLES:
            if own.get(key) is not None and own[key] != shared.get(key):
                problems.add(name, key, "differs from the fleet's; it must be the same everywhere")
        settings[name] = read_host(name, own, shared, problems)
    drained = frozenset(map(str, inventory.get("drained", ())))
    numbers = assign_ids(((name, setting.id) for name, setting in settings.items()), prefixes.highest_id, problems)
    checks.check_hosts(settings, edges, workers, prefixes, problems)
    checks.check_service_addresses(services, settings, prefixes, problems)
    if deny_spoofed:
        vips = {vip for service in services for vip in service.vips}
        denied = (*denied, *never_clients(vips, prefixes.named().values()))

    def built(names: set[str]) -> tuple[Host, ...]:
        return tuple(
            Host(
                name,
                settings[name],
                addresses_of(min(numbers[name], prefixes.highest_id), prefixes),
            )
            for name in sorted(names)
        )

    return Fleet(
        prefixes,
        built(edges),
        built(workers),
        tuple(replace(service, filter=service.filter.without(denied)) for service in services),
        (*misspelt(names_set), *_drain_warnings(drained, edges | workers)),
        preshared=inventory.get("preshared") is True,
        topology=topology,
        peer_groups=peer_groups,
        drained=drained,
    )


def _drain_warnings(drained: frozenset[str], names: set[str]) -> list[str]:
    warnings = []
    if drained & names:
        warnings.append(f"drained: {', '.join(sorted(drained & names))}; edgewire.fleet.undrain brings them back")
    if drained - names:
        warnings.append(f"edgewire_drained names hosts that are not in the fleet: {', '.join(sorted(drained - names))}")
    return warnings


def _mapping(inventory: Mapping[str, Any], key: str, problems: Problems) -> Mapping[str, Any]:
    value = inventory.get(key, {})
    if isinstance(value, Mapping):
        return value
    problems.add("the inventory", key, f"{convert.shown(value)} is not a mapping")
    return {}


def _group(groups: Mapping[str, Any], group: str, hosts: Mapping[str, Any], problems: Problems) -> set[str]:
    """The group's hosts that exist and have usable variables."""
    members = groups.get(group, [])
    if not isinstance(members, (list, tuple)):
        problems.add(f"group {group}", "", f"{convert.shown(members)} is not a list of hosts")
        return set()
    if not members:
        problems.add(f"group {group}", "", "the group is missing or empty")
    usable = set()
    for name in members:
        if not isinstance(name, str) or not _HOST_NAME.match(name) or name in _RESERVED_NAMES:
            problems.add(f"group {group}", "", f"{convert.shown(name)} cannot be a host's name")
        elif not isinstance(hosts.get(name), Mapping):
            problems.add(f"group {group}", "", f"host {name} has no variables in the inventory")
        else:
            usable.add(str(name))
    return usable


def _check_membership(hosts: Mapping[str, Any], edges: set[str], workers: set[str], problems: Problems) -> None:
    for name in edges & workers:
        problems.add(
            name,
            "",
            f"in both {EDGES} and {WORKERS}: a host cannot be a peer of itself; choose one",
        )
    for name in hosts:
        if name not in edges and name not in workers:
            problems.add(str(name), "", f"in neither {EDGES} nor {WORKERS}")
