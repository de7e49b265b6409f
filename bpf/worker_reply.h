/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* On the worker, from the container to the edge that the client used, or straight to the client. */
#ifndef EDGEWIRE_WORKER_REPLY_H
#define EDGEWIRE_WORKER_REPLY_H

#include "drops.h"
#include "events.h"
#include "extensions.h"
#include "flows.h"
#include "fragments.h"
#include "icmp.h"
#include "relay.h"
#include "stats.h"
#include "translate.h"
#include "tunnel.h"
#include "worker_icmp.h"
#include "worker_maps.h"

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

static __always_inline int follow_reply6(struct __sk_buff *skb, const struct worker_config *config, struct ipv6hdr *ip,
					 struct datagram_key *key)
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
static __always_inline int is_oversize(const struct __sk_buff *skb, const struct flow *flow, __u32 bytes, __u32 headers,
				       __u32 mtu)
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
	if (!place.fragment && is_oversize(skb, flow, sizeof(ip) + bpf_ntohs(ip.payload_len), sizeof(ip) + place.offset,
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

#endif
