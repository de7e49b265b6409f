# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet filters of the edge, on the real program: lists of sources, rates, and what they count."""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import contents, edge_state, layout, libbpf, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import BackendWanted, ServiceWanted
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.filters import (
    FilterWanted,
    Rate,
    Source,
    source_of,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.verify import probe
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EDGE_PARAMS,
    EDGE_RELAYS,
    PORT,
    V4,
    V6,
    WORKER_RELAYS,
    XDP_DROP,
    XDP_PASS,
    Box,
    Net,
    Programs,
    Watch,
    datagram,
    examples,
    extended,
    fragment_header,
    frame,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import GRE
from scapy.packet import Packet

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

SPORT = 40_000
SECOND = 1_000_000_000
# Slow enough for a bucket not to gain a packet while a test runs.
ONE_A_MINUTE = SECOND * 60


def services(net: Net) -> tuple[ServiceWanted, ...]:
    """The service "dns", and "open" beside it on the same VIP."""
    backends = (BackendWanted(net.dns_endpoint, "worker1", 1),)
    others = (BackendWanted(net.echo_endpoint, "worker1", 1),)
    return (
        ServiceWanted("dns", net.dns_vip, PORT, PORT, backends),
        ServiceWanted("open", net.dns_vip, PORT + 1, PORT + 1, others),
    )


SERVICES = services(V4) + services(V6)


def listed(*networks: str) -> frozenset[Source]:
    """A list: "+198.51.100.0/24" allows, "-198.51.100.0/24" denies."""
    return frozenset(source_of(network[1:], allowed=network[0] == "+") for network in networks)


@pytest.fixture
def edge(edge_programs: Programs) -> Iterator[Programs]:
    """The edge's programs, which have heard of no source; whatever filters a test made are gone afterwards."""
    heard_of, _ = edge_programs.maps["ew_source_buckets"].read()
    size = layout.SOURCE_RATE_KEY.size
    keys = [heard_of[start : start + size] for start in range(0, len(heard_of), size)]
    map_io.write(edge_programs.maps, [("ew_source_buckets", key, None) for key in keys])
    yield edge_programs
    edge_programs.fill_edge(*SERVICES)


def query(net: Net, client: str = "", port: int = PORT) -> bytes:
    """A frame of a client's packet."""
    return frame(datagram(client or net.client, net.dns_vip, SPORT, port))


def verdict(edge: Programs, data: bytes) -> str:
    """What becomes of a frame: "passed", or the reason it is dropped for, counted once and for nothing else."""
    watch = Watch(edge.maps)
    result = edge.run("edge_xdp", data)
    change = watch.change()
    if result.retval == XDP_PASS:
        assert (change.drops, change.stats["in_packets"]) == ({}, 1)
        return "passed"
    assert (result.retval, change.stats) == (XDP_DROP, {})
    ((reason, count),) = change.drops.items()
    assert count == 1
    return reason


def filtered(edge: Programs, net: Net) -> dict[str, int]:
    """What the filter of "dns" counted, summed over the CPUs."""
    entry = edge_state.entries_of((net.dns_vip, PORT, PORT))[0]
    index = edge_state.read(edge.maps).entries[entry]["filter"]
    cpus = libbpf.possible_cpus()
    rows = list(layout.FILTERED.iter_unpack(edge.maps["ew_filtered"].read()[1]))[index * cpus : (index + 1) * cpus]
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    return {name: count for name, count in total.items() if count}


LISTS = {
    4: ("198.51.100.0/24", "198.51.100.7/32", "192.0.2.77/32", "0.0.0.0/0"),
    6: ("2001:db8:c::/64", "2001:db8:c::7/128", "2001:db8:77::/64", "::/0"),
}


@pytest.mark.parametrize(
    ("networks", "client", "far_client"),
    [
        pytest.param("-{0}", "source_denied", "passed", id="denied network"),
        pytest.param("+{0}", "passed", "source_denied", id="allowed network: nobody else"),
        pytest.param("-{0} +{1}", "passed", "source_denied", id="allowed inside denied"),
        pytest.param("+{0} -{1}", "source_denied", "source_denied", id="denied inside allowed"),
        pytest.param("+{2}", "source_denied", "passed", id="another host allowed"),
        pytest.param("-{3} +{2}", "source_denied", "passed", id="all denied but one"),
        pytest.param("+{3} -{1}", "source_denied", "passed", id="all allowed but one"),
    ],
)
def test_the_longest_network_decides(edge: Programs, net: Net, networks: str, client: str, far_client: str) -> None:
    sources = listed(*networks.format(*LISTS[net.version]).split())
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", sources),))
    assert (verdict(edge, query(net)), verdict(edge, query(net, net.far_client))) == (client, far_client)
    assert filtered(edge, net) == (
        {"source_denied": [client, far_client].count("source_denied")}
        if "source_denied" in (client, far_client)
        else {}
    )


def test_a_filter_is_for_its_service_only(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", listed("+192.0.2.1/32")),))
    assert verdict(edge, query(net)) == "source_denied"
    assert verdict(edge, query(net, port=PORT + 1)) == "passed"


def test_an_allow_list_of_one_family_denies_the_other(edge: Programs) -> None:
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", listed(f"+{V4.client}/32")),))
    assert (verdict(edge, query(V4)), verdict(edge, query(V6))) == ("passed", "source_denied")


def test_a_list_of_one_service_says_nothing_of_anothers(edge: Programs, net: Net) -> None:
    """Two lists in one trie: the other's longer network does not count."""
    wide, narrow = LISTS[net.version][:2]
    filters = (FilterWanted("dns", listed(f"-{wide}")), FilterWanted("open", listed(f"+{narrow}")))
    edge.fill_edge(*SERVICES, filters=filters)
    assert verdict(edge, query(net)) == "source_denied"
    assert verdict(edge, query(net, port=PORT + 1)) == "passed"
    assert verdict(edge, query(net, net.far_client, PORT + 1)) == "source_denied"


def test_removing_a_filter_opens_the_service(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", listed("+192.0.2.1/32")),))
    edge.fill_edge(*SERVICES)
    assert verdict(edge, query(net)) == "passed"
    assert edge_state.read(edge.maps).filters.filters == {}
    assert edge_state.read(edge.maps).filters.lists == {}


def test_an_entry_that_names_no_filter_lets_nobody_in(edge: Programs, net: Net) -> None:
    """An index whose filter is empty, and one that is beyond the map."""
    edge.fill_edge(*SERVICES)
    entry = edge_state.entries_of((net.dns_vip, PORT, PORT))[0]
    record = edge_state.read(edge.maps).entries[entry]
    for index in (5, 1_000_000):
        edge.put_service(entry, layout.SERVICE.pack({**record, "filter": index}))
        assert verdict(edge, query(net)) == "source_denied"


near_v4 = st.integers(0, 255).map(lambda low: int(ipaddress.ip_address("198.51.100.0")) + low)
near_v6 = st.integers(0, 65535).map(lambda low: int(ipaddress.ip_address("2001:db8::")) + (low << 56))


@st.composite
def networks(draw: st.DrawFn) -> IPv4Network | IPv6Network:
    """A network of either family; many hold one another."""
    if draw(st.booleans()):
        number, bits = draw(near_v4 | st.integers(0, 2**32 - 1)), draw(st.integers(0, 32))
        return IPv4Network((number >> (32 - bits) << (32 - bits), bits))
    number, bits = draw(near_v6 | st.integers(0, 2**128 - 1)), draw(st.integers(0, 128))
    return IPv6Network((number >> (128 - bits) << (128 - bits), bits))


def said_by_ipaddress(held: dict[IPv4Network | IPv6Network, bool], client: str) -> bool:
    """What the longest network that has the client says, by Python's own arithmetic."""
    address = ipaddress.ip_address(client)
    having = [network for network in held if network.version == address.version and address in network]
    if not having:
        return not any(held.values())
    return held[max(having, key=lambda network: network.prefixlen)]


@examples(60)
@given(
    held=st.dictionaries(networks(), st.booleans(), min_size=1, max_size=12),
    others=st.dictionaries(networks(), st.booleans(), max_size=4),
    numbers=st.lists(near_v4 | st.integers(2**24, 2**32 - 1), min_size=1, max_size=6),
    numbers6=st.lists(near_v6 | st.integers(2**120, 2**128 - 1), min_size=1, max_size=6),
)
def test_the_trie_says_what_ipaddress_says(
    edge: Programs,
    held: dict[IPv4Network | IPv6Network, bool],
    others: dict[IPv4Network | IPv6Network, bool],
    numbers: list[int],
    numbers6: list[int],
) -> None:
    def wanted(name: str, said: dict[IPv4Network | IPv6Network, bool]) -> FilterWanted:
        return FilterWanted(name, frozenset(source_of(str(n), allowed=allowed) for n, allowed in said.items()))

    dns = wanted("dns", held)
    edge.fill_edge(*SERVICES, filters=(dns, wanted("open", others)) if others else (dns,))
    clients = [(V4, str(ipaddress.IPv4Address(n))) for n in numbers]
    clients += [(V6, str(ipaddress.IPv6Address(n))) for n in numbers6]
    for network in held:  # the borders of the networks themselves
        net = V4 if network.version == 4 else V6
        clients += [(net, str(network[0])), (net, str(network[-1]))]
    for net, client in clients:
        expected = said_by_ipaddress(held, client)
        assert dns.lets_in(client) == expected
        ran = edge.run("edge_xdp", frame(datagram(client, net.dns_vip, SPORT, PORT)))
        assert ran.retval == (XDP_PASS if expected else XDP_DROP), client


def rated(rate: Rate | None = None, source_rate: Rate | None = None, name: str = "dns") -> FilterWanted:
    """A filter that limits."""
    return FilterWanted(name, frozenset(), rate or Rate(), source_rate or Rate())


class Slow(Rate):
    """One packet a minute: a bucket gains nothing while a test runs."""

    @property
    def interval(self) -> int:
        """Nanoseconds between two packets."""
        return ONE_A_MINUTE


def test_a_service_gets_its_burst_and_no_more(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES, filters=(rated(Slow(1, 3)),))
    clients = [net.client, net.far_client] * 3
    said = [verdict(edge, query(net, client)) for client in clients]
    assert said == ["passed"] * 3 + ["service_rate"] * 3
    assert filtered(edge, net) == {"service_rate": 3}
    assert verdict(edge, query(net, port=PORT + 1)) == "passed"


def test_all_vips_of_a_service_share_its_bucket(edge: Programs) -> None:
    edge.fill_edge(*SERVICES, filters=(rated(Slow(1, 2)),))
    said = [verdict(edge, query(net)) for net in (V4, V6, V4, V6)]
    assert said == ["passed", "passed", "service_rate", "service_rate"]


def test_each_source_gets_its_burst_and_no_more(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES, filters=(rated(source_rate=Slow(1, 2)),))
    said = [(verdict(edge, query(net)), verdict(edge, query(net, net.far_client))) for _ in range(4)]
    assert said == [("passed", "passed")] * 2 + [("source_rate", "source_rate")] * 2
    assert filtered(edge, net) == {"source_rate": 4}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("198.51.100.7", "198.51.100.6", False),
        ("2001:db8:c::7", "2001:db8:c::ffff:1", True),
        ("2001:db8:c::7", "2001:db8:c:1::7", False),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_64(edge: Programs, one: str, other: str, same: bool) -> None:
    net = V6 if ":" in one else V4
    edge.fill_edge(*SERVICES, filters=(rated(source_rate=Slow(1, 1)),))
    assert verdict(edge, query(net, one)) == "passed"
    assert verdict(edge, query(net, other)) == ("source_rate" if same else "passed")


def test_a_source_is_limited_for_each_service_by_itself(edge: Programs, net: Net) -> None:
    slow = Slow(1, 1)
    edge.fill_edge(*SERVICES, filters=(rated(source_rate=slow), rated(source_rate=slow, name="open")))
    for port in (PORT, PORT + 1):
        assert [verdict(edge, query(net, port=port)) for _ in range(2)] == ["passed", "source_rate"]


def test_one_loud_source_takes_nothing_from_the_others(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES, filters=(rated(Slow(1, 4), Slow(1, 2)),))
    assert [verdict(edge, query(net)) for _ in range(6)] == ["passed"] * 2 + ["source_rate"] * 4
    assert [verdict(edge, query(net, net.far_client)) for _ in range(2)] == ["passed"] * 2
    assert verdict(edge, query(net, net.uplink)) == "service_rate"


def test_a_flood_from_ever_new_sources_does_not_fill_the_table_of_sources(edge: Programs, net: Net) -> None:
    """What the service refuses anyway is not remembered: the table keeps room for those who are served."""
    edge.fill_edge(*SERVICES, filters=(rated(Slow(1, 2), Slow(1, 1)),))
    for number in range(1, 21):
        client = f"198.18.0.{number}" if net.version == 4 else f"2001:db8:{number:x}::1"
        edge.run("edge_xdp", query(net, client))
    assert len(edge.maps["ew_source_buckets"].read()[0]) == 2 * layout.SOURCE_RATE_KEY.size


def test_a_denied_source_uses_up_no_rate(edge: Programs, net: Net) -> None:
    denied = replace(rated(Slow(1, 1)), sources=listed(f"-{net.far_client}"))
    edge.fill_edge(*SERVICES, filters=(denied,))
    assert [verdict(edge, query(net, net.far_client)) for _ in range(3)] == ["source_denied"] * 3
    assert verdict(edge, query(net)) == "passed"


@pytest.mark.parametrize("kind", ["rate", "source_rate"])
def test_a_bucket_fills_at_its_rate(edge: Programs, net: Net, kind: str) -> None:
    """In one long test run the program sees far more packets than the rate; what passes is burst and rate × time."""
    # The burst is of 500 ms: a virtual processor that does not run for so long gets what it has missed afterwards.
    rate = Rate(100_000, 50_000)
    packet, length_at = datagram(net.client, net.dns_vip, SPORT, PORT), 4 if net is V6 else 2
    # Longer than it is, so it is dropped after the filter: nothing is rewritten.
    data = frame(packet[:length_at] + b"\xff\xff" + packet[length_at + 2 :])
    started = time.monotonic_ns()
    edge.fill_edge(*SERVICES, filters=(rated(**{kind: rate}),))
    watch = Watch(edge.maps)
    repeat = 400_000
    took = libbpf.run_program(edge.fds["edge_xdp"], data, repeat=repeat).duration * repeat
    drops = watch.change().drops
    refused = drops[{"rate": "service_rate", "source_rate": "source_rate"}[kind]]
    passed = repeat - refused
    assert sum(drops.values()) == repeat
    # The kernel's duration leaves out what it waited between two of its turns; the clock here has that and more.
    elapsed = time.monotonic_ns() - started
    assert rate.per_second * took * 0.98 / SECOND + rate.burst - 2 <= passed
    assert passed <= rate.per_second * elapsed / SECOND + rate.burst + 2


def test_a_changed_list_is_another_list(edge: Programs, net: Net) -> None:
    wide, narrow = LISTS[net.version][:2]
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", listed(f"-{wide}")),))
    before = edge_state.read(edge.maps).filters
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", listed(f"-{wide}", f"+{narrow}")),))
    after = edge_state.read(edge.maps).filters
    assert not set(before.lists) & set(after.lists)
    assert not set(before.filters) & set(after.filters)
    assert verdict(edge, query(net)) == "passed"


def test_equal_lists_are_one(edge: Programs) -> None:
    sources = listed("-192.0.2.0/24", "-2001:db8::/32")
    edge.fill_edge(*SERVICES, filters=(FilterWanted("dns", sources), FilterWanted("open", sources)))
    state = edge_state.read(edge.maps).filters
    assert (len(state.lists), len(state.filters)) == (1, 2)


@pytest.mark.parametrize(
    ("wanted", "relayed"),
    [
        pytest.param((), True, id="no filter"),
        pytest.param((FilterWanted("dns", listed("-0.0.0.0/0", "-::/0")),), False, id="nobody"),
        pytest.param((FilterWanted("dns", listed("+192.0.2.0/24", "+2001:db8:77::/64")),), True, id="some"),
        pytest.param(
            (FilterWanted("dns", listed("+192.0.2.0/24", "-192.0.2.0/32", "+2001:db8::/32", "-2001:db8::/128")),),
            False,
            id="some, but not the first of them",
        ),
    ],
)
def test_the_probe_comes_from_a_client_that_is_let_in(
    edge: Programs, wanted: tuple[FilterWanted, ...], relayed: bool
) -> None:
    edge.fill_edge(*SERVICES, filters=wanted)
    held = edge_state.EdgeWanted(EDGE_RELAYS, 1, 1, {"worker1": WORKER_RELAYS}, SERVICES, filters=wanted)
    results = {r.service.text: r for r in probe.run_probes(edge.fds["edge_xdp"], held)}
    assert all(result.right for result in results.values())
    for net in (V4, V6):
        result = results[services(net)[0].text]
        assert result.expected["verdict"] == ("XDP_PASS" if relayed else "XDP_DROP")


def test_a_probe_that_is_one_packet_too_many_is_no_drift(edge: Programs) -> None:
    wanted = (rated(Slow(1, 1)),)
    edge.fill_edge(*SERVICES, filters=wanted)
    held = edge_state.EdgeWanted(EDGE_RELAYS, 1, 1, {"worker1": WORKER_RELAYS}, SERVICES, filters=wanted)
    results = list(probe.run_probes(edge.fds["edge_xdp"], held))
    assert [result.found["verdict"] for result in results].count("XDP_DROP") == 1
    assert all(result.right for result in results)
    edge.fill_edge(*SERVICES, filters=(FilterWanted("open", listed("-198.18.0.0/15")),))
    wrong = [result.service.name for result in probe.run_probes(edge.fds["edge_xdp"], held) if not result.right]
    assert wrong == ["open"]


def other(net: Net, layer: Packet, destination: str) -> bytes:
    """A frame with something else than UDP in it."""
    return frame(bytes((IPv6 if net.version == 6 else IP)(src=net.client, dst=destination) / layer))


def unserved(net: Net) -> dict[str, bytes]:
    """What is for the VIP and for none of its services."""
    return {
        "port of no service": query(net, port=PORT + 9),
        "TCP": other(net, TCP(dport=PORT), net.dns_vip),
        "another protocol": other(net, GRE(), net.dns_vip),
    }


def not_unserved(net: Net) -> dict[str, bytes]:
    """What is for the VIP and must work, and what is for others."""
    echo = ICMPv6EchoRequest() if net.version == 6 else ICMP()
    error = ICMPv6DestUnreach() if net.version == 6 else ICMP(type=3, code=3)
    kinds = {
        "another host's port": frame(datagram(net.client, net.nowhere, SPORT, PORT)),
        "another host's TCP": other(net, TCP(dport=PORT), net.nowhere),
        "echo": other(net, echo, net.dns_vip),
        "error": other(net, error, net.dns_vip),
        "ARP": frame(datagram(net.client, net.dns_vip, SPORT, PORT), ethertype=0x0806),
    }
    if net.version == 6:
        kinds["neighbour discovery"] = other(net, ICMPv6ND_NS(tgt=net.dns_vip), net.dns_vip)
        kinds["big echo"] = frame(extended(bytes(IPv6(src=net.client, dst=net.dns_vip) / echo), fragment_header(3)))
    return kinds


@pytest.mark.parametrize("vlan", [b"", b"\x81\x00\x00\x07"], ids=["untagged", "tagged"])
def test_what_no_service_wants_is_dropped_where_told_to(edge: Programs, net: Net, vlan: bytes) -> None:
    edge.fill_edge(*SERVICES, drop_unserved=True)
    for name, data in unserved(net).items():
        watch = Watch(edge.maps)
        assert edge.run("edge_xdp", data[:12] + vlan + data[12:]).retval == XDP_DROP, name
        assert watch.change().drops == {"not_a_service": 1}, name
    assert verdict(edge, query(net)) == "passed"


def test_what_must_work_on_a_vip_is_left_to_the_host(edge: Programs, net: Net) -> None:
    """Whatever marks it bears for edge_handoff, it is not dropped for being no service's."""
    edge.fill_edge(*SERVICES, drop_unserved=True)
    for name, data in not_unserved(net).items():
        watch = Watch(edge.maps)
        ran = edge.run("edge_xdp", data)
        assert (ran.retval, ran.data[-len(data) :], watch.change().drops) == (XDP_PASS, data, {}), name


def test_what_no_service_wants_is_the_hosts_where_nothing_is_told(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES)
    for name, data in unserved(net).items():
        ran = edge.run("edge_xdp", data)
        assert (ran.retval, ran.data) == (XDP_PASS, data), name


def test_a_header_is_all_that_is_needed_to_drop(edge: Programs, net: Net) -> None:
    edge.fill_edge(*SERVICES, drop_unserved=True)
    data = other(net, TCP(dport=PORT), net.dns_vip)
    shortest = 14 + (40 if net.version == 6 else 20)
    for length in range(shortest, shortest + 9):
        assert edge.run("edge_xdp", data[:length]).retval == XDP_DROP


@pytest.mark.parametrize("told", [False, True])
def test_a_fragmented_datagram_that_no_service_wants(edge_box: Box, net: Net, told: bool) -> None:
    contents.ensure("edge", {**EDGE_PARAMS, "drop_unserved": told})
    flags = {"flags": "MF"} if net.version == 4 else {}
    packet = datagram(net.client, net.dns_vip, SPORT, PORT + 9, bytes(64), **flags)
    if net.version == 6:
        packet = extended(packet, fragment_header(0, more=True))
    watch = edge_box.watch()
    edge_box.wire.send(frame(packet))
    edge_box.wire.send(query(net))
    edge_box.tun.read()  # what was sent before has been looked at, too
    assert watch.change().drops == ({"not_a_service": 1} if told else {})
