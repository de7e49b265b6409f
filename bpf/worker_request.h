/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* On the worker, from the edge to the container: delivered, returned where the flow is not known, or sent on. */
#ifndef EDGEWIRE_WORKER_REQUEST_H
#define EDGEWIRE_WORKER_REQUEST_H

#include "drops.h"
#include "events.h"
#include "extensions.h"
#include "flows.h"
#include "fragments.h"
#include "icmp.h"
#include "moved.h"
#include "relay.h"
#include "stats.h"
#include "translate.h"
#include "tunnel.h"
#include "worker_icmp.h"
#include "worker_maps.h"

/*
 * The answer to RELAY_ASK: whether the flow of the packet whose UDP header is at `udp_offset` is known here, has come
 * through this endpoint, and has not been silent for too long.
 */
static __always_inline int has_flow(struct __sk_buff *skb, __u32 udp_offset, const struct endpoint *endpoint,
				    const struct address *client, __be32 endpoint_id)
{
	struct flow_key key = {.container = endpoint->container, .client = *client};
	struct flow *flow;
	struct udphdr udp;

	if (bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)) ||
	    container_port_of(endpoint, udp.dest, &key.container_port))
		return 0;
	key.client_port = udp.source;
	flow = ew_flows.lookup(&key);
	return flow && flow->endpoint_id == endpoint_id && flow->port == udp.dest &&
	       ticks() - flow->last_seen <= endpoint->idle;
}

/* Send a packet of an endpoint that moved on to where the endpoint is now, or a reply on to its edge. */
static __always_inline int pass_through(struct __sk_buff *skb, const struct worker_config *config,
					struct relay_header *relay, const struct endpoint *endpoint,
					const struct address *from, const struct address *client)
{
	int is_later = relay->ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK);
	__be32 endpoint_id = relay->option.endpoint_id;
	struct passage passage;
	int dropped;

	dropped = find_passage(skb, is_later ? 0 : relay->ip.ihl * 4, endpoint, from, client, endpoint_id,
			       relay->option.stage, &passage);
	if (dropped)
		return dropped;
	relay_turn(relay, config->relay.word[3], passage.to.word[3], endpoint_id, passage.stage);
	count_passage(endpoint, &passage, (__u16)(bpf_ntohs(relay->ip.tot_len) - sizeof(relay->option)));
	return tunnel_turn(skb, relay, sizeof(*relay), config->wireguard_ifindex);
}

static __always_inline int pass_through6(struct __sk_buff *skb, const struct worker_config *config,
					 struct relay6_header *relay, const struct endpoint *endpoint,
					 const struct address *from, const struct address *client, __u32 udp_offset)
{
	__be32 endpoint_id = relay->option.endpoint_id;
	struct passage passage;
	int dropped;

	dropped = find_passage(skb, udp_offset, endpoint, from, client, endpoint_id, relay6_stage(&relay->option),
			       &passage);
	if (dropped)
		return dropped;
	relay6_turn(relay, &config->relay6, &passage.to, endpoint_id, passage.stage);
	count_passage(endpoint, &passage,
		      sizeof(relay->ip) + (__u16)(bpf_ntohs(relay->ip.payload_len) - sizeof(relay->option)));
	return tunnel_turn(skb, relay, sizeof(*relay), config->wireguard_ifindex);
}

/* The endpoint that a packet from an edge is for; 0 with *reason where edge or endpoint is not known here. */
static __always_inline struct endpoint *find_endpoint(struct address *edge, __be32 endpoint_id, __u32 *reason)
{
	struct endpoint *endpoint;

	if (!ew_edges.lookup(edge)) {
		*reason = DROP_UNKNOWN_EDGE;
		return 0;
	}
	endpoint = ew_endpoints.lookup(&endpoint_id);
	if (!endpoint)
		*reason = DROP_UNKNOWN_ENDPOINT;
	return endpoint;
}

/*
 * Deliver a packet whose relay header is off already: translate destination address and port, remember the way back,
 * and send it to the container.
 */
static __always_inline int deliver(struct __sk_buff *skb, const struct worker_config *config, __u32 udp_offset,
				   const struct endpoint *endpoint, const struct address *client,
				   const struct address *edge, __be32 endpoint_id, __u32 ip_bytes)
{
	struct flow_key key = {.container = endpoint->container, .client = *client};
	struct flow flow = {
		.edge_relay = *edge,
		.vip = endpoint->vip,
		.endpoint_id = endpoint_id,
		.stats_index = endpoint->stats_index,
		.flags = endpoint->flags,
	};
	struct udphdr udp;
	__be16 container_port;

	if (bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)))
		return tc_drop(DROP_MALFORMED);
	if (container_port_of(endpoint, udp.dest, &container_port))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	if (translate_address(skb, udp_offset, &endpoint->vip, &endpoint->container) ||
	    translate_port(skb, udp_offset, offsetof(struct udphdr, dest), udp.dest, container_port))
		return tc_drop(DROP_REWRITE_FAILED);

	key.container_port = container_port;
	key.client_port = udp.source;
	flow.port = udp.dest;
	remember_flow(&key, &flow);
	count_in(endpoint->stats_index, ip_bytes);
	return tunnel_send(skb, config->container_ifindex);
}

/* A later fragment has no ports and no checksum: its header was put right with the relay header, and that is all. */
static __always_inline int deliver_later_fragment(struct __sk_buff *skb, const struct worker_config *config,
						  const struct endpoint *endpoint, __u32 ip_bytes)
{
	count_in(endpoint->stats_index, ip_bytes);
	return tunnel_send(skb, config->container_ifindex);
}

