# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong with a box: told before anything is touched, and repaired by the next run once it is mended."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ansible
import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    compiler,
    contents,
    forwarder,
    kept_builds,
    libbpf,
    map_io,
    netdev,
    preflight,
    successors,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EDGE_PARAMS,
    SMALL,
    Wire,
    build_of,
    desired,
    make_edge_interfaces,
    make_worker_interfaces,
)
from ansible_collections.edgewire.fleet.tests.kernel.conftest import COLLECTIONS, Netns, wait_until
from ansible_collections.edgewire.fleet.tests.kernel.upgrade_support import NEW, OLD, Edge

pytest_plugins = [
    "ansible_collections.edgewire.fleet.tests.kernel.bpf_support",
    "ansible_collections.edgewire.fleet.tests.kernel.upgrade_support",
]
pytestmark = pytest.mark.kernel


def refused(edge: Edge, match: str, **more: Any) -> str:
    """The error of a run that changes nothing."""
    before = edge.running()
    with pytest.raises(EdgewireError, match=match) as caught:
        forwarder.ensure(edge.wanted(**more), edge.build)
    assert edge.running() == before
    return str(caught.value)


# --- Before anything is touched ---------------------------------------------------------------------------------------


def test_a_bpffs_that_is_read_only(edge: Edge, fresh_pins: Path) -> None:
    edge.serve()
    edge.build = NEW
    subprocess.run(["mount", "-o", "remount,ro", str(fresh_pins)], check=True)
    with pytest.raises(EdgewireError, match=f"{fresh_pins}.* is on a bpffs that is mounted read-only; .*remount,rw"):
        forwarder.ensure(edge.wanted(), NEW)
    subprocess.run(["mount", "-o", "remount,rw", str(fresh_pins)], check=True)
    assert edge.running() == {OLD.identity}
    edge.ensure()
    edge.run_after()
    edge.relay_one()


