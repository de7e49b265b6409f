# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables taken from the kernel are what would be built, and what is not known to be that is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    contents,
    edge_state,
    layout,
    proofs,
    running_tables,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import FakeMaps
from ansible_collections.edgewire.fleet.tests.unit.bpf.test_edge_maps import (  # noqa: F401
    _small_tables,
    assert_is,
    corruptions,
    damage,
    edge,
    maps_with,
    plan,
    service,
    state_of,
    wanted_states,
)
from hypothesis import HealthCheck, given, settings

ONE, OTHER = service({7: 1, 8: 2}), service({17: 1, 18: 1, 19: 1}, port=54)


@pytest.fixture(autouse=True)
def _no_proofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proofs, "DIRECTORY", tmp_path)


def fresh(wanted: EdgeWanted) -> EdgeWanted:
    """The same again, with nothing built yet."""
    return replace(wanted, services=tuple(replace(service) for service in wanted.services))


def remember(wanted: EdgeWanted) -> None:
    """What follows a comparison that came out equal."""
    contents._remember("edge", bytes(32), wanted)


def built(wanted: EdgeWanted, maps: FakeMaps, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The backends of the services whose tables are built for a plan from these maps."""
    wanted, real, seen = fresh(wanted), edge_state.build_table, set()

    def watched(pairs: list[tuple[int, int]], size: int) -> list[int]:
        seen.update(ident for ident, _ in pairs)
        return real(pairs, size)

    with monkeypatch.context() as patch:
        patch.setattr(edge_state, "build_table", watched)
        running_tables.take_known(wanted, state_of(maps))
        maps.apply(plan(wanted, maps)[1])
    assert_is(wanted, maps)
    return seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted_states(), wanted_states(), corruptions())
def test_what_is_taken_is_what_would_be_built(
    old: EdgeWanted, new: EdgeWanted, corruption: tuple[str, int, bool, bytes]
) -> None:
    maps = maps_with(old)
    remember(old)
    damage(maps, corruption)
    for wanted in (old, new):
        taken = fresh(wanted)
        running_tables.take_known(taken, state_of(maps))
        for found, same in zip(taken.services, fresh(wanted).services, strict=True):
            slots = {eid: eid for eid in same.in_tables}
            assert (found.table, found.drain_table) == (same.table, same.drain_table)
            assert found.block(slots) == same.block(slots)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted_states())
def test_maps_that_are_right_have_all_tables(wanted: EdgeWanted) -> None:
    maps = maps_with(wanted)
    taken = fresh(wanted)
    running_tables.take_all(taken, cast(Maps, maps))
    assert all("table" in vars(each) for each in taken.services if each.size > 1)
    assert [(s.table, s.drain_table) for s in taken.services] == [(s.table, s.drain_table) for s in wanted.services]


def test_only_what_changed_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = maps_with(edge(ONE, OTHER))
    assert built(edge(ONE, OTHER), maps, monkeypatch) == {7, 8, 17, 18, 19}, "nothing is known of them yet"
    remember(edge(ONE, OTHER))
    assert built(edge(ONE, OTHER), maps, monkeypatch) == set()
    assert built(edge(service({7: 1, 8: 3}), OTHER), maps, monkeypatch) == {7, 8}
    drains = replace(OTHER, backends=(BackendWanted(17, "worker1", 0, 1), *OTHER.backends[1:]))
    remember(edge(ONE, drains))
    assert built(edge(ONE, drains), maps, monkeypatch) == {7, 8, 17, 18, 19}, "what is known is not what runs"
    assert built(edge(ONE, drains), maps, monkeypatch) == set()


def test_a_changed_place_and_a_lost_file_are_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = maps_with(edge(ONE, OTHER))
    remember(edge(ONE, OTHER))
    record = next(r for entry, r in state_of(maps).entries.items() if entry.port == ONE.port)
    key = layout.U32.of(record["table_offset"])
    changed = int.from_bytes(maps["ew_lut"].entries[key], "little") ^ 1
    maps["ew_lut"].put(key, layout.U32.of(changed))
    assert built(edge(ONE, OTHER), maps, monkeypatch) == {7, 8}
    (proofs.DIRECTORY / "tables").write_bytes(b"nonsense")
    assert built(edge(ONE, OTHER), maps, monkeypatch) == {7, 8, 17, 18, 19}
