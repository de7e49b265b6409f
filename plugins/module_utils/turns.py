# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking turns: whoever looks at a box and then changes it holds the box's lock meanwhile."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

# Whoever changes this box holds this file; the kernel lets go of it with the process, however that ends.
LOCK = "/run/edgewire.lock"
LOCK_SECONDS = 120.0  # compiling, the longest that is done under it, takes a few


@contextmanager
def turn() -> Iterator[None]:
    """Wait for this box's lock and hold it; EdgewireError if somebody does not let go of it."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:  # not root: what comes says so in its own words, and changes nothing
            yield
            return
        try:
            while not _locked(handle):
                if time.monotonic() > deadline:
                    raise EdgewireError(
                        f"{LOCK}: another run has been changing this host for {LOCK_SECONDS:.0f} s; nothing was done."
                        f" Run again when that has ended; fuser {LOCK} names its process"
                    )
                time.sleep(0.1)
            if _is_there(handle):
                yield
                return
        finally:
            os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(handle: int) -> bool:
    """Whether others will find this very file: a teardown removes it, maybe while we wait."""
    try:
        return os.path.samestat(os.fstat(handle), Path(LOCK).stat())
    except FileNotFoundError:
        return False
