# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Map contents from module parameters to the kernel: what ``forwarder_map`` calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    edge_maps,
    edge_state,
    gather,
    libbpf,
    map_io,
    netdev,
    proofs,
    rendered,
    states,
    worker_maps,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.wanted import edge_wanted as edge_wanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.wanted import worker_wanted as worker_wanted
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


def _whole(role: str, params: Mapping[str, Any], maps: map_io.Maps | None) -> Mapping[str, Any]:
    """All that shall be there, by ``params["state"]`` (default overridden) and, where that counts, what is there."""
    state = params.get("state", "overridden")
    if state == "overridden" and params.get("keep_leaving") and maps is not None:
        return states.staying(role, params, gather.gather(role, maps, params))
    if state == "overridden" or (maps is None and state == "merged"):
        return params
    if maps is None:
        raise EdgewireError(f"the {role} programs do not run on this box, so there is nothing to delete")
    running = gather.gather(role, maps, params)
    if state == "merged":
        return states.merged(role, params, running)
    return states.deleted(role, params, running, bool(params.get("force")))


# What a plan's object says beside the contents: which words it is in, not what they say.
_MANNER = ("state", "force", "contents", "role")
# The options that name interfaces.
_INTERFACES = ("wireguard_interface", "uplink", "reply_interface", "container_interface")


def _proof(role: str, params: Mapping[str, Any], maps: map_io.Maps) -> bytes:
    """What :func:`proofs.known` would have to know for the maps to be right."""
    wanted = {name: value for name, value in params.items() if name not in _MANNER}
    names = [params.get(option) for option in _INTERFACES]
    surroundings = [
        [name and netdev.ifindex_of(name) for name in names],
        netdev.mtu(params.get("wireguard_interface") or ""),
    ]
    return proofs.of(role, wanted, surroundings, maps)


def _plan(
    role: str, params: Mapping[str, Any], maps: map_io.Maps | None, may_be_missing: bool
) -> tuple[list[Step], Sequence[map_io.Change]]:
    cpus = libbpf.possible_cpus() if maps else 1
    params = _whole(role, params, maps)
    if role == "edge":
        edge = edge_wanted(params, may_be_missing=may_be_missing)
        return edge_maps.plan(edge, edge_state.read(maps) if maps else edge_state.EMPTY, cpus, time.monotonic_ns())
    worker = worker_wanted(params, may_be_missing=may_be_missing)
    return worker_maps.plan(worker, worker_maps.read(maps) if maps else worker_maps.EMPTY, cpus)


def _compare(
    role: str, params: Mapping[str, Any], maps: map_io.Maps, *, remember: bool, may_be_missing: bool = False
) -> tuple[list[Step], Sequence[map_io.Change]]:
    """:func:`_plan`, unless it is proven that there is nothing to do."""
    maps = map_io.read_once(maps)
    # What else is there to be merged with goes by names, too, which are not in the maps.
    if params.get("state", "overridden") != "overridden" or params.get("keep_leaving"):
        return _plan(role, params, maps, may_be_missing)
    proof = _proof(role, params, maps)
    if proofs.known(role, proof):
        return [], []
    steps, changes = _plan(role, params, maps, may_be_missing)
    if remember and not steps:
        proofs.remember(role, proof)
    return steps, changes


def render(role: str, params: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What would be written to empty maps, see :func:`rendered.rendered`; touches nothing, and no map is opened.

    Interfaces that do not exist here have index 0.
    """
    changes: Sequence[map_io.Change]
    if role == "edge":
        _, changes = edge_maps.plan(edge_wanted(params, elsewhere=True), edge_state.EMPTY)
    else:
        _, changes = worker_maps.plan(worker_wanted(params, elsewhere=True), worker_maps.EMPTY)
    return rendered.rendered(role, changes)


def gathered(role: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
    """What runs, as options that would change nothing; None where the role does not run. ``params`` may give names."""
    with map_io.running_maps(role) as maps:
        return None if maps is None else gather.gather(role, maps, params)


def preview(
    role: str, params: Mapping[str, Any], *, may_be_missing: bool = False, remember: bool = False
) -> list[Step]:
    """What :func:`ensure` would change; reads only.

    :param may_be_missing: in check mode, programs that do not run yet, or whose maps are of another version, are ones
        that an earlier task would have brought: then everything is to be added.
    :param remember: that there is nothing to do may be written down, for the next look.
    """
    try:
        with map_io.running_maps(role) as maps:
            if maps is None and not may_be_missing:
                raise EdgewireError(f"the {role} programs do not run on this box; edgewire.fleet.site puts them there")
            if maps is None:
                return _plan(role, params, None, may_be_missing)[0]
            return _compare(role, params, maps, remember=remember, may_be_missing=may_be_missing)[0]
    except map_io.OtherLayoutError:
        if not may_be_missing:
            raise
        return _plan(role, params, None, may_be_missing)[0]


def edge_to_probe(params: Mapping[str, Any], *, proven: bool) -> edge_state.EdgeWanted:
    """The edge's desired contents, to probe the running programs against.

    :param proven: the maps were just found to be as desired, so the tables can be read from them.
    """
    wanted = edge_wanted(params)
    if proven:
        with map_io.running_maps("edge") as maps:
            if maps is not None:
                edge_state.take_tables(wanted, edge_state.read(maps))
    return wanted


def fill(role: str, params: Mapping[str, Any], maps: map_io.Maps) -> list[Step]:
    """Make maps say what is desired, those of programs that run or of their successors; the steps that were taken.

    What was written is read back: what the kernel then says must need no further step.
    """
    steps, writes = _compare(role, params, maps, remember=True)
    if writes:
        map_io.write(maps, writes)
        left, _ = _compare(role, params, maps, remember=True)
        if left:
            names = ", ".join(f"{step.kind} {step.name}" for step in left)
            raise EdgewireError(
                f"written, but read back different: {names}. Something else writes to these maps, or wrote just now:"
                " run again"
            )
    return steps


def ensure(role: str, params: Mapping[str, Any]) -> list[Step]:
    """Make the running programs' maps say what is desired; the steps that were taken."""
    with map_io.running_maps(role) as maps:
        if maps is None:
            module = "xdp_forwarder" if role == "edge" else "tc_delivery"
            raise EdgewireError(f"the {role} programs do not run on this box; run {module} first")
        return fill(role, params, maps)
