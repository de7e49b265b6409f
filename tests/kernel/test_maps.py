# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Map contents in the kernel: filled, damaged with bpftool, repaired, told in human terms."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    batches,
    contents,
    edge_maps,
    edge_state,
    info,
    layout,
    map_io,
    proofs,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    CONTAINER,
    DNS_ENDPOINT,
    ECHO_CONTAINER_PORT,
    ECHO_ENDPOINT,
    ECHO_PORT,
    ECHO_VIP,
    EDGE_PARAMS,
    EDGE_RELAY,
    GAMES_CONTAINER_PORT,
    GAMES_LAST_PORT,
    GAMES_PORT,
    PORT,
    V4,
    V6,
    VIP,
    WORKER2_RELAY,
    WORKER_PARAMS,
    WORKER_RELAY,
    Box,
    Net,
    WorkerBox,
    named,
)

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel


def bpftool(verb: str, box: Box, name: str, *more: str) -> None:
    """Change a running map behind the collection's back."""
    command = ["bpftool", "map", verb, "id", str(box.maps[name].info.id), *more]
    subprocess.run(command, check=True, capture_output=True)


def words(data: bytes) -> list[str]:
    """Bytes as bpftool wants them."""
    return [str(byte) for byte in data]


def told(steps: list[Step]) -> list[tuple[str, str, str]]:
    """Steps without their values."""
    return [(step.verb, step.kind, step.name) for step in steps]


def expect_repair(role: str, params: dict[str, Any], expected: list[tuple[str, str, str]]) -> list[Step]:
    """Preview names the damage, ensure repairs just that, and nothing is left to do; the steps."""
    steps = contents.preview(role, params)
    assert told(steps) == expected
    assert contents.ensure(role, params) == steps
    assert contents.preview(role, params) == []
    shutil.rmtree(proofs.DIRECTORY)
    assert contents.preview(role, params) == [], "what was written is what a plan from there on wants"
    return steps


@pytest.mark.parametrize("name", ["edge_box", "worker_box"])
def test_a_second_run_does_nothing(request: pytest.FixtureRequest, name: str) -> None:
    box = request.getfixturevalue(name)
    params = {"edge": EDGE_PARAMS, "worker": WORKER_PARAMS}[box.role]
    for _ in range(2):
        assert contents.preview(box.role, params) == []
        assert contents.ensure(box.role, params) == []
        shutil.rmtree(proofs.DIRECTORY)


SERVICE_KEY = words(layout.SERVICE_KEY.pack({"vip": VIP, "port": PORT}))
DNS_KEY = words(DNS_ENDPOINT.to_bytes(4, "big"))


def test_a_removed_service(edge_box: Box) -> None:
    bpftool("delete", edge_box, "ew_services", "key", *SERVICE_KEY)
    (step,) = expect_repair("edge", EDGE_PARAMS, [("add", "service", f"{VIP}:{PORT}/udp")])
    assert step.before is None
    assert step.after is not None
    assert (step.after["name"], step.after["backends"]) == ("dns", {f"worker1 ({DNS_ENDPOINT})": 1.0})


def test_a_removed_reply_entry(edge_box: Box) -> None:
    bpftool("delete", edge_box, "ew_endpoints", "key", *DNS_KEY)
    (step,) = expect_repair("edge", EDGE_PARAMS, [("change", "backend", f"dns on worker1 ({DNS_ENDPOINT})")])
    assert step.before is not None
    assert step.after is not None
    assert (step.before["reply_entry"], step.after["reply_entry"]) == (False, True)


def slot_of(box: Box, endpoint_id: int) -> int:
    """Where the backend of an endpoint lies."""
    return edge_state.read(box.maps).endpoints[endpoint_id]


