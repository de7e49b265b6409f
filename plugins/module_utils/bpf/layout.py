# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python's side of the maps: records, maps and drop reasons as ``bpf/*.h`` lays them out.

The C compiler holds the two sides together: :func:`assertions` is appended to the source that is compiled, so that a
size, an offset or a number that differs is a compile error and never a map full of garbage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.record import ADDRESS as ADDRESS
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.record import BE32 as BE32
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.record import U32 as U32
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.record import U64 as U64
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.record import Fields as Fields
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.record import Record as Record

Role = Literal["edge", "worker"]

IDENTITY = Record("identity", (("build", "hash"), ("schema", "hash")))
STATS = Record(
    "stats",
    (("in_packets", "u64"), ("in_bytes", "u64"), ("out_packets", "u64"), ("out_bytes", "u64")),
)
CAPTURE = Record(
    "capture",
    (("until", "u64"), ("reasons", "u64"), ("left", "u64"), ("snaplen", "u32"), ("zero", "u32")),
)
# Not in a map: what goes before a packet's bytes in a sample.
SAMPLE = Record(
    "sample",
    (
        ("when", "u64"),
        ("reason", "u32"),
        ("ifindex", "u32"),
        ("length", "u32"),
        ("captured", "u32"),
        ("hook", "u32"),
        ("zero", "u32"),
    ),
)
SAMPLE_HOOKS = ("xdp", "tc")  # enum sample_hook
EDGE_CONFIG = Record(
    "edge_config",
    (
        ("relay", "address"),
        ("relay6", "address"),
        ("wireguard_ifindex", "u32"),
        ("uplink_ifindex", "u32"),
        ("flags", "u32"),
        ("wireguard_mtu", "u32"),
    ),
)
EDGE_DROPS_UNSERVED = 1
SERVICE_KEY = Record("service_key", (("vip", "ipv4"), ("port", "be16"), ("zero", "u16")))
SERVICE6_KEY = Record("service6_key", (("vip", "address"), ("port", "be16"), ("zero", "u16")))
RANGE_KEY = Record("range_key", (("prefix_bits", "u32"), ("vip", "ipv4"), ("port", "be16"), ("zero", "u16")))
RANGE6_KEY = Record("range6_key", (("prefix_bits", "u32"), ("vip", "address"), ("port", "be16"), ("zero", "u16")))
_SERVICE_FIELDS: Fields = (
    ("table_offset", "u32"),
    ("table_size", "u32"),
    ("retired_index", "u32"),
    ("flags", "u32"),
    ("width", "u16"),
    ("palette", "u16"),
    ("filter", "u32"),
)
SERVICE = Record("service", _SERVICE_FIELDS)
DIRECT = Record("direct", (("vip", "ipv4"), ("port", "be16"), ("state", "u16"), *_SERVICE_FIELDS))
DIRECT6 = Record("direct6", (("vip", "address"), ("port", "be16"), ("state", "u16"), *_SERVICE_FIELDS))
DIRECT_ASK, DIRECT_ONE, DIRECT_NOBODY = 0, 1, 2
DIRECT_PLACES = 65_536
RANGE_BLOCK = 1024  # neighbouring ports that share a bit of ew_no_range
SERVICE_AFFINITY_CLIENT = 1
SERVICE_DRAINING = 2
SERVICE_CARRIES_OVERSIZE = 4
BACKEND = Record(
    "backend",
    (
        ("endpoint_id", "be32"),
        ("stats_index", "u32"),
        ("worker", "u32"),
        ("port", "be16"),
        ("last_port", "be16"),
        ("vip", "address"),
        ("asked_until", "u64"),
        ("weight", "u32"),
        ("drain_weight", "u32"),
    ),
)
MOVED_KEY = Record("moved_key", (("vip", "address"), ("client", "address"), ("port", "be16"), ("client_port", "be16")))
WORKER = Record("worker", (("relay", "address"), ("relay6", "address"), ("state", "u32")))
WORKER_LIVE, WORKER_DEAD = 1, 2
FILTER = Record(
    "filter",
    (
        ("interval", "u64"),
        ("tolerance", "u64"),
        ("source_interval", "u64"),
        ("source_tolerance", "u64"),
        ("sources", "be32"),
        ("flags", "u32"),
    ),
)
FILTER_ADMITS = 1
FILTERED = Record("filtered", (("source_denied", "u64"), ("source_rate", "u64"), ("service_rate", "u64")))
SOURCE_KEY = Record("source_key", (("prefix_bits", "u32"), ("list", "be32"), ("network", "ipv4")))
SOURCE6_KEY = Record("source6_key", (("prefix_bits", "u32"), ("list", "be32"), ("network", "ipv6")))
SOURCE_DENIED, SOURCE_ALLOWED = 0, 1
SOURCE_RATE_KEY = Record("source_rate_key", (("filter", "u32"), ("version", "u32"), ("network", "u64")))
WORKER_CONFIG = Record(
    "worker_config",
    (
        ("relay", "address"),
        ("relay6", "address"),
        ("wireguard_ifindex", "u32"),
        ("container_ifindex", "u32"),
        ("uplink_ifindex", "u32"),
        ("wireguard_mtu", "u32"),
    ),
)
ENDPOINT = Record(
    "endpoint",
    (
        ("vip", "address"),
        ("container", "address"),
        ("port", "be16"),
        ("last_port", "be16"),
        ("container_port", "be16"),
        ("flags", "u16"),
        ("stats_index", "u32"),
        ("idle", "u32"),
    ),
)
# Nanoseconds are shifted by so many bits to the ticks in which a worker tells flows' ages.
TICK_SHIFT = 30
ENDPOINT_DIRECT, ENDPOINT_MOVED, ENDPOINT_CARRIES_OVERSIZE = 1, 2, 4
FLOW_KEY = Record(
    "flow_key",
    (("container", "address"), ("client", "address"), ("container_port", "be16"), ("client_port", "be16")),
)
FLOW = Record(
    "flow",
    (
        ("edge_relay", "address"),
        ("vip", "address"),
        ("endpoint_id", "be32"),
        ("stats_index", "u32"),
        ("port", "be16"),
        ("flags", "u16"),
        ("last_seen", "u32"),
    ),
)

