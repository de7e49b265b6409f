# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A device as configuration files, and a running device as the module's options. Pure, and without secrets.

The files name where the private key lies and never hold it; a preshared key is a comment. Sources: wg-quick(8),
systemd.netdev(5), systemd.network(5).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from ipaddress import ip_interface, ip_network
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    DesiredDevice,
    DesiredPeer,
    ObservedDevice,
)

_Lines = Iterable[tuple[str, Any]]


def rendered(desired: DesiredDevice) -> dict[str, str]:
    """Path -> content of the files that make this device: for wg-quick(8), and for systemd-networkd.

    Raises EdgewireError if a peer's public key is not known.
    """
    missing = [peer.name for peer in desired.peers if peer.public_key is None]
    if missing:
        raise EdgewireError(f"no public key is known of peers {', '.join(missing)}: no file can hold them")
    network = f"/etc/systemd/network/50-{desired.interface}"
    return {
        f"/etc/wireguard/{desired.interface}.conf": _wg_quick(desired),
        f"{network}.netdev": _netdev(desired),
        f"{network}.network": _network(desired),
    }


def gathered(observed: ObservedDevice, private_key_file: str, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The device as options that would change nothing on it, provided that it is up and the file has its key.

    ``names`` says what peers are called, by public key; one that it lacks is called by its key. Where a peer has a
    preshared key, ``preshared`` is None: that leaves it as it is.
    """
    settings, called = observed.settings, names or {}
    return {
        "interface": observed.interface,
        "private_key_file": private_key_file,
        "listen_port": settings.listen_port or None,
        "fwmark": settings.fwmark,
        "mtu": observed.mtu,
        "addresses": sorted(observed.addresses, key=lambda text: (":" in text, ip_interface(text))),
        "peers": [
            {
                "name": called.get(peer.public_key, peer.public_key),
                "public_key": peer.public_key,
                "endpoint": str(peer.endpoint) if peer.endpoint else None,
                "allowed_ips": _networks(peer.allowed_ips),
                "persistent_keepalive": peer.persistent_keepalive,
                "preshared": None if peer.preshared_key else False,
            }
            for peer in settings.peers.values()
        ],
        "transport": observed.transport,
    }


def _networks(networks: Iterable[str]) -> list[str]:
    return sorted(networks, key=lambda text: (":" in text, ip_network(text)))


def _section(name: str, lines: _Lines, comments: Iterable[str] = ()) -> str:
    """An INI section; a value that is None is left out, an empty one, too."""
    shown = [f"[{name}]", *(f"# {comment}" for comment in comments)]
    shown += [f"{key} = {value}" for key, value in lines if value not in (None, "")]
    return "\n".join(shown) + "\n"


def _peer_comments(peer: DesiredPeer) -> Iterable[str]:
    yield "".join(char if char.isprintable() else "?" for char in peer.name)
    if peer.preshared:
        yield "has a preshared key, derived from the fleet's secret, which is not shown"


def _addresses(desired: DesiredDevice) -> list[str]:
    return sorted(desired.addresses, key=lambda text: (":" in text, ip_interface(text)))


def _peer_lines(peer: DesiredPeer) -> _Lines:
    yield "PublicKey", peer.public_key
    yield "AllowedIPs", ", ".join(_networks(peer.allowed_ips))
    yield "Endpoint", peer.endpoint
    yield "PersistentKeepalive", peer.persistent_keepalive or None


def _wg_quick(desired: DesiredDevice) -> str:
    interface: _Lines = (
        ("Address", ", ".join(_addresses(desired))),
        ("ListenPort", desired.listen_port),
        ("FwMark", desired.fwmark or None),
        ("MTU", desired.mtu),
        ("Table", "off"),  # routes are the routes module's
        ("PostUp", f"wg set %i private-key {shlex.quote(desired.private_key_file)}"),
    )
    peers = [_section("Peer", _peer_lines(peer), _peer_comments(peer)) for peer in desired.peers]
    return "\n".join([_section("Interface", interface), *peers])


def _netdev(desired: DesiredDevice) -> str:
    device: _Lines = (("Name", desired.interface), ("Kind", "wireguard"), ("MTUBytes", desired.mtu))
    settings: _Lines = (
        ("PrivateKeyFile", desired.private_key_file),
        ("ListenPort", desired.listen_port),
        ("FirewallMark", desired.fwmark or None),
        ("RouteTable", "off"),
    )
    readable = "systemd-networkd runs as systemd-network, which must be able to read the key file"
    peers = [_section("WireGuardPeer", _peer_lines(peer), _peer_comments(peer)) for peer in desired.peers]
    return "\n".join([_section("NetDev", device), _section("WireGuard", settings, [readable]), *peers])


def _network(desired: DesiredDevice) -> str:
    addresses: _Lines = [("Address", address) for address in _addresses(desired)]
    return "\n".join([_section("Match", [("Name", desired.interface)]), _section("Network", addresses)])
