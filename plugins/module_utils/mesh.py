# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's part of the mesh in one go: the plan on the host, WireGuard, routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.guard import Guard
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import applied
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, result_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard

LAYERS = ("wireguard", "routes")


def wireguard_params(plan: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The plan's ``wireguard`` object as the backend takes it: the fleet's device is the only one of ours."""
    return {**plan["wireguard"], "host": plan["host"], "sole": True, **more}


def routes_params(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's ``routes`` object as the backend takes it: others on the host are told of ours."""
    return {**plan["routes"], "announce": True}


def converge(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """What the module ``mesh`` does and returns.

    The plan comes first, so that one that may be older is refused before anything is changed. Routes that cannot be
    made are found before WireGuard is changed; what fails later leaves the guard unconfirmed, and so is taken back.
    """
    plan, seconds = params["plan"], params["guard_seconds"]
    steps: list[Step] = applied.give(params["plan_file"], plan, params["replaces"], params["force"], check_mode)
    guards: list[Guard] = []
    told: dict[str, Any] = {"unknown_peers": [], "roamed": {}}
    if "routes" in params["layers"]:
        routes.preview(routes_params(plan))
    if "wireguard" in params["layers"]:
        guards.append(Guard("wireguard", plan["wireguard"]["interface"], seconds))
        secret, keep = params["preshared_secret"], params["keep_unknown_peers"]
        wanted = wireguard_params(plan, preshared_secret=secret, keep_unknown_peers=keep)
        outcome = wireguard.apply(wanted, check_mode, guard=guards[-1])
        steps += outcome.steps
        told = {"unknown_peers": outcome.unknown_peers, "roamed": dict(outcome.roamed)}
    if "routes" in params["layers"]:
        guards.append(Guard("routes", plan["routes"]["table"], seconds))
        steps += routes.apply(routes_params(plan), check_mode, guard=guards[-1])
    return result_of(steps, plan["host"], guards=[guard.shown for guard in guards if guard.shown], **told)
