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
	if (relay6_stage(&relay.option) == RELAY_RETURNED ||
	    (is_icmp && relay6_stage(&relay.option) != RELAY_PLAIN))
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
	struct flow *flow;
	struct udphdr udp;

	if (bpf_skb_load_bytes(skb, udp_offset, &udp, sizeof(udp)))
		return 0;
	key->container_port = udp.source;
	key->client_port = udp.dest;
	flow = ew_flows.lookup(key);
	/* A container that has taken a VIP's address cannot answer for an endpoint which moved away. */
	return flow && !(flow->flags & ENDPOINT_MOVED) ? flow : 0;
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
					  const struct address *vip)
{
	struct iphdr before = *ip;
	__u64 sum = checksum_open(ip->check);

	if (!config->uplink_ifindex)
		return tc_drop(DROP_NOT_CONFIGURED);
	ip->ttl -= 1;
	ip->saddr = vip->word[3];
	sum = checksum_replace16(sum, ((__u16 *)&before)[4], ((__u16 *)ip)[4]);
	ip->check = checksum_close(checksum_replace32(sum, before.saddr, ip->saddr));
	if (bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	return redirect_neigh(config->uplink_ifindex, 0, 0, 0);
}

static __always_inline int reply_directly6(struct __sk_buff *skb, const struct worker_config *config,
					   struct ipv6hdr *ip, const struct address *vip)
{
	if (!config->uplink_ifindex)
		return tc_drop(DROP_NOT_CONFIGURED);
	ip->hop_limit -= 1;
	*(struct address *)&ip->saddr = *vip;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	return redirect_neigh(config->uplink_ifindex, 0, 0, 0);
}

/* Remember where the other fragments of a reply shall go, see lead_datagram(). */
static __always_inline int lead_reply(struct __sk_buff *skb, struct datagram_key *key, const struct flow *flow)
{
	int direct = flow->flags & ENDPOINT_DIRECT;
	struct datagram datagram = {
		.address = direct ? flow->vip : flow->edge_relay,
		.endpoint_id = flow->endpoint_id,
		.stats_index = flow->stats_index,
		.way = direct ? DATAGRAM_DIRECT : DATAGRAM_RELAYED,
	};

	return lead_datagram(skb, key, &datagram);
}

/* Send a later fragment of a reply after its first one. */
static __always_inline int follow_reply(struct __sk_buff *skb, const struct worker_config *config, struct iphdr *ip,
					struct datagram_key *key)
{
	struct datagram *datagram;
	int verdict;

	datagram = datagram_to_follow(skb, key, &verdict);
	if (!datagram)
		return verdict;
	if (datagram->way == DATAGRAM_RELAYED)
		return relay_later(skb, ip, datagram, &config->relay, &key->destination, config->wireguard_ifindex,
				   TO_CLIENT);
	if (ip->ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	verdict = reply_directly(skb, config, ip, &datagram->address);
	if (verdict == TC_ACT_REDIRECT)
		count_out(datagram->stats_index, bpf_ntohs(ip->tot_len));
	return verdict;
}

static __always_inline int follow_reply6(struct __sk_buff *skb, const struct worker_config *config,
					 struct ipv6hdr *ip, struct datagram_key *key)
{
	struct datagram *datagram;
	int verdict;

	datagram = datagram_to_follow(skb, key, &verdict);
	if (!datagram)
		return verdict;
	if (datagram->way == DATAGRAM_RELAYED)
		return relay_later6(skb, ip, datagram, &config->relay6, &key->destination, config->wireguard_ifindex,
				    TO_CLIENT);
	if (ip->hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	verdict = reply_directly6(skb, config, ip, &datagram->address);
	if (verdict == TC_ACT_REDIRECT)
		count_out(datagram->stats_index, sizeof(*ip) + bpf_ntohs(ip->payload_len));
	return verdict;
}

/* Send a translated packet to the client: through the edge that the client used, or directly. */
static __always_inline int send_to_client(struct __sk_buff *skb, const struct worker_config *config, struct iphdr *ip,
					  const struct flow *flow)
{
	struct relay_header relay;

	if (flow->flags & ENDPOINT_DIRECT)
		return reply_directly(skb, config, ip, &flow->vip);
	relay_wrap(&relay, ip, config->relay.word[3], flow->edge_relay.word[3], flow->endpoint_id, ip->daddr,
		   ip->ttl - 1);
	if (tunnel_wrap(skb, &relay))
		return tc_drop(DROP_REWRITE_FAILED);
	return bpf_redirect(config->wireguard_ifindex, 0);
}

static __always_inline int send_to_client6(struct __sk_buff *skb, const struct worker_config *config,
					   struct ipv6hdr *ip, const struct flow *flow)
{
	struct address client = address_of_v6(&ip->daddr);
	struct relay6_header relay;

	if (flow->flags & ENDPOINT_DIRECT)
		return reply_directly6(skb, config, ip, &flow->vip);
	relay6_wrap(&relay, ip, &config->relay6, &flow->edge_relay, flow->endpoint_id, &client, ip->hop_limit - 1);
	if (tunnel_wrap6(skb, &relay))
		return tc_drop(DROP_REWRITE_FAILED);
	return bpf_redirect(config->wireguard_ifindex, 0);
}

/* Send a container's error about a client's request to that client; an error about anything else is the host's. */
static __always_inline int send_error(struct __sk_buff *skb, const struct worker_config *config, struct iphdr *ip)
{
	struct flow_key key = {.container = address_of_v4(ip->saddr), .client = address_of_v4(ip->daddr)};
	struct icmp_error error;
	struct flow *flow;

	if (ip->ihl != 5 || ip->frag_off & bpf_htons(IP_FLAG_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET_MASK) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &error, sizeof(error)) || !quotes_udp(&error) ||
	    error.ip.saddr != ip->daddr || error.ip.daddr != ip->saddr)
		return VERDICT_NEXT;
	key.container_port = error.udp.dest;
	key.client_port = error.udp.source;
	flow = ew_flows.lookup(&key);
	if (!flow || flow->flags & ENDPOINT_MOVED)
		return VERDICT_NEXT;
	if (!address_is_set(&config->relay))
		return tc_drop(DROP_NOT_CONFIGURED);
	if (ip->ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	translate_quoted(&error, &error.ip.daddr, flow->vip.word[3], &error.udp.dest, flow->port);
	if (bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(*ip), &error, sizeof(error), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ERROR_RELAYED);
	return send_to_client(skb, config, ip, flow);
}

static __always_inline int send_error6(struct __sk_buff *skb, const struct worker_config *config, struct ipv6hdr *ip)
{
	struct flow_key key = {.container = address_of_v6(&ip->saddr), .client = address_of_v6(&ip->daddr)};
	struct address quoted_client, *quoted_container;
	struct icmp6_error error;
	struct flow *flow;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &error, sizeof(error)) || !quotes_udp6(&error))
		return VERDICT_NEXT;
	quoted_client = address_of_v6(&error.ip.saddr);
	quoted_container = (struct address *)&error.ip.daddr;
	if (!address_equal(&quoted_client, &key.client) || !address_equal(quoted_container, &key.container))
		return VERDICT_NEXT;
	key.container_port = error.udp.dest;
	key.client_port = error.udp.source;
	flow = ew_flows.lookup(&key);
	if (!flow || flow->flags & ENDPOINT_MOVED)
		return VERDICT_NEXT;
	if (!address_is_set(&config->relay6))
		return tc_drop(DROP_NOT_CONFIGURED);
	if (ip->hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	translate_quoted6(&error, quoted_container, &flow->vip, &error.udp.dest, flow->port);
	if (bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(*ip), &error, sizeof(error), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ERROR_RELAYED);
	return send_to_client6(skb, config, ip, flow);
}

/*
 * Whether WireGuard could not carry a container's packet whole, and it is not to be carried in fragments either. Of a
 * packet that is still to be segmented (UDP_SEGMENT) the segments count; `headers` is what lies in front of UDP.
 */
static __always_inline int is_oversize(const struct __sk_buff *skb, const struct flow *flow, __u32 bytes,
				       __u32 headers, __u32 mtu)
{
	if (flow->flags & (ENDPOINT_DIRECT | ENDPOINT_CARRIES_OVERSIZE))
		return 0;
	if (skb->gso_size)
		bytes = headers + sizeof(struct udphdr) + skb->gso_size;
	return bytes > mtu;
}

static __always_inline int send_back(struct __sk_buff *skb, const struct worker_config *config)
{
	struct datagram_key datagram;
	__u32 udp_offset, ip_bytes;
	struct flow_key key = {};
	struct flow *flow;
	struct iphdr ip;
	int verdict;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return VERDICT_NEXT;
	if (ip.protocol == IPPROTO_ICMP)
		return send_error(skb, config, &ip);
	if (ip.protocol != IPPROTO_UDP || ip.ihl < 5)
		return VERDICT_NEXT;
	datagram = datagram_of_v4(&ip);
	if (ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK))
		return follow_reply(skb, config, &ip, &datagram);
	udp_offset = ETH_HLEN + ip.ihl * 4;
	key.container = datagram.source;
	key.client = datagram.destination;
	flow = answered_flow(skb, udp_offset, &key);
	if (!flow)
		return ip.frag_off & bpf_htons(IP_FRAGMENT_MASK) ? pass_first(skb, &datagram) : VERDICT_NEXT;

	if (!address_is_set(&config->relay))
		return tc_drop(DROP_NOT_CONFIGURED);
	if (ip.ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if ((ip.frag_off & bpf_htons(IP_FLAG_DONT_FRAGMENT | IP_FRAGMENT_MASK)) == bpf_htons(IP_FLAG_DONT_FRAGMENT) &&
	    is_oversize(skb, flow, bpf_ntohs(ip.tot_len), ip.ihl * 4, RELAY_MTU(config->wireguard_mtu)))
		return answer_too_big(skb, RELAY_MTU(config->wireguard_mtu), 0, skb->ifindex);
	if (!(flow->flags & ENDPOINT_DIRECT) && ip.ihl > 15 - RELAY_OPTION_WORDS)
		return tc_drop(DROP_OPTIONS_TOO_LONG);
	if (ip.frag_off & bpf_htons(IP_FRAGMENT_MASK) && lead_reply(skb, &datagram, flow))
		return TC_ACT_STOLEN;
	if (translate_reply(skb, udp_offset, &key, flow))
		return tc_drop(DROP_REWRITE_FAILED);
	touch_flow(flow);
	ip_bytes = bpf_ntohs(ip.tot_len);
	verdict = send_to_client(skb, config, &ip, flow);
	if (verdict == TC_ACT_REDIRECT)
		count_out(flow->stats_index, ip_bytes);
	return verdict;
}

static __always_inline int send_back6(struct __sk_buff *skb, const struct worker_config *config)
{
	struct datagram_key datagram;
	__u32 udp_offset, ip_bytes;
	struct flow_key key = {};
	struct udp_place place;
	struct flow *flow;
	struct ipv6hdr ip;
	int no_udp, verdict;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return VERDICT_NEXT;
	if (ip.nexthdr == IPPROTO_ICMPV6)
		return send_error6(skb, config, &ip);
	key.container = address_of_v6(&ip.saddr);
	key.client = address_of_v6(&ip.daddr);
	no_udp = find_udp_skb(skb, ETH_HLEN + sizeof(ip), ip.nexthdr, &place);
	datagram = datagram_of_v6(&key.container, &key.client, &place);
	if (place.fragment & bpf_htons(IP6_FRAGMENT_OFFSET_MASK))
		return may_be_udp(&place) ? follow_reply6(skb, config, &ip, &datagram) : VERDICT_NEXT;
	udp_offset = ETH_HLEN + sizeof(ip) + place.offset;
	flow = no_udp ? 0 : answered_flow(skb, udp_offset, &key);
	if (!flow)
		return place.fragment && may_be_udp(&place) ? pass_first(skb, &datagram) : VERDICT_NEXT;

	if (!address_is_set(&config->relay6))
		return tc_drop(DROP_NOT_CONFIGURED);
	if (ip.hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (!place.fragment &&
	    is_oversize(skb, flow, sizeof(ip) + bpf_ntohs(ip.payload_len), sizeof(ip) + place.offset,
			RELAY6_MTU(config->wireguard_mtu)))
		return answer_too_big(skb, 0, RELAY6_MTU(config->wireguard_mtu), skb->ifindex);
	if (place.fragment && lead_reply(skb, &datagram, flow))
		return TC_ACT_STOLEN;
	if (translate_reply(skb, udp_offset, &key, flow))
		return tc_drop(DROP_REWRITE_FAILED);
	touch_flow(flow);
	ip_bytes = sizeof(ip) + bpf_ntohs(ip.payload_len);
	verdict = send_to_client6(skb, config, &ip, flow);
	if (verdict == TC_ACT_REDIRECT)
		count_out(flow->stats_index, ip_bytes);
	return verdict;
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
