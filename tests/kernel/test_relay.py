# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A packet's whole way: planned, applied and relayed through a real WireGuard device, without Ansible or boxes.

An edge and a worker of two namespaces, made by the planner and the backends that the modules call. Each test runs once
for each family of the client and its VIP, over wireguard-go, and over the kernel's WireGuard where there is one
(``make test-kernel``).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, forwarder
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.keeping import ensure_keeping
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import Desired
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import ensure_key
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.machine import kernel_has_wireguard
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BOX_MAC,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    UDP_SEGMENT,
    Net,
    Wire,
    build_of,
    ip_checksum_ok,
    make_edge_interfaces,
    make_worker_interfaces,
    payload_of,
    plans_of,
    udp_checksum_ok,
    udp_socket,
)

if TYPE_CHECKING:
    from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SPORT = 40_000
IP_RECVERR, IPV6_RECVERR, MSG_ERRQUEUE = 11, 25, 0x2000  # ip(7), ipv6(7), recv(2)


@dataclass
class Relay:
    """A client that reaches the VIP through the edge, and the application on the worker; the wires at both."""

    net: Net
    client: socket.socket
    application: socket.socket
    client_wire: Wire
    container_wire: Wire
    handshakes: Callable[[], list[int]]
    rename: Callable[[str, bool], bool]

    def request(self, payload: bytes) -> None:
        """The client sends this, and the application gets it, from the client."""
        self.client.sendto(payload, (self.net.echo_vip, ECHO_PORT))
        received, source = self.application.recvfrom(2000)
        assert (received, source[:2]) == (payload, (self.net.client, SPORT))

    def reply(self, sent: bytes, *payloads: bytes) -> None:
        """The application sends this, and the client gets it from the VIP; cut into these where some are named."""
        self.application.sendto(sent, (self.net.client, SPORT))
        for payload in payloads or (sent,):
            received, source = self.client.recvfrom(2000)
            assert (received, source[:2]) == (payload, (self.net.echo_vip, ECHO_PORT))


@pytest.fixture(params=["userspace", *(["kernel"] if kernel_has_wireguard() else [])])
def relay(
    request: pytest.FixtureRequest,
    net: Net,
    shared_pins: Path,
    make_netns: Callable[[], Netns],
    veth: Callable[..., None],
    interface_name: Callable[[], str],
    tmp_path: Path,
) -> Iterator[Relay]:
    """The plan of one edge and one worker, applied layer by layer as the roles do it."""
    edge, worker, client, container = (make_netns() for _ in range(4))
    make_edge_interfaces(edge, client)
    make_worker_interfaces(worker, container)
    # Not 192.0.2.0/24: to the edge that is a network behind the client.
    veth(edge, "198.18.0.11/24", worker, "198.18.0.21/24", name="under0")
    client.run("ethtool", "--offload", "eth0", "tx", "off")
    client.run("ip", "route", "add", net.echo_vip, "via", net.uplink)
    client.run("ip", "neighbour", "replace", net.uplink, "lladdr", BOX_MAC, "dev", "eth0", "nud", "permanent")

    boxes = {"edge1": edge, "worker1": worker}
    for ns in boxes.values():  # the interfaces made so far stay quiet; the tunnel has addresses of both families
        ns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0")
    interfaces = {name: interface_name() for name in boxes}
    keys = {name: tmp_path / name / "wg.key" for name in boxes}
    address = {4: "address", 6: "address_ipv6"}[net.version]
    backend = {"worker": "worker1", address: net.container, "port": ECHO_CONTAINER_PORT}
    service = {"name": "echo", "vips": [net.echo_vip], "ports": [ECHO_PORT], "backends": [backend]}
    inventory: dict[str, Any] = {
        "hosts": {
            name: {
                "edgewire_id": number,
                "edgewire_endpoint_address": f"198.18.0.{number}1",
                "edgewire_wireguard_interface": interfaces[name],
            }
            for number, name in enumerate(boxes, start=1)
        },
        "groups": {"edgewire_edges": ["edge1"], "edgewire_workers": ["worker1"]},
        "vars": {"edgewire_services": [service]},
    }
    public = {name: str(ensure_key(str(path), check_mode=False).public_key) for name, path in keys.items()}
    plans = plans_of(inventory, public)
    for name, ns in boxes.items():
        plan, role = plans[name], name.rstrip("1")
        plan["wireguard"].update(transport=request.param, private_key_file=str(keys[name]))
        port = {"uplink": "eth0"} if role == "edge" else {"container": "podman0"}
        build = build_of(role)
        with ns:
            wireguard.apply(plan["wireguard"], check_mode=False)
            routes.apply(plan["routes"], check_mode=False)
            programs = Desired(role, {**port, "wireguard": interfaces[name]}, build.identity, "native", True)
            forwarder.ensure(programs, build)
            contents.ensure(role, plan[role])

    def handshakes() -> list[int]:
        found = []
        for name, ns in boxes.items():
            with ns:
                device = wireguard.observe(interfaces[name])
            assert device is not None
            assert device.transport == request.param
            found += [peer.latest_handshake for peer in device.settings.peers.values()]
        return found

    def rename(role: str, keep: bool) -> bool:
        """Give the backend a name, so another endpoint id; whether anything has stayed, or nothing was to do."""
        named = {**service, "backends": [{**backend, "name": "new"}]}
        changed = {**inventory, "vars": {"edgewire_services": [named]}}
        said = plans_of(changed, public)[f"{role}1"][role]
        with boxes[f"{role}1"]:
            if keep:
                return ensure_keeping(role, said, check_mode=False)[1]
            return not contents.ensure(role, said)

    wires = Wire(client, "eth0"), Wire(container, "eth0")
    with (
        udp_socket(client, net.client, SPORT) as sender,
        udp_socket(container, net.container, ECHO_CONTAINER_PORT) as application,
    ):
        sender.settimeout(30.0)  # a first packet waits for the handshake, on an emulated machine for long
        application.settimeout(30.0)
        yield Relay(net, sender, application, *wires, handshakes, rename)
    for wire in wires:
        wire.close()


