# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probe packets: one per service, sent through the live XDP program with BPF_PROG_TEST_RUN.

Nothing leaves the box, but the program is the one that is attached and the maps are the ones it uses, so the service's
counter of packets from clients goes up by one. What must come out is computed here from the plan alone.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    BackendWanted,
    EdgeWanted,
    ServiceWanted,
)

XDP_VERDICTS = {0: "XDP_ABORTED", 1: "XDP_DROP", 2: "XDP_PASS", 3: "XDP_TX", 4: "XDP_REDIRECT"}

# Clients that cannot exist: the benchmark networks of RFC 2544 and RFC 5180 are not routed.
CLIENTS = {4: ipaddress.ip_network("198.18.0.0/15"), 6: ipaddress.ip_network("2001:2::/48")}
MOST_CLIENTS = 65_536
CLIENT_PORT = 40_000
TTL = 64
MAX_PROBES = 32  # bpf/services.h
_MARK = struct.pack("=I", 0x65646765)
_ETHERNET = bytes.fromhex("020000000001020000000002")
_PAYLOAD = b"edgewire probe"
_ROOM = 256  # bytes that come out, metadata included: more than any probe becomes


@dataclass(frozen=True)
class ProbeResult:
    """One probe: which service, what should have come out, what did (verdict and packet in hex)."""

    service: ServiceWanted
    expected: Mapping[str, str]
    found: Mapping[str, str]
    may_be_refused: bool = False

    @property
    def right(self) -> bool:
        """Whether what came out is byte for byte what the plan says, or was one packet too many for the service."""
        return self.expected == self.found or (self.may_be_refused and self.found["verdict"] == "XDP_DROP")


def internet_checksum(data: bytes) -> int:
    """RFC 1071 checksum of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _word(data: bytes) -> int:
    """A field of the packet as the program reads it: big endian in the packet, the machine's order in a register."""
    return int.from_bytes(data, sys.byteorder)


def client_word(client: str) -> int:
    """The client as one word; the twin of ``client_word`` in bpf/services.h. An IPv4 client's is its address."""
    if ":" not in client:
        return _word(socket.inet_aton(client))
    raw = socket.inet_pton(socket.AF_INET6, client)
    value = 0
    for position, factor in enumerate((0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)):
        value ^= _word(raw[position * 4 : position * 4 + 4]) * factor & 0xFFFFFFFF
    return value


def flow_hash(client: str, client_port: int, port: int, *, by_client: bool = False) -> int:
    """The hash by which an edge picks a backend; the twin of ``flow_hash`` in bpf/services.h."""
    ports = _word(client_port.to_bytes(2, "big")) << 16 | _word(port.to_bytes(2, "big"))
    value = (client_word(client) * 0xCC9E2D51 ^ (0 if by_client else ports) * 0x1B873593) & 0xFFFFFFFF
    value ^= value >> 16
    value = value * 0x85EBCA6B & 0xFFFFFFFF
    value ^= value >> 13
    value = value * 0xC2B2AE35 & 0xFFFFFFFF
    return value ^ value >> 16


def _ipv4(source: str, destination: str, ttl: int, options: bytes, payload_length: int) -> bytes:
    words = 5 + len(options) // 4
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words,
        0,
        words * 4 + payload_length,
        0,
        0x4000,
        ttl,
        socket.IPPROTO_UDP,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    check = internet_checksum(header + options)
    return header[:10] + struct.pack("!H", check) + header[12:] + options


def _ipv6(source: str, destination: str, hop_limit: int, extension: bytes, payload_length: int) -> bytes:
    first = socket.IPPROTO_DSTOPTS if extension else socket.IPPROTO_UDP
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    length = len(extension) + payload_length
    return struct.pack("!IHBB", 6 << 28, length, first, hop_limit) + addresses + extension


def _place_of(service: ServiceWanted, client: str) -> int:
    """A client's place in the service's table; the twin of ``place_of`` in bpf/services.h."""
    hashed = flow_hash(client, CLIENT_PORT, service.port, by_client=service.by_client)
    return hashed * len(service.table) >> 32


@functools.lru_cache(1024)  # most services' probe is from the same one
def _unreal_client(version: int, number: int) -> str:
    return str(CLIENTS[version][number])


