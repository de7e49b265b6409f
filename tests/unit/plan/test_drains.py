# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking hosts out of service and bringing them back: what is refused, what is kept, what the plans make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.drains import FILE, Request, load, store
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.session import Outcome, plan_and_store
from hypothesis import given
from hypothesis import strategies as st

Inventory = dict[str, Any]
MakeFleet = Callable[..., Inventory]
KeyOf = Callable[[str], str]


@pytest.fixture
def session(tmp_path: Path, key_of: KeyOf) -> Callable[..., Outcome]:
    """A planning session over the same files each time, as runs are."""

    def plan(fleet: Inventory, check: bool = False, **request: Any) -> Outcome:
        return plan_and_store(
            fleet,
            {name: key_of(name) for name in fleet["hosts"]},
            registry=tmp_path / "keys.yml",
            plan_dir=tmp_path / "plans",
            check=check,
            problems=Problems(),
            request=Request(**request),
        )

    return plan


def weights(outcome: Outcome) -> dict[str, tuple[int, int | None]]:
    """Of the one service, as the first edge has it: worker to weight and weight while draining."""
    edge = outcome.plan.hosts[0].edge
    assert edge is not None
    (service,) = edge.services
    return {backend.worker: (backend.weight, backend.drain_weight) for backend in service.backends}


def test_a_drained_worker_stays_drained_until_it_is_brought_back(
    session: Callable[..., Outcome], make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet()
    before = session(fleet)
    drained = session(fleet, drain=("worker1",))
    assert (drained.drained, drained.drained_changed) == (("worker1",), True)
    assert weights(drained) == {"worker1": (0, 1), "worker2": (1, None)}
    assert yaml.safe_load((tmp_path / FILE).read_text()) == {"edgewire_drained": ["worker1"]}
    later = session(fleet)
    assert (later.drained, later.drained_changed, later.written.written) == (("worker1",), False, 0)
    assert any("worker1" in warning and "undrain" in warning for warning in later.plan.warnings)
    back = session(fleet, undrain=("worker1",))
    assert (back.drained, back.drained_changed) == ((), True)
    assert not (tmp_path / FILE).exists()
    assert back.written.fleet_hash == before.written.fleet_hash


def test_a_drained_edge_keeps_its_plan(session: Callable[..., Outcome], make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    before = session(fleet)
    drained = session(fleet, drain=("edge1",))
    assert drained.drained == ("edge1",)
    assert drained.written.fleet_hash == before.written.fleet_hash


def test_check_mode_writes_nothing(session: Callable[..., Outcome], make_fleet: MakeFleet, tmp_path: Path) -> None:
    outcome = session(make_fleet(), check=True, drain=("worker1",))
    assert (outcome.drained, outcome.drained_changed) == (("worker1",), True)
    assert weights(outcome)["worker1"] == (0, 1)
    assert not (tmp_path / FILE).exists()


def test_the_last_one_is_refused_and_every_service_is_named(
    session: Callable[..., Outcome], make_fleet: MakeFleet, tmp_path: Path
) -> None:
    fleet = make_fleet()
    only = {"worker": "worker1", "address": "10.88.0.9"}
    fleet["vars"]["edgewire_services"] += [
        {"name": "alone", "vips": ["203.0.113.9"], "ports": [9], "backends": [only]},
        {
            "name": "spare",
            "vips": ["203.0.113.10"],
            "ports": [10],
            "backends": [only, {"worker": "worker2", "address": "10.88.0.9", "state": "dead"}],
        },
    ]
    with pytest.raises(EdgewireError) as refused:
        session(fleet, drain=("worker1",))
    said = str(refused.value)
    assert "service alone" in said
    assert "service spare" in said
    assert "service dns" not in said
    assert "edgewire_drain_force=true" in said
    assert not (tmp_path / FILE).exists()

    session(fleet, drain=("worker1",), force=True)
    # Who is drained already is no reason to refuse a later run, nor one that drains somebody else.
    session(fleet)
    session(fleet, drain=("edge1",))
    with pytest.raises(EdgewireError) as refused:
        session(fleet, drain=("worker2", "edge2"))
    said = str(refused.value)
    assert "service dns" in said
    assert "service alone" not in said
    assert "the edges: none would be left" in said


def test_a_worker_that_is_dead_or_drains_by_inventory_serves_nobody(
    session: Callable[..., Outcome], make_fleet: MakeFleet
) -> None:
    for state in ("dead", "drain"):
        fleet = make_fleet()
        fleet["hosts"]["worker2"]["edgewire_worker_state"] = state
        with pytest.raises(EdgewireError, match="service dns: would have no backend"):
            session(fleet, drain=("worker1",))
        # It serves nothing now, so nothing is lost with it.
        session(fleet, drain=("worker2",))
        session(fleet, undrain=("worker2",))


def test_names_that_nobody_bears(session: Callable[..., Outcome], make_fleet: MakeFleet, tmp_path: Path) -> None:
    with pytest.raises(EdgewireError, match="'worker9' is not a host of the fleet"):
        session(make_fleet(), drain=("worker9",))
    with pytest.raises(EdgewireError, match="'worker9' is not a host of the fleet"):
        session(make_fleet(), undrain=("worker9",))
    with pytest.raises(EdgewireError, match="worker1 is also to be undrained"):
        session(make_fleet(), drain=("worker1",), undrain=("worker1",))
    # One that has left the inventory: told, and got rid of.
    store(tmp_path / FILE, ["worker9"])
    assert any("worker9" in warning for warning in session(make_fleet()).plan.warnings)
    session(make_fleet(), undrain=("worker9",))
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("text", ["- worker1", "edgewire_drained: worker1", "edgewire_drained: [1]", "a: {", "b: []"])
def test_a_spoilt_file_is_refused_and_left_alone(
    session: Callable[..., Outcome], make_fleet: MakeFleet, tmp_path: Path, text: str
) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(EdgewireError, match=FILE):
        session(make_fleet(), drain=("worker1",))
    assert (tmp_path / FILE).read_text() == text
    assert not (tmp_path / "plans").exists()


@given(names=st.lists(st.from_regex(r"[A-Za-z0-9_:][A-Za-z0-9_.:@-]{0,20}", fullmatch=True), unique=True))
def test_what_is_stored_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("drains") / FILE
    store(path, names)
    problems = Problems()
    assert load(path, problems) == tuple(sorted(names))
    assert problems.lines() == []
