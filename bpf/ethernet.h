/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A frame's Ethernet header, in words: the kernel's struct ethhdr is packed, and what is packed the compiler reads and
 * writes byte by byte.
 */
#ifndef EDGEWIRE_ETHERNET_H
#define EDGEWIRE_ETHERNET_H

#include "kernel.h"

/* The two addresses in front of the protocol, or of a VLAN tag. */
struct mac_addresses {
	__u32 word[2 * ETH_ALEN / 4];
};

static __always_inline __be16 *ethernet_protocol(void *frame)
{
	return frame + sizeof(struct mac_addresses);
}

#endif
