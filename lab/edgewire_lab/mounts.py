# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts below the state directory: overlays and BPF file systems."""

from __future__ import annotations

from pathlib import Path

from .shell import LabError, run


def below(directory: Path) -> list[Path]:
    """Mount points in and at the directory, the last mounted first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Blanks and the like are written as octal escapes.
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point == directory or directory in point.parents:
            found.append(point)
    return found[::-1]


def unmount(directory: Path) -> bool:
    """Unmount everything in and at the directory."""
    points = below(directory)
    for point in points:
        if run(["umount", point], check=False).returncode != 0:
            # Somebody's shell stands in it. It loses its mount when that shell leaves.
            run(["umount", "--lazy", point], check=False)
    if left := below(directory):
        raise LabError(f"these mounts do not go away: {' '.join(map(str, left))}")
    return bool(points)


def mount_overlay(lower: Path, upper: Path, work: Path, target: Path) -> None:
    for path in (upper, work, target):
        path.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "overlay", "edgewire-lab", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target])


def mount_bpffs(target: Path) -> None:
    """A BPF file system that is this target's alone: each mount is a new one."""
    target.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "bpf", "-o", "mode=700", "edgewire-lab", target])
