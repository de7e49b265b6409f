# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proofs that there is nothing to do: another one for every byte that counts."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, layout, proofs  # noqa: F401
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps
from ansible_collections.edgewire.fleet.tests.unit.bpf.fake_maps import FakeMaps
from ansible_collections.edgewire.fleet.tests.unit.bpf.test_edge_maps import (  # noqa: F401
    _small_tables,
    corruptions,
    damage,
    maps_with,
    wanted_states,
)
from hypothesis import given

COUNTERS = ("ew_stats", "ew_retired", "ew_filtered", "ew_buckets")


def proof(maps: FakeMaps, wanted: str = "this", where: int = 1) -> bytes:
    """A proof about these maps."""
    return proofs.of(proofs.asked("edge", {"wanted": wanted}), [where], cast(Maps, maps))


@given(wanted_states(), corruptions())
def test_any_change_of_what_is_compared_needs_another_proof(
    wanted: EdgeWanted, corruption: tuple[str, int, bool, bytes]
) -> None:
    maps = maps_with(wanted)
    assert proof(maps) == proof(maps_with(wanted))
    before, entries = proof(maps), dict(maps[corruption[0]].entries)
    damage(maps, corruption)
    name = corruption[0]
    if name == "ew_lut":  # beyond what entries lead to, nobody looks
        return
    assert (proof(maps) == before) == (maps[name].entries == entries)


def test_what_is_wanted_where_and_in_which_maps_is_part_of_it() -> None:
    small, large = (FakeMaps("edge", layout.Capacity(services=n, lut=8, backends=8)) for n in (4, 5))
    told = {proof(small), proof(small, "that"), proof(small, where=2), proof(large)}
    assert len(told) == 4


def test_a_place_in_a_table_counts_and_a_counter_does_not() -> None:
    maps = FakeMaps("edge", layout.Capacity(services=4, lut=8, backends=8))
    record = layout.SERVICE.pack({"table_offset": 2, "table_size": 3, "width": 5})
    maps["ew_services"].put(layout.SERVICE_KEY.pack({"vip": "203.0.113.53", "port": 53}), record)
    before = proof(maps)
    for name in COUNTERS:
        maps[name].put(bytes(4), b"\x01" * maps[name].spec.value.size)
    maps["ew_lut"].put(layout.U32.of(5), b"\x01\0\0\0")
    assert proof(maps) == before
    maps["ew_lut"].put(layout.U32.of(4), b"\x01\0\0\0")
    assert proof(maps) != before


def test_every_map_is_either_compared_or_written_by_programs() -> None:
    compared = {spec.name for specs in layout.MAPS.values() for spec in specs} - proofs._NOT_COMPARED
    services = {"ew_services", "ew_services6", "ew_ranges", "ew_ranges6", "ew_lut", "ew_vips"}
    services |= {"ew_direct", "ew_direct6", "ew_no_range"}
    others = {"ew_config", "ew_backends", "ew_workers", "ew_endpoints", "ew_edges"}
    assert compared == services | others | {"ew_filters", "ew_sources", "ew_sources6"}


def test_the_newest_proofs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "DIRECTORY", tmp_path / "proofs")
    made = [bytes([number]) * 32 for number in range(proofs.KEPT + 1)]
    for one in made:
        assert not proofs.known("edge", one)
        proofs.remember("edge", one)
        assert proofs.known("edge", one)
    assert not proofs.known("edge", made[0])
    assert not proofs.known("worker", made[1])
    assert all(proofs.known("edge", one) for one in made[1:])


def test_a_damaged_file_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "DIRECTORY", tmp_path)
    proofs.remember("edge", b"\x01" * 32)
    (tmp_path / "edge").write_bytes(b"\x01" * 31)
    assert not proofs.known("edge", b"\x01" * 32)
