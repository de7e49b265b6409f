# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine that WireGuard's operations are performed on: link, transport and daemon together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import daemon
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.kernel import (
    KernelTransport,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import (
    read_private_key,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.link import (
    Links,
    ObservedLink,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    MARK,
    ObservedDevice,
    Transport,
    TransportChoice,
    check_interface,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import (
    AddAddress,
    BringUp,
    ConfigureDevice,
    CreateDevice,
    Greet,
    Operation,
    RemoveAddress,
    RemoveDevice,
    RemovePeer,
    SetMtu,
    SetPeer,
    TrimPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.userspace import (
    UserspaceTransport,
    elsewhere,
    socket_path,
    socket_state,
)


class Machine(Protocol):
    """Something with one WireGuard device, there or not: this host, or a fake."""

    def observe(self) -> ObservedDevice | None:
        """The device as it is, None if there is none."""

    def perform(self, operation: Operation) -> None:
        """Carry out one operation, or raise EdgewireError."""


class Host:
    """This host, in the calling thread's network namespace. Close it after use."""

    def __init__(self, interface: str) -> None:
        self._interface = check_interface(interface)
        self._links = Links(interface)
        self._transport: KernelTransport | UserspaceTransport | None = None

    def close(self) -> None:
        """Close the netlink sockets."""
        self._links.close()
        if isinstance(self._transport, KernelTransport):
            self._transport.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def observe(self) -> ObservedDevice | None:
        """The device as it is; EdgewireError if what has this name is not a WireGuard device."""
        link = self._links.observe()
        if link is None:
            return None
        transport = self._kind(link)
        return ObservedDevice(
            interface=self._interface,
            transport=transport,
            owned=link.alias == MARK,
            mtu=link.mtu,
            up=link.up,
            addresses=self._links.addresses(),
            settings=self._speak(transport).observe(),
        )

    def perform(self, operation: Operation) -> None:
        """Carry out one operation, or raise EdgewireError."""
        match operation:
            case CreateDevice():
                self._create(operation.transport)
            case ConfigureDevice():
                self._configure(operation)
            case SetMtu():
                self._links.set_mtu(operation.mtu)
            case AddAddress():
                self._links.add_address(operation.address)
            case SetPeer():
                self._current().set_peer(operation)
            case BringUp():
                self._links.bring_up()
            case Greet():
                self._greet(operation)
            case TrimPeer():
                self._current().trim_peer(operation)
            case RemovePeer():
                self._current().remove_peer(operation)
            case RemoveAddress():
                self._links.remove_address(operation.address)
            case RemoveDevice():
                self._remove()

    def leftovers(self) -> list[Step]:
        """A step that clears the dead socket of a device that is gone, if there is one."""
        if socket_state(self._interface) != "dead":
            return []
        path = str(socket_path(self._interface))
        return [make_step("socket", path, {"state": "dead"}, None, (RemoveDevice(),))]

    def _kind(self, link: ObservedLink) -> Transport:
        if link.kind == "wireguard":
            return "kernel"
        if link.kind == "tun" and socket_state(self._interface) == "live":
            if elsewhere(self._interface):
                raise EdgewireError(
                    f"{socket_path(self._interface)} belongs to a device of the same name in "
                    "another network namespace; give one of the two another name"
                )
            return "userspace"
        what = link.kind or "physical"
        raise EdgewireError(f"{self._interface} is a {what} interface, not a WireGuard device; it is left alone")

    def _speak(self, transport: Transport) -> KernelTransport | UserspaceTransport:
        if self._transport is None:
            kinds = {"kernel": KernelTransport, "userspace": UserspaceTransport}
            self._transport = kinds[transport](self._interface)
        return self._transport

    def _current(self) -> KernelTransport | UserspaceTransport:
        if self._transport is None:
            raise EdgewireError(f"{self._interface}: there is no such WireGuard device")
        return self._transport

    def _create(self, choice: TransportChoice) -> None:
        if choice != "userspace" and (choice == "kernel" or kernel_has_wireguard()):
            if self._links.create_wireguard():
                self._links.mark()
                self._speak("kernel")
                return
            if choice == "kernel":
                raise EdgewireError(
                    f"{self._interface}: this kernel has no WireGuard; with transport: auto or "
                    "userspace it is done by wireguard-go"
                )
        daemon.start(self._interface, lambda: self._links.observe() is not None)
        self._links.mark()
        self._speak("userspace")

    def _configure(self, operation: ConfigureDevice) -> None:
        key = operation.private_key.reveal_base64() if operation.private_key else None
        if key is None and operation.private_key_file is not None:
            key = read_private_key(operation.private_key_file)
            if key is None:
                raise EdgewireError(
                    f"private key file {operation.private_key_file}: not there; edgewire.fleet.wireguard_key makes it"
                )
        self._current().configure(key, operation.listen_port, operation.fwmark)

    def _greet(self, operation: Greet) -> None:
        kept = operation.persistent_keepalive
        for seconds in (0, kept) if kept else (1, 0):
            self._current().set_peer(SetPeer(operation.public_key, False, persistent_keepalive=seconds))

    def _remove(self) -> None:
        if isinstance(self._transport, KernelTransport):
            self._links.remove()
        else:
            daemon.stop(self._interface, self._links.remove)


def kernel_has_wireguard() -> bool:
    """Whether the kernel has WireGuard, or a module of it that it would load. Changes nothing."""
    if Path("/sys/module/wireguard").exists():
        return True
    try:
        done = subprocess.run(["modprobe", "--dry-run", "--quiet", "wireguard"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