DATAGRAM_KEY = Record(
    "datagram_key", (("source", "address"), ("destination", "address"), ("id", "be32"), ("protocol", "u32"))
)
DATAGRAM = Record(
    "datagram",
    (
        ("address", "address"),
        ("endpoint_id", "be32"),
        ("stats_index", "u32"),
        ("first_seen", "u32"),
        ("way", "u32"),
    ),
)
HELD_KEY = Record("held_key", (*((f"datagram.{name}", kind) for name, kind in DATAGRAM_KEY.fields), ("number", "u32")))
HELD = Record(
    "held", (("length", "u32"), ("held_since", "u32"), ("last_number", "u32"), ("zero", "u32"), ("frame", "frame"))
)
HELD_COUNT = Record("held_count", (("held", "u64"), ("released", "u64")))

# The order of enum drop_reason in bpf/drops.h, and what each means to a person.
DROP_REASONS: dict[str, str] = {
    "malformed": "lengths in the packet contradict each other",
    "relay_from_outside": "a relay option on a packet that did not come through WireGuard",
    "fragment_tiny": "a first IP fragment that ends before the UDP header does",
    "fragment_not_held": "an IP fragment ahead of its datagram's first one, too long to be held or one too many",
    "ttl_expired": "time to live used up",
    "too_big": "longer than WireGuard carries whole, and not to be fragmented",
    "options_too_long": "no room for the relay option behind the packet's own IP options",
    "no_backend": "the service has no live backend",
    "unknown_worker": "the backend's worker is not known here",
    "no_headroom": "the driver left no room to grow the packet",
    "no_metadata": "the driver has no room for XDP metadata",
    "not_configured": "the program's own configuration is not written yet",
    "not_relayed": "sent to the relay address through WireGuard, but not a relayed packet",
    "bad_option": "a relay option of a version that is not known here",
    "unknown_edge": "relayed by an edge that is not known here",
    "unknown_endpoint": "for an endpoint that is not known here",
    "wrong_worker": "a reply from a worker that does not have the endpoint",
    "wrong_port": "a reply from a port that the endpoint does not have",
    "unknown_flow": "an ICMP error about a reply that was not sent from here",
    "icmp_limited": "a ping that is not answered: too many, or from no single host",
    "rewrite_failed": "the kernel refused to change the packet",
    "source_denied": "the service's list of sources does not let the client in",
    "source_rate": "the client sends more packets than the service takes from one source",
    "service_rate": "more packets than the service takes in all",
    "not_a_service": "for a VIP, but for no service, where such packets are not left to the host",
    "too_many_hops": "sent on by workers that no longer have the endpoint, more often than is allowed",
    "no_way_back": "a reply by way of a worker that had the endpoint, of a flow not known there, or a later fragment",
}