def test_a_bpffs_that_was_unmounted(edge: Edge, fresh_pins: Path) -> None:
    """The pins go, and with them the link that holds the XDP hook; TC's filters, which need no pin, stay."""
    edge.serve()
    subprocess.run(["umount", str(fresh_pins)], check=True)
    wait_until(lambda: set(map_io.find_attached("edge")) == {"edge_egress", "edge_handoff"}, "the XDP hook to be free")
    refused(edge, f"nothing was changed: no bpffs is mounted at {fresh_pins}; mount -t bpf bpf {fresh_pins}")
    subprocess.run(["mount", "-t", "bpf", "bpf", str(fresh_pins)], check=True)
    assert [step.name for step in edge.ensure()] == ["edge_xdp on eth0"]
    edge.run_after()
    edge.relay_one()


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine without bcc and without headers, and a directory that is no bpffs, until the patches are undone."""
    real = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bcc" else real(name, *rest))
        release = platform.release().split("-")[0] + "-without-headers"
        patch.setattr(platform, "release", lambda: release)
        yield patch


def test_all_that_is_wrong_is_told_at_once(edge: Edge, without_compiler: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The wrong interpreter, headers missing, bpffs missing, too little memory: one error."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable:    1024 kB\n")
    without_compiler.setattr(preflight, "_MEMINFO", meminfo)
    without_compiler.setattr(attach, "BPFFS", tmp_path)
    told = refused(edge, "^nothing was changed: ")
    assert "bcc cannot be imported by" in told
    assert "python3-bpfcc" in told
    assert "kernel headers are missing" in told
    assert "linux-headers-" in told
    assert f"no bpffs is mounted at {tmp_path}" in told
    assert "1 MB are available" in told
    without_compiler.undo()
    edge.serve()
    edge.run_after()


# The module, as Ansible runs it, with the places of this test.
MODULE = """
import sys
from pathlib import Path
from ansible_collections.edgewire.fleet.plugins.module_utils import turns
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import attach, kept_builds
from ansible_collections.edgewire.fleet.plugins.modules.xdp_forwarder import main
turns.LOCK, builds, bpffs = (sys.argv.pop() for _ in range(3))  # arguments of a module's own are something else
attach.BPFFS, kept_builds.DIRECTORY = Path(bpffs), Path(builds)
main()
"""
PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        # Without the distribution's packages, as in a virtual environment.
        pytest.param([PYTHON, "-S"], rf"bcc cannot be imported by {PYTHON}.*python3-bpfcc.*{PYTHON}", id="no bcc"),
        pytest.param(
            ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /lib/modules; exec "$@"', "sh", PYTHON],
            "kernel headers are missing: /lib/modules/.*/build does not exist.*linux-headers-",
            id="no headers",
        ),
    ],
)
def test_a_module_that_cannot_compile(edge: Edge, tmp_path: Path, prefix: list[str], told: str) -> None:
    """It names what is missing; what has it does the work, and then nothing more is missing, as nothing is compiled."""
    given = {"sources": {"edge": OLD.source}, "capacity": asdict(SMALL)}
    places = (str(attach.BPFFS), str(kept_builds.DIRECTORY), str(tmp_path / "lock"))
    # Ansible brings itself along.
    libraries = f"{COLLECTIONS}:{Path(ansible.__file__).parents[1]}"

    def run(command: list[str]) -> dict[str, Any]:
        done = edge.ns.run(
            *(*command, "-c", MODULE, *places),
            check=False,
            input=json.dumps({"ANSIBLE_MODULE_ARGS": given}),
            env={**os.environ, "PYTHONPATH": libraries},
        )
        assert done.stdout, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    refused = run(prefix)
    assert refused["failed"]
    assert re.match(f"nothing was changed: {told}", refused["msg"]), refused["msg"]
    assert edge.running() == set()
    assert run([PYTHON])["changed"] is True
    assert [run(command)["changed"] for command in ([PYTHON], prefix)] == [False, False]
    contents.ensure("edge", EDGE_PARAMS)
    edge.run_after()
    edge.relay_one()


def test_a_build_that_is_kept_needs_no_compiler(edge: Edge, without_compiler: pytest.MonkeyPatch) -> None:
    without_compiler.undo()
    edge.serve()
    edge.upgrade(NEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "problems", lambda: ["there is no compiler"])
        edge.upgrade(OLD)
        refused(replace_build(edge, replace(OLD, source=OLD.source + "/* third */\n")), "there is no compiler")
    edge.relay_one()


def replace_build(edge: Edge, build: successors.Build) -> Edge:
    """The same edge with another build to come."""
    edge.build = build
    return edge


def test_a_compiler_that_is_broken_leaves_what_runs(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    edge.serve()
    edge.build = NEW

    def broken(*_: Any) -> Any:
        raise EdgewireError("the edge programs did not compile: LLVM ERROR")

    with monkeypatch.context() as patch:
        patch.setattr(successors, "compiled", broken)
        refused(edge, "LLVM ERROR")
    edge.relay_one()
    edge.ensure()
    edge.run_after()


def test_a_driver_without_native_xdp(edge: Edge) -> None:
    edge.ns.run("ip", "link", "add", "br0", "type", "bridge")
    edge.ns.run("ip", "link", "set", "br0", "up")
    there = {"uplink": "br0", "wireguard": "wg0"}
    refused(
        edge, r"nothing was changed: the driver of br0 \(bridge\) has no native XDP; set xdp_mode", interfaces=there
    )
    assert "clsact" not in edge.ns.run("tc", "qdisc", "show", "dev", "br0").stdout
    edge.ensure(interfaces=there, xdp_mode="generic")
    assert forwarder.xdp_mode_in_force(edge.wanted(interfaces=there)) == "generic"


def test_a_bpffs_that_is_read_only_from_the_start(edge: Edge, fresh_pins: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(fresh_pins)], check=True)
    refused(edge, f"nothing was changed: the bpffs at {fresh_pins} is mounted read-only")
    subprocess.run(["mount", "-o", "remount,rw", str(fresh_pins)], check=True)
    edge.ensure()


def test_an_mtu_that_is_too_large_for_native_xdp(edge: Edge) -> None:
    for ns in (edge.ns, edge.client):
        ns.run("ip", "link", "set", "eth0", "mtu", "9000")
    refused(edge, r"eth0 \(veth\) refuses native XDP with an MTU of 9000: .*leaves 3506 bytes; lower the MTU")
    for ns in (edge.ns, edge.client):
        ns.run("ip", "link", "set", "eth0", "mtu", "1500")
    edge.serve()
    edge.run_after()
    edge.relay_one()


# --- Whose hook it is -------------------------------------------------------------------------------------------------

FOREIGN = "int %s(struct xdp_md *ctx) { return 2; }"


@pytest.fixture
def foreign() -> Iterator[Callable[[str], int]]:
    """A function that loads somebody else's XDP program of a name."""
    import bcc

    kept = []

    def load(name: str) -> int:
        bpf = bcc.BPF(text=(FOREIGN % name).encode())
        kept.append(bpf)
        return int(bpf.load_func(name.encode(), bcc.BPF.XDP).fd)

    yield load
    for bpf in kept:
        bpf.cleanup()


