# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on the controller: written whole or not at all, and only when their bytes change."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import HostPlan
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import (
    PART,
    Renderer,
    digest,
    render_manifest,
)

MANIFEST = "manifest.json"
PARTS = "parts"  # the directory of what plans share, beside them


@dataclass(frozen=True)
class Written:
    """What ``write_plans`` did: numbers of files, the fleet's hash, host → hash of its plan."""

    total: int
    written: int
    removed: int
    fleet_hash: str
    hashes: dict[str, str]


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


def write_plans(directory: Path, plans: Sequence[HostPlan]) -> Written:
    """Write the parts, one ``HOST.json`` each and then ``manifest.json``; remove the plans of hosts
    that are gone, and parts that no plan has any more.

    Only plans that the manifest in the directory lists are removed: the directory may hold other
    things. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = _listed(directory / MANIFEST)
    renderer = Renderer(plans)
    hashes: dict[str, str] = {}
    written = 0
    parts = _Parts(directory / PARTS)
    for plan in plans:
        data = renderer.render(plan)
        hashes[plan.host] = digest(data)
        parts.write(renderer.parts)
        written += write_if_changed(directory / f"{plan.host}.json", data)
    removed = 0
    for name in sorted(before - set(hashes)):
        path = directory / f"{name}.json"
        if path.is_file():
            path.unlink()
            removed += 1
    manifest, fleet_hash = render_manifest(hashes)
    write_if_changed(directory / MANIFEST, manifest)
    parts.keep_only(renderer.parts)
    return Written(len(hashes), written, removed, fleet_hash, hashes)


def load_plan(directory: Path, host: str, fleet_hash: str | None = None) -> dict[str, Any]:
    """The host's whole plan, its parts put in, as ``HostPlan.to_dict`` gives it.

    Every file must be the one that the manifest means, and the manifest that of ``fleet_hash`` where
    that is given; otherwise another session has planned since, or somebody has changed a file, and
    EdgewireError says so.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        if fleet_hash is not None and manifest["fleet"] != fleet_hash:
            raise EdgewireError(f"{directory}: the fleet has been planned anew since this run planned it: run again")
        wanted = manifest["hosts"].get(host)
        if wanted is None:
            raise EdgewireError(f"{directory}: there is no plan of {host}")
        data = _read(directory / f"{host}.json", wanted)
        return joined(data, lambda part: _part(directory / PARTS / f"{part}.json", part))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise EdgewireError(f"{directory}: the plan of {host} cannot be read, plan again: {error}") from None


def joined(data: bytes, part_of: Callable[[str], Any]) -> dict[str, Any]:
    """A plan's file as data, with what ``part_of`` gives for the hash of each part in its place."""
    plan: dict[str, Any] = json.loads(data)
    for section in plan.values():
        for field, value in section.items() if isinstance(section, dict) else ():
            if isinstance(value, dict) and value.keys() == {PART}:
                section[field] = part_of(value[PART])
    return plan


def _read(path: Path, wanted: str) -> bytes:
    data = path.read_bytes()
    if digest(data) != wanted:
        raise EdgewireError(f"{path}: not what the manifest beside it means; it is older, or was changed: plan again")
    return data


@functools.lru_cache(maxsize=8)
def _part(path: Path, name: str) -> Any:
    """A part's content; of one name there is one content."""
    return json.loads(_read(path, name))


class _Parts:
    """The directory of parts; a part is on disk before the first plan that has it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: set[str] = set()

    def write(self, parts: Mapping[str, bytes]) -> None:
        """Write those that were not written yet."""
        if len(parts) == len(self._written):
            return
        self._directory.mkdir(exist_ok=True)
        for name in parts.keys() - self._written:
            write_if_changed(self._directory / f"{name}.json", parts[name])
            self._written.add(name)

    def keep_only(self, parts: Mapping[str, bytes]) -> None:
        """Remove all others; nothing but parts lies in this directory."""
        for path in self._directory.glob("*.json"):
            if path.stem not in parts:
                path.unlink(missing_ok=True)


def _listed(manifest: Path) -> set[str]:
    """The hosts that the manifest lists; none if it is missing or not ours."""
    try:
        hosts = json.loads(manifest.read_bytes())["hosts"]
        return {name for name in hosts if isinstance(name, str) and "/" not in name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
