/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The edge's maps. plugins/module_utils/bpf/layout.py has their twins in Python; the compile fails where sizes or
 * offsets differ. All addresses and ports are in network order, as in the packet.
 *
 *   services (VIP, port) or ranges (VIP, port prefix) -> block of lut -> slot of backends -> endpoint id
 *   direct (hash of VIP and port) -> the same as services, where only one service has that hash
 *   slot of backends -> slot of workers -> relay addresses, and whether the worker lives
 *   endpoints (endpoint id) -> slot of backends, for the way back
 *   vips (VIP) -> for packets without ports, such as fragments and ICMP
 *
 * IPv4 has service keys of its own: an 8-byte key costs half of a 20-byte one.
 */
#ifndef EDGEWIRE_EDGE_MAPS_H
#define EDGEWIRE_EDGE_MAPS_H

#include "address.h"
#include "stats.h"

struct edge_config {
	struct address relay;
	struct address relay6;
	__u32 wireguard_ifindex;
	__u32 uplink_ifindex; /* by which packets leave to clients: the uplink, or a VLAN interface on it */
	__u32 flags;
	__u32 wireguard_mtu; /* bytes of an IP packet that WireGuard carries whole */
};
#define EDGE_DROPS_UNSERVED 1 /* what is for a VIP and for no service */

struct service_key {
	__be32 vip;
	__be16 port;
	__u16 zero;
};

struct service6_key {
	struct address vip;
	__be16 port;
	__u16 zero;
};

/* Longest prefix match over VIP and port: a range of ports is a few prefixes, whatever its length. */
struct range_key {
	__u32 prefix_bits;
	__be32 vip;
	__be16 port;
	__u16 zero;
};

struct range6_key {
	__u32 prefix_bits;
	struct address vip;
	__be16 port;
	__u16 zero;
};

#define SERVICE_FIELDS                                                 \
	__u32 table_offset; /* of its block in ew_lut, see tables.h */ \
	__u32 table_size; /* places; 0: no live backend */             \
	__u32 retired_index;                                           \
	__u32 flags;                                                   \
	__u16 width; /* log2 of a place's bits */                      \
	__u16 palette; /* slots that the places number */              \
	__u32 filter; /* index of ew_filters, 0: everybody may send as much as they like */

struct service {
	SERVICE_FIELDS
};
#define SERVICE_AFFINITY_CLIENT 1 /* all flows of a client go to one backend */
#define SERVICE_DRAINING 2 /* right behind the table lies the one with the backends that drain, as long */
#define SERVICE_CARRIES_OVERSIZE 4 /* WireGuard fragments what it cannot carry whole */

/*
 * A place of the tables in front of ew_services and ew_services6, see direct.h. Its first 8 bytes, or 20, are compared as a
 * whole with those of the packet: VIP, port and DIRECT_ONE.
 */
struct direct {
	__be32 vip;
	__be16 port;
	__u16 state;
	SERVICE_FIELDS
};

struct direct6 {
	struct address vip;
	__be16 port;
	__u16 state;
	SERVICE_FIELDS
};
#define DIRECT_ASK 0 /* several services, or nothing is known: the hash map tells */
#define DIRECT_ONE 1 /* this service, and no other */
#define DIRECT_NOBODY 2 /* no service */
#define DIRECT_BITS 16 /* of a number of a place */
#define RANGE_BLOCK 1024 /* neighbouring ports that share a bit of ew_no_range */

struct backend {
	__be32 endpoint_id; /* 0: free slot */
	__u32 stats_index; /* the slot's own number: who has the record can count */
	__u32 worker; /* slot of workers */
	__be16 port;
	__be16 last_port;
	struct address vip;
	__u64 asked_until; /* ns of CLOCK_MONOTONIC; while its service drains: until when flows stay here */
	__u32 weight; /* by which the tables were built; no program looks at it, nor at the next one */
	__u32 drain_weight;
};

