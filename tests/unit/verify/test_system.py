# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel settings that matter, and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.verify.system import settings

IPTABLES, IP6TABLES = "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"
TRACKED = {"netfilter/nf_conntrack_max": "262144"}
WORKER = {"worker": {"endpoints": [{"vip": "203.0.113.53"}, {"vip": "203.0.113.54"}]}}
WORKER6 = {"worker": {"endpoints": [{"vip": "2001:db8::53"}]}}


@pytest.mark.parametrize(
    ("plan", "found", "told"),
    [
        (WORKER, {}, []),
        (WORKER, {IPTABLES: "1", IP6TABLES: "1"}, []),  # nothing is tracked, so nothing is put together
        (WORKER, {IPTABLES: "1", IP6TABLES: "1", **TRACKED}, ["net.bridge.bridge-nf-call-iptables"]),
        (WORKER6, {IPTABLES: "1", IP6TABLES: "1", **TRACKED}, ["net.bridge.bridge-nf-call-ip6tables"]),
        (WORKER, {IPTABLES: "0", **TRACKED}, []),
        ({"edge": {}}, {IPTABLES: "1", **TRACKED}, []),
        ({"edge": {}}, {"core/bpf_jit_enable": "0"}, ["net.core.bpf_jit_enable"]),
        ({"edge": {}}, {"core/bpf_jit_enable": "1", "ipv4/ip_forward": "0"}, []),
    ],
)
def test_settings(plan: dict[str, Any], found: dict[str, str], told: list[str], tmp_path: Path) -> None:
    for name, value in found.items():
        path = tmp_path / "proc/sys/net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    assert [drift.name for drift in settings(plan, tmp_path)] == told
