# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `ansible-galaxy collection build` packs: what users need, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.tests.unit.house.tree import ROOT, load

WANTED = re.compile(
    r"""
    MANIFEST\.json | FILES\.json | COPYING | README\.md | CHANGELOG\.md | bindep\.txt
    | bpf/\w+\.[ch]
    | changelogs/changelog\.yaml
    | docs/[\w/-]+\.(md|svg|png)
    | examples/[\w./-]+
    | inventories/example/(hosts\.yml | group_vars/all/edgewire\.yml)
    | meta/(runtime|execution-environment)\.yml | meta/ee-requirements\.txt
    | playbooks/\w+\.yml
    | plugins/\w+/([\w/]+/)?\w+\.(py|yml|html\.j2)
    | roles/\w+/(README\.md | (defaults|handlers|meta|tasks|vars)/\w+\.yml | (files|templates)/[\w.-]+)
    """,
    re.VERBOSE,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the artefact that is built from this tree."""
    directory = tmp_path_factory.mktemp("artefact")
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(galaxy), "collection", "build", "--output-path", str(directory), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {member.name for member in tar.getmembers() if not member.isdir()}


def test_nothing_else_is_in_it(packed: set[str]) -> None:
    assert sorted(name for name in packed if not WANTED.fullmatch(name)) == []
    assert not [name for name in packed if "lab" in Path(name).parts or "lab_" in name]


def test_all_that_runs_is_in_it(packed: set[str]) -> None:
    rooms = ("bpf/*.[ch]", "plugins/**/*.py", "roles/[!l]*/**/*.yml", "playbooks/[!l]*.yml", "meta/*", "docs/*.md")
    needed = {str(path.relative_to(ROOT)) for room in rooms for path in ROOT.glob(room) if path.is_file()}
    assert len(needed) > 100
    assert needed <= packed


def test_what_is_left_out_exists_or_is_made_here() -> None:
    """An entry that matches nothing is a leftover, or a name that was misspelt."""
    made = {".*", "*/.edgewire", "*/.mypy_cache", "*/__pycache__", "*.tar.gz", "extensions"}
    for pattern in load(ROOT / "galaxy.yml")["build_ignore"]:
        assert pattern in made or list(ROOT.glob(pattern)), pattern
