# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold for the plan of any fleet."""

from __future__ import annotations

import copy
import ipaddress
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.build import FleetPlan, plan_fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.model import HostPlan
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.render import Renderer
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.store import joined
from hypothesis import given
from hypothesis import strategies as st

Inventory = dict[str, Any]
KeyOf = Callable[[str], str]
Fleets = st.SearchStrategy[Inventory]


def keys_for(fleet: Inventory, key_of: KeyOf) -> dict[str, str]:
    return {name: key_of(name) for name in fleet["hosts"]}


def rendered(plan: FleetPlan) -> dict[str, bytes]:
    renderer = Renderer(plan.hosts)
    return {host.host: renderer.render(host) for host in plan.hosts}


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same data with every list and mapping in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, dice)) for key, item in value.items()]
        dice.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return dice.sample([shuffled(item, dice) for item in value], len(value))
    return value


@given(data=st.data(), seed=st.integers())
def test_the_order_of_the_inventory_does_not_matter(
    data: st.DataObject, seed: int, fleets: Fleets, key_of: KeyOf
) -> None:
    fleet = data.draw(fleets)
    keys = keys_for(fleet, key_of)
    dice = random.Random(seed)
    one = plan_fleet(fleet, keys)
    other = plan_fleet(shuffled(fleet, dice), shuffled(keys, dice))
    assert rendered(one) == rendered(other)


@given(data=st.data())
def test_peers_are_mutual_and_only_between_edges_and_workers(
    data: st.DataObject, fleets: Fleets, key_of: KeyOf
) -> None:
    fleet = data.draw(fleets)
    keys = keys_for(fleet, key_of)
    for name in data.draw(st.sets(st.sampled_from(sorted(keys)))):
        del keys[name]
    plan = plan_fleet(fleet, keys)
    peers = {host.host: {peer.name for peer in host.wireguard.peers} for host in plan.hosts}
    edges = set(fleet["groups"]["edgewire_edges"])
    for host in peers:
        others = set(peers) - edges if host in edges else edges
        assert peers[host] == others & set(keys)
    assert set(plan.missing_keys) == set(peers) - set(keys)
    for a, b in itertools.combinations(sorted(keys), 2):
        assert (a in peers[b]) == (b in peers[a])


@given(data=st.data())
def test_peers_by_choice(data: st.DataObject, fleets: Fleets, key_of: KeyOf) -> None:
    """In a full mesh everybody is everybody's peer; in a group all of its members, besides what they are without."""
    fleet = data.draw(fleets)
    keys, names = keys_for(fleet, key_of), sorted(fleet["hosts"])
    plain = {host.host: {peer.name for peer in host.wireguard.peers} for host in plan_fleet(fleet, keys).hosts}
    members = data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=5, unique=True))
    grouped = {**fleet, "vars": {**fleet["vars"], "edgewire_peer_groups": {"site": members}}}
    full = {**fleet, "vars": {**fleet["vars"], "edgewire_topology": "full"}}
    for host in plan_fleet(grouped, keys).hosts:
        more = set(members) - {host.host} if host.host in members else set()
        assert [peer.name for peer in host.wireguard.peers] == sorted(plain[host.host] | more)
    for host in plan_fleet(full, keys).hosts:
        assert [peer.name for peer in host.wireguard.peers] == [name for name in names if name != host.host]
        assert {peer.persistent_keepalive for peer in host.wireguard.peers} <= {
            fleet["hosts"][host.host]["edgewire_keepalive"]
        }


@given(data=st.data())
def test_what_peers_may_send_never_overlaps_and_is_not_the_hosts_own(
    data: st.DataObject, fleets: Fleets, key_of: KeyOf
) -> None:
    fleet = data.draw(fleets)
    for host in plan_fleet(fleet, keys_for(fleet, key_of)).hosts:
        prefixes = [*host.wireguard.addresses]
        prefixes += [ip for peer in host.wireguard.peers for ip in peer.allowed_ips]
        networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
        assert len(set(networks)) == len(networks)
        # All are single addresses, so different means disjoint.
        assert all(network.num_addresses == 1 for network in networks)


