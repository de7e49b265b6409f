# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces, bridges, cables: the router between clients and edges, and what plugs a box or the controller into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from .shell import LabError, inside, run
from .topology import ROUTER_NETNS, Box, Network, Topology

NETNS_DIRECTORY = Path("/run/netns")
# Before any interface exists, so that every one is born with them. The answer of one edge to a client that the router
# reaches through another edge is no martian, and bridged packets are nobody's business but the bridge's.
_ROUTER_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    # Where VIPs lead to several edges, one client's flows go to all of them.
    "net/ipv4/fib_multipath_hash_policy": "1",
    "net/ipv6/fib_multipath_hash_policy": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}
_BOX_SETTINGS = {
    # Duplicate address detection only makes a box wait; nobody else is on this wire.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # A bridge has the lowest of its ports' link addresses, so a container that goes or comes may change podman's. The
    # others would send IPv6 to the former one for up to 25 s.
    "net/ipv6/conf/default/ndisc_notify": "1",
    # As where the kernel has bridge netfilter as a module, which podman does not load: it would put a container's
    # fragments together before anybody on the bridge sees them.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    # Ports that tests choose, which no other socket shall be given.
    "net/ipv4/ip_local_reserved_ports": "40000-48999",
}


def netns_exists(name: str) -> bool:
    """Whether it is a living namespace: a leftover file without the mount over it is none."""
    path = NETNS_DIRECTORY / name
    # A namespace's file lies on nsfs, not on the file system of /run/netns.
    return path.exists() and path.stat().st_dev != NETNS_DIRECTORY.stat().st_dev


def name_netns(name: str, pid: int) -> bool:
    """Have the name stand for the namespace that the process lives in; say whether it did not."""
    path = NETNS_DIRECTORY / name
    if path.exists() and path.stat().st_ino == Path(f"/proc/{pid}/ns/net").stat().st_ino:
        return False
    remove_netns(name)
    run(["ip", "netns", "attach", name, str(pid)])
    return True


def make_netns(name: str, settings: dict[str, str]) -> None:
    remove_netns(name)
    run(["ip", "netns", "add", name])
    _ip(name, ["link set lo up"])
    # One process for all of them; a setting that this kernel does not have is not needed on it.
    script = "".join(f"[ -e /proc/sys/{key} ] && echo {value} >/proc/sys/{key}\n" for key, value in settings.items())
    run(inside(name, ["sh", "-c", f"{script}true"]))


def remove_netns(name: str) -> bool:
    path = NETNS_DIRECTORY / name
    if not path.exists():
        return False
    run(["umount", "--lazy", path], check=False)
    path.unlink(missing_ok=True)
    return True


def ensure_router(topology: Topology) -> list[str]:
    """Router namespace, its bridges, the controller's cable, the way to the VIPs. Returns what had to be done."""
    did: list[str] = []
    if not netns_exists(ROUTER_NETNS):
        make_netns(ROUTER_NETNS, _ROUTER_SETTINGS)
        did.append("router namespace")
    links = {link["ifname"] for link in _ip_json(ROUTER_NETNS, "link")}
    for network in topology.networks:
        if network.bridge not in links:
            _make_bridge(network)
            did.append(f"bridge of {network.name}")
    did += _ensure_controller(topology, links)
    if _missing_vips(topology):
        switch(topology, topology.first_edge)
        did.append(f"VIPs to {topology.first_edge}")
    return did


def switch(topology: Topology, *names: str) -> bool:
    """Send the VIPs to these edges, each VIP with one atomic replace: no packet meets a moment without a route. Says
    whether they went elsewhere before."""
    if announced(topology) == set(names):
        return False
    commands = []
    for vip in topology.vips:
        family = ip_network(vip).version
        ways = []
        for name in dict.fromkeys(names):
            box = topology.box(name)
            if box.role != "edge":
                raise LabError(f"{name} is a {box.role}; VIPs go to one of: {', '.join(edges(topology))}")
            ways.append(f"nexthop via {box.ipv4 if family == 4 else box.ipv6}")
        commands.append(f"route replace {vip} {' '.join(ways)}")
    _ip(ROUTER_NETNS, commands)
    return True


def announced(topology: Topology) -> set[str]:
    """The edges to which all VIPs lead; none where they lead to different ones, or nowhere."""
    by_address = {address: box.name for box in topology.boxes for address in (box.ipv4, box.ipv6)}
    found = []
    for vip in topology.vips:
        routes = _ip_json(ROUTER_NETNS, f"-{ip_network(vip).version} route show {vip}")
        ways = [way for route in routes for way in route.get("nexthops", [route])]
        found.append({by_address.get(way.get("gateway", ""), "") for way in ways})
    return found[0] if found and all(edges == found[0] for edges in found) else set()


def edges(topology: Topology) -> list[str]:
    return [box.name for box in topology.boxes if box.role == "edge"]


def make_box_network(topology: Topology, box: Box) -> None:
    """A fresh namespace with its cable, as a box finds it that was just switched on."""
    make_netns(box.netns, _BOX_SETTINGS)
    plug(topology, box)


