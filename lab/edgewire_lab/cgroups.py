# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A control group for every box. Without one, machines that are started from one shell would share one group tree, and
their systemds would count each other's processes as their own services'. It also tells who belongs to a machine, which
nothing else does once its nspawn was killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUP = "edgewire-lab"


def enter(name: str) -> None:
    """Move this process into the box's group, in every hierarchy, version 1 or 2, that this machine has."""
    for hierarchy in _hierarchies():
        group = hierarchy / _GROUP / name
        # Hierarchies that refuse (a cpuset has no processors at first, others may be read-only) are not needed to boot.
        with suppress(OSError):
            group.mkdir(parents=True, exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))


def members(name: str = "") -> list[int]:
    """Everybody in a box's group and the groups that its systemd made in it; of all boxes where none is named."""
    found: dict[int, None] = {}
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(hierarchy / _GROUP / name):
            # A group may go while we look, and one with threads of its own does not list processes.
            with suppress(OSError):
                found.update(dict.fromkeys(map(int, (Path(directory) / "cgroup.procs").read_text().split())))
    # 0 stands for who is in no PID namespace that we see.
    return [pid for pid in found if pid]


def remove() -> bool:
    found = False
    for hierarchy in _hierarchies():
        top = hierarchy / _GROUP
        if not top.is_dir():
            continue
        found = True
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                Path(directory).rmdir()
    return found


def _hierarchies() -> Iterator[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            yield Path(before.split()[4])
