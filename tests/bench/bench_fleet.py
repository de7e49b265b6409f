# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long planning a fleet takes, and how much memory, beside the usual way in the same run: ``make bench-fleet``.

Also how long an edge takes to build its load balancing tables.

The fleets are made up: one host in ten is an edge, there are as many services as hosts, and every service has two
backends. Every measurement is a process of its own, so that its peak of memory is its own. No host is contacted.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.maglev import build_table, table_size
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.registry import render_registry
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import Renderer, digest

COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"
PLAYBOOK = """
- hosts: edgewire
  connection: local
  gather_facts: false
  tasks:
    - name: The measured task
      {task}
"""
TASKS = {
    "nothing": "ansible.builtin.meta: noop",
    "fleet_plan": "edgewire.fleet.fleet_plan:\n      run_once: true",
    "template": "ansible.builtin.template: {src: peers.j2, dest: '{{ playbook_dir }}/out/{{ inventory_hostname }}'}",
}
# What is found in most roles that build a WireGuard mesh: every host's file asks every other host's variables.
TEMPLATE = """\
{% for host in groups['edgewire_workers' if 'edgewire_edges' in group_names else 'edgewire_edges'] %}
[Peer]
PublicKey = {{ hostvars[host].edgewire_public_keys[host] }}
Endpoint = {{ hostvars[host].ansible_host }}:51820
AllowedIPs = 100.64.0.{{ hostvars[host].edgewire_id }}/32
{% endfor %}
"""


