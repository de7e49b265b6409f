# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs on their hooks: attached, repaired, swapped and removed, and nobody else's touched."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    batches,
    contents,
    edge_state,
    forwarder,
    kept_builds,
    layout,
    libbpf,
    map_io,
    netdev,
    successors,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import Desired
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EDGE_PARAMS,
    SMALL,
    V4,
    V6,
    WORKER_PARAMS,
    BareEdge,
    Wire,
    build_of,
    desired,
    make_edge_interfaces,
    make_worker_interfaces,
    tunnel_of,
)
from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns, wait_until

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

LoadForeign = Callable[[str, str, str], tuple[int, Any]]
EDGE_HOOKS = ["edge_egress on wg0", "edge_handoff on eth0", "edge_xdp on eth0"]


class Host(BareEdge):
    """An edge, and the programs wanted there."""

    def preview(self, **more: Any) -> list[Step]:
        return forwarder.preview(replace(desired("edge", self.build), **more))

    def ensure(self, **more: Any) -> list[Step]:
        """Predict, then do, and find that the prediction was right and that nothing is left to do."""
        wanted = replace(desired("edge", self.build), **more)
        predicted = forwarder.preview(wanted)
        steps = forwarder.ensure(wanted, self.build)
        assert steps == predicted
        assert forwarder.preview(wanted) == []
        assert forwarder.ensure(wanted, self.build) == []
        return steps

    def map_set(self) -> int | None:
        """The one map set of all programs that run."""
        found = {there.map_set for _, there in map_io.find_attached("edge").values()}
        assert len(found) == 1
        return found.pop()

    def state(self) -> edge_state.EdgeState:
        """What the running maps say."""
        with map_io.running_maps("edge") as maps:
            assert maps is not None
            return edge_state.read(maps)

    def remove_filter(self, interface: str) -> None:
        """Remove our filter behind the collection's back."""
        self.ns.run("tc", "filter", "del", "dev", interface, "ingress", "pref", "7700")

    def remove_link_pin(self) -> None:
        """Remove the pin of our XDP link: nothing else holds the hook, and the kernel lets go of it in its own time."""
        ifindex = netdev.ifindex_of("eth0")
        assert ifindex is not None
        (attach.pin_root("edge") / "link").unlink()
        wait_until(lambda: libbpf.xdp_query(ifindex) == libbpf.XdpQuery(None, None), "the hook to be free")

    def qdiscs(self, interface: str) -> list[str]:
        """The kinds of an interface's queueing disciplines."""
        return [q["kind"] for q in self.ns.json("tc", "-j", "qdisc", "show", "dev", interface)]


@pytest.fixture
def host(fresh_pins: Path, quick_compiler: None, make_netns: Callable[[], Netns]) -> Iterator[Host]:
    """An edge without programs; pins go to a bpffs of this test alone."""
    ns, client = make_netns(), make_netns()
    make_edge_interfaces(ns, client)
    tun, wire = tunnel_of(ns, V4.edge_overlay, V6.edge_overlay), Wire(client, "eth0")
    with ns:
        yield Host(ns, tun, wire)
    tun.close()
    wire.close()


