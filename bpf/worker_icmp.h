/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * ICMP at the worker: errors about a container's replies come in from an edge and are translated for the container;
 * errors of a container about a client's requests are translated for the client. Both only where the flow is known.
 * A request whose time to live ends here is answered as a container's error would be.
 */
#ifndef EDGEWIRE_WORKER_ICMP_H
#define EDGEWIRE_WORKER_ICMP_H

#include "icmp.h"
#include "relay.h"
#include "tunnel.h"
#include "worker_maps.h"

/* Where a port of an endpoint's VIP is in the container. 0, or negative where the endpoint does not have the port. */
static __always_inline int container_port_of(const struct endpoint *endpoint, __be16 vip_port, __be16 *container_port)
{
	__u16 port = bpf_ntohs(vip_port);

	if (port < bpf_ntohs(endpoint->port) || port > bpf_ntohs(endpoint->last_port))
		return -1;
	*container_port = bpf_htons(bpf_ntohs(endpoint->container_port) + (port - bpf_ntohs(endpoint->port)));
	return 0;
}

/* Deliver an error about a reply; `relay` is in front of it still. */
static __always_inline int deliver_error(struct __sk_buff *skb, const struct worker_config *config,
					 const struct relay_header *relay, const struct endpoint *endpoint)
{
	struct flow_key key = {.container = endpoint->container};
	struct icmp_error error;
	struct iphdr ip;

	if (!is_whole_icmp(relay) || bpf_skb_load_bytes(skb, sizeof(*relay), &error, sizeof(error)) ||
	    !quotes_udp(&error) || error.ip.saddr != endpoint->vip.word[3])
		return tc_drop(DROP_NOT_RELAYED);
	if (container_port_of(endpoint, error.udp.source, &key.container_port))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	key.client = address_of_v4(error.ip.daddr);
	key.client_port = error.udp.dest;
	if (!ew_flows.lookup(&key))
		return tc_drop(DROP_UNKNOWN_FLOW);
	translate_quoted(&error, &error.ip.saddr, endpoint->container.word[3], &error.udp.source, key.container_port);
	relay_unwrap(&ip, relay, relay->option.client, endpoint->container.word[3], relay->ip.ttl - 1);
	if (bpf_skb_store_bytes(skb, sizeof(*relay), &error, sizeof(error), 0) || tunnel_strip(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ERROR_RELAYED);
	return tunnel_send(skb, config->container_ifindex);
}

static __always_inline int deliver_error6(struct __sk_buff *skb, const struct worker_config *config,
					  const struct relay6_header *relay, const struct endpoint *endpoint)
{
	struct flow_key key = {.container = endpoint->container};
	struct address sender, *quoted;
	struct icmp6_error error;
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, sizeof(*relay), &error, sizeof(error)) || !quotes_udp6(&error))
		return tc_drop(DROP_NOT_RELAYED);
	quoted = (struct address *)&error.ip.saddr;
	if (!address_equal(quoted, &endpoint->vip))
		return tc_drop(DROP_NOT_RELAYED);
	if (container_port_of(endpoint, error.udp.source, &key.container_port))
		return tc_drop(DROP_UNKNOWN_ENDPOINT);
	key.client = address_of_v6(&error.ip.daddr);
	key.client_port = error.udp.dest;
	if (!ew_flows.lookup(&key))
		return tc_drop(DROP_UNKNOWN_FLOW);
	translate_quoted6(&error, quoted, &key.container, &error.udp.source, key.container_port);
	sender = *(struct address *)relay->option.client;
	relay6_unwrap(&ip, relay, &sender, &key.container, relay->ip.hop_limit - 1);
	if (bpf_skb_store_bytes(skb, sizeof(*relay), &error, sizeof(error), 0) || tunnel_strip6(skb, &ip))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_ERROR_RELAYED);
	return tunnel_send(skb, config->container_ifindex);
}

/* What lies in front of UDP in an error about a request, on its way to the edge. */
struct relayed_error {
	struct relay_header relay;
	struct icmp_header icmp;
	struct iphdr quoted;
};

struct relayed_error6 {
	struct relay6_header relay;
	struct icmp_header icmp;
	struct ipv6hdr quoted;
};

/*
 * Put an error's headers in place of the relay header, and cut the packet to `udp_bytes` behind them. The room is made
 * behind the base header, and all of it stored afterwards. 0, or negative on failure.
 */
static __always_inline long wrap_error(struct __sk_buff *skb, const void *headers, __u32 bytes, __u32 relay_bytes,
				       __u32 udp_bytes)
{
	long error = bpf_skb_change_tail(skb, relay_bytes + udp_bytes, 0);

	if (!error)
		error = bpf_skb_adjust_room(skb, bytes - relay_bytes, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO);
	return error ? error : bpf_skb_store_bytes(skb, 0, headers, bytes, 0);
}

/*
 * Drop a request whose time to live ends here, and tell its client: time exceeded, relayed to the edge that sent the
 * request, which lets it out with the VIP as source. Quoted is the request as the client knows it. Nobody is told of
 * what the edge would not take for a request of its own: what another worker sent on, later fragments, and packets
 * with IP options or extension headers; nor of an endpoint that has moved, whose packets may be replies.
 */
