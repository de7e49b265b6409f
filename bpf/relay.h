/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * The relay option: what the rewrite of the addresses displaced, carried right behind the base header. In IPv4 it is an
 * option (RFC 791 section 3.1) of the experimental number 158 (RFC 4727), whose copied flag puts it into every
 * fragment. In IPv6 it is a destination options header (RFC 8200 section 4.6) with an experimental option (RFC 4727),
 * whose first bits say "discard where it is not known". It exists only inside WireGuard.
 */
#ifndef EDGEWIRE_RELAY_H
#define EDGEWIRE_RELAY_H

#include "address.h"
#include "checksum.h"
#include "kernel.h"

#define RELAY_OPTION_TYPE 158
#define RELAY_OPTION_VERSION 1
#define RELAY6_OPTION_TYPE 0x5e

/*
 * What a packet is on its way for. A byte of the IPv4 option; in IPv6, where no byte is free, one of the experimental
 * option's numbers each: 0x5e, 0x7e, 0x9e, 0xbe, 0xde. How often a packet was forwarded is a stage, too, so that it
 * cannot go round for ever.
 */
enum relay_stage {
	RELAY_PLAIN,
	RELAY_ASK, /* to a worker: only if the flow is known there; else it goes elsewhere from now on */
	RELAY_RETURNED, /* back to the edge: the flow is not known */
	RELAY_FORWARDED, /* from a worker that had the endpoint to the one that has it */
	RELAY_FORWARDED_TWICE, /* by another such worker once more; not again */
	RELAY_STAGES,
};
#define RELAY6_STAGE_SHIFT 5

struct relay_option {
	__u8 type;
	__u8 length;
	__u8 version;
	__u8 stage;
	__be32 endpoint_id;
	__be32 client;
};

struct relay6_option {
	__u8 next_header;
	__u8 header_length; /* in 8-byte units, the first not counted */
	__u8 type;
	__u8 length;
	__be32 endpoint_id;
	__be32 client[4];
};

#define RELAY_OPTION_WORDS (sizeof(struct relay_option) / 4)
#define RELAY_OPTION_TYPE_AND_LENGTH bpf_htons(RELAY_OPTION_TYPE << 8 | sizeof(struct relay_option))
#define RELAY6_HEADER_LENGTH (sizeof(struct relay6_option) / 8 - 1)
#define RELAY6_OPTION_LENGTH (sizeof(struct relay6_option) - 4)

/* The longest IP packet that fits into WireGuard's MTU with the option. */
#define RELAY_MTU(wireguard_mtu) ((wireguard_mtu) - sizeof(struct relay_option))
#define RELAY6_MTU(wireguard_mtu) ((wireguard_mtu) - sizeof(struct relay6_option))

/* A relayed packet's base header and option, as they lie together in the packet. */
struct relay_header {
	struct iphdr ip;
	struct relay_option option;
};

struct relay6_header {
	struct ipv6hdr ip;
	struct relay6_option option;
};

/* The first four bytes of the option as one word in network order, stage RELAY_PLAIN. */
static __always_inline __be32 relay_option_head(void)
{
	return bpf_htonl(RELAY_OPTION_TYPE << 24 | (__u32)sizeof(struct relay_option) << 16 |
			 RELAY_OPTION_VERSION << 8);
}

/* The 16-bit words of an IPv4 header with its length, and with its time to live; and what the option adds to the former. */
#define IHL_WORD 0
#define TTL_WORD 4
#define IHL_CHANGE bpf_htons(RELAY_OPTION_WORDS << 8)

/* The word of an IPv4 header that holds the time to live, with another one. */
static __always_inline __be16 with_ttl(__be16 word, __u8 ttl)
{
	return (word & bpf_htons(0xff)) | bpf_htons((__u16)ttl << 8);
}

/*
 * Turn a base header into a relay header: addresses replaced, option described, TTL and length adjusted, checksum kept
 * right. `ip` has room for the option's words in its header length (the caller checked), so they add a constant to the
 * checksum. No word is read that was just written in parts: the CPU would wait until those are in its cache.
 */
static __always_inline void relay_wrap(struct relay_header *relay, const struct iphdr *ip, __be32 from, __be32 to,
				       __be32 endpoint_id, __be32 client, __u8 ttl)
{
	__be16 length = bpf_htons(bpf_ntohs(ip->tot_len) + sizeof(struct relay_option));
	__u64 sum = checksum_open(ip->check) + IHL_CHANGE + relay_option_head();
	const __be16 *before = (const __be16 *)ip;
	__be16 ttl_word = with_ttl(before[TTL_WORD], ttl), *after = (__be16 *)&relay->ip;

	sum = checksum_replace16(sum, before[TTL_WORD], ttl_word);
	sum = checksum_replace16(sum, ip->tot_len, length);
	sum = checksum_replace32(sum, ip->saddr, from);
	sum = checksum_replace32(sum, ip->daddr, to);
	sum = checksum_add32(sum, endpoint_id);
	sum = checksum_add32(sum, client);

	after[IHL_WORD] = before[IHL_WORD] + IHL_CHANGE;
	relay->ip.tot_len = length;
	relay->ip.id = ip->id;
	relay->ip.frag_off = ip->frag_off;
	after[TTL_WORD] = ttl_word;
	relay->ip.check = checksum_close(sum);
	relay->ip.saddr = from;
	relay->ip.daddr = to;
	*(__be32 *)&relay->option = relay_option_head();
	relay->option.endpoint_id = endpoint_id;
	relay->option.client = client;
}

