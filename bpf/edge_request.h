/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* On the edge, from the client to the worker: what is for a service is chosen a backend, wrapped and marked for TC. */
#ifndef EDGEWIRE_EDGE_REQUEST_H
#define EDGEWIRE_EDGE_REQUEST_H

#include "drain.h"
#include "drops.h"
#include "edge_icmp.h"
#include "edge_maps.h"
#include "ethernet.h"
#include "extensions.h"
#include "filters.h"
#include "handoff.h"
#include "relay.h"
#include "services.h"
#include "stats.h"

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
	service = find_service(ip->daddr, udp->dest);
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
	service = find_service6(&vip, udp->dest);
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

#endif
