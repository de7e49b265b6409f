# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way: the site playbook on real boxes, real clients, real containers, and what the collection promises.

The tests build on one another in the order in which they stand: from bare boxes to a fleet and back.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING

import pytest
import yaml

from .support import (
    CLIENTS,
    CLIENTS6,
    DIG,
    DNS_VIP,
    DNS_VIP6,
    ECHO_VIP,
    ECHO_VIP6,
    EDGES,
    FLEET,
    RANGE_VIP,
    RANGE_VIP6,
    WORKERS,
    alive,
    answer,
    asked_by,
    box_state,
    changed_tasks,
    echoed,
    kernel_objects,
    kill_all,
    logs,
    map_id,
    recap,
    told_by,
    until,
)

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", autouse=True)
def bare_boxes(lab: Lab) -> Iterator[None]:
    """Start from boxes that have nothing of ours, whatever ran before."""
    lab.switch("edge1")
    lab.playbook("edgewire.fleet.teardown")
    (lab.root / "inventories/lab/group_vars/all/edgewire_public_keys.yml").unlink(missing_ok=True)
    yield
    lab.switch("edge1")


@pytest.fixture(scope="module")
def bare(lab: Lab, bare_boxes: None) -> dict[str, list[str]]:
    """The boxes' state before anything of ours is on them."""
    return {box: box_state(lab, box) for box in FLEET}


def test_check_on_bare_boxes_shows_what_the_run_then_does(lab: Lab, bare: dict[str, list[str]]) -> None:
    check = lab.playbook("edgewire.fleet.site", "--check", "--diff").stdout
    assert {box: box_state(lab, box) for box in FLEET} == bare
    assert not (lab.root / "inventories/lab/group_vars/all/edgewire_public_keys.yml").exists()
    foreseen = changed_tasks(check)
    assert {host for _, host in foreseen} == set(FLEET)
    assert f"service {DNS_VIP}:53/udp" in check

    assert changed_tasks(lab.playbook("edgewire.fleet.site").stdout) == foreseen


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    counts = recap(lab.playbook("edgewire.fleet.site").stdout)
    assert set(counts) == set(FLEET)
    assert all(row["changed"] == 0 and row["failed"] == 0 for row in counts.values()), counts


def test_verify_passes(lab: Lab) -> None:
    said = lab.playbook("edgewire.fleet.verify").stdout
    for host in FLEET:
        assert f"{host} is as planned" in said


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_its_answer_and_the_container_sees_the_client(
    lab: Lab, client: str, edge: str, family: int
) -> None:
    vip, addresses = (DNS_VIP, CLIENTS) if family == 4 else (DNS_VIP6, CLIENTS6)
    lab.switch(edge)
    try:
        name = f"{client}-{edge}-{family}.edge.example"
        assert answer(lab, client, vip=vip) == "198.18.0.80"
        answer(lab, client, name, vip=vip)
        until(lambda: asked_by(lab, name) == {addresses[client]})
    finally:
        lab.switch("edge1")


def test_flows_are_spread_over_the_backends(lab: Lab) -> None:
    said = {answer(lab, name="whoami.edge.example", kind="TXT") for _ in range(24)}
    assert said == {'"worker1"', '"worker2"'}


def test_one_flow_stays_with_one_backend_on_both_edges(lab: Lab) -> None:
    """The same client port is the same flow: anycast may move it to the other edge and it keeps its backend."""

    def who(port: int) -> str:
        ask = (*DIG, f"@{DNS_VIP}", "-b", f"0.0.0.0#{port}", "whoami.edge.example", "TXT")
        return lab.run("client1", *ask).stdout.strip()

    ports = range(41000, 41006)
    try:
        through = {}
        for edge in EDGES:
            lab.switch(edge)
            through[edge] = [who(port) for port in ports]
    finally:
        lab.switch("edge1")
    assert through["edge1"] == through["edge2"]


def echo_from(lab: Lab, vip: str, port: int, source_port: int, check: bool = False) -> str:
    """What comes back to client2 from a UDP port of a VIP."""
    return echoed(lab, "client2", "-p", str(source_port), vip, str(port), check=check)