def test_an_overwritten_backend(edge_box: Box) -> None:
    slot = slot_of(edge_box, DNS_ENDPOINT)
    other = next(n for n, w in edge_state.read(edge_box.maps).workers.items() if w["relay"] == WORKER2_RELAY)
    wrong = {"endpoint_id": DNS_ENDPOINT, "worker": other, "vip": VIP, "port": PORT, "stats_index": 0}
    key = words(layout.U32.of(slot))
    bpftool("update", edge_box, "ew_backends", "key", *key, "value", *words(layout.BACKEND.pack(wrong)))
    (step,) = [s for s in contents.preview("edge", EDGE_PARAMS) if s.kind == "backend"]
    assert step.before is not None
    assert step.after is not None
    assert (step.before["worker"], step.after["worker"]) == ("worker2", "worker1")
    contents.ensure("edge", EDGE_PARAMS)
    assert contents.preview("edge", EDGE_PARAMS) == []


def test_an_overwritten_table(edge_box: Box) -> None:
    state = edge_state.read(edge_box.maps)
    entry = state.entries[edge_state.Entry("ew_services", VIP, PORT, 16)]
    place = words(layout.U32.of(entry["table_offset"]))
    other = words(layout.U32.of(slot_of(edge_box, ECHO_ENDPOINT)))
    bpftool("update", edge_box, "ew_lut", "key", *place, "value", *other)
    (step,) = expect_repair("edge", EDGE_PARAMS, [("change", "service", f"{VIP}:{PORT}/udp")])
    assert step.before is not None
    assert step.before["backends"] == {f"worker1 ({ECHO_ENDPOINT})": 1.0}


def test_a_stray_service_and_a_stray_reply_entry(edge_box: Box) -> None:
    stray = words(layout.SERVICE_KEY.pack({"vip": "203.0.113.99", "port": 99}))
    bpftool("update", edge_box, "ew_services", "key", *stray, "value", *words(bytes(layout.SERVICE.size)))
    bpftool("update", edge_box, "ew_endpoints", "key", "0", "0", "0", "9", "value", "9", "0", "0", "0")
    expected = [("remove", "reply entry", "9"), ("remove", "service", "203.0.113.99:99/udp")]
    steps = contents.ensure("edge", EDGE_PARAMS)
    assert sorted(told(steps)) == sorted(expected)
    assert contents.preview("edge", EDGE_PARAMS) == []


def test_overwritten_configuration(edge_box: Box) -> None:
    wrong = layout.EDGE_CONFIG.pack({"relay": "100.96.9.9", "wireguard_ifindex": 1, "uplink_ifindex": 1})
    bpftool("update", edge_box, "ew_config", "key", "0", "0", "0", "0", "value", *words(wrong))
    (step,) = expect_repair("edge", EDGE_PARAMS, [("change", "configuration", "edge")])
    assert step.before is not None
    assert step.after is not None
    assert (step.before["relay"], step.after["relay"]) == ("100.96.9.9", EDGE_RELAY)
    assert (step.before["relay6"], step.after["relay6"]) == ("", V6.edge_relay)


def test_a_removed_endpoint(worker_box: WorkerBox) -> None:
    bpftool("delete", worker_box, "ew_endpoints", "key", *DNS_KEY)
    (step,) = expect_repair("worker", WORKER_PARAMS, [("add", "endpoint", f"dns ({DNS_ENDPOINT})")])
    words = {"service": f"{VIP}:{PORT}/udp", "container": f"{CONTAINER} port {PORT}", "drain_idle": "60 s"}
    assert step.after == words


def test_a_removed_edge(worker_box: WorkerBox, net: Net) -> None:
    key = words(layout.ADDRESS.of(net.edge_relay))
    bpftool("delete", worker_box, "ew_edges", "key", *key)
    (step,) = expect_repair("worker", WORKER_PARAMS, [("add", "edge", f"edge1 {net.edge_relay}")])
    assert step.after == {"relay_address": net.edge_relay}


