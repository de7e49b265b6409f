/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * VLAN tags in the frame (IEEE 802.1Q, and the outer one of 802.1ad): taken out before anybody looks into a packet, and
 * put back into what is left to the host. What is relayed has none, as WireGuard takes IP packets only.
 */
#ifndef EDGEWIRE_VLAN_H
#define EDGEWIRE_VLAN_H

#include "ethernet.h"
#include "kernel.h"

#define MAX_VLAN_TAGS 2

struct vlan_tag {
	__be16 protocol; /* 802.1Q or 802.1ad; 0: no tag */
	__be16 control;
};

struct tagged_ethernet {
	struct mac_addresses addresses;
	struct vlan_tag tag;
};

static __always_inline int is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/* Take the frame's outermost tag out, if it has one. 0, or negative where the frame would not move. */
static __always_inline int vlan_pop(struct xdp_md *ctx, struct vlan_tag *tag)
{
	struct tagged_ethernet *tagged = (void *)(long)ctx->data;
	struct mac_addresses kept, *addresses;

	tag->protocol = 0;
	/* A tag is followed by a protocol, which may be the next tag's. */
	if ((void *)tagged + sizeof(*tagged) + sizeof(__be16) > (void *)(long)ctx->data_end)
		return 0;
	if (!is_vlan(tagged->tag.protocol))
		return 0;
	*tag = tagged->tag;
	kept = tagged->addresses;
	if (bpf_xdp_adjust_head(ctx, sizeof(*tag)))
		return -1;
	addresses = (void *)(long)ctx->data;
	if ((void *)(addresses + 1) > (void *)(long)ctx->data_end)
		return -1;
	*addresses = kept;
	return 0;
}

/* Put a tag that was taken out back in front of what is the frame's outermost now. */
static __always_inline int vlan_push(struct xdp_md *ctx, const struct vlan_tag *tag)
{
	struct mac_addresses *addresses = (void *)(long)ctx->data, kept;
	struct tagged_ethernet *tagged;

	if (!tag->protocol)
		return 0;
	if ((void *)(addresses + 1) > (void *)(long)ctx->data_end)
		return -1;
	kept = *addresses;
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*tag)))
		return -1;
	tagged = (void *)(long)ctx->data;
	if ((void *)(tagged + 1) > (void *)(long)ctx->data_end)
		return -1;
	tagged->addresses = kept;
	tagged->tag = *tag;
	return 0;
}

#endif
