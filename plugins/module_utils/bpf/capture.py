# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of dropped packets into a pcapng file, each with the reason: what ``forwarder_capture`` calls.

The programs sample only while the map ``ew_capture`` says so, which it does until a time that is written into it: a
capture that was killed ends by itself. Between two looks here they send no more than they were granted.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, map_io, pcapng
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.perf import PerfBuffer, perf_buffer
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

LIMITS = {"count": (1, 1_000_000), "seconds": (1, 3600), "snaplen": (64, 9000), "per_second": (1, 10_000)}
_TICK = 0.1  # seconds between two grants, or as long as it takes to grant one sample
_GRACE = 2  # seconds that the programs go on if this process is gone
_ETHERNET = bytes(12)  # in front of an IP packet from a device without link layer: no addresses
_SIOCGIFHWADDR, _ARPHRD_ETHER = 0x8927, 1  # linux/sockios.h, linux/if_arp.h


@dataclass(frozen=True)
class Request:
    """What to sample: packets dropped for one of ``reasons``, at most ``count`` of them, ``per_second`` of them a
    second, for ``seconds``; of each the first ``snaplen`` bytes. ``dest`` is the file.
    """

    reasons: tuple[str, ...]
    count: int
    seconds: int
    snaplen: int
    per_second: int
    dest: Path

    @property
    def mask(self) -> int:
        """A bit for each reason."""
        return sum(1 << number for number, reason in enumerate(layout.DROP_REASONS) if reason in self.reasons)


def request_from(params: Mapping[str, Any]) -> Request:
    """The request that a module's options make; no reasons are all.

    :raises EdgewireError: naming everything that is wrong.
    """
    problems = [
        f"{name}: {params[name]} is not between {low} and {high}"
        for name, (low, high) in LIMITS.items()
        if not low <= params[name] <= high
    ]
    unknown = [reason for reason in params["reasons"] if reason not in layout.DROP_REASONS]
    if unknown:
        problems.append(f"reasons: no such reason: {', '.join(unknown)}; there are {', '.join(layout.DROP_REASONS)}")
    dest = Path(params["dest"])
    if dest.is_dir() or not dest.parent.is_dir():
        problems.append(f"dest: {dest} is not a file's path in a directory that exists")
    if problems:
        raise EdgewireError("; ".join(problems))
    reasons = tuple(params["reasons"] or layout.DROP_REASONS)
    return Request(reasons, dest=dest, **{name: params[name] for name in LIMITS})


def has_link_layer(interface: str) -> bool:
    """Whether an interface's packets begin with an Ethernet header; WireGuard's and TUN's do not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        answer = fcntl.ioctl(anything, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))
    return bool(struct.unpack_from("=H", answer, 16)[0] == _ARPHRD_ETHER)


class _File:
    """The capture file while it is written."""

    def __init__(self, file: IO[bytes], snaplen: int) -> None:
        self._file = file
        self._snaplen = snaplen
        self._interfaces: dict[int, tuple[int, bool]] = {}  # by interface index: place in the file, has a link layer
        # From the programs' clock, which goes on in suspend, to the epoch.
        self._epoch = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.counts: Counter[str] = Counter()
        file.write(pcapng.section("packets dropped by edgewire.fleet's forwarder"))

    def interface(self, ifindex: int) -> tuple[int, bool]:
        """An interface's place in the file, written there when it is first asked for."""
        if ifindex not in self._interfaces:
            name, link_layer = str(ifindex), False  # gone meanwhile
            with suppress(OSError):
                name = socket.if_indextoname(ifindex)
                link_layer = has_link_layer(name)
            self._file.write(pcapng.interface(name, self._snaplen + len(_ETHERNET) + 2))
            self._interfaces[ifindex] = len(self._interfaces), link_layer
        return self._interfaces[ifindex]

    def add(self, role: str, data: bytes) -> None:
        """Write one sample down."""
        (sample,) = layout.SAMPLE.iter_unpack(data[: layout.SAMPLE.size])
        packet = data[layout.SAMPLE.size : layout.SAMPLE.size + sample["captured"]]
        length, reason = sample["length"], [*layout.DROP_REASONS][sample["reason"]]
        number, link_layer = self.interface(sample["ifindex"])
        # A packet from a device without link layer may have got a header already when it was dropped.
        if not link_layer and packet[:1] and packet[0] >> 4 in (4, 6):
            packet = _ETHERNET + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet
            length += len(_ETHERNET) + 2
        hook = layout.SAMPLE_HOOKS[sample["hook"]].upper()
        comment = f"{reason}: {layout.DROP_REASONS[reason]} ({role}, {hook})"
        self._file.write(pcapng.packet(number, self._epoch + sample["when"], packet, length, comment))
        self.counts[reason] += 1


