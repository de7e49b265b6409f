# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transport to the kernel's WireGuard: generic netlink, with pyroute2's messages.

Messages are built here instead of by pyroute2's ``WireGuard.set()``: in 0.7.2 that sends, under the
name of UPDATE_ONLY, the flag REPLACE_ALLOWEDIPS with every peer (its constants are bit numbers), so
a changed keepalive erases the peer's allowed IPs and a list cannot be sent in parts. Commands and
flags are those of include/uapi/linux/wireguard.h.

Tested: encoding and decoding with both pyroute2 versions' codecs against a fake of the kernel
(tests/unit/wireguard), and everything on a kernel's own WireGuard by ``make test-kernel``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    Endpoint,
    ObservedPeer,
    ObservedSettings,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import (
    RemovePeer,
    SetPeer,
    TrimPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import from_base64

FAMILY = "wireguard"
VERSION = 1
GET_DEVICE = 0
SET_DEVICE = 1
PEER_REMOVE_ME = 1
PEER_REPLACE_ALLOWEDIPS = 2
PEER_UPDATE_ONLY = 4

_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_*
_PER_MESSAGE = 1000  # allowed IPs; an attribute holds 64 KiB and an IPv6 one takes 40 bytes
_NO_KEY = b"A" * 43 + b"="  # 32 zero bytes: no private key is set


class GenericSocket(Protocol):
    """What this transport uses of pyroute2's GenericNetlinkSocket, bound to WireGuard's family."""

    prid: int

    def nlm_request(self, msg: Any, msg_type: int, msg_flags: int) -> Iterable[Any]:
        """Send a request and give the replies; raises NetlinkError on a refusal."""

    def close(self) -> None:
        """Close the socket."""


def open_socket() -> GenericSocket:
    """A socket bound to WireGuard's netlink family; EdgewireError if the kernel has none."""
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic import GenericNetlinkSocket
    from pyroute2.netlink.generic.wireguard import wgmsg

    opened: Any = GenericNetlinkSocket()
    try:
        opened.bind(FAMILY, wgmsg)
    except (NetlinkError, OSError):
        opened.close()
        raise EdgewireError(
            "this kernel has no WireGuard (generic netlink family): modprobe wireguard, or transport: userspace"
        ) from None
    found: GenericSocket = opened
    return found


class KernelTransport:
    """One kernel device. Raises EdgewireError on refusals."""

    def __init__(self, interface: str, opened: GenericSocket | None = None) -> None:
        self._interface = interface
        self._socket = opened if opened is not None else open_socket()

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    def observe(self) -> ObservedSettings:
        """The device's settings and peers; a peer may be spread over several messages."""
        device: dict[str, Any] = {}
        peers: dict[str, ObservedPeer] = {}
        for message in self._request(GET_DEVICE, (), _DUMP, "reading the device"):
            for name in ("PUBLIC_KEY", "LISTEN_PORT", "FWMARK"):
                value = message.get_attr(f"WGDEVICE_A_{name}")
                if value is not None:
                    device.setdefault(name, value)
            for raw in message.get_attr("WGDEVICE_A_PEERS") or ():
                peer = _peer(raw)
                known = peers.get(peer.public_key)
                peers[peer.public_key] = _joined(known, peer) if known else peer
        public = device.get("PUBLIC_KEY")
        return ObservedSettings(
            public_key=_text(public) if public not in (None, _NO_KEY) else None,
            listen_port=device.get("LISTEN_PORT", 0),
            fwmark=device.get("FWMARK", 0),
            peers=peers,
        )

    def configure(self, private_key: str | None, listen_port: int | None, fwmark: int | None) -> None:
        """Set what is not None."""
        attributes: list[Any] = []
        if private_key is not None:
            attributes.append(["WGDEVICE_A_PRIVATE_KEY", private_key])
        if listen_port is not None:
            attributes.append(["WGDEVICE_A_LISTEN_PORT", listen_port])
        if fwmark is not None:
            attributes.append(["WGDEVICE_A_FWMARK", fwmark])
        self._set(attributes, "configuring the device")

    def set_peer(self, operation: SetPeer) -> None:
        """Make or change a peer; more allowed IPs than a message holds follow in further ones."""
        attributes: list[Any] = []
        if operation.preshared_key is not None:
            attributes.append(["WGPEER_A_PRESHARED_KEY", operation.preshared_key.reveal_base64()])
        if operation.endpoint is not None:
            attributes.append(["WGPEER_A_ENDPOINT", _endpoint(operation.endpoint)])
        if operation.persistent_keepalive is not None:
            name = "WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"
            attributes.append([name, operation.persistent_keepalive])
        flags = 0 if operation.new else PEER_UPDATE_ONLY
        self._set_peer(operation.public_key, flags, attributes, operation.allowed_ips)

    def trim_peer(self, operation: TrimPeer) -> None:
        """Replace a peer's allowed IPs."""
        flags = PEER_UPDATE_ONLY | PEER_REPLACE_ALLOWEDIPS
        self._set_peer(operation.public_key, flags, [], operation.allowed_ips)

    def remove_peer(self, operation: RemovePeer) -> None:
        """Remove a peer."""
        self._set_peer(operation.public_key, PEER_REMOVE_ME, [], ())

    def _set_peer(self, key: str, flags: int, attributes: list[Any], allowed_ips: tuple[str, ...]) -> None:
        chunks = list(_chunks(allowed_ips)) or [()]
        for number, chunk in enumerate(chunks):
            first = number == 0
            peer = [
                ["WGPEER_A_PUBLIC_KEY", key],
                ["WGPEER_A_FLAGS", flags if first else PEER_UPDATE_ONLY],
                *(attributes if first else []),
            ]
            if chunk:
                peer.append(["WGPEER_A_ALLOWEDIPS", [_allowed_ip(network) for network in chunk]])
            self._set([["WGDEVICE_A_PEERS", [{"attrs": peer}]]], f"setting peer {key}")

    def _set(self, attributes: list[Any], doing: str) -> None:
        self._request(SET_DEVICE, attributes, _ACK, doing)

    def _request(self, command: int, attributes: Iterable[Any], flags: int, doing: str) -> tuple[Any, ...]:
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.generic.wireguard import wgmsg

        message = wgmsg()
        message["cmd"] = command
        message["version"] = VERSION
        message["attrs"] = [["WGDEVICE_A_IFNAME", self._interface], *attributes]
        try:
            return tuple(self._socket.nlm_request(message, self._socket.prid, _REQUEST | flags))
        except NetlinkError as error:
            raise EdgewireError(f"{self._interface}: {doing}: the kernel refused: {error.args[-1]}") from None


def _chunks(networks: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(networks), _PER_MESSAGE):
        yield networks[start : start + _PER_MESSAGE]


def _allowed_ip(network: str) -> Mapping[str, Any]:
    address, _, length = network.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return {
        "attrs": [
            ["WGALLOWEDIP_A_FAMILY", int(family)],
            ["WGALLOWEDIP_A_IPADDR", socket.inet_pton(family, address)],
            ["WGALLOWEDIP_A_CIDR_MASK", int(length)],
        ]
    }


def _endpoint(endpoint: Endpoint) -> Mapping[str, Any]:
    return {"addr": endpoint.address, "port": endpoint.port}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _peer(raw: Any) -> ObservedPeer:
    endpoint = raw.get_attr("WGPEER_A_ENDPOINT")
    handshake = raw.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
    allowed = raw.get_attr("WGPEER_A_ALLOWEDIPS") or ()
    preshared = raw.get_attr("WGPEER_A_PRESHARED_KEY")
    return ObservedPeer(
        public_key=_text(raw.get_attr("WGPEER_A_PUBLIC_KEY")),
        endpoint=Endpoint(endpoint["addr"], endpoint["port"]) if endpoint else None,
        allowed_ips=frozenset(entry["addr"] for entry in allowed),
        persistent_keepalive=raw.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        latest_handshake=handshake["tv_sec"] if handshake else 0,
        rx_bytes=raw.get_attr("WGPEER_A_RX_BYTES") or 0,
        tx_bytes=raw.get_attr("WGPEER_A_TX_BYTES") or 0,
        preshared_key=from_base64(preshared) if preshared is not None else None,
    )


def _joined(known: ObservedPeer, more: ObservedPeer) -> ObservedPeer:
    """The kernel repeats a peer's key, and only that, in front of allowed IPs that did not fit."""
    return ObservedPeer(
        public_key=known.public_key,
        endpoint=known.endpoint or more.endpoint,
        allowed_ips=known.allowed_ips | more.allowed_ips,
        persistent_keepalive=known.persistent_keepalive or more.persistent_keepalive,
        latest_handshake=known.latest_handshake or more.latest_handshake,
        rx_bytes=known.rx_bytes or more.rx_bytes,
        tx_bytes=known.tx_bytes or more.tx_bytes,
        preshared_key=known.preshared_key or more.preshared_key,
    )
