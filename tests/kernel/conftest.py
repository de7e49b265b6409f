# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tests share: network namespaces, fresh, reachable from Python, cleared away.

A namespace is entered with setns(2), in this process (`with ns:`) or through nsenter(1)
(`ns.run`). `ip netns exec` and `ip -n` are not used: they remount /sys and so hide the bpffs.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

PREFIX = "ewt-"
NETNS_DIR = Path("/run/netns")
WIREGUARD_DIR = Path("/var/run/wireguard")
COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"
CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)
_counter = itertools.count()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """Poll until ``condition()`` is true; return its value, or fail naming ``what`` in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)


class Netns:
    """One network namespace, named ``ewt-<pid of the test run>-<n>``, with ``lo`` up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NETNS_DIR / name
        self._outside: list[int] = []
        _ip("netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Netns:
        """Move the calling thread inside: sockets and children made from here on live there."""
        self._outside.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(inside)
        finally:
            os.close(inside)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        outside = self._outside.pop()
        try:
            _setns(outside)
        finally:
            os.close(outside)

    def command(self, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside the namespace."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(self, *argv: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside; output captured as text; a failure shows the output."""
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=False, **more)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(argv)} in {self.name}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def python(self, code: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Python code inside, under /usr/bin/python3, with the collection importable."""
        env = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
        return self.run("/usr/bin/python3", "-c", code, *args, check=check, env=env)

    def json(self, *argv: str) -> Any:
        """Run a command inside that prints JSON, such as ``ip -j route``; return what it says."""
        return json.loads(self.run(*argv).stdout or "[]")


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _discard(name: str) -> None:
    """Kill what runs in the namespace, then remove it."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in map(int, found.stdout.split()):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path("/proc", pid).exists()


def _clear_leftovers() -> None:
    """Remove namespaces and WireGuard sockets of killed runs; those of a living run stay."""
    for path in sorted(NETNS_DIR.glob(f"{PREFIX}*")):
        if not _alive(path.name.removeprefix(PREFIX).split("-")[0]):
            _discard(path.name)
    for path in sorted(WIREGUARD_DIR.glob("ewt*.sock")):
        if not _alive(path.name.removeprefix("ewt").split("x")[0]):
            path.unlink(missing_ok=True)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip, with the reason, what needs root where there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def _cleared() -> None:
    _clear_leftovers()


@pytest.fixture
def make_netns(_cleared: None) -> Iterator[Callable[[], Netns]]:
    """A factory of fresh namespaces; all of them, and every process in them, go with the test."""
    made: list[str] = []

    def make() -> Netns:
        name = f"{PREFIX}{os.getpid()}-{next(_counter)}"
        made.append(name)
        return Netns(name)

    yield make
    for name in made:
        _discard(name)


@pytest.fixture
def netns(make_netns: Callable[[], Netns]) -> Netns:
    """One fresh network namespace."""
    return make_netns()


@pytest.fixture
def veth() -> Callable[..., None]:
    """A function that wires two: ``veth(a, "192.0.2.1/24", b, "192.0.2.2/24", name="eth0")``."""

    def wire(a: Netns, a_address: str, b: Netns, b_address: str, name: str = "eth0") -> None:
        a.run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", b.name)
        for ns, address in ((a, a_address), (b, b_address)):
            ns.run("ip", "address", "add", address, "dev", name)
            ns.run("ip", "link", "set", name, "up")

    return wire


@pytest.fixture
def interface_name() -> Iterator[Callable[[], str]]:
    """A source of names nobody else uses: WireGuard's sockets are not per network namespace."""
    given: list[str] = []

    def name() -> str:
        given.append(f"ewt{os.getpid()}x{next(_counter)}"[:15])
        return given[-1]

    yield name
    for used in given:
        (WIREGUARD_DIR / f"{used}.sock").unlink(missing_ok=True)
