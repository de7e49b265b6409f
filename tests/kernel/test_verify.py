# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``fleet_verify``'s layers on a box of a namespace: others' filters, probes, and what the maps lead these to."""

from __future__ import annotations

import socket

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import TC_PRIORITY
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import system
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import EDGE_PARAMS, Box

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

PLAN = {"edge": EDGE_PARAMS}


def test_others_filters_before_ours_are_told(edge_box: Box) -> None:
    assert list(system.filters_before("edge", PLAN)) == []
    ifindex = socket.if_nametoindex("eth0")
    program_id = libbpf.tc_query(ifindex, TC_PRIORITY["edge"])
    assert program_id is not None
    with libbpf.closing(libbpf.prog_fd(program_id)) as fd:
        libbpf.tc_attach(ifindex, 9000, fd)
        assert list(system.filters_before("edge", PLAN)) == [], "what comes after ours takes nothing from us"
        libbpf.tc_attach(ifindex, 10, fd)
    (drift,) = system.filters_before("edge", PLAN)
    assert (drift.layer, drift.name, drift.expected) == ("edge programs", "TC ingress of eth0", None)
    assert drift.found == {"priority": 10, "kind": "bpf"}
    for priority in (10, 9000):
        libbpf.tc_detach(ifindex, priority)
    assert list(system.filters_before("edge", PLAN)) == []
    assert libbpf.tcx_ingress(ifindex) == []