@pytest.fixture
def compiles(quick_compiler: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles that were compiled, in order."""
    seen: list[str] = []
    real = successors.compiled

    @functools.wraps(real)
    def spy(wanted: Desired, build: successors.Build | None) -> kept_builds.KeptBuild:
        seen.append(wanted.role)
        return real(wanted, build)

    monkeypatch.setattr(successors, "compiled", spy)
    return seen


def names(steps: Sequence[Step], verb: str) -> list[str]:
    """The names of steps that must all have this verb."""
    assert {step.verb for step in steps} <= {verb}
    return [step.name for step in steps]


@pytest.fixture
def load_foreign() -> Iterator[LoadForeign]:
    """A function that loads somebody else's program with bcc: file descriptor, and bcc's object for its maps."""
    kept = []

    def load(source: str, function: str, kind: str) -> tuple[int, Any]:
        import bcc

        bpf = bcc.BPF(text=source.encode())
        kept.append(bpf)
        return bpf.load_func(function.encode(), {"xdp": bcc.BPF.XDP, "tc": bcc.BPF.SCHED_CLS}[kind]).fd, bpf

    yield load
    kept.clear()


def test_attach_and_nothing_more_to_do(host: Host, compiles: list[str]) -> None:
    assert names(host.ensure(), "add") == EDGE_HOOKS
    assert compiles == ["edge"]
    contents.ensure("edge", EDGE_PARAMS)
    host.relay_one()


def test_check_mode_before_the_interfaces_exist(host: Host) -> None:
    wanted = replace(desired("edge", host.build), interfaces={"uplink": "eth0", "wireguard": "wg7"})
    assert len(forwarder.preview(wanted, wireguard_may_be_missing=True)) == 3
    with pytest.raises(EdgewireError, match="no such interface: wg7"):
        forwarder.ensure(wanted, host.build)
    assert map_io.find_attached("edge") == {}


@pytest.mark.parametrize(("interface", "program"), [("eth0", "edge_handoff on eth0"), ("wg0", "edge_egress on wg0")])
def test_a_removed_filter_comes_back_without_compiling(
    host: Host, compiles: list[str], interface: str, program: str
) -> None:
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    before = host.map_set()
    host.remove_filter(interface)
    assert names(host.preview(), "add") == [program]
    assert names(host.ensure(), "add") == [program]
    assert compiles == ["edge"]
    assert host.map_set() == before
    host.relay_one()


def test_a_removed_link_pin_comes_back_without_compiling(host: Host, compiles: list[str]) -> None:
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    host.remove_link_pin()
    assert names(host.ensure(), "add") == ["edge_xdp on eth0"]
    assert compiles == ["edge"]
    host.relay_one()


@pytest.mark.parametrize(("is_kept", "compiled"), [(True, ["edge"]), (False, ["edge", "edge"])])
def test_without_pins_it_loads_or_compiles_and_carries_over(
    host: Host, compiles: list[str], is_kept: bool, compiled: list[str]
) -> None:
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    host.relay_one()
    state, counters = host.state(), host.counters()
    assert counters["in_packets"] == 2
    shutil.rmtree(attach.build_directory("edge", host.build.identity))
    if not is_kept:
        kept_builds.forget("edge")
    host.remove_filter("eth0")
    assert "edge_handoff on eth0" in names(host.ensure(), "add")
    assert compiles == compiled
    assert (host.state(), host.counters()) == (state, counters)
    assert contents.preview("edge", EDGE_PARAMS) == []
    host.relay_one()


def test_another_build_takes_over_with_contents(host: Host, compiles: list[str]) -> None:
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    host.relay_one()
    state, counters, old = host.state(), host.counters(), host.build
    host.build = build_of("edge", replace(SMALL, services=128))
    assert names(host.ensure(), "change") == EDGE_HOOKS
    assert compiles == ["edge", "edge"]
    assert replace(host.state(), capacity={}) == replace(state, capacity={})
    assert host.state().capacity["services"] == 128
    assert host.counters() == counters
    assert not attach.build_directory("edge", old.identity).exists()
    host.relay_one()


def test_a_smaller_build_takes_over_what_fits(host: Host) -> None:
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    host.build = build_of("edge", replace(SMALL, services=8))
    host.ensure()
    assert contents.preview("edge", EDGE_PARAMS) == []
    host.relay_one()


FOREIGN_XDP = "int foreign_xdp(struct xdp_md *ctx) { return 2; }"
FOREIGN_TC = "int foreign_tc(struct __sk_buff *skb) { return -1; }"


@pytest.mark.parametrize("how", ["link", "netlink"])
def test_a_foreign_xdp_program_stays(
    host: Host, load_foreign: LoadForeign, fresh_pins: Path, compiles: list[str], how: str
) -> None:
    fd, _ = load_foreign(FOREIGN_XDP, "foreign_xdp", "xdp")
    ifindex = netdev.ifindex_of("eth0")
    assert ifindex is not None
    if how == "link":
        link = libbpf.xdp_link_create(fd, ifindex, "native")
    else:
        libbpf.pin(fd, str(fresh_pins / "foreign"))
        host.ns.run("ip", "link", "set", "eth0", "xdpdrv", "pinned", str(fresh_pins / "foreign"))
    theirs = libbpf.xdp_query(ifindex)
    for act in (host.preview, host.ensure):
        with pytest.raises(EdgewireError, match=r"XDP native of eth0 is held by program 'foreign_xdp' \(id \d+\)"):
            act()
    assert compiles == []
    assert map_io.find_attached("edge") == {}, "nothing else was attached, either"
    assert host.ensure(present=False) == []
    assert libbpf.xdp_query(ifindex) == theirs
    if how == "link":
        os.close(link)
    else:
        host.ns.run("ip", "link", "set", "eth0", "xdpdrv", "off")
    assert names(host.ensure(), "add") == EDGE_HOOKS


def test_a_foreign_program_at_our_priority_stays(host: Host, load_foreign: LoadForeign) -> None:
    fd, _ = load_foreign(FOREIGN_TC, "foreign_tc", "tc")
    ifindex = netdev.ifindex_of("wg0")
    assert ifindex is not None
    libbpf.tc_attach(ifindex, 7700, fd)
    theirs = libbpf.tc_query(ifindex, 7700)
    with pytest.raises(EdgewireError, match=r"TC ingress of wg0 is held by program 'foreign_tc'"):
        host.ensure()
    assert host.ensure(present=False) == []
    assert libbpf.tc_query(ifindex, 7700) == theirs
    libbpf.tc_detach(ifindex, 7700)
    assert names(host.ensure(), "add") == EDGE_HOOKS


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_a_foreign_filter_beside_ours_is_left_alone(
    host: Host, load_foreign: LoadForeign, fresh_pins: Path, side: str
) -> None:
    fd, _ = load_foreign(FOREIGN_TC, "foreign_tc", "tc")
    libbpf.pin(fd, str(fresh_pins / "foreign"))
    host.ns.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    add = f"filter add dev eth0 {side} pref 10 bpf da pinned {fresh_pins}/foreign"
    host.ns.run("tc", *add.split())
    show = ("tc", "filter", "show", "dev", "eth0", side, "pref", "10")
    theirs = host.ns.run(*show).stdout
    assert "foreign" in theirs
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    assert host.ns.run(*show).stdout == theirs
    host.relay_one()
    host.ensure(present=False)
    assert host.ns.run(*show).stdout == theirs
    ifindex = netdev.ifindex_of("eth0")
    assert ifindex is not None
    assert libbpf.tc_query(ifindex, 7700) is None


def test_absent_removes_all_of_ours(host: Host, fresh_pins: Path) -> None:
    before = {interface: host.qdiscs(interface) for interface in ("eth0", "wg0")}
    host.ensure()
    steps = host.ensure(present=False)
    assert [step.name for step in steps[:3]] == EDGE_HOOKS[::-1]
    assert {step.verb for step in steps} == {"remove"}
    assert {interface: host.qdiscs(interface) for interface in ("eth0", "wg0")} == before
    ifindex = netdev.ifindex_of("eth0")
    assert ifindex is not None
    assert libbpf.xdp_query(ifindex) == libbpf.XdpQuery(None, None)
    assert [path.name for path in fresh_pins.iterdir() if not path.name.endswith(".debug")] == []


def test_the_hook_is_free_at_once(host: Host) -> None:
    """A mode is changed by a new link, and the kernel would let go of an unpinned one only in its own time."""
    for mode in ("native", "generic") * 5:
        host.ensure(xdp_mode=mode)
    for _ in range(5):
        host.ensure(present=False)
        host.ensure()


def test_absent_where_the_interfaces_are_gone(host: Host, fresh_pins: Path) -> None:
    host.ensure()
    host.ns.run("ip", "link", "del", "eth0")
    host.tun.close()
    assert {step.kind for step in host.ensure(present=False)} == {"pin"}
    assert not (fresh_pins / "edgewire").exists()


def test_a_new_interface_of_the_same_name(host: Host, compiles: list[str], make_netns: Callable[[], Netns]) -> None:
    host.ensure()
    contents.ensure("edge", EDGE_PARAMS)
    state = host.state()
    host.ns.run("ip", "link", "del", "eth0")
    (link,) = attach.pinned_links("edge").values()
    assert link.ifindex == 0, "the pinned link outlives the interface"
    client = make_netns()
    make_edge_interfaces(host.ns, client)
    assert names(host.ensure(), "add") == ["edge_handoff on eth0", "edge_xdp on eth0"]
    assert compiles == ["edge"]
    assert [(s.kind, s.verb) for s in contents.ensure("edge", EDGE_PARAMS)] == [("configuration", "change")]
    assert contents.ensure("edge", EDGE_PARAMS) == []
    assert replace(host.state(), config={}) == replace(state, config={})
    host.wire.close()
    host.wire = Wire(client, "eth0")
    host.relay_one()


OTHER_LAYOUT = """
struct identity { u8 build[32]; u8 schema[32]; };
BPF_TABLE("array", u32, struct identity, ew_identity, 1);
BPF_TABLE("array", u32, u64, ew_config, 1);
int edge_egress(struct __sk_buff *skb) {
    u32 zero = 0;
    return ew_identity.lookup(&zero) && ew_config.lookup(&zero) ? -1 : 2;
}
"""


def test_maps_of_another_layout_are_refused_and_replaced(host: Host, load_foreign: LoadForeign) -> None:
    """An older version of the collection runs here: its maps must not be read as ours; ensure takes its place."""
    fd, keep = load_foreign(OTHER_LAYOUT, "edge_egress", "tc")
    record = layout.IDENTITY.pack({"build": b"o" * 32, "schema": b"s" * 32})
    batches.update_batch(keep[b"ew_identity"].map_fd, "ew_identity", layout.U32.of(0), record, 1)
    ifindex = netdev.ifindex_of("wg0")
    assert ifindex is not None
    libbpf.tc_attach(ifindex, 7700, fd)
    with pytest.raises(EdgewireError, match=r"maps have another layout .* run xdp_forwarder"):
        contents.ensure("edge", EDGE_PARAMS)
    with pytest.raises(EdgewireError, match="cannot be carried over: nobody knows the layout"):
        forwarder.ensure(desired("edge", host.build), host.build)
    steps = host.ensure(force=True)
    assert (steps[0].verb, steps[0].name) == ("change", "edge_egress on wg0")
    contents.ensure("edge", EDGE_PARAMS)
    assert contents.ensure("edge", EDGE_PARAMS) == host.ensure() == []
    host.relay_one()


def test_one_program_leads_to_all_maps(host: Host) -> None:
    """Also to those that only another program uses, and to one that none does."""
    host.ensure()
    host.remove_link_pin()
    shutil.rmtree(attach.build_directory("edge", host.build.identity))
    host.remove_filter("eth0")
    assert set(map_io.find_attached("edge")) == {"edge_egress"}
    assert contents.ensure("edge", EDGE_PARAMS)
    assert contents.ensure("edge", EDGE_PARAMS) == []


def test_what_does_not_compile_says_so(host: Host) -> None:
    host.build = replace(host.build, source=host.build.source + "\nint broken(void) { return nowhere; }\n")
    with pytest.raises(EdgewireError, match=r"(?s)edge programs did not compile.*nowhere"):
        forwarder.ensure(desired("edge", host.build), host.build)
    assert map_io.find_attached("edge") == {}


def test_sources_and_layout_that_disagree_do_not_compile(host: Host) -> None:
    source = host.build.source.replace("__u32 uplink_ifindex;", "__u32 uplink_ifindex, more;", 1)
    host.build = replace(host.build, source=source)
    with pytest.raises(EdgewireError, match="size of edge_config"):
        forwarder.ensure(desired("edge", host.build), host.build)


def test_edge_and_worker_on_one_box(host: Host, make_netns: Callable[[], Netns]) -> None:
    """The worker's programs have their own priority: one role goes and the other stays."""
    make_worker_interfaces(host.ns, make_netns())
    worker = build_of("worker")
    host.ensure()
    forwarder.ensure(desired("worker", worker), worker)
    contents.ensure("edge", EDGE_PARAMS)
    contents.ensure("worker", WORKER_PARAMS)
    assert host.preview() == []
    host.ensure(present=False)
    assert forwarder.preview(desired("worker", worker)) == []
    assert contents.preview("worker", WORKER_PARAMS) == []
    forwarder.ensure(desired("worker", worker, present=False), None)
    assert "clsact" not in host.qdiscs("wg0")
