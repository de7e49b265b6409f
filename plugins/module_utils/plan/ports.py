# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP port ranges: reading them, mapping them to a container's ports, finding those that overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import convert

HIGHEST = 65535
ALL = "all"

T = TypeVar("T")


class PortRange(NamedTuple):
    """The ports ``first`` to ``last``, both included; a single port is a range of one."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many ports these are."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        """As the inventory writes it, and an error quotes it."""
        return str(self.first) if self.length == 1 else f"{self.first}-{self.last}"


_port = convert.integer(1, HIGHEST)


def port_range(value: object) -> PortRange:
    """A port, a range such as ``"10000-19999"``, or ``all``. Raises ValueError."""
    if value == ALL:
        return PortRange(1, HIGHEST)
    first, dash, last = value.partition("-") if isinstance(value, str) else (value, "", "")
    try:
        found = PortRange(_port(_stripped(first)), _port(_stripped(last if dash else first)))
    except ValueError:
        raise ValueError(
            f'{convert.shown(value)} is not a port from 1 to {HIGHEST}, a range such as "10000-19999", or all'
        ) from None
    if found.first > found.last:
        raise ValueError(f"{convert.shown(value)} is a range backwards; is {found.last}-{found.first} meant?")
    return found


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def mapped(ports: Sequence[PortRange], target: PortRange | None) -> dict[PortRange, PortRange]:
    """The container's ports for each of a service's ranges. Raises ValueError.

    Without a ``target`` they are the same. A target of one port is where the container's range
    begins, a longer one must be as long as what it stands for. Single ports may all lead to one
    port of the container; ranges may not, so a target goes with one range only.
    """
    if target is None:
        return {item: item for item in ports}
    if len(ports) > 1 and any(item.length > 1 for item in ports):
        raise ValueError(
            f"{target} could stand for any of the ports {', '.join(map(str, ports))};"
            " make a service of each range that is to be mapped"
        )
    targets = {}
    for item in ports:
        if target.length not in (1, item.length):
            raise ValueError(f"{target} are {target.length} ports, and the service's {item} are {item.length}")
        last = target.first + item.length - 1
        if last > HIGHEST:
            raise ValueError(
                f"the {item.length} ports of {item} do not fit behind {target.first}:"
                f" they would end at {last}, beyond {HIGHEST}"
            )
        targets[item] = PortRange(target.first, last)
    return targets


def overlaps(
    claims: Iterable[tuple[PortRange, T]], exempt: Callable[[T, T], bool] | None = None
) -> Iterator[tuple[tuple[PortRange, T], tuple[PortRange, T]]]:
    """Pairs of claims that have a port in common: every claim that overlaps one before it (by
    first port) comes with one such, so nothing comes if and only if all are disjoint.

    O(n log n). Claims whose owners are ``exempt`` towards each other do not count; that must be an
    equivalence.
    """
    # The claim that reaches furthest so far, and the furthest of those not exempt towards it:
    # whatever overlaps any claim overlaps one of these two.
    furthest: list[tuple[PortRange, T]] = []
    for claim in sorted(claims, key=lambda item: item[0]):
        for other in furthest:
            disjoint = other[0].last < claim[0].first
            if not disjoint and not (exempt and exempt(other[1], claim[1])):
                yield other, claim
                break
        ranked = sorted([*furthest, claim], key=lambda item: -item[0].last)
        rival = (item for item in ranked[1:] if exempt and not exempt(ranked[0][1], item[1]))
        furthest = [ranked[0], *(item for item in [next(rival, None)] if item)]
