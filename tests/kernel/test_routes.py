# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes and rules on this kernel, in a network namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import announce, backend

from .conftest import Netns, wait_until

pytestmark = pytest.mark.kernel

PLAN: dict[str, Any] = {
    "table": 7700,
    "protocol": 158,
    "rules": [
        {"to": "100.64.0.0/11", "priority": 7700},
        {"to": "fd65::/64", "priority": 7700},
        {"from": "10.0.0.0/8", "priority": 7701, "table": 7701},
    ],
    "routes": [
        {"destination": "100.64.0.0/11", "interface": "d0"},
        {"destination": "100.96.0.0/11", "type": "blackhole"},
        {"destination": "0.0.0.0/0", "gateway": "10.9.0.2", "metric": 7},
        {"destination": "fd65::/64", "interface": "d0"},
        {"destination": "fd66::/64", "type": "unreachable"},
        {"destination": "fd67::/64", "gateway": "fd99::2", "interface": "d0", "metric": 5},
        {"destination": "::/0", "type": "prohibit"},
    ],
}


@pytest.fixture
def inside(netns: Netns) -> Iterator[Netns]:
    """The calling thread inside a namespace with an interface d0 that is up."""
    netns.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
    for command in (
        # Link-local addresses and their routes would come some time after the link is up.
        "link set d0 addrgenmode none",
        "link set d1 addrgenmode none",
        "link set d0 up",
        "link set d1 up",
        "address add 10.9.0.1/24 dev d0",
        "address add fd99::1/64 dev d0 nodad",
    ):
        netns.run("ip", *command.split())
    wait_until(
        lambda: (
            all(link["operstate"] in ("UP", "UNKNOWN") for link in netns.json("ip", "-j", "link"))
            and len(netns.json("ip", "-j", "-6", "route", "show", "table", "local", "type", "multicast")) == 2
        ),
        "the links to be up, with the routes that the kernel then makes",
    )
    with netns:
        yield netns


def apply(plan: dict[str, Any], absent: bool = False) -> list[tuple[str, str, str]]:
    """Apply; what was done, after a check that must have said the same."""
    predicted = backend.apply(plan, check_mode=True, absent=absent)
    done = backend.apply(plan, check_mode=False, absent=absent)
    assert done == predicted
    return [(step.verb, step.kind, step.name) for step in done]


def everything(ns: Netns) -> list[Any]:
    """All routes and rules of both families, but for lifetimes."""
    return [
        ns.json("ip", "-j", family, *what)
        for family in ("-4", "-6")
        for what in (("route", "show", "table", "all"), ("rule",))
    ]


def test_made_from_nothing_left_alone_and_taken_away(inside: Netns) -> None:
    before = everything(inside)
    assert len(apply(PLAN)) == 10
    made = everything(inside)
    assert apply(PLAN) == []
    assert everything(inside) == made
    assert len(apply(PLAN, absent=True)) == 10
    assert everything(inside) == before
    assert apply(PLAN, absent=True) == []


def test_what_a_link_that_flaps_takes_along_is_seen_and_brought_back(inside: Netns) -> None:
    apply(PLAN)
    made = everything(inside)
    inside.run("ip", "link", "set", "d0", "down")
    inside.run("ip", "link", "set", "d0", "up")
    inside.run("ip", "address", "replace", "fd99::1/64", "dev", "d0", "nodad")  # IPv6 addresses go as well
    lost = [step.name for step in backend.preview(PLAN)]
    assert {"100.64.0.0/11 metric 0", "fd65::/64 metric 1024"} <= set(lost)
    assert [name for _, _, name in apply(PLAN)] == lost
    wait_until(lambda: everything(inside) == made, "the kernel's own routes to be back, too", 60)
    assert apply(PLAN) == []


def test_a_changed_route_is_changed_in_place(inside: Netns) -> None:
    apply(PLAN)
    routes = [dict(route) for route in PLAN["routes"]]
    routes[0] = {"destination": "100.64.0.0/11", "interface": "d1"}
    routes[1] = {"destination": "100.96.0.0/11", "interface": "d0"}
    routes[4] = {"destination": "fd66::/64", "gateway": "fd99::3", "interface": "d0"}
    routes[5] = {"destination": "fd67::/64", "type": "blackhole", "metric": 5}
    changed = apply({**PLAN, "routes": routes})
    assert [(verb, kind) for verb, kind, _ in changed] == [("change", "route")] * 4
    assert apply({**PLAN, "routes": routes}) == []


