# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holding a host against its plan came to: drifts by layer, peers' sessions, services and their probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step

# The one thing that a layer which cannot be read has to say.
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Drift:
    """One thing that is not as the plan says; ``expected`` or ``found`` is None where there should be or is nothing."""

    layer: str
    kind: str
    name: str
    expected: Any
    found: Any


def drifts_of(layer: str, steps: list[Step]) -> list[Drift]:
    """A planner's steps as drifts: what it would change is what is not as it should be."""
    told = [(step, step.describe()) for step in steps]
    return [Drift(layer, step.kind, step.name, words["after"], words["before"]) for step, words in told]


@dataclass(frozen=True)
class Report:
    """What ``layers.verify`` found: drifts in the layers' order, the layers, peers' sessions, services' probes."""

    drifts: tuple[Drift, ...]
    layers: tuple[str, ...]
    peers: tuple[Mapping[str, Any], ...]
    services: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """As a module returns it."""
        counts = Counter(drift.layer for drift in self.drifts)
        unreadable = {drift.layer for drift in self.drifts if drift.name == UNREADABLE}
        return {
            "drifts": [asdict(drift) for drift in self.drifts],
            "layers": [
                {
                    "name": name,
                    "drifts": counts[name],
                    "state": UNREADABLE if name in unreadable else "drift" if counts[name] else "ok",
                }
                for name in self.layers
            ],
            "peers": [dict(peer) for peer in self.peers],
            "services": [dict(service) for service in self.services],
        }
