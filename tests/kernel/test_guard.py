# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock-out guard: real processes over routes and a WireGuard device in namespaces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import guard, turns
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.guard import Guard
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import ensure_key, running_private_key

from .conftest import COLLECTIONS, Netns, wait_until

pytestmark = pytest.mark.kernel

BEFORE: dict[str, Any] = {
    "table": 7700,
    "protocol": 158,
    "rules": [{"to": "100.64.0.0/11", "priority": 7700}, {"to": "fd65::/64", "priority": 7700}],
    "routes": [
        {"destination": "100.64.0.0/11", "type": "blackhole"},
        {"destination": "fd65::/64", "type": "prohibit", "metric": 5},
    ],
}
AFTER: dict[str, Any] = {
    **BEFORE,
    "rules": [{"to": "0.0.0.0/0", "priority": 10}, {"from": "fd65::/64", "priority": 10, "table": 7701}],
    "routes": [{"destination": "0.0.0.0/0", "type": "blackhole"}, {"destination": "100.64.0.0/11", "type": "prohibit"}],
}
NAME = "routes-7700"


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guard, "DIRECTORY", str(tmp_path / "run" / "guard"))
    monkeypatch.setattr(turns, "LOCK", str(tmp_path / "lock"))
    return tmp_path / "run" / "guard"


def everything(ns: Netns) -> list[Any]:
    return [
        sorted(map(str, ns.json("ip", "-j", family, *what)))
        for family in ("-4", "-6")
        for what in (("route", "show", "table", "all"), ("rule",))
    ]


def change(params: dict[str, Any], seconds: int, connection: str = "1:1") -> tuple[Guard, list[tuple[str, str]]]:
    """Apply under a guard, in turn, as the module does."""
    armed = Guard("routes", params["table"], seconds, connection)
    with turns.turn():
        steps = routes.apply(params, check_mode=False, guard=armed)
    return armed, [(step.verb, step.kind) for step in steps]


def state() -> str | None:
    record = guard.read(NAME)
    return record.shown["state"] if record else None


def stands() -> bool:
    """Whether a guard's process is there; a zombie is not."""
    found = subprocess.run(["pgrep", "-f", "-r", "S", "-P", str(guard.os.getpid())], capture_output=True, check=False)
    return found.returncode == 0


def test_what_is_not_confirmed_is_taken_back_and_the_next_run_says_so(netns: Netns, records: Path) -> None:
    with netns:
        routes.apply(BEFORE, check_mode=False)
        before = everything(netns)
        change(AFTER, seconds=3)
        assert everything(netns) != before
        assert records.stat().st_mode & 0o777 == 0o700
        wait_until(lambda: state() == "fired", "the guard to fire")
        assert everything(netns) == before
        with pytest.raises(EdgewireError, match=r"did not come back in time; the change was rolled back: .*add route"):
            guard.confirm(NAME, "whatever", "2:2")
        assert guard.read(NAME) is None

        change(AFTER, seconds=1)
        wait_until(lambda: state() == "fired", "the guard to fire")
        preview = routes.preview(AFTER)
        assert preview[0].describe()["before"]["state"] == "fired"
        again, steps = change(AFTER, seconds=60)
        assert steps == [(step.verb, step.kind) for step in preview]
        assert again.id is not None
        assert guard.confirm(NAME, again.id, "2:2")
        assert change(AFTER, seconds=60)[1] == []


def test_only_a_new_connection_confirms(netns: Netns) -> None:
    with netns:
        armed, _ = change(AFTER, seconds=60)
        after = everything(netns)
        assert armed.shown == {"name": NAME, "id": armed.id, "seconds": 60}
        assert armed.id is not None
        for proves_nothing in ("1:1", None):
            with pytest.raises(EdgewireError, match="only a new one shows"):
                guard.confirm(NAME, armed.id, proves_nothing)
        assert state() == "armed"
        assert not guard.confirm(NAME, "of another run", "2:2")
        assert state() == "armed"
        assert guard.confirm(NAME, armed.id, "2:2")
        wait_until(lambda: not stands(), "the guard to stand down")
        assert everything(netns) == after
        assert not guard.confirm(NAME, armed.id, "2:2")


def test_the_next_run_takes_an_armed_guard_over_with_what_it_holds(netns: Netns) -> None:
    """A run that was aborted changed something, the next one changes more, and neither was confirmed."""
    with netns:
        routes.apply(BEFORE, check_mode=False)
        before = everything(netns)
        first, _ = change(AFTER, seconds=60)
        second, steps = change(AFTER, seconds=60, connection="3:3")
        assert steps == [("remove", "guard")]  # nothing else is left to do, but it has to be confirmed
        assert second.id not in (None, first.id)
        assert not guard.confirm(NAME, str(first.id), "2:2")
        change({**AFTER, "routes": []}, seconds=1, connection="4:4")
        wait_until(lambda: state() == "fired", "the guard to fire")
        assert everything(netns) == before