def test_drift_is_repaired(inside: Netns) -> None:
    apply(PLAN)
    for command in (
        "route del 100.64.0.0/11 table 7700",
        "-6 rule del to fd65::/64 table 7700",
        "route add 9.9.9.0/24 dev d0 table 7700 proto 158",
        "route add 100.64.0.0/11 table 7700 proto 158 nexthop dev d0 nexthop dev d1",
        "-6 route append fd67::/64 via fd99::9 dev d0 metric 5 table 7700 proto 158",
        "route append blackhole 100.96.0.0/11 table 7700 proto 158 tos 4",
        "rule add to 100.64.0.0/11 priority 7700 table 7700 protocol 158 fwmark 3",
    ):
        inside.run("ip", *command.split())
    assert sorted(apply(PLAN)) == [
        ("add", "rule", "IPv6 7700 to fd65::/64"),
        ("change", "route", "100.64.0.0/11 metric 0"),
        ("change", "route", "fd67::/64 metric 5"),
        ("remove", "route", "100.96.0.0/11 metric 0 tos 4"),
        ("remove", "route", "9.9.9.0/24 metric 0"),
        ("remove", "rule", "IPv4 7700 to 100.64.0.0/11 fwmark 3, fwmask 4294967295"),
    ]
    assert apply(PLAN) == []


def test_routes_come_back_after_a_link_flap(inside: Netns) -> None:
    apply(PLAN)
    inside.run("ip", "link", "set", "d0", "down")
    with pytest.raises(EdgewireError, match="the interface is down"):
        backend.apply(PLAN, check_mode=False)
    inside.run("ip", "link", "set", "d0", "up")
    inside.run("ip", "address", "replace", "fd99::1/64", "dev", "d0", "nodad")
    apply(PLAN)
    assert apply(PLAN) == []


MANY_WAYS: dict[str, Any] = {
    **PLAN,
    "routes": [
        *PLAN["routes"],
        {
            "destination": "198.51.100.0/24",
            "next_hops": [{"gateway": "10.9.0.2"}, {"gateway": "10.9.0.3", "weight": 9}],
        },
        {"destination": "198.51.101.0/24", "next_hops": [{"interface": "d0"}, {"interface": "d1"}], "metric": 4},
        {"destination": "fd68::/64", "next_hops": [{"gateway": "fd99::2"}, {"gateway": "fd99::3", "interface": "d0"}]},
    ],
}


def test_several_ways(inside: Netns) -> None:
    assert len(apply(MANY_WAYS)) == 13
    assert apply(MANY_WAYS) == []
    (shown,) = inside.json("ip", "-j", "route", "show", "table", "7700", "198.51.100.0/24")
    assert {hop["gateway"]: hop["weight"] for hop in shown["nexthops"]} == {"10.9.0.2": 1, "10.9.0.3": 9}
    # Every kind of change, in place, and back again.
    routes = [dict(route) for route in MANY_WAYS["routes"]]
    routes[7] = {"destination": "198.51.100.0/24", "next_hops": [{"gateway": "10.9.0.2"}, {"gateway": "10.9.0.4"}]}
    routes[8] = {"destination": "198.51.101.0/24", "type": "blackhole", "metric": 4}
    routes[9] = {"destination": "fd68::/64", "gateway": "fd99::2"}
    routes[5] = {"destination": "fd67::/64", "next_hops": [{"gateway": "fd99::7"}, {"gateway": "fd99::8"}], "metric": 5}
    routes[3] = {"destination": "fd65::/64", "next_hops": [{"gateway": "fd99::7"}, {"gateway": "fd99::8"}]}
    changed = {**MANY_WAYS, "routes": routes}
    for plan in (changed, MANY_WAYS, changed):
        assert [(verb, kind) for verb, kind, _ in apply(plan)] == [("change", "route")] * 5
        assert apply(plan) == []
    # A flap takes routes away; the next run brings them back.
    apply(MANY_WAYS)
    before = everything(inside)
    inside.run("ip", "link", "set", "d0", "down")
    inside.run("ip", "link", "set", "d0", "up")
    inside.run("ip", "address", "replace", "fd99::1/64", "dev", "d0", "nodad")
    assert apply(MANY_WAYS) != []
    assert apply(MANY_WAYS) == []
    ours = [[route for route in part if route.get("table") == "7700"] for part in everything(inside)]
    assert [sorted(map(str, part)) for part in ours] == [
        sorted(str(route) for route in part if route.get("table") == "7700") for part in before
    ]
    assert len(apply(MANY_WAYS, absent=True)) == 13
    assert inside.json("ip", "-j", "route", "show", "table", "7700") == []
    assert inside.json("ip", "-j", "-6", "route", "show", "table", "7700") == []


