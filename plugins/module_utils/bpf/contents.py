# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Map contents from module parameters to the kernel: what ``forwarder_map`` calls."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    edge_maps,
    edge_state,
    gather,
    libbpf,
    map_io,
    netdev,
    proofs,
    readback,
    rendered,
    running_tables,
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


def _asked(role: str, params: Mapping[str, Any]) -> bytes:
    """The question that a proof answers."""
    return proofs.asked(role, {name: value for name, value in params.items() if name not in _MANNER})


def _proof(question: bytes, params: Mapping[str, Any], maps: map_io.Maps) -> bytes:
    """What :func:`proofs.known` would have to know for the maps to be right."""
    names = [params.get(option) for option in _INTERFACES]
    surroundings = [
        [name and netdev.ifindex_of(name) for name in names],
        netdev.mtu(params.get("wireguard_interface") or ""),
    ]
    return proofs.of(question, surroundings, maps)


_Wanted = edge_state.EdgeWanted | worker_maps.WorkerWanted


def _remember(role: str, proof: bytes, wanted: _Wanted | None) -> None:
    proofs.remember(role, proof)
    if isinstance(wanted, edge_state.EdgeWanted):
        running_tables.remember(wanted)


class _Comparison(NamedTuple):
    """What there is to do. What was worked out on the way is there for the next look, where it was needed."""

    steps: list[Step]
    changes: Sequence[map_io.Change]
    wanted: _Wanted | None
    asked: bytes | None = None
    seen: map_io.Maps | None = None


def _plan(
    role: str,
    params: Mapping[str, Any],
    maps: map_io.Maps | None,
    may_be_missing: bool,
    wanted: _Wanted | None = None,
) -> _Comparison:
    cpus = libbpf.possible_cpus() if maps else 1
    if wanted is None:
        make = edge_wanted if role == "edge" else worker_wanted
        wanted = make(_whole(role, params, maps), may_be_missing=may_be_missing)
    steps: list[Step]
    changes: Sequence[map_io.Change]
    if isinstance(wanted, edge_state.EdgeWanted):
        edge = edge_state.read(maps) if maps else edge_state.EMPTY
        running_tables.take_known(wanted, edge)
        steps, changes = edge_maps.plan(wanted, edge, cpus, time.monotonic_ns())
    else:
        steps, changes = worker_maps.plan(wanted, worker_maps.read(maps) if maps else worker_maps.EMPTY, cpus)
    return _Comparison(steps, changes, wanted)


def _compare(
    role: str,
    params: Mapping[str, Any],
    maps: map_io.Maps,
    *,
    remember: bool,
    may_be_missing: bool = False,
    earlier: _Comparison | None = None,
) -> _Comparison:
    """:func:`_plan`, unless it is proven that there is nothing to do. ``earlier``: what is known of ``params``."""
    wanted, question = (earlier.wanted, earlier.asked) if earlier else (None, None)
    maps = map_io.read_once(maps)
    # What else is there to be merged with goes by names, too, which are not in the maps.
    if params.get("state", "overridden") != "overridden" or params.get("keep_leaving"):
        return _plan(role, params, maps, may_be_missing, wanted)._replace(seen=maps)
    question = question or _asked(role, params)
    proof = _proof(question, params, maps)
    if proofs.known(role, proof):
        return _Comparison([], [], wanted, question)
    compared = _plan(role, params, maps, may_be_missing, wanted)._replace(asked=question, seen=maps)
    if remember and not compared.steps:
        _remember(role, proof, compared.wanted)
    return compared


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
    if not may_be_missing:
        with _running(role) as running:
            return _compare(role, params, running, remember=remember).steps
    try:
        with map_io.running_maps(role) as maps:
            if maps is not None:
                return _compare(role, params, maps, remember=remember, may_be_missing=True).steps
    except map_io.OtherLayoutError:
        pass
    return _plan(role, params, None, may_be_missing).steps


@contextmanager
def _running(role: str) -> Iterator[map_io.Maps]:
    """The running programs' maps, for who only looks."""
    with map_io.running_maps(role) as maps:
        if maps is None:
            raise EdgewireError(f"the {role} programs do not run on this box; edgewire.fleet.site puts them there")
        yield maps


def preview_to_probe(params: Mapping[str, Any]) -> tuple[list[Step], edge_state.EdgeWanted]:
    """What :func:`ensure` would change on an edge, and the desired contents, to probe the running programs against.

    Where the maps are as desired, the services' tables are those that were read from them, and none is built.
    """
    with _running("edge") as maps:
        maps = map_io.read_once(maps)
        wanted = edge_wanted(params)
        steps = _compare("edge", params, maps, remember=False, earlier=_Comparison([], [], wanted)).steps
        if not steps:
            running_tables.take_all(wanted, maps)
        return steps, wanted


def fill(role: str, params: Mapping[str, Any], maps: map_io.Maps) -> list[Step]:
    """Make maps say what is desired, those of programs that run or of their successors; the steps that were taken.

    What was written is read back: what the kernel then says must need no further step.
    """
    compared = _compare(role, params, maps, remember=True)
    if compared.changes:
        map_io.write(maps, compared.changes)
        _check_written(role, params, map_io.read_once(maps), compared)
    return compared.steps


def _check_written(role: str, params: Mapping[str, Any], maps: map_io.Maps, compared: _Comparison) -> None:
    """:raises EdgewireError: there is still something to do, as somebody else has written, too."""
    assert compared.seen is not None  # there were changes
    before, after = proofs.compared(compared.seen), proofs.compared(maps)
    if readback.is_as_written(role, before, compared.changes, after):
        # To these bytes a plan ends in one step: to compare them once more would find the same.
        if compared.asked is not None:
            _remember(role, _proof(compared.asked, params, maps), compared.wanted)
        return
    left = _compare(role, params, maps, remember=True, earlier=compared)
    if left.steps:
        names = ", ".join(f"{step.kind} {step.name}" for step in left.steps)
        raise EdgewireError(
            f"written, but read back different: {names}. Something else writes to these maps, or wrote just now:"
            " run again"
        )


def ensure(role: str, params: Mapping[str, Any]) -> list[Step]:
    """Make the running programs' maps say what is desired; the steps that were taken."""
    with map_io.running_maps(role) as maps:
        if maps is None:
            module = "xdp_forwarder" if role == "edge" else "tc_delivery"
            raise EdgewireError(f"the {role} programs do not run on this box; run {module} first")
        return fill(role, params, maps)
