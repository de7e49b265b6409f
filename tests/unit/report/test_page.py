# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet report: what it says of a fleet, that nothing in it is taken for markup, and that it stays a page."""

from __future__ import annotations

import itertools
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.plugin_utils.report import drawing, model, page
from hypothesis import given, settings
from hypothesis import strategies as st

VOID = {"meta", "rect", "path", "circle", "br"}  # no end tag, or closed at once
DRIFT = {
    "layer": "edge maps",
    "kind": "service",
    "name": "203.0.113.53:53/udp",
    "expected": {"name": "dns"},
    "found": None,
}


class Page(HTMLParser):
    """The page's elements with their attributes, and its text; end tags that do not match are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or (tag in ("path", "rect") and not self._is_closed()):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def _is_closed(self) -> bool:
        return (self.get_starttag_text() or "").endswith("/>")

    def all(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        """Elements of a tag and a class."""
        return [found for name, found in self.elements if name == tag and kind in (found.get("class") or "").split()]


def verdict(peers: dict[str, str], drifts: list[dict[str, Any]] | None = None, probe: str = "") -> dict[str, Any]:
    """What ``fleet_verify`` returns."""
    service = {"name": "dns", "vip": "203.0.113.53", "port": 53, "last_port": 53, "probe": probe}
    backends = [{"worker": "worker1", "endpoint_id": 1, "state": "live"}]
    return {
        "drifts": drifts or [],
        "layers": [{"name": "edge maps", "drifts": len(drifts or []), "state": "drift" if drifts else "ok"}],
        "peers": [{"name": name, "session": session, "handshake_age": 1} for name, session in peers.items()],
        "services": [{**service, "backends": backends}] if probe else [],
    }


def report(**verdicts: dict[str, Any] | None) -> model.FleetReport:
    """A report on hosts by name; edges are those whose name says so."""
    edges = {name for name in verdicts if name.startswith("edge")}
    found = {name: told for name, told in verdicts.items() if told is not None}
    return model.report_of(verdicts, edges, found, "2026-11-25 22:15 UTC", "3f9ac1d200aa")


def fleet(edges: int, workers: int) -> model.FleetReport:
    """All well."""
    names = [f"edge{n}" for n in range(edges)], [f"worker{n}" for n in range(workers)]
    told = {name: verdict(dict.fromkeys(names[1], "up"), probe="right") for name in names[0]}
    return report(**told, **{name: verdict(dict.fromkeys(names[0], "up")) for name in names[1]})


def test_a_fleet_that_is_well() -> None:
    shown = Page(page.render(fleet(2, 2)))
    assert "All 4 hosts are as planned" in shown.text
    assert "What differs" not in shown.text
    assert len(shown.all("path", "line")) - len(page._LEGEND) == 2 * (4 + 1)  # two drawings; sessions and a backend
    assert {line["class"] for line in shown.all("path", "line")[:5]} == {"line up", "line live"}


def test_a_fleet_that_is_not() -> None:
    told = report(edge1=verdict({"worker1": "stale"}, [DRIFT], "wrong"), worker1=verdict({"edge1": "up"}), worker2=None)
    shown = Page(page.render(told))
    assert page.headline(told) == "1 of 3 hosts is not as planned, 1 host not reached"
    for text in ("edge maps", "203.0.113.53:53/udp", '{"name": "dns"}', "nothing", "not reached", "1 wrong", "1 stale"):
        assert text in shown.text
    assert len(shown.all("rect", "unreached")) == 2
    assert shown.all("path", "stale"), "the worse of what both ends say"


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (["ok"], "The host is as planned"),
        (["ok", "unreached"], "1 of 2 hosts as planned, 1 host not reached"),
        (["drift", "drift", "ok"], "2 of 3 hosts are not as planned"),
    ],
)
def test_the_headline(states: list[str], words: str) -> None:
    told = {"ok": verdict({}), "drift": verdict({}, [DRIFT]), "unreached": None}
    assert page.headline(report(**{f"worker{n}": told[state] for n, state in enumerate(states)})) == words


@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30))
def test_nothing_is_taken_for_markup(text: str) -> None:
    odd = f"<b a='{text}\"&amp;"
    told = verdict(
        {odd: "up"}, [{**DRIFT, "name": odd, "kind": odd, "layer": odd, "expected": odd, "found": [odd]}], "right"
    )
    told["services"][0].update(name=odd, vip=odd, backends=[{"worker": odd, "endpoint_id": 1, "state": "live"}])
    told["layers"][0]["name"] = odd
    shown = Page(page.render(report(**{"edge1": told, odd: verdict({"edge1": "up"})})))
    plain = Page(page.render(report(edge1=told | {"drifts": [DRIFT]}, worker1=verdict({}))))
    assert {tag for tag, _ in shown.elements} == {tag for tag, _ in plain.elements}
    assert odd in shown.text


def test_what_was_not_looked_at_is_not_called_well() -> None:
    """A bare host has no sessions, and no probe can be sent."""
    shown = Page(page.render(report(edge1=verdict({}, [DRIFT], "not sent"), worker1=None)))
    assert [tile["class"] for tile in shown.all("div", "tile")] == [
        "tile drift",
        "tile drift",
        "tile unknown",
        "tile unreached",
    ]


def test_a_page_needs_nothing_from_elsewhere() -> None:
    shown = Page(page.render(fleet(2, 2)))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in shown.elements}
    assert not [found for _, found in shown.elements if found.get("src") or found.get("href")]


def test_a_fleet_of_400_stays_a_page() -> None:
    drawn = drawing.draw(fleet(40, 360), drawing.WIDE)
    assert len(drawn.nodes) == 401
    assert drawn.omitted == 40 * 360
    assert len(page.render(fleet(40, 360))) < 600_000


def test_of_thousands_the_worst_off_are_drawn() -> None:
    names = [f"worker{n:04}" for n in range(1000)]
    told = {name: verdict({}) for name in names} | {names[-1]: verdict({}, [DRIFT])}
    drawn = drawing.draw(report(**told), drawing.WIDE)
    assert len(drawn.nodes) == drawing.MOST_SQUARES
    assert [node.state for node in drawn.nodes].count("drift") == 1
    assert drawn.columns[1].heading == f"1,000 workers, {drawing.MOST_SQUARES} drawn"


@pytest.mark.parametrize("size", [drawing.WIDE, drawing.NARROW])
@settings(max_examples=25)
@given(edges=st.integers(0, 45), workers=st.integers(0, 45))
def test_nothing_overlaps_or_leaves_the_drawing(size: drawing.Size, edges: int, workers: int) -> None:
    drawn = drawing.draw(fleet(edges, workers), size)
    for node in drawn.nodes:
        assert node.x > 0
        assert node.x + node.width < size.width
        assert node.y > 0
        assert node.y + node.height < drawn.height
    corners = [(node.x, node.y) for node in drawn.nodes]
    assert len(set(corners)) == len(corners)
    rows = sorted((node.x, node.y, node.height) for node in drawn.nodes)
    for (x, y, height), (next_x, next_y, _) in itertools.pairwise(rows):
        assert x != next_x or y + height < next_y
