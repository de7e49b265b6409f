# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nexthop objects and groups, ip-nexthop(8): what several routes share, so that one write moves them all. Pure.

They belong to the network namespace and not to a table; which are ours is told by the protocol number, as with rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

_MAX_32 = 2**32 - 1
_FAMILIES: Mapping[str, Literal[4, 6]] = {"ipv4": 4, "ipv6": 6}


@dataclass(frozen=True)
class Nexthop:
    """One object: a blackhole, an interface with or without a gateway, or a group of others with weights.

    ``other`` is set where it has what cannot be wanted here (encapsulation, a resilient group…).
    """

    id: int
    family: Literal[4, 6] | None  # None: a group
    interface: str | None = None
    gateway: str | None = None
    blackhole: bool = False
    group: tuple[tuple[int, int], ...] = ()  # (id, weight), sorted
    other: str = ""

    def describe(self) -> dict[str, Any]:
        """The object in the inventory's words."""
        if self.group:
            shown: dict[str, Any] = {"group": [{"id": member, "weight": weight} for member, weight in self.group]}
        else:
            shown = {"family": f"ipv{self.family}", "interface": self.interface, "gateway": self.gateway}
            shown["blackhole"] = self.blackhole
        return {**shown, "other": self.other} if self.other else shown

    def like(self, other: Nexthop) -> bool:
        """Whether the kernel puts this in the other's place: groups for groups, and one family for the same."""
        return (bool(self.group), self.family) == (bool(other.group), other.family)


def nexthop_of(entry: Mapping[str, Any]) -> Nexthop:
    """From an entry of the module's ``nexthops``; ValueError says what is wrong with it."""
    number, gateway, interface = entry["id"], entry.get("gateway"), entry.get("interface")
    blackhole, members = bool(entry.get("blackhole")), entry.get("group") or ()
    if not 0 < number <= _MAX_32:
        raise ValueError("id is not 1 to 4294967295")
    if [bool(members), blackhole, bool(interface)].count(True) != 1:
        raise ValueError("needs one of interface, blackhole and group")
    if members:
        if gateway or entry.get("family"):
            raise ValueError("a group has neither gateway nor family")
        return Nexthop(number, None, group=_group(members))
    if gateway and blackhole:
        raise ValueError("a blackhole has no gateway")
    family = _FAMILIES[entry.get("family") or "ipv4"]
    if gateway:
        address = ip_address(gateway)
        if entry.get("family") and address.version != family:
            raise ValueError("gateway is not of this family")
        family, gateway = (6 if address.version == 6 else 4), str(address)
    return Nexthop(number, family, interface, gateway, blackhole)


def check(nexthops: Iterable[Nexthop], used: Iterable[tuple[str, int, Literal[4, 6]]], wrong: list[str]) -> None:
    """Add to ``wrong`` what does not fit together; ``used`` is which route (its name) uses which, and its family."""
    known: dict[int, Nexthop] = {}
    for nexthop in nexthops:
        if nexthop.id in known:
            wrong.append(f"nexthop {nexthop.id} is there twice")
        known[nexthop.id] = nexthop
    for nexthop in known.values():
        for member, _ in nexthop.group:
            if member not in known or known[member].group:
                wrong.append(f"nexthop {nexthop.id}: {member} is none of the nexthops that a group can have")
    for route, number, family in used:
        if number not in known:
            wrong.append(f"route {route}: nexthop {number} is not among the nexthops")
        elif family == 6 and 4 in _families(known, number):
            wrong.append(f"route {route}: nexthop {number} is not of its family")


def _families(known: Mapping[int, Nexthop], number: int) -> set[int | None]:
    members = [member for member, _ in known[number].group] or [number]
    return {known[member].family for member in members if member in known}


def _group(members: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, int], ...]:
    group = sorted((member["id"], member.get("weight") or 1) for member in members)
    if len({number for number, _ in group}) < len(group):
        raise ValueError("a member is there twice; give it a weight instead")
    if not all(1 <= weight <= 256 for _, weight in group):
        raise ValueError("a member's weight is 1 to 256")
    return tuple(group)
