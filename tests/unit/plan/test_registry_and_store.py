# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key registry and the plan files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.endpoints import (
    EndpointKey,
    assign_endpoint_ids,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.registry import (
    is_public_key,
    load_registry,
    merge_keys,
    parse_registry,
    render_registry,
    shadowed_file,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.session import (
    Outcome,
    plan_and_store,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.store import load_plan
from hypothesis import given
from hypothesis import strategies as st

KeyOf = Callable[[str], str]
REGISTRIES = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
    st.binary(min_size=32, max_size=32).filter(any).map(lambda raw: _encode(raw)),
)


def _encode(raw: bytes) -> str:
    import base64

    return base64.b64encode(raw).decode()


@given(known=REGISTRIES, fresh=REGISTRIES)
def test_merging_never_loses_a_host_and_survives_yaml(known: dict[str, str], fresh: dict[str, str]) -> None:
    merged = merge_keys(known, fresh)
    assert set(merged) == set(known) | set(fresh)
    assert all(merged[host] == key for host, key in fresh.items())
    text = render_registry(merged)
    problems = Problems()
    assert parse_registry(text.decode(), "registry", problems) == merged
    assert len(problems) == 0
    assert render_registry(dict(reversed(merged.items()))) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- edge1", "must hold one mapping"),
        ("edgewire_public_keys: {}\nother: 1", "must hold one mapping"),
        ("edgewire_public_keys: [edge1]", "is not a mapping of hosts to keys"),
        ("edgewire_public_keys: {edge1: short}", "edgewire_public_keys.edge1: is not a WireGuard"),
        ("edgewire_public_keys: {1: x}", "1 is not a host's name"),
        ("edgewire_public_keys: {", "is not plain YAML at line 1"),
    ],
)
def test_a_spoilt_registry_is_refused_and_left_alone(
    text: str, complaint: str, tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf
) -> None:
    registry = tmp_path / "keys.yml"
    registry.write_text(text)
    with pytest.raises(EdgewireError, match=complaint):
        session(tmp_path, make_fleet(), {"edge1": key_of("edge1")})
    assert registry.read_text() == text
    assert not (tmp_path / "plans").exists()


def test_public_keys(key_of: KeyOf) -> None:
    assert is_public_key(key_of("x"))
    for bad in (None, 5, "", "A" * 43 + "=", key_of("x")[:-1], key_of("x") + "=", "é" * 44):
        assert not is_public_key(bad)
    # The last character has two bits that are no part of the key.
    assert not is_public_key("B" * 42 + "B=")


def session(place: Path, fleet: dict[str, Any], keys: dict[str, str], *, check: bool = False) -> Outcome:
    return plan_and_store(
        fleet,
        keys,
        registry=place / "keys.yml",
        plan_dir=place / "plans",
        check=check,
        problems=Problems(),
    )


def test_a_session_writes_only_what_changes(tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf) -> None:
    fleet = make_fleet()
    keys = {name: key_of(name) for name in fleet["hosts"]}
    first = session(tmp_path, fleet, keys)
    assert (first.registry_changed, first.written.written, first.written.total) == (True, 4, 4)
    again = session(tmp_path, fleet, {"edge1": keys["edge1"]})
    assert (again.registry_changed, again.written.written) == (False, 0)
    assert again.plan.missing_keys == ()
    assert again.written.fleet_hash == first.written.fleet_hash

    del fleet["hosts"]["edge2"]
    fleet["groups"]["edgewire_edges"].remove("edge2")
    (tmp_path / "plans" / "mine.json").write_text("{}")
    fewer = session(tmp_path, fleet, {})
    assert (fewer.written.removed, fewer.written.total) == (1, 3)
    names = {path.name for path in (tmp_path / "plans").iterdir()}
    assert names == {"edge1.json", "worker1.json", "worker2.json", "manifest.json", "mine.json"}
    manifest = json.loads((tmp_path / "plans" / "manifest.json").read_text())
    assert manifest["fleet"] == fewer.written.fleet_hash
    assert manifest["hosts"] == fewer.written.hashes
    # Its key stays: it may only be away.
    assert "edge2" in yaml.safe_load((tmp_path / "keys.yml").read_text())["edgewire_public_keys"]


