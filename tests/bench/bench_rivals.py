# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets a second that one core takes on: the edge, nftables' DNAT and nginx's stream proxy; part of ``make bench``.

A box of a network namespace gets UDP for a VIP on one cable and must send it on by the other, where it is counted and
dropped. The edge hands it to that cable in place of WireGuard's device: what the tunnel costs, it would cost all three.
A generator of XDP frames (BPF_F_TEST_XDP_LIVE_FRAMES), the box and the far end share one core; what generator and
cables cost alone is measured by dropping the packets where the box gets them, and taken off. Of nginx, what its process
takes is measured: what the kernel does to receive for it is not in its figure.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bcc
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    compiler,
    edge_maps,
    edge_state,
    layout,
    libbpf,
    map_io,
    sources,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.plugin_utils.bpf_sources import source_of
from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

VIP, PORT, SERVER = "203.0.113.53", 53, "10.99.0.2"
CLIENT, GATEWAY = "198.51.100.7", "198.51.100.1"
MACS = {"in": "02:00:00:00:00:01", "far": "02:00:00:00:00:02"}
LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
FLOWS, PATIENCE = 64, 1.0
# A frame takes a page, and a socket's buffer by default 200 kB.
SOCKET_BURST = 32
# What one core had to do for each packet; without the first, all of it is the generator's and the cables'.
RIVALS = ("nothing", "edge", "nftables DNAT", "nginx stream proxy")
_PROGRAMS = f"""
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
struct frame {{ u8 head[34]; __be16 source; u8 rest[24]; }} __attribute__((packed));
BPF_ARRAY(frames, struct frame, 1);
BPF_ARRAY(turns, u32, 1);
BPF_ARRAY(targets, u32, 1);
BPF_ARRAY(counts, u64, 1);

int generate(struct xdp_md *ctx)
{{
	struct frame *out = (void *)(long)ctx->data, *frame;
	u32 zero = 0, *turn = turns.lookup(&zero), *target = targets.lookup(&zero);

	frame = frames.lookup(&zero);
	if (!frame || !turn || !target || (void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	*out = *frame;
	out->source = bpf_htons(1024 + (*turn += 1) % {FLOWS});
	return bpf_redirect(*target, 0);
}}

int count(struct __sk_buff *skb)
{{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		counts.increment(0);
	return TC_ACT_SHOT;
}}
"""


