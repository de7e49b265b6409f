# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold a host against its plan, layer by layer, without changing anything.

Each layer asks the same planner that would repair it: a step it would take is a drift. A layer that cannot be read is
a drift too, and never taken for right.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot import unit
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, forwarder, libbpf, map_io, options
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import EdgeWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.mesh import routes_params, wireguard_params
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import probe, sessions, system
from ansible_collections.edgewire.fleet.plugins.module_utils.verify.report import UNREADABLE, Drift, Report, drifts_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard


def _backend_state(backend: Mapping[str, Any], dead: set[str]) -> str:
    if backend["worker"] in dead:
        return "dead"
    if backend.get("drain_weight"):
        return "draining"
    return "live" if backend["weight"] else "drained"


class _Host:
    """The checks of one host, layer by layer, and what they learn besides drifts."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.plan: Mapping[str, Any] = params["plan"]
        self.peers: list[dict[str, Any]] = []
        self.probed_contents: EdgeWanted | None = None
        self.probed: dict[tuple[str, int], str] = {}

    def stored_plan(self) -> Iterator[Drift]:
        """The plan that the box was last given."""
        path = Path(self.params["plan_file"])
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            stored = None
        except ValueError as exc:
            stored = {"unreadable": str(exc)}
        if stored != self.plan:
            where = None if stored is None else "another plan"
            yield Drift("plan", "file", str(path), "this plan", where)

    def wireguard(self) -> Iterator[Drift]:
        """Device, peers and keys; and how old the handshakes are, which is no drift."""
        mesh = self.plan["wireguard"]
        wanted = wireguard_params(self.plan, preshared_secret=self.params.get("preshared_secret"))
        outcome = wireguard.apply(wanted, check_mode=True, secret_needed=False)
        yield from drifts_of("wireguard", outcome.steps)
        if outcome.unknown_preshared:
            found = f"unknown: no preshared_secret was given (peers {', '.join(outcome.unknown_preshared)})"
            yield Drift("wireguard", "preshared keys", mesh["interface"], "as derived from the secret", found)
        clocks = sessions.read_clocks(Path(self.params["plan_file"]))
        ahead = 0
        for peer in wireguard.describe(outcome, mesh["peers"])["peers"]:
            age = sessions.handshake_age(peer["latest_handshake"], clocks)
            ahead = min(ahead, age or 0)
            name = peer["name"] or peer["public_key"]
            self.peers.append({"name": name, "session": sessions.judge(age, clocks), "handshake_age": age})
        if ahead:
            found = f"set back: a handshake was {-ahead} s from now; peers refuse new ones until that time has come"
            yield Drift("wireguard", "clock", self.plan["host"], "not behind the last handshake", found)

    def routes(self) -> Iterator[Drift]:
        """Routes and rules, and what says to others that they are ours."""
        yield from drifts_of("routes", routes.preview(routes_params(self.plan)))

    def programs(self, role: str) -> Iterator[Drift]:
        """The programs on their hooks, with the mode in force."""
        build = options.build_from(role, self.params)
        steps = forwarder.preview(options.programs_from(role, self.plan[role], build))
        yield from drifts_of(f"{role} programs", steps)
        yield from system.filters_before(role, self.plan)

    def maps(self, role: str) -> Iterator[Drift]:
        """What the maps say."""
        if role == "edge":
            steps, self.probed_contents = contents.preview_to_probe(self.plan[role])
        else:
            steps = contents.preview(role, self.plan[role])
        yield from drifts_of(f"{role} maps", steps)

    def probes(self) -> Iterator[Drift]:
        """A packet to each service, through the live program."""
        found = map_io.find_attached("edge").get("edge_xdp")
        if found is None:
            raise EdgewireError("edge_xdp is not attached, so no probe can be sent through it")
        wanted = self.probed_contents or contents.edge_wanted(self.plan["edge"])
        with libbpf.closing(libbpf.prog_fd(found[1].program_id)) as fd:
            for result in probe.run_probes(fd, wanted):
                service = result.service
                self.probed[service.vip, service.port] = "right" if result.right else "wrong"
                if not result.right:
                    yield Drift("probe", "packet", f"{service.name} {service.text}", result.expected, result.found)

    def boot(self) -> Iterator[Drift]:
        """What the box needs to restore itself."""
        yield from drifts_of("boot", unit.plan(self.params))
        yield from system.boot_failure()

    def layers(self) -> dict[str, Callable[[], Iterator[Drift]]]:
        """The checks by layer, in the order of reporting."""
        checks: dict[str, Callable[[], Iterator[Drift]]] = {
            "plan": self.stored_plan,
            "wireguard": self.wireguard,
            "routes": self.routes,
            "settings": lambda: system.settings(self.plan),
        }
        for role in ("edge", "worker"):
            if self.plan.get(role):
                checks[f"{role} programs"] = functools.partial(self.programs, role)
                checks[f"{role} maps"] = functools.partial(self.maps, role)
        if self.plan.get("edge"):
            checks["probe"] = self.probes
        return {**checks, "boot": self.boot}

    def services(self) -> Iterator[dict[str, Any]]:
        """An edge's services, their backends, and what became of their probes."""
        edge = self.plan.get("edge") or {"workers": (), "services": ()}
        dead = {worker["name"] for worker in edge["workers"] if worker.get("state") == "dead"}
        for service in edge["services"]:
            backends = [
                {"worker": b["worker"], "endpoint_id": b["endpoint_id"], "state": _backend_state(b, dead)}
                for b in service["backends"]
            ]
            yield {
                **{key: service[key] for key in ("name", "vip", "port", "last_port")},
                "backends": backends,
                "probe": self.probed.get((service["vip"], service["port"]), "not sent"),
            }


def verify(params: Mapping[str, Any]) -> Report:
    """Hold this host against ``params["plan"]``; ``params`` also has ``sources``, ``capacity``, ``plan_file`` and,
    where there is one, ``preshared_secret``.
    """
    host = _Host(params)
    checks = host.layers()
    drifts: list[Drift] = []
    for layer, check in checks.items():
        try:
            drifts += check()
        except EdgewireError as error:
            drifts.append(Drift(layer, "layer", UNREADABLE, "readable", str(error)))
    return Report(tuple(drifts), tuple(checks), tuple(host.peers), tuple(host.services()))
