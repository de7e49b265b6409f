# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""WireGuard's model: what a device should be, and what it is. Frozen, normalised, without private keys.

Preshared keys are in it, as objects that never show what they hold.

Addresses and allowed IPs are kept as the kernel prints them, so that equal things compare equal.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Literal

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import (
    SHORTEST_SECRET,
    PresharedKey,
    PrivateKey,
    derive,
    from_base64,
)

# Interface alias (IFLA_IFALIAS) of a device that this collection made. It lives in the kernel with
# the device and dies with it: no file can claim a device that somebody else has made since.
MARK = "edgewire.fleet"

Transport = Literal["kernel", "userspace"]
TransportChoice = Literal["auto", "kernel", "userspace"]

_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,14}")  # IFNAMSIZ - 1, and safe in a path
_KEY_BYTES = 32
_MINIMUM_MTU_IPV6 = 1280  # bytes, RFC 8200 section 5
_MINIMUM_MTU_IPV4 = 68  # bytes, RFC 791


@dataclass(frozen=True)
class Endpoint:
    """Where a peer is reached on the underlay: an IP address and a UDP port."""

    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``; ValueError if it is neither."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address in an endpoint needs square brackets")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("an endpoint ends in :port, 1 to 65535")
        return cls(str(ip_address(host)), int(port))


@dataclass(frozen=True)
class DesiredPeer:
    """A peer as the plan wants it. ``public_key`` is None only where it has not been made yet.

    ``preshared``: whether there is to be a preshared key; None leaves what there is. Where it is true,
    ``preshared_key`` is that key, None only where the secret is not known.
    """

    name: str
    public_key: str | None
    endpoint: Endpoint | None
    allowed_ips: frozenset[str]
    persistent_keepalive: int  # seconds, 0 = off
    preshared: bool | None = None
    preshared_key: PresharedKey | None = None


@dataclass(frozen=True)
class DesiredDevice:
    """A device as the plan wants it. A setting that is None is left as it is."""

    interface: str
    private_key_file: str
    listen_port: int | None
    fwmark: int | None
    mtu: int | None  # bytes
    addresses: frozenset[str]
    peers: tuple[DesiredPeer, ...]
    transport: TransportChoice = "auto"
    purge: bool | None = None  # None: purge only a device that carries our mark
    keep_unknown_peers: bool = False  # whatever is purged besides
    roaming: bool = True
    private_key: PrivateKey | None = None  # in place of what is in the file


@dataclass(frozen=True)
class ObservedPeer:
    """A peer as the kernel, or wireguard-go, has it."""

    public_key: str
    endpoint: Endpoint | None
    allowed_ips: frozenset[str]
    persistent_keepalive: int  # seconds, 0 = off
    latest_handshake: int = 0  # seconds since 1970, 0 = never
    rx_bytes: int = 0
    tx_bytes: int = 0
    preshared_key: PresharedKey | None = None


@dataclass(frozen=True)
class ObservedSettings:
    """What the WireGuard protocol side of a device holds; the private key is not among it."""

    public_key: str | None  # None: no private key is set
    listen_port: int
    fwmark: int
    peers: Mapping[str, ObservedPeer]  # by public key


@dataclass(frozen=True)
class ObservedDevice:
    """A WireGuard device as it is: its link, its addresses, its protocol settings."""

    interface: str
    transport: Transport
    owned: bool
    mtu: int  # bytes
    up: bool
    addresses: frozenset[str]
    settings: ObservedSettings