def expect_whole(wire: Wire, payload: bytes) -> None:
    """The next packet on a wire says so, and its checksums are right: a socket need not have looked at them."""
    packet = wire.read()[14:]
    assert payload_of(packet) == payload
    assert ip_checksum_ok(packet)
    assert udp_checksum_ok(packet)


def test_a_packet_goes_all_the_way_and_its_answer_comes_back(relay: Relay) -> None:
    for payload in (b"hello", b"x" * 1300):
        relay.request(payload)
        expect_whole(relay.container_wire, payload)
        relay.reply(payload.upper())
        expect_whole(relay.client_wire, payload.upper())
    assert all(relay.handshakes())

    # What QUIC servers do: one write of 4,000 bytes leaves the container as one packet, to be cut up on the way.
    relay.application.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    segments = [bytes([65 + n]) * 1000 for n in range(4)]
    relay.reply(b"".join(segments), *segments)
    for segment in segments:
        expect_whole(relay.client_wire, segment)


def complaint(sender: socket.socket) -> tuple[bytes, int, int, str]:
    """The next ICMP error that a socket hears of: what it quotes of the datagram, its type and code, who sent it."""
    waiting = select.poll()
    waiting.register(sender, 0)  # an error is always told
    assert waiting.poll(30_000), "nobody complained"
    sent, extra, _, _ = sender.recvmsg(2000, 1000, MSG_ERRQUEUE)
    record = extra[0][2]  # struct sock_extended_err, and behind it the offender as struct sockaddr_in or sockaddr_in6
    offender = record[24:40] if sender.family == socket.AF_INET6 else record[20:24]
    return sent, record[5], record[6], socket.inet_ntop(sender.family, offender)


def test_a_trace_shows_edge_and_worker_as_the_vip(relay: Relay) -> None:
    """From a socket for each: the kernel may set an error once more that was read already, and the next send fails."""
    net, client = relay.net, relay.client_wire.ns
    level, receive_errors, hop_limit, time_exceeded = {
        4: (socket.IPPROTO_IP, IP_RECVERR, socket.IP_TTL, 11),
        6: (socket.IPPROTO_IPV6, IPV6_RECVERR, socket.IPV6_UNICAST_HOPS, 3),
    }[net.version]
    for hops in (1, 2):
        with udp_socket(client, net.client, SPORT + hops) as sender:
            sender.setsockopt(level, receive_errors, 1)
            sender.setsockopt(level, hop_limit, hops)
            sender.sendto(b"four", (net.echo_vip, ECHO_PORT))
            assert complaint(sender) == (b"four", time_exceeded, 0, net.echo_vip)
    relay.client.setsockopt(level, hop_limit, 3)
    relay.request(b"four")


def test_an_endpoint_that_changes_loses_nothing_that_is_on_its_way(relay: Relay) -> None:
    """In the order of a roll-out: the worker learns, the edge switches, the edge forgets, the worker forgets."""
    relay.request(b"one")
    relay.reply(b"one")
    assert relay.rename("worker", True), "the old endpoint stays"
    relay.request(b"two: the edge still sends by the old endpoint")
    assert relay.rename("edge", True), "replies by the old endpoint find their way"
    relay.reply(b"two: to what came by the old endpoint")
    relay.request(b"three")
    assert not relay.rename("edge", False), "the old backend goes"
    assert not relay.rename("worker", False), "the old endpoint goes"
    relay.reply(b"three")
    relay.request(b"four")
    relay.reply(b"four")
    assert relay.rename("edge", False)
    assert relay.rename("worker", False)
