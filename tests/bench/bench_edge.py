# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long edge_xdp takes for a packet, beside an empty program in the same run: ``make bench``.

The kernel runs a program again and again on one packet (BPF_PROG_TEST_RUN with ``repeat``), so a program that grows
the packet would work on its own output. The programs here call the real edge_xdp, inlined from the project's sources,
and then undo what it did; what the undoing costs is measured by a program that does nothing else ("frame only").
"""

from __future__ import annotations

import argparse
import array
import os
import platform
import re
import socket
import statistics
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    batches,
    compiler,
    edge_maps,
    edge_state,
    filters,
    layout,
    libbpf,
    map_io,
    sources,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.plugin_utils.bpf_sources import source_of

VIP, VIP6, PORT, OTHER_PORT = "203.0.113.53", "2001:db8:53::53", 53, 54
RANGE_PORT, RANGE = 12_345, (10_001, 19_998)
# Ports of services with a filter: the measured client is in no network of the list, in one, or held to a rate.
FILTERED_PORTS = LISTED_PORT, DENIED_PORT, RATED_PORT, SOURCE_RATED_PORT = 60, 61, 62, 63
NETWORKS = 1000
SERVICES, RANGES, BACKENDS = 1000, 100, 60
XDP_DROP, XDP_PASS = 1, 2

HARNESS = Path(__file__).with_name("bench_edge.c")


@dataclass(frozen=True)
class Case:
    """One line of the table. ``hits`` tells whether every packet must be counted as relayed, ``denied`` whether every
    one must be refused by the filter.
    """

    program: str
    label: str
    vip: str = VIP
    port: int = PORT
    hits: bool = False
    denied: bool = False
    protocol: int = socket.IPPROTO_UDP


CASES = (
    Case("bench_empty", "empty"),
    Case("bench_adjust", "empty + adjust_head -/+"),
    Case("bench_frame", "frame only (adjust, undo)"),
    Case("bench_miss", "not for us: TCP", protocol=socket.IPPROTO_TCP),
    Case("bench_miss", "not for us: TCP over IPv6", vip=VIP6, protocol=socket.IPPROTO_TCP),
    Case("bench_miss", "miss: port of no service", port=OTHER_PORT),
    Case("bench_miss", "miss over IPv6", vip=VIP6, port=OTHER_PORT),
    Case("bench_miss", "miss: port beside a range", port=RANGE[0] - 1),
    Case("bench_hit_1", "hit, 1 flow (+ undo)", hits=True),
    Case("bench_hit_64k", "hit, 65,536 flows (+ undo)", hits=True),
    Case("bench_hit_1m", "hit, 1,048,576 flows (+ undo)", hits=True),
    Case("bench_hit_64k", "hit in a range, 65,536 (+ undo)", port=RANGE_PORT, hits=True),
    Case("bench_hit_64k", "hit, list of 1,000 networks (+ undo)", port=LISTED_PORT, hits=True),
    Case("bench_hit_64k", "hit, service rate (+ undo)", port=RATED_PORT, hits=True),
    Case("bench_hit_64k", "hit, both rates, 65,536 (+ undo)", port=SOURCE_RATED_PORT, hits=True),
    Case("bench_miss", "source denied", port=DENIED_PORT, denied=True),
    Case("bench_hit6_1", "hit IPv6, 1 flow (+ undo)", vip=VIP6, hits=True),
    Case("bench_hit6_64k", "hit IPv6, 65,536 (+ undo)", vip=VIP6, hits=True),
    Case("bench_hit6_1m", "hit IPv6, 1,048,576 (+ undo)", vip=VIP6, hits=True),
)
FRAME_LINE = next(case for case in CASES if case.program == "bench_frame")
HIT_LINE = next(case for case in CASES if case.program == "bench_hit_64k")


def packet(vip: str, port: int, protocol: int = socket.IPPROTO_UDP) -> bytes:
    """A 64-byte frame (60 and what the wire adds) to a service's address; two bytes longer in IPv6."""
    ethernet = bytes.fromhex("020000000001020000000007")
    if ":" in vip:
        source, destination = (socket.inet_pton(socket.AF_INET6, a) for a in ("2001:2::", vip))
        ip6 = struct.pack("!IHBB", 6 << 28, 8, protocol, 64) + source + destination
        return ethernet + b"\x86\xdd" + ip6 + struct.pack("!HHHH", 40_000, port, 8, 1)
    udp_length = 60 - 34
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 46, 1, 0, 64, protocol, 0) + socket.inet_aton("198.16.0.0")
    udp = struct.pack("!HHHH", 40_000, port, udp_length, 0)
    return ethernet + b"\x08\x00" + ip + socket.inet_aton(vip) + udp + bytes(udp_length - 8)


def wanted() -> edge_state.EdgeWanted:
    """A thousand services of one port, a hundred with a range of ports; the measured ones have sixty backends."""
    workers = {f"worker{n}": Relays(f"100.96.1.{n}", f"fd65:6467:6577:1::{n + 1:x}") for n in range(BACKENDS)}

    def service(vip: str, ports: tuple[int, int], first_id: int, count: int) -> edge_state.ServiceWanted:
        backends = tuple(edge_state.BackendWanted(first_id + n, f"worker{n}", 1) for n in range(count))
        return edge_state.ServiceWanted(f"service{first_id}", vip, *ports, backends)

    services = [
        service(VIP, (PORT, PORT), 1, BACKENDS),
        service(VIP, RANGE, 101, BACKENDS),
        service(VIP6, (PORT, PORT), 201, BACKENDS),
    ]
    for n in range(1, SERVICES):
        services.append(service(f"203.0.{n % 100}.1", (1000 + n, 1000 + n), 10_000 + n, 1))
        services.append(service(f"2001:db8:{n % 100:x}::1", (1000 + n, 1000 + n), 20_000 + n, 1))
    services += [service(f"203.0.{n}.1", RANGE, 30_000 + n, 1) for n in range(1, RANGES)]
    services += [service(VIP, (port, port), 40_000 + port, 1) for port in FILTERED_PORTS]
    relays = Relays("100.96.0.1", "fd65:6467:6577:1:1::1")
    return edge_state.EdgeWanted(relays, 1, 1, workers, tuple(services), filters=filters_wanted())