def _clients_of(service: ServiceWanted, wanted: EdgeWanted) -> Iterator[str]:
    """Clients that cannot exist and, where the service's list denies those, addresses that it allows."""
    held, version = wanted.filter_of(service), 6 if ":" in service.vip else 4
    for number in range(1, MOST_CLIENTS):
        client = _unreal_client(version, number)
        if held is None or held.lets_in(client):
            yield client
    if held is not None:
        allowed = (ipaddress.ip_address(source.network) for source in sorted(held.sources) if source.allowed)
        yield from (str(first) for first in allowed if first.version == version and held.lets_in(str(first)))


def client_of(service: ServiceWanted, wanted: EdgeWanted) -> str:
    """The client that the probe is from: the first whose place means the same in both tables of a service that drains.

    Where a packet of another goes depends on time, and on what the worker knows. If the service lets nobody in, it is
    one that cannot exist.
    """
    first = ""
    for client in _clients_of(service, wanted):
        if not service.is_draining:
            return client
        place = _place_of(service, client)
        if service.table[place] == service.drain_table[place]:
            return client
        first = first or client
    return first or _unreal_client(6 if ":" in service.vip else 4, 1)


def backend_of(service: ServiceWanted, wanted: EdgeWanted, client: str) -> BackendWanted | None:
    """The backend that a client's packet goes to: the first along the table whose worker lives."""
    if not service.table:
        return None
    place, by_id = _place_of(service, client), {backend.endpoint_id: backend for backend in service.backends}
    for number in range(1 + MAX_PROBES):
        backend = by_id[service.table[(place + number) % len(service.table)]]
        if backend.worker not in wanted.dead_workers:
            return backend
    return None


@functools.lru_cache(1)  # a probe holds the same before and behind the edge
def _udp(vip: str, port: int, client: str) -> bytes:
    length = 8 + len(_PAYLOAD)
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    addresses = socket.inet_pton(family, client) + socket.inet_pton(family, vip)
    head = struct.pack("!HHH", CLIENT_PORT, port, length)
    # The pseudo-headers of both families add up to the same: addresses, protocol and length.
    pseudo = addresses + struct.pack("!HH", socket.IPPROTO_UDP, length)
    check = internet_checksum(pseudo + head + b"\0\0" + _PAYLOAD) or 0xFFFF
    return head + struct.pack("!H", check) + _PAYLOAD


def packet_to(service: ServiceWanted, client: str) -> bytes:
    """A client's packet to the service's first port, from the Ethernet header on."""
    udp = _udp(service.vip, service.port, client)
    if ":" in service.vip:
        return _ETHERNET + b"\x86\xdd" + _ipv6(client, service.vip, TTL, b"", len(udp)) + udp
    return _ETHERNET + b"\x08\x00" + _ipv4(client, service.vip, TTL, b"", len(udp)) + udp


def relayed(service: ServiceWanted, wanted: EdgeWanted, client: str) -> bytes | None:
    """What the edge must make of :func:`packet_to`, metadata first; None where it must drop it."""
    held, backend = wanted.filter_of(service), backend_of(service, wanted, client)
    if backend is None or (held is not None and not held.lets_in(client)):
        return None
    endpoint_id, worker = backend.endpoint_id, wanted.workers[backend.worker]
    udp = _udp(service.vip, service.port, client)
    if ":" in service.vip:
        client_bytes = socket.inet_pton(socket.AF_INET6, client)
        option = struct.pack("!BBBBI16s", socket.IPPROTO_UDP, 2, 0x5E, 20, endpoint_id, client_bytes)
        header = b"\x86\xdd" + _ipv6(wanted.relays.ipv6, worker.ipv6, TTL - 1, option, len(udp))
    else:
        option = struct.pack("!BBBBI4s", 158, 12, 1, 0, endpoint_id, socket.inet_aton(client))
        header = b"\x08\x00" + _ipv4(wanted.relays.ipv4, worker.ipv4, TTL - 1, option, len(udp))
    return _MARK + _ETHERNET + header + udp


def run_probes(program_fd: int, wanted: EdgeWanted) -> Iterator[ProbeResult]:
    """Send one probe per service through the program behind ``program_fd``."""
    for service in wanted.services:
        client = client_of(service, wanted)
        packet = packet_to(service, client)
        must = relayed(service, wanted, client)
        verdict, after = ("XDP_DROP", packet) if must is None else ("XDP_PASS", must)
        run = libbpf.run_program(program_fd, packet, out_size=_ROOM)
        expected = {"verdict": verdict, "packet": after.hex()}
        found = {"verdict": XDP_VERDICTS.get(run.retval, str(run.retval)), "packet": run.data.hex()}
        held = wanted.filter_of(service)
        yield ProbeResult(service, expected, found, may_be_refused=held is not None and held.limits)
