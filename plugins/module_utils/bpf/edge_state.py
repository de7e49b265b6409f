# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's map contents as types: what is wanted, and what the maps say, decoded."""

from __future__ import annotations

import array
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct, layout, tables
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.filters import FilterState, FilterWanted, read_filters
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import PORT_BITS, claim_text, prefixes_of
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.maglev import build_table, table_size

# VIP, first and last port: what tells one service's claim from another's.
Claim = tuple[str, int, int]


class Entry(NamedTuple):
    """One lookup entry of a service: a single port in a hash map, or a port prefix of a range in a trie.

    ``bits`` counts the leading bits of the port that are fixed, 16 for a single port.
    """

    map: str
    vip: str
    port: int
    bits: int

    def pack(self) -> bytes:
        """The entry's key as the map holds it."""
        return _key_of(self)

    @property
    def text(self) -> str:
        """What the entry covers: "203.0.113.53:53/udp"."""
        return claim_text(self.vip, self.port, self.port + (1 << (PORT_BITS - self.bits)) - 1)


@functools.lru_cache(65_536)  # a key is needed for its map, and for the tables in front of that, before and after
def _key_of(entry: Entry) -> bytes:
    key = {"vip": entry.vip, "port": entry.port}
    if entry.map in _RANGE_MAPS:
        record, address_bits = _RANGE_MAPS[entry.map]
        return record.pack({**key, "prefix_bits": address_bits + entry.bits})
    return _SINGLE_MAPS[entry.map].pack(key)


_SINGLE_MAPS = {"ew_services": layout.SERVICE_KEY, "ew_services6": layout.SERVICE6_KEY}
_RANGE_MAPS = {"ew_ranges": (layout.RANGE_KEY, 32), "ew_ranges6": (layout.RANGE6_KEY, 128)}
SERVICE_MAPS = (*_SINGLE_MAPS, *_RANGE_MAPS)
# The capacities that bound an edge's maps.
CAPACITIES = ("services", "ranges", "backends", "lut", "vips", "workers")


def entries_of(claim: Claim) -> list[Entry]:
    """The lookup entries that a claim needs: one for a single port, a few for a range."""
    vip, first, last = claim
    family = "6" if ":" in vip else ""
    if first == last:
        return [Entry("ew_services" + family, vip, first, PORT_BITS)]
    return [Entry("ew_ranges" + family, vip, port, bits) for port, bits in prefixes_of(first, last)]


@dataclass(frozen=True, slots=True)
class BackendWanted:
    """One backend of a service, on a worker, with its share's weight (0: no new flows).

    ``drain_weight`` is the weight by which it had the flows that it may finish; 0 where it does not drain. ``leaving``:
    known for replies on their way only, and in no table, as if it had gone already.
    """

    endpoint_id: int
    worker: str
    weight: int
    drain_weight: int = 0
    leaving: bool = False


@dataclass(frozen=True)
class ServiceWanted:
    """One VIP × port, or range of ports, and its backends. ``by_client``: all flows of a client go to one backend.
    ``table_size``: how many slots the table has at least.

    ``drain_deadline`` is in seconds: how long flows may stay with backends that drain. ``carries_oversize``: WireGuard
    fragments what it cannot carry whole, whatever the sender says.
    """

    name: str
    vip: str
    port: int
    last_port: int
    backends: tuple[BackendWanted, ...]
    by_client: bool = False
    drain_deadline: int = 600
    carries_oversize: bool = False
    table_size: int = 0

    @functools.cached_property
    def claim(self) -> Claim:
        """What the service claims."""
        return self.vip, self.port, self.last_port

    @property
    def text(self) -> str:
        """The claim as people read it."""
        return claim_text(*self.claim)

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """The lookup entries of the claim."""
        return entries_of(self.claim)

    @property
    def flags(self) -> int:
        """The service's flags in its map entry."""
        flags = layout.SERVICE_AFFINITY_CLIENT if self.by_client else 0
        flags |= layout.SERVICE_CARRIES_OVERSIZE if self.carries_oversize else 0
        return flags | layout.SERVICE_DRAINING if self.is_draining else flags

    @property
    def _lasting(self) -> list[BackendWanted]:
        return [backend for backend in self.backends if not backend.leaving]

    @functools.cached_property
    def is_draining(self) -> bool:
        """Whether flows are on their way from one of its backends to the others."""
        return any(backend.drain_weight for backend in self.backends) and bool(self.size)

    @functools.cached_property
    def size(self) -> int:
        """Slots of the table, without building it."""
        weights = [backend.weight for backend in self._lasting]
        # By all backends, not by the live ones: draining one must not reshuffle the others' flows.
        return table_size(len(weights), self.table_size) if any(weights) else 0

    @functools.cached_property
    def in_tables(self) -> list[int]:
        """The endpoint ids in its tables, sorted."""
        if not self.size:
            return []
        return sorted(backend.endpoint_id for backend in self._lasting if backend.weight or backend.drain_weight)

    @functools.cached_property
    def shape(self) -> dict[str, int]:
        """What its map entry says of its tables, but for where they are."""
        width = tables.width_for(len(self.in_tables), self.size) if self.size else 0
        palette = 0 if width == tables.WIDTH_SLOT else len(self.in_tables)
        return {"table_size": self.size, "flags": self.flags, "width": width, "palette": palette}

    def block(self, slots: Mapping[int, int]) -> array.array[int]:
        """Its tables as ``ew_lut`` holds them, with the slot of each of its backends."""
        words, palette = array.array("I"), [slots[eid] for eid in self.in_tables]
        if self.size == 1:  # what most services of a large fleet are
            return array.array("I", palette * tables.n_tables(self.flags))
        for table in (self.table, self.drain_table):
            if isinstance(table, tables.PackedTable):
                words += table.words
        words.extend(palette)
        return words

    @property
    def weights(self) -> list[tuple[int, int, int]]:
        """All that its tables are built by: endpoint ids, weights, and those from before they drained."""
        return sorted((b.endpoint_id, b.weight, b.drain_weight) for b in self._lasting)

    @property
    def span(self) -> int:
        """Words of ``ew_lut`` that its block has."""
        return tables.span_of(self.shape)

    @functools.cached_property
    def table(self) -> Sequence[int]:
        """The Maglev table as endpoint ids; empty without a live backend."""
        return self._table([(backend.endpoint_id, backend.weight) for backend in self._lasting])

    @functools.cached_property
    def drain_table(self) -> Sequence[int]:
        """The table in which those that drain still are; empty where none does."""
        if not self.is_draining:
            return []
        return self._table([(backend.endpoint_id, backend.drain_weight or backend.weight) for backend in self._lasting])

    def _table(self, pairs: list[tuple[int, int]]) -> Sequence[int]:
        if self.size <= 1:
            return self.in_tables
        number_of = {eid: number for number, eid in enumerate(self.in_tables)}
        numbers = [number_of[eid] for eid in build_table(pairs, self.size)]
        width = self.shape["width"]
        return tables.PackedTable(tables.pack(numbers, width), width, self.size, self.in_tables)