def frame() -> bytes:
    """60 bytes of Ethernet: a datagram to the VIP."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 46, 1, 0, 64, 17, 0) + socket.inet_aton(CLIENT) + socket.inet_aton(VIP)
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + ip[12:]
    ethernet = bytes.fromhex(MACS["in"].replace(":", "")) + bytes.fromhex("020000000007") + b"\x08\x00"
    return ethernet + ip + struct.pack("!HHHH", 1024, PORT, 26, 0) + bytes(18)


class Bench:
    """Three namespaces in a row, the generator in the first, the count in the last."""

    def __init__(self, stack: ExitStack) -> None:
        self.source, self.box, self.sink = (self._netns(stack, name) for name in ("source", "box", "sink"))
        self.box.run("ip", "link", "add", "in", "address", MACS["in"], "type", "veth", "peer", "gen", "netns",
                     self.source.name)  # fmt: skip
        self.box.run("ip", "link", "add", "out", "type", "veth", "peer", "far", "address", MACS["far"], "netns",
                     self.sink.name)  # fmt: skip
        script = f"""
        ip link set in up && ip link set out up
        ip address add {GATEWAY}/24 dev in && ip address add 10.99.0.1/24 dev out
        ip neighbour replace {SERVER} lladdr {MACS["far"]} dev out nud permanent
        ip neighbour replace {CLIENT} lladdr 02:00:00:00:00:07 dev in nud permanent
        ethtool -K in gro on
        sysctl -qw net.ipv4.ip_forward=1
        """
        self.box.run("sh", "-ec", script)
        self.source.run("ip", "link", "set", "gen", "up")
        self.sink.run("ip", "link", "set", "far", "up")
        self.programs = bcc.BPF(text=_PROGRAMS.encode())
        self.generate = self.programs.load_func(b"generate", bcc.BPF.XDP).fd
        self.count = self.programs.load_func(b"count", bcc.BPF.SCHED_CLS).fd
        with self.source:
            target = socket.if_nametoindex("gen")
        self.programs[b"targets"][ctypes.c_int(0)] = ctypes.c_uint32(target)
        leaf = self.programs[b"frames"].Leaf
        self.programs[b"frames"][ctypes.c_int(0)] = leaf.from_buffer_copy(frame())
        with self.sink:
            libbpf.tc_attach(socket.if_nametoindex("far"), 1, self.count)

    @staticmethod
    def _netns(stack: ExitStack, name: str) -> Netns:
        made = Netns(f"ewt-{os.getpid()}-{name}")
        stack.callback(subprocess.run, ["ip", "netns", "delete", made.name], check=True)
        return made

    def index(self, name: str) -> int:
        """Interface index in the box."""
        with self.box:
            return socket.if_nametoindex(name)

    def arrived(self) -> int:
        """Packets that were counted so far."""
        return int(self.programs[b"counts"][ctypes.c_int(0)].value)

    def send(self, packets: int) -> int:
        """Let so many frames come, and wait until they have arrived. How many were lost, which takes a while to see."""
        expected = self.arrived() + packets
        with self.source:
            libbpf.run_program(self.generate, frame(), repeat=packets, flags=LIVE_FRAMES)
        patience = time.monotonic() + PATIENCE
        while self.arrived() < expected and time.monotonic() < patience:
            os.sched_yield()
        return expected - self.arrived()

    def measure(self, packets: int) -> tuple[float, int]:
        """Nanoseconds on the core for each packet, and how many were lost. The kernel works in the sender's time."""
        start = time.thread_time_ns()
        lost = self.send(packets)
        return (time.thread_time_ns() - start) / packets, lost

    def measure_process(self, pid: int, packets: int) -> tuple[float, int]:
        """Nanoseconds that a process was on a core for each packet, and how many were lost.

        What the kernel did to receive the packets is not in it. They come in bursts that fit into a socket's buffer.
        """
        schedstat = Path(f"/proc/{pid}/schedstat")
        start = int(schedstat.read_text().split()[0])
        lost = sum(self.send(SOCKET_BURST) for _ in range(packets // SOCKET_BURST))
        return (int(schedstat.read_text().split()[0]) - start) / max(packets - lost, 1), lost

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """The packet is counted and dropped where the box gets it."""
        index = self.index("in")
        with self.box:
            libbpf.tc_attach(index, 1, self.count)
        yield
        with self.box:
            libbpf.tc_detach(index, 1)

    @contextmanager
    def edge(self, loaded: compiler.Loaded) -> Iterator[None]:
        """The collection's programs, with the other cable where WireGuard is."""
        uplink, out = self.index("in"), self.index("out")
        wanted = edge_state.EdgeWanted(
            Relays("100.96.0.1", "fd65:6467:6577:1::1"),
            out,
            uplink,
            {"worker1": Relays("100.96.0.3", "fd65:6467:6577:1::3")},
            (edge_state.ServiceWanted("dns", VIP, PORT, PORT, (edge_state.BackendWanted(1, "worker1", 1),)),),
        )
        maps = {name: map_io.OpenMap(fd, libbpf.map_info(fd)) for name, fd in loaded.maps.items()}
        map_io.write(maps, edge_maps.plan(wanted, edge_state.read(maps), libbpf.possible_cpus())[1])
        with self.box:
            link = bcc.libbcc.lib.bpf_link_create(loaded.programs["edge_xdp"], uplink, 37, None)  # BPF_XDP
            assert link >= 0, "the edge's program cannot be attached"
            libbpf.tc_attach(uplink, 1, loaded.programs["edge_handoff"])
        yield
        os.close(link)
        with self.box:
            libbpf.tc_detach(uplink, 1)

    @contextmanager
    def nftables(self, tools: Path) -> Iterator[None]:
        """One DNAT rule, and the kernel's forwarding."""
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tools / "usr/lib/x86_64-linux-gnu")}
        rule = f"ip daddr {VIP} udp dport {PORT} dnat to {SERVER}"
        chain = f"chain in {{ type nat hook prerouting priority dstnat; {rule}; }};"
        nft = str(tools / "usr/sbin/nft")
        self.box.run(nft, "-f", "-", input=f"table ip bench {{ {chain} }}\n", env=environment)
        yield
        self.box.run(nft, "delete", "table", "ip", "bench", env=environment)

    @contextmanager
    def nginx(self, tools: Path) -> Iterator[int]:
        """A UDP proxy in one process; its id."""
        with tempfile.TemporaryDirectory() as directory:
            configuration = Path(directory, "nginx.conf")
            configuration.write_text(
                f"load_module {tools}/usr/lib/nginx/modules/ngx_stream_module.so;\n"
                f"daemon off; master_process off; user root; pid {directory}/pid; error_log stderr warn;\n"
                "events { worker_connections 1024; }\n"
                f"stream {{ server {{ listen {VIP}:{PORT} udp; proxy_pass {SERVER}:{PORT}; }} }}\n"
            )
            self.box.run("ip", "address", "add", VIP, "dev", "lo")
            command = [str(tools / "usr/sbin/nginx"), "-p", directory, "-e", "stderr", "-c", str(configuration)]
            server = subprocess.Popen(self.box.command(*command))
            deadline = time.monotonic() + 10
            while f"{VIP}:{PORT}" not in self.box.run("ss", "-Hlun").stdout:
                assert server.poll() is None, "nginx did not start"
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.05)
            yield server.pid
            server.terminate()
            server.wait()
            self.box.run("ip", "address", "delete", VIP, "dev", "lo")


