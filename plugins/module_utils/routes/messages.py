# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages that pyroute2 does not have: 0.7 and 0.9 know neither nexthop objects nor a route's RTA_NH_ID.

The classes are made at first use: pyroute2 is imported only where something is done with it.
Source: include/uapi/linux/{nexthop,rtnetlink}.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from ansible_collections.edgewire.fleet.plugins.module_utils.routes.nexthops import Nexthop

NEWNEXTHOP, DELNEXTHOP, GETNEXTHOP = 104, 105, 106
NEWROUTE = 24
_GROUP_ENTRY = struct.Struct("=IBxH")  # struct nexthop_grp: id, weight - 1, and in later kernels its high byte
_PLAIN = {"NHA_ID", "NHA_GROUP", "NHA_GROUP_TYPE", "NHA_BLACKHOLE", "NHA_OIF", "NHA_GATEWAY", "UNKNOWN"}
_FAMILIES: Mapping[int, Literal[4, 6]] = {2: 4, 10: 6}


@cache
def nexthop_class() -> Any:
    """The class of RTM_NEWNEXTHOP and its like: struct nhmsg and its attributes."""
    from pyroute2.netlink import nlmsg

    class NexthopMessage(nlmsg):  # type: ignore[misc,unused-ignore]
        prefix = "NHA_"
        fields = (("family", "B"), ("scope", "B"), ("protocol", "B"), ("resvd", "B"), ("flags", "I"))
        nla_map = (
            ("NHA_UNSPEC", "none"),
            ("NHA_ID", "uint32"),
            ("NHA_GROUP", "cdata"),
            ("NHA_GROUP_TYPE", "uint16"),
            ("NHA_BLACKHOLE", "flag"),
            ("NHA_OIF", "uint32"),
            ("NHA_GATEWAY", "ipaddr"),
            ("NHA_ENCAP_TYPE", "uint16"),
            ("NHA_ENCAP", "hex"),
            ("NHA_GROUPS", "flag"),
            ("NHA_MASTER", "uint32"),
            ("NHA_FDB", "flag"),
        )

    return NexthopMessage


@cache
def route_class() -> Any:
    """pyroute2's route message with the attributes up to RTA_NH_ID.

    Not a subclass of its ``rtmsg``: a class whose attributes were compiled once does not take further ones.
    """
    from pyroute2.netlink import nlmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg, rtmsg_base

    known = {entry[0] for entry in rtmsg.nla_map}
    if "RTA_NH_ID" in known:
        return rtmsg

    class RouteMessage(rtmsg_base, nlmsg):  # type: ignore[misc,unused-ignore]
        nla_map = (
            *rtmsg.nla_map,
            ("RTA_PAD", "none"),
            ("RTA_UID", "uint32"),
            ("RTA_TTL_PROPAGATE", "uint8"),
            ("RTA_IP_PROTO", "uint8"),
            ("RTA_SPORT", "uint16"),
            ("RTA_DPORT", "uint16"),
            ("RTA_NH_ID", "uint32"),
        )

    return RouteMessage


def nexthop_message(nexthop: Nexthop, protocol: int, index: int | None) -> Any:
    """The message that makes an object; ``index`` is its interface's."""
    message = nexthop_class()()
    message["family"] = {4: 2, 6: 10, None: 0}[nexthop.family]
    message["protocol"] = protocol
    attributes: list[Any] = [("NHA_ID", nexthop.id)]
    if nexthop.group:
        packed = b"".join(_GROUP_ENTRY.pack(member, weight - 1, 0) for member, weight in nexthop.group)
        attributes.append(("NHA_GROUP", packed))
    if nexthop.blackhole:
        attributes.append(("NHA_BLACKHOLE", None))
    if index is not None:
        attributes.append(("NHA_OIF", index))
    if nexthop.gateway is not None:
        attributes.append(("NHA_GATEWAY", nexthop.gateway))
    message["attrs"] = attributes
    return message


def removal_message(number: int) -> Any:
    """The message that removes an object, whatever it is."""
    message = nexthop_class()()
    message["attrs"] = [("NHA_ID", number)]
    return message


def nexthop_from(message: Any, names: Mapping[int, str]) -> Nexthop:
    """What a dump says of an object; ``names`` are the interfaces' by index."""
    index, packed = message.get_attr("NHA_OIF"), message.get_attr("NHA_GROUP") or b""
    other = {attribute[0] for attribute in message["attrs"]} - _PLAIN
    if message.get_attr("NHA_GROUP_TYPE"):
        other.add("NHA_GROUP_TYPE")
    return Nexthop(
        id=message.get_attr("NHA_ID"),
        family=_FAMILIES.get(message["family"]),
        interface=names.get(index, f"#{index}") if index else None,
        gateway=message.get_attr("NHA_GATEWAY"),
        blackhole=message.get_attr("NHA_BLACKHOLE") is not None,
        group=tuple(sorted((member, weight + 1) for member, weight, _ in _GROUP_ENTRY.iter_unpack(packed))),
        other=" ".join(sorted(other)),
    )