SHARED: dict[str, Any] = {
    "table": 7700,
    "protocol": 158,
    "nexthops": [
        {"id": 1, "interface": "d0", "gateway": "10.9.0.2"},
        {"id": 2, "interface": "d1"},
        {"id": 3, "interface": "d0", "gateway": "fd99::2"},
        {"id": 4, "blackhole": True, "family": "ipv6"},
        {"id": 10, "group": [{"id": 1, "weight": 3}, {"id": 2}]},
        {"id": 11, "group": [{"id": 3}]},
    ],
    "routes": [
        {"destination": "198.51.100.0/24", "nexthop": 10},
        {"destination": "198.51.101.0/24", "nexthop": 2, "metric": 4},
        {"destination": "fd68::/64", "nexthop": 11},
        {"destination": "fd69::/64", "nexthop": 4},
    ],
}


def shared(inside: Netns) -> list[Any]:
    """Nexthop objects, and the routes of our table."""
    routes = [inside.json("ip", "-j", family, "route", "show", "table", "7700") for family in ("-4", "-6")]
    return [inside.json("ip", "-j", "nexthop"), *routes]


def test_nexthop_objects_are_shared_moved_and_taken_away(inside: Netns, tmp_path: Path) -> None:
    before = everything(inside)
    assert len(apply(SHARED)) == 10
    assert apply(SHARED) == []
    made = shared(inside)
    (group,) = [found for found in made[0] if found["id"] == 10]
    assert group["group"] == [{"id": 1, "weight": 3}, {"id": 2}]

    # A group that changes moves its routes and leaves them as they are.
    moved = {**SHARED, "nexthops": [dict(nexthop) for nexthop in SHARED["nexthops"]]}
    moved["nexthops"][4] = {"id": 10, "group": [{"id": 1}]}
    moved["nexthops"][2]["gateway"] = "fd99::7"
    assert sorted(apply(moved)) == [("change", "nexthop", "10"), ("change", "nexthop", "3")]
    assert apply(moved) == []
    # Of another kind, or family: with it the kernel removes groups and routes, which come back in the same run.
    other = {**SHARED, "nexthops": [dict(nexthop) for nexthop in SHARED["nexthops"]]}
    other["nexthops"][2] = {"id": 3, "group": [{"id": 4}]}
    other["nexthops"][5] = {"id": 11, "interface": "d0", "family": "ipv6"}
    for plan in (other, SHARED, other, SHARED):
        apply(plan)
        assert apply(plan) == []
    assert shared(inside) == made

    options, left = backend.gathered(SHARED)
    assert left == []
    assert apply(options) == []

    # A flap takes objects along, and with them routes.
    inside.run("ip", "link", "set", "d0", "down")
    inside.run("ip", "link", "set", "d0", "up")
    inside.run("ip", "address", "replace", "fd99::1/64", "dev", "d0", "nodad")
    assert apply(SHARED) != []
    assert apply(SHARED) == []
    assert shared(inside) == made

    assert len(apply(SHARED, absent=True)) == 10
    wait_until(lambda: everything(inside) == before, "the kernel's own routes to be back, too", 60)
    for name, content in backend.rendered(SHARED).items():
        if name.startswith("/etc/edgewire"):
            (tmp_path / "batch").write_text(content)
            family = {"4": ["-4"], "6": ["-6"]}.get(name[-1], [])
            inside.run("ip", *family, "-batch", str(tmp_path / "batch"))
    assert apply(SHARED) == []


