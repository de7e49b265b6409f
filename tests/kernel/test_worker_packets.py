# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker, packet in and packet out: every branch of worker_ingress and worker_egress, and a real application.

Most tests run once for each family (fixture ``net``).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, forwarder, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.worker_maps import EndpointWanted
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    ANY_IPV4,
    ANY_IPV6,
    BRIDGE_MAC,
    CONTAINER_MAC,
    DESTINATION,
    ECHO_CONTAINER_PORT,
    ECHO_PORT,
    EMPTY_DESTINATION,
    GAMES_CONTAINER_PORT,
    GAMES_LAST_PORT,
    GAMES_PORT,
    HOP_BY_HOP,
    LISTED_NUMBER,
    PORT,
    ROUTING,
    TC_DROP,
    TC_NEXT,
    TC_REDIRECT,
    UDP_SEGMENT,
    V4,
    V6,
    WORKER_PARAMS,
    Net,
    Programs,
    Watch,
    Wire,
    WorkerBox,
    addresses_of,
    build_of,
    container_frame,
    datagram,
    desired,
    examples,
    extended,
    finish_header,
    fragment_header,
    frame,
    has_waiting,
    hops_left,
    ip_checksum_ok,
    packed,
    payload_of,
    planned,
    ports_of,
    quiet,
    relay_packet,
    translated,
    udp_checksum_of,
    udp_checksum_ok,
    udp_socket,
    unwrapped,
    wrapped,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether

if TYPE_CHECKING:
    from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SPORT = 40_000
OTHER_CONTAINER_MAC = "02:00:00:00:88:54"


def tcp(source: str, destination: str) -> bytes:
    """A TCP packet."""
    return bytes((IPv6 if ":" in source else IP)(src=source, dst=destination) / TCP())


def ping(source: str, destination: str) -> bytes:
    """An echo request."""
    if ":" in source:
        return bytes(IPv6(src=source, dst=destination) / ICMPv6EchoRequest())
    return bytes(IP(src=source, dst=destination) / ICMP())


# --- worker_egress by BPF_PROG_TEST_RUN ------------------------------------------------------------------------------


def flow_key(net: Net, client: str | None = None, sport: int = SPORT) -> bytes:
    """The flow table's key for a client of the echo container."""
    return layout.FLOW_KEY.pack(
        {
            "container": net.container,
            "client": client or net.client,
            "container_port": ECHO_CONTAINER_PORT,
            "client_port": sport,
        }
    )


def flow(net: Net) -> bytes:
    """What is remembered of a flow to the echo container."""
    return layout.FLOW.pack(
        {"edge_relay": net.edge_relay, "endpoint_id": net.echo_endpoint, "vip": net.echo_vip, "port": ECHO_PORT}
    )


def echo_endpoint(net: Net) -> EndpointWanted:
    """The echo container."""
    return EndpointWanted(
        net.echo_endpoint, "echo", net.echo_vip, ECHO_PORT, ECHO_PORT, net.container, ECHO_CONTAINER_PORT
    )


@pytest.fixture
def worker(worker_programs: Programs) -> Programs:
    """The worker's programs with one endpoint of each family, and one flow remembered for each: its client's."""
    worker_programs.fill_worker(echo_endpoint(V4), echo_endpoint(V6))
    for net in (V4, V6):
        worker_programs.put("ew_flows", flow_key(net), flow(net))
    return worker_programs


def echo(net: Net, payload: bytes = b"answer", client: str | None = None, sport: int = SPORT, **more: object) -> bytes:
    """A packet that the echo container sends to a client."""
    return datagram(net.container, client or net.client, ECHO_CONTAINER_PORT, sport, payload, **more)


def relayed_reply(net: Net, packet: bytes, client: str | None = None) -> bytes:
    """The relay packet for what the echo container sent."""
    inner = translated(packet, source=net.echo_vip, sport=ECHO_PORT)
    ttl = hops_left(packet) - 1
    return wrapped(inner, net.worker_relay, net.edge_relay, net.echo_endpoint, client or net.client, ttl)


def expect_relayed(worker: Programs, net: Net, packet: bytes, client: str | None = None, trailer: bytes = b"") -> bytes:
    """Run a reply of a known flow and compare every byte and every counter; the relay packet."""
    watch = Watch(worker.maps)
    result = worker.run("worker_egress", container_frame(packet) + trailer)
    assert (result.retval, result.data.hex()) == (
        TC_REDIRECT,
        (container_frame(relayed_reply(net, packet, client)) + trailer).hex(),
    )
    assert (watch.change().drops, watch.change().stats) == ({}, {"out_packets": 1, "out_bytes": len(packet)})
    return result.data[14:]