def index(name: str = "eth0") -> int:
    """An interface's index in this namespace."""
    found = netdev.ifindex_of(name)
    assert found is not None
    return found


def test_a_foreign_link_is_named_with_all_who_hold_it(
    edge: Edge, foreign: Callable[[str], int], fresh_pins: Path
) -> None:
    link = libbpf.xdp_link_create(foreign("guard"), index(), "native")
    libbpf.pin(link, str(fresh_pins / "theirs"))
    number = libbpf.link_info(link).id
    told = refused(edge, r"XDP native of eth0 is held by program 'guard' \(id \d+\)")
    assert f"link {number}" in told
    assert f"process {os.getpid()} (" in told
    assert f"pinned at {fresh_pins}/theirs" in told
    edge.ensure(force=True)
    assert edge.running() == {OLD.identity}
    os.close(link)
    (fresh_pins / "theirs").unlink()
    contents.ensure("edge", EDGE_PARAMS)
    edge.run_after()
    edge.relay_one()


def test_libxdps_dispatcher_is_told_as_that(edge: Edge, foreign: Callable[[str], int], fresh_pins: Path) -> None:
    libbpf.pin(foreign("xdp_dispatcher"), str(fresh_pins / "theirs"))
    edge.ns.run("ip", "link", "set", "eth0", "xdpdrv", "pinned", str(fresh_pins / "theirs"))
    told = refused(edge, "'xdp_dispatcher'")
    assert "attached without a link" in told
    assert "xdp-loader status" in told
    edge.ensure(force=True)
    assert edge.ensure() == []
    assert edge.running() == {OLD.identity}


def test_the_tag_is_no_identity(edge: Edge) -> None:
    """Two builds whose instructions have one tag, with maps of other sizes: each is told from the other."""
    other = build_of("edge", replace(SMALL, services=128))

    def tags() -> set[str]:
        found = map_io.find_attached("edge").values()
        shown = (
            subprocess.run(
                ["bpftool", "-j", "prog", "show", "id", str(there.program_id)], capture_output=True, check=True
            )
            for _, there in found
        )
        return {json.loads(done.stdout)["tag"] for done in shown}

    edge.serve()
    before = tags()
    assert len(edge.upgrade(other)) == 3
    assert tags() == before
    edge.run_after()
    edge.relay_one()


def test_a_pin_that_is_another_builds(edge: Edge) -> None:
    edge.serve()
    attach.build_directory("edge", OLD.identity).rename(attach.build_directory("edge", NEW.identity))
    edge.upgrade(NEW)
    assert edge.running() == {NEW.identity}
    edge.run_after()
    edge.relay_one()