def test_nexthop_objects_of_others_and_those_that_others_use_stay(inside: Netns) -> None:
    for command in (
        "nexthop add id 77 dev d0 proto static",
        "nexthop add id 5 dev d0 proto 158",
        "nexthop add id 6 dev d0 proto 158",
        "nexthop add id 7 dev d0 proto 158",
        "nexthop add id 78 group 6 proto static",
        "route add 172.16.0.0/12 nhid 5 table 99",
    ):
        inside.run("ip", *command.split())
    assert ("remove", "nexthop", "7") in apply(SHARED)
    assert apply(SHARED) == []
    apply(SHARED, absent=True)
    assert {found["id"] for found in inside.json("ip", "-j", "nexthop")} == {5, 6, 77, 78}
    assert len(inside.json("ip", "-j", "route", "show", "table", "99")) == 1

    taken = {**SHARED, "nexthops": [{"id": 77, "interface": "d0"}], "routes": []}
    of_another_kind = {**SHARED, "nexthops": [{"id": 5, "blackhole": True, "family": "ipv6"}], "routes": []}
    for wanted, message in ((taken, r"choose other ones: 77 \(protocol 4\)"), (of_another_kind, r"5 \(by route 172")):
        for check_mode in (True, False):
            with pytest.raises(EdgewireError, match=message):
                backend.apply(wanted, check_mode)


def test_what_is_gathered_changes_nothing_and_what_is_rendered_makes_the_same(inside: Netns, tmp_path: Path) -> None:
    apply(MANY_WAYS)
    options, left = backend.gathered(MANY_WAYS)
    assert left == []
    assert apply(options) == []
    before = everything(inside)

    # ip(8) takes the batch, in the place of what was there.
    apply(MANY_WAYS, absent=True)
    files = backend.rendered(options)
    batch = tmp_path / "batch"
    for family in ("4", "6"):
        batch.write_text(files[f"/etc/edgewire/routes-7700.ipv{family}"])
        inside.run("ip", f"-{family}", "-batch", str(batch))
    assert apply(MANY_WAYS) == []
    assert apply(options) == []
    assert everything(inside) == before
    assert set(files) >= {
        "/etc/systemd/network/50-edgewire-lo.network",
        "/etc/systemd/network/50-d0.network.d/edgewire.conf",
    }

    # Routes that were made by hand, under a protocol of their own; one cannot be said, and is named.
    for command in (
        "route add 10.20.0.0/16 via 10.9.0.2 metric 5 table 88 proto 77",
        "route add 10.20.0.0/16 via 10.9.0.2 metric 5 table 88 proto 77 tos 4",
        "-6 route add default via fd99::2 table 88 proto 77",
        "rule add from 10.20.0.0/16 table 88 protocol 77 priority 9",
        "-6 rule add from all table 88 protocol 77 priority 9",
    ):
        inside.run("ip", *command.split())
    options, left = backend.gathered({"table": 88, "protocol": 77})
    assert left == ["route 10.20.0.0/16 metric 5 tos 4"]
    assert apply(options) == [("remove", "route", "10.20.0.0/16 metric 5 tos 4")]
    assert len(options["routes"]) == len(options["rules"]) == 2


def test_what_is_foreign_is_shown(inside: Netns) -> None:
    apply(PLAN)
    assert backend.foreign(PLAN) == []
    for command in (
        "route add 172.16.0.0/12 dev d0 table 7700 proto static",
        "route add 172.16.0.0/12 dev d0 table 7799 proto static",
        "-6 rule add to fd77::/64 priority 5 table 7700",
    ):
        inside.run("ip", *command.split())
    found = backend.foreign(PLAN)
    assert apply(PLAN) == []
    assert backend.foreign(PLAN) == found
    assert [(entry["kind"], entry["protocol"]) for entry in found] == [("route", 4), ("rule", 0)]
    assert (found[0]["destination"], found[0]["interface"], found[1]["to"]) == ("172.16.0.0/12", "d0", "fd77::/64")


