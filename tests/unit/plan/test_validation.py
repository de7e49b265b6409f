# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: every kind of problem is found, and all of them are in one message."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.addressing import derived_id
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import plan_fleet

Inventory = dict[str, Any]
MakeFleet = Callable[..., Inventory]

# (path to the value in the inventory, bad value, what the message must say). Each touches a thing
# of its own, so that all of them can be made at once.
HOST_PROBLEMS: list[tuple[str, str, object, str]] = [
    ("edge3", "edgewire_listen_port", 70000, "70000 is not a whole number from 1 to 65535"),
    ("edge4", "edgewire_xdp_mode", "fast", "'fast' is not one of generic, native"),
    ("edge5", "edgewire_uplink", "an-interface-too-long", "is not an interface name"),
    ("edge6", "edgewire_uplink", "wg0", "wg0 is also the edgewire_wireguard_interface"),
    ("edge7", "edgewire_wireguard_mtu", 1280, "1280 is not a whole number from 1304"),
    ("edge8", "edgewire_wireguard_mtu", 1460, "1460 does not fit"),
    ("edge9", "edgewire_metrics_file", "/srv/edgewire.txt", "is not an absolute path that ends in .prom"),
    ("edge9", "edgewire_keepalive", -1, "-1 is not a whole number from 0 to 65535 seconds"),
    ("edge10", "edgewire_route_table", 254, "254 is the table of the kernel (main)"),
    ("edge11", "edgewire_route_protocol", 12, "12 is the protocol number of bird"),
    ("edge12", "edgewire_rule_priority", 32766, "32766 is not a whole number from 1 to 32765"),
    ("edge13", "edgewire_wireguard_transport", "magic", "is not one of auto, kernel, userspace"),
    ("edge14", "edgewire_endpoint_address", "edge.example", "'edge.example' is not an IP address"),
    ("edge15", "edgewire_endpoint_address", "100.64.0.9", "is inside edgewire_overlay_ipv4"),
    ("edge16", "edgewire_id", 2**21 - 1, "is beyond 2097150"),
    ("edge17", "edgewire_id", True, "True is not a whole number"),
    ("edge18", "ansible_host", "localhost", "is not an IP address; set edgewire_endpoint_address"),
    ("edge19", "ansible_host", None, "the host has neither this nor an ansible_host"),
    ("edge20", "edgewire_overlay_ipv4", "10.0.0.0/8", "must be the same everywhere"),
    ("edge21", "edgewire_endpoint_address", ["192.0.2.1"], "['192.0.2.1'] is not an IP address"),
]
_BACKEND = {"worker": "worker1", "address": "10.88.0.9"}
_GOOD = {"name": "x", "vips": ["203.0.113.99"], "ports": [99], "backends": [_BACKEND]}
SERVICE_PROBLEMS: list[tuple[dict[str, Any] | str, str]] = [
    ("text", "'text' is not a mapping"),
    ({"name": "a b"}, "'a b' is not a service name"),
    (
        {"name": "s1", "vips": ["2001:db8::53", "198.51.100.250"]},
        "service s1, backend 1: address_ipv6: VIP 2001:db8::53 is IPv6, and the backend 10.88.0.9 on"
        " worker1 has no IPv6 address",
    ),
    ({"name": "s2", "vips": ["203.0.113.256"]}, "'203.0.113.256' is not an IP address"),
    ({"name": "s3", "vips": "203.0.113.3"}, "is not a list with at least one entry"),
    ({"name": "s4", "vips": ["100.96.0.5"]}, "100.96.0.5 is inside edgewire_relay_ipv4"),
    ({"name": "s5", "vips": ["192.0.2.1"]}, "192.0.2.1 is the underlay address of edge1"),
    ({"name": "s6", "vips": ["224.0.0.1"]}, "is not an address of a single host"),
    ({"name": "s7", "ports": [0]}, "0 is not a port from 1 to 65535"),
    ({"name": "s8", "ports": ["5010-5000"]}, "'5010-5000' is a range backwards"),
    ({"name": "s9", "ports": [7, 7]}, "7 is listed twice"),
    ({"name": "s10", "prots": [53]}, "prots: unknown key"),
    ({"name": "s11", "backends": []}, "no live backend"),
    ({"name": "s12", "backends": [{**_BACKEND, "weight": 0}]}, "every weight is 0"),
    ({"name": "s12d", "backends": [{**_BACKEND, "state": "dead"}]}, "or its backend drains or is dead"),
    ({"name": "s12e", "backends": [{**_BACKEND, "state": "ill"}]}, "'ill' is not one of dead,"),
    ({"name": "s12g", "backends": [{**_BACKEND, "state": "drain"}]}, "or its backend drains or is dead"),
    ({"name": "s12h", "drain_idle": 0}, "drain_idle: 0 is not a whole number from 1 to 86400 seconds"),
    ({"name": "s12i", "drain_deadline": "long"}, "'long' is not a whole number from 1 to 604800 seconds"),
    ({"name": "s12j", "oversize": "drop"}, "'drop' is not one of fragment, refuse"),
    ({"name": "s12k", "table_size": 1024}, "table_size: 1024 is not one of 4096, 16384, 65536"),
    ({"name": "s12l", "table_size": 65537}, "65537 is not one of 4096"),
    ({"name": "s12f", "reply": "fast"}, "'fast' is not one of direct, edge"),
    ({"name": "s13", "backends": [{**_BACKEND, "weight": -1}]}, "-1 is not a whole number from 0"),
    ({"name": "s14", "backends": [{**_BACKEND, "weight": 1.5}]}, "1.5 is not a whole number"),
    ({"name": "s15", "backends": [{**_BACKEND, "worker": "worker9"}]}, "'worker9' is not a host"),
    ({"name": "s16", "backends": [{**_BACKEND, "worker": "edge1"}]}, "'edge1' is not a host in"),
    ({"name": "s17", "backends": [{"worker": "worker1"}]}, "needs an address, an address_ipv6,"),
    ({"name": "s18", "backends": [{**_BACKEND, "prot": 1}]}, "prot: unknown key"),
    ({"name": "s19", "backends": [_BACKEND, {**_BACKEND, "port": 99}]}, "is a backend already"),
    ({"name": "s20", "backends": [{**_BACKEND, "address": "203.0.113.53"}]}, "is a VIP; it must"),
    ({"name": "s21", "backends": [{**_BACKEND, "address": "100.64.1.1"}]}, "is inside edgewire_ov"),
    ({"name": "s21a", "backends": [{**_BACKEND, "name": "a b"}]}, "name: 'a b' is not a backend name"),
    ({"name": "s21b", "backends": [{**_BACKEND, "moved_from": ["worker2"]}]}, "name: a backend that moved needs the"),
    (
        {"name": "s21c", "backends": [{**_BACKEND, "name": "a", "moved_from": ["edge1"]}]},
        "service s21c, backend 1: moved_from: 'edge1' is not a host in group edgewire_workers",
    ),
    (
        {"name": "s21d", "backends": [{**_BACKEND, "name": "a", "moved_from": ["worker1"]}]},
        "worker1 is the worker that the backend is on",
    ),
    (
        {"name": "s21e", "backends": [{**_BACKEND, "name": "a", "moved_from": ["worker2", "worker2"]}]},
        "worker2 is listed twice",
    ),
    ({"name": "s21f", "backends": [{**_BACKEND, "name": "a", "moved_from": "worker2"}]}, "'worker2' is not a list"),
    (
        {"name": "s21g", "backends": [{**_BACKEND, "name": "a"}, {**_BACKEND, "name": "a", "address": "10.88.0.8"}]},
        "a is the name of several: number 1, 2",
    ),
    ({"name": "s22", "backends": ["worker1"]}, "'worker1' is not a mapping"),
    ({"name": "dns"}, "the name is used more than once"),
    ({"name": "s24", "vips": ["203.0.113.53"], "ports": [53]}, "services dns, s24: edgewire_services"),
    (
        {"name": "s26", "backends": [{"worker": "worker1", "address_ipv6": "fd00:88::9"}]},
        "is IPv4, and the backend fd00:88::9 on worker1 has no IPv4 address",
    ),
    ({"name": "s27", "vips": ["fd65:6467:6577:1::5"]}, "::5 is inside edgewire_relay_ipv6"),
    ({"name": "s28", "vips": ["fd65:6467:6577::5"]}, "::5 is inside edgewire_overlay_ipv6"),
    ({"name": "s29", "vips": ["fe80::1"]}, "'fe80::1' is link-local"),
    ({"name": "s30", "vips": ["::ffff:203.0.113.9"]}, "is an IPv4 address in IPv6 clothes"),
    ({"name": "s31", "vips": ["ff02::1"]}, "'ff02::1' is not an address of a single host"),
    ({"name": "s32", "vips": ["2001:db8::1%eth0"]}, "'2001:db8::1%eth0' is not an IP address"),
    ({"name": "s33", "vips": ["2001:db8::33", "2001:DB8:0::33"]}, "2001:db8::33 is listed twice"),
    ({"name": "s34", "ports": ["5000-5010", 5010]}, "5000-5010 and 5010 overlap"),
    ({"name": "s35", "ports": ["all", "5000-5010"]}, "1-65535 and 5000-5010 overlap"),
    ({"name": "s36", "ports": ["65530-65536"]}, "'65530-65536' is not a port from 1 to 65535"),
    ({"name": "s37", "ports": ["ssh"]}, "'ssh' is not a port"),
    ({"name": "s38", "ports": []}, "[] is not a list with at least one entry"),
    ({"name": "s39", "ports": ["1-2-3"]}, "'1-2-3' is not a port"),
    (
        {"name": "s40", "ports": ["100-199"], "backends": [{**_BACKEND, "port": 65500}]},
        "the 100 ports of 100-199 do not fit behind 65500: they would end at 65599",
    ),
    (
        {"name": "s41", "ports": ["100-199"], "backends": [{**_BACKEND, "port": "200-298"}]},
        "200-298 are 99 ports, and the service's 100-199 are 100",
    ),
    (
        {"name": "s42", "ports": [7, "100-199"], "backends": [{**_BACKEND, "port": 200}]},
        "200 could stand for any of the ports 7, 100-199",
    ),
    (
        {"name": "s43", "ports": "all", "backends": [{**_BACKEND, "port": 2}]},
        "the 65535 ports of 1-65535 do not fit behind 2",
    ),
    ({"name": "s44", "affinity": "server"}, "affinity: 'server' is not one of client, flow"),
    (
        {"name": "s45", "ports": ["99-101"], "backends": [_BACKEND, {**_BACKEND, "port": 101}]},
        "backend 2: 10.88.0.9 port 101-103 on worker1 is a backend already: number 1",
    ),
    ({"name": "s50", "sources": ["198.51.100.0/24"]}, "sources: ['198.51.100.0/24'] is not a mapping"),
    ({"name": "s51", "sources": {"alow": []}}, "sources.alow: unknown key; the known ones are allow, deny"),
    ({"name": "s52", "sources": {"allow": "198.51.100.0/24"}}, "sources.allow: '198.51.100.0/24' is not a list"),
    ({"name": "s53", "sources": {"allow": ["198.51.100.7/24"]}}, "198.51.100.7/24 has host bits set"),
    ({"name": "s54", "sources": {"deny": ["198.51.100.7"]}}, "sources.deny: '198.51.100.7' is not a prefix"),
    ({"name": "s55", "sources": {"deny": ["2001:db8::/32", "2001:DB8::/32"]}}, "2001:db8::/32 is listed twice"),
    (
        {"name": "s56", "sources": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.0/24"]}},
        "sources: 192.0.2.0/24 is both allowed and denied",
    ),
    ({"name": "s57", "limits": 1000}, "limits: 1000 is not a mapping"),
    ({"name": "s58", "limits": {"packets": 1}}, "limits.packets: unknown key; the known ones are packets_per_second,"),
    ({"name": "s59", "limits": {"packets_per_second": 0}}, "0 is not a whole number from 1 to 10000000"),
    ({"name": "s60", "limits": {"per_source_burst": 9}}, "says nothing without per_source_packets_per_second"),
    (
        {"name": "s46", "backends": [{**_BACKEND, "address": "fd00:88::9"}]},
        "'fd00:88::9' is an IPv6 address: it belongs in address_ipv6",
    ),
    (
        {"name": "s47", "backends": [{**_BACKEND, "address_ipv6": "10.88.0.47"}]},
        "'10.88.0.47' is an IPv4 address, not an IPv6 one",
    ),
    (
        {"name": "s48", "backends": [{**_BACKEND, "address_ipv6": "fd65:6467:6577::48"}]},
        "address fd65:6467:6577::48 is inside edgewire_overlay_ipv6",
    ),
    (
        {"name": "s49", "vips": ["2001:db8::49"], "backends": [{"worker": "x", "address": "10.0.0.1"}]},
        "service s49, backend 1: address_ipv6: VIP 2001:db8::49 is IPv6",
    ),
]


def service(change: dict[str, Any] | str, number: int) -> Any:
    """A good service with something wrong in it, on a VIP of its own."""
    if isinstance(change, str):
        return change
    return {**_GOOD, "vips": [f"198.51.100.{number}"], **change}


def message(fleet: Inventory, keys: dict[str, str] | None = None) -> str:
    with pytest.raises(EdgewireError) as caught:
        plan_fleet(fleet, keys or {})
    return str(caught.value)


@pytest.fixture
def big(make_fleet: MakeFleet) -> Inventory:
    return make_fleet(30, 2)


@pytest.mark.parametrize(("host", "variable", "value", "complaint"), HOST_PROBLEMS)
def test_a_bad_host_variable(host: str, variable: str, value: object, complaint: str, big: Inventory) -> None:
    big["hosts"][host][variable] = value
    text = message(big)
    assert text.startswith("1 problem in the inventory")
    assert host in text
    assert complaint in text
    assert variable in text or value is None


@pytest.mark.parametrize(("change", "complaint"), SERVICE_PROBLEMS)
def test_a_bad_service(change: dict[str, Any] | str, complaint: str, big: Inventory) -> None:
    big["vars"]["edgewire_services"].append(service(change, 1))
    text = message(big)
    assert complaint in text
    assert "service" in text


def duplicate_id(fleet: Inventory) -> str:
    fleet["hosts"]["edge1"]["edgewire_id"] = fleet["hosts"]["worker1"]["edgewire_id"] = 77
    return "id 77, and so every overlay and relay address, is shared by edge1 (pinned), worker1"


def derived_collision(fleet: Inventory) -> str:
    number = derived_id("edge2", 2**21 - 2)
    del fleet["hosts"]["edge2"]["edgewire_id"]
    fleet["hosts"]["worker2"]["edgewire_id"] = number
    return "pin edgewire_id of edge2 to another, such as "


def same_endpoint(fleet: Inventory) -> str:
    fleet["hosts"]["edge22"]["ansible_host"] = fleet["hosts"]["edge23"]["ansible_host"]
    return "edge22, edge23: edgewire_endpoint_address"


def unknown_member(fleet: Inventory) -> str:
    fleet["groups"]["edgewire_edges"].append("ghost")
    return "host ghost has no variables in the inventory"


def bad_name(fleet: Inventory) -> str:
    fleet["groups"]["edgewire_edges"].append("../etc/passwd")
    return "'../etc/passwd' cannot be a host's name"


def reserved_name(fleet: Inventory) -> str:
    fleet["groups"]["edgewire_edges"].append("manifest")
    return "'manifest' cannot be a host's name"


def both_groups(fleet: Inventory) -> str:
    fleet["groups"]["edgewire_workers"].append("edge24")
    return "edge24: in both edgewire_edges and edgewire_workers"


def no_group(fleet: Inventory) -> str:
    fleet["hosts"]["stray"] = {"ansible_host": "192.0.2.240"}
    return "stray: in neither edgewire_edges nor edgewire_workers"


def overlapping_prefixes(fleet: Inventory) -> str:
    fleet["vars"]["edgewire_relay_ipv6"] = "fd65:6467:6577::/48"
    return "overlaps edgewire_relay_ipv6"


def prefix_with_host_bits(fleet: Inventory) -> str:
    fleet["vars"]["edgewire_relay_ipv4"] = "100.96.0.1/11"
    return "edgewire_relay_ipv4: '100.96.0.1/11' is not a prefix"


def unknown_section(fleet: Inventory) -> str:
    fleet["group"] = {}
    return "the inventory: group: unknown key"


def unknown_topology(fleet: Inventory) -> str:
    fleet["vars"]["edgewire_topology"] = "star"
    return "the fleet: edgewire_topology: 'star' is not one of bipartite, full"


def unknown_peer(fleet: Inventory) -> str:
    fleet["vars"]["edgewire_peer_groups"] = {"site": ["edge1", "worker99"]}
    return "edgewire_peer_groups.site: 'worker99' is not a host of the fleet"


OTHERS = [
    unknown_topology,
    unknown_peer,
    duplicate_id,
    derived_collision,
    same_endpoint,
    unknown_member,
    bad_name,
    reserved_name,
    both_groups,
    no_group,
    overlapping_prefixes,
    prefix_with_host_bits,
    unknown_section,
]


@pytest.mark.parametrize("spoil", OTHERS)
def test_a_problem_between_things(spoil: Callable[[Inventory], str], big: Inventory) -> None:
    complaint = spoil(big)
    assert complaint in message(big)


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        (["edge1", "edge2"], "is not a mapping of groups to lists of hosts"),
        ({"site": "edge1"}, "site: 'edge1' is not a list of hosts"),
        ({"site": ["edge1", 2]}, "site: ['edge1', 2] is not a list of hosts"),
        ({"site": ["edge1", "edge1"]}, "names a host twice"),
        ({"site": ["edge1"]}, "is not a list of two hosts or more"),
    ],
)
def test_bad_peer_groups(groups: Any, complaint: str, big: Inventory) -> None:
    big["vars"]["edgewire_peer_groups"] = groups
    assert complaint in message(big)