def expect_untouched(worker: Programs, data: bytes) -> None:
    """Run a frame that is none of ours: left to the next filter as it came, nothing counted."""
    watch = Watch(worker.maps)
    result = worker.run("worker_egress", data)
    assert (result.retval, result.data) == (TC_NEXT, data)
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def expect_drop(worker: Programs, packet: bytes, reason: str) -> None:
    """Run a container's packet that must be dropped for one reason, counted once, with nothing else counted."""
    watch = Watch(worker.maps)
    assert worker.run("worker_egress", container_frame(packet)).retval == TC_DROP
    assert (watch.change().drops, watch.change().stats) == ({reason: 1}, {})


def test_a_reply_of_a_known_flow_becomes_the_relay_packet(worker: Programs, net: Net) -> None:
    out = expect_relayed(worker, net, echo(net))
    assert ip_checksum_ok(out)
    assert udp_checksum_ok(out, net.echo_vip, net.client), "right once the edge restores the addresses"
    assert addresses_of(out) == packed(net.worker_relay) + packed(net.edge_relay)
    assert (hops_left(out), ports_of(out)) == (63, (ECHO_PORT, SPORT))
    option = {4: "9e0c0100", 6: "11025e14"}[net.version]
    assert out[net.header : net.header + net.option] == (
        bytes.fromhex(option) + net.echo_endpoint.to_bytes(4, "big") + packed(net.client)
    )


@examples(200)
@given(
    **ANY_IPV4,
    dont_fragment=st.booleans(),
)
def test_any_reply_comes_through(
    worker: Programs,
    source: int,
    sport: int,
    tos: int,
    ident: int,
    dont_fragment: bool,
    ttl: int,
    option_words: int,
    payload: bytes,
    zero_checksum: bool,
) -> None:
    client = socket.inet_ntoa(source.to_bytes(4, "big"))
    worker.put("ew_flows", flow_key(V4, client, sport), flow(V4))
    options = [b"\x01" * (4 * option_words)] if option_words else []
    header = {"tos": tos, "id": ident, "flags": "DF" if dont_fragment else 0, "ttl": ttl, "options": options}
    out = expect_relayed(worker, V4, echo(V4, payload, client, sport, zero_checksum=zero_checksum, **header), client)
    assert ip_checksum_ok(out)
    assert zero_checksum or udp_checksum_ok(out, V4.echo_vip, client)


headers_of_a_reply = st.lists(
    st.sampled_from([HOP_BY_HOP, ROUTING, EMPTY_DESTINATION, DESTINATION, fragment_header()]), max_size=4
)


@examples(200)
@given(
    **ANY_IPV6,
    headers=headers_of_a_reply,
    payload=st.binary(max_size=1300),
)
def test_any_ipv6_reply_comes_through(
    worker: Programs,
    source: int,
    sport: int,
    tos: int,
    label: int,
    ttl: int,
    headers: list[tuple[int, bytes]],
    payload: bytes,
) -> None:
    client = str(ipaddress.IPv6Address(source))
    worker.put("ew_flows", flow_key(V6, client, sport), flow(V6))
    packet = extended(echo(V6, payload, client, sport, tos=tos, fl=label, ttl=ttl), *headers)
    assert udp_checksum_ok(expect_relayed(worker, V6, packet, client), V6.echo_vip, client)


def test_ethernet_padding_is_not_taken_for_payload(worker: Programs, net: Net) -> None:
    expect_relayed(worker, net, echo(net, b""), trailer=bytes(18))


def to_zero(make: Callable[[bytes], bytes], after: Callable[[bytes], bytes]) -> bytes:
    """A packet whose UDP checksum would come out as 0 once it is translated; it must be sent as 0xffff then.

    ``make`` builds the packet around a payload, ``after`` translates it. A payload word that is the checksum which
    the packet has without it makes the sum all ones.
    """
    packet = make(udp_checksum_of(after(make(b"\0\0"))))
    assert udp_checksum_of(after(packet)) == b"\xff\xff"
    return packet


def test_a_replys_checksum_is_never_zero(worker: Programs, net: Net) -> None:
    packet = to_zero(partial(echo, net), lambda p: translated(p, source=net.echo_vip, sport=ECHO_PORT))
    assert udp_checksum_of(expect_relayed(worker, net, packet)) == b"\xff\xff"
    # And where it is only between the steps that it is 0: address translated, port not yet.
    between = to_zero(partial(echo, net), lambda p: translated(p, source=net.echo_vip))
    assert udp_checksum_ok(expect_relayed(worker, net, between), net.echo_vip, net.client)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(echo, sport=SPORT + 1), id="other client port"),
        pytest.param(lambda n: echo(n, client=n.far_client), id="other client"),
        pytest.param(lambda n: datagram(n.container, n.client, 7008, SPORT), id="other container port"),
        pytest.param(lambda n: datagram(n.other_container, n.client, ECHO_CONTAINER_PORT, SPORT), id="other container"),
        pytest.param(lambda n: tcp(n.container, n.client), id="TCP"),
        pytest.param(lambda n: ping(n.container, n.client), id="ping"),
        pytest.param(lambda n: echo(n)[: n.header + 6], id="truncated"),
    ],
)
def test_what_is_no_reply_passes_untouched(worker: Programs, net: Net, make: Callable[[Net], bytes]) -> None:
    expect_untouched(worker, container_frame(make(net)))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(container_frame(extended(echo(V6), *[EMPTY_DESTINATION] * 5)), id="five headers IPv6"),
        pytest.param(bytes(Ether() / ARP(pdst=V4.bridge)), id="ARP"),
    ],
)
def test_what_is_no_reply_of_one_family_passes_untouched(worker: Programs, data: bytes) -> None:
    expect_untouched(worker, data)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(echo(V4, ttl=1), "ttl_expired", id="time to live 1"),
        pytest.param(echo(V4, ttl=0), "ttl_expired", id="time to live 0"),
        pytest.param(echo(V4, options=[b"\x01" * 32]), "options_too_long", id="32 bytes of options"),
        pytest.param(echo(V4, options=[b"\x01" * 40]), "options_too_long", id="40 bytes of options"),
        pytest.param(echo(V6, ttl=1), "ttl_expired", id="hop limit 1"),
        pytest.param(echo(V6, ttl=0), "ttl_expired", id="hop limit 0"),
    ],
)
def test_replies_that_cannot_be_relayed(worker: Programs, packet: bytes, reason: str) -> None:
    expect_drop(worker, packet, reason)


