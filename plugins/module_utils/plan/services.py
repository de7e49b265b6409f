# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``edgewire_services`` → typed services, with every problem of the list reported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from ansible_collections.edgewire.fleet.plugins.module_utils.plan import convert
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.convert import Address
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.filters import Filter, parse_filter
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.maglev import TABLE_SIZES, table_size
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.ports import (
    PortRange,
    mapped,
    overlaps,
    port_range,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems

VARIABLE = "edgewire_services"
# What each key is, in Markdown for the inventory reference.
SERVICE_KEYS: Mapping[str, str] = {
    "name": "Its name in counters, reports and errors; unique in the fleet.",
    "vips": "The service addresses, IPv4 and IPv6. Each leads to the backends' addresses of its own family.",
    "ports": (
        'A list of UDP ports and ranges (`"10000-19999"`, both ends included), one of these alone, or `all` (1–65535).'
    ),
    "affinity": "What keeps to one backend: `flow` (default), or `client`: all flows of one client address.",
    "reply": "`edge` (default): replies go back through the edge; `direct`: they leave by the worker's own uplink.",
    "oversize": (
        "What does not fit into WireGuard: `refuse` (default) drops it and tells the sender; `fragment` lets "
        "WireGuard's own packet go in fragments."
    ),
    "table_size": (
        "Slots of its lookup table: 4096, 16384 or 65536. Default: 4096, with more than 1,024 backends 65536. Shares "
        "are right to a slot, so hundreds of backends may want more. Another size sends most flows elsewhere."
    ),
    "drain_idle": "Seconds, 60: while a backend drains, how long a flow may be silent to stay.",
    "drain_deadline": "Seconds, 600: how long any flow may stay while its backend drains.",
    "sources": "Who may send: see below. Default: everybody.",
    "limits": "How many packets: see below. Default: no limit.",
    "backends": "The containers that answer: see below.",
}
BACKEND_KEYS: Mapping[str, str] = {
    "name": "Optional, unique in the service: with one, the backend stays the same when it moves to another worker.",
    "worker": "The inventory name of the worker that runs the container.",
    "moved_from": "Workers that had the backend before. They send on what edges still send there. Needs `name`.",
    "address": "The container's IPv4 address; needed where the service has an IPv4 VIP.",
    "address_ipv6": "The container's IPv6 address; needed where the service has an IPv6 VIP.",
    "port": "The container's port, or where its range begins. Default: the VIP's port.",
    "weight": "Its share of the flows beside the others', 0 to 65535, default 1; 0 drains.",
    "state": (
        "`live` (default); `drain`: only the flows that it has; `dead`: as if it were not there, but for replies on "
        "their way."
    ),
}
# The key that bears the container's address of each family.
_ADDRESS_KEYS: Mapping[int, str] = {4: "address", 6: "address_ipv6"}
_affinity = convert.choice(("flow", "client"))
_reply = convert.choice(("edge", "direct"))
_oversize = convert.choice(("refuse", "fragment"))
_state = convert.choice(("live", "drain", "dead"))
_table_size = convert.one_number(TABLE_SIZES)
_DRAIN_IDLE, _DRAIN_DEADLINE = 60, 600
# A day, and a week: what is meant to go on for longer is no drain.
_drain_idle = convert.integer(1, 86_400, "seconds")
_drain_deadline = convert.integer(1, 604_800, "seconds")
# A table has 65,536 slots at most, so finer shares than these would not show.
_weight = convert.integer(0, 65535)
_OPTIONS: Mapping[str, Callable[[object], Any]] = {
    "affinity": _affinity,
    "reply": _reply,
    "oversize": _oversize,
    "table_size": _table_size,
    "drain_idle": _drain_idle,
    "drain_deadline": _drain_deadline,
}

T = TypeVar("T")


@dataclass(frozen=True)
class Backend:
    """One container on one worker; one of weight 0 drains, and one that is dead gets nothing at all.

    It has an address of each family that the service's VIPs have. ``ports`` are its ports for each
    of the service's. By its ``name`` it is the same wherever it moves; ``moved_from`` are workers that
    had it.
    """

    worker: str
    address: IPv4Address | None
    address_ipv6: IPv6Address | None
    ports: Mapping[PortRange, PortRange]
    weight: int
    state: str
    name: str = ""
    moved_from: tuple[str, ...] = ()

    @property
    def share(self) -> int:
        """Its weight among those that new flows go to."""
        return self.weight if self.state == "live" else 0

    @property
    def drain_share(self) -> int:
        """While it drains, the weight by which it had its flows; else 0."""
        drains = self.state == "drain" or (self.state == "live" and not self.weight)
        return max(self.weight, 1) if drains else 0

    def address_for(self, vip: Address) -> Address | None:
        """The container's address of the VIP's family."""
        return self.address if vip.version == 4 else self.address_ipv6

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Its addresses, of whatever family."""
        return tuple(item for item in (self.address, self.address_ipv6) if item is not None)


@dataclass(frozen=True)
class Service:
    """VIPs x UDP ports → backends; every list sorted, so the order in the inventory does not
    matter. ``drain_idle`` and ``drain_deadline`` are seconds.
    """

    name: str
    vips: tuple[Address, ...]
    ports: tuple[PortRange, ...]
    affinity: str
    backends: tuple[Backend, ...]
    reply: str = "edge"
    filter: Filter = field(default_factory=Filter)
    drain_idle: int = _DRAIN_IDLE
    drain_deadline: int = _DRAIN_DEADLINE
    oversize: str = "refuse"
    table_size: int | None = None


def parse_services(raw: object, workers: Collection[str], problems: Problems) -> list[Service]:
    """The services of the raw list, sorted by name; what is wrong goes to ``problems`` and is left
    out.
    """
    if not isinstance(raw, (list, tuple)):
        problems.add("the fleet", VARIABLE, f"{convert.shown(raw)} is not a list of services")
        return []
    services: list[Service] = []
    names: set[str] = set()
    for number, item in enumerate(raw, start=1):
        if not isinstance(item, Mapping):
            problems.add(f"service number {number}", VARIABLE, f"{convert.shown(item)} is not a mapping")
            continue
        service = _parse_service(number, item, workers, problems)
        if service.name in names:
            problems.add(f"service {service.name}", VARIABLE, "the name is used more than once")
        names.add(service.name)
        services.append(service)
    _check_claims(services, problems)
    return sorted(services, key=lambda service: service.name)


def _parse_service(number: int, item: Mapping[str, Any], workers: Collection[str], problems: Problems) -> Service:
    try:
        name = convert.service_name(item.get("name"))
        subject = f"service {name}"
    except ValueError as error:
        # Unique, so that two nameless services are not also said to share a name.
        name = subject = f"service number {number}"
        problems.add(subject, "name", str(error))
    _unknown_keys(item, SERVICE_KEYS, subject, problems)
    vips = _parse_list(item.get("vips"), "vips", convert.routed_address, subject, problems)
    vips.sort(key=lambda vip: (vip.version, int(vip)))
    raw_ports = item.get("ports")
    if isinstance(raw_ports, (int, str)):
        raw_ports = [raw_ports]
    ports = sorted(_parse_list(raw_ports, "ports", port_range, subject, problems))
    for (one, _), (other, _) in overlaps((item, None) for item in ports):
        problems.add(subject, "ports", f"{one} and {other} overlap")
    options: dict[str, Any] = {"affinity": "flow"}
    for key, converter in _OPTIONS.items():
        if item.get(key) is not None:
            try:
                options[key] = converter(item[key])
            except ValueError as error:
                problems.add(subject, key, str(error))
    backends = _parse_backends(item.get("backends"), vips, ports, workers, subject, problems)
    needed = table_size(len(backends))
    if needed > options.get("table_size", needed):
        problems.add(subject, "table_size", f"{len(backends)} backends need {needed} slots")
    held = parse_filter(item, subject, problems)
    return Service(name, tuple(vips), tuple(ports), backends=tuple(backends), filter=held, **options)


def _parse_list(
    raw: object,
    key: str,
    converter: Callable[[object], T],
    subject: str,
    problems: Problems,
) -> list[T]:
    if not isinstance(raw, (list, tuple)) or not raw:
        problems.add(subject, key, f"{convert.shown(raw)} is not a list with at least one entry")
        return []
    values: dict[T, None] = {}
    for entry in raw:
        try:
            value = converter(entry)
        except ValueError as error:
            problems.add(subject, key, str(error))
            continue
        if value in values:
            problems.add(subject, key, f"{value} is listed twice")
        else:
            values[value] = None
    return list(values)


def _parse_backends(
    raw: object,
    vips: Sequence[Address],
    ports: Sequence[PortRange],
    workers: Collection[str],
    subject: str,
    problems: Problems,
) -> list[Backend]:
    if not isinstance(raw, (list, tuple)) or not raw:
        problems.add(subject, "backends", f"{convert.shown(raw)} is not a list: no live backend")
        return []
    backends: dict[int, Backend] = {}
    same_ports = mapped(ports, None)
    for number, item in enumerate(raw, start=1):
        where = f"{subject}, backend {number}"
        if not isinstance(item, Mapping):
            problems.add(where, "", f"{convert.shown(item)} is not a mapping")
            continue
        backend = _parse_backend(item, vips, same_ports, workers, where, problems)
        if backend is not None:
            backends[number] = backend
    _check_backends(backends, subject, problems)
    if len(backends) == len(raw) and not any(item.share for item in backends.values()):
        problems.add(subject, "backends", "no live backend: every weight is 0, or its backend drains or is dead")
    return list(backends.values())


def _parse_backend(
    item: Mapping[str, Any],
    vips: Sequence[Address],
    same_ports: Mapping[PortRange, PortRange],
    workers: Collection[str],
    where: str,
    problems: Problems,
) -> Backend | None:
    _unknown_keys(item, BACKEND_KEYS, where, problems)
    worker = item.get("worker")
    bad: set[str] = set()
    if not isinstance(worker, str) or worker not in workers:
        problems.add(where, "worker", f"{convert.shown(worker)} is not a host in group edgewire_workers")
        bad.add("worker")

    def read(key: str, converter: Callable[[object], T], default: T) -> T:
        if item.get(key) is None:
            return default
        try:
            return converter(item[key])
        except ValueError as error:
            problems.add(where, key, str(error))
            bad.add(key)
            return default

    address = read("address", _ipv4_container, None)
    address_ipv6 = read("address_ipv6", convert.ipv6_address, None)
    container_ports = read("port", lambda value: mapped(list(same_ports), port_range(value)), same_ports)
    weight = read("weight", _weight, 1)
    state = read("state", _state, "live")
    name = read("name", lambda value: convert.service_name(value, "backend"), "")
    moved_from = _former_workers(item.get("moved_from"), str(worker), workers, where, problems)
    if moved_from and item.get("name") is None:
        problems.add(where, "name", "a backend that moved needs the name by which it was known before")
    backend = Backend(str(worker), address, address_ipv6, container_ports, weight, state, name, moved_from)
    if bad.isdisjoint(_ADDRESS_KEYS.values()) and not _serves_every_family(backend, vips, where, problems):
        bad.add("address")
    return None if bad else backend


def _former_workers(
    raw: object, worker: str, workers: Collection[str], where: str, problems: Problems
) -> tuple[str, ...]:
    if raw is None or (isinstance(raw, (list, tuple)) and not raw):
        return ()

    def former(value: object) -> str:
        if not isinstance(value, str) or value not in workers:
            raise ValueError(f"{convert.shown(value)} is not a host in group edgewire_workers")
        if value == worker:
            raise ValueError(f"{value} is the worker that the backend is on")
        return str(value)

    return tuple(sorted(_parse_list(raw, "moved_from", former, where, problems)))


def _ipv4_container(value: object) -> IPv4Address | None:
    parsed = convert.address(value)
    if isinstance(parsed, IPv6Address):
        raise ValueError(f"{convert.shown(value)} is an IPv6 address: it belongs in address_ipv6")
    return parsed


def _serves_every_family(backend: Backend, vips: Sequence[Address], where: str, problems: Problems) -> bool:
    """Whether the backend has an address of each VIP's family; no NAT turns one into the other."""
    if backend.address is None and backend.address_ipv6 is None:
        problems.add(where, "address", "the container needs an address, an address_ipv6, or both")
        return False
    lacking = {vip.version: vip for vip in reversed(vips) if backend.address_for(vip) is None}
    for version, vip in lacking.items():
        problems.add(
            where,
            _ADDRESS_KEYS[version],
            f"VIP {vip} is IPv{version}, and the backend {backend.addresses[0]} on"
            f" {backend.worker} has no IPv{version} address",
        )
    return not lacking


def _check_backends(backends: Mapping[int, Backend], subject: str, problems: Problems) -> None:
    """Two backends of one service must not be one and the same: its share would double unseen."""
    numbers: dict[tuple[str, Address], list[int]] = {}
    for number, backend in backends.items():
        for address in backend.addresses:
            numbers.setdefault((backend.worker, address), []).append(number)
    named: dict[str, list[int]] = {}
    for number, backend in backends.items():
        if backend.name:
            named.setdefault(backend.name, []).append(number)
    for name, sharing in named.items():
        if len(sharing) > 1:
            which = ", ".join(map(str, sharing))
            problems.add(subject, "backends", f"{name} is the name of several: number {which}")
    for (worker, address), sharing in numbers.items():
        if len(sharing) == 1:
            continue
        claims = {(ports, number) for number in sharing for ports in backends[number].ports.values()}
        for one, other in overlaps(sorted(claims), exempt=lambda a, b: a == b):
            (ports, number), (other_ports, other_number) = sorted((one, other), key=lambda c: c[1])
            problems.add(
                f"{subject}, backend {other_number}",
                "",
                f"{address} port {other_ports} on {worker} is a backend already: number {number} with port {ports}",
            )


def _unknown_keys(item: Mapping[str, Any], known: Collection[str], subject: str, problems: Problems) -> None:
    for key in item:
        if key not in known:
            problems.add(subject, str(key), f"unknown key; the known ones are {', '.join(sorted(known))}")


def _check_claims(services: Sequence[Service], problems: Problems) -> None:
    """One port of one VIP belongs to one service (that it does within a service is known)."""
    claims: dict[Address, list[tuple[PortRange, int]]] = {}
    for index, service in enumerate(services):
        for vip in service.vips:
            claims.setdefault(vip, []).extend((ports, index) for ports in service.ports)
    for vip, claimed in claims.items():
        for pair in overlaps(claimed, exempt=lambda a, b: a == b):
            (name, ports), (other, other_ports) = sorted((services[index].name, ports) for ports, index in pair)
            problems.add(
                f"services {name}, {other}",
                VARIABLE,
                f"{vip} port {ports} of {name} and port {other_ports} of {other} overlap",
            )
