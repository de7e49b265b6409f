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
#include "drain.h"
#include "drops.h"
#include "edge_fragments.h"
#include "edge_icmp.h"
#include "edge_maps.h"
#include "ethernet.h"
#include "extensions.h"
#include "filters.h"
#include "handoff.h"
#include "icmp.h"
#include "relay.h"
#include "services.h"
#include "stats.h"
#include "tunnel.h"
#include "vlan.h"

/* Make room for `option_bytes` at the front, and set the mark. 0, or the reason of a failure as a negative number. */
static __always_inline int grow_and_mark(struct xdp_md *ctx, int option_bytes, __u32 handoff)
{
	if (bpf_xdp_adjust_head(ctx, -option_bytes))
		return -DROP_NO_HEADROOM;
	if (set_mark(ctx, handoff))
		return -DROP_NO_METADATA;
	return 0;
}

/* A fragment without ports, or with ports that are no service's: TC follows it. */
static __always_inline int hand_off_fragment(struct xdp_md *ctx, const struct iphdr *ip)
{
	struct address destination = address_of_v4(ip->daddr);

	return hand_off_if_ours(ctx, &destination, HANDOFF_FRAGMENT);
}

static __always_inline int hand_off_fragment6(struct xdp_md *ctx, const struct ipv6hdr *ip,
					      const struct udp_place *place)
{
	struct address destination = address_of_v6(&ip->daddr);

	return may_be_udp(place) ? hand_off_if_ours(ctx, &destination, HANDOFF_FRAGMENT) : XDP_PASS;
}

static __always_inline int forward(struct xdp_md *ctx, void *frame, void *data_end, const struct edge_config *config)
{
	struct iphdr *ip = frame + ETH_HLEN;
	struct mac_addresses addresses;
	struct relay_header relay;
	struct service *service;
	struct choice choice;
	struct udphdr *udp;
	__u32 ip_bytes, place, reason;
	int error;
	__be16 fragment;

	if ((void *)(ip + 1) > data_end || ip->version != 4)
		return XDP_PASS;
	if (ip->ihl > 5) {
		__u8 *option = (void *)(ip + 1);

		if ((void *)(option + 1) > data_end)
			return XDP_PASS;
		if (*option == RELAY_OPTION_TYPE)
			return xdp_drop(DROP_RELAY_FROM_OUTSIDE);
	}
	if (ip->protocol != IPPROTO_UDP || ip->ihl < 5)
		return ip->protocol == IPPROTO_ICMP ? hand_off_icmp(ctx, ip, data_end) : XDP_PASS;
	fragment = ip->frag_off & bpf_htons(IP_FRAGMENT_MASK);
	udp = (void *)ip + ip->ihl * 4;
	/* Only the first fragment has ports. */
	if ((void *)(udp + 1) > data_end || ip->frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK))
		return fragment ? hand_off_fragment(ctx, ip) : XDP_PASS;
	service = find_service(config, ip->daddr, udp->dest);
	if (!service)
		return fragment ? hand_off_fragment(ctx, ip) : XDP_PASS;
	if (service->filter) {
		reason = filter_client(service->filter, ip->saddr);
		if (reason != ADMITTED)
			return xdp_drop_filtered(service->filter, reason);
	}

	ip_bytes = bpf_ntohs(ip->tot_len);
	/* Not `ip + ip_bytes > data_end`: to Linux 6.1's verifier a number that was byte-swapped has no bounds. */
	if (ip_bytes > data_end - (void *)ip || ip_bytes < ip->ihl * 4 + sizeof(*udp))
		return xdp_drop(DROP_MALFORMED);
	if (ip->ttl <= 1)
		return leave_to_tc(ctx, HANDOFF_TIME_EXCEEDED);
	if (ip_bytes > RELAY_MTU(config->wireguard_mtu) && ip->frag_off & bpf_htons(IP_FLAG_DONT_FRAGMENT) &&
	    !fragment && !(service->flags & SERVICE_CARRIES_OVERSIZE))
		return leave_to_tc(ctx, HANDOFF_TOO_BIG);
	if (ip->ihl > 15 - RELAY_OPTION_WORDS)
		return xdp_drop(DROP_OPTIONS_TOO_LONG);
	if (!address_is_set(&config->relay))
		return xdp_drop(DROP_NOT_CONFIGURED);
	place = place_of(service, ip->saddr, udp);
	error = pick_backend(service, place, &choice);
	if (error)
		return xdp_drop(-error);
	if (service->flags & SERVICE_DRAINING) {
		struct moved_key flow = {
			.vip = address_of_v4(ip->daddr),
			.client = address_of_v4(ip->saddr),
			.port = udp->dest,
			.client_port = udp->source,
		};

		ask_old_backend(service, place, &flow, &choice);
	}

	/* All that can be is done before the packet moves: the CPU does it while it waits for the calls that move it. */
	addresses = *(struct mac_addresses *)frame;
	relay_wrap(&relay, ip, config->relay.word[3], choice.worker->relay.word[3], choice.backend->endpoint_id,
		   ip->saddr, ip->ttl - 1);
	if (choice.stage != RELAY_PLAIN)
		relay_set_stage(&relay, choice.stage);
	error = grow_and_mark(ctx, sizeof(struct relay_option), fragment ? HANDOFF_RELAY_FRAGMENT : HANDOFF_RELAY);
	if (error)
		return xdp_drop(-error);
	frame = (void *)(long)ctx->data;
	if (frame + ETH_HLEN + sizeof(relay) > (void *)(long)ctx->data_end)
		return xdp_drop(DROP_NO_HEADROOM);
	*(struct mac_addresses *)frame = addresses;
	*ethernet_protocol(frame) = bpf_htons(ETH_P_IP);
	*(struct relay_header *)(frame + ETH_HLEN) = relay;
	count_in(choice.backend->stats_index, ip_bytes);
	return XDP_PASS;
}

