# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests in the lab share: who is there, and how to ask them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from .conftest import Lab

EDGES = ("edge1", "edge2")
WORKERS = ("worker1", "worker2")
FLEET = (*EDGES, *WORKERS)
CLIENTS = {"client1": "198.51.100.11", "client2": "198.51.100.12"}
CLIENTS6 = {"client1": "2001:db8:c::11", "client2": "2001:db8:c::12"}
DNS_VIP, ECHO_VIP, RANGE_VIP, ANY_VIP = "203.0.113.53", "203.0.113.7", "203.0.113.99", "203.0.113.98"
DNS_VIP6, ECHO_VIP6, RANGE_VIP6, ANY_VIP6 = "2001:db8:53::53", "2001:db8:53::7", "2001:db8:53::99", "2001:db8:53::98"
POOL_VIP, POOL_VIP6 = "203.0.113.97", "2001:db8:53::97"
DIG = ("dig", "+short", "+time=2", "+tries=1")

# Runs in the client's box: datagrams on a connected socket until one comes back, each as long as the path is said to
# carry at the time. Prints the path MTU that the kernel has then, or the name of the error that is no matter of length.
LARGEST = r"""
import errno, socket, sys
vip, port, discovery = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
v6 = ":" in vip
mine = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
level, discover, mtu = (socket.IPPROTO_IPV6, 23, 24) if v6 else (socket.IPPROTO_IP, 10, 14)
mine.setsockopt(level, discover, discovery)
mine.settimeout(2)
mine.connect((vip, port))
for _ in range(4):
    payload = bytes(mine.getsockopt(level, mtu) - (48 if v6 else 28))
    try:
        mine.send(payload)
        if mine.recv(65535) == payload:
            print(mine.getsockopt(level, mtu))
            break
    except TimeoutError:
        continue
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            print(errno.errorcode[error.errno])
            break
"""
PMTUDISC_DONT, PMTUDISC_DO = "0", "2"  # linux/in.h


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


def processes_of(box: str) -> list[int]:
    """Everybody in a box's control group, as the host numbers them."""
    groups = Path("/sys/fs/cgroup").glob(f"**/edgewire-lab/{box}/**/cgroup.procs")
    return list({int(pid) for group in groups for pid in group.read_text().split()})


def boot_id(lab: Lab, box: str) -> str:
    """What is another one after each boot; empty while the box is down."""
    return lab.run(box, "cat", "/proc/sys/kernel/random/boot_id", check=False).stdout


def reboot(lab: Lab, *boxes: str) -> None:
    """Reboot boxes, side by side, and wait until their systemds have done everything, failed or not."""
    before = {box: boot_id(lab, box) for box in boxes}
    for box in boxes:
        lab.run(box, "systemctl", "reboot")

    def is_back(box: str) -> bool:
        if boot_id(lab, box) in ("", before[box]):
            return False
        return lab.run(box, "systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda box: until(lambda: is_back(box), 120), boxes))


def recap(output: str) -> dict[str, dict[str, int]]:
    """Ansible's closing table: host to counts."""
    rows = re.findall(r"^(\S+)\s+: (ok=.*)$", output, re.M)
    return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in rows}


def run_after(lab: Lab, *arguments: str) -> None:
    """A run of the site, as after any other: it changes nothing on any host that it is for."""
    run = lab.playbook("edgewire.fleet.site", *arguments)
    counts = recap(run.stdout)
    assert counts
    assert {row["changed"] for row in counts.values()} == {0}, run.stdout


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
        elif match := re.match(r"changed: \[(\S+?)(?: -> \S+)?\]", line):
            found.add((task, match[1]))
    return found


