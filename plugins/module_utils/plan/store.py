# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on the controller: written whole or not at all, and only when their bytes change."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import HostPlan
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import (
    Renderer,
    digest,
    render_manifest,
)

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Written:
    """What ``write_plans`` did: numbers of files, the fleet's hash, host → hash of its plan."""

    total: int
    written: int
    removed: int
    fleet_hash: str
    hashes: dict[str, str]


def write_if_changed(path: Path, data: bytes, *, durable: bool = False) -> bool:
    """Replace the file's content in one step unless it is ``data`` already; whether it was
    replaced.

    ``durable``: on disk before the old content is gone (for what cannot be computed again). Raises
    OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory (made if missing) against other processes that use this; waits for its
    turn. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # The directory itself is locked: a lock file in group_vars would be read as variables.
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_plans(directory: Path, plans: Iterable[HostPlan]) -> Written:
    """Write one ``HOST.json`` each and then ``manifest.json``; remove the plans of hosts that are
    gone.

    Only plans that the manifest in the directory lists are removed: the directory may hold other
    things. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = _listed(directory / MANIFEST)
    renderer = Renderer()
    hashes: dict[str, str] = {}
    written = 0
    for plan in plans:
        data = renderer.render(plan)
        hashes[plan.host] = digest(data)
        written += write_if_changed(directory / f"{plan.host}.json", data)
    removed = 0
    for name in sorted(before - set(hashes)):
        path = directory / f"{name}.json"
        if path.is_file():
            path.unlink()
            removed += 1
    manifest, fleet_hash = render_manifest(hashes)
    write_if_changed(directory / MANIFEST, manifest)
    return Written(len(hashes), written, removed, fleet_hash, hashes)


def _listed(manifest: Path) -> set[str]:
    """The hosts that the manifest lists; none if it is missing or not ours."""
    try:
        hosts = json.loads(manifest.read_bytes())["hosts"]
        return {name for name in hosts if isinstance(name, str) and "/" not in name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
