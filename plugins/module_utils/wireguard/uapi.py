# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of WireGuard's cross-platform userspace protocol: parse and render. Pure.

Source: https://www.wireguard.com/xplatform/ . Keys are hexadecimal on the wire and base64 here.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    Endpoint,
    ObservedPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import (
    NO_PRESHARED_KEY,
    PresharedKey,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import from_hex as preshared_from_hex

GET = "get=1\n\n"


@dataclass(frozen=True)
class Reply:
    """What a device answers to ``get=1``. ``private_key`` (base64) never shows in a repr."""

    peers: Mapping[str, ObservedPeer]
    listen_port: int = 0
    fwmark: int = 0
    private_key: str | None = field(default=None, repr=False)
    errno: int = 0


def to_hex(key: str) -> str:
    """A key's form on the wire, from base64."""
    return b64decode(key).hex()


def from_hex(key: str) -> str:
    """A key in base64, from its form on the wire."""
    return b64encode(bytes.fromhex(key)).decode()


def parse_get(text: str) -> Reply:
    """The reply to ``get=1``; EdgewireError if it is not one. Unknown keys are passed over."""
    device: dict[str, str] = {}
    peers: dict[str, ObservedPeer] = {}
    current: dict[str, str] | None = None
    allowed: list[str] = []
    errno: int | None = None
    try:
        for line in text.splitlines():
            if not line:
                break
            key, separator, value = line.partition("=")
            if not separator:
                raise ValueError("a line without '='")
            if key == "errno":
                errno = int(value)
            elif key == "public_key":
                _finish(peers, current, allowed)
                current, allowed = {key: value}, []
            elif key == "allowed_ip":
                allowed.append(value)
            else:
                (device if current is None else current)[key] = value
        _finish(peers, current, allowed)
        if errno is None:
            raise ValueError("no errno")
        secret = device.get("private_key")
        return Reply(
            peers=peers,
            listen_port=int(device.get("listen_port", 0)),
            fwmark=int(device.get("fwmark", 0)),
            private_key=from_hex(secret) if secret and secret.strip("0") else None,
            errno=errno,
        )
    except ValueError:  # its text could quote a line that holds a key
        raise EdgewireError("the WireGuard daemon answered what is no UAPI reply") from None


def render_get(reply: Reply) -> str:
    """The reply as a device writes it: the inverse of `parse_get`."""
    lines = []
    if reply.private_key is not None:
        lines.append(f"private_key={to_hex(reply.private_key)}")
    if reply.listen_port:
        lines.append(f"listen_port={reply.listen_port}")
    if reply.fwmark:
        lines.append(f"fwmark={reply.fwmark}")
    for peer in reply.peers.values():
        lines.append(f"public_key={to_hex(peer.public_key)}")
        lines.append(f"preshared_key={(peer.preshared_key or NO_PRESHARED_KEY).reveal_hex()}")
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        lines.append(f"last_handshake_time_sec={peer.latest_handshake}")
        lines.append("last_handshake_time_nsec=0")
        lines.append(f"tx_bytes={peer.tx_bytes}")
        lines.append(f"rx_bytes={peer.rx_bytes}")
        lines.append(f"persistent_keepalive_interval={peer.persistent_keepalive}")
        lines += [f"allowed_ip={network}" for network in sorted(peer.allowed_ips)]
    lines.append(f"errno={reply.errno}")
    return "\n".join(lines) + "\n\n"


def render_device(private_key: str | None = None, listen_port: int | None = None, fwmark: int | None = None) -> str:
    """A ``set=1`` request for the device's own settings; None leaves a setting alone."""
    lines = []
    if private_key is not None:
        lines.append(f"private_key={to_hex(private_key)}")
    if listen_port is not None:
        lines.append(f"listen_port={listen_port}")
    if fwmark is not None:
        lines.append(f"fwmark={fwmark}")
    return _request(lines)


def render_peer(
    public_key: str,
    *,
    new: bool = False,
    remove: bool = False,
    replace_allowed_ips: bool = False,
    endpoint: Endpoint | None = None,
    persistent_keepalive: int | None = None,
    allowed_ips: Iterable[str] = (),
    preshared_key: PresharedKey | None = None,
) -> str:
    """A ``set=1`` request for one peer. Without ``new`` a peer that is gone is not made again."""
    lines = [f"public_key={to_hex(public_key)}"]
    if remove:
        return _request([*lines, "remove=true"])
    if not new:
        lines.append("update_only=true")
    if preshared_key is not None:
        lines.append(f"preshared_key={preshared_key.reveal_hex()}")
    if endpoint is not None:
        lines.append(f"endpoint={endpoint}")
    if persistent_keepalive is not None:
        lines.append(f"persistent_keepalive_interval={persistent_keepalive}")
    if replace_allowed_ips:
        lines.append("replace_allowed_ips=true")
    lines += [f"allowed_ip={network}" for network in allowed_ips]
    return _request(lines)


def _request(lines: Iterable[str]) -> str:
    return "\n".join(["set=1", *lines]) + "\n\n"


def _finish(peers: dict[str, ObservedPeer], found: Mapping[str, str] | None, allowed: Iterable[str]) -> None:
    if found is None:
        return
    key = from_hex(found["public_key"])
    peers[key] = ObservedPeer(
        public_key=key,
        endpoint=Endpoint.parse(found["endpoint"]) if found.get("endpoint") else None,
        allowed_ips=frozenset(allowed),
        persistent_keepalive=int(found.get("persistent_keepalive_interval", 0)),
        latest_handshake=int(found.get("last_handshake_time_sec", 0)),
        rx_bytes=int(found.get("rx_bytes", 0)),
        tx_bytes=int(found.get("tx_bytes", 0)),
        preshared_key=preshared_from_hex(found["preshared_key"]) if "preshared_key" in found else None,
    )
