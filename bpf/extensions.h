/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * IPv6 extension headers (RFC 8200 section 4) on the way to UDP. The walk is bounded: nobody sends more than a few, and
 * whoever does is not served.
 */
#ifndef EDGEWIRE_EXTENSIONS_H
#define EDGEWIRE_EXTENSIONS_H

#include "kernel.h"

#define MAX_EXTENSION_HEADERS 4
#define IP6_FRAGMENT_OFFSET_MASK 0xfff8
#define IP6_FRAGMENT_MORE 0x0001
/* Any header of this size reads past the longest packet there is room to look into. */
#define MAX_UDP_OFFSET 512

struct extension_header {
	__u8 next_header;
	__u8 length; /* in 8-byte units, the first not counted; a fragment header has 0 here */
	__be16 fragment;
	__be32 id; /* of a fragment header; every other has at least as many bytes */
};

struct udp_place {
	__u32 offset; /* of the UDP header, from the IPv6 header's end */
	__be32 id; /* the fragment header's identification, 0 without one */
	__be16 fragment; /* its offset and flags, 0 without one */
	__u8 next_header; /* what comes at the offset; in a later fragment, what came in the first one */
};

/*
 * Take one step of the walk. 1: UDP is at place->offset; 0: `*next` is the next header to look at, there; -1: no UDP
 * here. `extension` is what lies at place->offset.
 */
static __always_inline int extension_step(__u8 *next, const struct extension_header *extension, struct udp_place *place)
{
	switch (*next) {
	case IPPROTO_FRAGMENT:
		/* Two bits between them are reserved, and ignored by who receives them. */
		place->fragment = extension->fragment & bpf_htons(IP6_FRAGMENT_OFFSET_MASK | IP6_FRAGMENT_MORE);
		place->id = extension->id;
		place->offset += 8;
		break;
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		place->offset += (extension->length + 1) * 8;
		break;
	default:
		return -1;
	}
	*next = extension->next_header;
	place->next_header = *next;
	/* What follows a later fragment's header is payload, whatever the header says it is. */
	if (place->fragment & bpf_htons(IP6_FRAGMENT_OFFSET_MASK))
		return -1;
	return *next == IPPROTO_UDP;
}

/* Find UDP in a packet in XDP. `start` is the end of the IPv6 header. 0 where found, negative otherwise. */
static __always_inline int find_udp(void *start, void *data_end, __u8 next, struct udp_place *place)
{
	*place = (struct udp_place){.next_header = next};
	if (next == IPPROTO_UDP)
		return 0;
#pragma unroll
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		struct extension_header *extension = start + place->offset;
		int found;

		if (place->offset > MAX_UDP_OFFSET || (void *)(extension + 1) > data_end)
			return -1;
		found = extension_step(&next, extension, place);
		if (found)
			return found > 0 && place->offset <= MAX_UDP_OFFSET ? 0 : -1;
	}
	return -1;
}

/* The same in TC, where a packet need not be linear. `start` is the offset of the IPv6 header's end. */
static __always_inline int find_udp_skb(struct __sk_buff *skb, __u32 start, __u8 next, struct udp_place *place)
{
	*place = (struct udp_place){.next_header = next};
	if (next == IPPROTO_UDP)
		return 0;
#pragma unroll
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		struct extension_header extension;
		int found;

		if (bpf_skb_load_bytes(skb, start + place->offset, &extension, sizeof(extension)))
			return -1;
		found = extension_step(&next, &extension, place);
		if (found)
			return found > 0 ? 0 : -1;
	}
	return -1;
}

#endif