def test_what_is_not_ours_is_not_touched(inside: Netns) -> None:
    for command in (
        "route add 172.16.0.0/12 dev d0 table 7700 proto static",
        "route add 172.16.0.0/12 dev d0 table 7799 proto 158",
        "-6 route add fd77::/64 dev d0 table 7700 proto bird",
        # The same rule as ours but for the protocol, before ours: the kernel takes both.
        "rule add to 100.64.0.0/11 priority 7700 table 7700 protocol static",
        "rule add to 100.64.0.0/11 priority 7700 table 7799 protocol 158",
    ):
        inside.run("ip", *command.split())
    before = everything(inside)
    assert len(apply(PLAN)) == 10
    assert apply(PLAN) == []
    assert len(apply(PLAN, absent=True)) == 10
    assert everything(inside) == before


def test_a_foreign_route_in_the_way_stops_before_anything_is_done(inside: Netns) -> None:
    inside.run(*["ip", "route", "add", "100.96.0.0/11", "dev", "d0", "table", "7700", "proto", "static"])
    before = everything(inside)
    for check_mode in (True, False):
        with pytest.raises(EdgewireError, match=r"100\.96\.0\.0/11 metric 0 \(protocol 4\)"):
            backend.apply(PLAN, check_mode)
    assert everything(inside) == before


def test_a_missing_interface_stops_before_anything_is_done(netns: Netns) -> None:
    before = everything(netns)
    with netns:
        assert len(backend.preview(PLAN)) == 10
        with pytest.raises(EdgewireError, match="do not exist: d0"):
            backend.apply(PLAN, check_mode=False)
    assert everything(netns) == before


def test_five_thousand_routes_come_and_go_whole(inside: Netns) -> None:
    many = [{"destination": f"10.{n // 250}.{n % 250}.0/24", "interface": "d0"} for n in range(5000)]
    plan = {**PLAN, "routes": many, "rules": []}
    assert len(apply(plan)) == 5000
    assert apply(plan) == []
    assert len(apply(plan, absent=True)) == 5000
    assert inside.json("ip", "-j", "route", "show", "table", "7700") == []


NETWORKD = Path("/usr/lib/systemd/systemd-networkd")
NETWORKD_ALONE = """
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp /run/systemd/network
chown -R systemd-network /run/systemd/netif
mkdir /run/systemd/networkd.conf.d
[ -z "$1" ] || cp "$1" /run/systemd/networkd.conf.d/
mount -t sysfs -o ro none /sys  # read-only: networkd then does not wait for udev
printf '[Match]\\nName=new0\\n[Network]\\nIPv6AcceptRA=no\\n' >/run/systemd/network/10-new0.network
exec env SYSTEMD_LOG_LEVEL=debug "$0"
"""


@pytest.mark.skipif(not NETWORKD.exists(), reason="needs systemd-networkd")
@pytest.mark.parametrize("announced", [False, True])
def test_systemd_networkd_takes_ours_away_unless_it_is_told(inside: Netns, tmp_path: Path, announced: bool) -> None:
    """A real networkd that is given a new link: it removes foreign rules and routes without an interface."""
    apply(PLAN)
    drop_in = tmp_path / announce.NETWORKD_FILE if announced else None
    if drop_in is not None:
        announce.perform(announce.plan(158, False, tmp_path, lambda: None))
    log = tmp_path / "log"
    script = ["unshare", "--mount", "sh", "-euc", NETWORKD_ALONE, str(NETWORKD), str(drop_in or "")]
    with log.open("wb") as output:
        daemon = subprocess.Popen(inside.command(*script), stdout=output, stderr=output)
    try:
        wait_until(lambda: b"Enumeration completed" in log.read_bytes(), "networkd to look around", 60)
        inside.run("ip", "link", "add", "new0", "type", "veth", "peer", "name", "new1")
        inside.run("ip", "link", "set", "new0", "up")
        inside.run("ip", "link", "set", "new1", "up")
        wait_until(lambda: b"new0: State changed: configuring -> configured" in log.read_bytes(), "networkd's new link")
    finally:
        daemon.kill()
        daemon.wait()
    lost = {(step.kind, step.name) for step in backend.preview(PLAN)}
    if announced:
        assert lost == set()
    else:
        assert lost >= {("rule", "IPv4 7700 to 100.64.0.0/11"), ("route", "100.96.0.0/11 metric 0")}