@given(data=st.data(), role=st.sampled_from(["edgewire_edges", "edgewire_workers"]))
def test_a_new_host_moves_nobody(data: st.DataObject, role: str, fleets: Fleets, key_of: KeyOf) -> None:
    fleet = data.draw(fleets)
    grown = copy.deepcopy(fleet)
    grown["hosts"]["added"] = {"ansible_host": "192.0.2.250"}
    grown["groups"][role].append("added")
    before = {host.host: host for host in plan_fleet(fleet, keys_for(fleet, key_of)).hosts}
    after = {host.host: host for host in plan_fleet(grown, keys_for(grown, key_of)).hosts}
    for name, host in before.items():
        new = after[name]
        assert new.wireguard.addresses == host.wireguard.addresses
        assert set(new.wireguard.peers) >= set(host.wireguard.peers)
        assert new.routes == host.routes
        if host.edge is not None:
            assert new.edge is not None
            assert new.edge.services == host.edge.services
        if host.worker is not None:
            assert new.worker is not None
            assert new.worker.endpoints == host.worker.endpoints


@given(data=st.data(), predict=st.booleans())
def test_a_plan_survives_json(data: st.DataObject, predict: bool, fleets: Fleets, key_of: KeyOf) -> None:
    fleet = data.draw(fleets)
    keys = keys_for(fleet, key_of)
    del keys["edge1"]
    plan = plan_fleet(fleet, keys, predict=predict)
    renderer = Renderer(plan.hosts)
    for host in plan.hosts:
        parsed = joined(renderer.render(host), lambda part: json.loads(renderer.parts[part]))
        assert parsed == host.to_dict()
        assert HostPlan.from_dict(parsed) == host


@given(data=st.data())
def test_edges_and_workers_agree_about_every_endpoint(data: st.DataObject, fleets: Fleets, key_of: KeyOf) -> None:
    fleet = data.draw(fleets)
    plan = plan_fleet(fleet, keys_for(fleet, key_of))
    on_workers = {
        (host.host, item.endpoint_id, item.service, item.vip, item.port, item.last_port)
        for host in plan.hosts
        if host.worker is not None
        for item in host.worker.endpoints
    }
    ids = [item[1] for item in on_workers]
    assert len(set(ids)) == len(ids)
    assert all(0 < ident < 2**32 for ident in ids)
    for host in plan.hosts:
        if host.edge is not None:
            assert {
                (backend.worker, backend.endpoint_id, item.name, item.vip, item.port, item.last_port)
                for item in host.edge.services
                for backend in item.backends
            } == on_workers


@given(data=st.data())
def test_what_the_plan_serves_is_what_the_inventory_says(data: st.DataObject, fleets: Fleets, key_of: KeyOf) -> None:
    fleet = data.draw(fleets)
    plan = plan_fleet(fleet, keys_for(fleet, key_of))
    wanted = {
        (service["name"], canonical(vip), *bounds(item), service.get("affinity", "flow"))
        for service in fleet["vars"]["edgewire_services"]
        for vip in service["vips"]
        for item in ([service["ports"]] if service["ports"] == "all" else service["ports"])
    }
    backends = {
        (service["name"], item["worker"], canonical(item[key])): item.get("port")
        for service in fleet["vars"]["edgewire_services"]
        for item in service["backends"]
        for key in ("address", "address_ipv6")
        if key in item
    }
    for host in plan.hosts:
        if host.edge is not None:
            services = host.edge.services
            assert {(s.name, s.vip, s.port, s.last_port, s.affinity) for s in services} == wanted
            assert len(services) == len(wanted)
        if host.worker is not None:
            for item in host.worker.endpoints:
                assert (":" in item.vip) == (":" in item.container_address)
                port = backends[item.service, host.host, item.container_address]
                assert item.container_port == (item.port if port is None else bounds(port)[0])
                assert item.container_port + item.last_port - item.port <= 65535