/* One entry stands for all backends on a worker, so one write takes them all out of service and back. */
struct worker {
	struct address relay;
	struct address relay6;
	__u32 state;
};
#define WORKER_NONE 0 /* free slot */
#define WORKER_LIVE 1
#define WORKER_DEAD 2

/* Who may send to a service, and how much. Times in nanoseconds; see filters.h. */
struct filter {
	__u64 interval; /* between two packets at the service's limit, 0: no limit */
	__u64 tolerance; /* how far packets may run ahead of it: the burst */
	__u64 source_interval;
	__u64 source_tolerance;
	__be32 sources; /* id of a list in ew_sources and ew_sources6, 0: no list */
	__u32 flags;
};
#define FILTER_ADMITS 1 /* sources that are not in the list */

/* What a filter refused. */
struct filtered {
	__u64 source_denied;
	__u64 source_rate;
	__u64 service_rate;
};

/* Longest prefix match over list and source; the value is SOURCE_ALLOWED or SOURCE_DENIED. */
struct source_key {
	__u32 prefix_bits;
	__be32 list;
	__be32 network;
};

struct source6_key {
	__u32 prefix_bits;
	__be32 list;
	struct address network;
};
#define SOURCE_DENIED 0
#define SOURCE_ALLOWED 1

/* A source as the rates know it: an IPv4 address, or an IPv6 /64. */
struct source_rate_key {
	__u32 filter;
	__u32 version;
	__be32 network[2];
};

/* A flow that its old backend did not know, and so is the new one's. */
struct moved_key {
	struct address vip;
	struct address client;
	__be16 port;
	__be16 client_port;
};

BPF_TABLE("array", __u32, struct edge_config, ew_config, 1);
BPF_TABLE("hash", struct service_key, struct service, ew_services, MAX_SERVICES);
BPF_TABLE("hash", struct service6_key, struct service, ew_services6, MAX_SERVICES);
BPF_TABLE("array", __u32, struct direct, ew_direct, 1 << DIRECT_BITS);
BPF_TABLE("array", __u32, struct direct6, ew_direct6, 1 << DIRECT_BITS);
BPF_TABLE("array", __u32, __u64, ew_no_range, (1 << DIRECT_BITS) / 64);
BPF_F_TABLE("lpm_trie", struct range_key, struct service, ew_ranges, MAX_RANGES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct range6_key, struct service, ew_ranges6, MAX_RANGES, BPF_F_NO_PREALLOC);
BPF_TABLE("array", __u32, __u32, ew_lut, MAX_LUT);
BPF_TABLE("array", __u32, struct backend, ew_backends, MAX_BACKENDS);
BPF_TABLE("array", __u32, struct worker, ew_workers, MAX_WORKERS);
BPF_TABLE("hash", __be32, __u32, ew_endpoints, MAX_BACKENDS);
/* The old backend's asked_until of that time: in a later drain the flow is asked for again. State; it may be forgotten. */
BPF_TABLE("lru_hash", struct moved_key, __u64, ew_moved, MAX_MOVED);
/*
 * What the backends that a service no longer has had counted: its own counters are its backends' and these together.
 * No program looks here, so that a packet costs one counter, whatever is told apart.
 */
BPF_TABLE("array", __u32, struct stats, ew_retired, MAX_BACKENDS);
BPF_TABLE("array", __u32, struct filter, ew_filters, MAX_FILTERS);
BPF_TABLE("percpu_array", __u32, struct filtered, ew_filtered, MAX_FILTERS);
BPF_F_TABLE("lpm_trie", struct source_key, __u32, ew_sources, MAX_SOURCES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct source6_key, __u32, ew_sources6, MAX_SOURCES, BPF_F_NO_PREALLOC);
BPF_TABLE("array", __u32, __u64, ew_buckets, MAX_FILTERS);
/* State, not configuration: when it is full the source that was not heard of for longest starts anew. */
BPF_TABLE("lru_hash", struct source_rate_key, __u64, ew_source_buckets, MAX_RATED_SOURCES);
BPF_TABLE("hash", struct address, __u32, ew_vips, MAX_VIPS);

#endif