def test_not_configured(worker_programs: Programs, net: Net) -> None:
    worker_programs.put("ew_flows", flow_key(net), flow(net))
    worker_programs.put("ew_config", layout.U32.of(0), layout.WORKER_CONFIG.pack({}))
    expect_drop(worker_programs, echo(net), "not_configured")


def test_a_truncated_reply_is_never_sent(worker: Programs) -> None:
    # The kernel runs no packet that is shorter than a base header.
    whole = container_frame(echo(V4, options=[b"\x01" * 8]))
    for length in range(14 + 20, 14 + 28 + 8):
        result = worker.run("worker_egress", whole[:length])
        assert (result.retval, result.data) == (TC_NEXT, whole[:length]), length
    whole = container_frame(extended(echo(V6), HOP_BY_HOP, ROUTING, DESTINATION))
    for length in range(14 + 40, 14 + 40 + 48 + 8):
        result = worker.run("worker_egress", whole[:length])
        assert (result.retval, result.data) == (TC_NEXT, whole[:length]), length


# --- On interfaces ---------------------------------------------------------------------------------------------------


def request(
    net: Net, payload: bytes = b"query", vip: str | None = None, port: int = ECHO_PORT, **more: object
) -> bytes:
    """A client's packet to a service."""
    return datagram(net.client, vip or net.echo_vip, SPORT, port, payload, **more)


def relayed_request(net: Net, inner: bytes | None = None, **more: object) -> bytes:
    """A relay packet from the edge for ``inner`` (what the client sent)."""
    relay = {
        "source": net.edge_relay,
        "destination": net.worker_relay,
        "endpoint_id": net.echo_endpoint,
        "client": net.client,
        **more,
    }
    return relay_packet(inner=inner or request(net), **relay)


def delivered(
    net: Net, relay: bytes, port: int = ECHO_CONTAINER_PORT, vip: str | None = None, container: str | None = None
) -> bytes:
    """What the container gets for a relay packet: DNAT to it, checksums computed afresh."""
    sent = unwrapped(relay, net.client, vip or net.echo_vip, hops_left(relay) - 1)
    return translated(sent, destination=container or net.container, dport=port)


def expect_at_container(box: WorkerBox, packet: bytes) -> bytes:
    """What arrives at the container next is this packet, in a frame from the bridge."""
    got = box.wire.read()
    assert got.hex() == frame(packet, source=BRIDGE_MAC, destination=CONTAINER_MAC).hex()
    return got[14:]


def expect_nothing_at_container(box: WorkerBox, net: Net) -> None:
    """Nothing reached the container: the next thing there is what is sent now."""
    marker = relayed_request(net, request(net, b"marker"))
    box.tun.write(marker)
    expect_at_container(box, delivered(net, marker))


def test_from_the_tunnel_to_the_container(worker_box: WorkerBox, net: Net) -> None:
    watch = worker_box.watch()
    worker_box.tun.write(relayed_request(net))
    packet = expect_at_container(worker_box, delivered(net, relayed_request(net)))
    assert ip_checksum_ok(packet)
    assert udp_checksum_ok(packet)
    assert packet == datagram(net.client, net.container, SPORT, ECHO_CONTAINER_PORT, ttl=62)
    assert (watch.change().drops, watch.change().stats) == ({}, {"in_packets": 1, "in_bytes": len(packet)})


