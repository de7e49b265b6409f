# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has a box write its metrics every so many seconds: the program, a service and its timer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import bundle
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics import textfile

UNIT = "edgewire-metrics.timer"
_UNITS = Path("etc/systemd/system")
TIMER = _UNITS / UNIT
SERVICE = _UNITS / "edgewire-metrics.service"
ENABLED = _UNITS / "timers.target.wants" / UNIT
PROGRAM = Path("var/lib/edgewire/boot/metrics.pyz")
# Which file is written, so that it can be removed with the timer: node_exporter would tell its last content for ever.
SETTINGS = Path("var/lib/edgewire/boot/metrics.json")

_SERVICE_TEXT = """\
# Made by edgewire.fleet.boot_unit.
[Unit]
Description=Write the counters of the edgewire fleet for Prometheus

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /{program} {file}
TimeoutStartSec=60
Nice=10
"""
_TIMER_TEXT = """\
# Made by edgewire.fleet.boot_unit.
[Unit]
Description=Write the counters of the edgewire fleet for Prometheus every {seconds} s

[Timer]
OnActiveSec=0
OnUnitActiveSec={seconds}
AccuracySec=1

[Install]
WantedBy=timers.target
"""

Wanted = Mapping[Path, tuple[bytes | None, int, str]]  # content, mode, and what to call the content


def wanted(metrics: Mapping[str, Any] | None, root: Path) -> Wanted:
    """The files of a timer that does what a plan's ``metrics`` say; without, that there are none."""
    file = metrics["file"] if metrics else None
    files: dict[Path, tuple[bytes | None, int, str]] = {}
    before = _written_before(root)
    if before and before != file:
        files[Path(before.lstrip("/"))] = (None, 0, "")
    if not metrics:
        return {**files, **dict.fromkeys((TIMER, SERVICE, PROGRAM, SETTINGS), (None, 0, ""))}
    service = _SERVICE_TEXT.format(program=PROGRAM, file=file)
    timer = _TIMER_TEXT.format(seconds=metrics["seconds"])
    return {
        **files,
        SETTINGS: ((json.dumps({"file": file}) + "\n").encode(), 0o644, "where metrics are written"),
        PROGRAM: (bundle.archive(textfile), 0o644, "the program of this version"),
        SERVICE: (service.encode(), 0o644, "the unit of this version"),
        TIMER: (timer.encode(), 0o644, "the unit of this version"),
    }


def _written_before(root: Path) -> str | None:
    try:
        file = json.loads((root / SETTINGS).read_text(encoding="utf-8"))["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return file if isinstance(file, str) else None
