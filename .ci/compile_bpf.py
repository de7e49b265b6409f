#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile bpf/ as a box does, with every warning on, and fail where one is about our own files.

bcc brings its own clang (Debian 12: 14) and rewrites map accesses, so it is bcc that compiles. -Werror would stop at
the kernel's headers, which are not free of warnings: what the compiler says is read instead.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile

import bcc
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, sources
from ansible_collections.edgewire.fleet.plugins.plugin_utils import bpf_sources

# bcc declares helpers and map functions that only read with pointers to what could be changed.
FLAGS = ("-Wall", "-Wextra", "-Wno-incompatible-pointer-types-discards-qualifiers")
DIAGNOSTIC = re.compile(r"^(\S+):\d+:\d+: (?:warning|error|fatal error): ")


def messages_of(role: str) -> list[str]:
    """What the compiler says about our files when it compiles a role's programs, one entry a line of its output."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        failure = ""
        try:
            text = bpf_sources.source_of(role).encode()
            bcc.BPF(text=text, cflags=[*sources.flags_of(layout.Capacity()), *FLAGS]).cleanup()
        except Exception as exc:  # bcc raises bare Exception
            failure = f"{role}: {exc}"
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        lines = file.read().decode(errors="replace").splitlines()
    found = []
    ours = False
    for line in lines:
        match = DIAGNOSTIC.match(line)
        if match:
            ours = not match[1].startswith(("include/", "arch/", "/"))
        if ours and not line.endswith(" generated."):
            found.append(line)
    return [*found, failure] if failure else found


def main() -> int:
    """Exit status: 0 if nothing was said."""
    said = {role: messages_of(role) for role in layout.MAPS}
    for role, lines in said.items():
        for line in lines:
            print(f"{role}: {line}")
    return int(any(said.values()))


if __name__ == "__main__":
    sys.exit(main())
