# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_if_changed(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> bool:
    """Replace the file's content in one step unless it is ``data`` already; whether it was replaced.

    ``mode`` is the new file's, whatever the umask is. ``durable``: on disk before the old content is gone (for what
    cannot be computed again). Raises OSError, which names the file.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    try:
        _replace(path, data, mode, durable)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    return True


def _replace(path: Path, data: bytes, mode: int, durable: bool) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