@pytest.mark.parametrize(
    "inner",
    [
        *(
            pytest.param(make(net), id=f"{name} IPv{net.version}")
            for net in (V4, V6)
            for name, make in {
                "empty": partial(request, payload=b""),
                "odd": partial(request, payload=b"odd"),
                "large": partial(request, payload=bytes(range(256)) * 5),
                "class": partial(request, tos=184),
                "no checksum": partial(request, zero_checksum=True),
            }.items()
        ),
        pytest.param(request(V4, options=[b"\x01" * 28], tos=184, id=77, flags="DF"), id="header"),
        pytest.param(request(V6, fl=0xABCDE), id="flow label"),
        pytest.param(extended(request(V6), HOP_BY_HOP, ROUTING, DESTINATION, DESTINATION), id="four headers"),
        pytest.param(extended(request(V6), fragment_header()), id="fragment header of a whole packet"),
    ],
)
def test_any_request_comes_through(worker_box: WorkerBox, inner: bytes) -> None:
    net = V6 if inner[0] >> 4 == 6 else V4
    relay = relayed_request(net, inner)
    worker_box.tun.write(relay)
    expect_at_container(worker_box, delivered(net, relay))


def test_a_port_that_stays_the_same(worker_box: WorkerBox, net: Net) -> None:
    relay = relayed_request(net, request(net, vip=net.dns_vip, port=PORT), endpoint_id=net.dns_endpoint)
    worker_box.tun.write(relay)
    assert udp_checksum_ok(expect_at_container(worker_box, delivered(net, relay, PORT, net.dns_vip)))


def test_a_requests_checksum_is_never_zero(worker_box: WorkerBox, net: Net) -> None:
    def dnat(packet: bytes) -> bytes:
        return translated(packet, destination=net.container, dport=ECHO_CONTAINER_PORT)

    def only_address(packet: bytes) -> bytes:
        return translated(packet, destination=net.container)

    for after in (dnat, only_address):
        relay = relayed_request(net, to_zero(partial(request, net), after))
        worker_box.tun.write(relay)
        packet = expect_at_container(worker_box, delivered(net, relay))
        assert udp_checksum_ok(packet)
        assert (udp_checksum_of(packet) == b"\xff\xff") == (after is dnat)


def games(net: Net, port: int, payload: bytes = b"query") -> bytes:
    """A relay packet to a port of a range."""
    return relayed_request(net, request(net, payload, net.games_vip, port), endpoint_id=net.games_endpoint)


@pytest.mark.parametrize("port", [GAMES_PORT, GAMES_PORT + 1, 10_050, GAMES_LAST_PORT - 1, GAMES_LAST_PORT])
def test_container_ports_follow_the_range_there_and_back(worker_box: WorkerBox, net: Net, port: int) -> None:
    watch, container_port = worker_box.watch(), GAMES_CONTAINER_PORT + port - GAMES_PORT
    worker_box.tun.write(games(net, port))
    packet = expect_at_container(worker_box, delivered(net, games(net, port), container_port, net.games_vip))
    assert udp_checksum_ok(packet)
    worker_box.wire.send(container_frame(datagram(net.container, net.client, container_port, SPORT)))
    inner = datagram(net.games_vip, net.client, port, SPORT)
    expected = wrapped(inner, net.worker_relay, net.edge_relay, net.games_endpoint, net.client, 63)
    assert worker_box.tun.read().hex() == expected.hex()
    size = len(inner)
    counted = {"in_packets": 1, "in_bytes": size, "out_packets": 1, "out_bytes": size}
    assert (watch.change().drops, watch.change().stats) == ({}, counted)


@pytest.mark.parametrize("port", [0, GAMES_PORT - 1, GAMES_LAST_PORT + 1, 65_535])
def test_a_port_outside_the_endpoints_range(worker_box: WorkerBox, net: Net, port: int) -> None:
    watch = worker_box.watch()
    worker_box.tun.write(games(net, port))
    assert (watch.change().drops, watch.change().stats) == ({"unknown_endpoint": 1}, {})
    expect_nothing_at_container(worker_box, net)


def test_one_container_port_of_a_range_answers_for_its_own(worker_box: WorkerBox, net: Net) -> None:
    """What the container sends from another port of the range is none of the flow."""
    worker_box.tun.write(games(net, GAMES_PORT))
    worker_box.wire.read()
    watch = worker_box.watch()
    other = datagram(net.container, net.client, GAMES_CONTAINER_PORT + 1, SPORT)
    worker_box.wire.send(container_frame(other))
    worker_box.wire.send(container_frame(datagram(net.container, net.client, GAMES_CONTAINER_PORT, SPORT, b"marker")))
    assert payload_of(worker_box.tun.read()) == b"marker"
    assert watch.change().stats["out_packets"] == 1


