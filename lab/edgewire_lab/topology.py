# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab shall be, as the role wrote it into the state directory (from roles/lab/defaults)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from .shell import LabError

STATE = Path(os.environ.get("EDGEWIRE_LAB_STATE", "/var/lib/edgewire-lab"))
# Everything of ours that has a name outside the state directory begins with this.
PREFIX = "edgewire-lab-"
ROUTER = "router"
ROUTER_NETNS = f"{PREFIX}{ROUTER}"


@dataclass(frozen=True)
class Network:
    name: str
    router_ipv4: IPv4Interface
    router_ipv6: IPv6Interface

    @property
    def bridge(self) -> str:
        return f"br-{self.name}"


@dataclass(frozen=True)
class Controller:
    interface: str
    network: str
    ipv4: str


@dataclass(frozen=True)
class Container:
    name: str
    ipv4: str
    ipv6: str
    command: str
    # Directories of the box that it sees, read-only.
    mounts: tuple[str, ...]


@dataclass(frozen=True)
class Box:
    name: str
    role: str
    network: Network
    ipv4: str
    ipv6: str
    containers: tuple[Container, ...]
    # Of the bridge that they hang on.
    container_subnets: tuple[IPv4Network | IPv6Network, ...]
    state: Path

    @property
    def netns(self) -> str:
        return f"{PREFIX}{self.name}"

    @property
    def directory(self) -> Path:
        return self.state / "boxes" / self.name

    @property
    def root(self) -> Path:
        """Where the overlay is mounted: the root directory of the machine."""
        return self.directory / "root"

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpffs"

    @property
    def log(self) -> Path:
        return self.directory / "console.log"

    @property
    def has_ssh(self) -> bool:
        return self.role != "client"


@dataclass(frozen=True)
class Topology:
    state: Path
    cache: Path
    packages: tuple[str, ...]
    python_packages: tuple[str, ...]
    networks: tuple[Network, ...]
    controller: Controller
    vips: tuple[str, ...]
    first_edge: str
    boxes: tuple[Box, ...]

    def box(self, name: str) -> Box:
        for box in self.boxes:
            if box.name == name:
                return box
        known = ", ".join([*(box.name for box in self.boxes), ROUTER])
        raise LabError(f"no box is called {name}; there are: {known}")

    @classmethod
    def load(cls, state: Path = STATE) -> Topology:
        path = state / "lab.json"
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise LabError(f"the lab is not up ({path} is missing); raise it with: make lab-up") from error
        except ValueError as error:
            raise LabError(f"{path} is damaged ({error}); mend it with: make lab-up") from error
        try:
            return cls._of(data, state)
        except (KeyError, TypeError) as error:
            # Somebody took a newer version, or an older one, while the lab was up.
            raise LabError(f"{path} has another form ({error!r}); write it anew with: make lab-up") from error

    @classmethod
    def _of(cls, data: dict[str, Any], state: Path) -> Topology:
        networks = {
            entry["name"]: Network(
                entry["name"], IPv4Interface(entry["router_ipv4"]), IPv6Interface(entry["router_ipv6"])
            )
            for entry in data["networks"]
        }
        containers = tuple(
            Container(**{**entry, "mounts": tuple(entry.get("mounts", ()))}) for entry in data["containers"]
        )
        subnets = tuple(ip_network(subnet) for subnet in data["container_subnets"])
        boxes = tuple(
            Box(
                name=entry["name"],
                role=entry["role"],
                network=networks[entry["network"]],
                ipv4=entry["ipv4"],
                ipv6=entry["ipv6"],
                containers=containers if entry["role"] == "worker" else (),
                container_subnets=subnets,
                state=state,
            )
            for entry in data["boxes"]
        )
        return cls(
            state=state,
            cache=Path(data["cache"]),
            packages=tuple(data["packages"]),
            python_packages=tuple(data["python_packages"]),
            networks=tuple(networks.values()),
            controller=Controller(**data["controller"]),
            vips=tuple(data["vips"]),
            first_edge=data["first_edge"],
            boxes=boxes,
        )
