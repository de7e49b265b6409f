# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roll-outs over a fleet at work: new builds and the way back, canaries and gates, hosts that drain, reboot, or die."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .support import (
    DNS_VIP,
    EDGES,
    FAMILIES,
    FLEET,
    WORKERS,
    answer,
    ask,
    attached_programs,
    changed_tasks,
    processes_of,
    reboot,
    recap,
    run_after,
    traffic,
    until,
)

if TYPE_CHECKING:
    from .conftest import Lab, Variables

pytestmark = [pytest.mark.lab, pytest.mark.faults, pytest.mark.usefixtures("no_leftovers", "whole_fleet")]

LOST = re.compile(r"Queries lost:\s+(\d+)")
COMPLETED = re.compile(r"Queries completed:\s+(\d+)")


@pytest.fixture(scope="module")
def no_leftovers(lab: Lab) -> None:
    """Take away what a killed run of these tests has left."""
    lab.run("client1", "pkill", "-x", "dnsperf", check=False)


@pytest.fixture
def both_edges(lab: Lab) -> Iterator[None]:
    """The router spreads flows over both edges."""
    lab.switch(*EDGES)
    yield
    lab.switch("edge1")


@contextmanager
def load(lab: Lab) -> Iterator[None]:
    """dnsperf over both families for as long as this is open; afterwards no query may be lost."""
    lab.run("client1", "sh", "-c", "echo 'www.edge.example A' > /tmp/queries")
    command = [lab.root / "lab/run", "client1", "dnsperf", "-d", "/tmp/queries", "-l", "900", "-Q", "200", "-c", "16"]
    runs = {
        family: subprocess.Popen([*command, "-s", vip], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for family, vip in FAMILIES.items()
    }
    said = {}
    try:
        yield
    finally:
        lab.run("client1", "pkill", "-INT", "-x", "dnsperf", check=False)  # it ends as if its time were over
        for family, run in runs.items():
            said[family], _ = run.communicate(timeout=60)
    for family, text in said.items():
        completed, lost = COMPLETED.search(text), LOST.search(text)
        assert completed, (family, text)
        assert lost, (family, text)
        print(family, completed[0], lost[0])
        assert int(completed[1]) > 200, (family, text)
        assert int(lost[1]) == 0, (family, text)


@pytest.fixture
def hooks(lab: Lab, tmp_path: Path) -> tuple[str, str]:
    """Arguments that have edges withdrawn and announced."""
    path = tmp_path / "hooks.yml"
    tasks = {f"edgewire_{name}_tasks": str(lab.root / f"lab/hooks/{name}.yml") for name in ("withdraw", "announce")}
    path.write_text(yaml.safe_dump({"edgewire_lab_directory": str(lab.root / "lab"), **tasks}))
    return "-e", f"@{path}"


def announced(lab: Lab) -> set[str]:
    """The edges to which the router sends the VIPs."""
    routes = lab.run("router", "ip", "route", "show", "203.0.113.0/24").stdout
    return {edge for edge, address in zip(EDGES, ("192.0.2.11", "192.0.2.12"), strict=True) if address in routes}


def another_version(lab: Lab, place: Path) -> Path:
    """A copy of the collection whose programs are another build, as a new version's are."""
    copy = place / "ansible_collections/edgewire/fleet"
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=lab.root, text=True)
    for name in listed.splitlines():
        if not name.startswith("tests/") and (lab.root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(lab.root / name, copy / name)
    for source in ("edge.c", "worker.c"):
        with (copy / "bpf" / source).open("a") as file:
            file.write("\n// Another version.\n")
    return place


def change_places(path: Path, record: str, one: str, other: str) -> None:
    """Let two fields of a record, one behind the other and of one size, change places in a file that declares it."""
    text = path.read_text()
    start = text.index(record)
    head, lines = text[:start], text[start:].splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if re.search(rf"\b{one}\b", line))
    assert re.search(rf"\b{other}\b", lines[first + 1])
    lines[first : first + 2] = reversed(lines[first : first + 2])
    path.write_text(head + "".join(lines))


