/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What edge_xdp tells edge_handoff about a packet, in XDP metadata. Only XDP can put it there: nobody outside can forge
 * a mark. What is rare is only recognised in XDP, marked, and done in TC.
 */
#ifndef EDGEWIRE_HANDOFF_H
#define EDGEWIRE_HANDOFF_H

#include "drops.h"
#include "edge_maps.h"
#include "kernel.h"

enum handoff {
	HANDOFF_RELAY = 0x65646765, /* a relay packet, ready for WireGuard */
	HANDOFF_RELAY_FRAGMENT, /* the same, of a datagram that more fragments belong to */
	HANDOFF_FRAGMENT, /* a fragment as it came, for a VIP */
	HANDOFF_TOO_BIG, /* a packet as it came, to be refused: WireGuard cannot carry it whole */
	HANDOFF_TIME_EXCEEDED, /* a packet as it came, to be refused: its time to live is used up */
	HANDOFF_ICMP, /* ICMP as it came, for a VIP */
};

/* Put the mark in front of the packet. 0, or negative where the driver has no room for it. */
static __always_inline long set_mark(struct xdp_md *ctx, __u32 handoff)
{
	long error = bpf_xdp_adjust_meta(ctx, -(int)sizeof(handoff));
	__u32 *mark = (void *)(long)ctx->data_meta;

	if (error || (void *)(mark + 1) > (void *)(long)ctx->data)
		return -1;
	*mark = handoff;
	return 0;
}

/* Leave a packet as it is to edge_handoff. */
static __always_inline int leave_to_tc(struct xdp_md *ctx, __u32 handoff)
{
	return set_mark(ctx, handoff) ? xdp_drop(DROP_NO_METADATA) : XDP_PASS;
}

/* The same if it is for one of our VIPs; otherwise it is the host's. */
static __always_inline int hand_off_if_ours(struct xdp_md *ctx, struct address *destination, __u32 handoff)
{
	return ew_vips.lookup(destination) ? leave_to_tc(ctx, handoff) : XDP_PASS;
}

#endif
