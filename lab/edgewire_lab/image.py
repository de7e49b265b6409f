# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image that every box is an overlay of: made once by mmdebstrap, kept under the hash of what it is made from."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import mounts
from .shell import LabError, progress, run
from .topology import Topology

# In the image: what a container's file system is made of.
CONTAINER_TAR = "usr/share/edgewire-lab/container.tar"
CONTAINER_PROGRAMS = ("dnsmasq", "socat", "sh", "cat")
# In the image: programs of the lab's own, and the Python packages that they need, out of the way of the box's own.
PROGRAMS = "opt/edgewire-lab"
PYTHON_PACKAGES = f"{PROGRAMS}/python"
_PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
# Nobody reads manuals in a lab box; leaving them out saves a third of the unpacking.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*")
# Nothing that a box without a screen, without the internet and without users who log in has a use for.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dnsmasq.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty.target",
    "logrotate.timer",
    "podman.service",
    "podman.socket",
    "podman-auto-update.service",
    "podman-auto-update.timer",
    "podman-restart.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-firstboot.service",
    "systemd-homed.service",
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-network-generator.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)
_ACQUIRE = re.compile(
    r"^Acquire::(http|https|Retries|ForceIPv4|ForceIPv6|Check-Valid-Until|Check-Date)\b[^ ]* \"[^\"]+\";$"
)


def path(topology: Topology) -> Path:
    """Where the image of these package lists, this script, these programs and this Debian is or will be."""
    packages = [sorted(topology.packages), sorted(topology.python_packages)]
    ingredients = json.dumps([*packages, _codename(), platform.machine()]).encode()
    files = [Path(__file__), *sorted(_PROGRAMS.glob("*.py"))]
    digest = hashlib.sha256(ingredients + b"".join(file.read_bytes() for file in files)).hexdigest()
    return topology.cache / digest[:16]


def build(topology: Topology) -> bool:
    """Make the image if it is not there yet; say whether it was made."""
    final = path(topology)
    if final.is_dir():
        return False
    topology.cache.mkdir(parents=True, exist_ok=True)
    # A name of its own until it is whole: an interrupted build must never be taken for an image.
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=topology.cache))
    try:
        root = partial / "root"
        _bootstrap(topology, root, partial)
        progress("image: setting up what every box shares")
        _configure(root)
        _pack_container(root)
        _install_programs(topology, root, partial)
        (partial / "apt.conf").unlink()
        shutil.rmtree(partial / "venv")
        partial.chmod(0o755)
        partial.rename(final)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    progress("image: done")
    return True


def prune(topology: Topology) -> list[str]:
    """Remove images that no box uses any more: those of earlier package lists and versions of this script."""
    current = path(topology)
    old = [entry for entry in stored(topology.cache) if entry != current]
    for entry in old:
        # An interrupted mmdebstrap leaves /proc and /sys mounted in it.
        mounts.unmount(entry)
        shutil.rmtree(entry)
    return [f"old image {entry.name}" for entry in old]


def stored(cache: Path) -> list[Path]:
    """What lies in the cache and is ours: images, and what interrupted builds left."""
    if not cache.is_dir():
        return []
    return [entry for entry in sorted(cache.iterdir()) if re.fullmatch(r"[0-9a-f]{16}|partial-\w+", entry.name)]


def _bootstrap(topology: Topology, root: Path, scratch: Path) -> None:
    progress(f"image: installing {len(topology.packages)} packages and what they need; takes a minute or two")
    settings = scratch / "apt.conf"
    settings.write_text("\n".join([*_host_apt_settings(), 'Acquire::Languages "none";', ""]))
    command = [
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=minbase",
        f"--include={','.join(topology.packages)}",
        f"--aptopt={settings}",
        '--aptopt=Apt::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        _codename(),
        str(root),
        *_host_sources(),
    ]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith("I: "):
                progress(f"image: {line[3:].strip()}")
    if process.returncode != 0:
        raise LabError(f"mmdebstrap could not make the image:\n{''.join(lines[-30:])}")