# The order of enum event in bpf/events.h, and what each means to a person.
EVENTS: dict[str, str] = {
    "asked": "sent to the backend that a draining service had for it, to be taken or returned",
    "returned": "returned to the edge by a draining backend that does not know the flow",
    "moved": "returned by a draining backend, and sent on to the flow's new one",
    "forwarded": "sent on to the worker that has the endpoint now, for an edge that does not know yet",
    "passed_back": "a reply from there, sent on to that edge",
    "echo_answered": "a ping to a VIP, answered",
    "too_big_sent": "the sender of a packet that does not fit was told what fits",
    "time_exceeded_sent": "the sender of a packet whose time to live was used up was told so",
    "error_relayed": "an ICMP error, translated and taken to the container or the client that it is about",
    "icmp_suppressed": "an ICMP message not sent, because there were too many",
}

# enum bpf_map_type (linux/bpf.h)
MAP_TYPES = {"hash": 1, "array": 2, "perf_event_array": 4, "percpu_array": 6, "lru_hash": 9, "lpm_trie": 11}


@dataclass(frozen=True)
class MapSpec:
    """One map of a role: C name, type, key and value records, and which :class:`Capacity` bounds it.

    ``carried`` tells whether the contents go on in the map of the next build.
    """

    name: str
    type: str
    key: Record
    value: Record
    max_entries: str | int
    carried: bool = True


@dataclass(frozen=True)
class Capacity:
    """How many entries the maps hold; fixed when the programs are loaded.

    ``services`` counts VIP × port pairs of one family, ``ranges`` the prefixes that ranges of ports make (at most 30
    each), ``backends`` endpoints, ``lut`` words of all services' tables together (see ``tables``), ``workers`` the
    workers an edge knows, ``filters`` services with a filter (one less), ``sources`` the networks of one family in all
    lists, where a list that changes needs room beside the old one, ``rated_sources`` the clients of services with a
    rate per source that are told apart, ``moved`` the flows that it knows to have moved while their services drain,
    ``edges`` the relay addresses of edges that a worker knows, ``flows`` the flows whose way back a worker remembers,
    ``vips`` the VIPs of both families, ``fragments`` the fragmented datagrams whose way is remembered,
    ``held_fragments`` the fragments (1.6 kB each) that wait for their datagram's first one.
    """

    services: int = 16_384
    ranges: int = 16_384
    backends: int = 65_536
    lut: int = 4_194_304
    workers: int = 4_096
    filters: int = 4_096
    sources: int = 1_048_576
    rated_sources: int = 131_072
    moved: int = 65_536
    vips: int = 16_384
    edges: int = 4_096
    flows: int = 262_144
    fragments: int = 16_384
    held_fragments: int = 1_024

    def flags(self) -> list[str]:
        """The capacities as compiler flags."""
        values = {**asdict(self), "stats": self.backends}
        return [f"-DMAX_{name.upper()}={value}" for name, value in sorted(values.items())]


