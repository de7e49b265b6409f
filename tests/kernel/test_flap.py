# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A link that goes down and up again: what it took along comes back by what the kernel says of links."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import turns
from ansible_collections.edgewire.fleet.plugins.module_utils.boot import flap
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import ensure_key
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Netns, wait_until

pytestmark = pytest.mark.kernel

RTMGRP_LINK = 1


@given(st.binary(max_size=200), st.integers(0, 60))
def test_whatever_is_in_a_message_it_is_read_to_its_end(noise: bytes, length: int) -> None:
    header = length.to_bytes(4, "little") + (16).to_bytes(2, "little")
    for messages in (noise, header + noise):
        assert all(isinstance(name, str) for name in flap.came_up(messages))


def test_what_a_link_takes_along_comes_back_unless_a_roll_out_is_under_way(
    netns: Netns, interface_name: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LOCK", str(tmp_path / "lock"))
    name, key = interface_name(), str(tmp_path / "keys" / "wg.key")
    ensure_key(key, check_mode=False)
    plan: dict[str, Any] = {
        "wireguard": {
            "interface": name,
            "private_key_file": key,
            "listen_port": 51820,
            "addresses": ["100.64.0.1/32", "fd65::1/128"],
            "peers": [],
            "transport": "userspace",
        },
        "routes": {
            "table": 7700,
            "protocol": 158,
            "rules": [{"to": "100.64.0.0/11", "priority": 7700}],
            "routes": [
                {"destination": "100.64.0.0/11", "interface": name},
                {"destination": "fd65::/64", "interface": name},
                {"destination": "100.96.0.0/11", "type": "blackhole"},
            ],
        },
    }
    settings = {"plan_file": str(tmp_path / "boot.json"), "given_plan_file": str(tmp_path / "given.json")}
    for path in settings.values():
        Path(path).write_text(json.dumps(plan))

    def lost() -> set[tuple[str, str]]:
        return {
            (step.kind, step.name) for step in (*wireguard.preview(plan["wireguard"]), *routes.preview(plan["routes"]))
        }

    with netns, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as listener:
        listener.bind((0, RTMGRP_LINK))
        netns.run("ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
        netns.run("ip", "link", "set", "other0", "up")
        assert flap.run(settings, flap.heard(listener)) == []  # nothing of ours

        wireguard.apply(plan["wireguard"], check_mode=False)
        routes.apply(plan["routes"], check_mode=False)
        wait_until(lambda: name in flap.heard(listener), "the new device to be heard of")
        netns.run("ip", "link", "set", name, "down")
        assert name not in flap.heard(listener)
        taken = lost() - {("device", name)}
        assert ("address", "fd65::1/128") in taken
        assert ("route", "100.64.0.0/11 metric 0") in taken
        netns.run("ip", "link", "set", name, "up")
        names = flap.heard(listener)
        assert name in names

        Path(settings["given_plan_file"]).write_text(json.dumps({**plan, "host": "changed"}))
        assert flap.run(settings, names) == []
        Path(settings["given_plan_file"]).unlink()
        assert flap.run(settings, names) == []
        Path(settings["given_plan_file"]).write_text(json.dumps(plan))
        assert {(step.kind, step.name) for step in flap.run(settings, names)} == taken
        assert lost() == set()
        assert flap.run(settings, names) == []
        wireguard.apply_absent(name, force=False, check_mode=False)


def test_more_than_the_socket_holds_counts_as_anything(netns: Netns) -> None:
    with netns, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        listener.bind((0, RTMGRP_LINK))
        netns.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
        for state in ("up", "down") * 8:
            netns.run("ip", "link", "set", "d0", state)
        assert "" in flap.heard(listener)
