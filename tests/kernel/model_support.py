# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holding the real programs against the model: the same packets through both, and whatever differs is told.

XDP and the bridge's TC program run by BPF_PROG_TEST_RUN. That has no devices without link layer, where the other two
live, so those are attached in namespaces, to a TUN device in place of WireGuard's.
"""

from __future__ import annotations

import ctypes
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import bcc
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    edge_maps,
    edge_state,
    layout,
    libbpf,
    libbpf_structs,
    map_io,
    worker_maps,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.counters import Counters
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    TC_DROP,
    TC_NEXT,
    TC_REDIRECT,
    TC_STOLEN,
    Box,
    EdgeBox,
    drops,
    events,
    forget,
)
from ansible_collections.edgewire.fleet.tests.kernel.conftest import wait_until
from ansible_collections.edgewire.fleet.tests.model.edge import untagged
from ansible_collections.edgewire.fleet.tests.model.packet import Outcome

# So many packets between two looks at the counters.
BATCH = 256
RELAY_MARK, LEAD_MARK, *_ASIDE_MARKS = ((0x65646765 + n).to_bytes(4, "little") for n in range(6))
# What edge_xdp leaves as it is to edge_handoff, in the model's words.
ASIDE = dict(zip(_ASIDE_MARKS, ("follow", "too_big", "time_exceeded", "icmp"), strict=True))
# XDP's headroom in a test run is 256 bytes, less what the kernel keeps there for itself.
POISON_BYTES = 200
_POISON = f"""
BPF_TABLE("prog", u32, u32, next, 1);

