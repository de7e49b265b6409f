# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests in the lab share: who is there, and how to ask them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from .conftest import Lab

EDGES = ("edge1", "edge2")
WORKERS = ("worker1", "worker2")
FLEET = (*EDGES, *WORKERS)
CLIENTS = {"client1": "198.51.100.11", "client2": "198.51.100.12"}
CLIENTS6 = {"client1": "2001:db8:c::11", "client2": "2001:db8:c::12"}
DNS_VIP, ECHO_VIP, RANGE_VIP = "203.0.113.53", "203.0.113.7", "203.0.113.99"
DNS_VIP6, ECHO_VIP6, RANGE_VIP6 = "2001:db8:53::53", "2001:db8:53::7", "2001:db8:53::99"
DIG = ("dig", "+short", "+time=2", "+tries=1")


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.2)


def kill_all(pid: int) -> None:
    """SIGKILL to a process and its descendants: Ansible's workers have sessions of their own."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    for number in found:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def recap(output: str) -> dict[str, dict[str, int]]:
    """Ansible's closing table: host to counts."""
    rows = re.findall(r"^(\S+)\s+: (ok=.*)$", output, re.M)
    return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in rows}


def told_by(lab: Lab, box: str, module: str, *arguments: str) -> dict[str, Any]:
    """What a module of the collection returns, run by hand on one box."""
    result: dict[str, Any] = yaml.safe_load(
        lab.ansible(box, f"edgewire.fleet.{module}", *arguments).stdout.split("=>", 1)[1]
    )
    return result


def changed_tasks(output: str) -> set[tuple[str, str]]:
    """(task, host) of everything that a run of ansible-playbook reports as changed."""
    found, task = set(), ""
    for line in output.splitlines():
        if match := re.match(r"TASK \[(.*)\]", line):
            task = match[1]
        elif match := re.match(r"changed: \[(\S+?)\]", line):
            found.add((task, match[1]))
    return found


def kernel_state(lab: Lab, box: str) -> dict[str, Any]:
    """What a roll-out could leave on a box; interface counters and the like left out."""
    script = """
    bpftool net
    find /sys/fs/bpf /etc/edgewire /var/lib/edgewire 2>/dev/null | sort
    ip -o link | sed 's/@.*//; s/:.*mtu/ mtu/; s/ qlen.*//' | cut -d' ' -f2 | sort
    ip rule; ip -6 rule; ip route show table all | sort; ip -6 route show table 7700 | sort
    for i in eth0 podman0; do tc filter show dev $i ingress 2>/dev/null; tc qdisc show dev $i 2>/dev/null; done
    systemctl list-units --all --no-legend 'edgewire*'
    """
    return {"text": lab.run(box, "sh", "-c", script).stdout}


def answer(
    lab: Lab, client: str = "client1", name: str = "www.edge.example", kind: str = "A", vip: str = DNS_VIP
) -> str:
    """What the DNS service on the VIP answers to a client; empty where nothing comes."""
    said = lab.run(client, *DIG, f"@{vip}", name, kind, check=False).stdout
    return "\n".join(line for line in said.splitlines() if not line.startswith(";;"))  # dig's own complaints


def asked_by(lab: Lab, name: str) -> set[str]:
    """The addresses that the DNS containers logged as asking for a name."""
    logs = "".join(lab.run(worker, "podman", "logs", "dns").stderr for worker in WORKERS)
    return set(re.findall(rf"query\[\w+\] {re.escape(name)} from (\S+)", logs))


def map_id(lab: Lab, box: str, interface: str, name: str) -> int:
    """The id of a map of the XDP program on a box's interface. A bare `bpftool map` lists those of all boxes."""
    (shown,) = json.loads(lab.run(box, "bpftool", "-j", "net", "show", "dev", interface).stdout)
    program = shown["xdp"][0]["id"]
    used = json.loads(lab.run(box, "bpftool", "-j", "prog", "show", "id", str(program)).stdout)["map_ids"]
    maps = (json.loads(lab.run(box, "bpftool", "-j", "map", "show", "id", str(i)).stdout) for i in used)
    return int(next(found["id"] for found in maps if found["name"] == name))
