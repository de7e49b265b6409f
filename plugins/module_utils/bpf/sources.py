# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the files in ``bpf/`` to the one text that is compiled, and the identity of what comes out.

bcc rewrites map accesses only in the main file, so our own headers are put in place of their ``#include`` lines.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, schema
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

_INCLUDE = re.compile(r'^#include "([\w./]+)"$')

# -O2 is bcc's own; these are what a reader of a compiler message wants besides.
BASE_FLAGS = ("-Wall", "-Wno-unused-function")


def flatten(read: Callable[[str], str], name: str) -> str:
    """The text of ``name`` with every ``#include "…"`` replaced by that file's text, once.

    ``read`` returns the text of a file of ``bpf/`` by name. ``#line`` keeps compiler messages pointing at the files.
    """
    seen: set[str] = set()

    def expand(current: str) -> list[str]:
        seen.add(current)
        lines = [f'#line 1 "{current}"']
        for number, line in enumerate(read(current).splitlines(), 1):
            match = _INCLUDE.match(line)
            if not match:
                lines.append(line)
            elif match[1] not in seen:
                lines += [*expand(match[1]), f'#line {number + 1} "{current}"']
        return lines

    return "\n".join(expand(name)) + "\n"


def source_of(role: str, read: Callable[[str], str]) -> str:
    """The whole text that is compiled for a role: its program file, and the layout assertions."""
    if role not in layout.MAPS:
        raise EdgewireError(f"no BPF programs for the role {role!r}")
    return flatten(read, f"{role}.c") + '#line 1 "layout.py"\n' + layout.assertions(role)


def flags_of(capacity: layout.Capacity) -> list[str]:
    """The compiler flags, capacities included."""
    return [*BASE_FLAGS, *capacity.flags()]


def identity_of(role: str, source: str, flags: Sequence[str]) -> bytes:
    """SHA-256 over source, flags and map schema: 32 bytes that say what a loaded program is."""
    text = json.dumps([role, source, list(flags), schema.schema_hash(role).hex()])
    return hashlib.sha256(text.encode()).digest()