_COMMON = (
    MapSpec("ew_drops", "percpu_array", U32, U64, len(DROP_REASONS)),
    MapSpec("ew_events", "percpu_array", U32, U64, len(EVENTS)),
    MapSpec("ew_icmp_buckets", "percpu_array", U32, U64, 2, carried=False),
    MapSpec("ew_identity", "array", U32, IDENTITY, 1, carried=False),
    MapSpec("ew_capture", "array", U32, CAPTURE, 1, carried=False),
    MapSpec("ew_samples", "perf_event_array", U32, U32, 0, carried=False),  # as many entries as CPUs
    MapSpec("ew_stats", "percpu_array", U32, STATS, "backends"),
    MapSpec("ew_fragments", "lru_hash", DATAGRAM_KEY, DATAGRAM, "fragments"),
    MapSpec("ew_held", "lru_hash", HELD_KEY, HELD, "held_fragments"),
    MapSpec("ew_held_scratch", "percpu_array", U32, HELD, 1),
    MapSpec("ew_held_count", "percpu_array", U32, HELD_COUNT, 1),
)
MAPS: dict[str, tuple[MapSpec, ...]] = {
    "edge": (
        *_COMMON,
        MapSpec("ew_config", "array", U32, EDGE_CONFIG, 1),
        MapSpec("ew_services", "hash", SERVICE_KEY, SERVICE, "services"),
        MapSpec("ew_services6", "hash", SERVICE6_KEY, SERVICE, "services"),
        MapSpec("ew_direct", "array", U32, DIRECT, DIRECT_PLACES),
        MapSpec("ew_direct6", "array", U32, DIRECT6, DIRECT_PLACES),
        MapSpec("ew_no_range", "array", U32, U64, DIRECT_PLACES // 64),
        MapSpec("ew_ranges", "lpm_trie", RANGE_KEY, SERVICE, "ranges"),
        MapSpec("ew_ranges6", "lpm_trie", RANGE6_KEY, SERVICE, "ranges"),
        MapSpec("ew_lut", "array", U32, U32, "lut"),
        MapSpec("ew_backends", "array", U32, BACKEND, "backends"),
        MapSpec("ew_workers", "array", U32, WORKER, "workers"),
        MapSpec("ew_endpoints", "hash", BE32, U32, "backends"),
        MapSpec("ew_moved", "lru_hash", MOVED_KEY, U64, "moved"),
        MapSpec("ew_retired", "array", U32, STATS, "backends"),
        MapSpec("ew_filters", "array", U32, FILTER, "filters"),
        MapSpec("ew_filtered", "percpu_array", U32, FILTERED, "filters"),
        MapSpec("ew_sources", "lpm_trie", SOURCE_KEY, U32, "sources"),
        MapSpec("ew_sources6", "lpm_trie", SOURCE6_KEY, U32, "sources"),
        MapSpec("ew_buckets", "array", U32, U64, "filters"),
        MapSpec("ew_source_buckets", "lru_hash", SOURCE_RATE_KEY, U64, "rated_sources"),
        MapSpec("ew_vips", "hash", ADDRESS, U32, "vips"),
    ),
    "worker": (
        *_COMMON,
        MapSpec("ew_config", "array", U32, WORKER_CONFIG, 1),
        MapSpec("ew_edges", "hash", ADDRESS, U32, "edges"),
        MapSpec("ew_endpoints", "hash", BE32, ENDPOINT, "backends"),
        MapSpec("ew_flows", "lru_hash", FLOW_KEY, FLOW, "flows"),
    ),
}


def _records(role: str) -> Iterable[Record]:
    seen = {}
    for spec in MAPS[role]:
        for record in (spec.key, spec.value):
            if record.name:  # scalars and bare addresses have no struct of their own to compare
                seen[record.name] = record
    return [*seen.values(), SAMPLE]


def assertions(role: str) -> str:
    """C code that fails to compile where ``bpf/*.h`` and this module disagree."""
    lines = []
    for record in _records(role):
        lines.append(f'_Static_assert(sizeof(struct {record.name}) == {record.size}, "size of {record.name}");')
        for name, _ in record.fields:
            offset = record.offset(name)
            lines.append(
                f'_Static_assert(__builtin_offsetof(struct {record.name}, {name}) == {offset}, "{record.name}.{name}");'
            )
    for number, reason in enumerate(DROP_REASONS):
        lines.append(f'_Static_assert(DROP_{reason.upper()} == {number}, "drop reason {reason}");')
    for number, event in enumerate(EVENTS):
        lines.append(f'_Static_assert(EVENT_{event.upper()} == {number}, "event {event}");')
    if role == "edge":
        lines.append(f'_Static_assert(1 << DIRECT_BITS == {DIRECT_PLACES}, "places of ew_direct");')
        lines.append(f'_Static_assert(RANGE_BLOCK == {RANGE_BLOCK}, "ports of a block");')
        for state, number in (("ASK", DIRECT_ASK), ("ONE", DIRECT_ONE), ("NOBODY", DIRECT_NOBODY)):
            lines.append(f'_Static_assert(DIRECT_{state} == {number}, "state {state.lower()} of a place");')
    lines.append(f'_Static_assert(EVENTS == {len(EVENTS)}, "number of events");')
    for number, hook in enumerate(SAMPLE_HOOKS):
        lines.append(f'_Static_assert(SAMPLE_{hook.upper()} == {number}, "hook {hook}");')
    lines.append('_Static_assert(DROP_REASONS <= 64, "a bit for each drop reason");')
    lines.append(f'_Static_assert(DROP_REASONS == {len(DROP_REASONS)}, "number of drop reasons");')
    return "\n".join(lines) + "\n"
