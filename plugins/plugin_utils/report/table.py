# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdicts of ``fleet_verify`` as a table for a terminal, one row a host. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SESSIONS = ("up", "stale", "never", "unknown")
# Without these a pair of hosts cannot talk; the other two may be all right.
_OVER = ("stale", "never")
# A host that is off is everybody's lost peer.
_PEERS_SHOWN = 3
_HEAD = ("host", "layers", "drifts", *_SESSIONS, "probes", "where")


def _row(host: str, verdict: Mapping[str, Any] | None) -> Sequence[str]:
    if verdict is None:
        return (host, *["-"] * (len(_HEAD) - 2), "no answer")
    layers = verdict["layers"]
    sessions = Counter(peer["session"] for peer in verdict["peers"])
    probes = Counter(service["probe"] for service in verdict["services"])
    sent = sum(probes.values()) - probes["not sent"]
    where = [
        f"{layer['name']} {layer['drifts'] if layer['state'] == 'drift' else layer['state']}"
        for layer in layers
        if layer["state"] != "ok"
    ]
    lost = [str(peer["name"]) for peer in verdict["peers"] if peer["session"] in _OVER]
    if lost:
        more = f" and {len(lost) - _PEERS_SHOWN} more" if len(lost) > _PEERS_SHOWN else ""
        where.append(f"no session with {', '.join(lost[:_PEERS_SHOWN])}{more}")
    return (
        host,
        f"{sum(layer['state'] == 'ok' for layer in layers)}/{len(layers)}",
        str(len(verdict["drifts"])),
        *(str(sessions[name]) for name in _SESSIONS),
        f"{probes['right']}/{sent}" if verdict["services"] else "-",
        ", ".join(where),
    )


def table(hosts: Iterable[str], verdicts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines: a head, and for each host how many of its layers are as planned, its drifts, its sessions by state, how
    many of the probes that were sent came out right, which layers differ, and with whom it has no session.
    """
    rows = [_HEAD, *(_row(host, verdicts.get(host)) for host in hosts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
