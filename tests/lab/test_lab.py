# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: real boxes, wires between them, containers, and raising and removing all that in any state."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .support import answer, echoed, logs, processes_of, until

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.lab

BOXES = ("client1", "client2", "edge1", "edge2", "worker1", "worker2")
FLEET = ("edge1", "edge2", "worker1", "worker2")
WORKERS = ("worker1", "worker2")
UNCHANGED = "changed=0"


def did(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What a step of lab/labctl says that it had to do."""
    found: list[str] = json.loads(result.stdout)["did"]
    return found


@pytest.mark.parametrize("box", BOXES)
def test_a_box_is_a_machine_with_systemd(lab: Lab, box: str) -> None:
    assert lab.run(box, "systemctl", "is-system-running").stdout.strip() == "running"
    assert lab.run(box, "cat", "/proc/1/comm").stdout.strip() == "systemd"
    assert lab.run(box, "hostname").stdout.strip() == box
    assert Path(f"/proc/{lab.pid(box)}/comm").read_text().strip() == "systemd"


def test_boxes_share_nothing(lab: Lab) -> None:
    lab.run("edge1", "touch", "/etc/only-here")
    lab.run(
        "edge1",
        "bpftool",
        "map",
        "create",
        "/sys/fs/bpf/only-here",
        *["type", "array", "key", "4", "value", "4", "entries", "1", "name", "a"],
    )
    try:
        assert lab.run("edge2", "test", "-e", "/etc/only-here", check=False).returncode == 1
        assert lab.run("edge2", "test", "-e", "/sys/fs/bpf/only-here", check=False).returncode == 1
    finally:
        lab.run("edge1", "rm", "/etc/only-here", "/sys/fs/bpf/only-here")


def test_run_passes_everything_through(lab: Lab) -> None:
    assert lab.run("edge1", "cat", input="one\ntwo\n").stdout == "one\ntwo\n"
    assert lab.run("edge1", "sh", "-c", "echo told >&2").stderr == "told\n"
    assert lab.run("edge1", "sh", "-c", "exit 42", check=False).returncode == 42
    assert lab.run("edge1", "sh", "-c", "kill -TERM $$", check=False).returncode == 128 + signal.SIGTERM
    assert lab.run("edge1", "no-such-command", check=False).returncode == 127
    assert lab.run("router", "sh", "-c", "exit 3", check=False).returncode == 3


def test_run_tells_that_there_is_no_such_box(lab: Lab) -> None:
    result = lab.run("edge9", "true", check=False)
    assert result.returncode == 125
    assert "no box is called edge9" in result.stderr
    assert "worker2" in result.stderr


def test_a_stopped_run_leaves_nothing_running(lab: Lab) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([lab.root / "lab/run", "client1", "sleep", "4711"]) as process:
            until(lambda: lab.run("client1", "pgrep", "--full", "sleep 4711", check=False).returncode == 0)
            process.send_signal(number)
        until(lambda: lab.run("client1", "pgrep", "--full", "sleep 4711", check=False).returncode == 1)


def test_ansible_reaches_the_fleet_over_ssh(lab: Lab) -> None:
    said = lab.ansible("edgewire", "ansible.builtin.ping").stdout
    for host in FLEET:
        assert f"{host} | SUCCESS" in said


def test_ids_and_services_are_in_the_inventory(lab: Lab) -> None:
    command = [str(lab.root / ".venv/bin/ansible-inventory"), "-i", "inventories/lab", "--list"]
    hosts = json.loads(subprocess.check_output(command, cwd=lab.root))["_meta"]["hostvars"]
    assert [hosts[host]["edgewire_id"] for host in FLEET] == [1, 2, 3, 4]
    assert [service["name"] for service in hosts["edge1"]["edgewire_services"]] == [
        "dns",
        "echo",
        "range",
        "iperf",
        "http3",
        "any",
        "pool",
    ]


@pytest.mark.parametrize("target", ["192.0.2.11", "2001:db8:a::12", "198.51.100.12", "2001:db8:c::12"])
def test_a_client_reaches_what_it_shall(lab: Lab, target: str) -> None:
    lab.run("client1", "ping", "-c", "1", "-W", "2", target)


def test_the_fleet_does_not_serve_by_itself(lab: Lab) -> None:
    """Containers' addresses are a worker's own business; nothing but the collection leads to them."""
    assert lab.run("client1", "ping", "-c", "1", "-W", "1", "10.88.0.53", check=False).returncode != 0


def test_a_client_computes_whole_checksums(lab: Lab) -> None:
    assert "tx-checksumming: off" in lab.run("client1", "ethtool", "--show-offload", "eth0").stdout


def test_the_router_switches_every_vip(lab: Lab) -> None:
    def ways() -> list[str]:
        found = []
        for vip in ("203.0.113.53", "203.0.113.7", "2001:db8:53::53"):
            route = json.loads(lab.run("router", "ip", "-json", "route", "get", vip).stdout)[0]
            found.append(str(route["gateway"]))
        return found

    try:
        lab.switch("edge2")
        assert ways() == ["192.0.2.12", "192.0.2.12", "2001:db8:a::12"]
    finally:
        lab.switch("edge1")
    assert ways() == ["192.0.2.11", "192.0.2.11", "2001:db8:a::11"]


def test_the_router_sends_vips_to_edges_only(lab: Lab) -> None:
    result = subprocess.run([lab.root / "lab/switch", "worker1"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "edge1, edge2" in result.stderr


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(("server", "client"), [("10.88.0.53", "10.88.0.1"), ("fd00:88::53", "fd00:88::1")])
def test_the_dns_container_answers_and_logs_who_asked(lab: Lab, server: str, client: str, worker: str) -> None:
    until(lambda: answer(lab, worker, "www.edge.example", "A", server) == "198.18.0.80")
    until(lambda: answer(lab, worker, "www.edge.example", "AAAA", server) == "2001:db8:80::80")
    until(lambda: answer(lab, worker, "whoami.edge.example", "TXT", server) == f'"{worker}"')
    until(lambda: f"query[TXT] whoami.edge.example from {client}" in logs(lab, "dns", worker))


# The worker's address on the bridge, as socat logs it.
IPV4_PEER, IPV6_PEER = "AF=2 10.88.0.1", "AF=10 [fd00:0088:0000:0000:0000:0000:0000:0001]"


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(("address", "peer"), [("10.88.0.7", IPV4_PEER), ("fd00:88::7", IPV6_PEER)])
def test_the_echo_container_answers_and_logs_its_peer(lab: Lab, address: str, peer: str, worker: str) -> None:
    until(lambda: echoed(lab, worker, "-p", "40001", address, "7007") == "hello")
    until(lambda: f"{peer}:40001" in logs(lab, "echo", worker))


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(("address", "peer"), [("10.88.0.99", IPV4_PEER), ("fd00:88::99", IPV6_PEER)])
def test_the_range_container_logs_on_which_port_it_was_asked(lab: Lab, address: str, peer: str, worker: str) -> None:
    for number, port in enumerate(("20000", "20500", "20999"), start=40002):
        where = ("-p", str(number), address, port)
        line = re.compile(rf"{port}\[\d+\] N received packet with 5 bytes from {re.escape(peer)}:{number}")
        until(lambda where=where: echoed(lab, worker, *where) == "hello")  # type: ignore[misc]
        until(lambda line=line: line.search(logs(lab, "range", worker)) is not None)  # type: ignore[misc]


@pytest.mark.parametrize("worker", WORKERS)
def test_addresses_of_containers_are_usable_at_once(lab: Lab, worker: str) -> None:
    """No duplicate address detection, which would take a second, and no router advertisements from a container; and the
    bridge says so when its link address changes, as it may with each container that goes.
    """
    shown = json.loads(lab.run(worker, "ip", "-json", "-6", "address", "show", "dev", "podman0").stdout)[0]["addr_info"]
    assert [(entry["local"], entry.get("tentative")) for entry in shown if entry["scope"] == "global"] == [
        ("fd00:88::1", None)
    ]
    names = [f"net.ipv6.conf.podman0.{name}" for name in ("accept_dad", "accept_ra", "ndisc_notify")]
    assert lab.run(worker, "sysctl", "--values", *names).stdout.split() == ["0", "0", "1"]


def test_bcc_compiles_and_attaches_on_an_edge(lab: Lab) -> None:
    program = """
from bcc import BPF
bpf = BPF(text='#include <uapi/linux/bpf.h>\\nint pass(struct xdp_md *context) { return XDP_PASS; }')
bpf.attach_xdp("lo", bpf.load_func("pass", BPF.XDP), BPF.XDP_FLAGS_SKB_MODE)
bpf.remove_xdp("lo", BPF.XDP_FLAGS_SKB_MODE)
"""
    lab.run("edge1", "python3", "-", input=program)


def test_wireguard_runs_in_userspace(lab: Lab) -> None:
    # Not wg0: that one is the fleet's.
    lab.run("edge1", "wireguard-go", "wgtest")
    try:
        assert "listening port" in lab.run("edge1", "wg", "show", "wgtest").stdout
    finally:
        lab.run("edge1", "ip", "link", "delete", "wgtest")


def test_raising_it_again_changes_nothing(lab: Lab) -> None:
    before = [lab.pid(box) for box in BOXES]
    assert UNCHANGED in lab.playbook("edgewire.fleet.lab_up").stdout
    assert [lab.pid(box) for box in BOXES] == before


def test_a_box_survives_its_reboot(lab: Lab) -> None:
    lab.run("client2", "touch", "/root/kept", "/run/lost")
    before = lab.pid("client2")
    lab.run("client2", "systemctl", "reboot")
    until(lambda: lab.run("client2", "systemctl", "is-system-running", check=False).stdout.strip() == "running", 120)
    assert lab.pid("client2") != before
    lab.run("client2", "test", "-e", "/root/kept")
    assert lab.run("client2", "test", "-e", "/run/lost", check=False).returncode == 1
    lab.run("client2", "ping", "-c", "1", "-W", "2", "192.0.2.11")


def test_damage_is_mended(lab: Lab) -> None:
    """Each on client2, which nothing else depends on."""
    lab.run("client2", "ip", "link", "delete", "eth0")
    assert did(lab.labctl("boxes")) == ["client2: cable"]

    subprocess.run(["ip", "netns", "delete", "edgewire-lab-client2"], check=True)
    assert did(lab.labctl("boxes")) == ["client2: name of the namespace"]

    supervisor = parent(parent(lab.pid("client2")))
    lab.run("client2", "systemctl", "poweroff")
    until(lambda: not Path(f"/proc/{supervisor}").exists(), 120)
    assert lab.run("client2", "true", check=False).returncode == 125
    assert "client2: switched on" in did(lab.labctl("boxes"))

    supervisor = parent(parent(lab.pid("client2")))
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{supervisor}").exists())
    assert "client2: switched on" in did(lab.labctl("boxes"))

    # nspawn's death ends its supervisor, and leaves the machine running with nobody to say so but its control group.
    machine = lab.pid("client2")
    supervisor = parent(parent(machine))
    os.kill(parent(machine), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{supervisor}").exists())
    assert lab.run("client2", "true", check=False).returncode == 125
    left = [pid for pid in processes_of("client2") if Path(f"/proc/{pid}").exists()]
    assert machine in left, "the machine died with its nspawn, so this shows nothing"
    assert "client2: switched on" in did(lab.labctl("boxes"))
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))  # dead, and reaped by whoever does that here
    assert lab.run("client2", "systemctl", "is-system-running").stdout.strip() == "running"

    lab.run("router", "ip", "route", "delete", "203.0.113.0/24")
    assert did(lab.labctl("network")) == ["VIPs to edge1"]

    lab.run("client2", "ping", "-c", "1", "-W", "2", "192.0.2.11")
    assert UNCHANGED in lab.playbook("edgewire.fleet.lab_up").stdout


@pytest.mark.parametrize("address", ["10.88.0.7", "fd00:88::7"])
def test_a_container_comes_back(lab: Lab, address: str) -> None:
    """With another link address, while the box has just learned the former one."""
    until(lambda: echoed(lab, "worker2", address, "7007") == "hello")
    lab.run("worker2", "podman", "kill", "echo")
    until(lambda: echoed(lab, "worker2", address, "7007") == "hello")


def test_a_machine_that_cannot_carry_it_is_told_all_that_is_missing(lab: Lab) -> None:
    without_ip_and_ssh = {**os.environ, "PATH": "/nowhere"}
    command = [
        "/usr/bin/python3",
        str(lab.root / "lab/labctl"),
        "preflight",
        "--cache",
        "/tmp",
        "--interface",
        "ewlab0",
    ]
    result = subprocess.run(command, env=without_ip_and_ssh, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    for package in ("iproute2", "mmdebstrap", "openssh-client", "systemd-container"):
        assert package in result.stderr

    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    result = subprocess.run(as_nobody, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "root" in result.stderr


def test_lab_down_leaves_nothing_in_any_state(lab: Lab) -> None:
    if not lab.is_ours:
        pytest.skip("the lab was up before these tests; removing it is its owner's business")
    # Half-built and half-gone: processes dead, mounts, namespaces and interfaces still there.
    killed = [lab.pid("edge1"), parent(lab.pid("edge1")), lab.pid("worker1")]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    Path("/var/lib/edgewire-lab/lab.json").unlink()
    lab.playbook("edgewire.fleet.lab_down")
    assert leftovers() == []
    assert UNCHANGED in lab.playbook("edgewire.fleet.lab_down").stdout


def leftovers() -> list[str]:
    found = [str(path) for path in (Path("/var/lib/edgewire-lab"), Path("/sys/class/net/ewlab0")) if path.exists()]
    found += [str(path) for path in Path("/run/netns").glob("edgewire-lab-*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob("**/edgewire-lab")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "edgewire-lab" in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_text(errors="replace")
        except OSError:
            continue
        if "/var/lib/edgewire-lab" in words:
            found.append(words.replace("\0", " "))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
