/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * IP fragments, in TC, where edge and worker decide by ports. Only a datagram's first fragment has them: where it goes
 * is remembered by what tells datagrams apart (RFC 791 section 3.2, RFC 8200 section 4.5), and the others follow it.
 * Those that come before it are held, whole frames, until it does; then they are received once more. Nothing is put
 * together here, so overlaps and gaps are the receiver's business.
 *
 * All of it is state in LRU maps. Later fragments get no entry in ew_fragments, so a flood of them pushes only held
 * frames out, and no datagram whose first fragment was seen.
 */
#ifndef EDGEWIRE_FRAGMENTS_H
#define EDGEWIRE_FRAGMENTS_H

#include "address.h"
#include "drops.h"
#include "extensions.h"
#include "kernel.h"
#include "relay.h"
#include "stats.h"
#include "tunnel.h"

/* How long an identification stands for the same datagram. RFC 791 allows 15 s and more, RFC 8200 60 s; Linux: 30 s. */
#define DATAGRAM_SECONDS 30
/* Fragments of 1,500 bytes behind the first one that make up the longest datagram. */
#define MAX_HELD_OF_DATAGRAM 44
/* A frame of 1,500 bytes and its link layer. */
#define HELD_FRAME_BYTES 1536
/* Mark of the kernel's packet buffer, not of the packet: a frame that was held and is received once more. */
#define HELD_MARK 0x65646768

struct datagram_key {
	struct address source;
	struct address destination;
	__be32 id; /* in IPv4 the 16 bits as they are in the packet, and zeros */
	__u32 protocol; /* 0 in IPv6, where it does not tell datagrams apart */
};

struct datagram {
	struct address address; /* by the relay: the other end's; directly: the VIP, which becomes the source */
	__be32 endpoint_id;
	__u32 stats_index;
	__u32 first_seen; /* seconds since boot */
	__u32 way;
};
#define DATAGRAM_TO_HOST 0 /* it is none of a service */
#define DATAGRAM_RELAYED 1
#define DATAGRAM_DIRECT 2 /* a reply that leaves through the worker's own uplink */

struct held_key {
	struct datagram_key datagram;
	__u32 number;
};

struct held {
	__u32 length;
	__u32 held_since; /* seconds since boot */
	__u32 last_number; /* of the datagram's held fragments; only number 0 says it */
	__u32 zero;
	__u8 frame[HELD_FRAME_BYTES];
};

struct held_count {
	__u64 held;
	__u64 released;
};

BPF_TABLE("lru_hash", struct datagram_key, struct datagram, ew_fragments, MAX_FRAGMENTS);
BPF_TABLE("lru_hash", struct held_key, struct held, ew_held, MAX_HELD_FRAGMENTS);
/* Where a frame is put together for ew_held: it is too long for the stack. */
BPF_TABLE("percpu_array", __u32, struct held, ew_held_scratch, 1);
BPF_TABLE("percpu_array", __u32, struct held_count, ew_held_count, 1);

static __always_inline __u32 seconds_since_boot(void)
{
	return bpf_ktime_get_ns() / 1000000000;
}

static __always_inline int is_over(__u32 since)
{
	return seconds_since_boot() - since >= DATAGRAM_SECONDS;
}

static __always_inline struct datagram_key datagram_of_v4(const struct iphdr *ip)
{
	struct datagram_key key = {
		.source = address_of_v4(ip->saddr),
		.destination = address_of_v4(ip->daddr),
		.id = ip->id,
		.protocol = ip->protocol,
	};

	return key;
}

static __always_inline struct datagram_key
datagram_of_v6(const struct address *source, const struct address *destination, const struct udp_place *place)
{
	struct datagram_key key = {.source = *source, .destination = *destination, .id = place->id};

	return key;
}

/* Whether UDP is, or may come, where the headers that could be looked into end. */
static __always_inline int may_be_udp(const struct udp_place *place)
{
	return place->next_header == IPPROTO_UDP || place->next_header == IPPROTO_DSTOPTS ||
	       place->next_header == IPPROTO_ROUTING;
}

static __always_inline struct datagram *find_datagram(struct datagram_key *key)
{
	struct datagram *datagram = ew_fragments.lookup(key);

	return datagram && !is_over(datagram->first_seen) ? datagram : 0;
}

/* Keep a fragment whose datagram is not known yet. 0, or negative where that cannot be. */
static __always_inline long hold_fragment(struct __sk_buff *skb, const struct datagram_key *key)
{
	struct held_key at = {.datagram = *key};
	__u32 zero = 0, length = skb->len;
	struct held *first = ew_held.lookup(&at), *held = ew_held_scratch.lookup(&zero);
	struct held_count *count = ew_held_count.lookup(&zero);

	if (!held || !count || length < ETH_HLEN || length > HELD_FRAME_BYTES)
		return -1;
	if (bpf_skb_load_bytes(skb, 0, held->frame, length))
		return -1;
	if (first && !is_over(first->held_since)) {
		if (first->last_number >= MAX_HELD_OF_DATAGRAM - 1)
			return -1;
		first->last_number += 1;
		at.number = first->last_number;
	}
	held->length = length;
	held->held_since = seconds_since_boot();
	held->last_number = 0;
	ew_held.update(&at, held);
	count->held += 1;
	return 0;
}

