# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The boxes: preparing their disks, switching them on, keeping them on through reboots, waiting until they are up."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import cgroups, containers, image, mounts, network, processes
from .enter import in_box
from .shell import LabError, progress, run
from .topology import Box, Topology

# What nspawn ends with when the machine inside was rebooted, not switched off.
_REBOOTED = 133
_BOOT_SECONDS = 120.0
# What nspawn leaves on the host.
NSPAWN = Path("/run/systemd/nspawn")
_LABCTL = Path(__file__).resolve().parent.parent / "labctl"


def ensure(topology: Topology) -> list[str]:
    """Have every box prepared, plugged in and up. Boxes that are up stay as they are. Returns what had to be done."""
    keys = _ensure_key_pair(topology)
    did = ["SSH key pair"] if keys else []
    with ThreadPoolExecutor(max_workers=len(topology.boxes)) as pool:
        for result in list(pool.map(lambda box: _ensure_box(topology, box), topology.boxes)):
            did += result
    if _write_known_hosts(topology):
        did.append("known hosts")
    # Only now is no box an overlay of an old one.
    return did + image.prune(topology)


def supervise(topology: Topology, box: Box) -> int:
    """Be the box's power switch: run the machine, and run it again when it reboots. Lives as long as the box is on."""
    cgroups.enter(box.name)
    while True:
        # As after switching on real hardware: no BPF program, pin, route or address is left of the run before.
        mounts.unmount(box.bpffs)
        mounts.mount_bpffs(box.bpffs)
        network.make_box_network(topology, box)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes"}
        code = subprocess.run(_nspawn(box), check=False, stdin=subprocess.DEVNULL, env=environment).returncode
        print(f"edgewire-lab: {box.name} ended with {code}", flush=True)
        if code != _REBOOTED:
            return code


def _nspawn(box: Box) -> list[str]:
    command = [
        "systemd-nspawn",
        f"--directory={box.root}",
        f"--hostname={box.name}",
        f"--machine={box.netns}",
        "--boot",
        # There may be no systemd on the host to register with, or to make a unit.
        "--register=no",
        "--keep-unit",
        "--private-network",
        f"--network-namespace-path=/run/netns/{box.netns}",
        "--capability=all",
        "--system-call-filter=bpf perf_event_open add_key keyctl",
        "--bind=/dev/net/tun",
        f"--bind={box.bpffs}:/sys/fs/bpf",
        "--console=read-only",
    ]
    if box.containers:
        # podman's overlay storage cannot lie on the overlay that the box itself lives on.
        command.append(f"--bind={box.directory / 'containers'}:/var/lib/containers")
    return command


def _ensure_box(topology: Topology, box: Box) -> list[str]:
    did: list[str] = []
    if _prepare(topology, box):
        did.append(f"{box.name}: disk")
    if processes.supervisor_of(box) is None:
        _switch_on(box)
        did.append(f"{box.name}: switched on")
    deadline = time.monotonic() + _BOOT_SECONDS
    pid = _wait_for_init(box, deadline)
    # Its supervisor has done both before it switched the machine on, but somebody may have undone them since.
    if network.name_netns(box.netns, pid):
        did.append(f"{box.name}: name of the namespace")
    if not network.is_plugged(box):
        network.plug(topology, box)
        did.append(f"{box.name}: cable")
    _until(lambda: _systemd_state(box) in ("running", "degraded"), box, "systemd does not finish", deadline)
    if box.has_ssh:
        _until(lambda: _answers_ssh(box), box, "sshd does not answer the controller", deadline)
    if did:
        progress(f"{box.name} is up")
    return did


def _prepare(topology: Topology, box: Box) -> bool:
    """Give the box a disk: an overlay over the image, and in it what makes the box this box."""
    base = image.path(topology)
    made_from = box.directory / "image"
    if box.directory.exists() and (not made_from.is_symlink() or made_from.readlink() != base):
        _kill(box)
        mounts.unmount(box.directory)
        shutil.rmtree(box.directory)
    if processes.supervisor_of(box) is not None and box.root.is_mount():
        return False
    # Its disk was pulled out of reach, or its supervisor is gone and what runs could never reboot. Two mounts of one
    # overlay would damage it.
    _kill(box)
    box.directory.mkdir(parents=True, exist_ok=True)
    unlock_disk(box.root)
    # Mounted anew: nobody knows how a mount fared that an earlier, killed lab has left.
    mounts.unmount(box.directory)
    mounts.mount_overlay(base / "root", box.directory / "upper", box.directory / "work", box.root)
    (box.directory / "containers").mkdir(exist_ok=True)
    etc = box.root / "etc"
    # Without it, systemd would take the start for the first one ever and go through all units' presets.
    (etc / "machine-id").write_text(hashlib.md5(box.name.encode(), usedforsecurity=False).hexdigest() + "\n")
    (etc / "hosts").write_text(
        "".join(f"{other.ipv4} {other.name}\n" for other in topology.boxes) + "127.0.0.1 localhost\n"
    )
    (etc / "hostname").write_text(f"{box.name}\n")
    if box.has_ssh:
        _install_keys(topology, box)
    else:
        unit = etc / "systemd/system/ssh.service"
        unit.unlink(missing_ok=True)
        unit.symlink_to("/dev/null")
    _link_kernel_headers(box.root)
    containers.write_network(box)
    containers.write_units(box)
    made_from.unlink(missing_ok=True)
    made_from.symlink_to(base)
    return True