def box_state(lab: Lab, box: str) -> list[str]:
    """What a roll-out could leave on a box, line by line; counters and the like left out."""
    script = r"""
    bpftool net
    find /sys/fs/bpf /run/edgewire* /var/lib/edgewire* 2>/dev/null | sort
    ip -o link | sed 's/@.*//; s/:.*mtu/ mtu/; s/ qlen.*//' | cut -d' ' -f2 | sort
    ip -o address | sed 's/valid_lft.*//' | grep -v 'inet6 fe80'
    ip rule; ip -6 rule; ip route show table all | sort; ip -6 route show table 7700 | sort
    ip nexthop | sort
    for i in eth0 podman0; do tc filter show dev $i ingress 2>/dev/null; tc qdisc show dev $i 2>/dev/null; done
    systemctl list-units --all --no-legend 'edgewire*'; systemctl --failed --no-legend
    systemctl list-unit-files --no-legend
    ps -eo args= | grep -E 'edgewire|wireguard-go' | grep -vE '^(sh -c|grep) '
    sysctl -a 2>/dev/null | grep -E '^net[.](ipv4|ipv6|core|bridge)[.]' | grep -vE 'secret|[.]neigh[.]|_key'
    find /etc /usr/local /root -path /root/.ansible -prune -o -type f -exec sha256sum {} + | sort -k 2
    find /etc /usr/local /root -path /root/.ansible -prune -o ! -type f -print | sort
    find /run/systemd /run/wireguard -maxdepth 1 | sort
    """
    return lab.run(box, "sh", "-c", script).stdout.splitlines()


def attached_programs(lab: Lab, box: str) -> set[int]:
    """The ids of the programs on a box's hooks: those that packets meet."""
    (hooks,) = json.loads(lab.run(box, "bpftool", "-j", "net").stdout)
    return {hook["id"] for hook in (*hooks["xdp"], *hooks["tc"])}


def kernel_objects(lab: Lab, box: str) -> dict[str, set[int]]:
    """The ids of the programs, maps and links that hang on a box's hooks or are pinned on it.

    A bare `bpftool prog` lists those of all boxes, which share a kernel.
    """
    script = r"""
    find /sys/fs/bpf/edgewire -type f | while read pin; do
        for kind in prog map link; do echo "$(bpftool -j $kind show pinned $pin 2>/dev/null)"; done; done
    """
    found: dict[str, set[int]] = {"prog": attached_programs(lab, box), "map": set(), "link": set()}
    for shown in map(json.loads, filter(None, lab.run(box, "sh", "-c", script).stdout.splitlines())):
        if "id" in shown:  # else it says that it is no object of this kind
            found["link" if "prog_id" in shown else "prog" if "tag" in shown else "map"].add(shown["id"])
    for program in found["prog"]:
        shown = json.loads(lab.run(box, "bpftool", "-j", "prog", "show", "id", str(program)).stdout)
        found["map"] |= set(shown.get("map_ids", ()))
    return found


def alive(lab: Lab, box: str, objects: dict[str, set[int]]) -> list[str]:
    """Those of the objects that the kernel still has."""
    script = 'for id in "$@"; do bpftool $0 show id $id >/dev/null 2>&1 && echo $0 $id; done; true'
    return [
        line
        for kind, ids in objects.items()
        for line in lab.run(box, "sh", "-c", script, kind, *map(str, sorted(ids))).stdout.splitlines()
    ]


def answer(
    lab: Lab, client: str = "client1", name: str = "www.edge.example", kind: str = "A", vip: str = DNS_VIP
) -> str:
    """What the DNS service on the VIP answers to a client; empty where nothing comes."""
    said = lab.run(client, *DIG, f"@{vip}", name, kind, check=False).stdout
    return "\n".join(line for line in said.splitlines() if not line.startswith(";;"))  # dig's own complaints


def logs(lab: Lab, container: str, *workers: str) -> str:
    """What a container has logged, on both workers or on some; a line may come later than the answer it tells of."""
    return "".join(lab.run(worker, "podman", "logs", container).stderr for worker in workers or WORKERS)