def grants(per_second: int) -> tuple[float, int]:
    """Seconds between two grants, and how many samples each is for, so that they are no more than ``per_second``."""
    tick = max(_TICK, 1 / per_second)
    return tick, max(1, int(per_second * tick))


class _Tap:
    """One role's programs: switched on, read from, switched off."""

    def __init__(self, role: str, maps: map_io.Maps, request: Request) -> None:
        self.role = role
        self._maps = maps
        self._request = request
        (now,) = layout.CAPTURE.iter_unpack(maps["ew_capture"].read()[1])
        if now["until"] > time.clock_gettime_ns(time.CLOCK_BOOTTIME):
            raise EdgewireError(f"another capture of the {role} programs is running on this host; nothing was done")

    def _write(self, **record: int) -> None:
        map_io.write(self._maps, [("ew_capture", layout.U32.of(0), layout.CAPTURE.pack(record))])

    def grant(self, samples: int, seconds: float) -> None:
        """Let the programs send so many samples, in so many seconds at the latest."""
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int((seconds + _GRACE) * 1e9)
        self._write(until=until, reasons=self._request.mask, left=samples, snaplen=self._request.snaplen)

    @contextmanager
    def open(self) -> Iterator[PerfBuffer]:
        """Samples from here on; none after it."""
        with perf_buffer(self._maps["ew_samples"].fd) as buffer:
            try:
                yield buffer
            finally:
                self._write()


def _taps(request: Request, stack: ExitStack) -> list[_Tap]:
    taps = []
    for role in layout.MAPS:
        maps = stack.enter_context(map_io.running_maps(role))
        if maps is not None:
            taps.append(_Tap(role, maps, request))
    if not taps:
        raise EdgewireError("no forwarder programs run on this host; edgewire.fleet.site puts them there")
    return taps


def _watched(taps: list[_Tap]) -> list[str]:
    return sorted({name for tap in taps for name, _ in map_io.find_attached(tap.role).values()})


def preview(request: Request) -> dict[str, Any]:
    """What :func:`capture` would look at; reads only."""
    with ExitStack() as stack:
        return {"interfaces": _watched(_taps(request, stack)), "watched": list(request.reasons)}


@contextmanager
def _written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at ``path`` when it is complete, readable for its owner only."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


def capture(request: Request) -> dict[str, Any]:
    """Sample until there are enough or the time is over; what was captured, by reason.

    :raises EdgewireError: no programs run here, or a capture does already.
    """
    with ExitStack() as stack:
        taps = _taps(request, stack)
        interfaces = _watched(taps)
        file = _File(stack.enter_context(_written_whole(request.dest)), request.snaplen)
        for name in interfaces:
            file.interface(socket.if_nametoindex(name))
        buffers = [(tap, stack.enter_context(tap.open())) for tap in taps]
        every, share = grants(request.per_second)
        end = time.monotonic() + request.seconds
        while (left := end - time.monotonic()) > 0 and file.counts.total() < request.count:
            tick = time.monotonic() + every
            for tap in taps:
                tap.grant(min(share, request.count - file.counts.total()), left)
            while (wait := min(tick, end) - time.monotonic()) > 0 and file.counts.total() < request.count:
                _take(buffers, file, request.count, wait / len(buffers))
        lost = sum(buffer.lost for _, buffer in buffers)
        return {
            "interfaces": interfaces,
            "watched": list(request.reasons),
            "path": str(request.dest),
            "packets": file.counts.total(),
            "reasons": dict(file.counts),
            "lost": lost,
        }


def _take(buffers: list[tuple[_Tap, PerfBuffer]], file: _File, count: int, seconds: float) -> None:
    for tap, buffer in buffers:
        for data in buffer.poll(seconds):
            if file.counts.total() < count:
                file.add(tap.role, data)