def unlock_disk(root: Path) -> None:
    """Remove nspawn's lock file of a disk that no machine uses; only a mounted disk tells what that file is called."""
    if root.is_mount():
        found = root.stat()
        (NSPAWN / "locks" / f"inode-{found.st_dev}:{found.st_ino}").unlink(missing_ok=True)


def _kill(box: Box) -> None:
    supervisor = processes.supervisor_of(box)
    # A machine outlives a killed nspawn, with disk and namespace in use; only its control group still tells who it is.
    machine = [*processes.nspawn_of(box), *cgroups.members(box.name)]
    processes.kill([*([supervisor] if supervisor else []), *machine])


def _link_kernel_headers(root: Path) -> None:
    """bcc looks for headers of the running kernel. Debian's are another version's, and close enough for uapi."""
    trees = sorted(path.name for path in (root / "usr/src").glob("linux-headers-*"))
    common = [name for name in trees if name.endswith("-common")]
    machine = [name for name in trees if not name.endswith("-common")]
    if not common or not machine:
        raise LabError("the image has no kernel headers in /usr/src; lab_packages must name linux-headers-…")
    directory = root / "usr/lib/modules" / os.uname().release
    directory.mkdir(parents=True, exist_ok=True)
    for link, name in (("build", machine[-1]), ("source", common[-1])):
        (directory / link).unlink(missing_ok=True)
        (directory / link).symlink_to(f"/usr/src/{name}")


def _ensure_key_pair(topology: Topology) -> bool:
    directory = topology.state / "ssh"
    # Ansible keeps its connections' sockets in cp/ (see inventories/lab), so that lab_down finds and closes them.
    (directory / "cp").mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    return _ensure_key(directory / "id_ed25519", "edgewire-lab")


def _ensure_key(path: Path, comment: str) -> bool:
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return False
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
    return True


def _install_keys(topology: Topology, box: Box) -> None:
    _ensure_key(box.root / "etc/ssh/ssh_host_ed25519_key", box.name)
    authorized = box.root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_text((topology.state / "ssh/id_ed25519.pub").read_text())


def _write_known_hosts(topology: Topology) -> bool:
    lines = []
    for box in topology.boxes:
        if box.has_ssh:
            kind, key = (box.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
            lines.append(f"{box.ipv4} {kind} {key}\n")
    path = topology.state / "ssh/known_hosts"
    wanted = "".join(lines)
    if path.exists() and path.read_text() == wanted:
        return False
    path.write_text(wanted)
    return True


def _switch_on(box: Box) -> None:
    with box.log.open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, str(_LABCTL), "--state", str(box.state), "supervise", box.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            # It outlives this command, and a Ctrl-C at the terminal is not meant for it.
            start_new_session=True,
        )
    # Until its exec is through, the process table shows it without arguments, and whoever asks for the box's supervisor
    # is told that there is none.
    while supervisor.poll() is None and processes.supervisor_of(box) is None:
        time.sleep(0.01)


def _wait_for_init(box: Box, deadline: float) -> int:
    _until(lambda: processes.init_of(box) is not None, box, "it does not start", deadline)
    pid = processes.init_of(box)
    if pid is None:
        raise LabError(f"{box.name} went down again at once; its console: {box.log}")
    return pid


def _until(condition: Callable[[], bool], box: Box, complaint: str, deadline: float) -> None:
    while not condition():
        if time.monotonic() > deadline or processes.supervisor_of(box) is None:
            console = box.log.read_text(errors="replace")[-1500:] if box.log.exists() else ""
            raise LabError(f"{box.name} does not come up: {complaint}. Its console ({box.log}) ends with:\n{console}")
        time.sleep(0.1)


def _systemd_state(box: Box) -> str:
    pid = processes.init_of(box)
    if pid is None:
        return ""
    return in_box(pid, ["systemctl", "is-system-running", "--wait"]).stdout.strip()


def _answers_ssh(box: Box) -> bool:
    try:
        with socket.create_connection((box.ipv4, 22), timeout=2) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
