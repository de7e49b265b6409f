# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan has written is found in the maps byte for byte, and whatever else changed is seen."""

from __future__ import annotations

from typing import cast

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import proofs, readback
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps
from ansible_collections.edgewire.fleet.tests.unit.bpf import test_worker_maps as worker
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import FakeMaps
from ansible_collections.edgewire.fleet.tests.unit.bpf.test_edge_maps import (  # noqa: F401
    _small_tables,
    corruptions,
    damage,
    maps_with,
    plan,
    wanted_states,
)
from hypothesis import given


def read(maps: FakeMaps) -> readback.Read:
    """All of the maps that is compared."""
    return proofs.compared(cast(Maps, maps))


@given(wanted_states(), wanted_states(), corruptions())
def test_an_edges_maps_hold_what_a_plan_wrote_until_a_byte_differs(
    old: EdgeWanted, new: EdgeWanted, corruption: tuple[str, int, bool, bytes]
) -> None:
    maps = maps_with(old)
    before = read(maps)
    _, changes = plan(new, maps)
    maps.apply(changes)
    after = read(maps)
    assert readback.is_as_written("edge", before, changes, after)
    damage(maps, corruption)
    # Of places in no table there may be more in one reading than in the other.
    same = all(read(maps)[name] == found for name, found in after.items())
    assert readback.is_as_written("edge", before, changes, read(maps)) == same


@given(worker.wanted_states(), worker.wanted_states())
def test_a_workers_maps_hold_what_a_plan_wrote(old: worker.WorkerWanted, new: worker.WorkerWanted) -> None:
    maps = FakeMaps("worker", worker.CAPACITY)
    maps.apply(worker.plan(old, maps)[1])
    before = read(maps)
    _, changes = worker.plan(new, maps)
    maps.apply(changes)
    assert readback.is_as_written("worker", before, changes, read(maps))
