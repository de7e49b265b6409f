# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of one host, as docs/architecture.md shows it; field names are the JSON's keys.

A field whose default is None is left out of the JSON while it is None; every other field is always
there.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

SCHEMA = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Peer:
    """A WireGuard peer; ``public_key`` None only in check mode, while there is no key yet."""

    name: str
    public_key: str | None
    endpoint: str
    allowed_ips: tuple[str, ...]
    persistent_keepalive: int
    preshared: bool  # whether a preshared key is derived for the pair; never the key


@dataclass(frozen=True)
class WireGuardPlan:
    """The WireGuard interface of a host; ``mtu`` in bytes of an IP packet inside it."""

    interface: str
    listen_port: int
    mtu: int
    transport: str
    private_key_file: str
    addresses: tuple[str, ...]
    peers: tuple[Peer, ...]


@dataclass(frozen=True)
class Rule:
    """A policy rule: packets to the prefix ``to`` look into our table."""

    to: str
    priority: int


@dataclass(frozen=True)
class Route:
    """A route in our table; ``type`` unicast (with an interface) or blackhole (without)."""

    destination: str
    type: str
    interface: str | None = None


@dataclass(frozen=True)
class RoutesPlan:
    """The rules and routes that this collection owns on a host."""

    table: int
    protocol: int
    rules: tuple[Rule, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class RelayHost:
    """A box at the other end of the relay, and the relay addresses by which it is known; ``state``
    is "dead" for a worker whose backends are to be passed by.
    """

    name: str
    relay_address: str
    relay_address_ipv6: str
    state: str | None = None


@dataclass(frozen=True)
class ServiceBackend:
    """One backend of one EdgeService; weight 0 gets no new flows.

    ``drain_weight`` is the weight by which it had the flows that it may finish.
    """

    endpoint_id: int
    worker: str
    weight: int
    drain_weight: int | None = None


@dataclass(frozen=True)
class EdgeService:
    """One VIP x port or port range, and its backends, sorted by endpoint id.

    ``port`` is the first port and ``last_port`` the last, the same for a single one. ``affinity``
    is what keeps to one backend: a "flow" or a "client". ``drain_deadline`` is there while a
    backend drains: for how many seconds it may keep flows. ``oversize`` is "fragment" where WireGuard
    fragments what it cannot carry whole. ``table_size`` is how many slots its table has at least.
    """

    name: str
    vip: str
    port: int
    last_port: int
    affinity: str
    backends: tuple[ServiceBackend, ...]
    drain_deadline: int | None = None
    oversize: str | None = None
    table_size: int | None = None


@dataclass(frozen=True)
class EdgeFilter:
    """Who may send to a service, and how many packets a second and at once, of all sources together and of each.

    ``service`` is the name of services; None is no limit.
    """

    service: str
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    packets_per_second: int | None = None
    burst: int | None = None
    per_source_packets_per_second: int | None = None
    per_source_burst: int | None = None


@dataclass(frozen=True)
class EdgePlan:
    """What an edge's programs and maps hold. Packets to clients leave by ``reply_interface``."""

    uplink: str
    reply_interface: str
    drop_unserved: bool
    xdp_mode: str
    wireguard_interface: str
    relay_address: str
    relay_address_ipv6: str
    workers: tuple[RelayHost, ...]
    services: tuple[EdgeService, ...]
    filters: tuple[EdgeFilter, ...]


@dataclass(frozen=True)
class WorkerEndpoint:
    """One VIP x port or port range x container of this worker.

    Port p of ``port`` to ``last_port`` is the container's ``container_port`` + p - ``port``. The
    two addresses are of one family. ``reply`` is "direct" where replies leave through the worker's
    own uplink, ``oversize`` as in EdgeService; ``drain_idle`` how many seconds a flow may be silent
    while the endpoint drains.
    """

    endpoint_id: int
    service: str
    vip: str
    port: int
    last_port: int
    container_address: str
    container_port: int
    drain_idle: int
    reply: str | None = None
    oversize: str | None = None


@dataclass(frozen=True)
class MovedEndpoint:
    """An endpoint that this worker had: what still comes for it goes on to the worker ``moved_to``."""

    endpoint_id: int
    service: str
    vip: str
    port: int
    last_port: int
    moved_to: str


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker's programs and maps hold; ``uplink`` is where direct replies leave.

    ``workers`` are those between which backends have moved that this one has or had: it takes relayed
    packets from them, as from ``edges``, and sends packets on to them.
    """

    uplink: str
    container_interface: str
    wireguard_interface: str
    relay_address: str
    relay_address_ipv6: str
    edges: tuple[RelayHost, ...]
    workers: tuple[RelayHost, ...]
    endpoints: tuple[WorkerEndpoint, ...]
    moved: tuple[MovedEndpoint, ...]


@dataclass(frozen=True)
class MetricsPlan:
    """Which file gets the host's metrics, every so many ``seconds``."""

    file: str
    seconds: int


@dataclass(frozen=True)
class HostPlan:
    """Everything one host is told. Exactly one of ``edge`` and ``worker`` is set."""

    schema: int
    host: str
    wireguard: WireGuardPlan
    routes: RoutesPlan
    edge: EdgePlan | None = None
    worker: WorkerPlan | None = None
    metrics: MetricsPlan | None = None

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        encoded = encode(self)
        assert isinstance(encoded, dict)
        return encoded

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HostPlan:
        """The plan that ``to_dict`` gave; raises EdgewireError for another schema, unknown or
        missing keys.
        """
        if data.get("schema") != SCHEMA:
            raise EdgewireError(f"the plan has schema {data.get('schema')!r}, this code reads {SCHEMA}: plan again")
        return decode(cls, data, "plan")


def encode(value: Any) -> Any:
    """Dataclasses → dicts, tuples → lists, all the way down."""
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    encoded = {}
    for name, optional, _ in _fields(type(value)):
        item = getattr(value, name)
        if item is not None or not optional:
            encoded[name] = encode(item)
    return encoded


def decode(kind: type[T], data: Any, where: str) -> T:
    """The inverse of ``encode`` for a dataclass ``kind``; ``where`` is how an EdgewireError names
    the place.
    """
    if not isinstance(data, Mapping):
        raise EdgewireError(f"{where} is not a mapping")
    fields = _fields(kind)
    unknown = sorted(set(map(str, data)) - {name for name, _, _ in fields})
    if unknown:
        raise EdgewireError(f"{where} has unknown keys: {', '.join(unknown)}")
    values = {}
    for name, optional, hint in fields:
        if name in data:
            values[name] = _decode_value(hint, data[name], f"{where}.{name}")
        elif not optional:
            raise EdgewireError(f"{where} lacks {name}")
    return kind(**values)


def _decode_value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise EdgewireError(f"{where} is not a list")
        inner = typing.get_args(hint)[0]
        return tuple(_decode_value(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast("type[Any]", hint), value, where)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise EdgewireError(f"{where} is not of type {hint.__name__}")
    return value


@cache
def _fields_of(kind: Hashable) -> tuple[tuple[str, bool, Any], ...]:
    assert isinstance(kind, type)
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    return tuple((field.name, field.default is None, hints[field.name]) for field in dataclasses.fields(kind))


def _fields(kind: type[Any]) -> tuple[tuple[str, bool, Any], ...]:
    """(name, left out while None, type) of each field."""
    return _fields_of(typing.cast("Hashable", kind))