int poison(struct xdp_md *ctx)
{{
	u64 *room;

	if (bpf_xdp_adjust_head(ctx, -{POISON_BYTES}))
		return XDP_ABORTED;
	room = (void *)(long)ctx->data;
	if ((void *)(room + {POISON_BYTES // 8}) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < {POISON_BYTES // 8}; i++)
		room[i] = 0xa5a5a5a5a5a5a5a5;
	if (bpf_xdp_adjust_head(ctx, {POISON_BYTES}))
		return XDP_ABORTED;
	next.call(ctx, 0);
	return XDP_ABORTED;
}}
"""
_BEHIND = """
#include <uapi/linux/pkt_cls.h>

BPF_ARRAY(passed, u64, 1);

int behind(struct __sk_buff *skb)
{
	passed.increment(0);
	return TC_ACT_SHOT;
}
"""
_LAST_PRIORITY = 65_000


class Runner:
    """A program in the kernel's test run, fast: buffers are made once.

    Returns what the program returned and the packet after it; XDP's metadata is in front of that.
    """

    def __init__(self, fd: int, size: int = 4096) -> None:
        self._fd, self._size = fd, size
        self._in, self._out = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
        self._opts = libbpf_structs.TestRunOpts(
            sz=ctypes.sizeof(libbpf_structs.TestRunOpts),
            data_in=ctypes.addressof(self._in),
            data_out=ctypes.addressof(self._out),
            repeat=1,
        )
        self._reference = ctypes.byref(self._opts)
        self._run = bcc.libbcc.lib.bpf_prog_test_run_opts

    def __call__(self, packet: bytes) -> tuple[int, bytes]:
        """One packet, which has an Ethernet header at least: less is no packet to the kernel."""
        ctypes.memmove(self._in, packet, len(packet))
        self._opts.data_size_in, self._opts.data_size_out = len(packet), self._size
        error = self._run(self._fd, self._reference)
        assert error == 0, f"the test run refused {packet.hex()}: {error}"
        return self._opts.retval, ctypes.string_at(self._out, self._opts.data_size_out)


class PoisonedRunner(Runner):
    """An XDP program in whose headroom no byte is 0 by chance."""

    def __init__(self, fd: int) -> None:
        # A page must hold the packet and the headroom.
        self._poison = bcc.BPF(text=_POISON.encode())
        self._poison[b"next"][ctypes.c_int(0)] = ctypes.c_int(fd)
        super().__init__(self._poison.load_func(b"poison", bcc.BPF.XDP).fd)


def xdp_verdict(ran: tuple[int, bytes], frame: bytes) -> Outcome:
    """What edge_xdp did, in the model's words; the count is checked by the batch."""
    verdict, data = ran
    if verdict == 1:
        return Outcome("drop")
    assert verdict == 2, f"edge_xdp returned {verdict}"
    if data == frame:
        return Outcome("pass")
    if data[:4] in ASIDE:
        assert data[4:] == untagged(frame), "changed, and left to edge_handoff"
        return Outcome(ASIDE[data[:4]])
    assert data[:4] in (RELAY_MARK, LEAD_MARK), "changed, and not marked"
    assert data[4:18] == untagged(frame)[:14], "the Ethernet header changed"
    return Outcome("relay" if data[:4] == RELAY_MARK else "lead", data[18:])


def tc_verdict(ran: tuple[int, bytes], frame: bytes) -> Outcome:
    """The same of worker_egress: a redirect may be to WireGuard or to the uplink."""
    verdict, data = ran
    if verdict == TC_REDIRECT and data[:12] == frame[6:12] + frame[:6] and frame[:6] != frame[6:12]:
        return Outcome("answer", data)
    if verdict == TC_DROP:
        return Outcome("drop")
    if verdict == TC_NEXT:
        assert data == frame, "changed, and left to the host"
        return Outcome("pass")
    if verdict == TC_STOLEN:
        return Outcome("held")
    assert verdict == TC_REDIRECT, f"returned {verdict}"
    assert data[:14] == frame[:14], "the Ethernet header changed"
    return Outcome("redirect", data[14:])


def fill_edge(maps: map_io.Maps, wanted: edge_state.EdgeWanted) -> None:
    """Make an edge's maps say this."""
    map_io.write(maps, edge_maps.plan(wanted, edge_state.read(maps), libbpf.possible_cpus())[1])


def fill_worker(maps: map_io.Maps, wanted: worker_maps.WorkerWanted) -> None:
    """Make a worker's maps say this."""
    map_io.write(maps, worker_maps.plan(wanted, worker_maps.read(maps), libbpf.possible_cpus())[1])


def on_edge(box: Box, wanted: edge_state.EdgeWanted) -> edge_state.EdgeWanted:
    """The same on the interfaces that an edge has, and its maps say so."""
    config = edge_state.read(box.maps).config
    indices = {name: config[name] for name in ("wireguard_ifindex", "uplink_ifindex")}
    fill_edge(box.maps, wanted := replace(wanted, **indices))
    return wanted


def on_worker(box: Box, wanted: worker_maps.WorkerWanted) -> worker_maps.WorkerWanted:
    """The same for a worker."""
    config = worker_maps.read(box.maps).config
    indices = {name: config[name] for name in ("wireguard_ifindex", "container_ifindex")}
    fill_worker(box.maps, wanted := replace(wanted, **indices))
    return wanted


def count_what_is_left(box: Box, interface: str) -> Callable[[], int]:
    """Put a filter behind the program that counts what it leaves to others, and lets it go no further.

    What the host's own stack would answer is none of the program's doing.
    """
    behind = bcc.BPF(text=_BEHIND.encode())
    passed = behind[b"passed"]
    with box.ns:
        ifindex = socket.if_nametoindex(interface)
        libbpf.tc_attach(ifindex, _LAST_PRIORITY, behind.load_func(b"behind", bcc.BPF.SCHED_CLS).fd)
    return lambda: int(passed[ctypes.c_int(0)].value)


class Through:
    """Programs that live on a device without link layer: a packet goes into the tunnel, and out of the box, or not."""

    def __init__(self, box: Box) -> None:
        self._tun, self._wire = box.tun, box.wire
        self._passed, self._seen = count_what_is_left(box, "wg0"), 0

    def __call__(self, packet: bytes) -> Outcome:
        """One packet."""
        self._tun.write(packet)
        sent = self._wire.take()[14:] or self._tun.take()
        if sent:
            return Outcome("redirect", sent)
        seen, self._seen = self._seen, self._passed()
        return Outcome("drop" if seen == self._seen else "pass")


class Uplink:
    """edge_xdp and edge_handoff on their interface: a frame comes in, and goes on, or back, or not."""

    def __init__(self, box: EdgeBox) -> None:
        # What the client's own kernel sends, such as MLD reports, would be taken for what became of the frame.
        box.client.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
        self._box, self._passed, self._seen = box, count_what_is_left(box, "eth0"), 0

    def __call__(self, frame: bytes) -> Outcome:
        """One frame, to an edge that remembers no fragments."""
        for name in ("ew_fragments", "ew_held"):
            forget(self._box.maps, name)
        before = self._ended()
        self._box.wire.send(frame)
        found: Outcome = wait_until(lambda: self._outcome(before), f"the end of {frame.hex()}")
        return found

    def _outcome(self, before: tuple[int, int]) -> Outcome | None:
        ended = self._ended()
        relayed, answer = self._box.tun.take(), self._box.wire.take()
        if relayed or answer:
            return Outcome("redirect", relayed) if relayed else Outcome("answer", answer)
        if self._passed() != self._seen:
            self._seen += 1
            return Outcome("pass")
        if ended == before:
            return None
        return Outcome("drop" if ended[0] != before[0] else "held")

    def _ended(self) -> tuple[int, int]:
        """How many frames were dropped, and how many kept."""
        held = layout.HELD_COUNT.iter_unpack(self._box.maps["ew_held_count"].read()[1])
        return sum(drops(self._box.maps).values()), sum(row["held"] for row in held)


def renewing(program: Callable[[bytes], Outcome], renew: Callable[[], None], every: int) -> Callable[[bytes], Outcome]:
    """A program before which ``renew`` runs at the first and at every so many packets."""
    left = 0

    def renewed(packet: bytes) -> Outcome:
        nonlocal left
        if not left:
            renew()
            left = every
        left -= 1
        return program(packet)

    return renewed


def counters(maps: map_io.Maps, index_of: dict[int, int]) -> Counter[tuple[object, ...]]:
    """Everything that a role counts: drops by reason; events; packets and bytes by endpoint and way."""
    found: Counter[tuple[object, ...]] = Counter()
    for reason, number in drops(maps).items():
        found["drop", reason] = number
    for event, number in events(maps).items():
        found["event", event] = number
    entries = max(index_of.values(), default=-1) + 1
    rows = Counters(maps["ew_stats"].read(limit=entries)[1], entries)
    for endpoint_id, index in index_of.items():
        row = rows.of(index)
        for way in ("in", "out"):
            found[endpoint_id, way, "packets"] = row[f"{way}_packets"]
            found[endpoint_id, way, "bytes"] = row[f"{way}_bytes"]
    return found


def stats_indices(maps: map_io.Maps, role: str) -> dict[int, int]:
    """Endpoint id to index of its counters."""
    if role == "worker":
        keys, values = maps["ew_endpoints"].read()
        ids = [row["value"] for row in layout.BE32.iter_unpack(keys)]
        rows = [row["stats_index"] for row in layout.ENDPOINT.iter_unpack(values)]
        return dict(zip(ids, rows, strict=True))
    used = layout.BACKEND.iter_unpack(maps["ew_backends"].read()[1])
    return {row["endpoint_id"]: row["stats_index"] for row in used if row["endpoint_id"]}


@dataclass
class Comparison:
    """One program beside its model.

    :ivar model: packet to outcome.
    :ivar program: packet to outcome, without reason and count.
    :ivar knows: whether the program's outcome of a packet can be seen; the counters are compared in any case.
    :ivar packets: how many went through both.
    """

    role: str
    maps: map_io.Maps
    model: Callable[[bytes], Outcome]
    program: Callable[[bytes], Outcome]
    knows: Callable[[bytes], bool] = lambda packet: True
    actions: Counter[str] = field(default_factory=Counter)
    packets: int = 0

    def run(self, packets: Iterable[bytes]) -> None:
        """Send packets through both; fails on the first that differs."""
        batch: list[bytes] = []
        self._indices = stats_indices(self.maps, self.role)
        for packet in packets:
            self.packets += 1
            batch.append(packet)
            if len(batch) == BATCH:
                self._compare(batch)
                batch = []
        self._compare(batch)

    def _compare(self, batch: list[bytes]) -> None:
        before = counters(self.maps, self._indices)
        expected: Counter[tuple[object, ...]] = Counter()
        for packet in batch:
            outcome = self.model(packet)
            self.actions[(outcome.action == "drop" and outcome.reason) or outcome.action] += 1
            if outcome.reason:
                expected["drop", outcome.reason] += 1
            if outcome.event:
                self.actions[outcome.event] += 1
                expected["event", outcome.event] += 1
            if outcome.count:
                expected[outcome.count.endpoint_id, outcome.count.way, "packets"] += 1
                expected[outcome.count.endpoint_id, outcome.count.way, "bytes"] += outcome.count.bytes
            found = self.program(packet)
            if self.knows(packet):
                assert _alike(found, outcome), (
                    f"packet {packet.hex()}\nmodel   {outcome}\nprogram {found}\n"
                    f"bytes   {found.packet.hex()}\nwanted  {outcome.packet.hex()}"
                )
        after = counters(self.maps, self._indices)
        moved = Counter({name: number - before[name] for name, number in after.items() if number != before[name]})
        if moved == +expected:
            return
        if len(batch) > 1:
            for packet in batch:  # the same again, one by one, to name the packet
                self._compare([packet])
        raise AssertionError(f"packets {[packet.hex() for packet in batch]}\nmodel   {expected}\nprogram {moved}")


def _alike(found: Outcome, wanted: Outcome) -> bool:
    """Whether a program did what the model says. Where it only shows that it sent, whither is in the bytes."""
    if found.action == "redirect":
        return wanted.action in ("relay", "uplink", "container") and found.packet == wanted.packet
    return (found.action, found.packet) == (wanted.action, wanted.packet)