def test_a_removed_ipv6_service(edge_box: Box) -> None:
    key = words(layout.SERVICE6_KEY.pack({"vip": V6.dns_vip, "port": PORT}))
    bpftool("delete", edge_box, "ew_services6", "key", *key)
    expect_repair("edge", EDGE_PARAMS, [("add", "service", f"[{V6.dns_vip}]:{PORT}/udp")])


def games_entries(net: Net) -> list[edge_state.Entry]:
    """The entries of the range of ports."""
    return edge_state.entries_of((net.games_vip, GAMES_PORT, GAMES_LAST_PORT))


def games_text(net: Net) -> str:
    """The range of ports as people read it."""
    host = f"[{net.games_vip}]" if net.version == 6 else net.games_vip
    return f"{host}:{GAMES_PORT}-{GAMES_LAST_PORT}/udp"


@pytest.mark.parametrize("which", [0, 3, -1])
def test_a_removed_part_of_a_range(edge_box: Box, net: Net, which: int) -> None:
    entry = games_entries(net)[which]
    bpftool("delete", edge_box, entry.map, "key", *words(entry.pack()))
    (step,) = expect_repair("edge", EDGE_PARAMS, [("change", "service", games_text(net))])
    assert step.before is not None
    assert step.before["entries"].startswith(f"{len(games_entries(net)) - 1} of {len(games_entries(net))}")


def test_a_removed_range(edge_box: Box, net: Net) -> None:
    for entry in games_entries(net):
        bpftool("delete", edge_box, entry.map, "key", *words(entry.pack()))
    expect_repair("edge", EDGE_PARAMS, [("add", "service", games_text(net))])


def test_an_overwritten_part_of_a_range(edge_box: Box, net: Net) -> None:
    entry = games_entries(net)[2]
    bpftool("update", edge_box, entry.map, "key", *words(entry.pack()), "value", *words(bytes(layout.SERVICE.size)))
    expect_repair("edge", EDGE_PARAMS, [("change", "service", games_text(net))])


def test_a_lost_and_a_stray_vip(edge_box: Box, net: Net) -> None:
    for vip in (net.dns_vip, net.vip(200)):
        verb = "delete" if vip == net.dns_vip else "update"
        value = [] if verb == "delete" else ["value", *words(bytes(4))]
        bpftool(verb, edge_box, "ew_vips", "key", *words(layout.ADDRESS.of(vip)), *value)
    expected = [("add", "VIP", net.dns_vip), ("remove", "VIP", net.vip(200))]
    assert sorted(told(contents.preview("edge", EDGE_PARAMS))) == sorted(expected)
    expect_repair("edge", EDGE_PARAMS, told(contents.preview("edge", EDGE_PARAMS)))


def test_a_stray_prefix(edge_box: Box, net: Net) -> None:
    """Over all ports of a VIP: what is not wanted goes, and what is wanted stays."""
    stray = edge_state.Entry(games_entries(net)[0].map, net.games_vip, 0, 0)
    bpftool("update", edge_box, stray.map, "key", *words(stray.pack()), "value", *words(bytes(layout.SERVICE.size)))
    expect_repair("edge", EDGE_PARAMS, [("remove", "service", stray.text)])


def test_large_contents_come_and_go(edge_box: Box) -> None:
    """Sixty services with pools: as much as these small maps hold, in batches."""
    params = deepcopy(EDGE_PARAMS)
    params["services"] = [
        {
            "name": f"service{n}",
            "vip": f"203.0.113.{n}",
            "port": 1000 + n,
            "backends": [
                {"endpoint_id": n * 10 + k, "worker": f"worker{k}", "weight": k} for k in ((1, 2) if n <= 10 else (1,))
            ],
        }
        for n in range(1, 61)
    ]
    gone = 2 * (3 + 2 + len(games_entries(V4)))  # of each family: three backends, two single ports, a range
    vips = 60 + 6 - 2 * 2  # two are in both
    assert len(contents.ensure("edge", params)) == 60 + 70 + gone + vips
    assert contents.preview("edge", params) == []
    state = edge_state.read(edge_box.maps)
    assert len(state.entries) == 60
    assert len(state.backends) == 70
    contents.ensure("edge", EDGE_PARAMS)
    assert contents.preview("edge", EDGE_PARAMS) == []


