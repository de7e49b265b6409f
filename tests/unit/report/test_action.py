# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action in a real run: one page for all hosts, those without a verdict included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
INVENTORY = """
[edgewire_edges]
edge1
[edgewire_workers]
worker1
worker2
[edgewire:children]
edgewire_edges
edgewire_workers
"""
PLAY = """
- hosts: edgewire
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        edgewire_verdict: {drifts: [], layers: [], peers: [], services: []}
      when: inventory_hostname != "worker2"
    - edgewire.fleet.fleet_report:
        dest: "{{ page or omit }}"
        plan: abc
"""


def test_all_hosts_are_on_one_page(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(INVENTORY)
    (tmp_path / "play.yml").write_text(PLAY)
    dest = tmp_path / "fleet.html"
    tool = Path(sys.executable).with_name("ansible-playbook")
    command = [tool, "-i", tmp_path / "hosts", tmp_path / "play.yml", "-e", json.dumps({"page": str(dest)})]
    checked = subprocess.run([*command, "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert not dest.exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    page = dest.read_text()
    assert "2 of 3 hosts as planned, 1 host not reached" in page
    assert all(name in page for name in ("edge1", "worker1", "worker2"))
    assert "changed=0" in done.stdout
    bare = subprocess.run([*command, "-e", "page="], cwd=ROOT, capture_output=True, text=True, check=False)
    assert bare.returncode == 0, bare.stdout
    assert "worker2  -       -       -   -      -      -        -       no answer" in bare.stdout
