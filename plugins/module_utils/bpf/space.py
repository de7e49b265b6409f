# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Free space in arrays: single entries, and runs of them."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError


class Indices:
    """Hands out the lowest index that is not taken, up to a map's capacity."""

    def __init__(self, taken: Iterable[int], capacity: int) -> None:
        self._taken = set(taken)
        self._capacity = capacity
        self._next = 0

    def take(self) -> int:
        """The next free index.

        :raises EdgewireError: there is none.
        """
        while self._next in self._taken:
            self._next += 1
        if self._next >= self._capacity:
            raise EdgewireError(
                f"the maps are too small: {self._capacity} entries do not hold what runs and what is to come together"
            )
        self._taken.add(self._next)
        return self._next


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