def _configure(root: Path) -> None:
    units = root / "etc/systemd/system"
    for unit in MASKED:
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (root / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
    # Every box gets its own when it is prepared.
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/ssh/sshd_config.d/edgewire-lab.conf").write_text(
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\n"
        # With one ControlMaster per box, Ansible's forks are sessions of one connection.
        "MaxSessions 64\n"
    )
    # Boxes have no way out to a package mirror, and may not carry the host's proxy settings.
    for left in ("etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap"):
        (root / left).unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("# A lab box resolves nothing.\n")
    # /proc/sys is writable in a box. What is not about its own network namespace would set the host's kernel.
    for path in [*(root / "usr/lib/sysctl.d").glob("*.conf"), *(root / "etc/sysctl.d").glob("*.conf")]:
        if path.is_file() and not path.is_symlink():
            kept = [line for line in path.read_text().splitlines() if re.match(r"-?net[./]ipv[46][./]", line)]
            path.write_text("\n".join([*kept, ""]))
    # crun cannot make cgroups of its own in a box, and there is no systemd session to ask.
    (root / "etc/containers/containers.conf.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/containers/containers.conf.d/edgewire-lab.conf").write_text(
        '[containers]\ncgroups = "disabled"\nlog_driver = "k8s-file"\nlog_size_max = 16777216\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n'
    )


def _pack_container(root: Path) -> None:
    """Lay the container's file system beside the programs: they and their libraries, nothing else."""
    programs = [run(["chroot", root, "sh", "-c", f"command -v {name}"]).stdout.strip() for name in CONTAINER_PROGRAMS]
    wanted = {*programs, "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"}
    for program in programs:
        listed = run(["chroot", root, "ldd", program], check=False).stdout
        wanted.update(re.findall(r"(/\S+) \(0x", listed))
    target = root / CONTAINER_TAR
    target.parent.mkdir(parents=True, exist_ok=True)
    # The links of a merged /usr come first, and every file once and by its real path: podman
    # refuses a file stored through a link, and a second copy of one, which tar writes as a hard link to itself.
    members = ["bin", "sbin", "lib", "lib64", *sorted(set(_real_paths(root, wanted)))]
    run(["tar", "--create", "--file", target, "--directory", root, *members])


def _install_programs(topology: Topology, root: Path, scratch: Path) -> None:
    """The lab's own programs, and what they need from the Python package index, with this machine's settings for it."""
    progress(f"image: installing {len(topology.python_packages)} Python packages")
    (root / PROGRAMS).mkdir(parents=True)
    for program in _PROGRAMS.glob("*.py"):
        shutil.copy(program, root / PROGRAMS)
    # The same release of Python as in the boxes: this machine is a Debian of the same name.
    run(["/usr/bin/python3", "-m", "venv", scratch / "venv"])
    pip = [scratch / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--only-binary=:all:", "--target", root / PYTHON_PACKAGES, *topology.python_packages])


def _real_paths(root: Path, paths: set[str]) -> Iterator[str]:
    """The paths without their leading links to directories, and the files that they link to."""
    for name in paths:
        where = Path(name)
        directory = run(["chroot", root, "realpath", str(where.parent)]).stdout.strip()
        yield f"{directory}/{where.name}".lstrip("/")
        yield run(["chroot", root, "realpath", name]).stdout.strip().lstrip("/")


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return shlex.split(value)[0]
    raise LabError("/etc/os-release names no VERSION_CODENAME; the lab needs a Debian host")


def _host_apt_settings() -> list[str]:
    """How the host's apt reaches its mirror: proxies and the like."""
    return [line for line in run(["apt-config", "dump"]).stdout.splitlines() if _ACQUIRE.match(line)]


def _host_sources() -> list[str]:
    """The host's own Debian sources as one-line entries: the image comes from where the host comes from."""
    codename = _codename()
    suites = {codename, f"{codename}-updates", f"{codename}-security"}
    base = Path("/etc/apt")
    entries: list[str] = []
    for file in [base / "sources.list", *sorted((base / "sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        if file.suffix == ".sources":
            entries += _deb822_entries(file.read_text(), suites)
        elif file.suffix == ".list":
            entries += _one_line_entries(file.read_text(), suites)
    if not entries:
        raise LabError(f"no Debian source for {codename} (component main) found in /etc/apt")
    return entries


def _one_line_entries(text: str, suites: set[str]) -> Iterator[str]:
    for line in text.splitlines():
        found = re.match(r"deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
        # Others' repositories call their suite "bookworm", too, but not their component "main".
        if found and found[3] in suites and "main" in found[4].split():
            yield f"deb {found[1] or ''}{found[2]} {found[3]} main"


def _deb822_entries(text: str, suites: set[str]) -> Iterator[str]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {key.lower(): value.strip() for key, value in re.findall(r"(?m)^(\S+):((?:.*)(?:\n[ \t].*)*)", stanza)}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        if "main" not in fields.get("components", "").split():
            continue
        key = fields.get("signed-by", "")
        # A key written into the stanza itself has no path; mmdebstrap then uses the keys that Debian trusts anyway.
        option = f"[signed-by={key}] " if re.fullmatch(r"/\S+", key) and Path(key).exists() else ""
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                if suite in suites:
                    yield f"deb {option}{uri} {suite} main"
