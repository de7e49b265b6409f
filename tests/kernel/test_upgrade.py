# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One build takes over from another: nothing lost, contents and counters carried over, back again where it is wrong."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import turns
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    contents,
    forwarder,
    kept_builds,
    layout,
    libbpf,
    rollback,
    successors,
    trial,
    upgrade,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import EDGE_PARAMS, SMALL, build_of
from ansible_collections.edgewire.fleet.tests.kernel.upgrade_support import NEW, OLD, Edge, Traffic

pytest_plugins = [
    "ansible_collections.edgewire.fleet.tests.kernel.bpf_support",
    "ansible_collections.edgewire.fleet.tests.kernel.upgrade_support",
]
pytestmark = pytest.mark.kernel

LARGER = build_of("edge", replace(SMALL, services=128, backends=512))
# The fields of a service, and the same with two of one size the other way round: a reader of the other version would
# take one for the other.
FIELDS = layout.SERVICE.fields
SWAPPED = (FIELDS[1], FIELDS[0], *FIELDS[2:])
# Every packet of a service is dropped, as if its table were empty.
WRONG = replace(
    OLD,
    source=OLD.source.replace("int edge_xdp(", "int edge_xdp_unused(", 1)
    + """
int edge_xdp(struct xdp_md *ctx) { return XDP_DROP; }
""",
)


def use_swapped(patch: pytest.MonkeyPatch) -> successors.Build:
    """Be the version of the collection whose services have two fields the other way round; its build."""
    specs = []
    for spec in layout.MAPS["edge"]:
        value = spec.value
        if value.fields[-len(FIELDS) :] == FIELDS:
            value = layout.Record(value.name, (*value.fields[: -len(FIELDS)], *SWAPPED))
            patch.setattr(layout, value.name.upper(), value)
        specs.append(replace(spec, value=value))
    patch.setitem(layout.MAPS, "edge", tuple(specs))
    first, second = (f"__u32 {name};" for name, _ in SWAPPED[:2])
    built = build_of("edge")
    start = built.source.index("#define SERVICE_FIELDS")
    end = built.source.index("struct service {", start)
    body = built.source[start:end]
    assert first in body
    assert second in body
    moved = body.replace(second, "@").replace(first, second).replace("@", first)
    return replace(built, source=built.source[:start] + moved + built.source[end:])


@pytest.mark.parametrize("new", [pytest.param(NEW, id="same layout"), pytest.param(LARGER, id="larger maps")])
def test_nothing_is_lost_under_traffic(edge: Edge, new: successors.Build) -> None:
    edge.serve()
    before = edge.counters()
    ids = edge.map_ids()
    with Traffic(edge) as traffic:
        traffic.wait_for(200)
        edge.upgrade(new)
        traffic.wait_for(200)
        edge.upgrade(OLD)
        traffic.wait_for(200)
    assert traffic.requests == list(range(traffic.sent))
    assert traffic.replies == list(range(traffic.sent))
    after = edge.counters()
    assert after["in_packets"] - before["in_packets"] == traffic.sent, "probes are not among them"
    assert after["out_packets"] - before["out_packets"] == traffic.sent
    assert edge.drops() == {}
    same = {name for name, number in edge.map_ids().items() if ids[name] == number}
    if new is NEW:
        assert {spec.name for spec in layout.MAPS["edge"] if spec.carried} <= same
    assert edge.running() == {OLD.identity}
    edge.run_after()


def test_swapped_fields_of_one_size_are_carried_over_by_name(edge: Edge) -> None:
    with pytest.MonkeyPatch.context() as patch:
        edge.build = use_swapped(patch)
        edge.serve()
        edge.relay_one()
        before = edge.counters()
    with pytest.raises(EdgewireError, match="another layout"):
        contents.ensure("edge", EDGE_PARAMS)
    edge.upgrade(OLD)
    edge.run_after()
    assert edge.counters() == before
    edge.relay_one()


def test_what_cannot_be_carried_over_is_written_before_the_swap(edge: Edge) -> None:
    """Nobody knows the layout of what runs: without the plan nothing is done, with it no packet sees an empty map."""
    with pytest.MonkeyPatch.context() as patch:
        edge.build = use_swapped(patch)
        edge.serve()
        (old,) = edge.running()
    kept_builds.forget("edge")
    edge.build = OLD
    with pytest.raises(EdgewireError, match=r"cannot be carried over: nobody knows the layout.*Give the role's object"):
        forwarder.ensure(edge.wanted(), OLD)
    assert edge.running() == {old}
    with Traffic(edge) as traffic:
        traffic.wait_for(100)
        edge.ensure(EDGE_PARAMS)
        traffic.wait_for(100)
    assert traffic.requests == list(range(traffic.sent))
    assert traffic.replies == list(range(traffic.sent))
    edge.run_after()


