# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has a box mend what a flapping link has taken along (see ``flap``): the program, a socket and its service."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import bundle, flap
from ansible_collections.edgewire.fleet.plugins.module_utils.boot.timer import Wanted

UNIT = "edgewire-links.socket"
_UNITS = Path("etc/systemd/system")
SOCKET = _UNITS / UNIT
SERVICE = _UNITS / "edgewire-links.service"
ENABLED = _UNITS / "sockets.target.wants" / UNIT
PROGRAM = Path("var/lib/edgewire/boot/flap.pyz")
SETTINGS = Path("var/lib/edgewire/boot/flap.json")
ABSENT: Wanted = dict.fromkeys((SOCKET, SERVICE, PROGRAM, SETTINGS), (None, 0, ""))

# Between two events nothing of ours runs: systemd holds the socket.
_SOCKET_TEXT = """\
# Made by edgewire.fleet.boot_unit.
[Unit]
Description=Hear of links that come up again and have lost the edgewire fleet's routes

[Socket]
ListenNetlink=route 1
ReceiveBuffer=1M
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""
_SERVICE_TEXT = """\
# Made by edgewire.fleet.boot_unit.
[Unit]
Description=Bring back what a link that went down and up has taken along
StartLimitIntervalSec=0

[Service]
Type=oneshot
# Events come in bursts; two starts a second are enough, also where the program cannot start.
ExecStartPre=/bin/sleep 0.5
{check}
ExecStart=/usr/bin/python3 /{program} /{settings}
TimeoutStartSec=300
"""


def wanted(plan_file: str, given_plan_file: str) -> Wanted:
    """The files; ``plan_file`` has the plan to mend by, as long as ``given_plan_file`` has the same."""
    settings = {"plan_file": plan_file, "given_plan_file": given_plan_file}
    program = bundle.archive(flap)
    check = bundle.check_line(Path("/") / PROGRAM, program, "not mended after a link came up")
    service = _SERVICE_TEXT.format(check=check, program=PROGRAM, settings=SETTINGS)
    return {
        SETTINGS: ((json.dumps(settings) + "\n").encode(), 0o644, "where the plans are"),
        PROGRAM: (program, 0o644, "the program of this version"),
        SERVICE: (service.encode(), 0o644, "the unit of this version"),
        SOCKET: (_SOCKET_TEXT.encode(), 0o644, "the unit of this version"),
    }
