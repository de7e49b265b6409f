# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a box needs at its next boot: written, noticed when it is gone, and removed without a trace."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.boot import links, timer, unit
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import derive

LINKS_FILES = [("add", f"/{path}") for path in (links.SETTINGS, links.PROGRAM, links.SERVICE, links.SOCKET)]
SECRET = "not a secret, only long enough for one"


def params(preshared: bool = False, secret: str | None = None, role: str = "edge", **more: Any) -> dict[str, Any]:
    """The module's options for a small plan of one peer."""
    peers = [{"name": "worker1", "preshared": preshared}]
    return {
        "plan": {"host": "edge1", "wireguard": {"peers": peers}, role: {"uplink": "eth0"}},
        "plan_file": "/etc/edgewire/plan.json",
        "sources": {"edge": "edge source", "worker": "worker source"},
        "capacity": {},
        "preshared_secret": secret,
        **more,
    }


def apply(root: Path, options: dict[str, Any]) -> list[tuple[str, str]]:
    """Plan, perform, find nothing left to do; what was done."""
    steps = unit.plan(options, root)
    assert unit.plan(options, root) == steps
    unit.perform(steps, root)
    assert unit.plan(options, root) == []
    return [(step.verb, step.name) for step in steps]


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink())


def test_it_is_all_there_after_one_run_and_gone_after_another(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "var/lib").mkdir(parents=True)
    assert apply(tmp_path, params(preshared=True, secret=SECRET)) == [
        ("add", "/var/lib/edgewire/boot/plan.json"),
        ("add", "/var/lib/edgewire/boot/preshared.json"),
        ("add", "/var/lib/edgewire/boot/settings.json"),
        ("add", "/var/lib/edgewire/boot/restore.pyz"),
        ("add", f"/{unit.UNIT_FILE}"),
        *LINKS_FILES,
        ("change", unit.UNIT),
        ("change", links.UNIT),
    ]
    settings = json.loads((tmp_path / unit.SETTINGS).read_text())
    assert settings["sources"] == {"edge": "edge source"}
    assert len(apply(tmp_path, {**params(), "plan": None, "state": "absent"})) == 11
    assert files(tmp_path) == []
    assert not (tmp_path / "var/lib/edgewire").exists()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda root: (root / unit.ENABLED).unlink(), id="disabled"),
        pytest.param(lambda root: (root / links.ENABLED).unlink(), id="links not heard at boot"),
        pytest.param(lambda root: (root / unit.UNIT_FILE).write_text("[Unit]\n"), id="unit edited"),
        pytest.param(lambda root: (root / unit.PROGRAM).unlink(), id="program gone"),
        pytest.param(lambda root: (root / unit.SETTINGS).write_text("{}"), id="settings of another version"),
        pytest.param(lambda root: (root / "var/lib/edgewire/boot/plan.json").write_text("{}"), id="another plan"),
        pytest.param(
            lambda root: (root / "var/lib/edgewire/boot/preshared.json").chmod(0o644), id="keys for all to read"
        ),
    ],
)
def test_whatever_is_damaged_is_named_and_mended(tmp_path: Path, damage: Any) -> None:
    options = params(preshared=True, secret=SECRET)
    apply(tmp_path, options)
    damage(tmp_path)
    assert len(apply(tmp_path, options)) == 1


def test_a_socket_that_nobody_listens_at_is_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(tmp_path, params())
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    for status, expected in ((0, []), (3, [("change", links.UNIT, {"state": "stopped"}, {"state": "enabled"})])):
        done = subprocess.CompletedProcess([], status, stdout="")
        monkeypatch.setattr(unit, "_systemctl", lambda *_, done=done: done)
        steps = unit.plan(params(), tmp_path)
        assert [(step.verb, step.name, step.before, step.after) for step in steps] == expected


def test_a_unit_that_failed_runs_again_once_what_it_needs_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(tmp_path, params())
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / unit.PLAN).write_text("{")
    asked: list[tuple[str, ...]] = []

    def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
        asked.append(arguments)
        return subprocess.CompletedProcess([], 0, stdout="exit-code\n" if arguments[0] == "show" else "")

    monkeypatch.setattr(unit, "_systemctl", systemctl)
    steps = unit.plan(params(), tmp_path)
    assert [(step.name, step.before) for step in steps] == [
        (f"/{unit.PLAN}", {"holds": "something else"}),
        (unit.UNIT, {"state": "failed"}),
    ]
    unit.perform(steps, tmp_path)
    assert asked[-1] == ("restart", "--no-block", unit.UNIT)


