# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Leaving nothing behind, whatever state the lab is in: whole, half-built, torn down already, or only its leftovers."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from . import boxes, cgroups, image, mounts, network, processes
from .shell import LabError, run
from .topology import PREFIX


def remove(state: Path, controller_interface: str, purge: Path | None) -> list[str]:
    """Remove everything, asking the machine what there is, not a record of what was made. Returns what was removed."""
    did: list[str] = []
    _close_connections(state)
    spaces = sorted(network.NETNS_DIRECTORY.glob(f"{PREFIX}*")) if network.NETNS_DIRECTORY.is_dir() else []
    # Twice: whoever was just being started when we looked is there now.
    for _ in range(2):
        if pids := [*processes.all_of(state, spaces), *cgroups.members()]:
            processes.kill(pids)
            did.append(f"{len(set(pids))} processes")
    _remove_nspawn_leftovers(state)
    if mounts.unmount(state):
        did.append("mounts")
    for space in spaces:
        if network.remove_netns(space.name):
            did.append(f"namespace {space.name}")
    if network.remove_controller(controller_interface):
        did.append(f"interface {controller_interface}")
    if cgroups.remove():
        did.append("control groups")
    if state.exists():
        # mounts.unmount has made sure that nothing is mounted here any more.
        shutil.rmtree(state)
        did.append(str(state))
    if purge is not None and purge.exists():
        did += _purge(purge)
    return did


def _remove_nspawn_leftovers(state: Path) -> None:
    """nspawn keeps a lock file per disk (named after device and inode) and a directory per machine, for good."""
    for root in (state / "boxes").glob("*/root"):
        boxes.unlock_disk(root)
    for directory in (boxes.NSPAWN / "propagate").glob(f"{PREFIX}*"):
        mounts.unmount(directory)
        with suppress(OSError):
            directory.rmdir()
    for directory in (boxes.NSPAWN / "locks", boxes.NSPAWN / "propagate", boxes.NSPAWN):
        # Succeeds where nobody else uses nspawn.
        with suppress(OSError):
            directory.rmdir()


def _close_connections(state: Path) -> None:
    """Ansible's SSH connections outlive a run by a while; the next lab has other keys at the same addresses."""
    for path in (state / "ssh/cp").glob("*"):
        run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", "lab"], check=False)


def _purge(cache: Path) -> list[str]:
    did = []
    for entry in image.stored(cache):
        # An interrupted mmdebstrap leaves /proc and /sys mounted in it.
        mounts.unmount(entry)
        shutil.rmtree(entry)
        did.append(str(entry))
    with suppress(OSError):
        cache.rmdir()
    if cache.exists():
        raise LabError(f"{cache} holds files that are not the lab's; they were left alone")
    return did
