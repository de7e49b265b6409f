# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams that no link carries whole, from a client to a container and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .support import CLIENTS, CLIENTS6, DNS_VIP, DNS_VIP6, ECHO_VIP, ECHO_VIP6, told_by

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

# Runs in the client's box: a datagram of so many bytes to the echo service, cut by the box's kernel or, in the order
# that is given, here; prints how many bytes came back, if they are the same.
ECHO = r"""
import random, socket, struct, subprocess, sys
client, vip, size, order = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
v6 = ":" in vip
payload = random.Random(size).randbytes(size)
mine = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
mine.bind((client, 0))
mine.settimeout(10)
if not order:
    mine.sendto(payload, (vip, 7))
else:
    source, destination = (socket.inet_pton(mine.family, a) for a in (client, vip))
    udp = struct.pack("!HHHH", mine.getsockname()[1], 7, 8 + size, 0) + payload
    def checksum(data):
        data += bytes(len(data) % 2)
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return ~total & 0xFFFF
    check = checksum(source + destination + struct.pack("!II", len(udp), 17) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", check) + udp[8:]
    fragments, ident = [], random.randrange(1, 65536)
    for start in range(0, len(udp), 1440):
        part, more = udp[start : start + 1440], start + 1440 < len(udp)
        if v6:
            head = struct.pack("!IHBB", 6 << 28, 8 + len(part), 44, 64) + source + destination
            head += struct.pack("!BBHI", 17, 0, start | more, ident)
        else:
            first = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(part), ident, more << 13 | start // 8, 64, 17)
            head = first + struct.pack("!H", checksum(first + bytes(2) + source + destination)) + source + destination
        fragments.append(head + part)
    words = subprocess.run(["ip", "route", "get", vip], capture_output=True, text=True, check=True).stdout.split()
    device, gateway = words[words.index("dev") + 1], words[words.index("via") + 1]
    subprocess.run(["ping", "-c1", "-W5", gateway], capture_output=True, check=True)
    shown = subprocess.run(["ip", "neigh", "show", gateway], capture_output=True, text=True, check=True).stdout.split()
    link = bytes.fromhex(shown[shown.index("lladdr") + 1].replace(":", ""))
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    for number in order:
        wire.sendto(fragments[int(number)], (device, 0x86DD if v6 else 0x0800, 0, 0, link))
print(len(payload) if mine.recv(65535) == payload else "something else")
"""


@pytest.mark.parametrize(("clients", "vip"), [(CLIENTS, ECHO_VIP), (CLIENTS6, ECHO_VIP6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("order", [(), (2, 1, 0), (1, 2, 0)], ids=["as it comes", "backwards", "first one last"])
def test_4000_bytes_there_and_back(lab: Lab, clients: dict[str, str], vip: str, order: tuple[int, ...]) -> None:
    command = ("python3", "-c", ECHO, clients["client1"], vip, "4000", *map(str, order))
    assert lab.run("client1", *command, timeout=30).stdout == "4000\n"


def test_what_waited_for_the_first_one_is_counted(lab: Lab) -> None:
    def held() -> dict[str, int]:
        found: dict[str, int] = told_by(lab, "edge1", "forwarder_stats_info")["edge"]["fragments"]
        return found

    before = held()
    lab.run("client1", "python3", "-c", ECHO, CLIENTS["client1"], ECHO_VIP, "4000", "2", "1", "0", timeout=30)
    assert held() == {name: count + 2 for name, count in before.items()}


@pytest.mark.parametrize("vip", [DNS_VIP, DNS_VIP6])
def test_a_dns_answer_of_4000_bytes(lab: Lab, vip: str) -> None:
    """Over UDP, as EDNS allows; the container's kernel cuts it."""
    said = lab.run(
        "client1", "dig", "+notcp", "+ignore", "+bufsize=4096", "+time=5", f"@{vip}", "long.edge.example", "TXT"
    )
    text = "".join(said.stdout.split('"')[1::2])
    assert len(text) == 15 * 250, said.stdout
    assert "(UDP)" in said.stdout