def test_all_ports(worker_box: WorkerBox, net: Net) -> None:
    """The widest range there is: what comes in at a port goes to the same port of the container."""
    endpoints = [e for e in WORKER_PARAMS["endpoints"] if e["endpoint_id"] != net.games_endpoint]
    (wide,) = (dict(e) for e in WORKER_PARAMS["endpoints"] if e["endpoint_id"] == net.games_endpoint)
    wide |= {"port": 1, "last_port": 65_535, "container_port": 1}
    contents.ensure("worker", {**WORKER_PARAMS, "endpoints": [*endpoints, wide]})
    for port in (1, 255, 256, 32_768, 65_535):
        worker_box.tun.write(games(net, port))
        expect_at_container(worker_box, delivered(net, games(net, port), port, net.games_vip))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda n: relayed_request(n, source=n.edge2_relay), "unknown_edge", id="another edge"),
        pytest.param(lambda n: relayed_request(n, source=n.edge_overlay), "unknown_edge", id="not a relay address"),
        pytest.param(partial(relayed_request, endpoint_id=999), "unknown_endpoint", id="unknown endpoint"),
        pytest.param(partial(relayed_request, endpoint_id=0), "unknown_endpoint", id="endpoint 0"),
        pytest.param(
            lambda n: relayed_request(n, endpoint_id={4: V6, 6: V4}[n.version].echo_endpoint),
            "unknown_endpoint",
            id="the other family's endpoint",
        ),
        pytest.param(
            lambda n: relayed_request(n, request(n, port=ECHO_PORT + 1)), "unknown_endpoint", id="another port"
        ),
        pytest.param(partial(relayed_request, ttl=1), "ttl_expired", id="time to live 1"),
        pytest.param(partial(relayed_request, ttl=0), "ttl_expired", id="time to live 0"),
        pytest.param(lambda n: datagram(n.edge_relay, n.worker_relay, 1, 2), "not_relayed", id="no option"),
        pytest.param(lambda n: tcp(n.edge_relay, n.worker_relay), "not_relayed", id="TCP"),
        pytest.param(lambda n: ping(n.edge_relay, n.worker_relay), "not_relayed", id="ping"),
        pytest.param(lambda n: relayed_request(n)[: n.header + 4], "malformed", id="truncated in the option"),
        pytest.param(
            lambda n: relayed_request(n)[: n.header + n.option + 4], "malformed", id="truncated in the UDP header"
        ),
    ],
)
def test_what_the_tunnel_must_not_bring(
    worker_box: WorkerBox, net: Net, make: Callable[[Net], bytes], reason: str
) -> None:
    watch = worker_box.watch()
    worker_box.tun.write(make(net))
    assert (watch.change().drops, watch.change().stats) == ({reason: 1}, {})
    expect_nothing_at_container(worker_box, net)


def relayed6(*headers: tuple[int, bytes]) -> bytes:
    """A relay packet for a request with extension headers."""
    return relayed_request(V6, extended(request(V6), *headers))


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(relayed_request(V4, head=b"\x9e\x0c\x02"), "bad_option", id="other version"),
        pytest.param(relayed_request(V4, head=b"\x9e\x10"), "not_relayed", id="other length"),
        pytest.param(relayed_request(V4, head=b"\x01\x01"), "not_relayed", id="other option"),
        pytest.param(relayed_request(V6, head=b"\x11\x03"), "bad_option", id="other header length IPv6"),
        pytest.param(relayed_request(V6, head=b"\x11\x02\x5e\x13"), "bad_option", id="shorter option IPv6"),
        pytest.param(relayed_request(V6, head=b"\x11\x02\x5e\x15"), "bad_option", id="longer option IPv6"),
        pytest.param(relayed_request(V6, head=b"\x11\x02\x1e\x14"), "not_relayed", id="other option IPv6"),
        pytest.param(relayed6(*[EMPTY_DESTINATION] * 5), "not_relayed", id="five headers IPv6"),
        pytest.param(relayed6((59, bytes(7))), "not_relayed", id="nothing behind IPv6"),
        pytest.param(extended(relayed_request(V6), HOP_BY_HOP), "not_relayed", id="not the first header IPv6"),
    ],
)
def test_options_that_the_tunnel_must_not_bring(worker_box: WorkerBox, packet: bytes, reason: str) -> None:
    watch = worker_box.watch()
    worker_box.tun.write(packet)
    assert (watch.change().drops, watch.change().stats) == ({reason: 1}, {})
    expect_nothing_at_container(worker_box, V6 if packet[0] >> 4 == 6 else V4)


def test_a_relay_packet_truncated_anywhere(worker_box: WorkerBox, net: Net) -> None:
    """WireGuard lets none through that is shorter than it says; up to the UDP header neither does this."""
    whole = relayed_request(net)
    for length in range(1, net.header + net.option + 8):
        watch = worker_box.watch()
        worker_box.tun.write(whole[:length])
        expected = {"malformed": 1} if length >= net.header else {}
        assert (watch.change().drops, watch.change().stats) == (expected, {}), length
    expect_nothing_at_container(worker_box, net)


def test_ordinary_overlay_traffic_passes(worker_box: WorkerBox, net: Net) -> None:
    watch = worker_box.watch()
    with udp_socket(worker_box.ns, net.worker_overlay, 9999) as mine:
        worker_box.tun.write(datagram(net.edge_overlay, net.worker_overlay, 1234, 9999, b"overlay"))
        data, sender = mine.recvfrom(100)
        assert (data, sender[:2]) == (b"overlay", (net.edge_overlay, 1234))
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def test_the_containers_other_traffic_passes(worker_box: WorkerBox, net: Net) -> None:
    watch = worker_box.watch()
    with udp_socket(worker_box.ns, net.bridge, 53) as resolver:
        worker_box.wire.send(container_frame(datagram(net.container, net.bridge, 5353, 53, b"its own query")))
        data, sender = resolver.recvfrom(100)
        assert (data, sender[:2]) == (b"its own query", (net.container, 5353))
    assert (watch.change().drops, watch.change().stats) == ({}, {})


