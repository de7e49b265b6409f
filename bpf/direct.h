/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * In front of the services' hash maps: an array whose places are hashes of VIP and port. A lookup in a hash map is the
 * dearest thing that a packet needs, and a call; one in an array is a few instructions in line. Most packets find at
 * their place their service, or that no service is there; the hash map is asked only where several services share a place.
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

/* A service's entry, where its place has no other. `ask` tells whether the hash map has to be asked. */
static __always_inline struct service *find_direct(__be32 vip, __be16 port, int *ask)
{
	struct direct wanted = {.vip = vip, .port = port, .state = DIRECT_ONE};
	__u64 word = *(__u64 *)&wanted;
	__u32 place = direct_place(word * DIRECT_FACTOR);
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
	__u32 place = direct_place((upper * DIRECT_FACTOR + lower) * DIRECT_FACTOR + tail * DIRECT_FACTOR2);
	struct direct6 *found = ew_direct6.lookup(&place);

	if (found && ((__u64 *)found)[0] == upper && ((__u64 *)found)[1] == lower && *(__u32 *)&found->port == tail)
		return (void *)(&found->state + 1);
	*ask = !found || found->state == DIRECT_ASK;
	return 0;
}

#endif
