# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user gets: the built artefact, installed with what it declares and nothing else, rolls out the fleet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from .support import FLEET, answer, changed_tasks, recap

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.lab

# An installation from an index included.
SECONDS = 600


@dataclass(frozen=True)
class Controller:
    """A machine of a user's own, as far as Ansible can tell: nothing of this checkout is in any of its paths."""

    home: Path

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of the environment in an empty directory; what it printed."""
        directory = self.home / "empty"
        directory.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
        result = subprocess.run(
            [str(self.home / "venv/bin" / program), *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={
                **inherited,
                "ANSIBLE_HOME": str(self.home / "ansible"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.home / "collections"),
                "ANSIBLE_NOCOLOR": "1",
                # No connection outlives the directory in which its socket lies by more than this.
                "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=5s",
            },
        )
        assert result.returncode == 0, f"{program} {' '.join(arguments)}\n{result.stdout}\n{result.stderr}"
        assert list(directory.iterdir()) == []
        return result.stdout

    def playbook(self, name: str) -> str:
        """Run a playbook of the installed collection against the copy of the inventory."""
        return self.run("ansible-playbook", "-i", str(self.home / "inventory"), f"edgewire.fleet.{name}")


@pytest.fixture
def controller(lab: Lab) -> Iterator[Controller]:
    """The artefact of this tree, installed beside the ansible-core that this tree names."""
    # In a short path: sockets of SSH lie in it.
    with tempfile.TemporaryDirectory(prefix="ew-") as name:
        home = Path(name)
        made = Controller(home)
        subprocess.run(["/usr/bin/python3", "-m", "venv", home / "venv"], check=True)
        made.run("pip", "install", "--quiet", "--disable-pip-version-check", *declared(lab.root))
        made.run("ansible-galaxy", "collection", "build", "--output-path", str(home), str(lab.root))
        (artefact,) = home.glob("*.tar.gz")
        made.run("ansible-galaxy", "collection", "install", "--offline", "-p", str(home / "collections"), str(artefact))
        # Without what runs from the checkout have left in it.
        kept = shutil.ignore_patterns("edgewire_public_keys.yml", "edgewire_drained.yml", ".edgewire")
        shutil.copytree(lab.root / "inventories/lab", home / "inventory", ignore=kept)
        yield made


def declared(root: Path) -> list[str]:
    """pip's arguments: ansible-core in the version that the tests have, and the Python that the artefact declares."""
    core = re.search(r"^ansible-core==.*$", (root / "requirements-dev.txt").read_text(), re.M)
    assert core
    python = yaml.safe_load((root / "meta/execution-environment.yml").read_text())["dependencies"].get("python")
    return [core[0], *(("-r", str(root / python)) if python else ())]


def test_the_artefact_rolls_out_the_fleet(lab: Lab, controller: Controller) -> None:
    lab.switch("edge1")
    controller.playbook("teardown")
    assert answer(lab) == ""

    first = controller.playbook("site")
    assert set(recap(first)) >= set(FLEET)
    assert changed_tasks(first)
    assert answer(lab) == "198.18.0.80"

    second = recap(controller.playbook("site"))
    assert {host: second[host]["changed"] for host in FLEET} == dict.fromkeys(FLEET, 0)
    controller.playbook("verify")
