# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are in the drawing of the fleet: edges, workers and services in three columns, as a packet meets them.

Up to a dozen or two in a column are boxes with names, more are small squares, and of very many only those that are
worst off. Lines are drawn all or, where there would be too many to see, only those that are not well. Lengths are in
units of the drawing, of ``Size.width``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.plugin_utils.report.model import (
    STATES,
    FleetReport,
    HostReport,
    ServiceReport,
)

MOST_BOXES = 20
MOST_SQUARES = 480
MOST_LINES = 240
_WELL = ("up", "live")


@dataclass(frozen=True)
class Size:
    """A drawing for a kind of screen; ``letter`` is about the width of one."""

    name: str
    column: float
    gap: float
    box: float
    letter: float
    square: float = 12

    @property
    def width(self) -> float:
        """Three columns and what is between them, and room for a stroke at both ends."""
        return 3 * self.column + 2 * self.gap + 2


WIDE = Size("wide", column=228, gap=138, box=46, letter=7.4)
NARROW = Size("narrow", column=112, gap=20, box=40, letter=6.1, square=10)
_SPACE = 10
_TOP = 30  # for the columns' headings


@dataclass(frozen=True)
class Node:
    """A host or a service; a box, or a square where ``label`` is empty."""

    x: float
    y: float
    width: float
    height: float
    state: str
    label: str
    detail: str
    title: str


@dataclass(frozen=True)
class Line:
    """Between two nodes."""

    path: str
    state: str
    title: str


@dataclass(frozen=True)
class Column:
    """A heading and its middle."""

    heading: str
    x: float


@dataclass(frozen=True)
class Drawing:
    """All of it. ``omitted`` is how many lines were left out, those that are well first."""

    size: Size
    height: float
    columns: tuple[Column, ...]
    nodes: tuple[Node, ...]
    lines: tuple[Line, ...]
    omitted: int


_Thing = tuple[str, str, str, str]  # key, state, detail, title


def _of(part: int, whole: int, what: str, size: Size) -> str:
    """How many of how many, as long as there is room for."""
    return f"{part}/{whole} {what.rpartition(' ')[2]}" if size is NARROW else f"{part} of {whole} {what}"


def _host(host: HostReport, size: Size) -> _Thing:
    drifts, sessions = len(host.drifts), host.sessions
    if host.verdict is None:
        detail = "not reached"
    elif drifts:
        detail = f"{drifts} drift" + "s" * (drifts > 1)
    else:
        detail = _of(sessions["up"], sessions.total(), "sessions up", size)
    return host.name, host.state, detail, f"{host.name}: {detail}"


def _service(service: ServiceReport, size: Size) -> _Thing:
    probes = service.probes
    detail = _of(probes["right"], probes.total(), "probes right", size)
    return service.name, service.state, detail, f"{service.name} at {', '.join(service.places)}: {detail}"


def _height(count: int, size: Size) -> float:
    """Of a column of so many things."""
    if count <= MOST_BOXES:
        return count * (size.box + _SPACE) - _SPACE
    return -(-count // _row(size)) * _step(size)


def _step(size: Size) -> float:
    return size.square + 4


def _row(size: Size) -> int:
    """How many squares are side by side."""
    return int((size.column + 4) // _step(size))


def _place(things: Sequence[_Thing], x: float, top: float, size: Size) -> dict[str, Node]:
    if len(things) <= MOST_BOXES:
        step = size.box + _SPACE
        return {
            key: Node(
                x,
                top + number * step,
                size.column,
                size.box,
                state,
                shortened(key, size),
                shortened(detail, size, 1.2),
                title,
            )
            for number, (key, state, detail, title) in enumerate(things)
        }
    step, row = _step(size), _row(size)
    return {
        key: Node(x + n % row * step, top + n // row * step, size.square, size.square, state, "", "", title)
        for n, (key, state, _, title) in enumerate(things)
    }


def shortened(text: str, size: Size, more: float = 1) -> str:
    """What of a text fits into a box beside its mark; ``more`` is for smaller letters."""
    room = int((size.column - 30) / size.letter * more)
    return text if len(text) <= room else text[: room - 1] + "…"


def _line(start: Node, end: Node, state: str, title: str) -> Line:
    if end.x < start.x:
        start, end = end, start
    y1, y2 = start.y + start.height / 2, end.y + end.height / 2
    x1, x2 = start.x + start.width, end.x
    if x1 > x2:  # in one column: an arc at its side
        path = f"M{x1:g},{y1:g} C{x1 + 20:g},{y1:g} {x1 + 20:g},{y2:g} {x1:g},{y2:g}"
    else:
        bend = (x2 - x1) / 2
        path = f"M{x1:g},{y1:g} C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2:g},{y2:g}"
    return Line(path, state, title)


def _connect(
    starts: Mapping[str, Node], ends: Mapping[str, Node], links: Sequence[tuple[str, str, str, str]]
) -> tuple[list[Line], int]:
    """The lines that are drawn for links (start, end, state, title), and how many are not."""
    wanted = links if len(links) <= MOST_LINES else [link for link in links if link[2] not in _WELL][:MOST_LINES]
    drawn = [
        _line(starts[one], ends[other], state, title)
        for one, other, state, title in wanted
        if one in starts and other in ends
    ]
    return drawn, len(links) - len(drawn)


def draw(report: FleetReport, size: Size) -> Drawing:
    """The fleet in a drawing of this size."""
    things = {
        "edges": [_host(host, size) for host in report.edges],
        "workers": [_host(host, size) for host in report.workers],
        "services": [_service(service, size) for service in report.services],
    }
    counts = {heading: len(those) for heading, those in things.items()}
    for heading, those in things.items():
        if len(those) > MOST_SQUARES:
            things[heading] = sorted(those, key=lambda thing: STATES.index(thing[1]))[:MOST_SQUARES]
    columns, places = [], []
    tallest = max(_height(len(those), size) for those in things.values())
    for number, (heading, those) in enumerate(things.items()):
        x = 1 + number * (size.column + size.gap)
        left_out = f", {MOST_SQUARES} drawn" if counts[heading] > MOST_SQUARES else ""
        columns.append(Column(f"{counts[heading]:,} {heading if counts[heading] != 1 else heading[:-1]}{left_out}", x))
        places.append(_place(those, x, _TOP + (tallest - _height(len(those), size)) / 2, size))
    edges, workers, services = places
    hosts = {**edges, **workers}
    sessions, omitted = _connect(
        hosts,
        hosts,
        [(one, other, state, f"{one} and {other}: session {state}") for (one, other), state in report.sessions.items()],
    )
    serving, more = _connect(
        workers,
        services,
        [
            (worker, service.name, state, f"{service.name} on {worker}: {state}")
            for service in report.services
            for worker, state in service.backends.items()
        ],
    )
    nodes = [node for place in places for node in place.values()]
    height = max((node.y + node.height for node in nodes), default=_TOP) + 1
    # What is not well is drawn last, so that it is on top.
    lines = sorted([*sessions, *serving], key=lambda line: line.state not in _WELL)
    return Drawing(size, height, tuple(columns), tuple(nodes), tuple(lines), omitted + more)
