# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of a network interface in this namespace (netdevice(7)), without a library."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

# linux/sockios.h, linux/if.h, linux/ethtool.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU, _SIOCETHTOOL = 0x8913, 0x8914, 0x8921, 0x8946
_IFF_UP = 1
_ETHTOOL_GDRVINFO = 3
_DRVINFO_SIZE, _NAME_SIZE = 196, 32


def _ask(name: str, request: int, argument: bytes) -> bytes | None:
    """One ioctl; None where there is no such interface, or it does not know the request."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket, request, struct.pack("16s", name.encode()) + argument.ljust(24, b"\0"))
        except OSError:
            return None


def ifindex_of(name: str) -> int | None:
    """Interface index by name, None where there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def mtu(name: str) -> int:
    """The MTU of an interface in bytes of an IP packet; 0 where it is missing."""
    answer = _ask(name, _SIOCGIFMTU, b"")
    return int(struct.unpack_from("i", answer, 16)[0]) if answer else 0


def is_up(name: str) -> bool:
    """Whether an interface is switched on, with or without a carrier; False where it is missing."""
    answer = _ask(name, _SIOCGIFFLAGS, b"")
    return bool(answer) and bool(struct.unpack_from("H", answer or b"", 16)[0] & _IFF_UP)


def set_up(name: str) -> None:
    """Switch an interface on.

    :raises EdgewireError: where the kernel refuses.
    """
    answer = _ask(name, _SIOCGIFFLAGS, b"")
    flags = struct.unpack_from("H", answer, 16)[0] if answer else 0
    if _ask(name, _SIOCSIFFLAGS, struct.pack("H", flags | _IFF_UP)) is None:
        raise EdgewireError(f"{name} is down and cannot be switched on; ip link set {name} up says why")


def driver_of(name: str) -> str:
    """The name of an interface's driver; empty where it does not tell."""
    info = ctypes.create_string_buffer(struct.pack("I", _ETHTOOL_GDRVINFO), _DRVINFO_SIZE)
    if _ask(name, _SIOCETHTOOL, struct.pack("P", ctypes.addressof(info))) is None:
        return ""
    return info.raw[4 : 4 + _NAME_SIZE].split(b"\0")[0].decode(errors="replace")
