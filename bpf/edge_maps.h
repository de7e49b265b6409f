/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The edge's maps. plugins/module_utils/bpf/layout.py has their twins in Python; the compile fails where sizes or
 * offsets differ. All addresses and ports are in network order, as in the packet.
 *
 *   services (VIP, port) or ranges (VIP, port prefix) -> slice of lut -> slot of backends -> endpoint id
 *   slot of backends -> slot of workers -> relay addresses, and whether the worker lives
 *   endpoints (endpoint id) -> slot of backends, for the way back
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
	__u32 uplink_ifindex;
	__u32 flags;
};
#define EDGE_HAS_RANGES 1  /* some service has a range of ports: look there where no single port is found */

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

struct service {
	__u32 lut_offset;
	__u32 lut_size;  /* 0: no live backend */
	__u32 retired_index;
	__u32 flags;
};
#define SERVICE_AFFINITY_CLIENT 1  /* all flows of a client go to one backend */

struct backend {
	__be32 endpoint_id;  /* 0: free slot */
	__u32 stats_index;   /* the slot's own number: who has the record can count */
	__u32 worker;        /* slot of workers */
	__be16 port;
	__be16 last_port;
	struct address vip;
};

/* One entry stands for all backends on a worker, so one write takes them all out of service and back. */
struct worker {
	struct address relay;
	struct address relay6;
	__u32 state;
};
#define WORKER_NONE 0  /* free slot */
#define WORKER_LIVE 1
#define WORKER_DEAD 2

BPF_TABLE("array", __u32, struct edge_config, ew_config, 1);
BPF_TABLE("hash", struct service_key, struct service, ew_services, MAX_SERVICES);
BPF_TABLE("hash", struct service6_key, struct service, ew_services6, MAX_SERVICES);
BPF_F_TABLE("lpm_trie", struct range_key, struct service, ew_ranges, MAX_RANGES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct range6_key, struct service, ew_ranges6, MAX_RANGES, BPF_F_NO_PREALLOC);
BPF_TABLE("array", __u32, __u32, ew_lut, MAX_LUT);
BPF_TABLE("array", __u32, struct backend, ew_backends, MAX_BACKENDS);
BPF_TABLE("array", __u32, struct worker, ew_workers, MAX_WORKERS);
BPF_TABLE("hash", __be32, __u32, ew_endpoints, MAX_BACKENDS);
/*
 * What the backends that a service no longer has had counted: its own counters are its backends' and these together.
 * No program looks here, so that a packet costs one counter, whatever is told apart.
 */
BPF_TABLE("array", __u32, struct stats, ew_retired, MAX_BACKENDS);

#endif
