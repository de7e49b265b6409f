/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Receiving from the WireGuard device (TC ingress there), which both roles do. The device has no link layer:
 * data starts at the IP header.
 */
#ifndef EDGEWIRE_TUNNEL_H
#define EDGEWIRE_TUNNEL_H

#include "drops.h"
#include "kernel.h"
#include "relay.h"

enum tunnel_packet {
	TUNNEL_RELAYED, /* a relay header was read */
	TUNNEL_NOT_OURS, /* ordinary overlay traffic */
	TUNNEL_DROP, /* *reason says why */
};

/*
 * Read and check the relay header of a packet that came out of WireGuard. What is sent to the relay address but is
 * not a relayed packet is dropped: nothing on the box has that address, and nothing may get it by accident.
 */
static __always_inline enum tunnel_packet tunnel_read(struct __sk_buff *skb, struct relay_header *relay,
						      __be32 relay_address, __u32 *reason)
{
	if (bpf_skb_load_bytes(skb, 0, &relay->ip, sizeof(relay->ip)) < 0)
		return TUNNEL_NOT_OURS;
	if (relay->ip.daddr != relay_address)
		return TUNNEL_NOT_OURS;
	if (relay->ip.ihl < 5 + RELAY_OPTION_WORDS ||
	    (relay->ip.protocol != IPPROTO_UDP && relay->ip.protocol != IPPROTO_ICMP)) {
		*reason = DROP_NOT_RELAYED;
		return TUNNEL_DROP;
	}
	if (bpf_skb_load_bytes(skb, sizeof(relay->ip), &relay->option, sizeof(relay->option)) < 0) {
		*reason = DROP_MALFORMED;
		return TUNNEL_DROP;
	}
	if (*(__be16 *)&relay->option != RELAY_OPTION_TYPE_AND_LENGTH) {
		*reason = DROP_NOT_RELAYED;
		return TUNNEL_DROP;
	}
	if (relay->option.version != RELAY_OPTION_VERSION || relay->option.stage >= RELAY_STAGES) {
		*reason = DROP_BAD_OPTION;
		return TUNNEL_DROP;
	}
	return TUNNEL_RELAYED;
}

static __always_inline enum tunnel_packet tunnel_read6(struct __sk_buff *skb, struct relay6_header *relay,
						       const struct address *relay_address, __u32 *reason)
{
	struct address destination;

	if (bpf_skb_load_bytes(skb, 0, &relay->ip, sizeof(relay->ip)) < 0)
		return TUNNEL_NOT_OURS;
	destination = address_of_v6(&relay->ip.daddr);
	if (!address_is_set(relay_address) || !address_equal(&destination, relay_address))
		return TUNNEL_NOT_OURS;
	if (relay->ip.nexthdr != IPPROTO_DSTOPTS) {
		*reason = DROP_NOT_RELAYED;
		return TUNNEL_DROP;
	}
	if (bpf_skb_load_bytes(skb, sizeof(relay->ip), &relay->option, sizeof(relay->option)) < 0) {
		*reason = DROP_MALFORMED;
		return TUNNEL_DROP;
	}
	if (!is_relay6_type(relay->option.type)) {
		*reason = DROP_NOT_RELAYED;
		return TUNNEL_DROP;
	}
	if (relay->option.header_length != RELAY6_HEADER_LENGTH || relay->option.length != RELAY6_OPTION_LENGTH ||
	    relay6_stage(&relay->option) >= RELAY_STAGES) {
		*reason = DROP_BAD_OPTION;
		return TUNNEL_DROP;
	}
	return TUNNEL_RELAYED;
}

/* Replace the relay header at the front of the packet by the base header `ip`. 0, or negative on failure. */
static __always_inline long tunnel_strip(struct __sk_buff *skb, const struct iphdr *ip)
{
	long error = bpf_skb_adjust_room(skb, -(__s32)sizeof(struct relay_option), BPF_ADJ_ROOM_NET,
					 BPF_F_ADJ_ROOM_FIXED_GSO);

	if (error)
		return error;
	return bpf_skb_store_bytes(skb, 0, ip, sizeof(*ip), 0);
}

static __always_inline long tunnel_strip6(struct __sk_buff *skb, const struct ipv6hdr *ip)
{
	long error = bpf_skb_adjust_room(skb, -(__s32)sizeof(struct relay6_option), BPF_ADJ_ROOM_NET,
					 BPF_F_ADJ_ROOM_FIXED_GSO);

	if (error)
		return error;
	return bpf_skb_store_bytes(skb, 0, ip, sizeof(*ip), 0);
}

/* Put the relay header in place of the base header of a packet with an Ethernet header. 0, or negative on failure. */
static __always_inline long tunnel_wrap(struct __sk_buff *skb, const struct relay_header *relay)
{
	long error = bpf_skb_adjust_room(skb, sizeof(relay->option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO);

	if (error)
		return error;
	return bpf_skb_store_bytes(skb, ETH_HLEN, relay, sizeof(*relay), 0);
}

static __always_inline long tunnel_wrap6(struct __sk_buff *skb, const struct relay6_header *relay)
{
	long error = bpf_skb_adjust_room(skb, sizeof(relay->option), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO);

	if (error)
		return error;
	return bpf_skb_store_bytes(skb, ETH_HLEN, relay, sizeof(*relay), 0);
}

/* Store a relay header that relay_turn changed, and send the packet back into WireGuard. */
static __always_inline int tunnel_turn(struct __sk_buff *skb, const void *relay, __u32 bytes, __u32 ifindex)
{
	if (bpf_skb_store_bytes(skb, 0, relay, bytes, 0))
		return tc_drop(DROP_REWRITE_FAILED);
	return bpf_redirect(ifindex, 0);
}

/*
 * Send a packet without link layer out of an Ethernet device, next hop by the host's FIB and neighbour table. The
 * room for the Ethernet header must be made first: without it the kernel drops the packet silently.
 */
static __always_inline int tunnel_send(struct __sk_buff *skb, __u32 ifindex)
{
	__be16 protocol = skb->protocol;

	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		return tc_drop(DROP_REWRITE_FAILED);
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	return redirect_neigh(ifindex, 0, 0, 0);
}

#endif
