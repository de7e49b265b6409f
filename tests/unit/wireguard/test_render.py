# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a device, and a device as options: parse after render is identity, gathered options change nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend, render
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    DesiredDevice,
    ObservedDevice,
    desired_from_params,
)
from hypothesis import given
from hypothesis import strategies as st

from .test_planner import OWN_KEY, FakeDevice, desired_devices, observed_devices

Section = tuple[str, list[tuple[str, str]], list[str]]


def sections(text: str) -> list[Section]:
    """An INI file with repeated sections: (name, [(key, value)], comments)."""
    found: list[Section] = []
    for line in text.splitlines():
        if line.startswith("["):
            found.append((line.strip("[]"), [], []))
        elif line.startswith("#"):
            found[-1][2].append(line[2:])
        elif line:
            key, _, value = line.partition(" = ")
            found[-1][1].append((key, value))
    return found


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _list(text: str | None) -> list[str]:
    return text.split(", ") if text else []


def _peer(section: Section) -> dict[str, Any]:
    keys = dict(section[1])
    return {
        "name": section[2][0],
        "public_key": keys["PublicKey"],
        "endpoint": keys.get("Endpoint"),
        "allowed_ips": _list(keys.get("AllowedIPs")),
        "persistent_keepalive": int(keys.get("PersistentKeepalive", 0)),
        "preshared": True if len(section[2]) > 1 else None,
    }


def parse_wg_quick(path: str, text: str) -> dict[str, Any]:
    """Options from a file for wg-quick(8)."""
    (kind, lines, _), *peers = sections(text)
    assert kind == "Interface"
    keys = dict(lines)
    assert keys.pop("Table") == "off"
    command = shlex.split(keys.pop("PostUp"))
    assert command[:4] == ["wg", "set", "%i", "private-key"]
    assert set(keys) <= {"Address", "ListenPort", "FwMark", "MTU"}
    assert all(name == "Peer" for name, _, _ in peers)
    return {
        "interface": path.rpartition("/")[2].removesuffix(".conf"),
        "private_key_file": command[4],
        "listen_port": _number(keys.get("ListenPort")),
        "fwmark": _number(keys.get("FwMark")),
        "mtu": _number(keys.get("MTU")),
        "addresses": _list(keys.get("Address")),
        "peers": [_peer(section) for section in peers],
    }


def parse_networkd(netdev: str, network: str) -> dict[str, Any]:
    """Options from the two files for systemd-networkd."""
    device, wireguard, *peers = sections(netdev)
    match, addresses = sections(network)
    settings = dict(wireguard[1])
    assert (device[0], wireguard[0], match[0], addresses[0]) == ("NetDev", "WireGuard", "Match", "Network")
    assert dict(device[1])["Kind"] == "wireguard"
    assert dict(match[1]) == {"Name": dict(device[1])["Name"]}
    assert all(name == "WireGuardPeer" for name, _, _ in peers)
    return {
        "interface": dict(device[1])["Name"],
        "private_key_file": settings["PrivateKeyFile"],
        "listen_port": _number(settings.get("ListenPort")),
        "fwmark": _number(settings.get("FirewallMark")),
        "mtu": _number(dict(device[1]).get("MTUBytes")),
        "addresses": [value for key, value in addresses[1] if key == "Address"],
        "peers": [_peer(section) for section in peers],
    }


def _told(desired: DesiredDevice) -> DesiredDevice:
    """What of a device is in a file: no mark is like mark 0 there, and preshared keys are only mentioned."""
    peers = tuple(replace(p, preshared=p.preshared or None, preshared_key=None) for p in desired.peers)
    return replace(desired, peers=peers, fwmark=desired.fwmark or None, purge=None, roaming=True, transport="auto")


@given(desired_devices(), st.sampled_from(["/etc/edgewire/wireguard/wg0.key", "/a b/$x'y.key"]))
def test_parse_of_render_is_identity(desired: DesiredDevice, key_file: str) -> None:
    desired = replace(desired, private_key_file=key_file)
    texts = render.rendered(desired)
    quick, netdev, network = files = list(texts)
    networkd = "/etc/systemd/network/50-wg0"
    assert files == ["/etc/wireguard/wg0.conf", f"{networkd}.netdev", f"{networkd}.network"]
    assert desired_from_params(parse_wg_quick(quick, texts[quick])) == _told(desired)
    assert desired_from_params(parse_networkd(texts[netdev], texts[network])) == _told(desired)
    for peer in desired.peers:
        if peer.preshared_key is not None:
            assert peer.preshared_key.reveal_base64() not in "".join(texts.values())


def test_names_that_are_no_line_of_their_own() -> None:
    peer = {"name": "a\nPostUp = rm", "public_key": OWN_KEY}
    desired = desired_from_params({"interface": "wg0", "private_key_file": "/k", "peers": [peer]})
    for text in render.rendered(desired).values():
        assert "\nPostUp = rm" not in text


def test_a_peer_without_a_key_is_in_no_file() -> None:
    peer = {"name": "worker1", "public_key": None}
    desired = desired_from_params({"interface": "wg0", "private_key_file": "/k", "peers": [peer]})
    with pytest.raises(EdgewireError, match="no public key is known of peers worker1"):
        render.rendered(desired)


@given(observed_devices())
def test_gathered_options_change_nothing(observed: ObservedDevice | None) -> None:
    if observed is None:
        return
    observed = replace(observed, up=True, settings=replace(observed.settings, public_key=OWN_KEY))
    options = render.gathered(observed, "/nowhere", {next(iter(observed.settings.peers), ""): "host1"})
    machine = FakeDevice(observed)
    assert backend.converge(machine, desired_from_params(options), OWN_KEY, check_mode=False).steps == []
    assert machine.operations == []
    for peer in observed.settings.peers.values():
        if peer.preshared_key is not None:
            assert peer.preshared_key.reveal_base64() not in str(options)
