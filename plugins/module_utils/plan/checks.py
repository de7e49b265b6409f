# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks that compare hosts, services and prefixes with each other; each one is linear."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv6Address

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.addressing import Prefixes
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.convert import Address
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.services import Service
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.variables import HostSettings

# Outer IP header, UDP 8, WireGuard 32 (type and receiver 8, counter 8, tag 16).
_WIREGUARD_OVERHEAD = {4: 20 + 8 + 32, 6: 40 + 8 + 32}


def check_hosts(
    settings: Mapping[str, HostSettings],
    edges: Collection[str],
    workers: Collection[str],
    prefixes: Prefixes,
    problems: Problems,
) -> None:
    """Endpoints used twice or inside the overlay, MTUs that do not fit, one interface with two
    jobs.
    """
    endpoints: dict[tuple[Address, int], list[str]] = {}
    ipv6 = {name for name, host in settings.items() if _is_ipv6(host.endpoint_address)}
    peers_ipv6 = {"edge": any(n in ipv6 for n in workers), "worker": any(n in ipv6 for n in edges)}
    for name, host in settings.items():
        if host.endpoint_address is not None:
            endpoints.setdefault((host.endpoint_address, host.listen_port), []).append(name)
            owner = prefixes.owner(host.endpoint_address)
            if owner:
                problems.add(
                    name,
                    "edgewire_endpoint_address",
                    f"{host.endpoint_address} is inside {owner}: WireGuard would carry itself",
                )
        # Either side may start a session, so an IPv6 endpoint on either side means the longer outer
        # header.
        outer = 6 if name in ipv6 or peers_ipv6["edge" if name in edges else "worker"] else 4
        room = host.underlay_mtu - _WIREGUARD_OVERHEAD[outer]
        if host.wireguard_mtu > room:
            problems.add(
                name,
                "edgewire_wireguard_mtu",
                f"{host.wireguard_mtu} does not fit: edgewire_underlay_mtu {host.underlay_mtu}"
                f" leaves {room} bytes inside WireGuard over IPv{outer}",
            )
        variable, other = (
            ("edgewire_uplink", host.uplink)
            if name in edges
            else ("edgewire_container_interface", host.container_interface)
        )
        if host.wireguard_interface == other:
            problems.add(name, variable, f"{other} is also the edgewire_wireguard_interface")
    for (address, port), names in endpoints.items():
        if len(names) > 1:
            problems.add(
                ", ".join(sorted(names)),
                "edgewire_endpoint_address",
                f"{address} port {port} is the endpoint of each of them",
            )


def check_service_addresses(
    services: Iterable[Service],
    settings: Mapping[str, HostSettings],
    prefixes: Prefixes,
    problems: Problems,
) -> None:
    """VIPs and container addresses that already mean something else."""
    underlay: dict[Address, str] = {}
    for name, host in sorted(settings.items()):
        if host.endpoint_address is not None:
            underlay.setdefault(host.endpoint_address, name)
    vips = {vip for service in services for vip in service.vips}
    for service in services:
        subject = f"service {service.name}"
        for vip in service.vips:
            if owner := prefixes.owner(vip):
                problems.add(subject, "vips", f"{vip} is inside {owner}")
            if vip in underlay:
                problems.add(subject, "vips", f"{vip} is the underlay address of {underlay[vip]}")
        for backend in service.backends:
            for address in backend.addresses:
                if owner := prefixes.owner(address):
                    problems.add(subject, "backends", f"address {address} is inside {owner}")
                if address in vips:
                    problems.add(
                        subject,
                        "backends",
                        f"address {address} is a VIP; it must be the container's own",
                    )


def check_public_keys(hosts: Iterable[str], public_keys: Mapping[str, str], problems: Problems) -> None:
    """Two hosts of the fleet with one key: WireGuard would take them for one peer."""
    owners: dict[str, list[str]] = {}
    for name in hosts:
        if name in public_keys:
            owners.setdefault(public_keys[name], []).append(name)
    for key, names in owners.items():
        if len(names) > 1:
            problems.add(
                ", ".join(sorted(names)),
                "edgewire_public_keys",
                f"{key} is the key of each of them; make a new one on all but one (was a disk image copied?)",
            )


def _is_ipv6(address: Address | None) -> bool:
    return isinstance(address, IPv6Address)
