# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that verify shows: one row a host, also of those that gave no answer."""

from __future__ import annotations

from typing import Any

from ansible_collections.edgewire.fleet.plugins.plugin_utils.report.table import table


def verdict(*layers: tuple[str, int, str], sessions: str = "", probes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What ``fleet_verify`` returned, as far as the table looks at it."""
    return {
        "layers": [{"name": name, "drifts": drifts, "state": state} for name, drifts, state in layers],
        "drifts": [{}] * sum(drifts for _, drifts, _ in layers),
        "peers": [{"name": str(n), "session": session} for n, session in enumerate(sessions.split())],
        "services": [{"probe": probe} for probe in probes],
    }


def test_rows() -> None:
    fine, bad = ("wireguard", 0, "ok"), [("edge maps", 2, "drift"), ("probe", 1, "unreadable")]
    told = table(
        ["edge1", "edge2", "worker1"],
        {
            "edge1": verdict(fine, *bad, sessions="up stale never up unknown", probes=("right", "wrong", "not sent")),
            "worker1": verdict(fine, sessions="up up"),
        },
    )
    assert [line.split("  ")[0] for line in told] == ["host", "edge1", "edge2", "worker1"]
    assert told[0].split() == ["host", "layers", "drifts", "up", "stale", "never", "unknown", "probes", "where"]
    assert told[1].split(maxsplit=8) == [
        "edge1",
        "1/3",
        "3",
        "2",
        "1",
        "1",
        "1",
        "1/2",
        "edge maps 2, probe unreadable, no session with 1, 2",
    ]
    assert told[2].endswith("no answer")
    assert told[3].split() == ["worker1", "1/1", "0", "2", "0", "0", "0", "-"]


def test_a_host_that_has_lost_many_names_a_few() -> None:
    (_, row) = table(["edge1"], {"edge1": verdict(sessions="never " * 5 + "up")})
    assert row.endswith("no session with 0, 1, 2 and 2 more")


def test_an_empty_fleet_has_a_head() -> None:
    assert len(table([], {})) == 1