static __always_inline int answer_expired(struct __sk_buff *skb, const struct worker_config *config,
					  const struct relay_header *relay, const struct endpoint *endpoint)
{
	struct relayed_error error = {};
	__u32 udp_bytes;
	__s64 sum;

	if (endpoint->flags & ENDPOINT_MOVED || relay->ip.protocol != IPPROTO_UDP ||
	    relay->ip.ihl * 4 != sizeof(*relay) || relay->ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK) ||
	    !address_is_v4(&endpoint->vip) || (relay->option.stage != RELAY_PLAIN && relay->option.stage != RELAY_ASK))
		return tc_drop(DROP_TTL_EXPIRED);
	udp_bytes = bpf_ntohs(relay->ip.tot_len);
	if (udp_bytes > skb->len || udp_bytes < sizeof(*relay) + sizeof(struct udphdr))
		return tc_drop(DROP_TTL_EXPIRED);
	udp_bytes -= sizeof(*relay);
	if (udp_bytes > ICMP_QUOTE_MAX - sizeof(error.quoted))
		udp_bytes = ICMP_QUOTE_MAX - sizeof(error.quoted);
	udp_bytes &= ~3;
	if (!icmp_may_answer(skb, relay->option.client) || !icmp_may_send(ICMP_ERRORS))
		return tc_drop(DROP_TTL_EXPIRED);
	sum = sum_bytes(skb, sizeof(*relay), udp_bytes);
	if (sum < 0)
		return tc_drop(DROP_TTL_EXPIRED);
	relay_unwrap(&error.quoted, relay, relay->option.client, endpoint->vip.word[3], relay->ip.ttl);
	error.icmp.type = ICMP4_TIME_EXCEEDED;
	sum = csum_diff(0, 0, (__be32 *)&error.icmp, sizeof(error.icmp) + sizeof(error.quoted), sum);
	error.icmp.check = checksum_close(sum);
	error.relay.ip = (struct iphdr){
		.version = 4,
		.ihl = sizeof(error.relay) / 4,
		.tos = ICMP_TOS,
		.tot_len = bpf_htons(sizeof(error) + udp_bytes),
		.frag_off = bpf_htons(IP_FLAG_DONT_FRAGMENT),
		.ttl = ICMP_TTL,
		.protocol = IPPROTO_ICMP,
		.saddr = config->relay.word[3],
		.daddr = relay->ip.saddr,
	};
	error.relay.option = relay->option;
	error.relay.option.stage = RELAY_PLAIN;
	error.relay.ip.check = checksum_close(csum_diff(0, 0, (__be32 *)&error.relay, sizeof(error.relay), 0));
	tc_account(skb, DROP_TTL_EXPIRED);
	if (wrap_error(skb, &error, sizeof(error), sizeof(error.relay), udp_bytes))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_TIME_EXCEEDED_SENT);
	return bpf_redirect(config->wireguard_ifindex, 0);
}

static __always_inline int answer_expired6(struct __sk_buff *skb, const struct worker_config *config,
					   const struct relay6_header *relay, const struct endpoint *endpoint)
{
	struct address client = *(const struct address *)relay->option.client;
	struct relayed_error6 error = {};
	struct ipv6hdr outer;
	__u32 udp_bytes;
	__s64 sum;

	if (endpoint->flags & ENDPOINT_MOVED || relay->option.next_header != IPPROTO_UDP ||
	    address_is_v4(&endpoint->vip) || relay6_stage(&relay->option) > RELAY_ASK)
		return tc_drop(DROP_TTL_EXPIRED);
	udp_bytes = sizeof(relay->ip) + bpf_ntohs(relay->ip.payload_len);
	if (udp_bytes > skb->len || udp_bytes < sizeof(*relay) + sizeof(struct udphdr))
		return tc_drop(DROP_TTL_EXPIRED);
	udp_bytes -= sizeof(*relay);
	if (udp_bytes > ICMP6_QUOTE_MAX - sizeof(error.quoted))
		udp_bytes = ICMP6_QUOTE_MAX - sizeof(error.quoted);
	udp_bytes &= ~3;
	if (!icmp6_may_answer(skb, &client) || !icmp_may_send(ICMP_ERRORS))
		return tc_drop(DROP_TTL_EXPIRED);
	sum = sum_bytes(skb, sizeof(*relay), udp_bytes);
	if (sum < 0)
		return tc_drop(DROP_TTL_EXPIRED);
	relay6_unwrap(&error.quoted, relay, &client, &endpoint->vip, relay->ip.hop_limit);
	error.icmp.type = ICMP6_TIME_EXCEEDED;
	*(__be32 *)&outer = bpf_htonl(6 << 28);
	outer.payload_len = bpf_htons(sizeof(error.icmp) + sizeof(error.quoted) + udp_bytes);
	outer.nexthdr = IPPROTO_ICMPV6;
	outer.hop_limit = ICMP_TTL;
	*(struct address *)&outer.saddr = endpoint->vip;
	*(struct address *)&outer.daddr = client;
	sum = csum_diff(0, 0, (__be32 *)&error.icmp, sizeof(error.icmp) + sizeof(error.quoted), sum);
	/* As the client gets it: the checksum covers the addresses. */
	error.icmp.check = checksum_close(sum + icmp6_pseudo_sum(&outer));
	relay6_wrap(&error.relay, &outer, &config->relay6, (const struct address *)&relay->ip.saddr,
		    relay->option.endpoint_id, &client, ICMP_TTL);
	tc_account(skb, DROP_TTL_EXPIRED);
	if (wrap_error(skb, &error, sizeof(error), sizeof(error.relay), udp_bytes))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(EVENT_TIME_EXCEEDED_SENT);
	return bpf_redirect(config->wireguard_ifindex, 0);
}

#endif
