/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The edge: takes UDP for a service off the uplink before the IP stack sees it, relays it to a worker through
 * WireGuard, and brings the replies back. Three programs that share their maps:
 *
 *   edge_xdp      XDP on the uplink         client -> VIP      becomes  edge -> worker + relay option
 *   edge_handoff  TC ingress on the uplink  marked packets go into WireGuard, past FIB, netfilter and conntrack, or
 *                                           are answered: pings, packets that are too big or whose time is up
 *   edge_egress   TC ingress on WireGuard   worker -> edge     becomes  VIP -> client
 */
#include "kernel.h"
#include "drops.h"
#include "edge_fragments.h"
#include "edge_icmp.h"
#include "edge_maps.h"
#include "edge_reply.h"
#include "edge_request.h"
#include "ethernet.h"
#include "extensions.h"
#include "handoff.h"
#include "relay.h"
#include "vlan.h"

/* What to do with a frame without VLAN tags. */
static __always_inline int take_frame(struct xdp_md *ctx, const struct edge_config *config)
{
	void *data_end = (void *)(long)ctx->data_end, *frame = (void *)(long)ctx->data;

	if (frame + ETH_HLEN > data_end)
		return XDP_PASS;
	if (*ethernet_protocol(frame) == bpf_htons(ETH_P_IP))
		return forward(ctx, frame, data_end, config);
	if (*ethernet_protocol(frame) == bpf_htons(ETH_P_IPV6))
		return forward6(ctx, frame, data_end, config);
	return XDP_PASS;
}

/*
 * A frame without tags that nobody wanted: dropped if it is for a VIP. ICMP stays with the host: errors and echo, and in
 * IPv6 neighbour discovery, without which nothing reaches a VIP that is on the link.
 */
static __always_inline int refuse_unserved(struct xdp_md *ctx)
{
	void *data_end = (void *)(long)ctx->data_end, *frame = (void *)(long)ctx->data;
	struct ipv6hdr *ip6 = frame + ETH_HLEN;
	struct iphdr *ip = frame + ETH_HLEN;
	struct address destination;
	struct udp_place place;

	if ((void *)(ip + 1) > data_end)
		return XDP_PASS;
	if (*ethernet_protocol(frame) == bpf_htons(ETH_P_IP)) {
		if (ip->protocol == IPPROTO_ICMP)
			return XDP_PASS;
		destination = address_of_v4(ip->daddr);
	} else if (*ethernet_protocol(frame) == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= data_end) {
		find_udp(ip6 + 1, data_end, ip6->nexthdr, &place);
		if (place.next_header == IPPROTO_ICMPV6)
			return XDP_PASS;
		destination = address_of_v6(&ip6->daddr);
	} else {
		return XDP_PASS;
	}
	return ew_vips.lookup(&destination) ? xdp_drop(DROP_NOT_A_SERVICE) : XDP_PASS;
}

static __always_inline int is_marked(struct xdp_md *ctx)
{
	return (void *)(long)ctx->data_meta + sizeof(__u32) <= (void *)(long)ctx->data;
}

static __always_inline int from_client(struct xdp_md *ctx)
{
	void *frame = (void *)(long)ctx->data;
	struct vlan_tag outer = {}, inner = {};
	struct edge_config *config;
	__u32 zero = 0;
	int verdict;

	if (frame + ETH_HLEN > (void *)(long)ctx->data_end)
		return XDP_PASS;
	config = ew_config.lookup(&zero);
	if (!config)
		return XDP_PASS;
	if (is_vlan(*ethernet_protocol(frame)) && (vlan_pop(ctx, &outer) || vlan_pop(ctx, &inner)))
		return xdp_drop(DROP_NO_HEADROOM);
	verdict = take_frame(ctx, config);
	if (config->flags & EDGE_DROPS_UNSERVED && verdict == XDP_PASS && !is_marked(ctx))
		verdict = refuse_unserved(ctx);
	/* A marked frame goes to edge_handoff, which looks for no tags; the host may have VLANs of its own. */
	if (outer.protocol && verdict == XDP_PASS && !is_marked(ctx) &&
	    (vlan_push(ctx, &inner) || vlan_push(ctx, &outer)))
		return xdp_drop(DROP_NO_HEADROOM);
	return verdict;
}

int edge_xdp(struct xdp_md *ctx)
{
	return xdp_verdict(ctx, from_client(ctx));
}

static __always_inline int hand_off(struct __sk_buff *skb)
{
	__u32 *mark = (void *)(long)skb->data_meta;
	void *data = (void *)(long)skb->data;
	struct edge_config *config;
	__u32 zero = 0, handoff = 0;

	if (skb->mark == HELD_MARK)
		handoff = HANDOFF_FRAGMENT;
	else if ((void *)(mark + 1) <= data)
		handoff = *mark;
	if (handoff < HANDOFF_RELAY || handoff > HANDOFF_ICMP)
		return VERDICT_NEXT;
	config = ew_config.lookup(&zero);
	if (!config)
		return tc_drop(DROP_NOT_CONFIGURED);
	/* A tag that the device took off before XDP lies beside the packet, and would be put into it on its way out. */
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		return tc_drop(DROP_REWRITE_FAILED);
	switch (handoff) {
	case HANDOFF_RELAY_FRAGMENT:
	case HANDOFF_FRAGMENT:
		return handle_fragment(skb, config, handoff);
	case HANDOFF_TOO_BIG:
		return answer_too_big(skb, RELAY_MTU(config->wireguard_mtu), RELAY6_MTU(config->wireguard_mtu),
				      config->uplink_ifindex);
	case HANDOFF_TIME_EXCEEDED:
		return answer_time_exceeded(skb, config->uplink_ifindex);
	case HANDOFF_ICMP:
		return handle_icmp(skb, config);
	default:
		return bpf_redirect(config->wireguard_ifindex, 0);
	}
}

int edge_handoff(struct __sk_buff *skb)
{
	return tc_verdict(skb, hand_off(skb));
}

static __always_inline int from_worker(struct __sk_buff *skb)
{
	struct edge_config *config;
	__u32 zero = 0;

	config = ew_config.lookup(&zero);
	if (!config || !address_is_set(&config->relay))
		return VERDICT_NEXT;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return bring_back(skb, config);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return bring_back6(skb, config);
	return VERDICT_NEXT;
}

int edge_egress(struct __sk_buff *skb)
{
	return tc_verdict(skb, from_worker(skb));
}
