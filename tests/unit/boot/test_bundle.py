# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that restores a box: the same bytes wherever it is put together, and it runs by itself."""

from __future__ import annotations

import ast
import hashlib
import io
import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.boot import bundle
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics import textfile

COLLECTIONS = Path(__file__).resolve().parents[3] / ".collections"
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def packed() -> bytes:
    return bundle.archive()


def python(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the distribution's Python, as boxes do, with nothing but what is given."""
    environment = {} if path is None else {"PYTHONPATH": str(path)}
    return subprocess.run(
        [SYSTEM_PYTHON, *arguments], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )


def test_it_holds_what_it_needs_and_nothing_of_ansible(packed: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        text = b"".join(archive.read(name) for name in names)
    assert names == sorted(names)
    for module in ("bpf/compiler", "wireguard/userspace", "routes/rtnetlink", "turns"):
        assert f"ansible_collections/edgewire/fleet/plugins/module_utils/{module}.py" in names
    assert b"ansible.module_utils" not in text


def test_imports_are_found_as_python_finds_them() -> None:
    modules = sorted((COLLECTIONS / "ansible_collections/edgewire/fleet/plugins/module_utils").rglob("*.py"))
    for source in [path.read_text() for path in modules]:
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
        theirs = [(n.module, [a.name for a in n.names]) for n in nodes if (n.module or "").startswith(bundle.ROOT)]
        assert sorted(bundle.imports_in(source)) == sorted(theirs)
        assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import) and "edgewire" in ast.dump(n)]
    assert len(modules) > 80


def test_an_archive_of_modules_puts_together_the_same(packed: bytes, tmp_path: Path) -> None:
    """As under Ansible, which runs a module from an archive of what it imports."""
    carrier = tmp_path / "carrier.zip"
    source = COLLECTIONS / "ansible_collections/edgewire/fleet/plugins/module_utils"
    with zipfile.ZipFile(carrier, "w") as target:
        for name in zipfile.ZipFile(io.BytesIO(packed)).namelist():
            if name.endswith("__init__.py"):
                target.writestr(name, "")
        for path in sorted(source.rglob("*.py")):
            target.write(path, f"ansible_collections/edgewire/fleet/plugins/module_utils/{path.relative_to(source)}")
    code = f"""
import hashlib
from {bundle.__name__} import archive
print(hashlib.sha256(archive()).hexdigest())
"""
    done = python("-c", code, path=carrier)
    assert done.stdout.strip() == hashlib.sha256(packed).hexdigest(), done.stderr


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (None, "No such file or directory"),
        ("{", "damaged"),
        ('{"plan_file": "/nonexistent/plan.json"}', "/nonexistent/plan.json: No such file or directory"),
        ('{"plan_file": "PLAN"}', "the plan is damaged: KeyError 'wireguard'"),
    ],
)
def test_what_it_cannot_restore_it_says(packed: bytes, tmp_path: Path, settings: str | None, complaint: str) -> None:
    program, path = tmp_path / "restore.pyz", tmp_path / "settings.json"
    program.write_bytes(packed)
    (tmp_path / "plan.json").write_text("{}")
    if settings is not None:
        path.write_text(settings.replace("PLAN", str(tmp_path / "plan.json")))
    done = python(str(program), str(path))
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "this box is not serving" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("damage", ["whole", "a bit", "cut off", "empty", "gone"])
def test_a_unit_says_of_a_damaged_program_what_to_do(packed: bytes, tmp_path: Path, damage: str) -> None:
    program = tmp_path / "restore.pyz"
    flipped = packed[:5000] + bytes([packed[5000] ^ 1]) + packed[5001:]
    content = {"whole": packed, "a bit": flipped, "cut off": packed[:-1], "empty": b""}.get(damage)
    if content is not None:
        program.write_bytes(content)
    key, _, line = bundle.check_line(program, packed, "this box is not serving").partition("=")
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=False)
    assert (key, done.stdout) == ("ExecStartPre", "")
    mend = "run the playbook edgewire.fleet.site for this host"
    complaint = f"edgewire: this box is not serving: {program} is damaged or missing; {mend}\n"
    assert (done.returncode, done.stderr) == ((0, "") if damage == "whole" else (1, complaint))


def test_the_program_that_measures_names_what_is_wrong(tmp_path: Path) -> None:
    """It starts, and gets as far as this box lets it: here is no directory to write to."""
    program = tmp_path / "metrics.pyz"
    program.write_bytes(bundle.archive(textfile))
    assert len(program.read_bytes()) < len(bundle.archive())
    done = python(str(program), str(tmp_path / "edgewire.txt"))
    assert done.returncode == 1
    assert "only files that end in .prom" in done.stderr
