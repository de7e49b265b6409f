# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a link that went down and up again has taken along comes back: IPv6 addresses of the WireGuard device, routes.

The kernel removes them when the link goes down, and says nothing of IPv4 routes. So systemd holds a socket that hears
of links (rtnetlink(7), RTMGRP_LINK) and starts this when there is something to read; between two events nothing runs.
Peers are left alone: a link keeps them, and while keys are rotated the kernel is ahead of the plan.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot.stored import read_json
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import turn

_FIRST_SOCKET = 3  # SD_LISTEN_FDS_START
_NEWLINK = 16
_IFLA_IFNAME = 3
_UP = 1  # IFF_UP
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type


def came_up(messages: bytes) -> Iterator[str]:
    """Names of the links that rtnetlink's messages show as up."""
    while len(messages) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(messages)
        if not _HEADER.size <= length <= len(messages):
            return
        if kind == _NEWLINK and length >= _HEADER.size + _LINK.size:
            flags = _LINK.unpack_from(messages, _HEADER.size)[3]
            name = _name(messages[_HEADER.size + _LINK.size : length])
            if flags & _UP and name:
                yield name
        messages = messages[_aligned(length) :]


def interfaces(plan: Mapping[str, Any]) -> set[str]:
    """The links whose going down takes something of ours along."""
    routes = plan["routes"]["routes"]
    return {plan["wireguard"]["interface"], *(route["interface"] for route in routes if route.get("interface"))}


def mend(plan: Mapping[str, Any]) -> list[Step]:
    """Bring back addresses and routes; what was done. The caller holds the box's lock."""
    from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
    from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard

    return [*wireguard.readdress(plan["wireguard"]), *routes.apply(plan["routes"], check_mode=False)]


def heard(listener: socket.socket) -> set[str]:
    """Read all that the socket holds: names of the links that came up. Lost messages are no reason to stop."""
    listener.setblocking(False)
    names: set[str] = set()
    while True:
        try:
            names.update(came_up(listener.recv(1 << 16)))
        except BlockingIOError:
            return names
        except OSError:  # ENOBUFS: there was more than the socket could hold, so anything may have come up
            names.add("")


def run(settings: Mapping[str, Any], names: set[str]) -> list[Step]:
    """Mend what the links' flapping has broken, if it may be ours.

    Nothing is done where the box has been given another plan than the one that was last rolled out to the end: then a
    roll-out is under way, or was taken back, and a run of the playbook brings the rest.
    """
    plan, given = read_json(Path(settings["plan_file"])), Path(settings["given_plan_file"])
    if not names & {"", *interfaces(plan)}:
        return []
    with turn():
        if not given.exists() or read_json(given) != plan:
            return []
        return mend(plan)


def main(arguments: Sequence[str] = ()) -> int:
    """Started by systemd with the socket; the settings' file is named. Returns the exit status."""
    names = heard(socket.socket(fileno=_FIRST_SOCKET))
    try:
        steps = run(read_json(Path((arguments or sys.argv[1:])[0])), names)
    except (EdgewireError, KeyError, TypeError) as error:
        told = error if isinstance(error, EdgewireError) else f"the plan is damaged: {type(error).__name__} {error}"
        print(f"edgewire: not mended after a link came up: {told}", file=sys.stderr)
        return 1
    for step in steps:
        print(f"edgewire: {step.verb} {step.kind} {step.name}")
    return 0


def _name(attributes: bytes) -> str:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if not _ATTRIBUTE.size <= length <= len(attributes):
            return ""
        if kind == _IFLA_IFNAME:
            return attributes[_ATTRIBUTE.size : length].rstrip(b"\0").decode("ascii", "replace")
        attributes = attributes[_aligned(length) :]
    return ""


def _aligned(length: int) -> int:
    return (length + 3) & ~3  # NLMSG_ALIGN, RTA_ALIGN
