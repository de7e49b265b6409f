# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hooks need work: the planner, without a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import (
    HOOKS,
    Attached,
    Desired,
    Observed,
    current_map_set,
    plan,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

BUILD, OTHER = b"b" * 32, b"o" * 32
WANTED = Desired("edge", {"uplink": "eth0", "wireguard": "wg0"}, BUILD)
IFINDEX = {"uplink": 2, "wireguard": 3}
RIGHT = {
    hook.program: Attached(n, hook.program, BUILD, b"s" * 32, 40, "native" if hook.kind == "xdp" else None)
    for n, hook in enumerate(HOOKS["edge"], 1)
}
ALL = ["edge_egress on wg0", "edge_handoff on eth0", "edge_xdp on eth0"]


def told(wanted: Desired, attached: Mapping[str, Attached | None], **more: object) -> list[tuple[str, str]]:
    """The plan as verbs and names."""
    observed = Observed(attached, IFINDEX, **{"pinned_map_set": 40, **more})
    steps = plan(wanted, observed)
    assert all(step.op in HOOKS[wanted.role] or step.kind == "pin" for step in steps)
    return [(step.verb, step.name) for step in steps]


def test_nothing_to_do() -> None:
    assert told(WANTED, RIGHT) == []


def test_receivers_come_before_senders() -> None:
    assert told(WANTED, {}) == [("add", name) for name in ALL]


@pytest.mark.parametrize("program", sorted(RIGHT))
def test_one_is_missing(program: str) -> None:
    assert [name.split()[0] for _, name in told(WANTED, {**RIGHT, program: None})] == [program]


def test_another_build() -> None:
    old = {name: replace(found, build=OTHER) for name, found in RIGHT.items()}
    assert told(WANTED, old) == [("change", name) for name in ALL]


def test_another_xdp_mode() -> None:
    steps = plan(replace(WANTED, xdp_mode="generic"), Observed(RIGHT, IFINDEX, 40))
    assert [(s.before, s.after) for s in steps] == [
        (
            {"hook": "XDP native", "build": BUILD.hex()[:16]},
            {"hook": "XDP generic", "build": BUILD.hex()[:16]},
        )
    ]


def test_programs_that_do_not_share_their_maps() -> None:
    mixed = {**RIGHT, "edge_handoff": replace(RIGHT["edge_handoff"], map_set=41)}
    (step,) = plan(WANTED, Observed(mixed, IFINDEX, 40))
    assert (step.verb, step.name) == ("change", "edge_handoff on eth0")
    assert step.before is not None
    assert step.before["maps"] == "not shared with the role's other programs"


def test_the_xdp_program_decides_which_maps_are_current() -> None:
    mixed = {**RIGHT, "edge_xdp": replace(RIGHT["edge_xdp"], map_set=41)}
    assert current_map_set(WANTED, Observed(mixed, IFINDEX, pinned_map_set=42)) == 41
    assert current_map_set(WANTED, Observed({}, IFINDEX, pinned_map_set=42)) == 42


def test_everything_foreign_is_named_at_once() -> None:
    foreign = {
        "edge_xdp": Attached(7, "katran", None, None, None, "native", False),
        "edge_egress": Attached(8, "cilium", None, None, None),
    }
    with pytest.raises(EdgewireError) as caught:
        plan(WANTED, Observed(foreign, IFINDEX))
    assert "XDP native of eth0 is held by program 'katran' (id 7)" in str(caught.value)
    assert "TC ingress of wg0 is held by program 'cilium' (id 8)" in str(caught.value)


def test_ours_on_somebody_elses_link() -> None:
    loose = {**RIGHT, "edge_xdp": replace(RIGHT["edge_xdp"], linked=False)}
    with pytest.raises(EdgewireError, match="attached by a link that is not pinned where"):
        plan(WANTED, Observed(loose, IFINDEX))


def test_missing_interfaces_are_all_named() -> None:
    observed = Observed({}, {"uplink": None, "wireguard": None})
    with pytest.raises(EdgewireError, match="no such interface: eth0, wg0"):
        plan(WANTED, observed)
    # A roll-out makes the WireGuard interface, but no uplink.
    with pytest.raises(EdgewireError, match=r"no such interface: eth0$"):
        plan(WANTED, observed, wireguard_may_be_missing=True)
    uplink_there = Observed({}, {"uplink": 2, "wireguard": None})
    assert len(plan(WANTED, uplink_there, wireguard_may_be_missing=True)) == 3
    assert plan(replace(WANTED, present=False), observed) == []


def test_absent_takes_only_ours_senders_first_then_pins() -> None:
    foreign = {**RIGHT, "edge_handoff": Attached(7, "cilium", None, None, None)}
    gone = replace(WANTED, present=False)
    assert told(gone, foreign, leftover_pins=("/sys/fs/bpf/edgewire/edge/link",)) == [
        ("remove", "edge_xdp on eth0"),
        ("remove", "edge_egress on wg0"),
        ("remove", "/sys/fs/bpf/edgewire/edge/link"),
    ]


def test_absent_does_not_claim_to_detach_what_another_link_holds() -> None:
    loose = {**RIGHT, "edge_xdp": replace(RIGHT["edge_xdp"], linked=False)}
    with pytest.raises(EdgewireError, match="attached by a link that is not pinned where"):
        plan(replace(WANTED, present=False), Observed(loose, IFINDEX))


def test_absent_with_nothing_there() -> None:
    assert told(replace(WANTED, present=False), {}) == []