def test_where_nothing_runs(make_netns: Callable[[], Any]) -> None:
    with make_netns() as ns:
        ns.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        assert info.info("edge") is None
        assert len(contents.preview("edge", EDGE_PARAMS, may_be_missing=True)) == 2 + 6 + 6 + 6 + 1
        with pytest.raises(EdgewireError, match="run tc_delivery first"):
            contents.ensure("worker", WORKER_PARAMS)


def test_the_edge_in_human_terms(edge_box: Box, plan_file: Path) -> None:
    now = info.info("edge")
    assert now is not None
    assert (now["relay_address"], now["uplink"], now["wireguard_interface"]) == (EDGE_RELAY, "eth0", "wg0")
    assert now["reply_interface"] == "eth0"
    assert now["relay_address_ipv6"] == V6.edge_relay
    assert [service["name"] for service in now["services"]] == ["echo", "dns", "games"] * 2
    assert [service["vip"] for service in now["services"]] == [net.vip(n) for net in (V4, V6) for n in (7, 53, 90)]
    for net in (V4, V6):
        games = named(now["services"], net.games_vip)
        assert (games["ports"], games["affinity"]) == (f"{GAMES_PORT}-{GAMES_LAST_PORT}", "flow")
        assert [b["worker_relay_address"] for b in games["backends"]] == [net.worker_relay]
        assert [b["worker"] for b in games["backends"]] == ["worker1"]
    assert named(now["services"], VIP) == {
        "name": "dns",
        "vip": VIP,
        "ports": str(PORT),
        "protocol": "udp",
        "affinity": "flow",
        "oversize": "refuse",
        "table_size": 1,
        "filter": None,
        "backends": [
            {
                "endpoint_id": DNS_ENDPOINT,
                "worker": "worker1",
                "worker_relay_address": WORKER_RELAY,
                "state": "live",
                "share": 1.0,
            }
        ],
    }
    assert info.info("worker") is None


def test_shares_and_workers_without_a_name(edge_box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "PLAN_FILE", tmp_path / "nowhere.json")
    params = deepcopy(EDGE_PARAMS)
    params["services"][0]["backends"] = [
        {"endpoint_id": 21, "worker": "worker1", "weight": 1},
        {"endpoint_id": 22, "worker": "worker2", "weight": 3},
        {"endpoint_id": 23, "worker": "worker2", "weight": 0},
    ]
    contents.ensure("edge", params)
    now = info.info("edge")
    assert now is not None
    dns = named(now["services"], VIP)
    assert dns["name"] is None
    assert {b["endpoint_id"]: round(b["share"], 2) for b in dns["backends"]} == {21: 0.25, 22: 0.75, 23: 0.0}
    assert {b["worker_relay_address"] for b in dns["backends"]} == {WORKER_RELAY, WORKER2_RELAY}


def test_the_worker_in_human_terms(worker_box: WorkerBox, plan_file: Path) -> None:
    now = info.info("worker")
    assert now is not None
    assert now["edges"] == [{"name": "edge1", "relay_address": net.edge_relay} for net in (V4, V6)]
    assert (now["relay_address"], now["relay_address_ipv6"]) == (WORKER_RELAY, V6.worker_relay)
    assert [endpoint["service"] for endpoint in now["endpoints"]] == ["echo", "dns", "games"] * 2
    for net in (V4, V6):
        games = named(now["endpoints"], net.games_vip)
        assert games["ports"] == f"{GAMES_PORT}-{GAMES_LAST_PORT}"
        assert (games["container_address"], games["container_port"]) == (net.container, GAMES_CONTAINER_PORT)
    assert (now["wireguard_interface"], now["container_interface"]) == ("wg0", "podman0")
    assert named(now["endpoints"], ECHO_VIP) == {
        "endpoint_id": ECHO_ENDPOINT,
        "service": "echo",
        "vip": ECHO_VIP,
        "ports": str(ECHO_PORT),
        "protocol": "udp",
        "container_address": CONTAINER,
        "container_port": ECHO_CONTAINER_PORT,
        "reply": "edge",
        "drain_idle": 60,
        "oversize": "refuse",
    }
    assert info.info("edge") is None


