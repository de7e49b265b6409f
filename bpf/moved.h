/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Endpoints that have moved to another worker. An edge that was not told yet goes on sending to the former one, which
 * sends the packet on under its own relay address, and the reply, which takes the same way back, on to that edge, which
 * takes it from the former worker only. Each time is a stage of the relay option, so two workers that send each other
 * the same packet soon stop.
 */
#ifndef EDGEWIRE_MOVED_H
#define EDGEWIRE_MOVED_H

#include "drops.h"
#include "events.h"
#include "flows.h"
#include "relay.h"

/* Where a packet of an endpoint that moved goes next, and in which stage. */
struct passage {
	struct address to;
	__u32 stage;
	int is_reply;
};

/*
 * Find where a packet in `stage` from `from` goes. Its UDP header is at `udp_offset`, 0 where it has none because it is
 * a later fragment: that goes on to the endpoint, but no reply's finds its edge. 0, or the verdict of a drop.
 */
static __always_inline int find_passage(struct __sk_buff *skb, __u32 udp_offset, const struct endpoint *endpoint,
					const struct address *from, const struct address *client, __be32 endpoint_id,
					__u32 stage, struct passage *passage)
{
	struct flow_key key = {.container = endpoint->vip, .client = *client};
	struct flow *known;
	struct udphdr udp;

	passage->is_reply = stage == RELAY_PLAIN && address_equal(from, &endpoint->container);
	if (udp_offset && bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)))
		return tc_drop(DROP_MALFORMED);
	if (passage->is_reply) {
		if (!udp_offset)
			return tc_drop(DROP_NO_WAY_BACK);
		key.container_port = udp.source;
		key.client_port = udp.dest;
		known = ew_flows.lookup(&key);
		if (!known || known->endpoint_id != endpoint_id)
			return tc_drop(DROP_NO_WAY_BACK);
		touch_flow(known);
		passage->to = known->edge_relay;
		passage->stage = RELAY_PLAIN;
		count_event(EVENT_PASSED_BACK);
		return 0;
	}
	if (stage == RELAY_FORWARDED_TWICE)
		return tc_drop(DROP_TOO_MANY_HOPS);
	if (udp_offset) {
		struct flow flow = {
			.edge_relay = *from,
			.vip = endpoint->vip,
			.endpoint_id = endpoint_id,
			.stats_index = endpoint->stats_index,
			.port = udp.dest,
			.flags = endpoint->flags,
		};

		key.container_port = udp.dest;
		key.client_port = udp.source;
		remember_flow(&key, &flow);
	}
	passage->to = endpoint->container;
	passage->stage = stage == RELAY_PLAIN ? RELAY_FORWARDED : RELAY_FORWARDED_TWICE;
	count_event(EVENT_FORWARDED);
	return 0;
}

static __always_inline void count_passage(const struct endpoint *endpoint, const struct passage *passage, __u32 bytes)
{
	if (passage->is_reply)
		count_out(endpoint->stats_index, bytes);
	else
		count_in(endpoint->stats_index, bytes);
}

#endif
