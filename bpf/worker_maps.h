/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The worker's maps; their twins in Python are in plugins/module_utils/bpf/layout.py. All addresses and ports are in
 * network order.
 */
#ifndef EDGEWIRE_WORKER_MAPS_H
#define EDGEWIRE_WORKER_MAPS_H

#include "address.h"

struct worker_config {
	struct address relay;
	struct address relay6;
	__u32 wireguard_ifindex;
	__u32 container_ifindex;
	__u32 uplink_ifindex;
	__u32 wireguard_mtu; /* bytes of an IP packet that WireGuard carries whole */
};

struct endpoint {
	struct address vip;
	struct address container; /* of one that moved: the relay address of the worker that has it now */
	__be16 port;
	__be16 last_port;
	__be16 container_port; /* of the first port; the others follow */
	__u16 flags;
	__u32 stats_index;
	__u32 idle; /* while it drains: how long a flow may be silent before it goes elsewhere, in ticks */
};
/*
 * Ticks are 2^30 ns of CLOCK_MONOTONIC, about a second: coarse enough that a flow's record is written once a second
 * and not with every packet, and made by a shift.
 */
#define TICK_SHIFT 30
#define ENDPOINT_DIRECT 1 /* replies leave through this worker's uplink, not through the edge */
#define ENDPOINT_MOVED 2 /* another worker has it now: what comes for it goes on there */
#define ENDPOINT_CARRIES_OVERSIZE 4 /* WireGuard fragments what it cannot carry whole */

/* A flow as its reply will look: from the container to the client. */
struct flow_key {
	struct address container; /* of an endpoint that moved: the VIP, and its port; no container has that */
	struct address client;
	__be16 container_port;
	__be16 client_port;
};

/* Where the reply goes, and what it must look like when it gets there. */
struct flow {
	struct address edge_relay;
	struct address vip;
	__be32 endpoint_id;
	__u32 stats_index;
	__be16 port;
	__u16 flags; /* of the endpoint, when its last packet came */
	__u32 last_seen; /* ticks */
};

BPF_TABLE("array", __u32, struct worker_config, ew_config, 1);
BPF_TABLE("hash", struct address, __u32, ew_edges, MAX_EDGES);
BPF_TABLE("hash", __be32, struct endpoint, ew_endpoints, MAX_BACKENDS);
/* State, not configuration: when it is full the least recently used flow is forgotten. */
BPF_TABLE("lru_hash", struct flow_key, struct flow, ew_flows, MAX_FLOWS);

#endif