static __always_inline int forward6(struct xdp_md *ctx, void *frame, void *data_end, const struct edge_config *config)
{
	struct ipv6hdr *ip = frame + ETH_HLEN;
	struct mac_addresses addresses;
	struct relay6_header relay;
	struct address vip, client;
	struct service *service;
	struct choice choice;
	struct udp_place place;
	struct udphdr *udp;
	__u32 payload_bytes, table_place, reason;
	int error;

	if ((void *)(ip + 1) > data_end || ip->version != 6)
		return XDP_PASS;
	if (ip->nexthdr == IPPROTO_DSTOPTS) {
		__u8 *options = (void *)(ip + 1);

		if ((void *)(options + 4) > data_end)
			return XDP_PASS;
		if (is_relay6_type(options[2]))
			return xdp_drop(DROP_RELAY_FROM_OUTSIDE);
	}
	if (find_udp(ip + 1, data_end, ip->nexthdr, &place))
		return ip->nexthdr == IPPROTO_ICMPV6 ? hand_off_icmp6(ctx, ip, data_end) :
		       place.fragment                ? hand_off_fragment6(ctx, ip, &place) :
						       XDP_PASS;
	udp = (void *)(ip + 1) + place.offset;
	if ((void *)(udp + 1) > data_end)
		return place.fragment ? hand_off_fragment6(ctx, ip, &place) : XDP_PASS;
	vip = address_of_v6(&ip->daddr);
	service = find_service6(config, &vip, udp->dest);
	if (!service)
		return place.fragment ? hand_off_fragment6(ctx, ip, &place) : XDP_PASS;
	client = address_of_v6(&ip->saddr);
	if (service->filter) {
		reason = filter_client6(service->filter, &client);
		if (reason != ADMITTED)
			return xdp_drop_filtered(service->filter, reason);
	}

	payload_bytes = bpf_ntohs(ip->payload_len);
	if (payload_bytes > data_end - (void *)(ip + 1) || payload_bytes < place.offset + sizeof(*udp))
		return xdp_drop(DROP_MALFORMED);
	if (ip->hop_limit <= 1)
		return leave_to_tc(ctx, HANDOFF_TIME_EXCEEDED);
	if (sizeof(*ip) + payload_bytes > RELAY6_MTU(config->wireguard_mtu) && !place.fragment &&
	    !(service->flags & SERVICE_CARRIES_OVERSIZE))
		return leave_to_tc(ctx, HANDOFF_TOO_BIG);
	if (!address_is_set(&config->relay6))
		return xdp_drop(DROP_NOT_CONFIGURED);
	table_place = place_of(service, client_word(&client), udp);
	error = pick_backend(service, table_place, &choice);
	if (error)
		return xdp_drop(-error);
	if (service->flags & SERVICE_DRAINING) {
		struct moved_key flow = {
			.vip = vip,
			.client = client,
			.port = udp->dest,
			.client_port = udp->source,
		};

		ask_old_backend(service, table_place, &flow, &choice);
	}

	addresses = *(struct mac_addresses *)frame;
	relay6_wrap(&relay, ip, &config->relay6, &choice.worker->relay6, choice.backend->endpoint_id, &client,
		    ip->hop_limit - 1);
	if (choice.stage != RELAY_PLAIN)
		relay6_set_stage(&relay, choice.stage);
	error = grow_and_mark(ctx, sizeof(struct relay6_option),
			      place.fragment ? HANDOFF_RELAY_FRAGMENT : HANDOFF_RELAY);
	if (error)
		return xdp_drop(-error);
	frame = (void *)(long)ctx->data;
	if (frame + ETH_HLEN + sizeof(relay) > (void *)(long)ctx->data_end)
		return xdp_drop(DROP_NO_HEADROOM);
	*(struct mac_addresses *)frame = addresses;
	*ethernet_protocol(frame) = bpf_htons(ETH_P_IPV6);
	*(struct relay6_header *)(frame + ETH_HLEN) = relay;
	count_in(choice.backend->stats_index, sizeof(*ip) + payload_bytes);
	return XDP_PASS;
}

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

