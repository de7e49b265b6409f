# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operations that WireGuard's planner emits and a machine performs, and the order they go in.

Order is by rank, not by step: everything is added before anything is removed. Setting an allowed IP
on one peer takes it silently from the peer that had it, so a move is one operation on the receiver,
and what is trimmed afterwards is only what nobody else wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    Endpoint,
    TransportChoice,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import PresharedKey, PrivateKey


@dataclass(frozen=True)
class CreateDevice:
    """Make the device and mark it as ours; ``auto``: in the kernel if it has WireGuard."""

    transport: TransportChoice


@dataclass(frozen=True)
class ConfigureDevice:
    """Set what is not None. The private key is ``private_key``, or read from its file at the last moment."""

    private_key_file: str | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    private_key: PrivateKey | None = None


@dataclass(frozen=True)
class SetMtu:
    """Set the device's MTU, in bytes."""

    mtu: int


@dataclass(frozen=True)
class AddAddress:
    """Assign an address (with prefix length) to the device."""

    address: str


@dataclass(frozen=True)
class SetPeer:
    """Make a peer, or change one: set what is not None, add ``allowed_ips`` to those it has.

    The preshared key goes with the rest in one request, so that a new peer never begins a handshake
    without it.
    """

    public_key: str
    new: bool
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None
    allowed_ips: tuple[str, ...] = ()
    preshared_key: PresharedKey | None = None


@dataclass(frozen=True)
class BringUp:
    """Set the link up."""


@dataclass(frozen=True)
class Greet:
    """Send a peer a keepalive, or begin a handshake where there is no session.

    WireGuard does so whenever a persistent keepalive is turned on. ``persistent_keepalive`` (seconds, 0 = off) is what
    the peer has before and after.
    """

    public_key: str
    persistent_keepalive: int


@dataclass(frozen=True)
class TrimPeer:
    """Replace a peer's allowed IPs by this whole list; the protocol cannot remove just one."""

    public_key: str
    allowed_ips: tuple[str, ...]


@dataclass(frozen=True)
class RemovePeer:
    """Remove a peer."""

    public_key: str


@dataclass(frozen=True)
class RemoveAddress:
    """Remove an address (with prefix length) from the device."""

    address: str


@dataclass(frozen=True)
class RemoveDevice:
    """Remove the device, its daemon and its socket, whichever of them there are."""


Operation = (
    CreateDevice
    | ConfigureDevice
    | SetMtu
    | AddAddress
    | SetPeer
    | BringUp
    | Greet
    | TrimPeer
    | RemovePeer
    | RemoveAddress
    | RemoveDevice
)

_ORDER: tuple[type, ...] = (
    CreateDevice,
    ConfigureDevice,
    SetMtu,
    AddAddress,
    SetPeer,
    BringUp,
    Greet,
    TrimPeer,
    RemovePeer,
    RemoveAddress,
    RemoveDevice,
)
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}


def ordered(steps: Iterable[Step]) -> list[Operation]:
    """All operations of the steps in the order in which they are performed."""
    operations: list[Operation] = [operation for step in steps for operation in step.op or ()]
    return sorted(operations, key=lambda operation: _RANK[type(operation)])
