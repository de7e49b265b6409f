# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example of ansible-pull: units that systemd takes, and a playbook that Ansible reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ansible_collections.edgewire.fleet.tests.unit.house.tree import ROOT

PULL = ROOT / "examples" / "pull"


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in PULL.glob("edgewire-pull.*"):
        # What the unit starts is not on this machine, and systemd asks for it.
        text = unit.read_text().replace("/opt/edgewire/bin/ansible-pull", shutil.which("true") or "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = sorted(str(path) for path in tmp_path.iterdir())
    assert len(units) == 2
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ansible_reads_the_playbook() -> None:
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [playbook, "--syntax-check", "-i", str(ROOT / "inventories" / "example"), str(PULL / "pull.yml")]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
