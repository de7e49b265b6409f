/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * ICMP at the worker: errors about a container's replies come in from an edge and are translated for the container;
 * errors of a container about a client's requests are translated for the client. Both only where the flow is known.
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

#endif
