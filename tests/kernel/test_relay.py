# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A packet's whole way: planned, applied and relayed through a real WireGuard device, without Ansible or boxes.

An edge and a worker of two namespaces, made by the planner and the backends that the modules call. It runs over
wireguard-go, and over the kernel's WireGuard where there is one (``make test-kernel``).
"""

from __future__ import annotations

import json
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
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import Renderer
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import backend as routes
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import backend as wireguard
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.keys import ensure_key
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.machine import kernel_has_wireguard
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    BOX_MAC,
    CLIENT,
    CONTAINER,
    build_of,
    make_edge_interfaces,
    make_worker_interfaces,
    udp_socket,
)

if TYPE_CHECKING:
    from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

VIP, PORT, CONTAINER_PORT = "203.0.113.7", 7, 7007
UDP_SEGMENT = 103  # linux/udp.h: one send, many datagrams (GSO)
IP_RECVERR, MSG_ERRQUEUE = 11, 0x2000  # ip(7), recv(2)


@dataclass
class Relay:
    """A client that reaches the VIP through the edge, and the application on the worker."""

    client: socket.socket
    application: socket.socket
    handshakes: Callable[[], list[int]]
    rename: Callable[[str, bool], bool]


@pytest.fixture(params=["userspace", *(["kernel"] if kernel_has_wireguard() else [])])
def relay(
    request: pytest.FixtureRequest,
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
    client.run("ip", "route", "add", f"{VIP}/32", "via", "198.51.100.1")
    client.run("ip", "neighbour", "replace", "198.51.100.1", "lladdr", BOX_MAC, "dev", "eth0", "nud", "permanent")

    boxes = {"edge1": edge, "worker1": worker}
    for ns in boxes.values():  # the interfaces made so far stay quiet; the tunnel has addresses of both families
        ns.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=0")
    interfaces = {name: interface_name() for name in boxes}
    keys = {name: tmp_path / name / "wg.key" for name in boxes}
    backend = {"worker": "worker1", "address": CONTAINER, "port": CONTAINER_PORT}
    service = {"name": "echo", "vips": [VIP], "ports": [PORT], "backends": [backend]}
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
    plans = {plan.host: json.loads(Renderer().render(plan)) for plan in plan_fleet(inventory, public).hosts}
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
        (wanted,) = [plan for plan in plan_fleet(changed, public).hosts if plan.host == f"{role}1"]
        said = json.loads(Renderer().render(wanted))[role]
        with boxes[f"{role}1"]:
            if keep:
                return ensure_keeping(role, said, check_mode=False)[1]
            return not contents.ensure(role, said)

    with udp_socket(client, CLIENT, 40_000) as sender, udp_socket(container, "0.0.0.0", CONTAINER_PORT) as application:
        sender.settimeout(30.0)  # a first packet waits for the handshake, on an emulated machine for long
        application.settimeout(30.0)
        yield Relay(sender, application, handshakes, rename)


def test_a_packet_goes_all_the_way_and_its_answer_comes_back(relay: Relay) -> None:
    for payload in (b"hello", b"x" * 1300):
        relay.client.sendto(payload, (VIP, PORT))
        received, source = relay.application.recvfrom(2000)
        assert (received, source) == (payload, (CLIENT, 40_000))
        relay.application.sendto(payload.upper(), source)
        assert relay.client.recvfrom(2000) == (payload.upper(), (VIP, PORT))
    assert all(relay.handshakes())

    # What QUIC servers do: one write of 4,000 bytes leaves the container as one packet, to be cut up on the way.
    relay.application.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    relay.application.sendto(b"".join(bytes([65 + n]) * 1000 for n in range(4)), source)
    assert [relay.client.recvfrom(2000) for _ in range(4)] == [(bytes([65 + n]) * 1000, (VIP, PORT)) for n in range(4)]


def complaint(sender: socket.socket) -> tuple[bytes, int, int, str]:
    """The next ICMP error that a socket hears of: what it quotes of the datagram, its type and code, who sent it."""
    waiting = select.poll()
    waiting.register(sender, 0)  # an error is always told
    assert waiting.poll(30_000), "nobody complained"
    sent, extra, _, _ = sender.recvmsg(2000, 1000, MSG_ERRQUEUE)
    record = extra[0][2]  # struct sock_extended_err, and behind it the offender as struct sockaddr_in
    return sent, record[5], record[6], socket.inet_ntoa(record[20:24])


def test_a_trace_shows_edge_and_worker_as_the_vip(relay: Relay) -> None:
    relay.client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    for hops in (1, 2):
        relay.client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        relay.client.sendto(b"four", (VIP, PORT))
        assert complaint(relay.client) == (b"four", 11, 0, VIP)
    relay.client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 3)
    relay.client.sendto(b"four", (VIP, PORT))
    assert relay.application.recvfrom(2000) == (b"four", (CLIENT, 40_000))


def test_an_endpoint_that_changes_loses_nothing_that_is_on_its_way(relay: Relay) -> None:
    """In the order of a roll-out: the worker learns, the edge switches, the edge forgets, the worker forgets."""

    def request(payload: bytes) -> None:
        relay.client.sendto(payload, (VIP, PORT))
        assert relay.application.recvfrom(2000) == (payload, (CLIENT, 40_000))

    def reply(payload: bytes) -> None:
        relay.application.sendto(payload, (CLIENT, 40_000))
        assert relay.client.recvfrom(2000) == (payload, (VIP, PORT))

    request(b"one")
    reply(b"one")
    assert relay.rename("worker", True), "the old endpoint stays"
    request(b"two: the edge still sends by the old endpoint")
    assert relay.rename("edge", True), "replies by the old endpoint find their way"
    reply(b"two: to what came by the old endpoint")
    request(b"three")
    assert not relay.rename("edge", False), "the old backend goes"
    assert not relay.rename("worker", False), "the old endpoint goes"
    reply(b"three")
    request(b"four")
    reply(b"four")
    assert relay.rename("edge", False)
    assert relay.rename("worker", False)