@pytest.mark.parametrize(
    ("vip", "source_port", "seen"),
    [
        (ECHO_VIP, 42001, "AF=2 198.51.100.12:42001"),
        (ECHO_VIP6, 42006, "AF=10 [2001:0db8:000c:0000:0000:0000:0000:0012]:42006"),
    ],
)
def test_the_echo_service_has_another_port_in_the_container(lab: Lab, vip: str, source_port: int, seen: str) -> None:
    until(lambda: echo_from(lab, vip, 7, source_port) == "hello")
    until(lambda: seen in logs(lab, "echo"))


@pytest.mark.parametrize("vip", [RANGE_VIP, RANGE_VIP6])
def test_a_range_of_ports_is_mapped_to_the_containers_range(lab: Lab, vip: str) -> None:
    """First, middle and last port answer from where they shall; a port outside is nobody's."""
    for number, port in enumerate((10000, 10500, 10999)):
        until(lambda port=port, source=42100 + number: echo_from(lab, vip, port, source) == "hello")  # type: ignore[misc]
    assert echo_from(lab, vip, 9999, 42110, check=True) == ""
    assert echo_from(lab, vip, 11000, 42111, check=True) == ""


@pytest.mark.parametrize(("vip", "client"), [(DNS_VIP, CLIENTS["client1"]), (DNS_VIP6, CLIENTS6["client1"])])
def test_a_real_load_loses_nothing_and_the_containers_see_the_client(lab: Lab, vip: str, client: str) -> None:
    """Every other query is for a name that nothing else asks for."""
    name = f"load-{token_urlsafe(6)}.edge.example"
    lab.run("client1", "tee", "/tmp/queries", input=f"www.edge.example A\n{name} A\n")
    load = ("dnsperf", "-s", vip, "-d", "/tmp/queries", "-l", "10", "-Q", "2000", "-c", "16")
    said = lab.run("client1", *load, timeout=90).stdout
    assert re.search(r"Queries lost:\s+0 ", said), said
    assert int(re.search(r"Queries completed:\s+(\d+)", said)[1]) > 1000, said  # type: ignore[index]
    until(lambda: asked_by(lab, name) == {client})


def test_the_info_module_speaks_in_human_terms(lab: Lab) -> None:
    told = told_by(lab, "edge1", "forwarder_map_info")
    services = {(service["name"], service["vip"], service["ports"]): service for service in told["edge"]["services"]}
    for vip in (DNS_VIP, DNS_VIP6):
        dns = services["dns", vip, "53"]
        assert {backend["worker"] for backend in dns["backends"]} == set(WORKERS)
    assert ("range", RANGE_VIP6, "10000-10999") in services
    assert told["worker"] is None


def test_verify_names_every_drift_and_site_repairs_it(lab: Lab) -> None:
    services = map_id(lab, "edge1", "eth0", "ew_services")
    vip_and_port = [*(str(int(part)) for part in DNS_VIP.split(".")), "0", "53", "0", "0"]
    lab.run("edge1", "bpftool", "map", "delete", "id", str(services), "key", *vip_and_port)
    peers = lab.run("edge2", "wg", "show", "wg0", "peers").stdout.split()
    lab.run("edge2", "wg", "set", "wg0", "peer", peers[0], "remove")
    lab.run("worker1", "ip", "route", "del", "100.64.0.0/11", "table", "7700")
    lab.run("worker2", "tc", "filter", "del", "dev", "wg0", "ingress")

    verdict = lab.playbook("edgewire.fleet.verify", check=False)
    assert verdict.returncode != 0
    said = verdict.stdout
    assert re.search(rf"edge1: edge maps: service {DNS_VIP}:53/udp: expected .*worker1.*found null", said), said
    assert re.search(r"edge2: wireguard: peer worker\d: expected .*allowed_ips.*found null", said), said
    assert re.search(r"worker1: routes: route .*100\.64\.0\.0/11.*: expected .*wg0.*found null", said), said
    assert re.search(r"worker2: worker programs: program worker_ingress on wg0: expected .*found null", said), said

    repaired = recap(lab.playbook("edgewire.fleet.site").stdout)
    assert {host: row["changed"] for host, row in repaired.items()} == dict.fromkeys(FLEET, 1)
    lab.playbook("edgewire.fleet.verify")
    assert answer(lab) == "198.18.0.80"