def valid_key(text: str) -> bool:
    """Whether the text is 32 bytes in canonical base64, the form of every WireGuard key."""
    try:
        return len(text) == 44 and len(b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def check_interface(name: str) -> str:
    """The name, if a network interface can be called that; EdgewireError otherwise."""
    if not _INTERFACE.fullmatch(name):
        raise EdgewireError(f"interface: {name!r} is no interface name (15 characters at most)")
    return name


def desired_from_params(params: Mapping[str, Any]) -> DesiredDevice:
    """The desired device from module parameters (the plan's ``wireguard`` object).

    Preshared keys are derived from ``preshared_secret``; a box that restores itself has none and brings its own keys,
    ``preshared_keys`` (peer name to base64).

    Raises EdgewireError with everything that is wrong, one line each.
    """
    wrong: list[str] = []
    try:
        check_interface(params["interface"])
    except EdgewireError as error:
        wrong.append(str(error))
    addresses = _each(params.get("addresses") or (), ip_interface, "addresses", wrong)
    secret, host = params.get("preshared_secret"), params.get("host")
    _check_secret(secret, host, wrong)
    kept = params.get("preshared_keys") or {}
    peers = tuple(_peer(entry, secret, host, kept, wrong) for entry in params.get("peers") or ())
    _check_ports(params, wrong)
    _check_mtu(params.get("mtu"), addresses, wrong)
    _check_unique(peers, wrong)
    if wrong:
        raise EdgewireError("wireguard: " + "; ".join(wrong))
    return DesiredDevice(
        interface=params["interface"],
        private_key_file=params["private_key_file"],
        listen_port=params.get("listen_port"),
        fwmark=params.get("fwmark"),
        mtu=params.get("mtu"),
        addresses=addresses,
        peers=peers,
        transport=params.get("transport") or "auto",
        purge=params.get("purge"),
        keep_unknown_peers=bool(params.get("keep_unknown_peers")),
        roaming=params.get("roaming", True) is not False,
    )


def desired_from_observed(observed: ObservedDevice, private_key: PrivateKey | None) -> DesiredDevice:
    """What makes a device what it was: exactly this, endpoints and strangers' peers included."""
    settings = observed.settings
    return DesiredDevice(
        interface=observed.interface,
        private_key_file="",
        listen_port=settings.listen_port,
        fwmark=settings.fwmark,
        mtu=observed.mtu,
        addresses=observed.addresses,
        peers=tuple(
            DesiredPeer(
                name=peer.public_key,
                public_key=peer.public_key,
                endpoint=peer.endpoint,
                allowed_ips=peer.allowed_ips,
                persistent_keepalive=peer.persistent_keepalive,
                preshared=bool(peer.preshared_key),
                preshared_key=peer.preshared_key,
            )
            for peer in settings.peers.values()
        ),
        transport=observed.transport,
        purge=True,
        roaming=False,
        private_key=private_key,
    )


def _each(values: Iterable[str], kind: Any, where: str, wrong: list[str]) -> frozenset[str]:
    found = set()
    for value in values:
        try:
            found.add(str(kind(value)))
        except ValueError as error:
            wrong.append(f"{where}: {error}")
    return frozenset(found)


def _network(value: str) -> Any:
    return ip_network(value, strict=False)  # as WireGuard does: host bits are masked


def _check_secret(secret: str | None, host: str | None, wrong: list[str]) -> None:
    if secret is not None and len(secret) < SHORTEST_SECRET:
        wrong.append(f"preshared_secret: shorter than {SHORTEST_SECRET} characters")
    if secret is not None and not host:
        wrong.append("host: needed with preshared_secret, each pair's key is derived from both names")


def _peer(
    entry: Mapping[str, Any], secret: str | None, host: str | None, kept: Mapping[str, str], wrong: list[str]
) -> DesiredPeer:
    name, key, endpoint = entry["name"], entry.get("public_key"), None
    if key is not None and not valid_key(key):
        wrong.append(f"peer {name}: public_key is not 32 bytes in base64")
    if entry.get("endpoint"):
        try:
            endpoint = Endpoint.parse(entry["endpoint"])
        except ValueError as error:
            wrong.append(f"peer {name}: endpoint {entry['endpoint']!r}: {error}")
    keepalive = entry.get("persistent_keepalive") or 0
    if not 0 <= keepalive < 65536:
        wrong.append(f"peer {name}: persistent_keepalive {keepalive} is not 0 to 65535 s")
    allowed = _each(entry.get("allowed_ips") or (), _network, f"peer {name}: allowed_ips", wrong)
    preshared, preshared_key = entry.get("preshared"), None
    if preshared and secret is not None and host:
        preshared_key = derive(secret, host, name)
    elif preshared and name in kept:
        try:
            preshared_key = from_base64(kept[name])
        except ValueError as error:
            wrong.append(f"peer {name}: {error}")
    return DesiredPeer(name, key, endpoint, allowed, keepalive, preshared, preshared_key)


def _check_ports(params: Mapping[str, Any], wrong: list[str]) -> None:
    port, mark = params.get("listen_port"), params.get("fwmark")
    if port is not None and not 0 < port < 65536:
        wrong.append(f"listen_port: {port} is not 1 to 65535")
    if mark is not None and not 0 <= mark < 2**32:
        wrong.append(f"fwmark: {mark} is not a 32-bit number")


def _check_mtu(mtu: int | None, addresses: Iterable[str], wrong: list[str]) -> None:
    if mtu is None:
        return
    six = any(":" in address for address in addresses)
    least = _MINIMUM_MTU_IPV6 if six else _MINIMUM_MTU_IPV4
    if not least <= mtu <= 65535:
        wrong.append(f"mtu: {mtu} is not {least} to 65535" + (" (IPv6 addresses)" if six else ""))


def _check_unique(peers: Iterable[DesiredPeer], wrong: list[str]) -> None:
    names: set[str] = set()
    keys: dict[str, str] = {}
    owners: dict[str, str] = {}
    for peer in peers:
        if peer.name in names:
            wrong.append(f"peer {peer.name}: the name is there twice")
        names.add(peer.name)
        if peer.public_key is not None:
            if peer.public_key in keys:
                wrong.append(f"peers {keys[peer.public_key]} and {peer.name}: same public_key")
            keys[peer.public_key] = peer.name
        for network in sorted(peer.allowed_ips):
            if network in owners:
                wrong.append(f"peers {owners[network]} and {peer.name}: both allow {network}")
            owners[network] = peer.name
