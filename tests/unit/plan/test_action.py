# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``fleet_plan`` as Ansible runs it: the whole fleet under --limit, check mode, bad input, the
example.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

ROOT = Path(__file__).parents[3]
PLAYBOOK = """
- hosts: edgewire
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        edgewire_key: {public_key: "{{ test_keys[inventory_hostname] }}"}
      when: inventory_hostname in test_keys
      check_mode: false
    - edgewire.fleet.fleet_plan:
      run_once: true
      register: fleet_plan
    - ansible.builtin.copy:
        content: "{{ fleet_plan | to_json }}"
        dest: "{{ test_result }}"
      run_once: true
      check_mode: false
    - ansible.builtin.set_fact:
        mine: >-
          {{ lookup('edgewire.fleet.plan', inventory_hostname, plan_dir=fleet_plan.plan_dir,
                    fleet_hash=fleet_plan.fleet_hash) }}
    - ansible.builtin.assert:
        that: mine.host == inventory_hostname
"""


class Controller:
    """An inventory directory of its own, and ansible-playbook over it with local connections."""

    def __init__(self, place: Path, fleet: dict[str, Any], keys: dict[str, str]) -> None:
        self.inventory = place / "inventory"
        self.plans = self.inventory / ".edgewire" / "plans"
        self.registry = self.inventory / "group_vars" / "all" / "edgewire_public_keys.yml"
        self.keys = keys
        self._place = place
        self._playbook = place / "play.yml"
        self._playbook.write_text(PLAYBOOK)
        self.registry.parent.mkdir(parents=True)
        self.write(fleet)

    def write(self, fleet: dict[str, Any]) -> None:
        """Write the planner's inventory the way a user writes it for Ansible."""
        for host in fleet["hosts"].values():
            if "ansible_host" in host:
                host["edgewire_endpoint_address"] = host.pop("ansible_host")
        groups = {
            group: {"hosts": {name: fleet["hosts"][name] for name in members}}
            for group, members in fleet["groups"].items()
        }
        tree = {"all": {"children": {"edgewire": {"children": groups}}}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(tree))
        shared = {
            **fleet["vars"],
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }
        (self.registry.parent / "main.yml").write_text(yaml.safe_dump(shared))

    def run(self, *arguments: str) -> tuple[int, str, dict[str, Any]]:
        """Exit status, output, and the result of fleet_plan."""
        result = self._place / "result.json"
        result.unlink(missing_ok=True)
        extra = json.dumps({"test_keys": self.keys, "test_result": str(result)})
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", str(self.inventory), str(self._playbook), "-e", extra, *arguments),
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORKS": "4"},
            capture_output=True,
            text=True,
            check=False,
        )
        values = json.loads(result.read_text()) if result.exists() else {}
        return done.returncode, done.stdout + done.stderr, values

    def files(self) -> dict[str, bytes]:
        """Every file in the inventory directory."""
        return {
            str(path.relative_to(self.inventory)): path.read_bytes()
            for path in sorted(self.inventory.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def controller(tmp_path: Path, make_fleet: Callable[..., Any], key_of: Callable[[str], str]) -> Controller:
    fleet = make_fleet()
    # Through Jinja, nested, as a user may write it.
    fleet["vars"]["dns_container"] = "10.88.0.53"
    fleet["vars"]["edgewire_services"][0]["backends"][0]["address"] = "{{ dns_container }}"
    fleet["vars"]["edgewire_wireguard_mtu"] = "{{ 1400 + 10 }}"
    return Controller(tmp_path, fleet, {name: key_of(name) for name in fleet["hosts"]})


def test_limit_plans_the_whole_fleet_and_keeps_every_peer(controller: Controller) -> None:
    status, output, result = controller.run()
    assert status == 0, output
    assert result["changed"] is False
    assert (result["hosts"], result["edges"], result["workers"], result["services"]) == (4, 2, 2, 1)
    assert (result["registry_changed"], result["missing_keys"]) == (True, [])
    assert result["plan_dir"] == str(controller.plans)
    before = controller.files()
    plan = json.loads(before[".edgewire/plans/edge1.json"])
    assert plan["wireguard"]["mtu"] == 1410
    assert [peer["name"] for peer in plan["wireguard"]["peers"]] == ["worker1", "worker2"]

    # A second run reads the inventory directory with the plans and the registry in it.
    status, output, result = controller.run("--limit", "edge1")
    assert status == 0, output
    assert "WARNING" not in output
    assert (result["hosts"], result["written"], result["registry_changed"]) == (4, 0, False)
    assert controller.files() == before


def test_limit_before_the_others_have_keys(controller: Controller) -> None:
    status, output, result = controller.run("--limit", "edge1:worker1")
    assert status == 0, output
    assert result["missing_keys"] == ["edge2", "worker2"]
    assert "no public key is known for edge2, worker2" in output
    assert result["hosts"] == 4


def test_check_mode_writes_beside_and_predicts(controller: Controller) -> None:
    del controller.keys["worker2"]
    before = controller.files()
    status, output, result = controller.run("--check")
    assert status == 0, output
    assert result["plan_dir"] == f"{controller.plans}-check"
    assert result["registry_changed"]
    after = controller.files()
    beside = (".edgewire/plans-check/", ".edgewire/.gitignore")
    assert {name: data for name, data in after.items() if not name.startswith(beside)} == before
    plan = json.loads(after[".edgewire/plans-check/edge1.json"])
    assert plan["wireguard"]["peers"][1]["public_key"] is None


def test_bad_input_is_one_message_and_nothing_is_written(
    controller: Controller, make_fleet: Callable[..., Any]
) -> None:
    fleet = make_fleet()
    fleet["hosts"]["edge2"]["edgewire_id"] = 1
    fleet["hosts"]["edge1"]["edgewire_uplink"] = "{{ no_such_variable }}"
    fleet["hosts"]["worker1"]["edgewire_relay_ipv4"] = "10.0.0.0/11"
    fleet["hosts"]["worker1"]["edgewire_services"] = []
    fleet["vars"]["edgewire_services"][0]["backends"][0]["worker"] = "worker9"
    controller.write(fleet)
    before = controller.files()
    status, output, result = controller.run()
    assert status == 2
    assert result == {}
    assert controller.files() == before
    flat = " ".join(output.split())
    assert "5 problems in the inventory; nothing was changed:" in flat
    for complaint in (
        "edge1, edge2: edgewire_id: id 1, and so every overlay",
        "edge1: edgewire_uplink: cannot be templated",
        "edge1, edge2, worker2: edgewire_relay_ipv4: set for other hosts only",
        "worker1: edgewire_services: differs from the fleet's",
        "'worker9' is not a host in group edgewire_workers",
    ):
        assert complaint in flat


def test_the_example_inventory_is_valid(tmp_path: Path) -> None:
    inventory = tmp_path / "example"
    shutil.copytree(ROOT / "inventories" / "example", inventory)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            *("-i", str(inventory), "ams-edge1", "-m", "edgewire.fleet.fleet_plan"),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((inventory / ".edgewire" / "plans" / "manifest.json").read_text())
    assert len(manifest["hosts"]) == 12


def _vaulted(place: Path, secret: str) -> str:
    """The secret as ``ansible-vault encrypt_string`` writes it; the password lies in ``place``/password."""
    password = place / "password"
    password.write_text("open sesame\n")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-vault")),
            *("encrypt_string", "--vault-password-file", str(password), "--stdin-name", "edgewire_preshared_secret"),
        ],
        input=secret,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_preshared_secret_is_seen_but_never_kept(controller: Controller, tmp_path: Path) -> None:
    secret = "kept in a vault and known to nobody else"
    variables = controller.registry.with_name("vault.yml")
    variables.write_text(_vaulted(tmp_path, secret))
    password = ("--vault-password-file", str(tmp_path / "password"), "-vvv", "--diff")
    status, output, _ = controller.run(*password)
    assert status == 0, output
    plan = json.loads((controller.plans / "edge1.json").read_text())
    assert [peer["preshared"] for peer in plan["wireguard"]["peers"]] == [True, True]
    assert secret not in output
    assert not any(secret.encode() in content for content in controller.files().values())

    # With Jinja between, and too short: told without being shown.
    variables.write_text('the_vaults: "sh0rt and secret"\nedgewire_preshared_secret: "{{ the_vaults }}"\n')
    status, output, _ = controller.run("-vvv", "--diff")
    assert status != 0
    assert "must be a text of 32 characters or more" in output
    assert "sh0rt and secret" not in output

    # One host with another secret could not talk to the rest.
    variables.write_text(f'edgewire_preshared_secret: "{secret}"\n')
    own = controller.inventory / "host_vars" / "worker2.yml"
    own.parent.mkdir()
    own.write_text('edgewire_preshared_secret: "another secret, which is long enough as well"\n')
    status, output, _ = controller.run("-vvv", "--diff")
    assert status != 0
    assert "worker2: edgewire_preshared_secret: differs from that of edge1" in output.replace("\\n", "\n")
    assert secret not in output
    assert "another secret" not in output

    own.unlink()
    variables.unlink()
    assert controller.run()[0] == 0
    plan = json.loads((controller.plans / "edge1.json").read_text())
    assert [peer["preshared"] for peer in plan["wireguard"]["peers"]] == [False, False]