def asked_by(lab: Lab, name: str) -> set[str]:
    """The addresses that the DNS containers logged as asking for a name."""
    return set(re.findall(rf"query\[\w+\] {re.escape(name)} from (\S+)", logs(lab, "dns")))


def echoed(lab: Lab, box: str, *where: str, check: bool = False) -> str:
    """What comes back to a box that sends "hello" by UDP; nc's arguments tell from where and to where.

    Whoever expects nothing lets ``check`` tell that nc did send: nothing comes back either where it could not.
    """
    return lab.run(box, "nc", "-u", "-n", "-w", "1", *where, input="hello", check=check).stdout


def map_id(lab: Lab, box: str, interface: str, name: str) -> int:
    """The id of a map of the XDP program on a box's interface. A bare `bpftool map` lists those of all boxes."""
    (shown,) = json.loads(lab.run(box, "bpftool", "-j", "net", "show", "dev", interface).stdout)
    program = shown["xdp"][0]["id"]
    used = json.loads(lab.run(box, "bpftool", "-j", "prog", "show", "id", str(program)).stdout)["map_ids"]
    maps = (json.loads(lab.run(box, "bpftool", "-j", "map", "show", "id", str(i)).stdout) for i in used)
    return int(next(found["id"] for found in maps if found["name"] == name))


@contextmanager
def more_addresses(lab: Lab, box: str, *addresses: str) -> Iterator[None]:
    """Addresses that a box has for a while."""

    def each(did: str) -> None:
        script = f'for address in "$@"; do ip address {did} $address dev eth0; done'
        hosts = [f"{address}/128 nodad" if ":" in address else f"{address}/32" for address in addresses]
        lab.run(box, "sh", "-c", script, "sh", *hosts, check=False)

    each("replace")
    try:
        yield
    finally:
        each("delete")


FAMILIES = {"IPv4": DNS_VIP, "IPv6": DNS_VIP6}
# Asks which worker answers, from one socket a port, again and again until a file is there; says who answered each. The
# last round begins after the file was seen: what a slow round before waited for in vain says nothing of the end.
ASK = """
import json, os, socket, struct, sys, time
vip, first, count, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
name = b"".join(bytes([len(part)]) + part for part in (b"whoami", b"edge", b"example")) + b"\\0"
sockets = {}
for port in range(first, first + count):
    made = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in vip:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the same ports are in use for IPv4
    made.bind(("", port))
    made.settimeout(2)
    made.connect((vip, 53))
    sockets[port] = made
said = {port: [] for port in sockets}
while True:
    last = stop == "once" or os.path.exists(stop)
    for port, made in sockets.items():
        made.send(struct.pack("!6H", port, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 16, 1))
        try:
            data = made.recv(500)
            said[port].append(next((w for w in ("worker1", "worker2") if w.encode() in data), "?"))
        except TimeoutError:
            said[port].append("lost")
    if last:
        break
    time.sleep(0.2)
print(json.dumps(said))
"""


def ask(lab: Lab, vip: str, first: int, count: int, stop: str = "once") -> dict[str, list[str]]:
    """Source port to the workers that answered, in order."""
    arguments = (vip, str(first), str(count), stop)
    said: dict[str, list[str]] = json.loads(lab.run("client1", "python3", "-c", ASK, *arguments, timeout=300).stdout)
    return said


@contextmanager
def traffic(lab: Lab, first: int, count: int) -> Iterator[dict[str, dict[str, list[str]]]]:
    """Flows of both families that go on for as long as this is open; what they heard is there afterwards."""
    heard: dict[str, dict[str, list[str]]] = {}
    lab.run("client1", "rm", "-f", "/tmp/stop")

    def run(family: str, vip: str) -> None:
        heard[family] = ask(lab, vip, first, count, "/tmp/stop")

    threads = [threading.Thread(target=run, args=item) for item in FAMILIES.items()]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        lab.run("client1", "touch", "/tmp/stop")
        for thread in threads:
            thread.join()
    assert set(heard) == set(FAMILIES)