def relay_of_answer(net: Net, packet: bytes, payload: bytes) -> bytes:
    """A relay packet as the edge must get it from a socket's answer, whatever id and flags its kernel chose.

    The packet that the client gets for it.
    """
    ttl = hops_left(packet)
    assert addresses_of(packet) == packed(net.worker_relay) + packed(net.edge_relay)
    seen = unwrapped(packet, net.echo_vip, net.client, ttl)
    assert packet == wrapped(seen, net.worker_relay, net.edge_relay, net.echo_endpoint, net.client, ttl)
    assert ip_checksum_ok(packet)
    assert udp_checksum_ok(seen)
    assert ports_of(seen) == (ECHO_PORT, SPORT)
    assert payload_of(seen) == payload
    return seen


def any_address(net: Net) -> str:
    """The unspecified address of the family."""
    return "::" if net.version == 6 else "0.0.0.0"


def test_an_application_sees_the_client_and_its_answer_goes_back(worker_box: WorkerBox, net: Net) -> None:
    with udp_socket(worker_box.container, any_address(net), ECHO_CONTAINER_PORT) as application:
        worker_box.tun.write(relayed_request(net))
        data, sender = application.recvfrom(100)
        assert (data, sender[:2]) == (b"query", (net.client, SPORT))
        # The container's kernel leaves the checksum to the device: CHECKSUM_PARTIAL comes to worker_egress.
        for payload in (b"", b"odd", b"even", bytes(1300)):
            application.sendto(payload, (net.client, SPORT))
            relay_of_answer(net, worker_box.tun.read(), payload)


def test_an_applications_checksum_is_never_zero(worker_box: WorkerBox, net: Net) -> None:
    """The same with CHECKSUM_PARTIAL, where the sum is made after all translation."""
    packet = to_zero(partial(echo, net), lambda p: translated(p, source=net.echo_vip, sport=ECHO_PORT))
    with udp_socket(worker_box.container, any_address(net), ECHO_CONTAINER_PORT) as application:
        worker_box.tun.write(relayed_request(net))
        application.recv(100)
        application.sendto(payload_of(packet), (net.client, SPORT))
        seen = relay_of_answer(net, worker_box.tun.read(), payload_of(packet))
        assert udp_checksum_of(seen) == b"\xff\xff"


@pytest.mark.parametrize("size", [1000, 999, 1])
def test_a_segmented_answer_has_the_option_on_every_segment(worker_box: WorkerBox, net: Net, size: int) -> None:
    with udp_socket(worker_box.container, any_address(net), ECHO_CONTAINER_PORT) as application:
        worker_box.tun.write(relayed_request(net))
        application.recv(100)
        watch = worker_box.watch()
        application.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        payload = (bytes(range(250)) * 15)[: size * 40]
        application.sendto(payload, (net.client, SPORT))
        for start in range(0, len(payload), size):
            relay_of_answer(net, worker_box.tun.read(), payload[start : start + size])
        sent = {"out_packets": 1, "out_bytes": net.header + 8 + len(payload)}
        assert (watch.change().drops, watch.change().stats) == ({}, sent), "one packet until wg0 cuts it"


def test_no_udp_checksum_stays_none_both_ways(worker_box: WorkerBox) -> None:
    relay = relayed_request(V4, request(V4, zero_checksum=True))
    worker_box.tun.write(relay)
    packet = expect_at_container(worker_box, delivered(V4, relay))
    assert udp_checksum_of(packet) == b"\0\0"
    worker_box.wire.send(container_frame(echo(V4, zero_checksum=True)))
    out = worker_box.tun.read()
    assert out.hex() == relayed_reply(V4, echo(V4, zero_checksum=True)).hex()
    assert udp_checksum_of(out) == b"\0\0"


def test_an_application_gets_no_ipv6_packet_without_checksum(worker_box: WorkerBox) -> None:
    """It is not made right on the way: the container's kernel drops it (RFC 8200 section 8.1)."""
    with udp_socket(worker_box.container, "::", ECHO_CONTAINER_PORT) as application:
        worker_box.tun.write(relayed_request(V6, request(V6, b"none", zero_checksum=True)))
        worker_box.tun.write(relayed_request(V6, request(V6, b"some")))
        assert application.recv(100) == b"some"


