# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of dropped packets: what the programs send, when they send nothing, and the file that comes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import capture, layout, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.perf import perf_buffer
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    V4,
    V6,
    XDP_DROP,
    Box,
    Net,
    Programs,
    WorkerBox,
    datagram,
    drops,
    frame,
    relay_packet,
)
from scapy.utils import RawPcapNgReader

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SECOND = 10**9
REASONS = [*layout.DROP_REASONS]


def forged(net: Net, payload: bytes = b"query") -> bytes:
    """A client's frame with a relay option of its own making."""
    inner = datagram(net.client, net.dns_vip, 40_000, 53, payload)
    return frame(relay_packet(net.client, net.dns_vip, net.dns_endpoint, net.client, inner))


def now() -> int:
    """The programs' clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def switch(maps: map_io.Maps, **changed: int) -> None:
    """Write the map that switches sampling on; by default on for long, for all reasons, without a bound."""
    record = {"until": now() + 60 * SECOND, "reasons": 2**64 - 1, "left": 1000, "snaplen": 4096, **changed}
    map_io.write(maps, [("ew_capture", layout.U32.of(0), layout.CAPTURE.pack(record))])


def sampling(maps: map_io.Maps) -> dict[str, Any]:
    """What that map says."""
    (record,) = layout.CAPTURE.iter_unpack(maps["ew_capture"].read()[1])
    return record


@pytest.fixture
def edge(edge_programs: Programs) -> Iterator[Programs]:
    """The edge's programs, switched off afterwards."""
    edge_programs.fill_edge()
    yield edge_programs
    map_io.write(edge_programs.maps, [("ew_capture", layout.U32.of(0), bytes(layout.CAPTURE.size))])