@pytest.mark.parametrize("name", ["edge_box", "worker_box"])
def test_what_is_gathered_changes_nothing(request: pytest.FixtureRequest, name: str) -> None:
    role, params = {"edge_box": ("edge", EDGE_PARAMS), "worker_box": ("worker", WORKER_PARAMS)}[name]
    request.getfixturevalue(name)
    for known in (params, {}):
        found = contents.gathered(role, known)
        assert found is not None
        assert contents.preview(role, found) == []
        assert contents.preview(role, {**found, "state": "merged"}) == []


def test_merging_and_deleting_a_service(edge_box: Box) -> None:
    service = {"name": "new", "vip": "203.0.113.77", "port": 77}
    backends = [{"endpoint_id": 77, "worker": "worker1", "weight": 1}]
    added = {**EDGE_PARAMS, "services": [{**service, "backends": backends}], "state": "merged"}
    expected = [("add", "backend", "new on worker1 (77)"), ("add", "service", "203.0.113.77:77/udp")]
    expect_repair("edge", added, [*expected, ("add", "VIP", "203.0.113.77")])
    last = {"services": [{**service, "backends": backends}], "state": "deleted"}
    with pytest.raises(EdgewireError, match="last backend"):
        contents.ensure("edge", last)
    gone = {"services": [service], "state": "deleted"}
    assert {step.verb for step in contents.ensure("edge", gone)} == {"remove"}
    assert contents.preview("edge", gone) == []
    assert contents.preview("edge", EDGE_PARAMS) == []


def test_full_maps_keep_the_old_state(edge_box: Box) -> None:
    """What does not fit is refused whole, in one error, and not a byte is written."""
    looked = (
        "ew_services",
        "ew_services6",
        "ew_ranges",
        "ew_lut",
        "ew_backends",
        "ew_endpoints",
        "ew_vips",
        "ew_stats",
    )
    before = {name: edge_box.maps[name].read() for name in looked}
    room = edge_state.read(edge_box.maps).capacity
    many = [
        {
            "name": f"s{n}",
            "vip": f"203.0.113.{n % 250}",
            "port": 1 + n,
            "backends": EDGE_PARAMS["services"][0]["backends"],
        }
        for n in range(room["services"] + 1)
    ]
    for n, service in enumerate(many):
        service["backends"] = [{"endpoint_id": 1000 + n, "worker": "worker1", "weight": 1}]
    with pytest.raises(EdgewireError, match=r"services: .*nothing was written"):
        contents.ensure("edge", {**EDGE_PARAMS, "services": many})
    assert {name: edge_box.maps[name].read() for name in before} == before
    assert contents.preview("edge", EDGE_PARAMS) == contents.ensure("edge", EDGE_PARAMS) == []


def test_a_map_that_others_filled_is_cleared_in_the_same_run(edge_box: Box) -> None:
    """Full to the last entry (E2BIG): what is not wanted makes room for what comes, and services that stay are kept."""
    room = edge_state.read(edge_box.maps).capacity["services"]
    used = len(edge_box.maps["ew_services"].read()[0]) // layout.SERVICE_KEY.size
    value = bytes(layout.SERVICE.size)

    def stray(port: int) -> map_io.Write:
        return "ew_services", layout.SERVICE_KEY.pack({"vip": "198.51.100.1", "port": port}), value

    map_io.write(edge_box.maps, [stray(port) for port in range(1, room - used + 1)])
    with pytest.raises(EdgewireError, match="E2BIG"):
        map_io.write(edge_box.maps, [stray(1000)])
    one = {"name": "new", "vip": "203.0.113.77", "port": 77, "backends": []}
    params = {**EDGE_PARAMS, "services": [*EDGE_PARAMS["services"], one]}
    for wanted in (params, EDGE_PARAMS):
        assert contents.ensure("edge", wanted) != []
        assert contents.preview("edge", wanted) == contents.ensure("edge", wanted) == []


