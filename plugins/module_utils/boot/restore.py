# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit runs at boot: bring the box to the plan it was last given, with no controller around.

Every layer is applied by the backend that its module calls, in the modules' order: WireGuard, routes, programs, maps.
Programs without map contents serve nothing, so a box that gets only half-way does not serve anything wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.boot.stored import read_json
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, forwarder, netdev, options
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.plugins.module_utils.turns import turn
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard

# An uplink's driver may take a while; a bridge of containers appears with the first container.
INTERFACE_SECONDS = 90.0
# Which option of a role's plan names an interface that others make.
_GIVEN_INTERFACE = {"edge": "uplink", "worker": "container_interface"}


def restore(settings: Mapping[str, Any]) -> list[Step]:
    """Bring the box to its plan; the steps that were taken.

    ``settings`` is what ``unit`` wrote: ``plan_file``, ``preshared_file``, ``sources`` by role and ``capacity``.

    :raises EdgewireError: naming what is missing or damaged. Nothing is touched before plan and keys are read whole.
    """
    plan = read_json(Path(settings["plan_file"]))
    preshared = read_json(Path(settings["preshared_file"])) if _wants_preshared(plan) else {}
    with turn():
        mesh = {**plan["wireguard"], "host": plan["host"], "preshared_keys": preshared}
        steps = list(wireguard.apply(mesh, check_mode=False).steps)
        steps += routes.apply({**plan["routes"], "announce": True}, check_mode=False)
    for role, option in _GIVEN_INTERFACE.items():
        if plan.get(role):
            _wait_for(plan[role][option])  # outside the turn: others may have to make it
            with turn():
                build = options.build_from(role, settings)
                steps += forwarder.ensure(options.programs_from(role, plan[role], build), build, plan[role])
                steps += contents.ensure(role, plan[role])
    return steps


def _wants_preshared(plan: Mapping[str, Any]) -> bool:
    return any(peer.get("preshared") for peer in plan["wireguard"]["peers"])


def _wait_for(interface: str) -> None:
    deadline = time.monotonic() + INTERFACE_SECONDS
    while netdev.ifindex_of(interface) is None:
        if time.monotonic() > deadline:
            raise EdgewireError(
                f"interface {interface} did not appear in {INTERFACE_SECONDS:.0f} s (a bridge comes with its"
                " first container)"
            )
        time.sleep(0.2)


def main(arguments: Sequence[str] = ()) -> int:
    """Restore by the settings in the file that is named, say what was done, and return the exit status."""
    try:
        steps = restore(read_json(Path((arguments or sys.argv[1:])[0])))
    except (EdgewireError, KeyError, TypeError) as error:
        told = error if isinstance(error, EdgewireError) else f"the plan is damaged: {type(error).__name__} {error}"
        print(
            f"edgewire: this box is not serving: {told}. Mend that and restart this unit, or run the playbook"
            " edgewire.fleet.site for this host.",
            file=sys.stderr,
        )
        return 1
    for step in steps:
        print(f"edgewire: {step.verb} {step.kind} {step.name}")
    print(f"edgewire: restored, {len(steps)} changes")
    return 0
