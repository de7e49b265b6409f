# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are there whole or not at all, and a disk that takes none is told with the file's name."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed

ROOT = Path(__file__).parents[2]
# A module whose work ends with an error of the system.
MODULE = """
import errno, sys
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import run_module
def work(params, check_mode):
    raise OSError(int(params["errno"]), "told", "/etc/edgewire/plan.json")
run_module({"errno": {"type": "int"}}, work)
"""


def test_what_does_not_fit_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    write_if_changed(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_if_changed(path, b"new", durable=True)
    assert refused.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("number", "is_told"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EINVAL, False)])
def test_a_module_tells_of_a_full_disk_and_keeps_the_traceback_of_a_bug(number: int, is_told: bool) -> None:
    given = json.dumps({"ANSIBLE_MODULE_ARGS": {"errno": number}})
    done = subprocess.run(
        [sys.executable, "-c", MODULE],
        input=given,
        env={**os.environ, "PYTHONPATH": str(ROOT / ".collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert ("Traceback" in done.stderr) != is_told
    if is_told:
        assert json.loads(done.stdout)["msg"].startswith("/etc/edgewire/plan.json: told; what is there stays")
