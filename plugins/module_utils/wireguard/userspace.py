# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transport to a userspace WireGuard device: the UAPI socket of wireguard-go.

Sockets in /var/run/wireguard belong to a mount namespace, devices to a network namespace: a socket
may answer for a device of the same name in another network namespace, which is refused.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Literal

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import uapi
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import public_key_of
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    ObservedSettings,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import (
    RemovePeer,
    SetPeer,
    TrimPeer,
)

SOCKET_DIRECTORY = Path("/var/run/wireguard")
_TIMEOUT = 20.0  # seconds; a reply with thousands of peers takes well under one

SocketState = Literal["live", "dead", "absent"]


def socket_path(interface: str) -> Path:
    """Where wireguard-go listens for the device of this name."""
    return SOCKET_DIRECTORY / f"{interface}.sock"


def socket_state(interface: str) -> SocketState:
    """Whether the socket is there and somebody answers at it."""
    path = socket_path(interface)
    if not path.exists():
        return "absent"
    try:
        _connect(path).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return "dead"
    except OSError as error:
        raise EdgewireError(f"{path}: {error.strerror}") from None
    return "live"


def elsewhere(interface: str) -> bool:
    """Whether the live socket's daemon is known to be in another network namespace.

    Known only for a daemon that runs in the foreground, as ours do: the socket's credentials name
    who called listen(2), and a daemon that forked away has left that process.
    """
    with _connect(socket_path(interface)) as connection:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = struct.unpack("iII", raw)[0]
    try:
        theirs = Path(f"/proc/{pid}/ns/net").stat()
        ours = Path("/proc/thread-self/ns/net").stat()
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino)


class UserspaceTransport:
    """One userspace device, spoken to request by request. Raises EdgewireError on refusals."""

    def __init__(self, interface: str) -> None:
        self._interface = interface

    def observe(self) -> ObservedSettings:
        """The device's settings and peers; of the private key only the public one leaves here."""
        reply = uapi.parse_get(self._exchange(uapi.GET))
        self._check(reply.errno, "reading the device")
        return ObservedSettings(
            public_key=public_key_of(reply.private_key) if reply.private_key else None,
            listen_port=reply.listen_port,
            fwmark=reply.fwmark,
            peers=reply.peers,
        )

    def configure(self, private_key: str | None, listen_port: int | None, fwmark: int | None) -> None:
        """Set what is not None. A taken port is an error: the daemon would only log it."""
        if listen_port is not None:
            self._check_port(listen_port)
        self._set(uapi.render_device(private_key, listen_port, fwmark), "configuring the device")

    def set_peer(self, operation: SetPeer) -> None:
        """Make or change a peer."""
        request = uapi.render_peer(
            operation.public_key,
            new=operation.new,
            endpoint=operation.endpoint,
            persistent_keepalive=operation.persistent_keepalive,
            allowed_ips=operation.allowed_ips,
            preshared_key=operation.preshared_key,
        )
        self._set(request, f"setting peer {operation.public_key}")

    def trim_peer(self, operation: TrimPeer) -> None:
        """Replace a peer's allowed IPs."""
        request = uapi.render_peer(operation.public_key, replace_allowed_ips=True, allowed_ips=operation.allowed_ips)
        self._set(request, f"setting the allowed IPs of peer {operation.public_key}")

    def remove_peer(self, operation: RemovePeer) -> None:
        """Remove a peer."""
        request = uapi.render_peer(operation.public_key, remove=True)
        self._set(request, f"removing peer {operation.public_key}")

    def _set(self, request: str, doing: str) -> None:
        answer = self._exchange(request)
        _, _, number = answer.strip().partition("errno=")
        if not number.lstrip("-").isdigit():
            raise EdgewireError(f"{self._interface}: {doing}: the daemon gave no errno")
        self._check(int(number), doing)

    def _check(self, number: int, doing: str) -> None:
        if number:
            reason = os.strerror(abs(number))
            raise EdgewireError(f"{self._interface}: {doing}: the daemon refused: {reason}")

    def _check_port(self, port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise EdgewireError(
                        f"{self._interface}: UDP port {port} is in use by something else here (ss -ulnp 'sport ="
                        f" {port}' names it); stop that, or choose another edgewire_listen_port"
                    ) from None

    def _exchange(self, request: str) -> str:
        path = socket_path(self._interface)
        try:
            with _connect(path) as connection:
                connection.sendall(request.encode())
                received = bytearray()
                while not received.endswith(b"\n\n"):
                    chunk = connection.recv(65536)
                    if not chunk:
                        break
                    received += chunk
        except OSError as error:
            reason = error.strerror or "no answer in time"
            raise EdgewireError(f"{path}: {reason}") from None
        return received.decode("ascii", "replace")


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection
