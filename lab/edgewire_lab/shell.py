# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running other programs, saying how far we are, and the one error that a person gets to read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_STARTED = time.monotonic()


class LabError(Exception):
    """Something that the person at the keyboard can act on; printed without a traceback."""


def run(
    command: Sequence[str | Path], *, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it prints. With check, a failure is a LabError that quotes it."""
    words = [str(word) for word in command]
    try:
        result = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed") from error
    if check and result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise LabError(f"{' '.join(words)} ended with {result.returncode}: {said}")
    return result


def inside(netns: str, command: Sequence[str | Path]) -> list[str]:
    """The command, run in a network namespace. Not `ip netns exec`: that remounts /sys and so hides bpffs."""
    return ["nsenter", f"--net=/run/netns/{netns}", *(str(word) for word in command)]


def progress(text: str) -> None:
    """One line for the person who waits.

    Ansible shows nothing of a running task, so the line goes past it, to the file that EDGEWIRE_LAB_PROGRESS names (the
    Makefile names its own standard error).
    """
    target = os.environ.get("EDGEWIRE_LAB_PROGRESS")
    if not target:
        return
    try:
        with Path(target).open("a") as stream:
            stream.write(f"  lab {time.monotonic() - _STARTED:5.1f} s: {text}\n")
    except OSError:
        # Whoever wanted to read is gone; that is no reason to stop.
        sys.stderr.write(f"{text}\n")
