# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a fixture. A lab that is up is used as it is; one that is not is raised."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK_SECONDS = 600


@dataclass(frozen=True)
class Lab:
    root: Path
    # Whether it was raised for these tests, and nobody minds when it goes.
    is_ours: bool

    def run(
        self, box: str, *command: str, check: bool = True, input: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a box, or in the router."""
        return self._call([str(self.root / "lab/run"), box, *command], check, timeout, input)

    def pid(self, box: str) -> int:
        """The box's PID 1, as the host numbers it."""
        return int(self._call([str(self.root / "lab/run"), "--pid", box], True, 10).stdout)

    def switch(self, *edges: str) -> None:
        """Let the router send the VIPs to these edges."""
        self._call([str(self.root / "lab/switch"), *edges], True, 10)

    def playbook(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection against the lab; name it as a user would: edgewire.fleet.site."""
        command = [str(self.root / ".venv/bin/ansible-playbook"), "-i", "inventories/lab", name, *arguments]
        return self._call(command, check, PLAYBOOK_SECONDS)

    def ansible(self, hosts: str, module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one module on hosts of the lab."""
        command = [str(self.root / ".venv/bin/ansible"), hosts, "-i", "inventories/lab", "-m", module, *arguments]
        return self._call(command, check, PLAYBOOK_SECONDS)

    def labctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the lab's own steps."""
        return self._call([str(self.root / "lab/labctl"), *arguments], check, PLAYBOOK_SECONDS)

    def _call(
        self, command: list[str], check: bool, timeout: float, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command,
            cwd=self.root,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            # The tests read what Ansible prints.
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
        )
        if check and result.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    found = Lab(ROOT, is_ours=not Path("/var/lib/edgewire-lab").exists())
    found.playbook("edgewire.fleet.lab_up")
    yield found
    if found.is_ours:
        found.playbook("edgewire.fleet.lab_down")


Variables = Callable[..., tuple[str, str]]


@pytest.fixture
def variables(lab: Lab, tmp_path: Path) -> Variables:
    """Arguments that change the dns service or other variables for one run: ``variables(change, name=value)``."""

    def made(change: Callable[[dict[str, Any]], None] | None = None, **more: Any) -> tuple[str, str]:
        inventory = yaml.safe_load((lab.root / "inventories/lab/group_vars/all/edgewire.yml").read_text())
        services = inventory["edgewire_services"]
        if change:
            change(next(service for service in services if service["name"] == "dns"))
        path = tmp_path / "variables.yml"
        path.write_text(yaml.safe_dump({"edgewire_services": services, **more}))
        return "-e", f"@{path}"

    return made


@pytest.fixture(scope="module")
def whole_fleet(lab: Lab) -> None:
    """Start from a fleet that is as planned, whatever ran before. Who comes after does the same."""
    drained = lab.root / "inventories/lab/group_vars/all/edgewire_drained.yml"
    lab.switch("edge1")
    drained.unlink(missing_ok=True)
    lab.playbook("edgewire.fleet.site")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What removes the lab comes after everything that needs it, in whatever file that is.
    items.sort(key=lambda item: item.name.startswith("test_lab_down"))
