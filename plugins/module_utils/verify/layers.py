# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold a host against its plan, layer by layer, without changing anything.

Each layer asks the same planner that would repair it: a step it would take is a drift. A layer that cannot be read is
a drift too, and never taken for right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import unit
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, forwarder, libbpf, map_io, options
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import probe
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard

# WireGuard renews a session's handshake every 120 s while there is traffic, and gives a session up after 180 s
# (REKEY_AFTER_TIME, REJECT_AFTER_TIME of the WireGuard paper, section 6.1).
REJECT_AFTER_SECONDS = 180


@dataclass(frozen=True)
class Drift:
    """One thing that is not as the plan says; ``expected`` or ``found`` is None where there should be or is nothing."""

    layer: str
    kind: str
    name: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found: drifts by layer order, how many layers were held against the plan, peers' sessions."""

    drifts: tuple[Drift, ...]
    layers: tuple[str, ...]
    peers: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """As a module returns it."""
        return {
            "drifts": [asdict(drift) for drift in self.drifts],
            "layers": list(self.layers),
            "peers": [dict(peer) for peer in self.peers],
        }


def _of_steps(layer: str, steps: list[Step]) -> list[Drift]:
    return [Drift(layer, step.kind, step.name, step.after, step.before) for step in steps]


def _session(latest_handshake: int, now: float) -> str:
    if not latest_handshake:
        return "never"
    return "up" if now - latest_handshake <= REJECT_AFTER_SECONDS else "stale"


def _programs(role: str, plan: Mapping[str, Any], params: Mapping[str, Any]) -> list[Step]:
    build = options.build_from(role, params)
    return forwarder.preview(options.programs_from(role, plan[role], build))


def _probes(plan: Mapping[str, Any]) -> list[Drift]:
    found = map_io.find_attached("edge").get("edge_xdp")
    if found is None:
        raise EdgewireError("edge_xdp is not attached, so no probe can be sent through it")
    wanted = contents.edge_wanted(plan["edge"])
    with libbpf.closing(libbpf.prog_fd(found[1].program_id)) as fd:
        return [
            Drift("probe", "packet", f"{r.service.name} {r.service.text}", r.expected, r.found)
            for r in probe.run_probes(fd, wanted)
            if not r.right
        ]


def _stored_plan(plan: Mapping[str, Any], path: Path) -> list[Drift]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        stored = None
    except ValueError as exc:
        stored = {"unreadable": str(exc)}
    if stored == plan:
        return []
    where = None if stored is None else "another plan"
    return [Drift("plan", "file", str(path), "this plan", where)]


def verify(params: Mapping[str, Any]) -> Report:
    """Hold this host against ``params["plan"]``; ``params`` also has ``sources``, ``capacity``, ``plan_file`` and,
    where there is one, ``preshared_secret``.
    """
    plan = params["plan"]
    peers: list[dict[str, Any]] = []

    def check_wireguard() -> list[Drift]:
        secret = {"host": plan["host"], "preshared_secret": params.get("preshared_secret")}
        outcome = wireguard.apply({**plan["wireguard"], **secret}, check_mode=True, secret_needed=False)
        now = time.time()
        for peer in wireguard.describe(outcome, plan["wireguard"]["peers"])["peers"]:
            session = _session(peer["latest_handshake"], now)
            peers.append({"name": peer["name"] or peer["public_key"], "session": session})
        drifts = _of_steps("wireguard", outcome.steps)
        if outcome.unknown_preshared:
            found = f"unknown: no preshared_secret was given (peers {', '.join(outcome.unknown_preshared)})"
            name = plan["wireguard"]["interface"]
            drifts.append(Drift("wireguard", "preshared keys", name, "as derived from the secret", found))
        return drifts

    checks: dict[str, Callable[[], list[Drift]]] = {
        "plan": lambda: _stored_plan(plan, Path(params["plan_file"])),
        "wireguard": check_wireguard,
        "routes": lambda: _of_steps("routes", routes.preview({**plan["routes"], "announce": True})),
    }
    for role in ("edge", "worker"):
        if plan.get(role):
            checks[f"{role} programs"] = lambda role=role: _of_steps(  # type: ignore[misc]
                f"{role} programs", _programs(role, plan, params)
            )
            checks[f"{role} maps"] = lambda role=role: _of_steps(  # type: ignore[misc]
                f"{role} maps", contents.preview(role, plan[role])
            )
    if plan.get("edge"):
        checks["probe"] = lambda: _probes(plan)
    checks["boot"] = lambda: _of_steps("boot", unit.plan(params))

    drifts: list[Drift] = []
    for layer, check in checks.items():
        try:
            drifts += check()
        except EdgewireError as error:
            drifts.append(Drift(layer, "layer", "unreadable", "readable", str(error)))
    return Report(tuple(drifts), tuple(checks), tuple(peers))