def test_pins_that_are_lost_are_made_again(edge: Edge) -> None:
    edge.serve()
    ids = edge.map_ids()
    attach.remove(attach.build_directory("edge", OLD.identity))
    (step,) = edge.ensure()
    assert (step.verb, step.kind) == ("add", "pin")
    assert edge.map_ids() == ids
    edge.run_after()


# --- Devices ----------------------------------------------------------------------------------------------------------


def test_an_uplink_that_is_down_is_switched_on(edge: Edge) -> None:
    edge.serve()
    edge.ns.run("ip", "link", "set", "eth0", "down")
    (step,) = edge.ensure()
    assert (step.kind, step.name, step.before, step.after) == ("interface", "eth0", {"state": "down"}, {"state": "up"})
    assert netdev.is_up("eth0")


def test_an_uplink_that_was_renamed(edge: Edge) -> None:
    edge.serve()
    edge.ns.run("ip", "link", "set", "eth0", "down")
    edge.ns.run("ip", "link", "set", "eth0", "name", "lan0")
    edge.ns.run("ip", "link", "set", "lan0", "up")
    told = refused(edge, "no such interface: eth0")
    assert "edge_xdp on lan0" in told
    edge.build = OLD
    assert edge.ensure(interfaces={"uplink": "lan0", "wireguard": "wg0"}) == []


@pytest.mark.parametrize("has_its_number", [False, True])
def test_an_uplink_that_was_moved_to_another_namespace(
    edge: Edge, make_netns: Callable[[], Netns], has_its_number: bool
) -> None:
    """The link that holds the lost one's hook stays pinned, and may name the number of the one in its place."""
    edge.serve()
    elsewhere, client = make_netns(), make_netns()
    number = netdev.ifindex_of("eth0") if has_its_number else None
    edge.ns.run("ip", "link", "set", "eth0", "netns", elsewhere.name)
    refused(edge, "no such interface: eth0")
    make_edge_interfaces(edge.ns, client, number)
    steps = edge.ensure()
    assert {step.name for step in steps} == {"edge_handoff on eth0", "edge_xdp on eth0"}
    contents.ensure("edge", EDGE_PARAMS)
    edge.run_after()
    edge.wire.close()
    edge.wire = Wire(client, "eth0")
    edge.relay_one()


def test_another_uplink_in_the_inventory(edge: Edge, make_netns: Callable[[], Netns]) -> None:
    """What is left on the old one goes, in the same run and after the new one is served."""
    edge.serve()
    other = make_netns()
    edge.ns.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", other.name)
    edge.ns.run("ip", "link", "set", "eth1", "up")
    steps = edge.ensure(interfaces={"uplink": "eth1", "wireguard": "wg0"})
    assert [(step.verb, step.name) for step in steps] == [
        ("add", "edge_handoff on eth1"),
        ("add", "edge_xdp on eth1"),
        ("remove", "edge_handoff on eth0"),
        ("remove", "edge_xdp on eth0"),
    ]
    assert libbpf.xdp_query(index("eth0")) == libbpf.XdpQuery(None, None)
    assert [path.name for path in attach.pinned_links("edge")] == ["link"]
    assert "clsact" not in edge.ns.run("tc", "qdisc", "show", "dev", "eth0").stdout


def test_another_role_in_the_inventory(edge: Edge, make_netns: Callable[[], Netns]) -> None:
    edge.serve()
    make_worker_interfaces(edge.ns, make_netns())
    worker = build_of("worker")
    wanted = replace(desired("worker", worker), alone=True)
    predicted = forwarder.preview(wanted)
    assert {step.name for step in predicted if step.verb == "remove"} == {
        "edge_egress on wg0",
        "edge_handoff on eth0",
        "edge_xdp on eth0",
    }
    assert forwarder.ensure(wanted, worker) == predicted
    assert forwarder.ensure(wanted, worker) == []
    assert map_io.find_attached("edge") == {}
    assert not attach.pin_root("edge").exists()
    assert kept_builds.read("edge", OLD.identity) is None
