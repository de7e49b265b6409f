# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one hash from which names become numbers; changing it renumbers every fleet."""

from __future__ import annotations

import hashlib


def stable_hash(*parts: str | int) -> int:
    """64 bits of SHA-256 over the parts, the same on every machine and in every process.

    The parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return int.from_bytes(digest.digest()[:8], "big")