/* The backend that a reply is from, checked: WireGuard vouches for the source, this holds it to its own endpoints. */
static __always_inline struct backend *replying_backend(__be32 endpoint_id, const struct address *source,
							__u32 *reason)
{
	struct backend *backend = backend_of_endpoint(endpoint_id);
	struct worker *worker;

	if (!backend || backend->endpoint_id != endpoint_id) {
		*reason = DROP_UNKNOWN_ENDPOINT;
		return 0;
	}
	worker = ew_workers.lookup(&backend->worker);
	if (!worker || !address_equal(source, address_is_v4(&backend->vip) ? &worker->relay : &worker->relay6)) {
		*reason = DROP_WRONG_WORKER;
		return 0;
	}
	return backend;
}

/* Whether a reply's UDP header, at `offset`, has a source port that the backend's service claims. */
static __always_inline int replies_from_its_port(struct __sk_buff *skb, __u32 offset, const struct backend *backend)
{
	struct udphdr udp;
	__u16 port;

	if (bpf_skb_load_bytes(skb, offset, &udp, sizeof(udp)))
		return 0;
	port = bpf_ntohs(udp.source);
	return port >= bpf_ntohs(backend->port) && port <= bpf_ntohs(backend->last_port);
}

/* A client's packet that a worker returned, because it does not know the flow: on to the flow's new backend. */
static __always_inline int pass_on(struct __sk_buff *skb, const struct edge_config *config, struct relay_header *relay,
				   const struct backend *old)
{
	__be32 client = relay->option.client;
	struct moved_key flow = {.vip = old->vip, .client = address_of_v4(client)};
	struct service *service;
	struct choice choice;
	struct udphdr udp;
	int error;

	if (bpf_skb_load_bytes(skb, relay->ip.ihl * 4, &udp, sizeof(udp)))
		return tc_drop(DROP_MALFORMED);
	service = find_service(config, old->vip.word[3], udp.dest);
	if (!service)
		return tc_drop(DROP_NO_BACKEND);
	flow.port = udp.dest;
	flow.client_port = udp.source;
	error = move_flow(service, place_of(service, client, &udp), &flow, old, &choice);
	if (error)
		return tc_drop(-error);
	relay_turn(relay, config->relay.word[3], choice.worker->relay.word[3], choice.backend->endpoint_id,
		   RELAY_PLAIN);
	return tunnel_turn(skb, relay, sizeof(*relay), config->wireguard_ifindex);
}

static __always_inline int pass_on6(struct __sk_buff *skb, const struct edge_config *config,
				    struct relay6_header *relay, const struct backend *old, __u32 udp_offset)
{
	struct moved_key flow = {.vip = old->vip, .client = *(struct address *)relay->option.client};
	struct service *service;
	struct choice choice;
	struct udphdr udp;
	int error;

	if (bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)))
		return tc_drop(DROP_MALFORMED);
	service = find_service6(config, &old->vip, udp.dest);
	if (!service)
		return tc_drop(DROP_NO_BACKEND);
	flow.port = udp.dest;
	flow.client_port = udp.source;
	error = move_flow(service, place_of(service, client_word(&flow.client), &udp), &flow, old, &choice);
	if (error)
		return tc_drop(-error);
	relay6_turn(relay, &config->relay6, &choice.worker->relay6, choice.backend->endpoint_id, RELAY_PLAIN);
	return tunnel_turn(skb, relay, sizeof(*relay), config->wireguard_ifindex);
}