@dataclass(frozen=True)
class EdgeWanted:
    """Everything an edge's maps shall say. ``workers`` maps a worker's name to its relay addresses.

    The backends on ``dead_workers`` keep their places in the tables, and packets pass them by. A filter is
    for all services of its name. ``wireguard_mtu`` is in bytes of an IP packet.
    """

    relays: Relays
    wireguard_ifindex: int
    uplink_ifindex: int
    workers: Mapping[str, Relays]
    services: tuple[ServiceWanted, ...]
    dead_workers: frozenset[str] = frozenset()
    filters: tuple[FilterWanted, ...] = ()
    drop_unserved: bool = False
    wireguard_mtu: int = 1420

    @property
    def config(self) -> dict[str, Any]:
        """The configuration record."""
        return {
            "relay": self.relays.ipv4,
            "relay6": self.relays.ipv6,
            "wireguard_ifindex": self.wireguard_ifindex,
            "uplink_ifindex": self.uplink_ifindex,
            "flags": layout.EDGE_DROPS_UNSERVED * self.drop_unserved,
            "wireguard_mtu": self.wireguard_mtu,
        }

    def filter_of(self, service: ServiceWanted) -> FilterWanted | None:
        """A service's filter."""
        return self._filters_by_name.get(service.name)

    @functools.cached_property
    def _filters_by_name(self) -> dict[str, FilterWanted]:
        return {item.service: item for item in self.filters}

    @functools.cached_property
    def vips(self) -> frozenset[str]:
        """The VIPs of all services."""
        return frozenset(service.vip for service in self.services)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """Relay address to worker name, both families."""
        return {address: name for name, relays in self.workers.items() for address in relays.all}