def test_what_is_proven_is_not_worked_out_again_until_a_byte_differs(
    edge_box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert contents.ensure("edge", EDGE_PARAMS) == []
    with monkeypatch.context() as patch:
        patch.setattr(edge_maps, "plan", None)
        assert contents.ensure("edge", EDGE_PARAMS) == contents.preview("edge", EDGE_PARAMS) == []
        other = {**EDGE_PARAMS, "drop_unserved": True}
        with pytest.raises(TypeError):
            contents.preview("edge", other)
    state = edge_state.read(edge_box.maps)
    entry = state.entries[edge_state.Entry("ew_services", VIP, PORT, 16)]
    place = words(layout.U32.of(entry["table_offset"]))
    bpftool("update", edge_box, "ew_lut", "key", *place, "value", *words(layout.U32.of(1)))
    expect_repair("edge", EDGE_PARAMS, [("change", "service", f"{VIP}:{PORT}/udp")])


def test_who_writes_at_the_same_time_is_told(edge_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back is held against what was meant to be there, byte for byte, and then in words."""
    write = map_io.write
    params = {**EDGE_PARAMS, "drop_unserved": True}

    def interrupted(maps: map_io.Maps, changes: list[map_io.Change]) -> None:
        write(maps, changes)
        write(maps, [("ew_services", layout.SERVICE_KEY.pack({"vip": VIP, "port": PORT}), None)])

    with monkeypatch.context() as patch:
        patch.setattr(map_io, "write", interrupted)
        with pytest.raises(EdgewireError, match=rf"read back different: service {VIP}:{PORT}/udp\. Something else"):
            contents.ensure("edge", params)
    assert told(contents.preview("edge", params)) == [("add", "service", f"{VIP}:{PORT}/udp")]
    assert contents.ensure("edge", EDGE_PARAMS) != []


def test_maps_are_read_in_parts(edge_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash map and a trie of more entries than are read at once; a bucket that holds more is read all the same."""
    state = edge_state.read(edge_box.maps)
    there = {name: len(edge_box.maps[f"ew_{name}"].read()[1]) // layout.SERVICE.size for name in ("services", "ranges")}
    room = {name: state.capacity[name] - count for name, count in there.items()}
    one: dict[str, Any] = {"vip": "198.51.100.1", "prefix_bits": 48}
    keys = {layout.SERVICE_KEY.pack({**one, "port": port}) for port in range(room["services"])}
    tries = {layout.RANGE_KEY.pack({**one, "port": port}) for port in range(room["ranges"])}
    zero = bytes(layout.SERVICE.size)
    map_io.write(edge_box.maps, [("ew_services", key, zero) for key in keys])
    map_io.write(edge_box.maps, [("ew_ranges", key, zero) for key in tries])
    whole = {name: edge_box.maps[name].read() for name in ("ew_services", "ew_ranges")}
    monkeypatch.setattr(batches, "_AT_ONCE", 1)
    for name, written in (("ew_services", keys), ("ew_ranges", tries)):
        size = edge_box.maps[name].info.key_size
        read = edge_box.maps[name].read()[0]
        assert read == whole[name][0]
        assert written <= {read[at : at + size] for at in range(0, len(read), size)}
    map_io.write(edge_box.maps, [("ew_services", key, None) for key in keys])
    map_io.write(edge_box.maps, [("ew_ranges", key, None) for key in tries])
