# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service with a list of ports, and with unequal backends, two of them on one worker."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from .support import POOL_VIP, POOL_VIP6, echoed, told_by

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

VIPS = (POOL_VIP, POOL_VIP6)
PORTS = (7, 1007, 8001, 8002, 8003)
# The containers listen there, too.
NOT_SERVED = (8000, 8004)
WEIGHTS = (("worker1", 1), ("worker1", 2), ("worker2", 5))
ALL_WEIGHTS = 8

# Runs in the client's box: one flow after another, to each port in turn, until its echo is there. Prints how many of
# each port had theirs.
FLOWS = """
import json, socket, sys
vip, count, ports = sys.argv[1], int(sys.argv[2]), [int(port) for port in sys.argv[3:]]
served = dict.fromkeys(ports, 0)
for number in range(count):
    port, payload = ports[number % len(ports)], b"flow %d" % number
    with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.bind(("", 44000 + number))
        mine.settimeout(5)
        mine.connect((vip, port))
        mine.send(payload)
        served[port] += mine.recv(100) == payload
print(json.dumps(served))
"""


def served(lab: Lab, vip: str, flows: int) -> dict[int, int]:
    """How many of so many flows of client1 were answered, by port."""
    said = lab.run("client1", "python3", "-c", FLOWS, vip, str(flows), *map(str, PORTS), timeout=120).stdout
    return {int(port): count for port, count in json.loads(said).items()}


@pytest.mark.parametrize("vip", VIPS)
def test_every_port_of_the_list_is_served_and_no_other(lab: Lab, vip: str) -> None:
    assert served(lab, vip, 20) == dict.fromkeys(PORTS, 4)
    for port in NOT_SERVED:
        assert echoed(lab, "client2", vip, str(port), check=True) == ""


def test_backends_get_flows_by_their_weights(lab: Lab) -> None:
    """Each its share, give or take six standard deviations of a binomial distribution; so do those on one worker."""
    shown = [s for s in told_by(lab, "edge1", "forwarder_map_info")["edge"]["services"] if s["name"] == "pool"]
    places = {
        backend["endpoint_id"]: (service["vip"], backend["worker"], round(backend["share"] * ALL_WEIGHTS))
        for service in shown
        for backend in service["backends"]
    }
    assert set(places.values()) == {(vip, *backend) for vip in VIPS for backend in WEIGHTS}

    def counted(direction: str) -> Counter[tuple[str, str, int]]:
        """Packets by VIP, worker and weight."""
        found: Counter[tuple[str, str, int]] = Counter()
        for service in told_by(lab, "edge1", "forwarder_stats_info")["edge"]["services"]:
            for backend in service["backends"] if service["name"] == "pool" else ():
                found[places[backend["endpoint_id"]]] += backend["counters"][direction]
        return found

    flows = 400
    before = {direction: counted(direction) for direction in ("in_packets", "out_packets")}
    for vip in VIPS:
        assert served(lab, vip, flows) == dict.fromkeys(PORTS, flows // len(PORTS))
    came = counted("in_packets") - before["in_packets"]
    assert counted("out_packets") - before["out_packets"] == came, "each backend answered what it got"
    for vip in VIPS:
        assert sum(count for (of, *_), count in came.items() if of == vip) == flows
        for worker, weight in WEIGHTS:
            share = weight / ALL_WEIGHTS
            deviation = math.sqrt(flows * share * (1 - share))
            assert abs(came[vip, worker, weight] - flows * share) < 6 * deviation, came
