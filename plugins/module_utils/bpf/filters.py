# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packet filters in the edge's maps: what is wanted, what is there, and the steps between.

A filter and a list of sources are never changed while packets are held against them. What differs is written beside the
old one, under a number that is free, and the services' entries switch to it; the old one goes last. So a filter that
changes starts with a full bucket and its counters at zero. What sources owe to the filter that had its place before is
not looked for among all sources: it is over within that filter's burst.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps, Write
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.space import Indices, Shortages
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step, make_step

NANOSECONDS = 1_000_000_000
# Packets a second, and in a burst. An interval is whole nanoseconds, so up to here a rate is right within 1 %.
HIGHEST_RATE = 10_000_000
# How many networks of a list that changes a step names.
NETWORKS_SHOWN = 10

_LIST_BITS = 32


class Source(NamedTuple):
    """One network of a list: its bytes (4 or 16) and length, and what becomes of its packets."""

    network: bytes
    bits: int
    allowed: bool

    @property
    def map(self) -> str:
        """The map of its family."""
        return "ew_sources" if len(self.network) == 4 else "ew_sources6"

    @property
    def text(self) -> str:
        """As people write it: "198.51.100.0/24"."""
        return f"{ipaddress.ip_address(self.network)}/{self.bits}"

    def key(self, number: int) -> bytes:
        """Its key in the list ``number``."""
        return struct.pack("=I", _LIST_BITS + self.bits) + number.to_bytes(4, "big") + self.network

    @property
    def value(self) -> bytes:
        """Its entry's value."""
        return layout.U32.of(layout.SOURCE_ALLOWED if self.allowed else layout.SOURCE_DENIED)


Sources = frozenset[Source]


def source_of(network: str, *, allowed: bool) -> Source:
    """A network as a list holds it.

    :raises ValueError: the text is no network, or has host bits.
    """
    parsed = ipaddress.ip_network(network)
    return Source(parsed.network_address.packed, parsed.prefixlen, allowed)


