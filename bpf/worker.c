/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The worker: hands relayed packets to containers with the client's address as source, and sends the containers'
 * replies back to the edge that the client used. Two programs that share their maps:
 *
 *   worker_ingress  TC ingress on WireGuard             edge -> worker       becomes  client -> container
 *   worker_egress   TC ingress on the container bridge  container -> client  becomes  worker -> edge + relay option,
 *                                                       or, with direct replies,  VIP -> client
 */
#include "kernel.h"
#include "drops.h"
#include "extensions.h"
#include "relay.h"
#include "stats.h"
#include "translate.h"
#include "tunnel.h"
#include "worker_maps.h"

static __always_inline void remember_flow(struct flow_key *key, struct flow *flow)
{
	struct flow *known = ew_flows.lookup(key);

	/* A lookup is far cheaper than an insert, and nearly every packet belongs to a flow that is known already. */
	if (known && known->endpoint_id == flow->endpoint_id && known->port == flow->port &&
	    known->flags == flow->flags &&
	    address_equal(&known->edge_relay, &flow->edge_relay) && address_equal(&known->vip, &flow->vip))
		return;
	ew_flows.update(key, flow);
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
	__u16 port;

	if (bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)))
		return tc_drop(DROP_MALFORMED);
	port = bpf_ntohs(udp.dest);
	if (port < bpf_ntohs(endpoint->port) || port > bpf_ntohs(endpoint->last_port))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	container_port = bpf_htons(bpf_ntohs(endpoint->container_port) + (port - bpf_ntohs(endpoint->port)));
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

