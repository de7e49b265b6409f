# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long modules that are given large contents take, inside the module: ``make bench-maps``.

The modules run as Ansible runs them, from their arguments as JSON to their result as JSON, on real maps in a namespace,
without the start of a Python process. EDGEWIRE_BENCH_PROFILE names a file for a profile of each run (cProfile).
"""

from __future__ import annotations

import contextlib
import cProfile
import gc
import io
import ipaddress
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import forwarder, layout, proofs
from ansible_collections.edgewire.fleet.plugins.modules import fleet_verify, forwarder_map, xdp_forwarder
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EDGE_PARAMS,
    V4,
    V6,
    WORKER_PARAMS,
    build_of,
    desired,
    make_edge_interfaces,
    make_worker_interfaces,
    source_of,
    tunnel_of,
)

pytest_plugins = [f"ansible_collections.edgewire.fleet.tests.kernel.{name}" for name in ("conftest", "bpf_support")]
pytestmark = pytest.mark.kernel

# 25,000 services of one backend are 100,000 entries: a key, a slot of a table, a backend and its way back each.
SERVICES, ENDPOINTS, VERIFIED = 25_000, 25_000, 10_000
ROUNDS = 3
ROOM = layout.Capacity(services=32_768, backends=65_536, vips=4_096)
PORTS = 50  # of each VIP


def place(number: int) -> dict[str, Any]:
    """VIP and port number so many."""
    vip = str(ipaddress.ip_address("198.18.0.0") + number // PORTS)
    return {"vip": vip, "port": 1000 + number % PORTS, "last_port": 1000 + number % PORTS}


def services(count: int, backends: int) -> list[dict[str, Any]]:
    """Services of so many backends, on two workers in turn."""
    return [
        {
            "name": f"service{n}",
            **place(n),
            "backends": [
                {"endpoint_id": n * backends + k + 1, "worker": f"worker{1 + k % 2}", "weight": 1}
                for k in range(backends)
            ],
        }
        for n in range(count)
    ]


def run(what: str, module: ModuleType, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run a module and print how long it took, and how much of that on a processor; its result."""
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    said = io.StringIO()
    profile = cProfile.Profile() if "EDGEWIRE_BENCH_PROFILE" in os.environ else None
    gc.freeze()  # Python looks through what a process holds again and again; what this one does is not the module's
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit), profile or contextlib.nullcontext():
        module.main()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if profile:
        profile.dump_stats(f"{os.environ['EDGEWIRE_BENCH_PROFILE']}-{what.replace(' ', '-')}")
    result: dict[str, Any] = json.loads(said.getvalue())
    assert not result.get("failed"), result.get("msg")
    print(f"{what:56} {wall:6.2f} s, {cpu:6.2f} s of CPU", flush=True)
    return result


def map_rounds(what: str, role: str, contents: Mapping[str, Any], empty: Mapping[str, Any]) -> None:
    """Write contents to empty maps, and run again with nothing to do; a few times."""
    for _ in range(ROUNDS):
        shutil.rmtree(proofs.DIRECTORY, ignore_errors=True)  # nothing is known of what earlier rounds compared
        given = {"role": role, "contents": json.dumps(contents)}
        assert run(f"{what}, written", forwarder_map, given)["changed"]
        assert not run(f"{what}, nothing to do", forwarder_map, given)["changed"]
        run(f"{what}, taken out again", forwarder_map, {"role": role, "contents": json.dumps(empty)})


def test_edge(shared_pins: Path, make_netns: Callable[[], Any], tmp_path: Path) -> None:
    """An edge's maps, then everything that is verified on it."""
    ns, client = make_netns(), make_netns()
    make_edge_interfaces(ns, client)
    tunnel = tunnel_of(ns, V4.edge_overlay, V6.edge_overlay)
    build = build_of("edge", ROOM)
    with ns:
        forwarder.ensure(desired("edge", build), build)
        print()
        full = {**EDGE_PARAMS, "services": services(SERVICES, 1)}
        map_rounds(f"{SERVICES} services of one backend", "edge", full, EDGE_PARAMS)
        edge = {**EDGE_PARAMS, "services": services(VERIFIED, 2), "xdp_mode": "native"}
        run(
            f"{VERIFIED} services of two backends, written",
            forwarder_map,
            {"role": "edge", "contents": json.dumps(edge)},
        )
        plan = {
            "host": "edge1",
            "wireguard": {
                **{"interface": "wg0", "listen_port": 51820, "mtu": 1420, "transport": "auto"},
                **{"private_key_file": str(tmp_path / "wg0.key"), "addresses": [], "peers": []},
            },
            "routes": {"table": 7700, "protocol": 158, "rules": [], "routes": []},
            "edge": edge,
        }
        stored = tmp_path / "plan.json"
        stored.write_text(json.dumps(plan))
        sources = {role: source_of(role) for role in ("edge", "worker")}
        programs = {"sources": sources, "capacity": vars(ROOM), "contents": json.dumps(edge)}
        for _ in range(ROUNDS):
            assert not run(f"programs with {VERIFIED} services, nothing to do", xdp_forwarder, programs)["changed"]
        given = {"plan": json.dumps(plan), "plan_file": str(stored), "sources": sources, "capacity": vars(ROOM)}
        for _ in range(ROUNDS):
            found = run(f"{VERIFIED} services of two backends, verified", fleet_verify, given)
            assert [service["probe"] for service in found["services"]] == ["right"] * VERIFIED
            assert {layer["name"]: layer["state"] for layer in found["layers"]}["edge maps"] == "ok"
    tunnel.close()


def test_worker(shared_pins: Path, make_netns: Callable[[], Any]) -> None:
    """A worker's endpoints."""
    ns, container = make_netns(), make_netns()
    make_worker_interfaces(ns, container)
    tunnel = tunnel_of(ns, V4.worker_overlay, V6.worker_overlay)
    build = build_of("worker", ROOM)
    endpoints = [
        {
            "endpoint_id": n + 1,
            "service": f"service{n}",
            **place(n),
            "container_address": "10.88.0.5",
            "container_port": 1000 + n % PORTS,
        }
        for n in range(ENDPOINTS)
    ]
    with ns:
        forwarder.ensure(desired("worker", build), build)
        print()
        full = {**WORKER_PARAMS, "endpoints": endpoints}
        map_rounds(f"{ENDPOINTS} endpoints", "worker", full, WORKER_PARAMS)
    tunnel.close()
