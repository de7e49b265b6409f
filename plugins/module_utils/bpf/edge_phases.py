# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The writes of an edge's plan in phases, so that a packet finds whole entries after each of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import SERVICE_MAPS
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Change, Fold, Run, Write
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Shortages
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


@dataclass
class Phases:
    """The writes in phases: a map that is looked up first is written last and cleared first."""

    steps: list[Step] = field(default_factory=list)
    allocate: list[Write] = field(default_factory=list)
    tables: list[Run] = field(default_factory=list)
    switch: list[Write] = field(default_factory=list)
    settle: list[Write | Run] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    retire: list[Write] = field(default_factory=list)
    shortages: Shortages = field(default_factory=Shortages)

    def writes(self) -> Iterator[Change]:
        """All writes, in the order in which they are safe."""
        phases: list[Sequence[Write | Run]] = [self.allocate, self.tables, self.switch, self.settle, self.retire]
        for phase in phases:
            if phase is self.retire:  # no packet goes to these backends any more, and they can still be told by name
                yield from self.folds
            # In `switch`, which only knows services and VIPs, those that go make room for those that come.
            yield from sorted(phase, key=lambda write: ((write[2] is None) != (phase is self.switch), _ORDER[write[0]]))


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
