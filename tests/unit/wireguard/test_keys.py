# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key file: made once, repaired, never overwritten, never shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import (
    ensure_key,
    public_key_of,
    read_private_key,
)

pytestmark = pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg(8)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgewire" / "wireguard" / "wg0.key"


def test_check_mode_predicts_and_touches_nothing(path: Path) -> None:
    predicted = ensure_key(str(path), check_mode=True)
    assert (predicted.public_key, predicted.exists) == (None, False)
    assert not path.parent.exists()
    assert ensure_key(str(path), check_mode=False).steps == predicted.steps


def test_a_key_is_made_once(path: Path) -> None:
    made = ensure_key(str(path), check_mode=False)
    assert made.exists
    assert [step.verb for step in made.steps] == ["add", "add"]
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["wg0.key"]
    content = path.read_bytes()
    again = ensure_key(str(path), check_mode=False)
    assert (again.steps, again.public_key) == ([], made.public_key)
    assert path.read_bytes() == content


def test_the_private_key_is_in_no_result(path: Path) -> None:
    made = ensure_key(str(path), check_mode=False)
    secret = path.read_text().strip()
    assert made.public_key == public_key_of(secret) != secret
    assert secret not in str(result_of(made.steps, str(path))) + repr(made)


def test_modes_are_repaired_as_a_change(path: Path) -> None:
    made = ensure_key(str(path), check_mode=False)
    path.chmod(0o644)
    path.parent.chmod(0o755)
    predicted = ensure_key(str(path), check_mode=True).steps
    repaired = ensure_key(str(path), check_mode=False)
    assert repaired.steps == predicted
    assert [step.verb for step in predicted] == ["change", "change"]
    assert path.stat().st_mode & 0o7777 == 0o600
    assert repaired.public_key == made.public_key


@pytest.mark.parametrize("content", [b"", b"c2VjcmV0bm90YWtleQ==\n", b"\xff" * 32, b"x" * 10000])
def test_a_damaged_file_is_an_error_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(content)
    for check_mode in (True, False):
        with pytest.raises(EdgewireError, match="holds no WireGuard private key") as caught:
            ensure_key(str(path), check_mode)
        assert "c2VjcmV0" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgewireError):
        ensure_key(str(path), check_mode=False)
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_with_other_things_is_not_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "passwd").touch()
    with pytest.raises(EdgewireError, match="directory of their own"):
        ensure_key(str(tmp_path / "wg0.key"), check_mode=False)
    assert tmp_path.stat().st_mode & 0o7777 == 0o755
    assert not (tmp_path / "wg0.key").exists()


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(EdgewireError, match="absolute"):
        read_private_key("wg0.key")
