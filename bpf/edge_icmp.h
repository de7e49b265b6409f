/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* ICMP at the edge: what edge_xdp hands off of it, what edge_handoff does with that, what edge_egress lets out. */
#ifndef EDGEWIRE_EDGE_ICMP_H
#define EDGEWIRE_EDGE_ICMP_H

#include "edge_maps.h"
#include "handoff.h"
#include "icmp.h"
#include "relay.h"
#include "services.h"
#include "tunnel.h"

/* ICMP to a VIP that edge_handoff has an answer or a way for; anything else is the host's. */
static __always_inline int hand_off_icmp(struct xdp_md *ctx, const struct iphdr *ip, void *data_end)
{
	const struct icmp_header *icmp = (const void *)(ip + 1);
	struct address destination = address_of_v4(ip->daddr);

	if ((void *)(icmp + 1) > data_end || ip->ihl != 5 ||
	    ip->frag_off & bpf_htons(IP_FLAG_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET_MASK))
		return XDP_PASS;
	if (icmp->type != ICMP4_ECHO && !is_icmp_error(icmp->type))
		return XDP_PASS;
	return hand_off_if_ours(ctx, &destination, HANDOFF_ICMP);
}

static __always_inline int hand_off_icmp6(struct xdp_md *ctx, const struct ipv6hdr *ip, void *data_end)
{
	const struct icmp_header *icmp = (const void *)(ip + 1);
	struct address destination = address_of_v6(&ip->daddr);

	if ((void *)(icmp + 1) > data_end || (icmp->type != ICMP6_ECHO && !is_icmp6_error(icmp->type)))
		return XDP_PASS;
	return hand_off_if_ours(ctx, &destination, HANDOFF_ICMP);
}

/* Answer a ping: the packet itself goes back, whatever it carries. */
static __always_inline int answer_echo(struct __sk_buff *skb, struct icmp_answer *echo, __u32 ifindex)
{
	struct iphdr *ip = &echo->ip;
	__be32 client = ip->saddr;
	__u64 sum = checksum_open(echo->icmp.check);
	__u16 before = *(__u16 *)&echo->icmp;

	if (!icmp_may_answer(skb, client) || !icmp_may_send(ICMP_ECHOES))
		return tc_drop(DROP_ICMP_LIMITED);
	echo->icmp.type = ICMP4_ECHO_REPLY;
	echo->icmp.check = checksum_close(checksum_replace16(sum, before, *(__u16 *)&echo->icmp));
	ip->saddr = ip->daddr;
	ip->daddr = client;
	ip->ttl = ICMP_TTL;
	ip->check = 0;
	ip->check = ip_header_sum(ip);
	turn_ethernet(&echo->eth);
	if (bpf_skb_store_bytes(skb, 0, &echo->eth, sizeof(*echo) - sizeof(echo->align), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ECHO_ANSWERED);
	return bpf_redirect(ifindex, 0);
}

static __always_inline int answer_echo6(struct __sk_buff *skb, struct icmp6_answer *echo, __u32 ifindex)
{
	struct address client = address_of_v6(&echo->ip.saddr);
	__u64 sum = checksum_open(echo->icmp.check);
	__u16 before = *(__u16 *)&echo->icmp;

	if (!icmp6_may_answer(skb, &client) || !icmp_may_send(ICMP_ECHOES))
		return tc_drop(DROP_ICMP_LIMITED);
	echo->icmp.type = ICMP6_ECHO_REPLY;
	echo->icmp.check = checksum_close(checksum_replace16(sum, before, *(__u16 *)&echo->icmp));
	echo->ip.saddr = echo->ip.daddr;
	*(struct address *)&echo->ip.daddr = client;
	echo->ip.hop_limit = ICMP_TTL;
	turn_ethernet(&echo->eth);
	if (bpf_skb_store_bytes(skb, 0, &echo->eth, sizeof(*echo) - sizeof(echo->align), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ECHO_ANSWERED);
	return bpf_redirect(ifindex, 0);
}

/*
 * Relay an error about a reply to the worker that the reply's flow leads to. The worker knows whether it has sent
 * anything of that flow. An error about nothing of ours is the host's.
 */
static __always_inline int relay_error(struct __sk_buff *skb, const struct edge_config *config, const struct iphdr *ip)
{
	struct relay_header relay;
	struct icmp_error error;
	struct service *service;
	struct choice choice;
	struct udphdr request;
	int none;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &error, sizeof(error)) || !quotes_udp(&error) ||
	    error.ip.saddr != ip->daddr)
		return VERDICT_NEXT;
	service = find_service(ip->daddr, error.udp.source);
	if (!service)
		return VERDICT_NEXT;
	if (ip->ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (!address_is_set(&config->relay))
		return tc_drop(DROP_NOT_CONFIGURED);
	request = (struct udphdr){.source = error.udp.dest, .dest = error.udp.source};
	none = pick_backend(service, place_of(service, error.ip.daddr, &request), &choice);
	if (none)
		return tc_drop(-none);
	relay_wrap(&relay, ip, config->relay.word[3], choice.worker->relay.word[3], choice.backend->endpoint_id,
		   ip->saddr, ip->ttl - 1);
	if (tunnel_wrap(skb, &relay))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ERROR_RELAYED);
	return bpf_redirect(config->wireguard_ifindex, 0);
}

