# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet and byte counters as numbers: the per-CPU values of a counter map, summed."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout

_FIELDS = tuple(name for name, _ in layout.STATS.fields)


class Counters:
    """The values of a map of ``struct stats``, by index.

    :param values: what a batch lookup returned, from index 0 on: of each entry one record for each CPU.
    :param entries: how many entries that are.
    """

    def __init__(self, values: bytes, entries: int) -> None:
        self.cpus = len(values) // (entries * layout.STATS.size) if entries else 1
        self._words = array.array("Q", values)
        self._row = self.cpus * len(_FIELDS)

    def of(self, index: int) -> dict[str, int]:
        """in_packets, in_bytes, out_packets, out_bytes; IP bytes without link layer and relay option."""
        start, end = index * self._row, (index + 1) * self._row
        return {name: sum(self._words[start + n : end : len(_FIELDS)]) for n, name in enumerate(_FIELDS)}


def total_of(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several counters, field by field."""
    return {name: sum(one[name] for one in counts) for name in _FIELDS}