def test_what_many_plans_have_is_written_once_and_put_together_again(
    tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf
) -> None:
    fleet = make_fleet(edges=30, workers=30)
    keys = {name: key_of(name) for name in fleet["hosts"]}
    first = session(tmp_path, fleet, keys)
    plans = tmp_path / "plans"
    files = [plans / f"{name}.json" for name in fleet["hosts"]]
    shared = {path.name: path.stat().st_size for path in (plans / "parts").iterdir()}
    assert len(shared) == 2  # the edges' peers, the workers' peers; other lists of this fleet are short
    assert max(path.stat().st_size for path in files) < 8000 < min(shared.values())
    for plan in first.plan.hosts:
        assert load_plan(plans, plan.host, first.written.fleet_hash) == plan.to_dict()

    second = session(tmp_path, fleet, {"edge1": key_of("new")})
    assert second.written.written == 30  # the workers
    left = {path.name for path in (plans / "parts").iterdir()}
    assert len(left) == 2
    assert len(left & set(shared)) == 1
    with pytest.raises(EdgewireError, match="has been planned anew since"):
        load_plan(plans, "edge1", first.written.fleet_hash)
    with pytest.raises(EdgewireError, match="there is no plan of edge99"):
        load_plan(plans, "edge99")


@pytest.mark.parametrize("path", ["edge1.json", "parts/*.json"])
def test_a_plan_that_is_not_the_manifests_is_refused(
    tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf, path: str
) -> None:
    """It may be left from before, or half of another session's."""
    fleet = make_fleet(edges=30, workers=30)
    session(tmp_path, fleet, {name: key_of(name) for name in fleet["hosts"]})
    before = {file: file.read_bytes() for file in (tmp_path / "plans").glob(path)}
    session(tmp_path, fleet, {name: key_of(f"new {name}") for name in fleet["hosts"]})
    for old, new in zip(sorted(before), sorted((tmp_path / "plans").glob(path)), strict=True):
        new.write_bytes(before[old])
    with pytest.raises(EdgewireError, match="plan again"):
        load_plan(tmp_path / "plans", "edge1")


def test_a_rotated_key_replaces_the_old_one(tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf) -> None:
    fleet = make_fleet()
    session(tmp_path, fleet, {name: key_of(name) for name in fleet["hosts"]})
    rotated = session(tmp_path, fleet, {"edge1": key_of("new")})
    assert rotated.registry_changed
    assert load_registry(tmp_path / "keys.yml", Problems())["edge1"] == key_of("new")
    assert rotated.written.written == 2


def test_check_mode_leaves_everything_alone(tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf) -> None:
    fleet = make_fleet()
    outcome = session(tmp_path, fleet, {"edge1": key_of("edge1")}, check=True)
    assert outcome.registry_changed
    assert outcome.plan_dir == tmp_path / "plans-check"
    assert [path.name for path in tmp_path.iterdir()] == ["plans-check"]


def test_a_group_file_that_the_registry_would_hide_is_reported(
    tmp_path: Path, make_fleet: Callable[..., Any], key_of: KeyOf
) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("edgewire_services: []\n")
    registry = tmp_path / "group_vars" / "all" / "edgewire_public_keys.yml"
    assert shadowed_file(registry) == tmp_path / "group_vars" / "all.yml"
    with pytest.raises(EdgewireError, match="Ansible would stop reading it"):
        plan_and_store(
            make_fleet(),
            {"edge1": key_of("edge1")},
            registry=registry,
            plan_dir=tmp_path / "plans",
            check=False,
            problems=Problems(),
        )


@given(count=st.integers(0, 31), seed=st.randoms(use_true_random=False))
def test_endpoint_ids_that_collide_are_resolved_whatever_the_order(count: int, seed: Any) -> None:
    keys = [EndpointKey("s", "203.0.113.1", port, "w", "10.0.0.1", 1, port) for port in range(count)]
    ids = assign_endpoint_ids(keys, bits=5)
    assert len(set(ids.values())) == count
    assert 0 not in ids.values()
    assert assign_endpoint_ids(seed.sample(keys, count), bits=5) == ids