static __always_inline int take_in(struct __sk_buff *skb, const struct worker_config *config)
{
	struct relay_header relay;
	struct endpoint *endpoint;
	struct address edge, client;
	struct iphdr ip;
	__u32 reason = 0;
	int is_icmp;

	switch (tunnel_read(skb, &relay, config->relay.word[3], &reason)) {
	case TUNNEL_NOT_OURS:
		return VERDICT_NEXT;
	case TUNNEL_DROP:
		return tc_drop(reason);
	case TUNNEL_RELAYED:
		break;
	}
	edge = address_of_v4(relay.ip.saddr);
	endpoint = find_endpoint(&edge, relay.option.endpoint_id, &reason);
	if (!endpoint)
		return tc_drop(reason);
	if (relay.ip.ttl <= 1)
		return answer_expired(skb, config, &relay, endpoint);
	if (!address_is_v4(&endpoint->container))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	is_icmp = relay.ip.protocol == IPPROTO_ICMP;
	if (relay.option.stage == RELAY_RETURNED || (is_icmp && relay.option.stage != RELAY_PLAIN))
		return tc_drop(DROP_BAD_OPTION);
	if (is_icmp)
		return deliver_error(skb, config, &relay, endpoint);
	client = address_of_v4(relay.option.client);
	/* Whoever asks has other backends for a flow that is not known here. */
	if (endpoint->flags & ENDPOINT_MOVED && relay.option.stage != RELAY_ASK)
		return pass_through(skb, config, &relay, endpoint, &edge, &client);
	if (relay.option.stage == RELAY_ASK &&
	    !has_flow(skb, relay.ip.ihl * 4, endpoint, &client, relay.option.endpoint_id)) {
		count_event(EVENT_RETURNED);
		relay_turn(&relay, config->relay.word[3], edge.word[3], relay.option.endpoint_id, RELAY_RETURNED);
		return tunnel_turn(skb, &relay, sizeof(relay), config->wireguard_ifindex);
	}
	relay_unwrap(&ip, &relay, relay.option.client, endpoint->container.word[3], relay.ip.ttl - 1);
	if (tunnel_strip(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	if (ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK))
		return deliver_later_fragment(skb, config, endpoint, bpf_ntohs(ip.tot_len));
	return deliver(skb, config, ip.ihl * 4, endpoint, &client, &edge, relay.option.endpoint_id,
		       bpf_ntohs(ip.tot_len));
}

static __always_inline int take_in6(struct __sk_buff *skb, const struct worker_config *config)
{
	struct relay6_header relay;
	struct endpoint *endpoint;
	struct address edge, client;
	struct udp_place place;
	struct ipv6hdr ip;
	__u32 reason = 0;
	int is_icmp, no_udp, is_later;

	switch (tunnel_read6(skb, &relay, &config->relay6, &reason)) {
	case TUNNEL_NOT_OURS:
		return VERDICT_NEXT;
	case TUNNEL_DROP:
		return tc_drop(reason);
	case TUNNEL_RELAYED:
		break;
	}
	edge = address_of_v6(&relay.ip.saddr);
	endpoint = find_endpoint(&edge, relay.option.endpoint_id, &reason);
	if (!endpoint)
		return tc_drop(reason);
	if (relay.ip.hop_limit <= 1)
		return answer_expired6(skb, config, &relay, endpoint);
	if (address_is_v4(&endpoint->container))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	is_icmp = relay.option.next_header == IPPROTO_ICMPV6;
	if (relay6_stage(&relay.option) == RELAY_RETURNED || (is_icmp && relay6_stage(&relay.option) != RELAY_PLAIN))
		return tc_drop(DROP_BAD_OPTION);
	if (is_icmp)
		return deliver_error6(skb, config, &relay, endpoint);
	client = *(struct address *)relay.option.client;
	no_udp = find_udp_skb(skb, sizeof(relay), relay.option.next_header, &place);
	is_later = place.fragment & bpf_htons(IP6_FRAGMENT_OFFSET_MASK);
	if (no_udp && !is_later)
		return tc_drop(DROP_NOT_RELAYED);
	if (endpoint->flags & ENDPOINT_MOVED && relay6_stage(&relay.option) != RELAY_ASK)
		return pass_through6(skb, config, &relay, endpoint, &edge, &client,
				     is_later ? 0 : sizeof(relay) + place.offset);
	if (relay6_stage(&relay.option) == RELAY_ASK) {
		if (is_later)
			return tc_drop(DROP_NOT_RELAYED);
		if (!has_flow(skb, sizeof(relay) + place.offset, endpoint, &client, relay.option.endpoint_id)) {
			count_event(EVENT_RETURNED);
			relay6_turn(&relay, &config->relay6, &edge, relay.option.endpoint_id, RELAY_RETURNED);
			return tunnel_turn(skb, &relay, sizeof(relay), config->wireguard_ifindex);
		}
	}
	relay6_unwrap(&ip, &relay, &client, &endpoint->container, relay.ip.hop_limit - 1);
	if (tunnel_strip6(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	if (is_later)
		return deliver_later_fragment(skb, config, endpoint, sizeof(ip) + bpf_ntohs(ip.payload_len));
	return deliver(skb, config, sizeof(ip) + place.offset, endpoint, &client, &edge, relay.option.endpoint_id,
		       sizeof(ip) + bpf_ntohs(ip.payload_len));
}

#endif