def test_too_little_room_is_told_and_nothing_is_changed(edge: Edge) -> None:
    edge.serve()
    smaller = build_of("edge", replace(SMALL, backends=2))
    edge.build = smaller
    with pytest.raises(EdgewireError, match=r"cannot be carried over: ew_\w+ has \d+ entries, and room for 2"):
        forwarder.ensure(edge.wanted(), smaller)
    assert edge.running() == {OLD.identity}
    edge.build = OLD
    assert edge.ensure() == []
    edge.relay_one()


def test_a_wrong_program_is_found_before_it_meets_a_packet(edge: Edge) -> None:
    edge.serve()
    ids = edge.map_ids()
    edge.build = WRONG
    with pytest.raises(EdgewireError, match=r"not attached: \d+ of \d+ probes came out wrong: .*packet [0-9a-f]+, ex"):
        forwarder.ensure(edge.wanted(), WRONG)
    assert edge.running() == {OLD.identity}
    assert edge.map_ids() == ids
    assert kept_builds.read("edge", WRONG.identity) is None
    edge.build = OLD
    assert edge.ensure() == []
    edge.relay_one()


@pytest.mark.parametrize("new", [NEW, LARGER], ids=["same layout", "larger maps"])
def test_a_probe_that_fails_after_the_swap_brings_the_previous_programs_back(
    edge: Edge, new: successors.Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.serve()
    ids = edge.map_ids()
    real = upgrade.swap

    def swap_and_break(*arguments: Any) -> None:
        real(*arguments)
        monkeypatch.setattr(trial, "MOST_PROBES", 1)
        broken = contents.edge_wanted({**EDGE_PARAMS, "services": EDGE_PARAMS["services"][:1]})
        monkeypatch.setattr(trial, "_services", lambda _: iter([(replace(broken.services[0], port=9), broken)]))

    with Traffic(edge) as traffic:
        traffic.wait_for(100)
        with monkeypatch.context() as patch:
            patch.setattr(upgrade, "swap", swap_and_break)
            edge.build = new
            with pytest.raises(
                EdgewireError, match=r"packet [0-9a-f]+, expected XDP_PASS [0-9a-f]+, found.*programs and maps are back"
            ):
                forwarder.ensure(edge.wanted(), new)
        traffic.wait_for(100)
    monkeypatch.undo()
    assert traffic.requests == list(range(traffic.sent))
    assert edge.running() == {OLD.identity}
    assert edge.map_ids() == ids


def test_an_attach_that_fails_half_way_is_taken_back(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    edge.serve()
    ids = edge.map_ids()
    real = attach.attach

    def failing(role: str, hook: Any, *rest: Any) -> None:
        if hook.program == "edge_xdp" and edge.build is NEW:
            edge.build = OLD
            raise EdgewireError("the driver has changed its mind")
        real(role, hook, *rest)

    monkeypatch.setattr(attach, "attach", failing)
    edge.build = NEW
    with pytest.raises(EdgewireError, match="changed its mind; the previous programs and maps are back"):
        forwarder.ensure(edge.wanted(), NEW)
    assert edge.ensure() == []
    assert edge.map_ids() == ids
    edge.relay_one()


NO_OP = """
import sys, time
from pathlib import Path
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import attach, forwarder, kept_builds, successors
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import Desired
attach.BPFFS, kept_builds.DIRECTORY = Path(sys.argv[1]), Path(sys.argv[2])
build = bytes.fromhex(sys.argv[3])
started, cpu = time.monotonic(), time.process_time()
steps = forwarder.ensure(Desired("edge", {"uplink": "eth0", "wireguard": "wg0"}, build, alone=True), None)
print(len(steps), "bcc" in sys.modules, "pyroute2" in sys.modules, time.monotonic() - started,
      time.process_time() - cpu)
"""


def test_nothing_to_do_imports_no_bcc(edge: Edge) -> None:
    edge.serve()
    arguments = (str(attach.BPFFS), str(kept_builds.DIRECTORY), OLD.identity.hex())
    steps, bcc, pyroute2, seconds, cpu = edge.ns.python(NO_OP, *arguments).stdout.split()
    print(f"a no-op of the edge's programs took {float(seconds):.3f} s, {float(cpu):.3f} s of CPU")
    assert (steps, bcc, pyroute2) == ("0", "False", "False")


# --- Rollback on demand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [NEW, LARGER], ids=["same layout", "larger maps"])
def test_back_to_the_previous_build_and_forward_again(
    edge: Edge, new: successors.Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.serve()
    assert rollback.roll_back("edge", False) == rollback.Outcome([], OLD.identity, OLD.identity)
    edge.upgrade(new)
    before = edge.counters()
    with Traffic(edge) as traffic:
        traffic.wait_for(50)
        predicted = rollback.roll_back("edge", True)
        assert len(predicted.steps) == 3
        assert rollback.roll_back("edge", False) == predicted
        traffic.wait_for(50)
    assert (predicted.build, predicted.replaced) == (OLD.identity, new.identity)
    assert traffic.requests == traffic.replies == list(range(traffic.sent))
    assert edge.counters()["out_packets"] - before["out_packets"] == traffic.sent
    assert rollback.roll_back("edge", False).steps == []
    monkeypatch.setattr(successors, "compiled", lambda *_: pytest.fail("the newer build is kept, too"))
    assert len(edge.ensure()) == 3
    edge.relay_one()
    assert rollback.roll_back("edge", True).build == OLD.identity


def test_a_third_build_pushes_the_first_one_out(edge: Edge) -> None:
    for build in (OLD, NEW, LARGER):
        edge.upgrade(build)
    kept = {path.name for path in kept_builds.DIRECTORY.iterdir()}
    assert kept == {kept_builds.path_of("edge", build.identity).name for build in (NEW, LARGER)}
    edge.ensure(present=False)
    assert not kept_builds.DIRECTORY.exists()


def test_programs_that_are_not_whole_are_not_rolled_back(edge: Edge) -> None:
    edge.serve()
    edge.ns.run("tc", "filter", "del", "dev", "eth0", "ingress", "pref", "7700")
    with pytest.raises(EdgewireError, match=r"edge_handoff not attached.*run xdp_forwarder first"):
        rollback.roll_back("edge", False)


# --- Killed ----------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], Any]) -> int:
    """Begin a process of its own; its id. It ends with 0, or says which error it met."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def in_child(work: Callable[[], Any]) -> int:
    """Run in a process of its own; how it ended, as waitpid(2) tells."""
    return os.waitpid(forked(work), 0)[1]


def die(*_: Any, **__: Any) -> None:
    """What no program can prepare for."""
    os.kill(os.getpid(), signal.SIGKILL)


STAGES: list[tuple[Any, str]] = [
    (successors, "prepare"),
    (upgrade, "fill"),
    (upgrade, "probe_new"),
    (upgrade, "note_previous"),
    (os, "fchmod"),  # in the midst of that
    (upgrade, "swap"),
    (upgrade, "probe_live"),
    (upgrade, "catch_up"),
    (upgrade, "pin"),
    (libbpf, "pin"),  # the first program's, in a directory that has no name yet
    (Path, "rename"),  # all are in it
    (attach, "tidy_links"),
    (attach, "remove"),
]
STAGE_NAMES = [f"{module.__name__.rpartition('.')[2]}.{stage}" for module, stage in STAGES]


@pytest.mark.parametrize("new", [NEW, LARGER], ids=["same layout", "larger maps"])
@pytest.mark.parametrize(("module", "stage"), STAGES, ids=STAGE_NAMES)
def test_killed_before_a_stage(
    edge: Edge, module: Any, stage: str, new: successors.Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.serve()
    edge.build = new
    with monkeypatch.context() as patch:
        patch.setattr(module, stage, die)
        ended = in_child(lambda: forwarder.ensure(edge.wanted(), new))
    if (stage, new) != ("remove", NEW):  # nothing has to go where all maps are shared
        assert os.WTERMSIG(ended) == signal.SIGKILL
    edge.relay_one()
    edge.ensure()
    assert edge.running() == {new.identity}
    assert list(kept_builds.DIRECTORY.glob(".*")) == [], "what was half written is gone"
    assert rollback.roll_back("edge", True).build == OLD.identity
    edge.run_after()
    edge.relay_one()


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("new", [NEW, LARGER], ids=["same layout", "larger maps"])
def test_killed_between_two_hooks(
    edge: Edge, number: int, new: successors.Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.serve()
    edge.build = new
    real, seen = attach.attach, []

    def attach_some(*arguments: Any) -> None:
        real(*arguments)
        seen.append(arguments)
        if len(seen) == number:
            die()

    with monkeypatch.context() as patch:
        patch.setattr(attach, "attach", attach_some)
        assert os.WTERMSIG(in_child(lambda: forwarder.ensure(edge.wanted(), new))) == signal.SIGKILL
    edge.relay_one()
    edge.ensure()
    assert edge.running() == {new.identity}
    edge.run_after()
    edge.relay_one()


def test_two_runs_at_once(edge: Edge, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """They take turns: one does the work, the other finds it done."""
    monkeypatch.setattr(turns, "LOCK", str(tmp_path / "lock"))
    edge.serve()
    edge.build = NEW

    def run(name: str) -> Callable[[], None]:
        def work() -> None:
            with turns.turn():
                steps = forwarder.ensure(edge.wanted(), NEW)
            (tmp_path / name).write_text(str(len(steps)))

        return work

    children = [forked(run(name)) for name in ("one", "two")]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert sorted((tmp_path / name).read_text() for name in ("one", "two")) == ["0", "3"]
    edge.run_after()
    edge.relay_one()