def canonical(address: str) -> str:
    """The one text form of an address, which the plan has."""
    return str(ipaddress.ip_address(address))


def bounds(item: int | str) -> tuple[int, int]:
    """First and last port of what the inventory has."""
    first, _, last = ("1-65535" if item == "all" else str(item)).partition("-")
    return int(first), int(last or first)


@given(data=st.data())
def test_relay_addresses_of_both_families_are_what_peers_may_send_from(
    data: st.DataObject, fleets: Fleets, key_of: KeyOf
) -> None:
    fleet = data.draw(fleets)
    plan = plan_fleet(fleet, keys_for(fleet, key_of))
    own = {}
    for host in plan.hosts:
        role = host.edge or host.worker
        assert role is not None
        own[host.host] = (role.relay_address, role.relay_address_ipv6)
    for host in plan.hosts:
        others = host.edge.workers if host.edge else host.worker.edges if host.worker else ()
        allowed = {peer.name: peer.allowed_ips for peer in host.wireguard.peers}
        assert {other.name for other in others} == set(allowed)
        for other in others:
            assert (other.relay_address, other.relay_address_ipv6) == own[other.name]
            assert {f"{other.relay_address}/32", f"{other.relay_address_ipv6}/128"} <= set(allowed[other.name])


def test_a_host_without_a_key_is_drained_until_it_has_one(make_fleet: Callable[..., Inventory], key_of: KeyOf) -> None:
    fleet = make_fleet()
    keys = keys_for(fleet, key_of)
    del keys["worker2"]
    plan = plan_fleet(fleet, keys)
    edge = next(host for host in plan.hosts if host.host == "edge1")
    assert edge.edge is not None
    weights = {backend.worker: backend.weight for backend in edge.edge.services[0].backends}
    assert weights == {"worker1": 1, "worker2": 0}
    assert [peer.name for peer in edge.wireguard.peers] == ["worker1"]
    assert plan.missing_keys == ("worker2",)
    assert any("worker2" in warning for warning in plan.warnings)

    predicted = plan_fleet(fleet, keys, predict=True)
    edge = next(host for host in predicted.hosts if host.host == "edge1")
    assert edge.edge is not None
    assert {backend.weight for backend in edge.edge.services[0].backends} == {1}
    assert [(peer.name, peer.public_key) for peer in edge.wireguard.peers] == [
        ("worker1", key_of("worker1")),
        ("worker2", None),
    ]
    assert '"public_key": null' in rendered(predicted)["edge1"].decode()


def test_ipv6_endpoints_stand_in_brackets(make_fleet: Callable[..., Inventory], key_of: KeyOf) -> None:
    fleet = make_fleet(1, 1)
    fleet["hosts"]["worker1"]["edgewire_endpoint_address"] = "2001:db8::21"
    plan = plan_fleet(fleet, keys_for(fleet, key_of))
    assert plan.hosts[0].wireguard.peers[0].endpoint == "[2001:db8::21]:51820"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 2}, "schema 2"),
        ({"surplus": 1}, "unknown keys: surplus"),
        ({"host": 5}, "plan.host is not of type str"),
        ({"wireguard": {}}, "plan.wireguard lacks interface"),
        ({"wireguard": []}, "plan.wireguard is not a mapping"),
    ],
)
def test_a_plan_of_another_shape_is_refused(
    change: dict[str, Any], complaint: str, make_fleet: Callable[..., Inventory], key_of: KeyOf
) -> None:
    fleet = make_fleet(1, 1)
    good = plan_fleet(fleet, keys_for(fleet, key_of)).hosts[0].to_dict()
    with pytest.raises(EdgewireError, match=complaint):
        HostPlan.from_dict({**good, **change})
