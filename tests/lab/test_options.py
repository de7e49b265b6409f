# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service may ask for beside the usual: every port, clients kept together, what is too long carried. And packets
with segments, with options, or with little time to live.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .support import ANY_VIP, ANY_VIP6, CLIENTS, CLIENTS6, LARGEST, PMTUDISC_DO, WORKERS, logs, more_addresses, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.usefixtures("whole_fleet"),
    pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"]),
]

VIPS = {4: ANY_VIP, 6: ANY_VIP6}
CLIENT1 = {4: CLIENTS["client1"], 6: CLIENTS6["client1"]}
ROUTER = {4: "198.51.100.1", 6: "2001:db8:c::1"}
MORE_CLIENTS = {4: [f"198.51.100.{n}" for n in range(100, 112)], 6: [f"2001:db8:c::{n}" for n in range(100, 112)]}
SEGMENT = 1200  # bytes, by what the container sets

# Runs in the client's box. Each function is one way to ask; the arguments are its name, the VIP, and what it wants.
CLIENT = r"""
import json, socket, struct, sys
how, vip, *rest = sys.argv[1:]
v6 = ":" in vip

def made(source=None):
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source or ("::" if v6 else "0.0.0.0"), 0))
    sock.settimeout(5)
    return sock

def said(sock, port):
    name = b"".join(bytes([len(part)]) + part for part in (b"whoami", b"edge", b"example")) + bytes(1)
    sock.sendto(struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 16, 1), (vip, port))
    data, (address, came_from, *_) = sock.recvfrom(2000)
    assert (address, came_from) == (vip, port), (address, came_from)
    return next((worker for worker in ("worker1", "worker2") if worker.encode() in data), "?")

def ports(*numbers):
    return {number: said(made(), int(number)) for number in numbers}

def clients(*addresses):
    return {address: [said(made(address), 4242) for _ in range(8)] for address in addresses}

def segments(size):
    sock, payload, parts = made(), bytes(i * 7 % 251 for i in range(int(size))), []
    sock.sendto(payload, (vip, 1200))
    while sum(map(len, parts)) < len(payload):
        parts.append(sock.recv(65535))
    return {"sizes": [len(part) for part in parts], "same": b"".join(parts) == payload}

def options():
    sock = made()
    if v6:  # destination options, which whoever does not know them skips: PadN
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    else:  # three times NOP, and the end
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1, 1, 1, 0]))
    return said(sock, 4242)

def trace():
    # As traceroute does it: to a port where nobody listens, a step further each time.
    level, hops, errors = (41, 16, 25) if v6 else (0, 2, 11)  # IPV6_UNICAST_HOPS, IPV6_RECVERR; IP_TTL, IP_RECVERR
    heard = []
    for step in range(1, 9):
        sock = made()
        sock.setsockopt(level, errors, 1)
        sock.setsockopt(level, hops, step)
        sock.sendto(b"x", (vip, 33433 + step))
        try:
            sock.recv(2000)
        except OSError:
            pass
        _, told, _, _ = sock.recvmsg(2000, 2000, socket.MSG_ERRQUEUE)
        record = told[0][2]  # struct sock_extended_err, and behind it the offender's address
        offender = socket.inet_ntop(sock.family, record[24:40] if v6 else record[20:24])
        heard.append([record[5], record[6], offender])
        if heard[-1][0] != (3 if v6 else 11):
            return heard
    return heard

print(json.dumps(globals()[how](*rest)))
"""


def client(lab: Lab, how: str, family: int, *arguments: str) -> Any:
    """What client1 gets to hear when it asks the VIP in this way."""
    return json.loads(lab.run("client1", "python3", "-c", CLIENT, how, VIPS[family], *arguments).stdout)


@pytest.fixture
def many_addresses(lab: Lab, family: int) -> Iterator[list[str]]:
    """Addresses that client1 has for a while."""
    with more_addresses(lab, "client1", *MORE_CLIENTS[family]):
        yield MORE_CLIENTS[family]


def asked_by(lab: Lab) -> set[str]:
    """The addresses that the containers have logged as asking."""
    return set(re.findall(r"query\[TXT\] whoami\.edge\.example from (\S+)", logs(lab, "any")))


def test_a_service_has_every_port(lab: Lab, family: int) -> None:
    """The lowest, the highest and one between; the container sees the client's own address, and nobody else's."""
    said = client(lab, "ports", family, "1", "4242", "65535")
    assert set(said.values()) <= set(WORKERS), said
    clients = {*CLIENT1.values(), *MORE_CLIENTS[4], *MORE_CLIENTS[6]}
    until(lambda: CLIENT1[family] in asked_by(lab))
    assert asked_by(lab) <= clients


def test_a_client_stays_with_one_worker_from_whatever_port(lab: Lab, family: int, many_addresses: list[str]) -> None:
    said = client(lab, "clients", family, *many_addresses)
    assert {len(set(workers)) for workers in said.values()} == {1}, said
    assert {workers[0] for workers in said.values()} == set(WORKERS), "others are with the other"


def test_what_is_too_long_is_carried_where_the_service_says_so(lab: Lab, family: int) -> None:
    """1,500 bytes that nobody may fragment arrive, and come back: WireGuard's own packets go in fragments."""
    lab.run("client1", "ip", f"-{family}", "route", "flush", "cache")
    assert lab.run("client1", "python3", "-c", LARGEST, VIPS[family], "7", PMTUDISC_DO).stdout == "1500\n"


def test_one_send_of_many_segments_arrives_as_datagrams(lab: Lab, family: int) -> None:
    """The container sends 4,000 bytes with UDP_SEGMENT; the client's kernel has checked each datagram's checksum."""
    assert client(lab, "segments", family, "4000") == {"sizes": [SEGMENT, SEGMENT, SEGMENT, 400], "same": True}


def test_a_packet_with_options_is_served(lab: Lab, family: int) -> None:
    assert client(lab, "options", family) in WORKERS


def test_a_trace_to_a_vip_shows_the_router_and_then_the_vip(lab: Lab, family: int) -> None:
    """Edge and worker say that the time is up, and the container that nobody listens; all of them as the VIP."""
    expired, refused = ((11, 0), (3, 3)) if family == 4 else ((3, 0), (1, 4))
    steps = [(*expired, ROUTER[family]), (*expired, VIPS[family]), (*expired, VIPS[family]), (*refused, VIPS[family])]
    assert client(lab, "trace", family) == [list(step) for step in steps]