static __always_inline int take_in(struct __sk_buff *skb, const struct worker_config *config)
{
	struct relay_header relay;
	struct endpoint *endpoint;
	struct address edge, client;
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
	edge = address_of_v4(relay.ip.saddr);
	endpoint = find_endpoint(&edge, relay.option.endpoint_id, &reason);
	if (!endpoint)
		return tc_drop(reason);
	if (relay.ip.ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	/* A later fragment has payload where the ports would be; no edge of this version relays any. */
	if (relay.ip.frag_off & bpf_htons(IP_FLAG_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET_MASK))
		return tc_drop(DROP_FRAGMENT);
	if (!address_is_v4(&endpoint->container))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	relay_unwrap(&ip, &relay, relay.option.client, endpoint->container.word[3], relay.ip.ttl - 1);
	if (tunnel_strip(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	client = address_of_v4(relay.option.client);
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
		return tc_drop(DROP_TTL_EXPIRED);
	if (address_is_v4(&endpoint->container))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	client = *(struct address *)relay.option.client;
	relay6_unwrap(&ip, &relay, &client, &endpoint->container, relay.ip.hop_limit - 1);
	if (tunnel_strip6(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	if (find_udp_skb(skb, sizeof(ip), ip.nexthdr, &place))
		return tc_drop(DROP_NOT_RELAYED);
	if (place.fragment & bpf_htons(IP6_FRAGMENT_MORE))
		return tc_drop(DROP_FRAGMENT);
	return deliver(skb, config, sizeof(ip) + place.offset, endpoint, &client, &edge, relay.option.endpoint_id,
		       sizeof(ip) + bpf_ntohs(ip.payload_len));
}

static __always_inline int from_edge(struct __sk_buff *skb)
{
	struct worker_config *config;
	__u32 zero = 0;

	config = ew_config.lookup(&zero);
	if (!config || !address_is_set(&config->relay))
		return VERDICT_NEXT;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return take_in(skb, config);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return take_in6(skb, config);
	return VERDICT_NEXT;
}

int worker_ingress(struct __sk_buff *skb)
{
	return tc_verdict(skb, from_edge(skb));
}

/* The flow that a packet from a container answers, 0 where it answers none that came from an edge. */
static __always_inline struct flow *answered_flow(struct __sk_buff *skb, __u32 udp_offset, struct flow_key *key)
{
	struct udphdr udp;

	if (bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)))
		return 0;
	key->container_port = udp.source;
	key->client_port = udp.dest;
	return ew_flows.lookup(key);
}

/* Give a reply the VIP's address (in the checksum) and port. */
static __always_inline long translate_reply(struct __sk_buff *skb, __u32 udp_offset, const struct flow_key *key,
					    const struct flow *flow)
{
	if (translate_address(skb, udp_offset, &key->container, &flow->vip))
		return -1;
	return translate_port(skb, udp_offset, offsetof(struct udphdr, source), key->container_port, flow->port);
}

/*
 * Send a translated reply to the client through this worker's own uplink, past the edge, with the VIP as source. It
 * leaves as any packet does that this box forwards.
 */
static __always_inline int reply_directly(struct __sk_buff *skb, const struct worker_config *config, struct iphdr *ip,
					  const struct flow *flow)
{
	struct iphdr before = *ip;
	__u64 sum = checksum_open(ip->check);

	if (!config->uplink_ifindex)
		return tc_drop(DROP_NOT_CONFIGURED);
	ip->ttl -= 1;
	ip->saddr = flow->vip.word[3];
	sum = checksum_replace16(sum, ((__u16 *)&before)[4], ((__u16 *)ip)[4]);
	ip->check = checksum_close(checksum_replace32(sum, before.saddr, ip->saddr));
	if (bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_out(flow->stats_index, bpf_ntohs(ip->tot_len));
	return redirect_neigh(config->uplink_ifindex, 0, 0, 0);
}

static __always_inline int reply_directly6(struct __sk_buff *skb, const struct worker_config *config,
					   struct ipv6hdr *ip, const struct flow *flow)
{
	if (!config->uplink_ifindex)
		return tc_drop(DROP_NOT_CONFIGURED);
	ip->hop_limit -= 1;
	*(struct address *)&ip->saddr = flow->vip;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_out(flow->stats_index, sizeof(*ip) + bpf_ntohs(ip->payload_len));
	return redirect_neigh(config->uplink_ifindex, 0, 0, 0);
}

static __always_inline int send_back(struct __sk_buff *skb, const struct worker_config *config)
{
	struct relay_header relay;
	struct flow_key key = {};
	struct flow *flow;
	struct iphdr ip;
	__u32 udp_offset;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return VERDICT_NEXT;
	if (ip.protocol != IPPROTO_UDP || ip.ihl < 5 || ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK))
		return VERDICT_NEXT;
	udp_offset = ETH_HLEN + ip.ihl * 4;
	key.container = address_of_v4(ip.saddr);
	key.client = address_of_v4(ip.daddr);
	flow = answered_flow(skb, udp_offset, &key);
	if (!flow)
		return VERDICT_NEXT;

	if (!address_is_set(&config->relay))
		return tc_drop(DROP_NOT_CONFIGURED);
	if (ip.frag_off & bpf_htons(IP_FLAG_MORE_FRAGMENTS))
		return tc_drop(DROP_FRAGMENT);
	if (ip.ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (!(flow->flags & ENDPOINT_DIRECT) && ip.ihl > 15 - RELAY_OPTION_WORDS)
		return tc_drop(DROP_OPTIONS_TOO_LONG);
	if (translate_reply(skb, udp_offset, &key, flow))
		return tc_drop(DROP_REWRITE_FAILED);
	if (flow->flags & ENDPOINT_DIRECT)
		return reply_directly(skb, config, &ip, flow);
	relay_wrap(&relay, &ip, config->relay.word[3], flow->edge_relay.word[3], flow->endpoint_id, ip.daddr,
		   ip.ttl - 1);
	if (bpf_skb_adjust_room(skb, sizeof(relay.option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &relay, sizeof(relay), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_out(flow->stats_index, bpf_ntohs(ip.tot_len));
	return bpf_redirect(config->wireguard_ifindex, 0);
}

static __always_inline int send_back6(struct __sk_buff *skb, const struct worker_config *config)
{
	struct relay6_header relay;
	struct flow_key key = {};
	struct udp_place place;
	struct flow *flow;
	struct ipv6hdr ip;
	__u32 udp_offset;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return VERDICT_NEXT;
	if (find_udp_skb(skb, ETH_HLEN + sizeof(ip), ip.nexthdr, &place))
		return VERDICT_NEXT;
	udp_offset = ETH_HLEN + sizeof(ip) + place.offset;
	key.container = address_of_v6(&ip.saddr);
	key.client = address_of_v6(&ip.daddr);
	flow = answered_flow(skb, udp_offset, &key);
	if (!flow)
		return VERDICT_NEXT;

	if (!address_is_set(&config->relay6))
		return tc_drop(DROP_NOT_CONFIGURED);
	if (place.fragment & bpf_htons(IP6_FRAGMENT_MORE))
		return tc_drop(DROP_FRAGMENT);
	if (ip.hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (translate_reply(skb, udp_offset, &key, flow))
		return tc_drop(DROP_REWRITE_FAILED);
	if (flow->flags & ENDPOINT_DIRECT)
		return reply_directly6(skb, config, &ip, flow);
	relay6_wrap(&relay, &ip, &config->relay6, &flow->edge_relay, flow->endpoint_id, &key.client, ip.hop_limit - 1);
	if (bpf_skb_adjust_room(skb, sizeof(relay.option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &relay, sizeof(relay), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_out(flow->stats_index, sizeof(ip) + bpf_ntohs(ip.payload_len));
	return bpf_redirect(config->wireguard_ifindex, 0);
}

static __always_inline int from_container(struct __sk_buff *skb)
{
	struct worker_config *config;
	__u32 zero = 0;

	config = ew_config.lookup(&zero);
	if (!config)
		return VERDICT_NEXT;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return send_back(skb, config);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return send_back6(skb, config);
	return VERDICT_NEXT;
}

int worker_egress(struct __sk_buff *skb)
{
	return tc_verdict(skb, from_container(skb));
}