def another_layout(lab: Lab, place: Path) -> Path:
    """Another version that has records of both roles' maps in another order: what lies there means nothing to it."""
    copy = another_version(lab, place) / "ansible_collections/edgewire/fleet"
    layout = copy / "plugins/module_utils/bpf/layout.py"
    changes = (
        ("edge_maps.h", "backend", "stats_index", "worker"),
        ("worker_maps.h", "endpoint", "stats_index", "idle"),
    )
    for header, record, one, other in changes:
        change_places(copy / "bpf" / header, f"struct {record} {{", one, other)
        change_places(layout, f'    "{record}",\n', one, other)
    return place


def programs(lab: Lab) -> dict[str, set[int]]:
    return {box: attached_programs(lab, box) for box in FLEET}


def with_version(lab: Lab, collections: Path, playbook: str, *arguments: str) -> str:
    """What a playbook says that is run from another tree of collections."""
    command = [lab.root / ".venv/bin/ansible-playbook", "-i", "inventories/lab", playbook, *arguments]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    run = subprocess.run(command, cwd=lab.root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("version", "careful"),
    [(another_version, False), (another_version, True), (another_layout, False)],
    ids=["all at once", "with care", "another layout of the maps"],
)
def test_a_new_build_on_every_box_under_load_loses_nothing(
    lab: Lab,
    tmp_path: Path,
    hooks: tuple[str, str],
    both_edges: None,
    version: Callable[[Lab, Path], Path],
    careful: bool,
) -> None:
    """All at once under traffic; with a canary, gates, and edges that are withdrawn meanwhile; and with maps that are
    carried over by the names of their fields.
    """
    collections = version(lab, tmp_path / "other")
    care = (*hooks, "-e", '{"edgewire_batches": [1, "100%"]}') if careful else ()
    before = programs(lab)
    try:
        with load(lab):
            said = with_version(lab, collections, "edgewire.fleet.site", *care)
        after = programs(lab)
        assert not any(before[box] & after[box] for box in FLEET)
        assert announced(lab) == set(EDGES)
        withdrawn = {host for task, host in changed_tasks(said) if "Have the router send nothing" in task}
        assert withdrawn == (set(EDGES) if careful else set())
    finally:
        lab.playbook("edgewire.fleet.site")
    run_after(lab)


def test_back_to_the_previous_version_under_load_loses_nothing(lab: Lab, tmp_path: Path, both_edges: None) -> None:
    """Every box at once. A run of the older version then changes what a boot brings back, and nothing that runs."""
    with_version(lab, another_version(lab, tmp_path / "other"), "edgewire.fleet.site")
    newer = programs(lab)
    try:
        with load(lab):
            counts = recap(lab.playbook("edgewire.fleet.rollback").stdout)
        assert {host: row["changed"] for host, row in counts.items()} == dict.fromkeys(FLEET, 1)
        older = programs(lab)
        assert not any(newer[box] & older[box] for box in FLEET)
        changes = {task for task, _ in changed_tasks(lab.playbook("edgewire.fleet.site").stdout)}
        assert all("restore this at boot" in task for task in changes), changes
        assert programs(lab) == older
        run_after(lab)
    finally:
        lab.playbook("edgewire.fleet.site")


def test_what_a_gate_refuses_stays_where_it_is(lab: Lab, tmp_path: Path, hooks: tuple[str, str]) -> None:
    """A canary that is not healthy ends the run before the next batch; an edge that is not stays withdrawn."""
    lab.switch(*EDGES)
    gate = tmp_path / "gate.yml"
    tasks = [
        {"name": "Doubt the host", "ansible.builtin.fail": {}, "when": "inventory_hostname == edgewire_test_doubted"}
    ]
    gate.write_text(yaml.safe_dump(tasks))
    gated = (*hooks, "-e", '{"edgewire_batches": [1, "100%"]}', "-e", f"edgewire_gate_tasks={gate}")
    change = ("-e", "edgewire_keepalive=20")
    try:
        run = lab.playbook("edgewire.fleet.site", *gated, *change, "-e", "edgewire_test_doubted=worker1", check=False)
        counts = recap(run.stdout)
        assert run.returncode != 0
        assert counts["worker1"]["failed"] == 1
        assert {host for host, row in counts.items() if row["changed"]} == {"worker1"}, run.stdout

        # An edge is withdrawn before its programs change, and comes back when it is found healthy.
        lab.run("edge1", "tc", "filter", "del", "dev", "wg0", "ingress")
        doubted = ("-e", "edgewire_test_doubted=edge1")
        run = lab.playbook("edgewire.fleet.site", *gated, *change, *doubted, check=False)
        counts = recap(run.stdout)
        assert run.returncode != 0
        assert counts["edge1"]["failed"] == 1, run.stdout
        assert {host for host, row in counts.items() if row["changed"]} == {"worker2", "edge1"}, run.stdout
        assert announced(lab) == {"edge2"}
        assert answer(lab) == "198.18.0.80"
    finally:
        healed = lab.playbook("edgewire.fleet.site", *hooks)
    assert {host for host, row in recap(healed.stdout).items() if row["changed"]} == {"worker1", "worker2", "edge1"}
    assert announced(lab) == set(EDGES)
    lab.switch("edge1")