def inventory(hosts: int) -> dict[str, Any]:
    """A fleet in the shape that the planner takes."""
    edges = [f"edge{n}" for n in range(hosts // 10)]
    workers = [f"worker{n}" for n in range(hosts - len(edges))]
    underlay, vips, containers = (int(IPv4Address(text)) for text in ("203.0.0.0", "198.18.0.0", "10.88.0.2"))
    services = [
        {
            "name": f"service{n}",
            "vips": [str(IPv4Address(vips + n))],
            "ports": [53],
            "backends": [
                {"worker": workers[(n + other) % len(workers)], "address": str(IPv4Address(containers + n))}
                for other in range(2)
            ],
        }
        for n in range(hosts)
    ]
    return {
        "hosts": {
            name: {"ansible_host": str(IPv4Address(underlay + n)), "edgewire_id": n + 1}
            for n, name in enumerate([*edges, *workers])
        },
        "groups": {"edgewire_edges": edges, "edgewire_workers": workers},
        "vars": {"edgewire_services": services},
    }


def keys(fleet: dict[str, Any]) -> dict[str, str]:
    """A public key for every host."""
    return {name: b64encode(sha256(name.encode()).digest()).decode() for name in fleet["hosts"]}


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` says, from a child process, with that process's peak memory in MiB."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            said = work()
            said["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(write, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise SystemExit("edgewire: a measurement failed, see above")
    result: dict[str, Any] = json.loads(told)
    return result


def planner(hosts: int) -> dict[str, Any]:
    """Check and plan a whole fleet, then make every host's file, without writing it anywhere."""
    fleet = inventory(hosts)
    public = keys(fleet)
    begin = time.perf_counter()
    plan = plan_fleet(fleet, public)
    planned = time.perf_counter()
    renderer, size = Renderer(plan.hosts), 0
    for host in plan.hosts:
        data = renderer.render(host)
        digest(data)
        size += len(data)
    size += sum(map(len, renderer.parts.values()))
    return {"plan": planned - begin, "render": time.perf_counter() - planned, "output": size / 2**20}


def tables(services: int, backends: int, *, weighted: bool) -> dict[str, Any]:
    """Build the load balancing table of every service: ids all different, weights 1, or 1 to 100."""
    dice = random.Random(services)
    wanted = [
        [(ident, dice.randint(1, 100) if weighted else 1) for ident in dice.sample(range(1, 2**32), backends)]
        for _ in range(services)
    ]
    begin, before = time.perf_counter(), time.process_time()
    for pairs in wanted:
        build_table(pairs, table_size(backends))
    return {"wall": time.perf_counter() - begin, "cpu": time.process_time() - before}


def write_inventory(directory: Path, hosts: int) -> None:
    """The same fleet as an inventory that Ansible reads, with its registry of keys, template and playbooks."""
    fleet = inventory(hosts)
    groups = {
        group: {"hosts": {name: fleet["hosts"][name] for name in names}} for group, names in fleet["groups"].items()
    }
    # JSON is YAML, and is read faster.
    (directory / "hosts.json").write_text(json.dumps({"edgewire": {"children": groups}}))
    variables = directory / "group_vars" / "all"
    variables.mkdir(parents=True)
    (variables / "services.json").write_text(json.dumps(fleet["vars"]))
    (variables / "edgewire_public_keys.yml").write_bytes(render_registry(keys(fleet)))
    (directory / "play").mkdir()
    (directory / "play/out").mkdir()
    (directory / "play/peers.j2").write_text(TEMPLATE)
    for name, task in TASKS.items():
        (directory / f"play/{name}.yml").write_text(PLAYBOOK.format(task=task))


def play(directory: Path, name: str) -> dict[str, Any]:
    """Run one of the playbooks; wall and CPU seconds of all its processes."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(directory), f"play/{name}.yml"]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_FORKS": "20",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"edgewire: the playbook {name} failed")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall": time.perf_counter() - begin, "cpu": cpu}


def playbooks(hosts: int, *names: str) -> dict[str, dict[str, Any]]:
    """Run playbooks on a fleet of this size."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="edgewire-bench-") as text:
            directory = Path(text)
            write_inventory(directory, hosts)
            found[name] = play(directory, name)
    return found


def cpu_model() -> str:
    """The CPU's name as the kernel has it."""
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10_000], help="fleets for the planner")
    parser.add_argument("--plays", type=int, nargs="*", default=[100, 1000, 10_000], help="fleets for the whole task")
    parser.add_argument("--usual", type=int, default=200, help="the fleet for the usual way; 0: none")
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, kernel {platform.release()}, {os.cpu_count()} x {cpu_model()},", end=" ")
    print(f"Python {platform.python_version()}; 10 % edges, as many services as hosts\n")

    print("| planner | check and plan, s | render and hash, s | peak memory, MiB | plans, MiB |")
    print("|---:|---:|---:|---:|---:|")
    for hosts in options.sizes:
        got = measured(functools.partial(planner, hosts))
        print(
            f"| {hosts:,} hosts | {got['plan']:.2f} | {got['render']:.2f} | {got['mib']:.0f} | {got['output']:,.0f} |",
            flush=True,
        )

    print("\n| an edge's Maglev tables | wall, s | CPU, s | each, CPU, ms |")
    print("|---|---:|---:|---:|")
    for services, backends in ((1000, 100), (10_000, 2)):
        for weighted in (False, True):
            got = measured(functools.partial(tables, services, backends, weighted=weighted))
            what = f"{services:,} services, {backends} backends of {'many weights' if weighted else 'one weight'}"
            print(f"| {what} | {got['wall']:.1f} | {got['cpu']:.1f} | {1000 * got['cpu'] / services:.2f} |", flush=True)

    print("\n| playbook | wall, s | CPU, s | more than a no-op, wall, s | more than a no-op, CPU, s |")
    print("|---|---:|---:|---:|---:|")
    for hosts in sorted({*options.plays, options.usual} - {0}):
        names = ["nothing", "fleet_plan", *(["template"] if hosts == options.usual else [])]
        got = playbooks(hosts, *names)
        for name in names[1:]:
            what = "a template that loops over `hostvars`" if name == "template" else "`fleet_plan`"
            wall, cpu = (got[name][key] for key in ("wall", "cpu"))
            more = [got[name][key] - got["nothing"][key] for key in ("wall", "cpu")]
            print(f"| {what}, {hosts:,} hosts | {wall:.1f} | {cpu:.1f} | {more[0]:.1f} | {more[1]:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