def test_a_flow_that_comes_through_another_edge_is_answered_there(worker_box: WorkerBox, net: Net) -> None:
    other = {"name": "edge2", "relay_address": V4.edge2_relay, "relay_address_ipv6": V6.edge2_relay}
    contents.ensure("worker", {**WORKER_PARAMS, "edges": [*WORKER_PARAMS["edges"], other]})
    for edge in (net.edge_relay, net.edge2_relay, net.edge_relay):
        relay = relayed_request(net, source=edge)
        worker_box.tun.write(relay)
        expect_at_container(worker_box, delivered(net, relay))
        worker_box.wire.send(container_frame(echo(net)))
        assert addresses_of(worker_box.tun.read()) == packed(net.worker_relay) + packed(edge)


def test_the_port_that_the_client_used_is_what_it_is_answered_from(worker_box: WorkerBox, net: Net) -> None:
    relay = relayed_request(net, request(net, vip=net.dns_vip, port=PORT), endpoint_id=net.dns_endpoint)
    worker_box.tun.write(relay)
    expect_at_container(worker_box, delivered(net, relay, PORT, net.dns_vip))
    worker_box.wire.send(container_frame(datagram(net.container, net.client, PORT, SPORT)))
    inner = datagram(net.dns_vip, net.client, PORT, SPORT)
    expected = wrapped(inner, net.worker_relay, net.edge_relay, net.dns_endpoint, net.client, 63)
    assert worker_box.tun.read() == expected


@pytest.mark.parametrize(
    ("ports", "container_port", "expected"),
    [
        ([7, "10-19", 30], None, {7: 7, 10: 10, 19: 19, 30: 30}),
        ([7, 8, 30], ECHO_CONTAINER_PORT, dict.fromkeys((7, 8, 30), ECHO_CONTAINER_PORT)),
    ],
    ids=["the same ports", "one port for all"],
)
def test_the_ports_of_a_list_lead_to_the_containers_and_back(
    worker_box: WorkerBox, net: Net, ports: list[int | str], container_port: int | None, expected: dict[int, int]
) -> None:
    params, vip = planned(ports, container_port)["worker"], net.vip(LISTED_NUMBER)
    contents.ensure("worker", params)
    endpoints = {
        port: endpoint["endpoint_id"]
        for endpoint in params["endpoints"]
        for port in range(endpoint["port"], endpoint["last_port"] + 1)
        if endpoint["vip"] == vip
    }
    for port, inside in expected.items():
        inner = datagram(net.client, vip, SPORT + port, port)
        relay = relayed_request(net, inner, endpoint_id=endpoints[port])
        worker_box.tun.write(relay)
        expect_at_container(worker_box, delivered(net, relay, inside, vip))
    for port, inside in reversed(expected.items()):
        worker_box.wire.send(container_frame(datagram(net.container, net.client, inside, SPORT + port)))
        answer = datagram(vip, net.client, port, SPORT + port)
        wanted = wrapped(answer, net.worker_relay, net.edge_relay, endpoints[port], net.client, 63)
        assert worker_box.tun.read().hex() == wanted.hex(), port


@pytest.fixture
def other_wire(worker_box: WorkerBox, make_netns: Callable[[], Netns]) -> Iterator[Wire]:
    """The end of the bridge that a second container has. The bridge knows who is where, and floods nothing."""
    ns, container = worker_box.ns, make_netns()
    quiet(container)
    ns.run("ip", "link", "add", "veth1", "type", "veth", "peer", "name", "eth0", "netns", container.name)
    container.run("ip", "link", "set", "eth0", "address", OTHER_CONTAINER_MAC, "up")
    ns.run("ip", "link", "set", "veth1", "master", "podman0", "up")
    for port, mac in (("veth0", CONTAINER_MAC), ("veth1", OTHER_CONTAINER_MAC)):
        ns.run("bridge", "fdb", "replace", mac, "dev", port, "master", "static")
    for net in (V4, V6):
        neighbour = (net.other_container, "lladdr", OTHER_CONTAINER_MAC, "dev", "podman0", "nud", "permanent")
        ns.run("ip", "neighbour", "replace", *neighbour)
    wire = Wire(container, "eth0")
    yield wire
    wire.close()


class Leads(NamedTuple):
    """Where an endpoint leads to."""

    endpoint_id: int
    vip: str
    port: int
    container_address: str
    container_port: int

    @property
    def entry(self) -> dict[str, object]:
        """As the plan has it."""
        return {"service": f"service {self.endpoint_id}", "last_port": self.port, **self._asdict()}