@dataclass(frozen=True)
class EdgeState:
    """What an edge's maps say now, decoded. Of ``backends`` and ``workers`` the used slots, of ``lut`` what is used."""

    config: Mapping[str, Any]
    entries: Mapping[Entry, Mapping[str, int]]
    backends: Mapping[int, Mapping[str, Any]]
    workers: Mapping[int, Mapping[str, Any]]
    endpoints: Mapping[int, int]
    vips: frozenset[str]
    lut: array.array[int]
    capacity: Mapping[str, int]
    filters: FilterState
    direct: Mapping[str, bytes]  # by map, packed: they are compared, and tell nothing that the entries do not

    def relay_of(self, backend: Mapping[str, Any]) -> str:
        """The relay address of a backend's worker, of the VIP's family; empty where that worker is not there."""
        worker = self.workers.get(backend["worker"], {})
        return str(worker.get("relay6" if ":" in backend["vip"] else "relay", ""))

    @property
    def backends_by_claim(self) -> dict[Claim, list[Mapping[str, Any]]]:
        """The backends of each service."""
        found: dict[Claim, list[Mapping[str, Any]]] = {}
        for backend in self.backends.values():
            found.setdefault((backend["vip"], backend["port"], backend["last_port"]), []).append(backend)
        return found

    def block_of(self, service: Mapping[str, int]) -> array.array[int]:
        """What ``ew_lut`` has of a service: its table, the one that it had while it drains, and the palette."""
        start = service["table_offset"]
        return self.lut[start : start + tables.span_of(service)]

    def table_of(self, service: Mapping[str, int]) -> list[int]:
        """A service's table as endpoint ids; 0 for a place that leads nowhere."""
        return self._endpoints_in(service, 0)

    def drain_table_of(self, service: Mapping[str, int]) -> list[int]:
        """The table that a service had before it drained; empty where it does not."""
        return self._endpoints_in(service, 1) if service["flags"] & layout.SERVICE_DRAINING else []

    def draining_of(self, service: Mapping[str, int]) -> set[int]:
        """The endpoint ids that a service's flows may stay with, though its table does not have them."""
        return set(self.drain_table_of(service)) - set(self.table_of(service))

    def _endpoints_in(self, service: Mapping[str, int], number: int) -> list[int]:
        width, (words, slots) = tables.width_of(service), tables.parts_of(self.lut, service)
        places = tables.unpack(words[number], width, service["table_size"])
        if width == tables.WIDTH_SLOT:
            return [self.endpoint_at(slot) for slot in places]
        palette = [self.endpoint_at(slot) for slot in slots]
        return [palette[place] if place < len(palette) else 0 for place in places]

    def endpoint_at(self, slot: int) -> int:
        """The endpoint id in a slot of ``ew_backends``; 0 where there is none."""
        return int(self.backends.get(slot, {}).get("endpoint_id", 0))


def asked_size(service: Mapping[str, int], n_backends: int) -> int:
    """The table size that a service has by its own wish; 0 where it is what so many backends need."""
    return service["table_size"] if service["table_size"] > table_size(n_backends) else 0


EMPTY = EdgeState(
    {"relay": "", "relay6": "", "wireguard_ifindex": 0, "uplink_ifindex": 0, "flags": 0, "wireguard_mtu": 0},
    {},
    {},
    {},
    {},
    frozenset(),
    array.array("I"),
    asdict(layout.Capacity()),
    FilterState({}, {}, asdict(layout.Capacity())),
    direct.empty(layout.DIRECT_PLACES),
)


def read_entries(maps: Maps) -> Iterable[tuple[Entry, Mapping[str, int]]]:
    """The services' entries and what they say."""
    for name in SERVICE_MAPS:
        record, address_bits = _RANGE_MAPS.get(name) or (_SINGLE_MAPS[name], 0)
        keys, values = maps[name].read()
        for key, value in zip(record.iter_unpack(keys), layout.SERVICE.iter_unpack(values), strict=True):
            bits = key["prefix_bits"] - address_bits if address_bits else PORT_BITS
            yield Entry(name, key["vip"], key["port"], bits), value


def _read_slots(maps: Maps, name: str, record: layout.Record, used: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The slots of an array whose four bytes ``used`` are not 0; most are free, and those are not decoded."""
    _, values = maps[name].read()
    slots = [slot for slot, mark in enumerate(record.column(used, values)) if mark]
    size = record.size
    data = b"".join([values[slot * size : (slot + 1) * size] for slot in slots])
    return zip(slots, record.iter_unpack(data), strict=True)


def lut_used(maps: Maps) -> int:
    """How many words of ``ew_lut`` there are up to the last one that an entry leads to."""
    used = 0
    for name in SERVICE_MAPS:  # by column, as every look at the maps begins here
        for offset, size, _, flags, width, palette, _ in layout.SERVICE.codec.iter_unpack(maps[name].read()[1]):
            used = max(used, offset + tables.span(size, flags, width, palette))
    return used


def read_lut(maps: Maps) -> array.array[int]:
    """The words of ``ew_lut`` that services use."""
    used = lut_used(maps)
    return array.array("I", maps["ew_lut"].read(limit=used)[1] if used else b"")


def read(maps: Maps) -> EdgeState:
    """Decode the edge's maps; nothing is assumed of what is in them."""
    entries = dict(read_entries(maps))
    backends = dict(_read_slots(maps, "ew_backends", layout.BACKEND, "endpoint_id"))
    workers = dict(_read_slots(maps, "ew_workers", layout.WORKER, "state"))
    keys, values = maps["ew_endpoints"].read()
    endpoints = {
        key["value"]: value["value"]
        for key, value in zip(layout.BE32.iter_unpack(keys), layout.U32.iter_unpack(values), strict=True)
    }
    keys, _ = maps["ew_vips"].read()
    vips = frozenset(key["value"] for key in layout.ADDRESS.iter_unpack(keys))
    config = next(layout.EDGE_CONFIG.iter_unpack(maps["ew_config"].read()[1]))
    capacity = {name: maps[f"ew_{name}"].info.max_entries for name in CAPACITIES}
    lut, filters, places = read_lut(maps), read_filters(maps), direct.read(maps)
    return EdgeState(config, entries, backends, workers, endpoints, vips, lut, capacity, filters, places)
