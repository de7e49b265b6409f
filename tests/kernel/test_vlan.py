# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""VLAN tags on the edge's uplink: in the frame, beside it, and on the way back."""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, forwarder, info, libbpf, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BOX_MAC,
    CLIENT_MAC,
    EDGE_PARAMS,
    PORT,
    V4,
    V6,
    XDP_DROP,
    XDP_PASS,
    Box,
    Net,
    Programs,
    Tun,
    Watch,
    Wire,
    build_of,
    datagram,
    desired,
    frame,
    payload_of,
    quiet,
    relay_packet,
    source_of_packet,
    tunnel_of,
    udp_checksum_ok,
    udp_socket,
    wrapped,
)
from bcc import BPF

if TYPE_CHECKING:
    from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

HANDOFF_MARK = struct.pack("=I", 0x65646765)
SPORT = 40_000
DOT1Q, DOT1AD = 0x8100, 0x88A8

# Tags from the outside in: protocol and control (priority, drop eligible, VLAN).
TAGS = {
    "802.1Q": [(DOT1Q, 100)],
    "priority only": [(DOT1Q, 0xE000)],
    "802.1ad": [(DOT1AD, 100)],
    "QinQ": [(DOT1AD, 100), (DOT1Q, 0x3FFF)],
    "802.1Q twice": [(DOT1Q, 100), (DOT1Q, 200)],
}