def test_each_endpoint_of_a_worker_has_its_own_container_and_its_own_way_back(
    worker_box: WorkerBox, other_wire: Wire, net: Net
) -> None:
    """One client asks them all from one port; they answer in another order."""
    wires = {net.container: (worker_box.wire, CONTAINER_MAC), net.other_container: (other_wire, OTHER_CONTAINER_MAC)}
    endpoints = (
        Leads(net.id(1), net.vip(7), 7, net.container, 7007),
        Leads(net.id(2), net.vip(8), 8, net.container, 7008),
        Leads(net.id(3), net.vip(9), 7, net.other_container, 7007),
        Leads(net.id(4), net.vip(7), 7, net.other_container, 9007),  # another backend of the first one's service
    )
    contents.ensure("worker", {**WORKER_PARAMS, "endpoints": [endpoint.entry for endpoint in endpoints]})
    watch = worker_box.watch()
    for leads in endpoints:
        relay = relayed_request(net, request(net, vip=leads.vip, port=leads.port), endpoint_id=leads.endpoint_id)
        worker_box.tun.write(relay)
        wire, mac = wires[leads.container_address]
        packet = delivered(net, relay, leads.container_port, leads.vip, leads.container_address)
        assert wire.read().hex() == frame(packet, source=BRIDGE_MAC, destination=mac).hex(), leads
    assert not any(wire.take() for wire, _ in wires.values()), "and to nobody else"
    for leads in reversed(endpoints):
        wire, mac = wires[leads.container_address]
        answer = datagram(leads.container_address, net.client, leads.container_port, SPORT)
        wire.send(frame(answer, source=mac, destination=BRIDGE_MAC))
        inner = datagram(leads.vip, net.client, leads.port, SPORT)
        expected = wrapped(inner, net.worker_relay, net.edge_relay, leads.endpoint_id, net.client, 63)
        assert worker_box.tun.read().hex() == expected.hex(), leads
    size = 4 * len(inner)
    counted = {"in_packets": 4, "in_bytes": size, "out_packets": 4, "out_bytes": size}
    assert (watch.change().drops, watch.change().stats) == ({}, counted)


def test_the_families_do_not_mix(worker_box: WorkerBox) -> None:
    """The same ports in both families are two flows."""
    for net in (V4, V6):
        worker_box.tun.write(relayed_request(net))
        expect_at_container(worker_box, delivered(net, relayed_request(net)))
    for net in (V6, V4):
        worker_box.wire.send(container_frame(echo(net)))
        assert worker_box.tun.read().hex() == relayed_reply(net, echo(net)).hex()


def test_without_the_programs_a_relayed_packet_reaches_nobody(worker_box: WorkerBox, net: Net) -> None:
    """The routes of the plan stand, forwarding is on, there is a way out: fail closed all the same."""
    box, build = worker_box, build_of("worker")
    box.ns.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
    box.ns.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    family, relays = f"-{net.version}", {4: "100.96.0.0/11", 6: "fd65:6467:6577:1::/64"}[net.version]
    box.ns.run("ip", family, "route", "add", "default", "via", net.container, "dev", "podman0")
    box.ns.run("ip", family, "route", "add", "blackhole", relays, "table", "7700")
    box.ns.run("ip", family, "rule", "add", "to", relays, "lookup", "7700", "priority", "7700")
    forwarder.ensure(desired("worker", build, present=False), None)
    on_worker, in_container = (
        [udp_socket(ns, any_address(net), port) for port in (PORT, ECHO_PORT, ECHO_CONTAINER_PORT)]
        for ns in (box.ns, box.container)
    )
    raw = raw_udp(box, net)
    headers = net.header + net.option
    forged_for_the_box = finish_header(relayed_request(net)[:headers]) + relayed_request(net)[headers:]
    to_dns = relayed_request(net, request(net, vip=net.dns_vip, port=PORT))
    for packet in (relayed_request(net), to_dns, forged_for_the_box):
        box.tun.write(packet)
    # What comes next on every path is what is sent now, in the ordinary way.
    box.tun.write(datagram(net.edge_overlay, net.worker_overlay, 1, ECHO_PORT, b"marker"))
    box.tun.write(datagram(net.edge_overlay, net.container, 1, ECHO_CONTAINER_PORT, b"marker"))
    assert on_worker[1].recv(100) == b"marker"
    assert raw.recv(100).endswith(b"marker")
    assert in_container[2].recv(100) == b"marker"
    assert payload_of(box.wire.read()[14:]) == b"marker"
    for made in (*on_worker, *in_container, raw):
        assert not has_waiting(made)
        made.close()


def raw_udp(box: WorkerBox, net: Net) -> socket.socket:
    """A raw socket on the worker that gets every UDP packet that is delivered there."""
    with box.ns:
        family = socket.AF_INET6 if net.version == 6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    made.settimeout(5.0)
    return made


def test_a_flow_is_kept_as_long_as_there_is_room(worker_box: WorkerBox, net: Net) -> None:
    """Flows are state: 2,000 clients on a table of 1,024 forget old ones, and the newest is always known."""
    payload, first = b"n", {4: "10.0.0.0", 6: "2001:db8:a::"}[net.version]
    for number in range(2000):
        client = str(ipaddress.ip_address(first) + number)
        inner = datagram(client, net.echo_vip, SPORT, ECHO_PORT, payload)
        worker_box.tun.write(relayed_request(net, inner, client=client))
    worker_box.wire.send(container_frame(echo(net, client=client)))
    assert addresses_of(worker_box.tun.read()) == packed(net.worker_relay) + packed(net.edge_relay)
    keys, _ = worker_box.maps["ew_flows"].read()
    assert 0 < len(keys) // layout.FLOW_KEY.size <= 1024