def is_plugged(box: Box) -> bool:
    """Whether the box has its namespace, and in it the cable with addresses and ways out, up to the router's bridge."""
    if not netns_exists(box.netns) or not netns_exists(ROUTER_NETNS):
        return False
    ports = _ip_json(ROUTER_NETNS, "link")
    if not any(link["ifname"] == box.name and link.get("master") == box.network.bridge for link in ports):
        return False
    addresses = {
        entry["local"]
        for link in _ip_json(box.netns, "address")
        if link["ifname"] == "eth0" and "UP" in link["flags"]
        for entry in link["addr_info"]
    }
    ways = _ip_json(box.netns, "-4 route show default") and _ip_json(box.netns, "-6 route show default")
    return bool(ways) and {box.ipv4, box.ipv6} <= addresses


def plug(topology: Topology, box: Box) -> None:
    """Lay the cable from the router's bridge to the box's eth0, anew."""
    network = box.network
    # Either end takes the other with it. An old one may hang in a namespace that something still holds.
    run(inside(ROUTER_NETNS, ["ip", "link", "delete", box.name]), check=False)
    _ip(
        ROUTER_NETNS,
        [f"link add {box.name} type veth peer name eth0 address {_hardware_address(box.ipv4)} netns {box.netns}"],
    )
    _full_checksums(ROUTER_NETNS, box.name)
    if box.role == "client":
        # A client's kernel would leave the UDP checksum to a network card that does not exist, and XDP would meet it
        # half done. Boxes of the fleet keep their defaults, as a real box would.
        _full_checksums(box.netns, "eth0")
    _ip(ROUTER_NETNS, [f"link set {box.name} master {network.bridge} up"])
    _ip(
        box.netns,
        [
            f"address replace {box.ipv4}/{network.router_ipv4.network.prefixlen} dev eth0",
            f"address replace {box.ipv6}/{network.router_ipv6.network.prefixlen} dev eth0 nodad",
            "link set eth0 up",
            f"route replace default via {network.router_ipv4.ip}",
            f"route replace ::/0 via {network.router_ipv6.ip}",
        ],
    )


def _make_bridge(network: Network) -> None:
    _ip(
        ROUTER_NETNS,
        [
            # No spanning tree and no learning delay: the wire works the moment that it is plugged.
            f"link add {network.bridge} address {_hardware_address(str(network.router_ipv4.ip))}"
            " type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            f"address add {network.router_ipv4} dev {network.bridge}",
            f"address add {network.router_ipv6} dev {network.bridge} nodad",
            f"link set {network.bridge} up",
        ],
    )


def _ensure_controller(topology: Topology, router_links: set[str]) -> list[str]:
    """The controller's cable, and a route to each box that Ansible reaches: to these addresses only.

    Not to the whole network: sandboxes use 192.0.2.0/24, too, and a second route to it could take the machine's own
    gateway away from it.
    """
    name = topology.controller.interface
    bridge = next(network.bridge for network in topology.networks if network.name == topology.controller.network)
    wanted = {box.ipv4 for box in topology.boxes if box.has_ssh}
    routed = run(["ip", "-json", "-4", "route", "show", "dev", name], check=False).stdout
    if "controller" in router_links and wanted <= {route["dst"] for route in json.loads(routed or "[]")}:
        return []
    remove_controller(name)
    run(inside(ROUTER_NETNS, ["ip", "link", "delete", "controller"]), check=False)
    address = topology.controller.ipv4
    cable = f"link add {name} address {_hardware_address(address)} type veth peer name controller netns {ROUTER_NETNS}"
    run(["ip", *cable.split()])
    _full_checksums(ROUTER_NETNS, "controller")
    _ip(ROUTER_NETNS, [f"link set controller master {bridge} up"])
    commands = [f"address add {address}/32 dev {name}", f"link set {name} up"]
    commands += [f"route add {target}/32 dev {name} src {address}" for target in sorted(wanted)]
    run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")
    return ["controller's cable"]


def remove_controller(interface: str) -> bool:
    return run(["ip", "link", "delete", interface], check=False).returncode == 0


def _missing_vips(topology: Topology) -> bool:
    routes = {route["dst"] for family in ("-4", "-6") for route in _ip_json(ROUTER_NETNS, f"{family} route")}
    return not set(topology.vips) <= routes


def _full_checksums(netns: str, interface: str) -> None:
    """Make the sender compute checksums: a veth otherwise hands packets over with the checksum left to do."""
    run(inside(netns, ["ethtool", "--offload", interface, "tx", "off"]))


def _hardware_address(ipv4: str) -> str:
    """The same after every reboot, as a real card's: neighbours remember it and would send to the old one."""
    number = int(IPv4Address(ipv4)) & 0xFFFFFF
    return f"02:65:77:{number >> 16:02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"


def _ip(netns: str, commands: Sequence[str]) -> None:
    run(inside(netns, ["ip", "-batch", "-"]), stdin="\n".join(commands) + "\n")


def _ip_json(netns: str, command: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    with suppress(ValueError):
        entries = json.loads(run(inside(netns, ["ip", "-json", *command.split()])).stdout or "[]")
    return entries
