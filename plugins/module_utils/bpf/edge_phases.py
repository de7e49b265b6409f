# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The writes of an edge's plan in phases, so that a packet finds whole entries after each of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import SERVICE_MAPS
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Change, Fold, Run, Write
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Shortages
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


class _Places:
    """Neighbouring entries of an array, one after the other."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.values: list[bytes] = []


@dataclass
class Phases:
    """The writes in phases: a map that is looked up first is written last and cleared first."""

    steps: list[Step] = field(default_factory=list)
    allocate: list[Write] = field(default_factory=list)
    switch: list[Write] = field(default_factory=list)
    settle: list[Write | Run] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    retire: list[Write] = field(default_factory=list)
    shortages: Shortages = field(default_factory=Shortages)
    _arrays: dict[str, list[_Places]] = field(default_factory=dict)

    def put(self, name: str, start: int, values: bytes, count: int = 1) -> None:
        """Allocate ``count`` entries of an array, from index ``start`` on. What adjoins becomes one run."""
        runs = self._arrays.setdefault(name, [])
        if not runs or runs[-1].end != start:
            runs.append(_Places(start))
        runs[-1].values.append(values)
        runs[-1].end += count

    def _allocated(self) -> Iterator[Write | Run]:
        yield from self.allocate
        for name, runs in self._arrays.items():
            for run in runs:
                yield Run(name, run.start, b"".join(run.values))

    def writes(self) -> Iterator[Change]:
        """All writes, in the order in which they are safe."""
        phases: list[Iterable[Write | Run]] = [self._allocated(), self.switch, self.settle, self.retire]
        for phase in phases:
            if phase is self.retire:  # no packet goes to these backends any more, and they can still be told by name
                yield from self.folds
            runs: dict[tuple[bool, str], list[Write | Run]] = {}
            for write in phase:
                runs.setdefault((write[2] is None, write[0]), []).append(write)
            # In `switch`, which only knows services and VIPs, those that go make room for those that come.
            for run in sorted(runs, key=lambda run: (run[0] != (phase is self.switch), _ORDER[run[1]])):
                yield from runs[run]


_ORDER = {
    name: number
    for number, name in enumerate(
        (
            *("ew_stats", "ew_retired", "ew_workers", "ew_backends", "ew_endpoints", "ew_lut"),
            *("ew_sources", "ew_sources6", "ew_filtered", "ew_buckets", "ew_filters"),
            *(*SERVICE_MAPS, *direct.MAPS, "ew_vips", "ew_config"),
        )
    )
}
