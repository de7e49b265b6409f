# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The form in which a module returns what was found."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.plugins.module_utils.steps import make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.verify.report import (
    UNREADABLE,
    Drift,
    Report,
    drifts_of,
)


def test_layers_count_their_drifts_and_tell_what_could_not_be_read() -> None:
    steps = [make_step("service", "203.0.113.53:53/udp", None, {"name": "dns"}), make_step("VIP", "x", {}, None)]
    unread = Drift("probe", "layer", UNREADABLE, "readable", "edge_xdp is not attached")
    report = Report((*drifts_of("edge maps", steps), unread), ("routes", "edge maps", "probe"), (), ())
    told = report.to_dict()
    assert told["layers"] == [
        {"name": "routes", "drifts": 0, "state": "ok"},
        {"name": "edge maps", "drifts": 2, "state": "drift"},
        {"name": "probe", "drifts": 1, "state": "unreadable"},
    ]
    assert told["drifts"][0] == {
        "layer": "edge maps",
        "kind": "service",
        "name": "203.0.113.53:53/udp",
        "expected": {"name": "dns"},
        "found": None,
    }
    assert [drift["layer"] for drift in told["drifts"]] == ["edge maps", "edge maps", "probe"]