def test_everything_wrong_is_listed_at_once(big: Inventory, key_of: Callable[[str], str]) -> None:
    expected = [spoil(big) for spoil in OTHERS]
    for host, variable, value, complaint in HOST_PROBLEMS:
        big["hosts"][host][variable] = value
        expected.append(complaint)
    for number, (change, complaint) in enumerate(SERVICE_PROBLEMS, start=1):
        big["vars"]["edgewire_services"].append(service(copy.deepcopy(change), number))
        expected.append(complaint)
    key = key_of("cloned")
    text = message(big, {"edge1": key, "edge2": key, "gone": key})
    expected.append(f"edge1, edge2: edgewire_public_keys: {key} is the key of each of them")
    assert [complaint for complaint in expected if complaint not in text] == []
    lines = text.splitlines()
    assert lines[0] == f"{len(lines) - 1} problems in the inventory; nothing was changed:"
    assert [line.split(".")[0].strip() for line in lines[1:]] == [str(number) for number in range(1, len(lines))]
    bare = [line.split(". ", 1)[1] for line in lines[1:]]
    assert bare == sorted(bare)


def test_the_claims_of_two_services_on_one_port_are_both_named(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    vips = ["203.0.113.53", "2001:db8::53"]
    backend = {"worker": "worker1", "address": "10.88.0.9", "address_ipv6": "fd00:88::9"}
    game = {"name": "game", "vips": vips, "ports": ["50-60"], "backends": [backend]}
    every = {"name": "every", "vips": vips[1:], "ports": "all", "backends": [backend]}
    fleet["vars"]["edgewire_services"] += [game, every]
    assert message(fleet).splitlines() == [
        "2 problems in the inventory; nothing was changed:",
        "  1. services dns, game: edgewire_services: 203.0.113.53 port 53 of dns and port 50-60 of game overlap",
        "  2. services every, game: edgewire_services: 2001:db8::53 port 1-65535 of every"
        " and port 50-60 of game overlap",
    ]


@pytest.mark.parametrize("group", ["edgewire_edges", "edgewire_workers"])
def test_an_empty_group(group: str, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(1, 1)
    del fleet["groups"][group]
    assert f"group {group}: the group is missing or empty" in message(fleet)


@pytest.mark.parametrize("raw", [{"dns": {}}, "dns", 5])
def test_services_of_another_type(raw: object, make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet["vars"]["edgewire_services"] = raw
    assert "is not a list of services" in message(fleet)


def test_one_wrong_group_variable_is_one_line(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(20, 20)
    fleet["vars"]["edgewire_keepalive"] = "often"
    text = message(fleet)
    assert text.startswith("1 problem ")
    assert "and 32 more: edgewire_keepalive: 'often' is not a whole number" in text


def test_what_is_fine(make_fleet: MakeFleet, key_of: Callable[[str], str]) -> None:
    """Numbers as decimal strings, null for not set, a key of a host that is gone; one container
    behind several VIPs is allowed, and what it costs is said.
    """
    fleet = make_fleet()
    fleet["hosts"]["edge1"].update(edgewire_listen_port="51821", edgewire_keepalive=None)
    backend = {"worker": "worker1", "address": "10.88.0.53", "port": 53, "weight": "2"}
    for last in (1, 2):
        fleet["vars"]["edgewire_services"].append(
            {
                "name": f"s{last}",
                "vips": [f"203.0.113.{last}"],
                "ports": ["53"],
                "backends": [backend],
            }
        )
    keys = {name: key_of(name) for name in fleet["hosts"]}
    plan = plan_fleet(fleet, {**keys, "gone": key_of("edge1")})
    (warning,) = plan.warnings
    assert "several VIPs or ports lead to one port of a container of dns, s1, s2:" in warning
    worker = plan.hosts[2]
    assert worker.wireguard.peers[0].endpoint == "192.0.2.1:51821"
    assert worker.worker is not None
    assert len(worker.worker.endpoints) == 3


def test_a_misspelt_variable_is_a_warning(make_fleet: MakeFleet, key_of: Callable[[str], str]) -> None:
    fleet = make_fleet()
    fleet["hosts"]["edge1"]["edgewire_listen_prot"] = 5
    fleet["hosts"]["edge1"]["edgewire_key"] = {}
    plan = plan_fleet(fleet, {name: key_of(name) for name in fleet["hosts"]})
    assert plan.warnings == ("edgewire_listen_prot is set but nothing reads it: is edgewire_listen_port meant?",)
