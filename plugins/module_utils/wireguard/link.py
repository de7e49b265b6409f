# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The link under a WireGuard device: existence, kind, mark, MTU, state, addresses, by rtnetlink."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import MARK

_IFF_UP = 1
_HINTS = {
    errno.EPERM: "this needs root (CAP_NET_ADMIN)",
    errno.EACCES: "is IPv6 off on it (net.ipv6.conf.*.disable_ipv6)?",
    errno.EADDRINUSE: "is its listen port taken?",
}


@dataclass(frozen=True)
class ObservedLink:
    """A link as rtnetlink shows it; ``kind`` is IFLA_INFO_KIND, empty for hardware."""

    index: int
    kind: str
    alias: str
    mtu: int  # bytes
    up: bool


def marked() -> list[str]:
    """Names of all links that carry our mark, sorted."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        return sorted(link.get_attr("IFLA_IFNAME") for link in ip.get_links() if link.get_attr("IFLA_IFALIAS") == MARK)


class Links:
    """rtnetlink in the calling thread's network namespace, for one interface name."""

    def __init__(self, interface: str) -> None:
        from pyroute2 import IPRoute

        self._interface = interface
        self._ip: Any = IPRoute()

    def close(self) -> None:
        """Close the netlink socket."""
        self._ip.close()

    def observe(self) -> ObservedLink | None:
        """The link, or None if there is none of this name."""
        try:
            index = socket.if_nametoindex(self._interface)
            with self._refusals("reading the link"):
                found = next(iter(self._ip.get_links(index)))
        except OSError:
            return None
        info = found.get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
        return ObservedLink(
            index=index,
            kind=kind or "",
            alias=found.get_attr("IFLA_IFALIAS") or "",
            mtu=found.get_attr("IFLA_MTU") or 0,
            up=bool(found["flags"] & _IFF_UP),
        )

    def addresses(self) -> frozenset[str]:
        """Addresses with prefix length, without IPv6 link-local ones: the kernel makes those."""
        index = self._index()
        found = set()
        with self._refusals("reading the addresses"):
            for message in self._ip.get_addr(index=index):
                address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                assigned = ip_interface(f"{address}/{message['prefixlen']}")
                if message["index"] == index and not (assigned.version == 6 and assigned.ip.is_link_local):
                    found.add(str(assigned))
        return frozenset(found)

    def create_wireguard(self) -> bool:
        """Make a kernel WireGuard device; False if the kernel cannot."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            self._ip.link("add", ifname=self._interface, kind="wireguard")
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.ENODEV, errno.EAFNOSUPPORT):
                return False
            raise EdgewireError(f"{self._interface}: creating it: {error.args[-1]}") from None
        return True

    def mark(self) -> None:
        """Mark the link as made by this collection."""
        with self._refusals("marking it"):
            self._ip.link("set", index=self._index(), ifalias=MARK)

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes."""
        with self._refusals(f"setting MTU {mtu}"):
            self._ip.link("set", index=self._index(), mtu=mtu)

    def bring_up(self) -> None:
        """Set the link up."""
        with self._refusals("bringing it up"):
            self._ip.link("set", index=self._index(), state="up")

    def add_address(self, address: str) -> None:
        """Assign an address."""
        with self._refusals(f"adding address {address}"):
            self._address("add", address)

    def remove_address(self, address: str) -> None:
        """Take an address away."""
        with self._refusals(f"removing address {address}"):
            self._address("del", address)

    def remove(self) -> None:
        """Delete the link, if it is there."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            self._ip.link("del", index=socket.if_nametoindex(self._interface))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise EdgewireError(f"{self._interface}: removing it: {error.args[-1]}") from None
        except OSError:
            return

    def _address(self, command: str, address: str) -> None:
        assigned = ip_interface(address)
        self._ip.addr(
            command,
            index=self._index(),
            address=str(assigned.ip),
            prefixlen=assigned.network.prefixlen,
            family=socket.AF_INET6 if assigned.version == 6 else socket.AF_INET,
        )

    def _index(self) -> int:
        try:
            return socket.if_nametoindex(self._interface)
        except OSError:
            raise EdgewireError(f"{self._interface}: the interface has gone") from None

    @contextmanager
    def _refusals(self, doing: str) -> Iterator[None]:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            yield
        except NetlinkError as error:
            hint = f" ({_HINTS[error.code]})" if error.code in _HINTS else ""
            text = f"{self._interface}: {doing}: {error.args[-1]}{hint}"
            raise EdgewireError(text) from None
