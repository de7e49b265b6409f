/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Fragments of clients' datagrams: what edge_handoff does with those that edge_xdp marked. */
#ifndef EDGEWIRE_EDGE_FRAGMENTS_H
#define EDGEWIRE_EDGE_FRAGMENTS_H

#include "edge_maps.h"
#include "fragments.h"
#include "handoff.h"

static __always_inline struct backend *backend_of_endpoint(__be32 endpoint_id)
{
	__u32 *slot = ew_endpoints.lookup(&endpoint_id);

	return slot ? ew_backends.lookup(slot) : 0;
}

/* Send a datagram's first fragment, which edge_xdp made a relay packet, and then those that wait for it. */
static __always_inline int send_first(struct __sk_buff *skb, const struct edge_config *config, struct datagram_key *key,
				      struct datagram *datagram, __u32 option_bytes)
{
	datagram->way = DATAGRAM_RELAYED;
	datagram->first_seen = seconds_since_boot();
	ew_fragments.update(key, datagram);
	if (!any_waits(key))
		return bpf_redirect(config->wireguard_ifindex, 0);
	bpf_clone_redirect(skb, config->wireguard_ifindex, 0);
	/* The kernel cuts no packet short of its transport header: that shall be where the held ones have theirs. */
	if (!bpf_skb_adjust_room(skb, -(__s32)option_bytes, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		release_held(skb, key);
	return TC_ACT_STOLEN;
}

static __always_inline int lead_fragments(struct __sk_buff *skb, const struct edge_config *config)
{
	struct datagram_key key = {.protocol = IPPROTO_UDP};
	struct datagram datagram = {};
	struct relay_header relay;
	struct backend *backend;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &relay, sizeof(relay)))
		return tc_drop(DROP_MALFORMED);
	backend = backend_of_endpoint(relay.option.endpoint_id);
	if (!backend)
		return tc_drop(DROP_NO_BACKEND);
	key.source = address_of_v4(relay.option.client);
	key.destination = backend->vip;
	key.id = relay.ip.id;
	datagram.address = address_of_v4(relay.ip.daddr);
	datagram.endpoint_id = relay.option.endpoint_id;
	datagram.stats_index = backend->stats_index;
	return send_first(skb, config, &key, &datagram, sizeof(relay.option));
}

static __always_inline int lead_fragments6(struct __sk_buff *skb, const struct edge_config *config)
{
	struct datagram datagram = {};
	struct relay6_header relay;
	struct backend *backend;
	struct datagram_key key;
	struct udp_place place;
	struct address client;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &relay, sizeof(relay)) ||
	    find_udp_skb(skb, ETH_HLEN + sizeof(relay), relay.option.next_header, &place))
		return tc_drop(DROP_MALFORMED);
	backend = backend_of_endpoint(relay.option.endpoint_id);
	if (!backend)
		return tc_drop(DROP_NO_BACKEND);
	client = *(struct address *)relay.option.client;
	key = datagram_of_v6(&client, &backend->vip, &place);
	datagram.address = address_of_v6(&relay.ip.daddr);
	datagram.endpoint_id = relay.option.endpoint_id;
	datagram.stats_index = backend->stats_index;
	return send_first(skb, config, &key, &datagram, sizeof(relay.option));
}

/* A first fragment that is for a VIP and none of its services: the host's, unless it shall not have any. */
static __always_inline int leave_first(struct __sk_buff *skb, const struct edge_config *config,
				       struct datagram_key *key)
{
	return config->flags & EDGE_DROPS_UNSERVED ? tc_drop(DROP_NOT_A_SERVICE) : pass_first(skb, key);
}

/*
 * Let a fragment for a VIP follow its datagram's first one. A first fragment comes here where it is for no service;
 * one that does not even reach the ports nobody could judge (RFC 1858, RFC 7112).
 */
static __always_inline int follow_fragment(struct __sk_buff *skb, const struct edge_config *config)
{
	struct datagram *datagram;
	struct datagram_key key;
	struct iphdr ip;
	int verdict;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP ||
	    !(ip.frag_off & bpf_htons(IP_FRAGMENT_MASK)))
		return VERDICT_NEXT;
	if (bpf_ntohs(ip.tot_len) > skb->len - ETH_HLEN)
		return tc_drop(DROP_MALFORMED);
	key = datagram_of_v4(&ip);
	if (ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK)) {
		datagram = datagram_to_follow(skb, &key, &verdict);
		return datagram ? relay_later(skb, &ip, datagram, &config->relay, &key.source,
					      config->wireguard_ifindex, TO_CONTAINER) :
				  verdict;
	}
	if (bpf_ntohs(ip.tot_len) < ip.ihl * 4 + sizeof(struct udphdr))
		return tc_drop(DROP_FRAGMENT_TINY);
	return leave_first(skb, config, &key);
}

static __always_inline int follow_fragment6(struct __sk_buff *skb, const struct edge_config *config)
{
	struct address client, vip;
	struct datagram *datagram;
	struct datagram_key key;
	struct udp_place place;
	struct ipv6hdr ip;
	int no_udp, verdict;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return VERDICT_NEXT;
	no_udp = find_udp_skb(skb, ETH_HLEN + sizeof(ip), ip.nexthdr, &place);
	if (!place.fragment || !may_be_udp(&place))
		return VERDICT_NEXT;
	if (bpf_ntohs(ip.payload_len) > skb->len - ETH_HLEN - sizeof(ip))
		return tc_drop(DROP_MALFORMED);
	client = address_of_v6(&ip.saddr);
	vip = address_of_v6(&ip.daddr);
	key = datagram_of_v6(&client, &vip, &place);
	if (place.fragment & bpf_htons(IP6_FRAGMENT_OFFSET_MASK)) {
		datagram = datagram_to_follow(skb, &key, &verdict);
		return datagram ? relay_later6(skb, &ip, datagram, &config->relay6, &client, config->wireguard_ifindex,
					       TO_CONTAINER) :
				  verdict;
	}
	if (no_udp || bpf_ntohs(ip.payload_len) < place.offset + sizeof(struct udphdr))
		return tc_drop(DROP_FRAGMENT_TINY);
	return leave_first(skb, config, &key);
}

static __always_inline int handle_fragment(struct __sk_buff *skb, const struct edge_config *config, __u32 handoff)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return handoff == HANDOFF_FRAGMENT ? follow_fragment(skb, config) : lead_fragments(skb, config);
	return handoff == HANDOFF_FRAGMENT ? follow_fragment6(skb, config) : lead_fragments6(skb, config);
}

#endif
