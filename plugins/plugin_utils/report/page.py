# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet report as one HTML page, complete by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.plugin_utils.report import drawing
from ansible_collections.edgewire.fleet.plugins.plugin_utils.report.model import STATES, FleetReport
from jinja2 import Environment, StrictUndefined

# Of each list the page has no more, so that it stays a page; what is wrong comes first.
MOST_ROWS = 500
_LONGEST = 400  # characters of what was expected or found
_LEGEND = (
    ("up", "session up, backend live"),
    ("stale", "session stale, backend draining"),
    ("never", "no session, backend dead"),
    ("unknown", "too soon to tell, or no share"),
)


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page."""

    number: int
    of: int | None
    what: str
    state: str


@dataclass(frozen=True)
class Some:
    """As much of a list as is shown, and how many more there are."""

    shown: Sequence[Any]
    more: int

    @classmethod
    def of(cls, things: Sequence[Any]) -> Some:
        """The first ones."""
        return cls(things[:MOST_ROWS], max(0, len(things) - MOST_ROWS))


def headline(report: FleetReport) -> str:
    """The report in a sentence."""
    states, hosts = report.states, len(report.hosts)
    unreached = f"{_hosts(states['unreached'])} not reached" if states["unreached"] else ""
    if states["drift"]:
        verb = "is" if states["drift"] == 1 else "are"
        told = f"{states['drift']} of {_hosts(hosts)} {verb} not as planned"
        return f"{told}, {unreached}" if unreached else told
    if unreached:
        return f"{states['ok']} of {_hosts(hosts)} as planned, {unreached}"
    return f"All {_hosts(hosts)} are as planned" if hosts != 1 else "The host is as planned"


def _hosts(count: int) -> str:
    return f"{count:,} host" + "s" * (count != 1)


def _tiles(report: FleetReport) -> list[Tile]:
    sessions, probes = list(report.sessions.values()), [service.probes for service in report.services]
    up, wrong = sessions.count("up"), sum(p["wrong"] for p in probes)
    right, planned = sum(p["right"] for p in probes), sum(p.total() for p in probes)
    worst = min((host.state for host in report.hosts), key=STATES.index, default="ok")
    broken = "never" in sessions or "stale" in sessions
    return [
        Tile(report.states["ok"], len(report.hosts), "hosts as planned", worst),
        Tile(len(report.drifts), None, "differences", "drift" if report.drifts else "ok"),
        Tile(up, len(sessions), "sessions up", "stale" if broken else "ok" if 0 < up == len(sessions) else "unknown"),
        Tile(right, planned, "probes right", "drift" if wrong else "ok" if 0 < right == planned else "unreached"),
    ]


def _told(value: Any) -> str:
    """What was expected or found, as short as it is useful."""
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def render(report: FleetReport) -> str:
    """The page. Whatever comes from hosts or inventory is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["told"] = _told
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    hosts = sorted(report.hosts, key=lambda host: (STATES.index(host.state), host.role, host.name))
    return template.render(
        report=report,
        headline=headline(report),
        tiles=_tiles(report),
        drawings=[drawing.draw(report, size) for size in (drawing.WIDE, drawing.NARROW)],
        legend=_LEGEND,
        drifts=Some.of(report.drifts),
        services=Some.of(report.services),
        hosts=hosts,
    )