/*
 * Where a later fragment goes, by its datagram's first one. 0 where *verdict says it: it was held or could not be, or it
 * is the host's.
 */
static __always_inline struct datagram *datagram_to_follow(struct __sk_buff *skb, struct datagram_key *key,
							   int *verdict)
{
	struct datagram *datagram = find_datagram(key);

	if (!datagram && hold_fragment(skb, key)) {
		*verdict = tc_drop(DROP_FRAGMENT_NOT_HELD);
		return 0;
	}
	*verdict = TC_ACT_STOLEN;
	/* The first one may have come meanwhile, on another CPU, before it could see this one. Twice does no harm. */
	if (!datagram)
		datagram = find_datagram(key);
	if (!datagram || datagram->way != DATAGRAM_TO_HOST)
		return datagram;
	*verdict = VERDICT_NEXT;
	if (skb->mark == HELD_MARK)
		skb->mark = 0;
	return 0;
}

enum direction {
	TO_CONTAINER,
	TO_CLIENT,
};

static __always_inline void count_later(__u32 index, enum direction direction, __u32 ip_bytes)
{
	if (direction == TO_CONTAINER)
		count_in(index, ip_bytes);
	else
		count_out(index, ip_bytes);
}

/* Relay a later fragment after its datagram's first one: `relay` is this end's relay address. */
static __always_inline int relay_later(struct __sk_buff *skb, const struct iphdr *ip, const struct datagram *datagram,
				       const struct address *relay, const struct address *client, __u32 ifindex,
				       enum direction direction)
{
	struct relay_header header;

	if (ip->ttl <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	if (ip->ihl > 15 - RELAY_OPTION_WORDS)
		return tc_drop(DROP_OPTIONS_TOO_LONG);
	relay_wrap(&header, ip, relay->word[3], datagram->address.word[3], datagram->endpoint_id, client->word[3],
		   ip->ttl - 1);
	if (tunnel_wrap(skb, &header))
		return tc_drop(DROP_REWRITE_FAILED);
	count_later(datagram->stats_index, direction, bpf_ntohs(ip->tot_len));
	return bpf_redirect(ifindex, 0);
}

static __always_inline int relay_later6(struct __sk_buff *skb, const struct ipv6hdr *ip,
					const struct datagram *datagram, const struct address *relay,
					const struct address *client, __u32 ifindex, enum direction direction)
{
	struct relay6_header header;

	if (ip->hop_limit <= 1)
		return tc_drop(DROP_TTL_EXPIRED);
	relay6_wrap(&header, ip, relay, &datagram->address, datagram->endpoint_id, client, ip->hop_limit - 1);
	if (tunnel_wrap6(skb, &header))
		return tc_drop(DROP_REWRITE_FAILED);
	count_later(datagram->stats_index, direction, sizeof(*ip) + bpf_ntohs(ip->payload_len));
	return bpf_redirect(ifindex, 0);
}

static __always_inline int any_waits(const struct datagram_key *key)
{
	struct held_key at = {.datagram = *key};

	return ew_held.lookup(&at) != 0;
}

/* Let a datagram's fragments that wait be received once more. The packet is used up for it. */
static __always_inline void release_held(struct __sk_buff *skb, const struct datagram_key *key)
{
	struct held_key at = {.datagram = *key};
	__u32 zero = 0;
	struct held_count *count = ew_held_count.lookup(&zero);

	if (!count)
		return;
	skb->mark = HELD_MARK;
	/* Linux 6.1's verifier sees the end of a loop in a constant, not in how many there are. */
#pragma unroll
	for (__u32 number = 0; number < MAX_HELD_OF_DATAGRAM; number++) {
		struct held *held;
		__u32 length;

		at.number = number;
		held = ew_held.lookup(&at);
		if (!held)
			continue;
		length = held->length;
		if (!is_over(held->held_since) && length >= ETH_HLEN && length <= HELD_FRAME_BYTES &&
		    !bpf_skb_change_tail(skb, length, 0) &&
		    !bpf_skb_store_bytes(skb, 0, held->frame, length, BPF_F_RECOMPUTE_CSUM) &&
		    !bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
			count->released += 1;
		ew_held.delete(&at);
	}
}

/*
 * Remember where a datagram's first fragment, as it came, goes. True where others wait for it: then all of them are
 * received once more, the first one first, and find nothing waiting.
 */
static __always_inline int lead_datagram(struct __sk_buff *skb, struct datagram_key *key, struct datagram *datagram)
{
	datagram->first_seen = seconds_since_boot();
	ew_fragments.update(key, datagram);
	if (!any_waits(key))
		return 0;
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	release_held(skb, key);
	return 1;
}

/* The first fragment of a datagram that is none of a service: the host has it, and shall have the rest. */
static __always_inline int pass_first(struct __sk_buff *skb, struct datagram_key *key)
{
	struct datagram datagram = {.way = DATAGRAM_TO_HOST};

	return lead_datagram(skb, key, &datagram) ? TC_ACT_STOLEN : VERDICT_NEXT;
}

#endif