static __always_inline int bring_back(struct __sk_buff *skb, const struct edge_config *config)
{
	struct relay_header relay;
	struct backend *backend;
	struct address worker;
	struct iphdr ip;
	__u32 reason = 0;

	switch (tunnel_read(skb, &relay, config->relay.word[3], &reason)) {
	case TUNNEL_NOT_OURS:
		return VERDICT_NEXT;
	case TUNNEL_DROP:
		return tc_drop(reason);
	case TUNNEL_RELAYED:
		break;
	}
	worker = address_of_v4(relay.ip.saddr);
	backend = replying_backend(relay.option.endpoint_id, &worker, &reason);
	if (!backend)
		return tc_drop(reason);
	if (relay.ip.ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (relay.option.stage == RELAY_RETURNED && relay.ip.protocol == IPPROTO_UDP)
		return pass_on(skb, config, &relay, backend);
	if (relay.option.stage != RELAY_PLAIN)
		return tc_drop(DROP_BAD_OPTION);
	if (relay.ip.protocol == IPPROTO_ICMP) {
		if (!is_about_its_port(skb, &relay, backend))
			return tc_drop(DROP_WRONG_PORT);
		relay_unwrap(&ip, &relay, backend->vip.word[3], relay.option.client, relay.ip.ttl - 1);
		if (tunnel_strip(skb, &ip))
			return tc_drop(DROP_REWRITE_FAILED);
		count_event(EVENT_ERROR_RELAYED);
		return tunnel_send(skb, config->uplink_ifindex);
	}
	/* Later fragments have no ports; without a first one, which has, they come to nothing. */
	if (!(relay.ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK)) &&
	    !replies_from_its_port(skb, relay.ip.ihl * 4, backend))
		return tc_drop(DROP_WRONG_PORT);
	relay_unwrap(&ip, &relay, backend->vip.word[3], relay.option.client, relay.ip.ttl - 1);
	if (tunnel_strip(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	count_out(backend->stats_index, bpf_ntohs(ip.tot_len));
	return tunnel_send(skb, config->uplink_ifindex);
}

static __always_inline int bring_back6(struct __sk_buff *skb, const struct edge_config *config)
{
	struct relay6_header relay;
	struct backend *backend;
	struct address worker, client;
	struct udp_place place;
	struct ipv6hdr ip;
	__u32 reason = 0;
	int no_udp;

	switch (tunnel_read6(skb, &relay, &config->relay6, &reason)) {
	case TUNNEL_NOT_OURS:
		return VERDICT_NEXT;
	case TUNNEL_DROP:
		return tc_drop(reason);
	case TUNNEL_RELAYED:
		break;
	}
	worker = address_of_v6(&relay.ip.saddr);
	backend = replying_backend(relay.option.endpoint_id, &worker, &reason);
	if (!backend)
		return tc_drop(reason);
	if (relay.ip.hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	client = *(struct address *)relay.option.client;
	no_udp = find_udp_skb(skb, sizeof(relay), relay.option.next_header, &place);
	if (relay6_stage(&relay.option) == RELAY_RETURNED && relay.option.next_header != IPPROTO_ICMPV6) {
		if (no_udp)
			return tc_drop(DROP_NOT_RELAYED);
		return pass_on6(skb, config, &relay, backend, sizeof(relay) + place.offset);
	}
	if (relay6_stage(&relay.option) != RELAY_PLAIN)
		return tc_drop(DROP_BAD_OPTION);
	if (relay.option.next_header == IPPROTO_ICMPV6) {
		if (!is_about_its_port6(skb, &relay, backend))
			return tc_drop(DROP_WRONG_PORT);
		relay6_unwrap(&ip, &relay, &backend->vip, &client, relay.ip.hop_limit - 1);
		if (tunnel_strip6(skb, &ip))
			return tc_drop(DROP_REWRITE_FAILED);
		count_event(EVENT_ERROR_RELAYED);
		return tunnel_send(skb, config->uplink_ifindex);
	}
	if (!(place.fragment & bpf_htons(IP6_FRAGMENT_OFFSET_MASK))) {
		if (no_udp)
			return tc_drop(DROP_NOT_RELAYED);
		if (!replies_from_its_port(skb, sizeof(relay) + place.offset, backend))
			return tc_drop(DROP_WRONG_PORT);
	}
	relay6_unwrap(&ip, &relay, &backend->vip, &client, relay.ip.hop_limit - 1);
	if (tunnel_strip6(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	count_out(backend->stats_index, sizeof(ip) + bpf_ntohs(ip.payload_len));
	return tunnel_send(skb, config->uplink_ifindex);
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
