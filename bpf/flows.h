/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The flows that a worker knows, and when each was last heard of. */
#ifndef EDGEWIRE_FLOWS_H
#define EDGEWIRE_FLOWS_H

#include "kernel.h"
#include "worker_maps.h"

static __always_inline __u32 ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

static __always_inline void touch_flow(struct flow *flow)
{
	__u32 now = ticks();

	if (flow->last_seen != now)
		flow->last_seen = now;
}

static __always_inline void remember_flow(struct flow_key *key, struct flow *flow)
{
	struct flow *known = ew_flows.lookup(key);

	/* A lookup is far cheaper than an insert, and nearly every packet belongs to a flow that is known already. */
	if (known && known->endpoint_id == flow->endpoint_id && known->port == flow->port &&
	    known->flags == flow->flags && address_equal(&known->edge_relay, &flow->edge_relay) &&
	    address_equal(&known->vip, &flow->vip)) {
		touch_flow(known);
		return;
	}
	flow->last_seen = ticks();
	ew_flows.update(key, flow);
}

#endif
