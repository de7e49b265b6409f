# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host changes its WireGuard key while its peer follows: two devices in namespaces, with traffic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils import turns
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.follow import follow
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import (
    ensure_key,
    ensure_next_key,
    read_private_key,
    rotate_key,
)

from .conftest import wait_until
from .test_wireguard import Box, heard, make_box, transport  # noqa: F401  # fixtures

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOCK", str(tmp_path / "lock"))


@pytest.fixture
def pair(make_box: Callable[..., Box], veth: Callable[..., None]) -> tuple[Box, Box]:  # noqa: F811
    """Two boxes with a session, with a preshared key."""
    one, two = make_box(1), make_box(2)
    veth(one.ns, "192.0.2.1/24", two.ns, "192.0.2.2/24")
    for mine, other, number in ((one, two, 2), (two, one, 1)):
        mine.params["host"] = f"host{3 - number}"
        mine.params["preshared_secret"] = "a secret of the fleet that is long enough"
        mine.params["peers"] = [
            {
                "name": f"host{number}",
                "public_key": other.public_key,
                "endpoint": f"192.0.2.{number}:51820",
                "allowed_ips": [f"100.64.0.{number}/32", f"fd65::{number}/128"],
                "persistent_keepalive": 25,
                "preshared": True,
            }
        ]
        mine.apply()
        mine.ns.run("ip", "route", "add", f"100.64.0.{number}/32", "dev", mine.interface)
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    return one, two


def following(box: Box, old: str, new: str, seconds: int = 60) -> bool:
    with box.ns, turns.turn():
        predicted = follow(box.interface, old, new, seconds, check_mode=True)
        assert follow(box.interface, old, new, seconds, check_mode=False) == predicted
    return bool(predicted)


def test_the_peer_follows_at_the_first_handshake_and_is_then_as_planned(pair: tuple[Box, Box]) -> None:
    one, two = pair
    path = one.params["private_key_file"]
    before = read_private_key(path)
    new = ensure_next_key(path, check_mode=False).public_key
    assert new not in (None, one.public_key)
    assert ensure_next_key(path, check_mode=False).steps == []
    assert following(two, one.public_key, str(new))
    # Nothing has changed hands yet.
    assert two.observe().settings.peers[str(new)].allowed_ips == frozenset()
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"

    (step,) = rotate_key(path, check_mode=False).steps
    assert (step.before, step.after) == ({"public_key": one.public_key}, {"public_key": new})
    assert rotate_key(path, check_mode=False).steps == []
    assert read_private_key(path) not in (None, before)
    assert [entry.name for entry in Path(path).parent.iterdir()] == [Path(path).name]
    assert one.apply() == [("change", "device")]  # and it greets its peer by itself
    wait_until(lambda: set(two.observe().settings.peers) == {new}, "the peer to follow")
    assert heard(two, one, "100.64.0.1") == "100.64.0.2"
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"

    two.params["peers"][0]["public_key"] = new
    assert two.apply() == []
    assert not following(two, one.public_key, str(new))


def test_a_key_that_never_comes_is_forgotten(pair: tuple[Box, Box]) -> None:
    one, two = pair
    new = ensure_next_key(one.params["private_key_file"], check_mode=False).public_key
    assert following(two, one.public_key, str(new), seconds=1)
    wait_until(lambda: set(two.observe().settings.peers) == {one.public_key}, "the new key to go")
    assert two.apply() == []


def test_nothing_is_rotated_where_there_is_no_key(tmp_path: Path) -> None:
    path = str(tmp_path / "keys" / "wg0.key")
    for refused in (ensure_next_key, rotate_key):
        with pytest.raises(EdgewireError, match="nothing to rotate"):
            refused(path, False)
    ensure_key(path, check_mode=False)
    predicted: Any = ensure_next_key(path, check_mode=True)
    assert predicted.public_key is None
    assert [entry.name for entry in (tmp_path / "keys").iterdir()] == ["wg0.key"]