def test_a_drained_worker_reboots_and_no_query_is_lost(lab: Lab, variables: Variables, both_edges: None) -> None:
    """It is the only one with iperf, so draining it has to be forced; and it stays drained until it is brought back."""

    def hasten(service: dict[str, Any]) -> None:
        service.update(drain_idle=2, drain_deadline=8)

    quick = (*variables(hasten), "-e", "edgewire_drain_quiet_seconds=2", "-e", "edgewire_drain_seconds=60")
    drained = lab.root / "inventories/lab/group_vars/all/edgewire_drained.yml"
    drain = ("edgewire.fleet.drain", "-e", "edgewire_drain=worker1", *quick)
    refused = lab.playbook(*drain, check=False)
    assert refused.returncode != 0
    assert re.search(r"service iperf: would have no backend but on drained workers \(worker1\)", refused.stdout)
    assert "service dns" not in refused.stdout
    try:
        with load(lab):
            said = lab.playbook(*drain, "-e", "edgewire_drain_force=true").stdout
            assert "worker1 is drained: no packet of a service" in said
            reboot(lab, "worker1")
            unit = ("systemctl", "is-active", "edgewire-restore.service")
            until(lambda: lab.run("worker1", *unit, check=False).returncode == 0, 120)
            lab.labctl("containers")
            run_after(lab, *quick, "--limit", "edgewire_edges")  # a later run leaves it drained
            assert {who for said in ask(lab, DNS_VIP, 47_300, 12).values() for who in said} == {"worker2"}
            lab.playbook("edgewire.fleet.undrain", "-e", "edgewire_undrain=worker1", *quick)
            assert {who for said in ask(lab, DNS_VIP, 47_400, 24).values() for who in said} == set(WORKERS)
    finally:
        if drained.exists():
            lab.playbook("edgewire.fleet.undrain", "-e", "edgewire_undrain=worker1")
    lab.playbook("edgewire.fleet.verify", *quick)


def test_a_worker_that_is_killed_takes_no_flow_of_the_others_along(lab: Lab, variables: Variables) -> None:
    dead = variables(edgewire_worker_state="{{ 'dead' if inventory_hostname == 'worker2' else 'live' }}")
    try:
        with traffic(lab, 46_300, 16) as heard:
            until(lambda: bool(ask(lab, DNS_VIP, 46_400, 4)))
            for pid in processes_of("worker2"):
                with suppress(ProcessLookupError):  # those of its init's go with it
                    os.kill(pid, signal.SIGKILL)
            until(lambda: lab.run("worker2", "true", check=False).returncode == 125)
            marked = lab.playbook("edgewire.fleet.site", *dead, check=False)
            after = {family: ask(lab, vip, 46_500, 16) for family, vip in FAMILIES.items()}
        assert recap(marked.stdout)["worker2"]["unreachable"] == 1
        for family, flows in heard.items():
            kept = {port: said for port, said in flows.items() if said[0] == "worker1"}
            assert kept, "no flow was with the worker that lives"
            assert all(set(said) == {"worker1"} for said in kept.values()), (family, kept)
            assert len(kept) < len(flows), "no flow was with the worker that was killed"
            assert {said[-1] for said in flows.values()} == {"worker1"}, "once it is marked, the others have all"
            assert {who for said in after[family].values() for who in said} == {"worker1"}
    finally:
        lab.labctl("boxes")
        lab.labctl("containers")
    lab.playbook("edgewire.fleet.site")
    lab.playbook("edgewire.fleet.verify")
