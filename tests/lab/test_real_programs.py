# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that people run, through the fleet as they are: iperf3 both ways, and HTTP/3. (dnsperf is in test_fleet.)"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .support import CLIENTS, CLIENTS6, logs, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

IPERF_VIPS = {4: "203.0.113.52", 6: "2001:db8:53::52"}
IPERF_CONTAINER, IPERF_PORT = "10.88.0.52", 5201
HTTP3_VIPS = {4: "203.0.113.44", 6: "2001:db8:53::44"}
CLIENT1 = {4: CLIENTS["client1"], 6: CLIENTS6["client1"]}
WORKER1_OVERLAY = "100.64.0.3"
BODY_BYTES = 100_000


def relay_tcp(lab: Lab, box: str, name: str, listen: str, target: str) -> None:
    """Let a box carry TCP connections on, as a unit of its systemd."""
    lab.run(box, "systemd-run", "--quiet", "--collect", f"--unit={name}", "socat", f"{listen},reuseaddr,fork", target)


@pytest.fixture(scope="module")
def iperf_control(lab: Lab, whole_fleet: None) -> Iterator[None]:
    """A way for iperf3's control connection, which is TCP: to the VIP on the edge, and on by two plain TCP relays.

    The VIPs become the edge's own addresses for it. UDP to them never gets as far: XDP takes it off the uplink.
    """
    units = []
    try:
        for family, vip in IPERF_VIPS.items():
            lab.run("edge1", "ip", "address", "add", vip, "dev", "lo", *(["nodad"] if family == 6 else []))
            literal = f"[{vip}]" if family == 6 else vip
            units.append(("edge1", f"iperf-control-{family}"))
            listen = f"TCP{family}-LISTEN:{IPERF_PORT},bind={literal}"
            relay_tcp(lab, *units[-1], listen, f"TCP4:{WORKER1_OVERLAY}:{IPERF_PORT}")
        units.append(("worker1", "iperf-control"))
        listen = f"TCP4-LISTEN:{IPERF_PORT},bind={WORKER1_OVERLAY}"
        relay_tcp(lab, *units[-1], listen, f"TCP4:{IPERF_CONTAINER}:{IPERF_PORT}")
        for box, _ in units:
            until(lambda box=box: f":{IPERF_PORT}" in lab.run(box, "ss", "-Hltn").stdout)
        yield
    finally:
        for box, unit in units:
            lab.run(box, "systemctl", "stop", unit, check=False)
        for vip in IPERF_VIPS.values():
            lab.run("edge1", "ip", "address", "delete", vip, "dev", "lo", check=False)


def iperf(lab: Lab, family: int, *more: str) -> dict[str, Any]:
    """What iperf3 on client1 reports at the end of three seconds of UDP with the VIP."""
    command = ("iperf3", "--client", IPERF_VIPS[family], "--udp", "--length", "1200", "--bitrate", "4M", "--time", "3")
    said = lab.run("client1", *command, "--json", *more, check=False).stdout
    report: dict[str, Any] = json.loads(said)
    assert "error" not in report, report["error"]
    return report


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("family", [4, 6])
def test_iperf3_measures_udp_both_ways(lab: Lab, iperf_control: None, family: int, direction: str) -> None:
    report = iperf(lab, family, *(["--reverse"] if direction == "down" else []))
    total = report["end"]["sum"]
    # 4 Mbit/s for 3 s are 1,250 datagrams. It is real time on a busy machine: a queue may overflow once.
    assert total["packets"] > 1000
    assert total["lost_packets"] <= total["packets"] / 100, total
    client = report["start"]["connected"][0]
    assert (client["local_host"], client["remote_host"]) == (CLIENT1[family], IPERF_VIPS[family])
    # The control connection comes from the relay; the stream from the client's own socket.
    stream = f"connected to {CLIENT1[family]} port {client['local_port']}"
    until(lambda: stream in lab.run("worker1", "podman", "logs", "iperf").stdout)


def http3_log(lab: Lab) -> list[str]:
    """What the HTTP/3 servers on both workers have logged."""
    return logs(lab, "http3").splitlines()


@pytest.mark.parametrize("family", [4, 6])
def test_http3_serves_a_body_and_logs_the_client(lab: Lab, family: int) -> None:
    request = f"{CLIENT1[family]} GET /bytes/{BODY_BYTES}"
    before = http3_log(lab).count(request)
    get = f"/opt/edgewire-lab/http3_get.py {HTTP3_VIPS[family]} /bytes/{BODY_BYTES}"
    got = lab.run("client1", "sh", "-c", f"PYTHONPATH=/opt/edgewire-lab/python python3 {get} | sha256sum").stdout
    body = random.Random(BODY_BYTES).randbytes(BODY_BYTES)
    assert re.match(r"\w+", got)[0] == hashlib.sha256(body).hexdigest()  # type: ignore[index]
    until(lambda: http3_log(lab).count(request) > before)
    assert http3_log(lab).count(request) == before + 1