static __always_inline int relay_error6(struct __sk_buff *skb, const struct edge_config *config,
					const struct ipv6hdr *ip)
{
	struct address vip = address_of_v6(&ip->daddr), sender = address_of_v6(&ip->saddr), quoted, client;
	struct relay6_header relay;
	struct icmp6_error error;
	struct service *service;
	struct choice choice;
	struct udphdr request;
	int none;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &error, sizeof(error)) || !quotes_udp6(&error))
		return VERDICT_NEXT;
	quoted = address_of_v6(&error.ip.saddr);
	if (!address_equal(&quoted, &vip))
		return VERDICT_NEXT;
	service = find_service6(&vip, error.udp.source);
	if (!service)
		return VERDICT_NEXT;
	if (ip->hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (!address_is_set(&config->relay6))
		return tc_drop(DROP_NOT_CONFIGURED);
	request = (struct udphdr){.source = error.udp.dest, .dest = error.udp.source};
	client = address_of_v6(&error.ip.daddr);
	none = pick_backend(service, place_of(service, client_word(&client), &request), &choice);
	if (none)
		return tc_drop(-none);
	relay6_wrap(&relay, ip, &config->relay6, &choice.worker->relay6, choice.backend->endpoint_id, &sender,
		    ip->hop_limit - 1);
	if (tunnel_wrap6(skb, &relay))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ERROR_RELAYED);
	return bpf_redirect(config->wireguard_ifindex, 0);
}

static __always_inline int handle_icmp4(struct __sk_buff *skb, const struct edge_config *config)
{
	struct icmp_answer packet;

	if (bpf_skb_load_bytes(skb, 0, &packet.eth, sizeof(packet) - sizeof(packet.align)))
		return VERDICT_NEXT;
	if (bpf_ntohs(packet.ip.tot_len) > skb->len - ETH_HLEN ||
	    bpf_ntohs(packet.ip.tot_len) < sizeof(packet.ip) + sizeof(packet.icmp))
		return tc_drop(DROP_MALFORMED);
	if (packet.icmp.type == ICMP4_ECHO)
		return answer_echo(skb, &packet, config->uplink_ifindex);
	return relay_error(skb, config, &packet.ip);
}

static __always_inline int handle_icmp6(struct __sk_buff *skb, const struct edge_config *config)
{
	struct icmp6_answer packet;

	if (bpf_skb_load_bytes(skb, 0, &packet.eth, sizeof(packet) - sizeof(packet.align)))
		return VERDICT_NEXT;
	if (bpf_ntohs(packet.ip.payload_len) > skb->len - ETH_HLEN - sizeof(packet.ip) ||
	    bpf_ntohs(packet.ip.payload_len) < sizeof(packet.icmp))
		return tc_drop(DROP_MALFORMED);
	if (packet.icmp.type == ICMP6_ECHO)
		return answer_echo6(skb, &packet, config->uplink_ifindex);
	return relay_error6(skb, config, &packet.ip);
}

static __always_inline int handle_icmp(struct __sk_buff *skb, const struct edge_config *config)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return handle_icmp4(skb, config);
	return handle_icmp6(skb, config);
}

/* Whether an error from a worker is about a request of the client's to the backend's VIP and ports. */
static __always_inline int is_about_its_port(struct __sk_buff *skb, const struct relay_header *relay,
					     const struct backend *backend)
{
	struct icmp_error error;
	__u16 port;

	if (!is_whole_icmp(relay) || bpf_skb_load_bytes(skb, sizeof(*relay), &error, sizeof(error)) ||
	    !quotes_udp(&error) || error.ip.saddr != relay->option.client || error.ip.daddr != backend->vip.word[3])
		return 0;
	port = bpf_ntohs(error.udp.dest);
	return port >= bpf_ntohs(backend->port) && port <= bpf_ntohs(backend->last_port);
}

static __always_inline int is_about_its_port6(struct __sk_buff *skb, const struct relay6_header *relay,
					      const struct backend *backend)
{
	struct address client, vip;
	struct icmp6_error error;
	__u16 port;

	if (bpf_skb_load_bytes(skb, sizeof(*relay), &error, sizeof(error)) || !quotes_udp6(&error))
		return 0;
	client = address_of_v6(&error.ip.saddr);
	vip = address_of_v6(&error.ip.daddr);
	if (!address_equal(&client, (const struct address *)relay->option.client) ||
	    !address_equal(&vip, &backend->vip))
		return 0;
	port = bpf_ntohs(error.udp.dest);
	return port >= bpf_ntohs(backend->port) && port <= bpf_ntohs(backend->last_port);
}

#endif