def samples(edge: Programs, *frames: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """What is sampled of frames that are dropped: records, and the bytes behind them without padding."""
    with perf_buffer(edge.maps["ew_samples"].fd) as buffer:
        for data in frames:
            before = drops(edge.maps)["relay_from_outside"]
            assert edge.run("edge_xdp", data).retval == XDP_DROP
            assert drops(edge.maps)["relay_from_outside"] == before + 1, "sampled or not, it is counted once"
        found = []
        for data in buffer.poll(0):
            (record,) = layout.SAMPLE.iter_unpack(data[: layout.SAMPLE.size])
            found.append((record, data[layout.SAMPLE.size :][: record["captured"]]))
        return found


def test_a_sample_has_the_packet_and_the_reason(edge: Programs, net: Net) -> None:
    switch(edge.maps)
    before, data = now(), forged(net)
    ((record, packet),) = samples(edge, data)
    assert packet == data
    assert REASONS[record["reason"]] == "relay_from_outside"
    assert (record["length"], layout.SAMPLE_HOOKS[record["hook"]]) == (len(data), "xdp")
    assert before <= record["when"] <= now()


def test_a_long_packet_is_cut(edge: Programs, net: Net) -> None:
    switch(edge.maps, snaplen=100)
    long, short = forged(net, bytes(1000)), forged(net, b"")
    found = samples(edge, long, short)
    assert [packet for _, packet in found] == [long[:100], short[:100]]
    assert [record["length"] for record, _ in found] == [len(long), len(short)]


@pytest.mark.parametrize(
    "off",
    [
        {"until": 0},
        {"until": 1},
        {"reasons": ~(1 << REASONS.index("relay_from_outside")) & 2**64 - 1},
        {"left": 0},
        {"left": 2**64 - 3},
    ],
    ids=["off", "time is over", "another reason", "none left", "overdrawn"],
)
def test_nothing_is_sampled(edge: Programs, off: dict[str, int]) -> None:
    switch(edge.maps, **off)
    before = sampling(edge.maps)
    assert samples(edge, forged(V4), forged(V6)) == []
    assert sampling(edge.maps) == before


def test_no_more_than_was_granted(edge: Programs) -> None:
    switch(edge.maps, left=3)
    assert len(samples(edge, *[forged(V4)] * 8)) == 3
    assert sampling(edge.maps)["left"] == 0


def test_one_reason_only(edge: Programs) -> None:
    switch(edge.maps, reasons=1 << REASONS.index("relay_from_outside"))
    assert len(samples(edge, forged(V4), forged(V6))) == 2


# --- Into a file -----------------------------------------------------------------------------------------------------


@contextmanager
def again_and_again(send: Callable[[], None]) -> Iterator[None]:
    """Let something be sent for as long as the block runs: nobody knows when a capture starts to look."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(0.02):
            send()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def captured(send: Callable[[], None], path: Path, **changed: Any) -> dict[str, Any]:
    """A capture while something is sent."""
    usual = {"reasons": [], "count": 8, "seconds": 60, "snaplen": 2000, "per_second": 1000, "dest": str(path)}
    with again_and_again(send):
        return capture.capture(capture.request_from({**usual, **changed}))


def packets_in(path: Path) -> list[tuple[bytes, bytes, str]]:
    """Interface, bytes and comment of every packet in a file."""
    return [(told.ifname, data, told.comments[0].decode()) for data, told in RawPcapNgReader(str(path))]


def test_both_interfaces_of_an_edge(edge_box: Box, net: Net, tmp_path: Path) -> None:
    """The uplink has a link layer, the tunnel has none; in the file both have."""
    path = tmp_path / "drops.pcapng"
    outside, inside = forged(net), datagram(net.worker_relay, net.edge_relay, 1, 2)

    def send() -> None:
        edge_box.wire.send(outside)
        edge_box.tun.write(inside)

    told = captured(send, path)
    kind = b"\x08\x00" if net.version == 4 else b"\x86\xdd"
    assert set(packets_in(path)) == {
        (b"eth0", outside, f"relay_from_outside: {layout.DROP_REASONS['relay_from_outside']} (edge, XDP)"),
        (b"wg0", bytes(12) + kind + inside, f"not_relayed: {layout.DROP_REASONS['not_relayed']} (edge, TC)"),
    }
    assert sum(told["reasons"].values()) == told["packets"] == 8
    assert set(told["reasons"]) == {"relay_from_outside", "not_relayed"}
    assert (told["interfaces"], told["lost"], told["path"]) == (["eth0", "wg0"], 0, str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert set(sampling(edge_box.maps).values()) == {0}, "switched off"


def test_a_worker_and_one_reason(worker_box: WorkerBox, net: Net, tmp_path: Path) -> None:
    path = tmp_path / "drops.pcapng"
    inner = datagram(net.client, net.dns_vip, 40_000, 53)
    stranger = relay_packet(net.edge2_relay, net.worker_relay, net.dns_endpoint, net.client, inner)
    nowhere = relay_packet(net.edge_relay, net.worker_relay, net.id(12345), net.client, inner)

    def send() -> None:
        worker_box.tun.write(stranger)
        worker_box.tun.write(nowhere)

    told = captured(send, path, reasons=["unknown_edge"], count=3, snaplen=64)
    assert told["reasons"] == {"unknown_edge": 3}
    assert told["watched"] == ["unknown_edge"]
    assert {data[14:] for _, data, _ in packets_in(path)} == {stranger[:64]}


def test_a_quiet_time_makes_an_empty_file(edge_box: Box, tmp_path: Path) -> None:
    path = tmp_path / "drops.pcapng"
    path.write_text("an older one")
    told = captured(lambda: None, path, seconds=1)
    assert (told["packets"], told["reasons"]) == (0, {})
    assert packets_in(path) == []


def test_check_mode_only_tells(edge_box: Box, tmp_path: Path) -> None:
    usual = {"count": 8, "seconds": 60, "snaplen": 2000, "per_second": 1000, "dest": str(tmp_path / "drops")}
    told = capture.preview(capture.request_from({**usual, "reasons": ["malformed"]}))
    assert told == {"interfaces": ["eth0", "wg0"], "watched": ["malformed"]}
    assert list(tmp_path.iterdir()) == []
    assert set(sampling(edge_box.maps).values()) == {0}


def test_one_capture_at_a_time(edge_box: Box, tmp_path: Path) -> None:
    switch(edge_box.maps)
    with pytest.raises(EdgewireError, match="another capture of the edge programs is running"):
        captured(lambda: None, tmp_path / "drops.pcapng")
    switch(edge_box.maps, until=now() - 1)  # it was killed, and its time is over
    assert captured(lambda: edge_box.wire.send(forged(V4)), tmp_path / "drops.pcapng", count=1)["packets"] == 1


def test_where_nothing_runs(make_netns: Callable[[], Any], tmp_path: Path) -> None:
    with make_netns(), pytest.raises(EdgewireError, match="no forwarder programs run on this host"):
        captured(lambda: None, tmp_path / "drops.pcapng")
    assert list(tmp_path.iterdir()) == []
