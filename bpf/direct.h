/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * In front of the services' hash maps: an array whose places are hashes of VIP and port. A lookup in a hash map is the
 * dearest thing that a packet needs, and a call; one in an array is a few instructions in line. Most packets find at
 * their place their service, or that no service is there; the hash map is asked only where several services share a place.
 *
 * In front of the tries of ranges, which are dearer still: bits, whose places are hashes of VIP and block of ports. One that
 * is set says that no range reaches into its block; so an empty map, here as above, says that the next one is to be asked.
 *
 * A place that changes goes by way of DIRECT_ASK, and has its service before it has DIRECT_ONE again, so that no packet
 * finds one service's key with another's table. plugins/module_utils/bpf/direct.py writes them, with the same hashes.
 */
#ifndef EDGEWIRE_DIRECT_H
#define EDGEWIRE_DIRECT_H

#include "edge_maps.h"

/* Multiplicative hashing (Knuth, The Art of Computer Programming 6.4): the upper bits of a product are the place. */
#define DIRECT_FACTOR 0x9e3779b97f4a7c15ull
#define DIRECT_FACTOR2 0xc2b2ae3d27d4eb4full

static __always_inline __u32 direct_place(__u64 product)
{
	return product >> (64 - DIRECT_BITS);
}

static __always_inline __u32 place_of_key(const struct direct *key)
{
	return direct_place(*(const __u64 *)key * DIRECT_FACTOR);
}

static __always_inline __u32 place_of_key6(const struct address *vip, const struct direct6 *key)
{
	const __u64 *half = (const __u64 *)vip;

	return direct_place((half[0] * DIRECT_FACTOR + half[1]) * DIRECT_FACTOR +
			    *(const __u32 *)&key->port * DIRECT_FACTOR2);
}

/* A service's entry, where its place has no other. `ask` tells whether the hash map has to be asked. */
static __always_inline struct service *find_direct(__be32 vip, __be16 port, int *ask)
{
	struct direct wanted = {.vip = vip, .port = port, .state = DIRECT_ONE};
	__u64 word = *(__u64 *)&wanted;
	__u32 place = place_of_key(&wanted);
	struct direct *found = ew_direct.lookup(&place);

	if (found && *(__u64 *)found == word)
		return (void *)(&found->state + 1);
	*ask = !found || found->state == DIRECT_ASK;
	return 0;
}

static __always_inline struct service *find_direct6(const struct address *vip, __be16 port, int *ask)
{
	struct direct6 wanted = {.port = port, .state = DIRECT_ONE};
	__u64 upper = ((__u64 *)vip)[0], lower = ((__u64 *)vip)[1];
	__u32 tail = *(__u32 *)&wanted.port;
	__u32 place = place_of_key6(vip, &wanted);
	struct direct6 *found = ew_direct6.lookup(&place);

	if (found && ((__u64 *)found)[0] == upper && ((__u64 *)found)[1] == lower && *(__u32 *)&found->port == tail)
		return (void *)(&found->state + 1);
	*ask = !found || found->state == DIRECT_ASK;
	return 0;
}

static __always_inline int no_range_at(__u32 place)
{
	__u32 word = place / 64;
	__u64 *bits = ew_no_range.lookup(&word);

	return bits && *bits >> place % 64 & 1;
}

static __always_inline __be16 block_of(__be16 port)
{
	return port & bpf_htons(0x10000 - RANGE_BLOCK);
}

/* Whether a trie has to be asked: the bit of the port's block does not rule it out. */
static __always_inline int may_be_in_range(__be32 vip, __be16 port)
{
	struct direct block = {.vip = vip, .port = block_of(port), .state = DIRECT_ONE};

	return !no_range_at(place_of_key(&block));
}

static __always_inline int may_be_in_range6(const struct address *vip, __be16 port)
{
	struct direct6 block = {.port = block_of(port), .state = DIRECT_ONE};

	return !no_range_at(place_of_key6(vip, &block));
}

#endif