def test_a_limit_keeps_every_peer(lab: Lab) -> None:
    peers = {box: sorted(lab.run(box, "wg", "show", "wg0", "peers").stdout.split()) for box in FLEET}
    assert all(len(keys) == 2 for keys in peers.values())
    counts = recap(lab.playbook("edgewire.fleet.site", "--limit", "edge1").stdout)
    assert {host: row["changed"] for host, row in counts.items()} == {"edge1": 0}
    assert {box: sorted(lab.run(box, "wg", "show", "wg0", "peers").stdout.split()) for box in FLEET} == peers


def test_bad_input_is_refused_in_one_message_before_any_host_is_touched(lab: Lab, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    shutil.copytree(lab.root / "inventories/lab", inventory)
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("edgewire_id: 4", "edgewire_id: 3"))
    extra = {
        "edgewire_services": [
            {
                "name": "a",
                "vips": ["203.0.113.1"],
                "ports": [53],
                "backends": [{"worker": "worker9", "address": "10.88.0.1"}],
            },
            {
                "name": "b",
                "vips": ["203.0.113.1"],
                "ports": [53],
                "backends": [{"worker": "worker1", "address": "10.88.0.999"}],
            },
        ]
    }
    services = inventory / "group_vars/all/edgewire.yml"
    services.write_text(yaml.safe_dump(extra))
    result = subprocess.run(
        [lab.root / ".venv/bin/ansible-playbook", "-i", inventory, "edgewire.fleet.site"],
        cwd=lab.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    said = result.stdout + result.stderr
    for wrong in ("worker9", "203.0.113.1", "10.88.0.999", "edgewire_id"):
        assert wrong in said
    assert "Make the WireGuard key" not in said
    assert recap(result.stdout).keys() <= {"edge1"}  # the one host whose turn it is to run the planner


@contextmanager
def watched_processes(lab: Lab, directory: Path) -> Iterator[None]:
    """All processes of the boxes and of the controller, with arguments and environment, many times, into files."""
    look = "while :; do ps auxwwe; sleep 0.2; done"
    commands = {box: [str(lab.root / "lab/run"), box, "sh", "-c", look] for box in FLEET}
    commands["controller"] = ["sh", "-c", look]
    watches = []
    for name, command in commands.items():
        with (directory / f"{name}.ps").open("wb") as output:
            watches.append(subprocess.Popen(command, stdout=output, stdin=subprocess.DEVNULL))
    try:
        yield
    finally:
        for watch in watches:
            kill_all(watch.pid)
            watch.wait()


def test_no_secret_shows_anywhere(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Private keys, preshared keys, and the secret that these are made of, while all of them are made and changed."""
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN", "jsonfile")
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path / "facts"))
    secret = token_urlsafe(40)
    extra = tmp_path / "secret.yml"
    extra.write_text(f"edgewire_preshared_secret: {secret}\n")
    private = {box: lab.run(box, "cat", "/etc/edgewire/wireguard/wg0.key").stdout.strip() for box in FLEET}
    # New keys for one host, so that the run handles secrets and does not just look at them.
    lab.run("edge2", "rm", "/etc/edgewire/wireguard/wg0.key")
    with watched_processes(lab, tmp_path):
        lab.ansible("edgewire", "ansible.builtin.setup", "-a", "gather_subset=!all")
        loud = lab.playbook("edgewire.fleet.site", "-vvvvv", "--diff", "-e", f"@{extra}")
        checked = lab.playbook("edgewire.fleet.verify", "-vvvvv", "-e", f"@{extra}")
    private["edge2, new"] = lab.run("edge2", "cat", "/etc/edgewire/wireguard/wg0.key").stdout.strip()
    assert private["edge2, new"] != private["edge2"]
    preshared = {
        line.split()[1]
        for box in FLEET
        for line in lab.run(box, "wg", "show", "wg0", "preshared-keys").stdout.splitlines()
    }
    assert len(preshared) == 4  # one a pair
    lab.playbook("edgewire.fleet.site")  # and away with them
    lab.playbook("edgewire.fleet.verify")

    places = [loud.stdout, loud.stderr, checked.stdout, checked.stderr]
    for box in FLEET:
        places.append(lab.run(box, "journalctl", "--no-pager").stdout)
        places.append(lab.run(box, "cat", "/etc/edgewire/plan.json").stdout)
        seen = (tmp_path / f"{box}.ps").read_text(errors="replace")
        assert "/usr/bin/python3" in seen  # modules at work
        (facts,) = (tmp_path / "facts").glob(f"*{box}")  # ansible-core may put its schema before the name
        places += [seen, facts.read_text()]
    places.append((tmp_path / "controller.ps").read_text(errors="replace"))
    places += [path.read_text() for path in (lab.root / "inventories/lab").rglob("*") if path.is_file()]
    text = "\n".join(places)
    hidden = {*private.values(), *preshared}
    for value in (secret, *hidden, *(base64.b64decode(key).hex() for key in hidden)):
        assert len(value) >= 40
        assert value not in text


def test_without_its_programs_a_worker_delivers_relayed_packets_to_nobody(lab: Lab) -> None:
    """Fail closed: the relay address belongs to no interface, and a route sends what is for it nowhere."""
    watch = "timeout 6 tcpdump -n -l -i any 'udp and not port 51820' 2>/dev/null"
    # Many flows, so that some are worker1's; for a while, so that tcpdump is listening meanwhile.
    send = f"""
import socket, time
for _ in range(15):
    for port in range(43000, 43032):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", port))
            client.sendto(b"closed", ("{ECHO_VIP}", 7))
    time.sleep(0.2)
"""
    for worker in WORKERS:
        lab.run(worker, "tc", "filter", "del", "dev", "wg0", "ingress")
        lab.run(worker, "tc", "filter", "del", "dev", "podman0", "ingress")
    try:
        with subprocess.Popen(
            [lab.root / "lab/run", "worker1", "sh", "-c", watch], stdout=subprocess.PIPE, text=True
        ) as capture:
            lab.run("client1", "python3", "-", input=send)
            seen, _ = capture.communicate(timeout=30)
        packets = [line.split() for line in seen.splitlines()]
        relayed = [words for words in packets if any("100.96." in word for word in words)]
        assert relayed, seen  # they did arrive
        assert {words[1] for words in relayed} == {"wg0"}, seen  # and went no further
        assert not any("198.51.100.11" in word or "10.88.0.7" in word for words in packets for word in words), seen
        assert "198.51.100.11:430" not in logs(lab, "echo", "worker1")
        assert answer(lab) == ""
    finally:
        lab.playbook("edgewire.fleet.site")
    assert answer(lab) == "198.18.0.80"


def test_the_built_collection_works_without_the_checkout(lab: Lab, tmp_path: Path) -> None:
    galaxy = str(lab.root / ".venv/bin/ansible-galaxy")
    subprocess.run([galaxy, "collection", "build", "--output-path", tmp_path], cwd=lab.root, check=True)
    (artefact,) = tmp_path.glob("edgewire-fleet-*.tar.gz")
    home = tmp_path / "elsewhere"
    home.mkdir()
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(home), "ANSIBLE_NOCOLOR": "1"}
    install = [galaxy, "collection", "install", "--offline", artefact, "-p", home]
    subprocess.run(install, cwd=home, env=environment, check=True)
    command = [lab.root / ".venv/bin/ansible-playbook", "-i", lab.root / "inventories/lab", "edgewire.fleet.site"]
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = recap(result.stdout)
    assert set(counts) == set(FLEET)
    assert all(row["changed"] == 0 for row in counts.values()), result.stdout


def test_teardown_leaves_nothing(lab: Lab, bare: dict[str, list[str]]) -> None:
    objects = {box: kernel_objects(lab, box) for box in FLEET}
    for box, found in objects.items():
        assert len(found["prog"]) >= 2, box
        assert len(found["map"]) >= 5, box
    assert all(objects[edge]["link"] for edge in EDGES)
    lab.playbook("edgewire.fleet.teardown")
    for box in FLEET:
        left = set(box_state(lab, box)) ^ set(bare[box])
        assert not left, (box, left)
        # The snapshot may be from after an earlier teardown; this finds what that had left, too.
        places = "/etc /run /var /root /tmp /usr/local /sys/fs/bpf"
        named = f"find {places} -name '*edgewire*' -not -name '*edgewire-lab*' -not -path '*/.ansible/*'"
        assert lab.run(box, "sh", "-c", named).stdout == ""
        # The kernel lets go of programs and maps a moment later.
        until(lambda box=box: alive(lab, box, objects[box]) == [])  # type: ignore[misc]
    counts = recap(lab.playbook("edgewire.fleet.teardown").stdout)
    assert all(row["changed"] == 0 for row in counts.values()), counts
    assert answer(lab) == ""