/* The opposite: the base header without the option, with new addresses. */
static __always_inline void relay_unwrap(struct iphdr *ip, const struct relay_header *relay, __be32 from, __be32 to,
					 __u8 ttl)
{
	__be16 length = bpf_htons(bpf_ntohs(relay->ip.tot_len) - sizeof(struct relay_option));
	__u64 sum = checksum_open(relay->ip.check) + (__u16)~IHL_CHANGE;
	const __be16 *before = (const __be16 *)&relay->ip;
	__be16 ttl_word = with_ttl(before[TTL_WORD], ttl), *after = (__be16 *)ip;

	after[IHL_WORD] = before[IHL_WORD] - IHL_CHANGE;
	ip->tot_len = length;
	ip->id = relay->ip.id;
	ip->frag_off = relay->ip.frag_off;
	after[TTL_WORD] = ttl_word;
	ip->saddr = from;
	ip->daddr = to;

	sum = checksum_replace16(sum, before[TTL_WORD], ttl_word);
	sum = checksum_replace16(sum, relay->ip.tot_len, length);
	sum = checksum_replace32(sum, relay->ip.saddr, from);
	sum = checksum_replace32(sum, relay->ip.daddr, to);
	sum = checksum_replace32(sum, *(const __be32 *)&relay->option, 0);
	sum = checksum_replace32(sum, relay->option.endpoint_id, 0);
	sum = checksum_replace32(sum, relay->option.client, 0);
	ip->check = checksum_close(sum);
}

/* Whether an IPv6 option's type is one of the relay's, a later version's included. */
static __always_inline int is_relay6_type(__u8 type)
{
	return (type & 0x1f) == (RELAY6_OPTION_TYPE & 0x1f) && type >= RELAY6_OPTION_TYPE;
}

static __always_inline __u32 relay6_stage(const struct relay6_option *option)
{
	return (__u8)(option->type - RELAY6_OPTION_TYPE) >> RELAY6_STAGE_SHIFT;
}

/* Give a relay header that relay_wrap made another stage. */
static __always_inline void relay_set_stage(struct relay_header *relay, enum relay_stage stage)
{
	__u64 sum = checksum_open(relay->ip.check);
	__be16 before = ((__be16 *)&relay->option)[1];

	relay->option.stage = stage;
	relay->ip.check = checksum_close(checksum_replace16(sum, before, ((__be16 *)&relay->option)[1]));
}

static __always_inline void relay6_set_stage(struct relay6_header *relay, enum relay_stage stage)
{
	relay->option.type = RELAY6_OPTION_TYPE + (stage << RELAY6_STAGE_SHIFT);
}

/* Send a relayed packet on between relays: new addresses, endpoint and stage, one hop less, checksum kept right. */
static __always_inline void relay_turn(struct relay_header *relay, __be32 from, __be32 to, __be32 endpoint_id,
				       enum relay_stage stage)
{
	__u64 sum = checksum_open(relay->ip.check);
	__be16 before = ((__be16 *)&relay->ip)[4];

	sum = checksum_replace32(sum, relay->ip.saddr, from);
	sum = checksum_replace32(sum, relay->ip.daddr, to);
	sum = checksum_replace32(sum, relay->option.endpoint_id, endpoint_id);
	relay->ip.ttl -= 1;
	relay->ip.saddr = from;
	relay->ip.daddr = to;
	relay->option.endpoint_id = endpoint_id;
	relay->ip.check = checksum_close(checksum_replace16(sum, before, ((__be16 *)&relay->ip)[4]));
	relay_set_stage(relay, stage);
}

static __always_inline void relay6_turn(struct relay6_header *relay, const struct address *from,
					const struct address *to, __be32 endpoint_id, enum relay_stage stage)
{
	relay->ip.hop_limit -= 1;
	*(struct address *)&relay->ip.saddr = *from;
	*(struct address *)&relay->ip.daddr = *to;
	relay->option.endpoint_id = endpoint_id;
	relay6_set_stage(relay, stage);
}

/* As relay_wrap, for IPv6, whose base header has no checksum. */
static __always_inline void relay6_wrap(struct relay6_header *relay, const struct ipv6hdr *ip,
					const struct address *from, const struct address *to, __be32 endpoint_id,
					const struct address *client, __u8 hop_limit)
{
	relay->ip = *ip;
	relay->ip.payload_len = bpf_htons(bpf_ntohs(ip->payload_len) + sizeof(struct relay6_option));
	relay->ip.nexthdr = IPPROTO_DSTOPTS;
	relay->ip.hop_limit = hop_limit;
	*(struct address *)&relay->ip.saddr = *from;
	*(struct address *)&relay->ip.daddr = *to;
	relay->option.next_header = ip->nexthdr;
	relay->option.header_length = RELAY6_HEADER_LENGTH;
	relay->option.type = RELAY6_OPTION_TYPE;
	relay->option.length = RELAY6_OPTION_LENGTH;
	relay->option.endpoint_id = endpoint_id;
	*(struct address *)relay->option.client = *client;
}

static __always_inline void relay6_unwrap(struct ipv6hdr *ip, const struct relay6_header *relay,
					  const struct address *from, const struct address *to, __u8 hop_limit)
{
	*ip = relay->ip;
	ip->payload_len = bpf_htons(bpf_ntohs(relay->ip.payload_len) - sizeof(struct relay6_option));
	ip->nexthdr = relay->option.next_header;
	ip->hop_limit = hop_limit;
	*(struct address *)&ip->saddr = *from;
	*(struct address *)&ip->daddr = *to;
}

#endif
