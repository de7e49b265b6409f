# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet and byte counters as numbers: the per-CPU values of a counter map, summed."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout


class Counters:
    """The values of a map of counters, by index.

    :param values: what a batch lookup returned, from index 0 on: of each entry one record for each CPU.
    :param entries: how many entries that are.
    :param record: what is counted in an entry, fields of 64 bits.
    """

    def __init__(self, values: bytes, entries: int, record: layout.Record = layout.STATS) -> None:
        self.cpus = len(values) // (entries * record.size) if entries else 1
        self._words = array.array("Q", values)
        self._fields = [name for name, _ in record.fields]
        self._row = self.cpus * len(self._fields)

    def of(self, index: int) -> dict[str, int]:
        """The counts by field; of ``struct stats`` bytes are IP bytes, without link layer and relay option."""
        start, end = index * self._row, (index + 1) * self._row
        return {name: sum(self._words[start + n : end : len(self._fields)]) for n, name in enumerate(self._fields)}


def total_of(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several counters of one kind, at least one, field by field."""
    return {name: sum(one[name] for one in counts) for name in counts[0]}
