# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients' and containers' kernels make of ICMP: pings, path MTU discovery, ports where nobody listens."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .support import (
    ANY_VIP,
    ANY_VIP6,
    CLIENTS,
    CLIENTS6,
    ECHO_VIP,
    ECHO_VIP6,
    LARGEST,
    PMTUDISC_DO,
    PMTUDISC_DONT,
    RANGE_VIP,
    RANGE_VIP6,
    WORKERS,
    told_by,
    until,
)

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

RELAY_OPTION_BYTES = {4: 12, 6: 24}


def beside(lab: Lab, worker: str, container: str) -> tuple[str, ...]:
    """What to put before a command that shall run in the network of a container."""
    pid = lab.run(worker, "podman", "inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    return "nsenter", f"--net=/proc/{pid}/ns/net"


def forget_paths(lab: Lab, box: str, *before: str) -> None:
    """Kernels remember a path's MTU for ten minutes."""
    for family in ("-4", "-6"):
        lab.run(box, *before, "ip", family, "route", "flush", "cache")


@pytest.fixture(autouse=True)
def _nothing_known_of_paths(lab: Lab) -> None:
    forget_paths(lab, "client1")


def fits(lab: Lab, version: int) -> int:
    """The longest IP packet that edge1's WireGuard carries whole with the relay option."""
    return int(lab.run("edge1", "cat", "/sys/class/net/wg0/mtu").stdout) - RELAY_OPTION_BYTES[version]


def events(lab: Lab) -> dict[str, int]:
    """What edge1 counted off the plain way."""
    told = told_by(lab, "edge1", "forwarder_stats_info")["edge"]["events"]
    return {event["event"]: event["packets"] for event in told}


def test_vips_answer_pings(lab: Lab) -> None:
    before = events(lab).get("echo_answered", 0)
    for vip in (ECHO_VIP, ECHO_VIP6):
        lab.run("client1", "ping", "-n", "-c", "1", "-W", "2", vip)
    assert events(lab)["echo_answered"] == before + 2


@pytest.mark.parametrize(("version", "vip"), [(4, ECHO_VIP), (6, ECHO_VIP6)])
def test_a_client_that_forbids_fragments_learns_what_fits(lab: Lab, version: int, vip: str) -> None:
    """As QUIC does. The echo is as long as the request, so the way back carries as much."""
    said = lab.run("client1", "python3", "-c", LARGEST, vip, "7", PMTUDISC_DO).stdout
    assert said == f"{fits(lab, version)}\n"


def test_a_container_learns_what_fits(lab: Lab) -> None:
    """The client's 1,500 bytes may be cut on their way, the container's first echo may not and is refused."""
    said = lab.run("client1", "python3", "-c", LARGEST, ECHO_VIP, "7", PMTUDISC_DONT).stdout
    assert said == "1500\n"


@pytest.mark.parametrize("vip", [RANGE_VIP, RANGE_VIP6])
def test_a_client_hears_that_nobody_listens(lab: Lab, vip: str) -> None:
    """The container of the range listens on three of its ports."""
    assert lab.run("client1", "python3", "-c", LARGEST, vip, "10001", PMTUDISC_DONT).stdout == "ECONNREFUSED\n"


# Runs beside a container: answers the first datagram until an error comes back, as it does once the client's socket is
# closed. Prints the client's port and the error.
ANSWER = r"""
import errno, socket, sys
family, port = {4: socket.AF_INET, 6: socket.AF_INET6}[int(sys.argv[1])], int(sys.argv[2])
mine = socket.socket(family, socket.SOCK_DGRAM)
mine.bind(("", port))
print("ready", flush=True)
_, client = mine.recvfrom(100)
mine.connect(client)
mine.settimeout(0.2)
for _ in range(100):
    try:
        mine.send(b"answer")
        mine.recv(100)
    except TimeoutError:
        continue
    except OSError as error:
        print(client[1], errno.errorcode[error.errno])
        break
"""
# Runs in the client's box: one datagram, and nobody waits for an answer.
ASK_AND_LEAVE = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as mine:
    mine.bind(("", int(sys.argv[3])))
    mine.sendto(b"question", (sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("container", "vips", "port", "container_port"),
    [("range", {4: RANGE_VIP, 6: RANGE_VIP6}, 10007, 20007), ("any", {4: ANY_VIP, 6: ANY_VIP6}, 9007, 9007)],
    ids=["another port in the container", "a client stays with one worker"],
)
@pytest.mark.parametrize("version", [4, 6])
def test_a_container_hears_that_the_client_has_left(
    lab: Lab, version: int, container: str, vips: dict[int, str], port: int, container_port: int
) -> None:
    """The client's kernel tells the VIP that nobody has the port any more to which the reply went."""
    programs = {}
    try:
        for worker in WORKERS:
            command = (*beside(lab, worker, container), "python3", "-c", ANSWER, str(version), str(container_port))
            programs[worker] = subprocess.Popen(
                [lab.root / "lab/run", worker, *command], stdout=subprocess.PIPE, text=True
            )
        for program in programs.values():
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        lab.run("client1", "python3", "-c", ASK_AND_LEAVE, vips[version], str(port), "48500")
        until(lambda: any(program.poll() is not None for program in programs.values()), 30)
    finally:
        for program in programs.values():
            program.terminate()
    assert sorted(program.communicate()[0] for program in programs.values()) == ["", "48500 ECONNREFUSED\n"]


@pytest.fixture
def narrow_way(lab: Lab) -> Iterator[int]:
    """The router's way to client1 carries less than what comes to it. How much."""
    mtu = 1300
    addresses = (f"{CLIENTS['client1']}/32", f"{CLIENTS6['client1']}/128")
    containers = [(worker, *beside(lab, worker, "echo")) for worker in WORKERS]
    for container in containers:
        forget_paths(lab, *container)
    try:
        for address in addresses:
            lab.run("router", "ip", "route", "replace", address, "dev", "br-clients", "mtu", "lock", str(mtu))
        yield mtu
    finally:
        for address in addresses:
            lab.run("router", "ip", "route", "delete", address, check=False)
        for container in containers:
            forget_paths(lab, *container)


@pytest.mark.parametrize(("version", "vip", "clients"), [(4, ECHO_VIP, CLIENTS), (6, ECHO_VIP6, CLIENTS6)])
def test_a_container_learns_how_little_the_way_to_the_client_carries(
    lab: Lab, narrow_way: int, version: int, vip: str, clients: dict[str, str]
) -> None:
    """The router refuses the first long echo, and tells the VIP. The next one comes in fragments."""
    assert lab.run("client1", "python3", "-c", LARGEST, vip, "7", PMTUDISC_DO).stdout == f"{fits(lab, version)}\n"
    known: set[int] = set()
    for worker in WORKERS:
        command = (*beside(lab, worker, "echo"), "ip", "-json", "route", "get", clients["client1"])
        for route in json.loads(lab.run(worker, *command).stdout):
            known |= {metrics.get("mtu") for metrics in route.get("metrics", ())}
    assert known == {narrow_way}