def test_a_run_without_a_guard_ends_one_that_stands(netns: Netns) -> None:
    with netns:
        change(AFTER, seconds=60)
        change(BEFORE, seconds=0)
        assert state() is None
        change(AFTER, seconds=60)
        assert routes.apply(AFTER, check_mode=False, absent=True)[0].kind == "guard"
        assert state() is None
        wait_until(lambda: not stands(), "the guards to stand down")


def test_wireguard_gets_back_its_keys_and_peers(
    netns: Netns, interface_name: Callable[[], str], tmp_path: Path, records: Path
) -> None:
    name, secret = interface_name(), "long enough to be a secret of a fleet"
    keys = [tmp_path / name / "keys" for name in ("one", "two")]
    publics = [ensure_key(str(key), check_mode=False).public_key for key in keys]

    def params(key: int, **more: Any) -> dict[str, Any]:
        peer = {
            "name": "other",
            "public_key": "2rPgm8k8H3yVbYvVfBbG2bM3wX5M7q1Q5o5m9mQ0GkE=",
            "endpoint": "192.0.2.9:51820",
            "allowed_ips": ["10.0.0.0/24"],
            "preshared": True,
        }
        mine = {"interface": name, "private_key_file": str(keys[key]), "host": "me", "preshared_secret": secret}
        return {**mine, "addresses": ["100.64.0.1/32"], "peers": [peer], "transport": "userspace", **more}

    def apply(wanted: dict[str, Any], seconds: int) -> None:
        with turns.turn():
            wireguard.apply(wanted, check_mode=False, guard=Guard("wireguard", name, seconds, "1:1"))

    def fired() -> bool:
        record = guard.read(f"wireguard-{name}")
        return record is not None and record.state == "fired"

    with netns:
        apply(params(0), 1)
        wait_until(fired, "the new device to be removed")
        assert wireguard.observe(name) is None

        apply(params(0), 0)
        before, private = wireguard.observe(name), running_private_key(name)
        apply(params(1, peers=[], addresses=["100.64.0.2/32"], mtu=1400), 3)
        assert wireguard.observe(name).settings.public_key == publics[1]  # type: ignore[union-attr]
        told = (records / f"wireguard-{name}.json").read_text()
        wait_until(fired, "the guard to fire")
        assert wireguard.observe(name) == before
        assert running_private_key(name) == private
        for hidden in (private, before.settings.peers[params(0)["peers"][0]["public_key"]].preshared_key):  # type: ignore[union-attr]
            assert hidden is not None
            assert hidden.reveal_base64() not in told + (records / f"wireguard-{name}.json").read_text()
        wireguard.apply_absent(name, force=False, check_mode=False)


def test_a_device_under_another_name_gives_way_to_the_former_one_again(
    netns: Netns, interface_name: Callable[[], str], tmp_path: Path
) -> None:
    former, name = interface_name(), interface_name()
    key = str(tmp_path / "keys" / "wg.key")
    ensure_key(key, check_mode=False)
    params = {"private_key_file": key, "listen_port": 51820, "addresses": ["100.64.0.1/32"], "transport": "userspace"}

    def fired() -> bool:
        record = guard.read(f"wireguard-{name}")
        return record is not None and record.state == "fired"

    with netns:
        wireguard.apply({**params, "interface": former}, check_mode=False)
        before, private = wireguard.observe(former), running_private_key(former)
        with turns.turn():
            armed = Guard("wireguard", name, 1, "1:1")
            wireguard.apply({**params, "interface": name, "sole": True}, check_mode=False, guard=armed)
            assert wireguard.observe(former) is None
        wait_until(fired, "the guard to fire")
        assert (wireguard.observe(name), wireguard.observe(former)) == (None, before)
        assert running_private_key(former) == private
        wireguard.apply_absent(former, force=False, check_mode=False)


def test_a_connection_is_known_by_its_server_process(tmp_path: Path) -> None:
    """As with sudo between: the nearest ancestor that is an SSH server's counts."""
    server = tmp_path / "sshd"
    server.symlink_to(sys.executable)
    asks = (
        "import os; from ansible_collections.edgewire.fleet.plugins.module_utils import guard;"
        "print(guard.connection_of(os.getpid()))"
    )
    serves = (
        "import os, subprocess, sys; print(os.getpid(), flush=True);"
        f"subprocess.run(['sh', '-c', '{sys.executable} -c \"$0\"; true', {asks!r}])"
    )
    environment = {"PYTHONPATH": str(COLLECTIONS), "PATH": "/usr/bin:/bin"}
    said = subprocess.run([server, "-c", serves], env=environment, capture_output=True, text=True, check=True)
    pid, connection = said.stdout.split()
    assert connection.startswith(f"{pid}:")
    assert Guard("routes", 7700, 60).shown is None