def load() -> compiler.Loaded:
    """The edge's programs as they are on a box."""
    kinds: dict[str, str] = {hook.program: hook.kind for hook in HOOKS["edge"]}
    return compiler.compile_and_load("edge", source_of("edge"), sources.flags_of(layout.Capacity()), kinds, bytes(32))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--packets", type=int, default=200_000)
    parser.add_argument("--tools", type=Path, required=True, help="where nft and nginx are unpacked")
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    times: dict[str, list[float]] = {name: [] for name in RIVALS}
    losses = dict.fromkeys(RIVALS, 0)
    with ExitStack() as stack:
        bench, loaded = Bench(stack), load()
        tools = options.tools.resolve()
        rivals: dict[str, Callable[[], Any]] = dict(
            zip(
                RIVALS,
                (bench.nothing, lambda: bench.edge(loaded), lambda: bench.nftables(tools), lambda: bench.nginx(tools)),
                strict=True,
            )
        )
        for _ in range(options.rounds):
            for name, rival in rivals.items():
                with rival() as process:
                    bench.send(SOCKET_BURST * 10 if process is None else SOCKET_BURST)  # warm
                    if process is None:
                        taken, lost = bench.measure(options.packets)
                    else:
                        taken, lost = bench.measure_process(process, options.packets // 50)
                    times[name].append(taken)
                    losses[name] += lost
    show(times, losses, options.rounds, options.packets)
    return 0


def show(times: dict[str, list[float]], losses: dict[str, int], rounds: int, packets: int) -> None:
    """The table."""
    print(
        f"one core, {FLOWS} flows of 60-byte frames: {rounds} interleaved rounds of {packets:,} packets (nginx: a 50th)"
    )
    print(f"{'':24}{'median, ns':>12}{'min, ns':>10}{'alone, ns':>12}{'packets/s':>12}{'x edge':>8}{'lost':>8}")
    base = statistics.median(times["nothing"])
    # nginx's figure is its process's own.
    alone = {name: statistics.median(found) - (0 if "nginx" in name else base) for name, found in times.items()}
    for name, found in times.items():
        row = f"{name:24}{statistics.median(found):>12.0f}{min(found):>10.0f}"
        if name != "nothing":
            row += (
                f"{alone[name]:>12.0f}{1e9 / alone[name]:>12,.0f}{alone[name] / alone['edge']:>8.1f}{losses[name]:>8}"
            )
        print(row)


if __name__ == "__main__":
    sys.exit(main())
