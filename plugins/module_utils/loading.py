# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of this collection's own modules, wherever they were loaded from: files, Ansible's archive, or ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def module_source(loader: Any, name: str) -> str | None:
    """A module's source; None where its loader cannot tell.

    Python's own loaders have a str (``importlib.abc.InspectLoader.get_source``), Ansible's on a controller has bytes.
    """
    get_source: Callable[[str], str | bytes | None] | None = getattr(loader, "get_source", None)
    source = get_source(name) if get_source else None
    return source.decode() if isinstance(source, bytes) else source
