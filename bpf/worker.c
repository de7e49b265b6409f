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
#include "worker_maps.h"
#include "worker_reply.h"
#include "worker_request.h"

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
