# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""New WireGuard keys for the whole fleet, with clients at work, and a rotation that is interrupted."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from .support import DNS_VIP, EDGES, FLEET, answer, kill_all, run_after

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("whole_fleet")]

# One flow for each of some source ports, so that both workers are in use; a DNS query every 20 ms on each. Tells, for
# each flow, the longest time between two answers, and the longest that the probe itself was held up, in seconds.
PROBE = f"""
import json, selectors, socket, sys, time
selector = selectors.DefaultSelector()
flows = []
# Query 1, recursion desired, one question: www.edge.example A (RFC 1035, section 4).
QUERY = b"\\0\\1\\1\\0\\0\\1" + bytes(6) + b"\\3www\\4edge\\7example\\0\\0\\1\\0\\1"
for port in range(45000, 45008):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.bind(("", port))
    flow.connect(("{DNS_VIP}", 53))
    selector.register(flow, selectors.EVENT_READ, len(flows))
    flows.append(flow)
selector.register(sys.stdin, selectors.EVENT_READ, None)
heard = [time.monotonic()] * len(flows)
sent, back, longest, stop, held_up, last = 0, 0, [0.0] * len(flows), False, 0.0, time.monotonic()
print("begun", flush=True)
while not stop:
    held_up, last = max(held_up, time.monotonic() - last), time.monotonic()
    for flow in flows:
        try:
            flow.send(QUERY)
        except ConnectionError:
            pass
        sent += 1
    due = time.monotonic() + 0.02
    while (left := due - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            if key.data is None:
                stop = True
                selector.unregister(sys.stdin)
                continue
            try:
                key.fileobj.recv(500)
            except ConnectionError:
                continue
            now = time.monotonic()
            longest[key.data] = max(longest[key.data], now - heard[key.data])
            heard[key.data], back = now, back + 1
now = time.monotonic()
print(json.dumps({{"sent": sent, "back": back, "held_up": held_up,
    "longest": [max(a, now - b) for a, b in zip(longest, heard)]}}))
"""


def keys(lab: Lab) -> dict[str, str]:
    return {box: lab.run(box, "wg", "show", "wg0", "public-key").stdout.strip() for box in FLEET}


def registered(lab: Lab) -> dict[str, str]:
    path = lab.root / "inventories/lab/group_vars/all/edgewire_public_keys.yml"
    known: dict[str, str] = yaml.safe_load(path.read_text())["edgewire_public_keys"]
    return known


def settled(lab: Lab) -> None:
    """Verify is green, everybody knows the keys that are in use, and nothing is left of others."""
    lab.playbook("edgewire.fleet.verify")
    now = keys(lab)
    assert registered(lab) == now
    for box in FLEET:
        others = EDGES if box.startswith("worker") else [name for name in FLEET if name not in EDGES]
        assert set(lab.run(box, "wg", "show", "wg0", "peers").stdout.split()) == {now[name] for name in others}
        assert lab.run(box, "ls", "-A", "/etc/edgewire/wireguard").stdout.split() == ["wg0.key"]
        assert lab.run(box, "pgrep", "-x", "edgewire-follow", check=False).returncode == 1
    assert answer(lab) == "198.18.0.80"


def test_every_key_is_new_and_clients_hardly_notice(lab: Lab) -> None:
    before = keys(lab)
    probe = [lab.root / "lab/run", "client1", "python3", "-u", "-c", PROBE]
    with subprocess.Popen(probe, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n"
        lab.playbook("edgewire.fleet.rotate_keys")
        said, _ = client.communicate("stop\n", timeout=30)
    measured = json.loads(said)
    print(measured)
    assert measured["back"] > measured["sent"] / 2
    after = keys(lab)
    assert not set(after.values()) & set(before.values())
    settled(lab)
    run_after(lab)


def test_a_rotation_that_is_interrupted_is_finished_by_the_next(lab: Lab) -> None:
    before = keys(lab)
    command = [lab.root / ".venv/bin/ansible-playbook", "-i", "inventories/lab", "edgewire.fleet.rotate_keys"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    with subprocess.Popen(
        command, cwd=lab.root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert any("TASK [Put the next key in the place of the old one]" in line for line in run.stdout)
        kill_all(run.pid)
    lab.playbook("edgewire.fleet.rotate_keys", "--limit", "edge1")
    after = keys(lab)
    assert {box for box in FLEET if after[box] != before[box]} == {"edge1"}
    lab.playbook("edgewire.fleet.site")  # the others have the key already; this leaves them their plans
    settled(lab)