def test_what_a_timer_or_a_socket_has_started_ends_before_its_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(tmp_path, params())
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    stopped: list[str] = []

    def systemctl(verb: str, *units: str) -> subprocess.CompletedProcess[str]:
        if verb == "stop":
            assert links.UNIT not in units or (tmp_path / links.SERVICE).exists()
            stopped.extend(units)
        return subprocess.CompletedProcess([], 0, stdout="")

    monkeypatch.setattr(unit, "_systemctl", systemctl)
    unit.perform(unit.plan({**params(), "plan": None, "state": "absent"}, tmp_path), tmp_path)
    assert not (tmp_path / links.SERVICE).exists()
    assert {unit.UNIT, links.UNIT, "edgewire-links.service"} <= set(stopped)
    assert len(stopped) == len(set(stopped))


def test_keys_are_for_root_alone_and_shown_nowhere(tmp_path: Path) -> None:
    options = params(preshared=True, secret=SECRET)
    steps = unit.plan(options, tmp_path)
    unit.perform(steps, tmp_path)
    path = tmp_path / "var/lib/edgewire/boot/preshared.json"
    kept = json.loads(path.read_text())
    assert kept == {"worker1": derive(SECRET, "worker1", "edge1").reveal_base64()}
    assert path.stat().st_mode & 0o777 == 0o600
    shown = json.dumps([step.describe() for step in steps])
    everything = "".join(path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    for form in (kept["worker1"], b64decode(kept["worker1"]).hex(), SECRET):
        assert form not in shown
    assert SECRET not in everything


def test_without_the_secret_keys_on_the_box_are_left_alone(tmp_path: Path) -> None:
    apply(tmp_path, params(preshared=True, secret=SECRET))
    assert apply(tmp_path, params(preshared=True)) == []
    assert apply(tmp_path, params(preshared=False)) == [
        ("change", "/var/lib/edgewire/boot/plan.json"),
        ("remove", "/var/lib/edgewire/boot/preshared.json"),
    ]


def test_an_edge_comes_before_the_network_is_used_and_a_worker_does_not_wait_for_itself(tmp_path: Path) -> None:
    apply(tmp_path / "edge", params(role="edge"))
    apply(tmp_path / "worker", params(role="worker"))
    assert "Before=network-online.target" in (tmp_path / "edge" / unit.UNIT_FILE).read_text()
    assert "Before=" not in (tmp_path / "worker" / unit.UNIT_FILE).read_text()


METRICS = {"file": "/var/lib/prometheus/edgewire.prom", "seconds": 15}


def measured(metrics: dict[str, Any] | None) -> dict[str, Any]:
    """The options for a plan with metrics or without."""
    options = params()
    if metrics:
        options["plan"]["metrics"] = metrics
    return options


def test_a_timer_is_made_where_the_plan_wants_metrics(tmp_path: Path) -> None:
    apply(tmp_path, measured(None))
    done = apply(tmp_path, measured(METRICS))
    assert done[1:] == [
        ("add", f"/{timer.SETTINGS}"),
        ("add", f"/{timer.PROGRAM}"),
        ("add", f"/{timer.SERVICE}"),
        ("add", f"/{timer.TIMER}"),
        ("change", timer.UNIT),
    ]
    assert f"/{timer.PROGRAM} {METRICS['file']}" in (tmp_path / timer.SERVICE).read_text()
    assert "OnUnitActiveSec=15" in (tmp_path / timer.TIMER).read_text()


@pytest.mark.parametrize("after", [None, {**METRICS, "file": "/srv/other.prom"}])
def test_what_the_timer_wrote_goes_where_it_writes_no_more(tmp_path: Path, after: dict[str, Any] | None) -> None:
    apply(tmp_path, measured(METRICS))
    written = tmp_path / METRICS["file"].lstrip("/")  # type: ignore[attr-defined]
    written.parent.mkdir(parents=True)
    written.write_text("edgewire_programs_attached 1\n")
    apply(tmp_path, measured(after))
    assert not written.exists()
    assert (tmp_path / timer.ENABLED).is_symlink() == bool(after)


def test_the_timer_goes_with_the_rest(tmp_path: Path) -> None:
    apply(tmp_path, measured(METRICS))
    apply(tmp_path, {**params(), "plan": None, "state": "absent"})
    assert files(tmp_path) == []
