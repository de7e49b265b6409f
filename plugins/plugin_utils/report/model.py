# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fleet report is about: the verdicts of ``fleet_verify`` on many hosts, put together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Verdict = Mapping[str, Any]

# A host's states and a session's, the worst first. A session has one at either end; the worse counts.
STATES = ("drift", "unreached", "ok")
SESSIONS = ("never", "stale", "unknown", "up")


@dataclass(frozen=True)
class HostReport:
    """One host; without a verdict it was not reached, or its verification failed."""

    name: str
    role: str
    verdict: Verdict | None

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.verdict is None:
            return "unreached"
        return "drift" if self.drifts else "ok"

    @property
    def drifts(self) -> list[Mapping[str, Any]]:
        """What is not as planned."""
        return list(self.verdict["drifts"]) if self.verdict else []

    @property
    def layers(self) -> list[Mapping[str, Any]]:
        """What was looked at."""
        return list(self.verdict["layers"]) if self.verdict else []

    @property
    def sessions(self) -> Counter[str]:
        """How many of its sessions are up, stale and so on, as the host itself sees them."""
        return Counter(peer["session"] for peer in (self.verdict or {}).get("peers", ()))


@dataclass
class ServiceReport:
    """A service at all edges: where it is, who answers, and how its probes came out there."""

    name: str
    places: dict[str, None] = field(default_factory=dict)  # in order, each once
    backends: dict[str, str] = field(default_factory=dict)  # worker -> state
    probes: Counter[str] = field(default_factory=Counter)

    @property
    def state(self) -> str:
        """ "drift" where a probe came out wrong, "unreached" where none was sent, else "ok"."""
        if self.probes["wrong"]:
            return "drift"
        return "ok" if self.probes["right"] else "unreached"


@dataclass(frozen=True)
class FleetReport:
    """A fleet as it was found.

    :ivar when: when, as text.
    :ivar plan: the hash of the plans that it was held against.
    """

    hosts: list[HostReport]
    when: str
    plan: str

    @property
    def edges(self) -> list[HostReport]:
        """By name."""
        return [host for host in self.hosts if host.role == "edge"]

    @property
    def workers(self) -> list[HostReport]:
        """By name."""
        return [host for host in self.hosts if host.role == "worker"]

    @cached_property
    def states(self) -> Counter[str]:
        """How many hosts there are of each state."""
        return Counter(host.state for host in self.hosts)

    @cached_property
    def drifts(self) -> list[tuple[str, Mapping[str, Any]]]:
        """All drifts with their hosts."""
        return [(host.name, drift) for host in self.hosts for drift in host.drifts]

    @cached_property
    def sessions(self) -> dict[tuple[str, str], str]:
        """The session between each two hosts of the report, the worse of what both say; names in order."""
        known = {host.name for host in self.hosts}
        found: dict[tuple[str, str], str] = {}
        for host in self.hosts:
            for peer in (host.verdict or {}).get("peers", ()):
                if peer["name"] in known:
                    pair = (min(host.name, peer["name"]), max(host.name, peer["name"]))
                    found[pair] = min(found.get(pair, "up"), peer["session"], key=SESSIONS.index)
        return found

    @cached_property
    def services(self) -> list[ServiceReport]:
        """By state, then by name."""
        found: dict[str, ServiceReport] = {}
        for host in self.edges:
            for told in (host.verdict or {}).get("services", ()):
                service = found.setdefault(told["name"], ServiceReport(told["name"]))
                service.places[place_of(told)] = None
                service.probes[told["probe"]] += 1
                for backend in told["backends"]:
                    service.backends.setdefault(backend["worker"], backend["state"])
        return sorted(found.values(), key=lambda service: (STATES.index(service.state), service.name))


def place_of(told: Mapping[str, Any]) -> str:
    """VIP and port, or ports, as people write them."""
    vip = f"[{told['vip']}]" if ":" in told["vip"] else told["vip"]
    last = "" if told["port"] == told["last_port"] else f"–{told['last_port']}"
    return f"{vip}:{told['port']}{last}"


def report_of(
    names: Iterable[str], edges: Collection[str], verdicts: Mapping[str, Verdict], when: str, plan: str
) -> FleetReport:
    """The report on hosts.

    :param names: of the hosts; those in ``edges`` are edges, the others workers.
    :param verdicts: what ``fleet_verify`` returned, of the hosts that have an answer.
    """
    hosts = [HostReport(name, "edge" if name in edges else "worker", verdicts.get(name)) for name in sorted(set(names))]
    return FleetReport(hosts, when, plan)
