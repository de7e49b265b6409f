# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard on this machine: devices in network namespaces, and the modules themselves.

Every test of the device runs with both transports where the kernel has WireGuard; ``make test-kernel`` brings a kernel
that has it. Tests of wireguard-go's own traits, its daemon and its socket, are marked ``only_userspace``.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import (
    ensure_key,
    public_key_of,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.machine import (
    kernel_has_wireguard,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import MARK
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import derive
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.userspace import (
    socket_path,
)

from .conftest import Netns, wait_until

pytestmark = pytest.mark.kernel

TRANSPORTS = ["userspace", *(["kernel"] if kernel_has_wireguard() else [])]
only_userspace = pytest.mark.parametrize("transport", ["userspace"], indirect=True)
only_kernel = pytest.mark.parametrize(
    "transport",
    [
        pytest.param(
            "kernel",
            marks=pytest.mark.skipif(
                not kernel_has_wireguard(),
                reason="this kernel has no WireGuard; `make test-kernel` brings one that has",
            ),
        )
    ],
    indirect=True,
)

ROOT = Path(__file__).resolve().parents[2]


def wg(*argv: str, given: str = "") -> str:
    done = subprocess.run(["wg", *argv], input=given, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def new_public_key() -> str:
    return public_key_of(wg("genkey"))


@dataclass
class Box:
    """A namespace with a key and the parameters of one WireGuard device."""

    ns: Netns
    params: dict[str, Any]
    public_key: str

    @property
    def interface(self) -> str:
        name: str = self.params["interface"]
        return name

    def apply(self, check_mode: bool = False) -> list[tuple[str, str]]:
        """Apply; what was done as (verb, kind), after a preview that must have said the same."""
        with self.ns:
            predicted = backend.preview(self.params)
            outcome = backend.apply(self.params, check_mode)
        assert outcome.steps == predicted
        return [(step.verb, step.kind) for step in outcome.steps]

    def observe(self) -> Any:
        with self.ns:
            return backend.observe(self.interface)

    def wg(self, *argv: str, given: str = "") -> str:
        """Run wg(8) inside: a kernel device is visible only there."""
        with self.ns:
            return wg(*argv, given=given)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """What the boxes' devices are."""
    name: str = request.param
    return name


@pytest.fixture
def make_box(
    make_netns: Callable[[], Netns],
    interface_name: Callable[[], str],
    tmp_path: Path,
    transport: str,
) -> Callable[..., Box]:
    def make(number: int = 1) -> Box:
        path = str(tmp_path / f"box{number}" / "wg0.key")
        public_key = ensure_key(path, check_mode=False).public_key
        assert public_key is not None
        params = {
            "interface": interface_name(),
            "private_key_file": path,
            "listen_port": 51820,
            "mtu": 1420,
            "addresses": [f"100.64.0.{number}/32", f"fd65::{number}/128"],
            "peers": [],
            "transport": transport,
        }
        return Box(make_netns(), params, public_key)

    return make


@pytest.fixture
def box(make_box: Callable[..., Box]) -> Box:
    """A box with two peers that answer to nobody, applied."""
    made = make_box()
    for number in (2, 3):
        made.params["peers"].append(
            {
                "name": f"host{number}",
                "public_key": new_public_key(),
                "endpoint": f"192.0.2.{number}:51820",
                "allowed_ips": [f"100.64.0.{number}/32", f"fd65::{number}/128"],
                "persistent_keepalive": 25,
            }
        )
    made.apply()
    return made


def test_made_from_nothing_and_then_left_alone(make_box: Callable[..., Box]) -> None:
    box = make_box()
    box.params["peers"] = [{"name": "host2", "public_key": new_public_key(), "allowed_ips": ["10.0.0.0/24"]}]
    assert box.apply(check_mode=True)
    assert box.observe() is None
    first = box.apply()
    assert first == [("add", "device"), *[("add", "address")] * 2, ("add", "peer")]
    device = box.observe()
    assert (device.owned, device.up, device.mtu) == (True, True, 1420)
    assert device.settings.public_key == box.public_key
    assert box.apply() == []
    (link,) = box.ns.json("ip", "-j", "link", "show", box.interface)
    assert link["ifalias"] == MARK


def heard(one: Box, two: Box, address: str, seconds: float = 10) -> str:
    """Send a datagram from one to an address of two; the source that two sees."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with two.ns:
        server = socket.socket(family, socket.SOCK_DGRAM)
    with one.ns:
        client = socket.socket(family, socket.SOCK_DGRAM)
    with server, client:
        server.settimeout(seconds)
        server.bind((address, 4000))
        client.sendto(b"hello", (address, 4000))
        received, source = server.recvfrom(100)
        assert received == b"hello"
    return str(source[0])


def test_handshake_and_traffic_through_the_tunnel(make_box: Callable[..., Box], veth: Callable[..., None]) -> None:
    one, two = make_box(1), make_box(2)
    veth(one.ns, "192.0.2.1/24", two.ns, "192.0.2.2/24")
    for mine, other, number in ((one, two, 2), (two, one, 1)):
        peer = {
            "name": f"host{number}",
            "public_key": other.public_key,
            "endpoint": f"192.0.2.{number}:51820",
            "allowed_ips": [f"100.64.0.{number}/32", f"fd65::{number}/128"],
        }
        mine.params["peers"] = [peer]
        mine.apply()
        for network in peer["allowed_ips"]:
            mine.ns.run("ip", "route", "add", network, "dev", mine.interface)
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    assert heard(one, two, "fd65::2") == "fd65::1"
    (seen,) = one.observe().settings.peers.values()
    assert seen.latest_handshake > 0
    assert min(seen.rx_bytes, seen.tx_bytes) > 0
    assert one.apply() == two.apply() == []

    # Roaming: two learned where one is from its packets; the plan says elsewhere, and that is fine.
    two.params["peers"][0]["endpoint"] = "192.0.2.99:51820"
    with two.ns:
        outcome = backend.apply(two.params, check_mode=True)
    assert outcome.steps == []
    assert outcome.roamed == {"host1": "192.0.2.1:51820"}
    two.params["roaming"] = False
    assert two.apply() == [("change", "peer")]

    # The session of a peer that is not changed goes on while another comes.
    before = one.observe().settings.peers[two.public_key].latest_handshake
    one.params["peers"].append({"name": "new", "public_key": new_public_key()})
    assert one.apply() == [("add", "peer")]
    assert one.observe().settings.peers[two.public_key].latest_handshake == before


@pytest.mark.parametrize("keepalive", [0, 25])
def test_peers_follow_to_a_changed_port_at_once(
    make_box: Callable[..., Box], veth: Callable[..., None], keepalive: int
) -> None:
    """Nothing else makes them: no traffic, and no keepalive is due."""
    one, two = make_box(1), make_box(2)
    veth(one.ns, "192.0.2.1/24", two.ns, "192.0.2.2/24")
    knit(one, two, persistent_keepalive=keepalive)

    def seen() -> Any:
        return one.observe().settings.peers[two.public_key].endpoint

    two.wg("set", two.interface, "listen-port", "51999")
    heard(two, one, "100.64.0.1")
    assert seen().port == 51999
    assert two.apply() == [("change", "device")]
    wait_until(lambda: seen().port == 51820, "the peer to follow")
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    assert one.apply() == two.apply() == []


def test_drift_made_by_hand_is_repaired(box: Box) -> None:
    one, two = (peer["public_key"] for peer in box.params["peers"])
    name = box.interface
    box.wg("set", name, "peer", one, "remove")
    assert box.apply() == [("add", "peer")]
    box.wg("set", name, "peer", one, "allowed-ips", "10.9.0.0/16", "persistent-keepalive", "7")
    box.wg("set", name, "peer", two, "allowed-ips", "100.64.0.2/32")  # takes nothing back by itself
    assert box.apply() == [("change", "peer"), ("change", "peer")]
    box.wg("set", name, "peer", two, "endpoint", "192.0.2.77:1")
    assert box.apply() == [("change", "peer")]
    stranger = new_public_key()
    box.wg("set", name, "peer", stranger, "allowed-ips", "10.8.0.0/16")
    assert box.apply() == [("remove", "peer")]
    box.wg("set", name, "listen-port", "51999", "fwmark", "9")
    assert box.apply() == [("change", "device")]
    box.params["fwmark"] = 0
    assert box.apply() == [("change", "device")]
    box.wg("set", name, "private-key", "/dev/stdin", given=wg("genkey"))
    assert box.apply() == [("change", "device")]
    box.ns.run("ip", "address", "flush", "dev", name)
    box.ns.run("ip", "address", "add", "10.7.0.1/24", "dev", name)
    box.ns.run("ip", "link", "set", name, "mtu", "1300", "down")
    assert box.apply() == [
        ("change", "device"),
        *[("add", "address")] * 2,
        ("remove", "address"),
    ]
    assert box.apply() == []


def test_a_device_made_by_hand_is_taken_over_as_it_is(
    make_box: Callable[..., Box], tmp_path: Path, transport: str
) -> None:
    box, key = make_box(), wg("genkey")
    name, peer, preshared = box.interface, new_public_key(), wg("genpsk")
    by_hand = ["ip", "link", "add", name, "type", "wireguard"] if transport == "kernel" else ["wireguard-go", name]
    box.ns.run(*by_hand)
    box.wg("set", name, "private-key", "/dev/stdin", "listen-port", "51999", "fwmark", "9", given=key)
    box.wg("set", name, "peer", peer, "allowed-ips", "10.8.0.0/16,fd08::/64", "endpoint", "[2001:db8::1]:7")
    box.wg("set", name, "peer", peer, "persistent-keepalive", "11", "preshared-key", "/dev/stdin", given=preshared)
    box.wg("set", name, "peer", new_public_key())
    for command in ("link set {} mtu 1400 up", "address add 10.7.0.1/24 dev {}", "address add fd07::1/64 dev {}"):
        box.ns.run("ip", *command.format(name).split())
    with box.ns:
        box.params["private_key_file"] = path = str(tmp_path / "adopted" / "wg0.key")
        predicted = ensure_key(path, check_mode=True, adopt=name)
        assert predicted.public_key == public_key_of(key)
        assert not predicted.exists
        adopted = ensure_key(path, check_mode=False, adopt=name)
        assert (adopted.steps, adopted.public_key) == (predicted.steps, predicted.public_key)
        assert Path(path).read_text().strip() == key
        options = backend.gathered({**box.params, "peers": [{"name": "friend", "public_key": peer}]})
        assert options is not None
        assert preshared not in str(options)
        assert key not in str(options)
        for purge in (None, True):
            assert backend.apply({**options, "purge": purge}, check_mode=False).steps == []
        assert backend.gathered({**box.params, "interface": "nothere"}) is None
    assert (options["listen_port"], options["fwmark"], options["mtu"]) == (51999, 9, 1400)
    assert options["addresses"] == ["10.7.0.1/24", "fd07::1/64"]
    friend = next(entry for entry in options["peers"] if entry["name"] == "friend")
    assert friend == {
        "name": "friend",
        "public_key": peer,
        "endpoint": "[2001:db8::1]:7",
        "allowed_ips": ["10.8.0.0/16", "fd08::/64"],
        "persistent_keepalive": 11,
        "preshared": None,
    }


def test_wg_quick_takes_what_is_rendered(box: Box, tmp_path: Path) -> None:
    """wg-quick strip, and wg setconf behind it, make of the file the same peers as the module does."""
    before = box.observe()
    files = backend.rendered({**box.params, "peers": [{**p, "preshared": True} for p in box.params["peers"]]})
    config = tmp_path / f"{box.interface}.conf"
    config.write_text(files[f"/etc/wireguard/{box.interface}.conf"])
    config.chmod(0o600)
    stripped = box.ns.run("wg-quick", "strip", str(config)).stdout
    private = Path(box.params["private_key_file"]).read_text().strip()
    assert private not in stripped
    box.wg("setconf", box.interface, "/dev/stdin", given=stripped)
    # What PostUp does; this file's setconf has taken the private key away.
    box.wg("set", box.interface, "private-key", box.params["private_key_file"])
    assert box.observe() == before
    assert box.apply() == []


SECRET = "a secret of the whole fleet, from a vault"


def knit(one: Box, two: Box, **more: Any) -> None:
    """Make each the other's peer, over the underlay 192.0.2.0/24."""
    for mine, other, number in ((one, two, 2), (two, one, 1)):
        peer = {
            "name": f"host{number}",
            "public_key": other.public_key,
            "endpoint": f"192.0.2.{number}:51820",
            "allowed_ips": [f"100.64.0.{number}/32"],
            **more,
        }
        mine.params.update(peers=[peer], host=f"host{3 - number}")
        mine.apply()
        mine.ns.run("ip", "route", "replace", f"100.64.0.{number}/32", "dev", mine.interface)


def test_a_preshared_key_comes_and_goes_without_loss_if_both_sides_have_it(
    make_box: Callable[..., Box], veth: Callable[..., None]
) -> None:
    one, two = make_box(1), make_box(2)
    veth(one.ns, "192.0.2.1/24", two.ns, "192.0.2.2/24")
    knit(one, two)
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    began = one.observe().settings.peers[two.public_key].latest_handshake

    for secret in (SECRET, SECRET.upper()):
        for box in (one, two):  # while only one side has it, and then both: the session goes on
            box.params["preshared_secret"] = secret
            box.params["peers"][0]["preshared"] = True
            assert box.apply() == [("change", "peer")]
            assert heard(one, two, "100.64.0.2") == "100.64.0.1"
            assert box.apply() == []
    assert one.observe().settings.peers[two.public_key].latest_handshake == began
    assert one.wg("show", one.interface, "preshared-keys") != two.wg("show", two.interface, "preshared-keys")
    kept = {box.wg("show", box.interface, "preshared-keys").split()[1] for box in (one, two)}
    assert len(kept) == 1  # the keys' owners differ, the key is the same

    # A new handshake: it works, so the key is in use on both sides; and with another one it fails.
    one.wg("set", one.interface, "peer", two.public_key, "remove")
    assert one.apply() == [("add", "peer")]
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    one.wg("set", one.interface, "peer", two.public_key, "remove")
    one.params["preshared_secret"] = SECRET
    one.apply()
    with pytest.raises(TimeoutError):
        heard(one, two, "100.64.0.2", seconds=2)
    two.params["preshared_secret"] = SECRET
    assert two.apply() == [("change", "peer")]
    heard(one, two, "100.64.0.2", seconds=12)  # the handshake is tried again every 5 s

    for box in (one, two):
        del box.params["preshared_secret"]
        with box.ns, pytest.raises(EdgewireError, match="no preshared_secret is given"):
            backend.preview(box.params)
        with box.ns:
            verified = backend.apply(box.params, check_mode=True, secret_needed=False)
        assert (verified.steps, len(verified.unknown_preshared)) == ([], 1)
        box.params["peers"][0]["preshared"] = False
        assert box.apply() == [("change", "peer")]
        assert box.wg("show", box.interface, "preshared-keys").endswith("(none)")


def test_networks_that_swap_peers(box: Box) -> None:
    first, second = box.params["peers"]
    first["allowed_ips"], second["allowed_ips"] = second["allowed_ips"], first["allowed_ips"]
    assert box.apply() == [("change", "peer")] * 2
    assert box.apply() == []


def test_a_thousand_peers_and_five_thousand_networks(box: Box) -> None:
    crowd = [
        {
            "name": f"crowd{n}",
            "public_key": new_public_key() if n < 20 else _key(n),
            "allowed_ips": [f"10.{n // 250}.{n % 250}.0/24"],
        }
        for n in range(1000)
    ]
    big = {
        "name": "big",
        "public_key": new_public_key(),
        "allowed_ips": [f"172.16.{n // 250}.{n % 250}/32" for n in range(5000)],
    }
    box.params["peers"] = [*crowd, big]
    box.apply()
    assert box.apply() == []
    big["allowed_ips"] = big["allowed_ips"][1:]
    assert box.apply() == [("change", "peer")]
    assert box.apply() == []


def _key(number: int) -> str:
    """Any 32 bytes are a public key; making a thousand with wg(8) would take seconds."""
    return b64encode(number.to_bytes(4, "big") * 8).decode()


def test_a_changed_keepalive_keeps_the_allowed_ips(box: Box) -> None:
    """pyroute2 0.7.2's own ``set`` would erase them: see the kernel transport."""
    peer = box.params["peers"][0]
    before = box.observe().settings.peers[peer["public_key"]].allowed_ips
    assert len(before) == 2
    peer["persistent_keepalive"] = 7
    assert box.apply() == [("change", "peer")]
    known = box.observe().settings.peers[peer["public_key"]]
    assert (known.allowed_ips, known.persistent_keepalive) == (before, 7)
    peer["persistent_keepalive"] = 0
    assert box.apply() == [("change", "peer")]
    assert box.observe().settings.peers[peer["public_key"]].allowed_ips == before


def test_a_network_that_moves_leaves_everything_else(box: Box) -> None:
    first, second = box.params["peers"]
    moved = first["allowed_ips"].pop()
    second["allowed_ips"].append(moved)
    assert box.apply() == [("change", "peer")] * 2
    settings = box.observe().settings.peers
    assert settings[first["public_key"]].allowed_ips == frozenset(first["allowed_ips"])
    assert settings[second["public_key"]].allowed_ips == frozenset(second["allowed_ips"])
    assert settings[first["public_key"]].persistent_keepalive == 25
    assert box.apply() == []


@only_kernel
def test_the_kernels_own_tool_sees_the_same(box: Box) -> None:
    """Read by wg(8), not by the code that wrote it."""
    rows = [line.split("\t") for line in box.wg("show", box.interface, "dump").splitlines()]
    assert (rows[0][1], rows[0][2]) == (box.public_key, "51820")
    shown = {row[0]: (row[2], set(row[3].split(",")), row[7]) for row in rows[1:]}
    assert shown == {
        peer["public_key"]: (peer["endpoint"], set(peer["allowed_ips"]), "25") for peer in box.params["peers"]
    }


@only_kernel
def test_a_userspace_device_is_not_silently_replaced_by_a_kernel_one(box: Box) -> None:
    box.params["transport"] = "userspace"
    with box.ns, pytest.raises(EdgewireError, match="is a kernel WireGuard device and userspace"):
        backend.apply(box.params, check_mode=False)
    box.params["transport"] = "auto"
    assert box.apply() == []


def test_a_device_of_others_is_completed_not_purged_and_not_removed(box: Box) -> None:
    box.ns.run("ip", "link", "set", box.interface, "alias", "mine")
    stranger = new_public_key()
    box.wg("set", box.interface, "peer", stranger, "allowed-ips", "10.8.0.0/16")
    box.wg("set", box.interface, "peer", box.params["peers"][0]["public_key"], "remove")
    assert box.apply() == [("add", "peer")]
    with box.ns:
        outcome = backend.apply(box.params, check_mode=False)
        assert (outcome.steps, outcome.unknown_peers) == ([], [stranger])
        with pytest.raises(EdgewireError, match="not made by this collection"):
            backend.apply_absent(box.interface, force=False, check_mode=False)
    box.params["purge"] = True
    assert box.apply() == [("remove", "peer")]


@only_userspace
@pytest.mark.parametrize("kind", ["veth", "tun"])
def test_what_is_not_wireguard_is_left_alone(make_box: Callable[..., Box], kind: str) -> None:
    box = make_box()
    if kind == "tun":
        box.ns.run("ip", "tuntap", "add", "mode", "tun", "name", box.interface)
    else:
        box.ns.run("ip", "link", "add", box.interface, "type", "veth")
    with box.ns:
        for check_mode in (True, False):
            with pytest.raises(EdgewireError, match="not a WireGuard device"):
                backend.apply(box.params, check_mode)
            with pytest.raises(EdgewireError, match="not a WireGuard device"):
                backend.apply_absent(box.interface, force=True, check_mode=check_mode)
    box.ns.run("ip", "link", "show", box.interface)


def test_a_device_that_has_another_name_now_replaces_the_former_one(
    box: Box, interface_name: Callable[[], str]
) -> None:
    """The port and the addresses are the same, so the former one has to go first."""
    former = box.interface
    box.ns.run("ip", "link", "add", "hand0", "type", "veth", "peer", "name", "hand1")
    box.params = {**box.params, "interface": interface_name(), "sole": True}
    removed, *made = box.apply()
    assert removed == ("remove", "device")
    assert made == [("add", "device"), *[("add", "address")] * 2, *[("add", "peer")] * 2]
    names = [link["ifname"] for link in box.ns.json("ip", "-j", "link", "show")]
    assert former not in names
    assert {"hand0", box.interface} <= set(names)
    assert box.apply() == []
    now, box.params["interface"] = box.interface, former
    box.params["peers"].append({"name": "me", "public_key": box.public_key})
    with box.ns, pytest.raises(EdgewireError, match="two hosts share a private key"):
        backend.apply(box.params, check_mode=False)
    box.ns.run("ip", "link", "show", now)  # what cannot be done takes nothing away
    with box.ns:
        gone = backend.apply_absent(former, force=False, check_mode=False, sole=True)
    assert [step.kind for step in gone.steps] == ["device"]


def test_peers_that_have_left_stay_until_the_roll_out_is_over(box: Box) -> None:
    left = box.params["peers"].pop()
    box.params["keep_unknown_peers"] = True
    with box.ns:
        outcome = backend.apply(box.params, check_mode=False)
    assert outcome.steps == []
    assert outcome.unknown_peers == [left["public_key"]]
    box.wg("set", box.interface, "peer", left["public_key"], "allowed-ips", "100.64.0.9/32")
    box.ns.run("ip", "address", "add", "10.7.0.1/24", "dev", box.interface)
    assert box.apply() == [("remove", "address")]
    box.params["keep_unknown_peers"] = False
    assert box.apply() == [("remove", "peer")]


def test_absent_takes_device_daemon_and_socket(box: Box) -> None:
    with box.ns:
        predicted = backend.apply_absent(box.interface, force=False, check_mode=True).steps
        assert backend.observe(box.interface) is not None
        assert backend.apply_absent(box.interface, False, check_mode=False).steps == predicted
        assert backend.observe(box.interface) is None
        assert backend.apply_absent(box.interface, force=False, check_mode=False).steps == []
    path = socket_path(box.interface)
    assert not path.exists()
    assert not path.parent.exists() or any(path.parent.iterdir())  # other devices' sockets keep it


@only_userspace
def test_a_killed_daemon_leaves_a_dead_socket_that_is_no_obstacle(box: Box) -> None:
    found = subprocess.run(
        ["pgrep", "-f", f"wireguard-go -f {box.interface}"],
        capture_output=True,
        text=True,
        check=True,
    )
    os.kill(int(found.stdout), 9)
    show = ("ip", "link", "show", box.interface)
    wait_until(lambda: box.ns.run(*show, check=False).returncode, "the device to go")
    assert socket_path(box.interface).exists()
    with box.ns:
        (step,) = backend.apply_absent(box.interface, force=False, check_mode=True).steps
    assert (step.verb, step.kind) == ("remove", "socket")
    assert ("add", "device") in box.apply()
    assert box.apply() == []


@only_userspace
def test_a_device_of_the_same_name_in_another_namespace(box: Box, make_netns: Callable[[], Netns]) -> None:
    other = Box(make_netns(), box.params, box.public_key)
    with other.ns, pytest.raises(EdgewireError, match="another network namespace"):
        backend.apply(other.params, check_mode=False)
    other.ns.run("ip", "tuntap", "add", "mode", "tun", "name", box.interface)
    with other.ns, pytest.raises(EdgewireError, match="another network namespace"):
        backend.observe(box.interface)
    assert box.apply() == []


def test_a_listen_port_that_is_taken(make_box: Callable[..., Box]) -> None:
    one, two = make_box(1), make_box(2)
    one.apply()
    two.ns = one.ns
    two.params["addresses"] = []
    # The kernel binds the port when the device comes up, and tells no more than that it could not.
    with two.ns, pytest.raises(EdgewireError, match=r"UDP port 51820 is in use|listen port taken"):
        backend.apply(two.params, check_mode=False)
    two.params["listen_port"] = 51821
    assert two.apply() == [("change", "device")]  # completes what the failed run began
    assert two.apply() == []


def test_what_is_missing_is_shown_in_check_mode_and_refused_otherwise(
    make_box: Callable[..., Box],
) -> None:
    box = make_box()
    box.params["peers"] = [{"name": "host2", "public_key": None, "allowed_ips": ["10.0.0.0/24"]}]
    with box.ns:
        assert [step.name for step in backend.preview(box.params)][-1] == "host2"
        with pytest.raises(EdgewireError, match="no public key is known of peers host2"):
            backend.apply(box.params, check_mode=False)
        box.params["private_key_file"] = "/nonexistent/wg0.key"
        assert backend.preview(box.params)
        with pytest.raises(EdgewireError, match="wireguard_key makes it"):
            backend.apply(box.params, check_mode=False)
        assert backend.observe(box.interface) is None


def _ansible(ns: Netns, module: str, arguments: dict[str, Any], *flags: str) -> tuple[str, Any]:
    """Run a module as a user would, loudly; everything that was printed, and the result."""
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
    }
    done = ns.run(
        str(ROOT / ".venv/bin/ansible"),
        "localhost",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        "ansible_python_interpreter=/usr/bin/python3",
        "-m",
        f"edgewire.fleet.{module}",
        "-a",
        json.dumps(arguments),
        "-vvv",
        "--diff",
        *flags,
        check=False,
        env=env,
    )
    output = done.stdout + done.stderr
    found = re.search(r"localhost \| (\w+!?) => (\{.*?^\})", output, re.DOTALL | re.MULTILINE)
    assert found, output
    return output, json.loads(found.group(2))


@only_userspace
def test_modules_as_a_user_runs_them(make_box: Callable[..., Box], tmp_path: Path, transport: str) -> None:
    box = make_box()
    path = tmp_path / "modules" / "wg0.key"
    box.params["private_key_file"] = str(path)
    box.params["peers"] = [{"name": "host2", "public_key": new_public_key(), "allowed_ips": ["10.0.0.0/24"]}]
    outputs: list[str] = []

    def run(module: str, arguments: dict[str, Any], *flags: str) -> Any:
        output, result = _ansible(box.ns, module, arguments, *flags)
        outputs.append(output)
        return result

    key = run("wireguard_key", {"path": str(path)}, "--check")
    assert (key["changed"], key["exists"], key["public_key"]) == (True, False, None)
    key = run("wireguard_key", {"path": str(path)})
    assert (key["changed"], key["exists"]) == (True, True)
    secret = path.read_text().strip()
    assert key["public_key"] == public_key_of(secret)

    predicted = run("wireguard", box.params, "--check")
    made = run("wireguard", box.params)
    assert made["changed"] is True
    assert made["steps"] == predicted["steps"]
    assert made["transport"] == transport
    assert made["peers"][0]["name"] == "host2"
    assert run("wireguard", box.params)["changed"] is False

    shared = "the fleet's secret, which is nobody's business"
    box.params["peers"][0]["preshared"] = True
    assert "no preshared_secret is given" in run("wireguard", box.params)["msg"]
    box.params |= {"host": "host1", "preshared_secret": shared}
    predicted = run("wireguard", box.params, "--check")
    made = run("wireguard", box.params)
    assert made["steps"] == predicted["steps"]
    assert [(s["before"], s["after"]) for s in made["steps"]] == [
        ({"preshared_key": "unset"}, {"preshared_key": "set"})
    ]
    assert run("wireguard", box.params)["changed"] is False
    pair = derive(shared, "host1", "host2")
    assert box.wg("show", box.interface, "preshared-keys").split()[1] == pair.reveal_base64()
    plan = {
        "host": "host1",
        "wireguard": {k: box.params[k] for k in box.params if k not in ("host", "preshared_secret")},
    }
    plan["routes"] = {"table": 7700, "protocol": 158, "rules": [], "routes": []}
    told = run("wireguard", {**box.params, "state": "rendered"})
    assert "PublicKey = " in told["rendered"][f"/etc/wireguard/{box.interface}.conf"]
    found = run("wireguard", {**box.params, "state": "gathered"})["gathered"]
    assert found["peers"][0]["name"] == "host2"
    assert run("wireguard", found)["changed"] is False
    for given in ({}, {"preshared_secret": shared}, {"preshared_secret": shared.upper()}):
        verdict = run("fleet_verify", {"plan": plan, **given})
        drifts = [d for d in verdict["drifts"] if d["layer"] == "wireguard"]
        found = [drift["found"] for drift in drifts]
        if not given:
            assert found == ["unknown: no preshared_secret was given (peers host2)"]
        else:
            assert found == ([] if given["preshared_secret"] == shared else [{"preshared_key": "set"}])

    path.write_text("c2VjcmV0\n")
    damaged = run("wireguard_key", {"path": str(path)})
    assert "holds no WireGuard private key" in damaged["msg"]
    assert path.read_text() == "c2VjcmV0\n"
    assert run("wireguard", {"interface": box.interface, "state": "absent"})["changed"] is True

    said = "".join(outputs)
    assert len(said) > 1000
    keys = (pair, derive(shared.upper(), "host1", "host2"))
    hidden = [shared, shared.upper(), *(k.reveal_hex() for k in keys), *(k.reveal_base64() for k in keys)]
    for forbidden in (secret, b64decode(secret).hex(), "c2VjcmV0", *hidden):
        assert forbidden not in said
