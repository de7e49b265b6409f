# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the box around the programs they depend on: kernel settings, others' filters before them, the boot unit.

Only what matters is looked at. The programs take packets before the host's forwarding, filtering and reverse path
checks, and find next hops by the host's routes as its own packets do, so neither ``ip_forward`` nor ``rp_filter``, nor
``accept_local`` makes a difference to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import unit
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.netdev import ifindex_of
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.options import PORT_OPTIONS
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, TC_PRIORITY
from ansible_collections.edgewire.fleet.plugins.module_utils.verify.report import Drift

_INGRESS = 0xFFFF_FFF2  # TC_H_CLSACT, TC_H_MIN_INGRESS (linux/pkt_sched.h)
_BRIDGE_SETTINGS = {4: "bridge/bridge-nf-call-iptables", 6: "bridge/bridge-nf-call-ip6tables"}


def _setting(name: str, root: Path) -> str | None:
    try:
        return (root / "proc/sys/net" / name).read_text(encoding="ascii").strip()
    except OSError:
        return None  # this kernel, or this namespace, does not have it


def settings(plan: Mapping[str, Any], root: Path = Path("/")) -> Iterator[Drift]:
    """Kernel settings that break the data path, or make it slow."""
    if _setting("core/bpf_jit_enable", root) == "0":
        found = "0: programs are interpreted, at several times the cost"
        yield Drift("settings", "sysctl", "net.core.bpf_jit_enable", "1", found)
    worker = plan.get("worker")
    # Netfilter puts a container's fragments together only where connections are tracked.
    if not worker or _setting("netfilter/nf_conntrack_max", root) is None:
        return
    for version in sorted({6 if ":" in endpoint["vip"] else 4 for endpoint in worker["endpoints"]}):
        name = _BRIDGE_SETTINGS[version]
        if _setting(name, root) == "1":
            found = "1: fragmented replies of containers are put together, and are then too long for the edge's uplink"
            yield Drift("settings", "sysctl", f"net.{name.replace('/', '.')}", "0", found)


def filters_before(role: str, plan: Mapping[str, Any]) -> Iterator[Drift]:
    """Others' programs that see packets before ours on the same hooks, and may keep them."""
    ports = sorted({hook.port for hook in HOOKS[role] if hook.kind == "tc"})
    for interface in [plan[role][PORT_OPTIONS[role][port]] for port in ports]:
        ifindex = ifindex_of(interface)
        if ifindex is None:
            continue  # the layer of programs says so
        for priority, kind in sorted(_filters(ifindex)):
            if priority < min(TC_PRIORITY.values()):
                found = {"priority": priority, "kind": kind}
                yield Drift(f"{role} programs", "others' filter", f"TC ingress of {interface}", None, found)
        for program in libbpf.tcx_ingress(ifindex):
            found = {"kind": "tcx", "program": program}
            yield Drift(f"{role} programs", "others' filter", f"TC ingress of {interface}", None, found)


def _filters(ifindex: int) -> set[tuple[int, str]]:
    """Priority and kind of the filters on an interface's TC ingress (rtnetlink: tcm_info holds the priority)."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        messages = route.get_filters(index=ifindex, parent=_INGRESS)
        return {(message["info"] >> 16, message.get_attr("TCA_KIND")) for message in messages}


def boot_failure(root: Path = Path("/")) -> Iterator[Drift]:
    """Whether the unit that restores the box failed when it last ran; it tries again and again until it does not."""
    if result := unit.failure(root):
        found = {"result": result, "why": f"journalctl -u {unit.UNIT}"}
        yield Drift("boot", "unit", unit.UNIT, {"result": "success"}, found)
