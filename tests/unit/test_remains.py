# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last step of a teardown."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import remains


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose directories lie under a path of the test's own; one of the three is not there."""
    names = [tmp_path / name for name in ("etc", "lib", "run")]
    monkeypatch.setattr(remains, "DIRECTORIES", tuple(map(str, names)))
    monkeypatch.setattr(remains, "LOCK", str(tmp_path / "lock"))
    (tmp_path / "etc/wireguard").mkdir(parents=True)
    (tmp_path / "etc/wireguard/wg0.key").write_text("private")
    (tmp_path / "run").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / "other").touch()
    return tmp_path


def test_a_check_says_what_a_run_does_and_the_second_run_has_nothing_to_do(host: Path) -> None:
    before = sorted(host.rglob("*"))
    predicted = remains.remove({}, check_mode=True)
    assert sorted(host.rglob("*")) == before
    assert [step["name"] for step in predicted["steps"]] == [str(host / "etc"), str(host / "run")]
    assert remains.remove({}, check_mode=False) == predicted
    assert list(host.iterdir()) == [host / "other"]
    assert not remains.remove({}, check_mode=False)["changed"]


def test_the_lock_goes_and_is_no_change(host: Path) -> None:
    remains.remove({}, check_mode=False)
    (host / "lock").touch()
    assert not remains.remove({}, check_mode=False)["changed"]
    assert not (host / "lock").exists()


def test_a_link_goes_and_what_it_leads_to_stays(host: Path) -> None:
    (host / "elsewhere").mkdir()
    (host / "elsewhere/kept").touch()
    (host / "lib").symlink_to(host / "elsewhere")
    remains.remove({}, check_mode=False)
    assert not (host / "lib").is_symlink()
    assert (host / "elsewhere/kept").exists()


def test_nothing_that_is_removed_is_told(host: Path) -> None:
    assert "private" not in str(remains.remove({}, check_mode=False))
