# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab needs of this machine, tried out rather than looked up, and all that is missing told at once."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from .shell import run

# Program -> the Debian package that it comes from.
_PROGRAMS = {
    "apt-config": "apt",
    "bpftool": "bpftool",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "tar": "tar",
    "unshare": "util-linux",
}
# Each is tried in namespaces of its own, so that nothing of it stays.
_KERNEL = {
    "network namespaces with veth pairs (CONFIG_NET_NS, CONFIG_VETH)": "ip link add ew0 type veth peer name ew1",
    "bridges (CONFIG_BRIDGE)": "ip link add ew0 type bridge",
    "TUN devices (CONFIG_TUN, /dev/net/tun)": "ip tuntap add ew0 mode tun",
    "BPF and its file system (CONFIG_BPF_SYSCALL)": (
        "mount -t bpf bpf {scratch} && bpftool map create {scratch}/a type array key 4 value 4 entries 1 name a"
    ),
    "overlayfs on the disk of the state directory (CONFIG_OVERLAY_FS)": (
        "mkdir -p {scratch}/l {scratch}/u {scratch}/w {scratch}/m && "
        "mount -t overlay o -o lowerdir={scratch}/l,upperdir={scratch}/u,workdir={scratch}/w {scratch}/m"
    ),
}
_STATE_MEGABYTES = 1000
_IMAGE_MEGABYTES = 2500


def missing(state: Path, cache: Path, interface: str, addresses: Collection[str]) -> list[str]:
    """One line for everything that this machine lacks; empty when the lab can be raised."""
    if os.geteuid() != 0:
        # Nothing else can be tried without it.
        return ["root: the lab makes namespaces, mounts and machines; run this as root"]
    lacks = _missing_packages()
    if not lacks:
        lacks += _missing_kernel_features(state)
        lacks += _taken_addresses(interface, addresses)
    lacks += _missing_space(state, cache)
    return lacks


def _missing_packages() -> list[str]:
    packages = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    return [f"packages: apt-get install --no-install-recommends {' '.join(sorted(packages))}"] if packages else []


def _missing_kernel_features(state: Path) -> list[str]:
    lacks = []
    scratch = _existing_parent(state) / ".edgewire-lab-preflight"
    for feature, trial in _KERNEL.items():
        scratch.mkdir(exist_ok=True)
        script = trial.format(scratch=scratch)
        result = run(["unshare", "--net", "--mount", "sh", "-c", script], check=False)
        shutil.rmtree(scratch, ignore_errors=True)
        if result.returncode != 0:
            reason = result.stderr.strip().splitlines()[-1:] or ["no reason given"]
            lacks.append(f"kernel feature: {feature}: {reason[0]}")
    tun = Path("/dev/net/tun")
    if not tun.exists() or not stat.S_ISCHR(tun.stat().st_mode):
        lacks.append("device: /dev/net/tun")
    return lacks


def _taken_addresses(interface: str, addresses: Collection[str]) -> list[str]:
    """192.0.2.0/24 is a network for examples, and some sandboxes use it for real."""
    links = json.loads(run(["ip", "-json", "-4", "address"]).stdout)
    taken = {entry["local"] for link in links if link.get("ifname") != interface for entry in link.get("addr_info", [])}
    taken |= {
        route["gateway"] for route in json.loads(run(["ip", "-json", "-4", "route"]).stdout) if "gateway" in route
    }
    return [
        f"address: {address} is this machine's or its gateway's; change lab_boxes, lab_controller, the inventory"
        for address in sorted(taken & set(addresses))
    ]


def _missing_space(state: Path, cache: Path) -> list[str]:
    has_image = cache.is_dir() and any(len(entry.name) == 16 for entry in cache.iterdir())
    needs: dict[int, int] = {}
    places: dict[int, Path] = {}
    for path, megabytes in ((state, _STATE_MEGABYTES), (cache, 0 if has_image else _IMAGE_MEGABYTES)):
        place = _existing_parent(path)
        device = place.stat().st_dev
        needs[device] = needs.get(device, 0) + megabytes
        places[device] = place
    lacks = []
    for device, megabytes in needs.items():
        free = shutil.disk_usage(places[device]).free // 1_000_000
        if free < megabytes:
            lacks.append(f"disk space: {megabytes} MB on the disk of {places[device]}, which has {free} MB")
    return lacks


def _existing_parent(path: Path) -> Path:
    while not path.is_dir():
        path = path.parent
    return path
