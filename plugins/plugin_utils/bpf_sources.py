# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The BPF sources of this collection, read on the controller."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import sources

BPF_DIRECTORY = Path(__file__).resolve().parents[2] / "bpf"


def source_of(role: str) -> str:
    """The flattened source of a role's programs ("edge" or "worker") as this collection ships it."""
    return sources.source_of(role, lambda name: (BPF_DIRECTORY / name).read_text(encoding="utf-8"))