def tagged(data: bytes, tags: list[tuple[int, int]]) -> bytes:
    """A frame with tags put in."""
    return data[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + data[12:]


@pytest.fixture(scope="module")
def edge(edge_programs: Programs) -> Programs:
    """The edge's programs with the service "dns" of both families."""
    edge_programs.fill_edge(
        *(
            ServiceWanted("dns", net.dns_vip, PORT, PORT, (BackendWanted(net.dns_endpoint, "worker1", 1),))
            for net in (V4, V6)
        )
    )
    return edge_programs


def query(net: Net, port: int = PORT, **more: int) -> bytes:
    """A client's packet to the service."""
    return datagram(net.client, net.dns_vip, SPORT, port, **more)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_a_tagged_hit_is_relayed_without_its_tags(edge: Programs, net: Net, tags: list[tuple[int, int]]) -> None:
    watch = Watch(edge.maps)
    packet = query(net)
    ran = edge.run("edge_xdp", tagged(frame(packet), tags))
    relayed = wrapped(packet, net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, 63)
    assert (ran.retval, ran.data.hex()) == (XDP_PASS, (HANDOFF_MARK + frame(relayed)).hex())
    assert watch.change().stats == {"in_packets": 1, "in_bytes": len(packet)}


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_what_is_not_for_a_service_keeps_its_tags(edge: Programs, net: Net, tags: list[tuple[int, int]]) -> None:
    arp = bytes.fromhex("ffffffffffff") + frame(query(net), ethertype=0x0806)[6:]
    for untagged in (frame(query(net, PORT + 1)), arp):
        data = tagged(untagged, tags)
        watch = Watch(edge.maps)
        ran = edge.run("edge_xdp", data)
        assert (ran.retval, ran.data.hex()) == (XDP_PASS, data.hex())
        assert watch.change().drops == {}


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_a_tagged_packet_is_dropped_for_what_any_is(edge: Programs, net: Net, tags: list[tuple[int, int]]) -> None:
    forged = relay_packet(net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, query(net))
    watch = Watch(edge.maps)
    assert edge.run("edge_xdp", tagged(frame(forged), tags)).retval == XDP_DROP
    assert watch.change().drops == {"relay_from_outside": 1}


def test_a_third_tag_is_not_looked_through(edge: Programs, net: Net) -> None:
    data = tagged(frame(query(net)), [(DOT1AD, 1), (DOT1AD, 2), (DOT1Q, 3)])
    ran = edge.run("edge_xdp", data)
    assert (ran.retval, ran.data.hex()) == (XDP_PASS, data.hex())


@pytest.mark.parametrize("tags", [TAGS["802.1Q"], TAGS["QinQ"]], ids=["802.1Q", "QinQ"])
def test_a_tagged_frame_truncated_anywhere(edge: Programs, net: Net, tags: list[tuple[int, int]]) -> None:
    """Nothing that is cut short is relayed, and what passes is as it came."""
    whole = tagged(frame(query(net)), tags)
    for length in range(14, len(whole)):
        ran = edge.run("edge_xdp", whole[:length])
        assert ran.retval == XDP_DROP or ran.data == whole[:length]


# --- Through the box --------------------------------------------------------------------------------------------------

# Puts tags on what leaves an interface, beside the packet, as a VLAN interface does where the device takes that over.
# The tag that is there when another is put on moves into the frame.
PUSH = b"""
#include <uapi/linux/pkt_cls.h>
int push(struct __sk_buff *skb)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(INNER), 7))
		return TC_ACT_SHOT;
	if (OUTER && bpf_skb_vlan_push(skb, bpf_htons(OUTER), 100))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}
"""


def put_tags_beside(ns: Netns, interface: str, pin: Path, inner: int, outer: int = 0) -> None:
    """Let a program at the interface's end tag what is sent."""
    bpf = BPF(text=PUSH, cflags=[f"-DINNER={inner}", f"-DOUTER={outer}"])
    program = bpf.load_func(b"push", BPF.SCHED_CLS)
    libbpf.pin(program.fd, str(pin))
    ns.run("tc", "qdisc", "replace", "dev", interface, "clsact")
    attach = ("tc", "filter", "add", "dev", interface, "egress", "bpf", "direct-action", "object-pinned")
    ns.run(*attach, str(pin))
    pin.unlink()


@pytest.mark.parametrize("tags", [TAGS["802.1Q"], TAGS["QinQ"]], ids=["802.1Q", "QinQ"])
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_tags_in_the_frame_never_reach_the_tunnel(
    edge_box: Box, net: Net, mode: str, tags: list[tuple[int, int]]
) -> None:
    build = build_of("edge")
    forwarder.ensure(desired("edge", build, xdp_mode=mode), build)
    edge_box.wire.send(tagged(frame(query(net)), tags))
    out = edge_box.tun.read()
    assert out == wrapped(query(net), net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, 63)


@pytest.mark.parametrize(
    ("inner", "outer"), [(DOT1Q, 0), (DOT1AD, 0), (DOT1Q, DOT1AD)], ids=["802.1Q", "802.1ad", "QinQ"]
)
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_tags_beside_the_frame_never_reach_the_tunnel(
    edge_box: Box, net: Net, shared_pins: Path, mode: str, inner: int, outer: int
) -> None:
    build = build_of("edge")
    forwarder.ensure(desired("edge", build, xdp_mode=mode), build)
    put_tags_beside(edge_box.wire.ns, "eth0", shared_pins / f"push-{os.getpid()}", inner, outer)
    edge_box.wire.send(frame(query(net)))
    out = edge_box.tun.read()
    assert out == wrapped(query(net), net.edge_relay, net.worker_relay, net.dns_endpoint, net.client, 63)


def test_replies_leave_by_the_interface_for_them(edge_box: Box, net: Net) -> None:
    """The uplink is where packets come in; another interface, here in place of a VLAN's, is where they go out."""
    edge_box.ns.run("ip", "link", "add", "eth0.100", "type", "veth", "peer", "name", "far")
    edge_box.ns.run("ip", "link", "set", "far", "up")
    edge_box.ns.run("ip", "link", "set", "eth0.100", "up")
    for prefix, own in ((V4.far_client, "192.0.2.1/24"), (V6.far_client, "2001:db8:77::1/64")):
        nodad = ["nodad"] if ":" in own else []
        edge_box.ns.run("ip", "route", "del", str(ipaddress.ip_interface(own).network))
        edge_box.ns.run("ip", "address", "add", own, "dev", "eth0.100", *nodad)
        edge_box.ns.run(
            "ip", "neighbour", "replace", prefix, "lladdr", CLIENT_MAC, "dev", "eth0.100", "nud", "permanent"
        )
    steps = contents.ensure("edge", {**EDGE_PARAMS, "reply_interface": "eth0.100"})
    assert [(step.verb, step.kind) for step in steps] == [("change", "configuration")]
    told = info.info("edge")
    assert told is not None
    assert (told["uplink"], told["reply_interface"]) == ("eth0", "eth0.100")
    inner = datagram(net.dns_vip, net.far_client, PORT, SPORT, b"answer")
    far = Wire(edge_box.ns, "far")
    edge_box.tun.write(relay_packet(net.worker_relay, net.edge_relay, net.dns_endpoint, net.far_client, inner))
    assert payload_of(far.read()[14:]) == b"answer"
    far.close()


# --- Real VLAN interfaces ---------------------------------------------------------------------------------------------


@dataclass
class VlanEdge:
    """An edge whose uplink's frames are tagged, and its client's namespace."""

    ns: Netns
    client: Netns
    tun: Tun
    maps: map_io.Maps


# The interfaces that make the tags, one on the other.
KINDS = {
    "802.1Q": [("eth0.100", "protocol 802.1Q id 100")],
    "QinQ": [("eth0.100", "protocol 802.1ad id 100"), ("eth0.100.7", "protocol 802.1Q id 7")],
}


def add_vlans(ns: Netns, kind: str) -> str:
    """Make the VLAN interfaces on eth0; the name of the last."""
    under = "eth0"
    for name, options in KINDS[kind]:
        made = ns.run("ip", "link", "add", "link", under, "name", name, "type", "vlan", *options.split(), check=False)
        if "Unknown device type" in made.stderr:
            pytest.skip("this kernel has no VLAN interfaces; that of `make test-kernel` has")
        assert made.returncode == 0, made.stderr
        ns.run("ip", "link", "set", name, "up")
        under = name
    return under


@pytest.fixture(params=["native", "generic"])
def mode(request: pytest.FixtureRequest) -> str:
    """How XDP runs."""
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """How many tags there are."""
    return str(request.param)


@pytest.fixture(params=["off", "on"], ids=["tag in the frame", "tag beside the frame"])
def vlan_edge(
    request: pytest.FixtureRequest, kind: str, mode: str, shared_pins: object, make_netns: Callable[[], Netns]
) -> Iterator[VlanEdge]:
    """XDP on the physical interface, addresses and replies on the VLAN interface; the client's likewise."""
    ns, client = make_netns(), make_netns()
    for one in (ns, client):
        quiet(one)
    link = ("ip", "link", "add", "eth0", "address", BOX_MAC, "type", "veth", "peer", "name", "eth0")
    ns.run(*link, "address", CLIENT_MAC, "netns", client.name)
    for one in (ns, client):
        one.run("ethtool", "-K", "eth0", "tx", "off", "txvlan", request.param, "tx-vlan-stag-hw-insert", request.param)
        one.run("ip", "link", "set", "eth0", "up")
        name = add_vlans(one, kind)
        here = (V4.uplink, V6.uplink) if one is ns else (V4.client, V6.client)
        other, mac = ((V4.client, V6.client), CLIENT_MAC) if one is ns else ((V4.uplink, V6.uplink), BOX_MAC)
        for address, bits, peer in zip(here, (24, 64), other, strict=True):
            one.run("ip", "address", "add", f"{address}/{bits}", "dev", name, *(["nodad"] if bits == 64 else []))
            one.run("ip", "neighbour", "replace", peer, "lladdr", mac, "dev", name, "nud", "permanent")
    for net in (V4, V6):
        client.run("ip", "route", "add", net.dns_vip, "via", net.uplink)
    tun = tunnel_of(ns, V4.edge_overlay, V6.edge_overlay)
    build = build_of("edge")
    with ns:
        forwarder.ensure(desired("edge", build, xdp_mode=mode), build)
        contents.ensure("edge", {**EDGE_PARAMS, "reply_interface": name})
        with map_io.running_maps("edge") as maps:
            assert maps is not None
            yield VlanEdge(ns, client, tun, maps)
    tun.close()


def test_there_and_back_through_vlan_interfaces(vlan_edge: VlanEdge, net: Net, kind: str) -> None:
    """What comes into the tunnel is the relay packet, without a tag; the reply reaches the client's VLAN interface."""
    with udp_socket(vlan_edge.client, net.client, SPORT) as client:
        client.sendto(b"query", (net.dns_vip, PORT))
        out = vlan_edge.tun.read()
        assert source_of_packet(out) == net.edge_relay
        assert payload_of(out) == b"query"
        assert udp_checksum_ok(out, net.client, net.dns_vip)

        inner = datagram(net.dns_vip, net.client, PORT, SPORT, b"answer")
        vlan_edge.tun.write(relay_packet(net.worker_relay, net.edge_relay, net.dns_endpoint, net.client, inner))
        assert client.recvfrom(100)[:1] == (b"answer",)
    assert info.info("edge")["reply_interface"] == KINDS[kind][-1][0]
    assert info.info("edge")["uplink"] == "eth0"


def test_the_hosts_own_traffic_keeps_its_vlan(vlan_edge: VlanEdge, net: Net) -> None:
    with udp_socket(vlan_edge.ns, net.uplink, 5000) as host, udp_socket(vlan_edge.client, net.client, SPORT) as client:
        client.sendto(b"hello", (net.uplink, 5000))
        data, address = host.recvfrom(100)
        host.sendto(data, address)
        assert client.recv(100) == b"hello"
