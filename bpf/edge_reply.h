/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* On the edge, from the worker to the client: replies, errors about them, and packets that a worker has returned. */
#ifndef EDGEWIRE_EDGE_REPLY_H
#define EDGEWIRE_EDGE_REPLY_H

#include "drain.h"
#include "drops.h"
#include "edge_icmp.h"
#include "edge_maps.h"
#include "events.h"
#include "extensions.h"
#include "relay.h"
#include "services.h"
#include "stats.h"
#include "tunnel.h"

/* The backend that a reply is from, checked: WireGuard vouches for the source, this holds it to its own endpoints. */
static __always_inline struct backend *replying_backend(__be32 endpoint_id, const struct address *source, __u32 *reason)
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
	service = find_service(old->vip.word[3], udp.dest);
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
	service = find_service6(&old->vip, udp.dest);
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

#endif
