# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages a host lacks, and what is done where it lacks some."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import prepare


def test_what_is_installed_is_told_from_what_is_not() -> None:
    # dpkg is what every Debian has; the other name is no package's.
    assert prepare.missing_packages(["dpkg", "edgewire-no-such-package"]) == ["edgewire-no-such-package"]


@pytest.mark.parametrize("name", ["dpkg=0.0.1", "dpkg/stable", "dpkg>=1"])
def test_a_version_is_for_apt_to_judge(name: str) -> None:
    assert prepare.missing_packages([name, "dpkg"]) == [name]


def test_without_dpkg_everything_is_for_apt_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert prepare.missing_packages(["dpkg"]) == ["dpkg"]


def test_no_key_is_made_while_packages_are_missing(tmp_path: Path) -> None:
    params = {
        "packages": ["edgewire-no-such-package"],
        "path": str(tmp_path / "keys/wg0.key"),
        "plan_file": str(tmp_path / "plan.json"),
    }
    told = prepare.prepare(params, check_mode=False)
    assert (told["changed"], told["public_key"], told["plan_sha256"]) == (False, None, "none")
    assert not any(tmp_path.iterdir())
    made = prepare.prepare({**params, "packages": ["dpkg"]}, check_mode=False)
    assert made["changed"]
    assert made["public_key"]
    again = prepare.prepare({**params, "packages": ["dpkg"]}, check_mode=False)
    assert (again["changed"], again["public_key"]) == (False, made["public_key"])