@dataclass(frozen=True)
class Rate:
    """At most ``per_second`` packets a second in the long run, and ``burst`` at once; 0 a second is no limit."""

    per_second: int = 0
    burst: int = 1

    @property
    def interval(self) -> int:
        """Nanoseconds between two packets, rounded up: never more packets than asked for."""
        return -(-NANOSECONDS // self.per_second) if self.per_second else 0

    @property
    def tolerance(self) -> int:
        """Nanoseconds that the last packet of a burst is early."""
        return self.interval * (self.burst - 1)


@dataclass(frozen=True)
class FilterWanted:
    """A service's filter. With any network allowed, sources that no network holds are denied."""

    service: str
    sources: Sources = frozenset()
    rate: Rate = field(default_factory=Rate)
    source_rate: Rate = field(default_factory=Rate)

    @property
    def admits(self) -> bool:
        """Whether a source that is in no network of the list is let in."""
        return not any(source.allowed for source in self.sources)

    def lets_in(self, address: str) -> bool:
        """Whether the list lets an address in: the longest network that holds it says so."""
        raw = ipaddress.ip_address(address).packed
        number, width = int.from_bytes(raw, "big"), len(raw) * 8
        holding = [
            source
            for source in self.sources
            if len(source.network) == len(raw)
            and (number ^ int.from_bytes(source.network, "big")) >> (width - source.bits) == 0
        ]
        return max(holding, key=lambda source: source.bits).allowed if holding else self.admits

    @property
    def limits(self) -> bool:
        """Whether a packet that the list lets in may be one too many."""
        return bool(self.rate.per_second or self.source_rate.per_second)

    def record(self, number: int) -> dict[str, int]:
        """The filter's record, where its list is ``number``."""
        return {
            "interval": self.rate.interval,
            "tolerance": self.rate.tolerance,
            "source_interval": self.source_rate.interval,
            "source_tolerance": self.source_rate.tolerance,
            "sources": number,
            "flags": layout.FILTER_ADMITS if self.admits else 0,
        }


@dataclass(frozen=True)
class FilterState:
    """What the maps say now: filters by index, those that are not all zero, and lists by number."""

    filters: Mapping[int, Mapping[str, int]]
    lists: Mapping[int, Sources]
    capacity: Mapping[str, int]


@dataclass
class FilterPlan:
    """Where each service's filter is (by name), the steps, and the writes: before and after the services switch."""

    index: dict[str, int]
    steps: list[Step]
    before: list[Write]
    after: list[Write]


def read_filters(maps: Maps) -> FilterState:
    """Decode the maps of filters."""
    lists: dict[int, set[Source]] = {}
    for name, size in (("ew_sources", 4), ("ew_sources6", 16)):
        keys, values = maps[name].read()
        rows = zip(struct.iter_unpack(f"=I4s{size}s", keys), struct.iter_unpack("=I", values), strict=True)
        for (bits, number, network), (verdict,) in rows:
            source = Source(network, bits - _LIST_BITS, verdict == layout.SOURCE_ALLOWED)
            lists.setdefault(int.from_bytes(number, "big"), set()).add(source)
    records = enumerate(layout.FILTER.iter_unpack(maps["ew_filters"].read()[1]))
    return FilterState(
        {index: record for index, record in records if any(record.values())},
        {number: frozenset(sources) for number, sources in lists.items()},
        {name: maps[f"ew_{name}"].info.max_entries for name in ("filters", "sources")},
    )


def _place_lists(wanted: Sequence[FilterWanted], state: FilterState, result: FilterPlan) -> dict[Sources, int]:
    """The number of every wanted list; services whose lists are equal share one."""
    known = {sources: number for number, sources in sorted(state.lists.items(), reverse=True)}
    numbers = {}
    # Numbers of lists have no bound but 32 bits; 0 stands for none.
    taken = {0, *state.lists, *(record["sources"] for record in state.filters.values())}
    free = (number for number in itertools.count(1) if number not in taken)
    for item in wanted:
        if item.sources and item.sources not in numbers:
            number = known.get(item.sources)
            if number is None or not number:
                number = next(free)
                result.before += [(source.map, source.key(number), source.value) for source in sorted(item.sources)]
            numbers[item.sources] = number
    return numbers


def _check_capacity(
    wanted: Sequence[FilterWanted], state: FilterState, result: FilterPlan, shortages: Shortages
) -> None:
    there = Counter(source.map for sources in state.lists.values() for source in sources)
    there.update(name for name, _, _ in result.before)
    shortages.need("filters", len(wanted) + 1, state.capacity["filters"])
    sources = max(there.values(), default=0)
    shortages.need("sources", sources, state.capacity["sources"], " while a changed list lies beside the old one")


def describe(record: Mapping[str, int], sources: Sources | None) -> dict[str, Any]:
    """A filter in the inventory's words."""
    words: dict[str, Any] = {"others": "allowed" if record["flags"] & layout.FILTER_ADMITS else "denied"}
    if record["sources"]:
        listed = sources or frozenset()
        words["allow"] = sum(source.allowed for source in listed)
        words["deny"] = len(listed) - words["allow"]
        text = "\n".join(sorted(f"{source.text} {source.allowed}" for source in listed))
        words["list"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    for name, prefix in (("", ""), ("per_source_", "source_")):
        interval = record[prefix + "interval"]
        if interval:
            words[f"{name}packets_per_second"] = NANOSECONDS // interval
            words[f"{name}burst"] = record[prefix + "tolerance"] // interval + 1
    return words


def _shown(sources: Iterable[Source]) -> list[str]:
    texts = sorted(f"{'allow' if source.allowed else 'deny'} {source.text}" for source in sources)
    more = len(texts) - NETWORKS_SHOWN
    return texts if more <= 0 else [*texts[:NETWORKS_SHOWN], f"and {more} more"]


def _step(name: str, before: Mapping[str, int] | None, after: Mapping[str, int] | None, lists: _Lists) -> Step:
    """A filter that comes, changes or goes: both sides described, and the networks in which they differ."""

    def words(record: Mapping[str, int] | None, other: Mapping[str, int] | None) -> dict[str, Any] | None:
        if record is None:
            return None
        mine, others = lists.of(record), lists.of(other)
        only = _shown(mine - others)
        return {**describe(record, mine), **({"networks": only} if only else {})}

    shown_before, shown_after = words(before, after), words(after, before)
    if shown_before == shown_after and shown_before is not None:  # numbers that have no name outside this box differ
        shown_before = {**shown_before, "place": "another service's, or not all there"}
    return make_step("filter", name, shown_before, shown_after)


class _Lists:
    """The lists that are there and those that are to come, by number."""

    def __init__(self, there: Mapping[int, Sources], wanted: Mapping[Sources, int]) -> None:
        self.wanted = frozenset(wanted.values())
        self._lists = {**there, **{number: sources for sources, number in wanted.items()}}

    def of(self, record: Mapping[str, int] | None) -> Sources:
        """The list of a filter's record; empty where it has none."""
        return self._lists.get(record["sources"], frozenset()) if record else frozenset()


def plan(
    wanted: Sequence[FilterWanted],
    state: FilterState,
    used: Mapping[int, str],
    found: Mapping[str, Sequence[int]],
    cpus: int,
    shortages: Shortages,
) -> FilterPlan:
    """From the filters that are there to those that are wanted.

    ``used`` are the indices that the services' entries have now, with a name for each; ``found`` those among them that
    the entries of a wanted service have, by service name, best first. What does not fit goes to ``shortages``.
    """
    result = FilterPlan({}, [], [], [])
    wanted = sorted(wanted, key=lambda item: item.service)
    numbers = _place_lists(wanted, state, result)
    lists = _Lists(state.lists, numbers)
    for item in wanted:
        record = item.record(numbers.get(item.sources, 0))
        for index in found.get(item.service, ()):
            if state.filters.get(index) == record and index not in result.index.values():
                result.index[item.service] = index
                break
    _check_capacity(wanted, state, result, shortages)
    taken = {0, *state.filters, *used, *result.index.values()}  # 0 stands for none
    indices = Indices(taken, state.capacity["filters"], "filters", shortages)
    replaced: set[int] = set()
    for item in wanted:
        if item.service in result.index:
            continue
        index = result.index[item.service] = indices.take()
        key, record = layout.U32.of(index), item.record(numbers.get(item.sources, 0))
        result.before += [
            ("ew_filtered", key, bytes(layout.FILTERED.size * cpus)),
            ("ew_buckets", key, bytes(layout.U64.size)),
            ("ew_filters", key, layout.FILTER.pack(record)),
        ]
        old = next((n for n in found.get(item.service, ()) if n in state.filters), 0)
        replaced.add(old)
        result.steps.append(_step(f"of service {item.service}", state.filters.get(old), record, lists))
    _retire(state, used, replaced, lists, result)
    return result


def _retire(state: FilterState, used: Mapping[int, str], replaced: set[int], lists: _Lists, result: FilterPlan) -> None:
    kept = set(result.index.values())
    told = set()
    for index, record in state.filters.items():
        if index not in kept:
            told.add(record["sources"])
            result.after.append(("ew_filters", layout.U32.of(index), bytes(layout.FILTER.size)))
            if index not in replaced:
                result.steps.append(_step(used.get(index, "of no service"), record, None, lists))
    for number, sources in state.lists.items():
        if number not in lists.wanted:
            result.after += [(source.map, source.key(number), None) for source in sorted(sources)]
            if not number or number not in told:
                name = f"of no filter ({number})"
                result.steps.append(make_step("list of sources", name, {"networks": _shown(sources)}, None))