def filters_wanted() -> tuple[filters.FilterWanted, ...]:
    """A list of a thousand networks, the same with the clients denied, and rates that nobody here comes up to."""
    others = {filters.source_of(f"10.{n % 250}.{n // 250}.0/24", allowed=False) for n in range(NETWORKS)}
    clients = filters.source_of("198.16.0.0/12", allowed=False)
    most = filters.Rate(filters.HIGHEST_RATE, filters.HIGHEST_RATE)
    return (
        filters.FilterWanted(f"service{40_000 + LISTED_PORT}", frozenset(others)),
        filters.FilterWanted(f"service{40_000 + DENIED_PORT}", frozenset({*others, clients})),
        filters.FilterWanted(f"service{40_000 + RATED_PORT}", rate=most),
        filters.FilterWanted(f"service{40_000 + SOURCE_RATED_PORT}", rate=most, source_rate=most),
    )


def load() -> tuple[compiler.Loaded, map_io.Maps]:
    """Compile the harness around the project's own source and fill the maps with the project's own code."""
    source, calls = re.subn(r"^int edge_xdp\(", "static __always_inline int edge_xdp(", source_of("edge"), flags=re.M)
    assert calls == 1, "edge_xdp is not where this script looks for it"
    loaded = compiler.compile_and_load(
        "edge",
        source + f'#line 1 "{HARNESS.name}"\n' + HARNESS.read_text(encoding="utf-8"),
        sources.flags_of(layout.Capacity()),
        {case.program: "xdp" for case in CASES},
        bytes(32),
    )
    maps = {name: map_io.OpenMap(fd, libbpf.map_info(fd)) for name, fd in loaded.maps.items()}
    map_io.write(maps, edge_maps.plan(wanted(), edge_state.read(maps), libbpf.possible_cpus())[1])
    for name, vip, length in (("bench_heads", VIP, 40), ("bench_heads6", VIP6, 56)):
        batches.update_batch(loaded.keep[name.encode()].map_fd, name, bytes(4), packet(vip, PORT)[:length], 1)
    return loaded, maps


def relayed(maps: map_io.Maps) -> int:
    """Packets that were counted as relayed, all backends and CPUs together."""
    slots = 2 * SERVICES + RANGES + 3 * BACKENDS + len(FILTERED_PORTS)
    assert layout.STATS.offset("in_packets") == 0
    return sum(array.array("Q", maps["ew_stats"].read(limit=slots)[1])[:: layout.STATS.size // 8])


def measure(case: Case, loaded: compiler.Loaded, maps: map_io.Maps, repeat: int) -> int:
    """Nanoseconds a packet; checks that the program did what the line says."""
    frame, before = packet(case.vip, case.port, case.protocol), relayed(maps)
    run = libbpf.run_program(loaded.programs[case.program], frame, repeat=repeat)
    count = relayed(maps) - before
    verdict = XDP_DROP if case.denied else XDP_PASS
    if (run.retval, count, len(run.data)) != (verdict, repeat if case.hits else 0, len(frame)):
        raise EdgewireError(f"{case.label}: returned {run.retval}, {count} of {repeat} packets relayed")
    return run.duration


def cpu_model() -> str:
    """The CPU's name as the kernel has it."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def show(results: dict[Case, list[int]], say: Callable[[str], None]) -> None:
    """The table. What a shared machine adds to a round varies; its least is what the program takes."""
    empty = min(results[CASES[0]])
    say(f"{'':36}{'min':>8}{'median':>8}{'max':>8}{'min x empty':>13}")
    for case, times in results.items():
        ratio = min(times) / empty
        say(f"{case.label:36}{min(times):>8}{statistics.median(times):>8.0f}{max(times):>8}{ratio:>13.1f}")
    frame, hit = (min(results[case]) for case in (FRAME_LINE, HIT_LINE))
    say(f"\nlookup, backend choice, rewrite and counters of a hit, undoing taken off: {hit - frame:.0f} ns")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--packets", type=int, default=30_000)
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    try:
        loaded, maps = load()
        print(f"edge_xdp, ns a packet: the least of {options.rounds} interleaved rounds of {options.packets:,} packets")
        print(f"kernel {platform.release()}, {cpu_model()}, core {core}; 60-byte frames, {SERVICES:,} services")
        print(f'of each family, {RANGES} ranges, {BACKENDS} backends in the measured ones; the line "empty" is the')
        print("test run's own loop\n")
        results: dict[Case, list[int]] = {case: [] for case in CASES}
        for case in CASES:
            measure(case, loaded, maps, 10_000)  # warm
        for _ in range(options.rounds):
            for case in CASES:
                results[case].append(measure(case, loaded, maps, options.packets))
    except EdgewireError as error:
        print(f"edgewire: {error}", file=sys.stderr)
        return 1
    show(results, print)
    return 0


if __name__ == "__main__":
    sys.exit(main())
