# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Free space in arrays: single entries, and runs of them."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


class Shortages:
    """Collects everything that does not fit, for one error before the first write: no set of services is half there."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def need(self, name: str, count: int, room: int, when: str = "") -> None:
        """So many entries of a capacity are needed; of several such needs the first that is too big is told."""
        if count > room:
            self._told.setdefault(name, f"{name}: {count} needed{when}, room for {room}")

    def raise_if_any(self) -> None:
        """:raises EdgewireError: naming every capacity that does not hold what is needed of it."""
        if self._told:
            raise EdgewireError(
                f"the maps are too small ({'; '.join(self._told.values())}); nothing was written. Raise these in"
                " edgewire_capacity and run edgewire.fleet.site, which loads the programs with bigger maps"
            )


class Indices:
    """Hands out the lowest index that is not taken, up to the capacity that is called ``name``."""

    def __init__(self, taken: Iterable[int], capacity: int, name: str, shortages: Shortages) -> None:
        self._taken = set(taken)
        self._capacity = capacity
        self._name = name
        self._shortages = shortages
        self._next = 0

    def take(self) -> int:
        """The next free index. Where there is none it is a shortage, and the index means nothing."""
        while self._next in self._taken:
            self._next += 1
        index = self._next
        if index >= self._capacity:
            count = len(self._taken) + 1
            self._shortages.need(self._name, count, self._capacity, " while what goes is still there")
        self._taken.add(index)
        return index


class Space:
    """Hands out room in ``ew_lut``: first fit between what services use, the ones about to move included."""

    def __init__(self, used: Iterable[tuple[int, int]], capacity: int) -> None:
        self._gaps: list[tuple[int, int]] = []
        end = 0
        for offset, size in sorted(used):
            if offset > end:
                self._gaps.append((end, offset - end))
            end = max(end, offset + size)
        if capacity > end:
            self._gaps.append((end, capacity - end))

    def take(self, size: int) -> int | None:
        """The offset of so much room; None where there is none."""
        for number, (offset, room) in enumerate(self._gaps):
            if room >= size:
                self._gaps[number] = (offset + size, room - size)
                return offset
        return None
