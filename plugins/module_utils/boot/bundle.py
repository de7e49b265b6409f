# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that a box runs with no controller around: archives of this collection's own modules, for Python to run as
they are.

An archive holds what its entry imports, found by reading the imports and not by running them, so that a module under
Ansible, a test and the archive itself all put together the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import re
import zipfile
from pathlib import Path
from types import ModuleType

# Ansible hands a module what it imports, so what the archive is made of has to be among that.
from ansible_collections.edgewire.fleet.plugins.module_utils.boot import restore
from ansible_collections.edgewire.fleet.plugins.module_utils.loading import module_source

ROOT = "ansible_collections.edgewire.fleet.plugins.module_utils"
# One import statement, in functions too. A parser would take most of the time that there is to put an archive together;
# a test holds the two against each other.
_IMPORT = re.compile(rf"^[ \t]*from ({re.escape(ROOT)}[\w.]*) import (\([^)]*\)|[^\n(]+)", re.MULTILINE)
_MAIN = "import sys\n\nfrom {} import main\n\nsys.exit(main())\n"
# A ZIP archive cannot say "no time"; this is the earliest that it can.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def archive(entry: ModuleType = restore) -> bytes:
    """An archive that runs the entry's ``main``; the same bytes for the same version of this collection."""
    files = {"__main__.py": _MAIN.format(entry.__name__)}
    for name, source in _closure(entry.__name__).items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            files.setdefault("/".join(parts[:depth]) + "/__init__.py", "")
        files["/".join(parts) + ".py"] = source
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(files):
            target.writestr(zipfile.ZipInfo(path, _NO_TIME), files[path])
    return packed.getvalue()


def check_line(program: Path, content: bytes, told: str) -> str:
    """A unit's line that fails it, with a sentence in the journal, where the program is not what was written there.

    Python would say of a damaged archive only that it has no ``__main__``. ``told`` is what that means for the box.
    """
    digest = hashlib.sha256(content).hexdigest()
    mend = "run the playbook edgewire.fleet.site for this host"
    complaint = f"edgewire: {told}: {program} is damaged or missing; {mend}"
    test = f'echo "{digest}  {program}" | sha256sum --check --status 2>/dev/null'
    return f"ExecStartPre=/bin/sh -c '{test} || {{ echo \"{complaint}\" >&2; exit 1; }}'"


def _closure(entry: str) -> dict[str, str]:
    """Sources by module name: the entry, and whatever of this collection's it leads to."""
    found: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        source = None if name in found else _source(name)
        if source is None:
            continue
        found[name] = source
        for origin, names in imports_in(source):
            # ``from a import b`` means the module a.b where a is a package, and something in the module a otherwise.
            waiting += [origin] if _source(origin) is not None else [f"{origin}.{name}" for name in names]
    return found


@functools.cache  # the archives of a box have most of their modules in common
def _source(name: str) -> str | None:
    """A module's source; None where the name is of a package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is not None:
        return None
    return module_source(spec.loader, name)


def imports_in(source: str) -> list[tuple[str, list[str]]]:
    """What a source imports of this collection: from where, and which names."""
    found = []
    for origin, listed in _IMPORT.findall(source):
        names = re.sub(r"#.*", "", listed).strip("()").split(",")
        found.append((origin, [name.split()[0] for name in names if name.strip()]))
    return found
