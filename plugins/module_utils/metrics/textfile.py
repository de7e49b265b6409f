# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A box's metrics as a file for node_exporter's textfile collector: what ``forwarder_metrics`` and the timer write."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import info, layout, statistics
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics.exposition import render
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics.families import families_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard


def _plan() -> Mapping[str, Any]:
    """The plan that the box was last given; empty where it has none."""
    with suppress(OSError, ValueError):
        plan = json.loads(info.PLAN_FILE.read_text())
        if isinstance(plan, dict):
            return plan
    return {}


def content() -> str:
    """The metrics of this box as they are now."""
    plan = _plan()
    told = {}
    for role in layout.MAPS:
        reading = statistics.read(role)
        if reading is not None or plan.get(role):
            told[role] = None if reading is None else statistics.tell(reading, every_reason=True)
    mesh = plan.get("wireguard") or {}
    observed = wireguard.observe(mesh["interface"]) if mesh else None
    peers = wireguard.describe_peers(observed, mesh.get("peers") or ())
    return render(families_of(told, peers, mesh.get("interface", "")))


def check_name(path: Path) -> None:
    """:raises EdgewireError: where node_exporter would not read a file of this name."""
    if path.suffix != ".prom":
        raise EdgewireError(f"{path}: node_exporter reads only files that end in .prom; call it edgewire.prom, for one")


def write(path: Path, check_mode: bool = False) -> bool:
    """Put the metrics into the file, in one step, readable for all; whether they differ from what was there.

    :raises EdgewireError: where the file cannot be written.
    """
    check_name(path)
    text = content().encode()
    try:
        if check_mode:
            return not path.exists() or path.read_bytes() != text
        return write_if_changed(path, text)
    except OSError as error:
        raise EdgewireError(
            f"{path}: {error.strerror}. Its directory must exist: it is the one that node_exporter is given as"
            " --collector.textfile.directory, on Debian /var/lib/prometheus/node-exporter"
        ) from None


def main(arguments: Sequence[str] = ()) -> int:
    """What the timer runs: write the file that is named, and return the exit status."""
    try:
        write(Path((arguments or sys.argv[1:])[0]))
    except EdgewireError as error:
        print(f"edgewire: no metrics were written: {error}", file=sys.stderr)
        return 1
    return 0
