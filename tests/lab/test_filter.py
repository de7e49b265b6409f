# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet filters on real boxes: who is let in, how much, and what the counters say of the rest."""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from .support import (
    DNS_VIP,
    DNS_VIP6,
    ECHO_VIP,
    ECHO_VIP6,
    RANGE_VIP,
    RANGE_VIP6,
    answer,
    echoed,
    more_addresses,
    run_after,
    told_by,
    until,
)

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.lab

RATE, BURST = 50, 20
CLIENTS_NETWORK = ["198.51.100.0/24", "2001:db8:c::/64"]
CLIENT2_AND_MORE = ["198.51.100.12/30", "2001:db8:c::12/127"]
DENIED_EVERYWHERE = ["198.51.100.192/26", "2001:db8:c::c0/122"]


@pytest.fixture(scope="module", autouse=True)
def filtered_fleet(lab: Lab, whole_fleet: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """DNS is for the clients' network but for the part with client2, at a rate; echo has a rate for everybody together;
    edges drop what no service wants. Another part of that network is denied everywhere, but range is for it alone.
    """
    shared = yaml.safe_load((lab.root / "inventories/lab/group_vars/all/edgewire.yml").read_text())
    for service in shared["edgewire_services"]:
        if service["name"] == "dns":
            service["sources"] = {"allow": CLIENTS_NETWORK, "deny": CLIENT2_AND_MORE}
            service["limits"] = {"per_source_packets_per_second": RATE, "per_source_burst": BURST}
        if service["name"] == "echo":
            service["limits"] = {"packets_per_second": RATE, "burst": BURST}
        if service["name"] == "range":
            service["sources"] = {"allow": DENIED_EVERYWHERE}
    wanted: Path = tmp_path_factory.mktemp("filter") / "wanted.json"
    more = {"edgewire_drop_unserved": True, "edgewire_deny_sources": DENIED_EVERYWHERE}
    wanted.write_text(json.dumps({**shared, **more}))
    said = lab.playbook("edgewire.fleet.site", "-e", f"@{wanted}", "--diff").stdout
    assert all(network in said for network in CLIENTS_NETWORK), "the diff names the networks"
    run_after(lab, "-e", f"@{wanted}")
    lab.playbook("edgewire.fleet.verify", "-e", f"@{wanted}")


def dropped(lab: Lab) -> Counter[str]:
    """What edge1 dropped so far, by reason."""
    told = told_by(lab, "edge1", "forwarder_stats_info")
    return Counter({drop["reason"]: drop["packets"] for drop in told["edge"]["drops"]})


@pytest.mark.parametrize("vip", [DNS_VIP, DNS_VIP6])
def test_a_denied_client_gets_no_answer_and_the_counter_says_why(lab: Lab, vip: str) -> None:
    before = dropped(lab)["source_denied"]
    assert answer(lab, "client1", vip=vip) == "198.18.0.80"
    assert answer(lab, "client2", vip=vip) == ""
    assert dropped(lab)["source_denied"] == before + 1


@pytest.mark.parametrize(
    ("source", "dns", "echo", "named"),
    [("198.51.100.200", DNS_VIP, ECHO_VIP, RANGE_VIP), ("2001:db8:c::c8", DNS_VIP6, ECHO_VIP6, RANGE_VIP6)],
    ids=["IPv4", "IPv6"],
)
def test_who_is_denied_everywhere_is_served_where_the_service_names_the_network(
    lab: Lab, source: str, dns: str, echo: str, named: str
) -> None:
    """DNS allows the network around it, and echo has no list of its own."""
    before = dropped(lab)["source_denied"]
    with more_addresses(lab, "client1", source):
        assert echoed(lab, "client1", "-s", source, echo, "7", check=True) == ""
        assert echoed(lab, "client1", "-s", source, dns, "53", check=True) == ""
        until(lambda: echoed(lab, "client1", "-s", source, named, "10000") == "hello")
    assert echoed(lab, "client1", named, "10000", check=True) == "", "that one is for nobody else"
    assert dropped(lab)["source_denied"] == before + 3


@pytest.mark.parametrize("vip", [DNS_VIP, DNS_VIP6])
def test_a_source_gets_its_rate_and_no_more(lab: Lab, vip: str) -> None:
    lab.run("client1", "sh", "-c", "echo 'www.edge.example A' > /tmp/queries")
    load = ("dnsperf", "-s", vip, "-d", "/tmp/queries", "-l", "4", "-Q", "1000", "-c", "8", "-q", "1000", "-t", "1")
    said = lab.run("client1", *load, timeout=60).stdout
    completed = int(re.search(r"Queries completed:\s+(\d+)", said)[1])  # type: ignore[index]
    seconds = float(re.search(r"Run time \(s\):\s+([\d.]+)", said)[1])  # type: ignore[index]
    assert BURST < completed <= BURST + RATE * seconds, said
    assert dropped(lab)["source_rate"] > 0


# Runs in a client's box: 600 datagrams in some 3 s, to both VIPs in turns; tells how many came back, and between which
# times of the clock that all boxes have.
FLOOD = """
import socket, sys, time
vips = sys.argv[1:]
socks = [socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) for vip in vips]
came, began = [0, 0], time.monotonic()
def take():
    for number, sock in enumerate(socks):
        try:
            while sock.recv(100, socket.MSG_DONTWAIT):
                came[number] += 1
        except BlockingIOError:
            pass
for number in range(600):
    socks[number % 2].sendto(b"x", (vips[number % 2], 7))
    time.sleep(0.005)
    take()
ended = time.monotonic()
time.sleep(1)
take()
print(*came, began, ended)
"""


def test_a_service_gets_its_rate_and_no_more(lab: Lab) -> None:
    """One rate for all clients and both families: neither has it for itself."""
    with ThreadPoolExecutor() as pool:
        ask = ("python3", "-c", FLOOD, ECHO_VIP, ECHO_VIP6)
        said = list(pool.map(lambda client: lab.run(client, *ask).stdout.split(), ("client1", "client2")))
    came = [int(count) for ipv4, ipv6, *_ in said for count in (ipv4, ipv6)]
    seconds = max(float(ended) for *_, ended in said) - min(float(began) for _, _, began, _ in said)
    assert all(came), "nobody is left without"
    assert BURST < sum(came) <= BURST + RATE * seconds, said
    assert dropped(lab)["service_rate"] > 0


@pytest.mark.parametrize("vip", [ECHO_VIP, ECHO_VIP6])
def test_what_no_service_wants_is_dropped_and_ping_still_is_not(lab: Lab, vip: str) -> None:
    before = dropped(lab)["not_a_service"]
    lab.run("client2", "sh", "-c", f"echo x | nc -u -n -w 1 {vip} 8", check=False)
    lab.run("client2", "nc", "-n", "-z", "-w", "1", vip, "80", check=False)
    after = dropped(lab)["not_a_service"]
    assert after >= before + 2
    lab.run("client2", "ping", "-n", "-c", "1", "-W", "1", vip)
    assert dropped(lab)["not_a_service"] == after
