# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users' applications on the workers: podman containers, kept by units of the box's own systemd."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import image, processes
from .enter import in_box
from .shell import LabError, progress
from .topology import Box, Container, Topology

_IMAGE = "localhost/edgewire-lab:latest"
_START_SECONDS = 60.0
_SETTLED_SECONDS = 0.5
_IMAGE_UNIT = "edgewire-lab-image.service"
# Podman's default network is built in, and IPv4 only; a file of its name and id overrides it.
_NETWORK = Path("etc/containers/networks/podman.json")
_BRIDGE = "podman0"
_NETWORK_ID = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"


def write_units(box: Box) -> list[str]:
    """Bring the unit files in the box's disk up to date; the names of those that changed."""
    changed = []
    units = box.root / "etc/systemd/system"
    wanted = {_unit_name(container): _unit(box, container) for container in box.containers}
    if wanted:
        wanted[_IMAGE_UNIT] = _image_unit()
    for name, text in wanted.items():
        path = units / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(name)
        _enable(units, name)
    for path in sorted(units.glob("edgewire-lab-*.service")):
        if path.name not in wanted:
            path.unlink()
            (units / "multi-user.target.wants" / path.name).unlink(missing_ok=True)
            changed.append(path.name)
    return changed


def write_network(box: Box) -> None:
    """Bring podman's default network in the box's disk up to date. No container of the box may be running."""
    if box.containers:
        path = box.root / _NETWORK
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_network(box))


def ensure(topology: Topology) -> list[str]:
    """Have the containers that are wanted running on every worker. Returns what had to be done."""
    workers = [box for box in topology.boxes if box.containers]
    with ThreadPoolExecutor(max_workers=max(1, len(workers))) as pool:
        return [entry for did in pool.map(_ensure_on, workers) for entry in did]


def _ensure_on(box: Box) -> list[str]:
    did = []
    path = box.root / _NETWORK
    if not path.exists() or path.read_text() != _network(box):
        # A container gives its addresses back to the network that it got them from. The bridge goes with the last one.
        _systemctl(box, "stop", "edgewire-lab-*.service")
        write_network(box)
        did.append(f"{box.name}: network of the containers")
    changed = write_units(box)
    if changed:
        _systemctl(box, "daemon-reload")
    for container in box.containers:
        name = _unit_name(container)
        if name in changed:
            _systemctl(box, "restart", name)
            did.append(f"{box.name}: {container.name} restarted")
        elif _in(box, "systemctl", "is-active", name) != "active":
            _systemctl(box, "start", name)
            did.append(f"{box.name}: {container.name} started")
        _wait(box, container)
    if did:
        progress(f"{box.name} runs {', '.join(container.name for container in box.containers)}")
    return did


def _wait(box: Box, container: Container) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _is_running(box, container):
        if time.monotonic() > deadline:
            said = _in(box, "journalctl", "--no-pager", "--lines=30", "--unit", _unit_name(container))
            raise LabError(f"{box.name}: the container {container.name} does not run:\n{said}")
        time.sleep(0.2)


def _is_running(box: Box, container: Container) -> bool:
    """Up for a while: a program that dies of its arguments is "active", too, for a moment and again and again."""
    said = _in(box, "systemctl", "show", "--property=ActiveState,ActiveEnterTimestampMonotonic", _unit_name(container))
    shown = dict(line.split("=", 1) for line in said.splitlines())
    if shown.get("ActiveState") != "active":
        return False
    # Boxes share the host's clock.
    return time.monotonic() - int(shown["ActiveEnterTimestampMonotonic"]) / 1_000_000 >= _SETTLED_SECONDS


def _systemctl(box: Box, *arguments: str) -> None:
    pid = _init(box)
    result = in_box(pid, ["systemctl", *arguments])
    if result.returncode != 0:
        raise LabError(f"{box.name}: systemctl {' '.join(arguments)} failed: {result.stderr.strip()}")


def _in(box: Box, *command: str) -> str:
    return in_box(_init(box), command).stdout.strip()


def _init(box: Box) -> int:
    pid = processes.init_of(box)
    if pid is None:
        raise LabError(f"{box.name} is down")
    return pid


def _enable(units: Path, name: str) -> None:
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    if not (wants / name).is_symlink():
        (wants / name).symlink_to(f"/etc/systemd/system/{name}")


def _unit_name(container: Container) -> str:
    return f"edgewire-lab-{container.name}.service"


def _network(box: Box) -> str:
    subnets = [{"subnet": str(subnet), "gateway": str(subnet[1])} for subnet in box.container_subnets]
    network = {
        "name": "podman",
        "id": _NETWORK_ID,
        "driver": "bridge",
        "network_interface": _BRIDGE,
        "created": "2026-01-01T00:00:00Z",
        "subnets": subnets,
        "ipv6_enabled": any(subnet.version == 6 for subnet in box.container_subnets),
        "internal": False,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }
    return json.dumps(network, indent=2) + "\n"


def _image_unit() -> str:
    return f"""\
[Unit]
Description=Image of the lab's containers

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'podman image exists {_IMAGE} || podman import --quiet /{image.CONTAINER_TAR} {_IMAGE}'
"""


def _unit(box: Box, container: Container) -> str:
    # systemd has meanings of its own for these.
    command = container.command.format(box=box.name).replace("%", "%%").replace("$", "$$")
    mounts = "".join(f" --volume={path}:{path}:ro" for path in container.mounts)
    # Each start has another link address, and the box would send to the former one for some ten seconds and more.
    # Control groups: crun cannot make its own in a box, so the container's processes stay in this unit's.
    return f"""\
[Unit]
Description=Container {container.name}
Requires={_IMAGE_UNIT}
After={_IMAGE_UNIT}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/bin/podman run --name={container.name} --replace --detach --sdnotify=conmon --cgroups=disabled \\
  --network=podman --ip={container.ipv4} --ip6={container.ipv6}{mounts} {_IMAGE} \\
  {command}
ExecStartPost=-/bin/ip neigh flush to {container.ipv4} dev {_BRIDGE}
ExecStartPost=-/bin/ip neigh flush to {container.ipv6} dev {_BRIDGE}
ExecStop=/usr/bin/podman stop --ignore --time=2 {container.name}
Restart=always
RestartSec=1
TimeoutStartSec=60

[Install]
WantedBy=multi-user.target
"""
