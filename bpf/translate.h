/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Address and port translation of UDP, checksum included. BPF_F_PSEUDO_HDR also does the right thing for packets whose
 * checksum the container left to the device (CHECKSUM_PARTIAL), and BPF_F_MARK_MANGLED_0 leaves IPv4's "no checksum"
 * alone and never lets a sum become 0.
 */
#ifndef EDGEWIRE_TRANSLATE_H
#define EDGEWIRE_TRANSLATE_H

#include "address.h"
#include "kernel.h"

/* The address is not stored here: the caller stores the whole IP header. */
static __always_inline long translate_address(struct __sk_buff *skb, __u32 udp_offset, const struct address *from,
					      const struct address *to)
{
	__u32 check = udp_offset + offsetof(struct udphdr, check);
	__s64 change;

	if (address_is_v4(from))
		return bpf_l4_csum_replace(skb, check, from->word[3], to->word[3],
					   BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0 | sizeof(__be32));
	change = csum_diff((__be32 *)from->word, sizeof(from->word), (__be32 *)to->word, sizeof(to->word), 0);
	if (change < 0)
		return change;
	return bpf_l4_csum_replace(skb, check, 0, change, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0);
}

static __always_inline long translate_port(struct __sk_buff *skb, __u32 udp_offset, __u32 port_offset, __be16 from,
					   __be16 to)
{
	__u32 check = udp_offset + offsetof(struct udphdr, check);

	if (from == to)
		return 0;
	if (bpf_l4_csum_replace(skb, check, from, to, BPF_F_MARK_MANGLED_0 | sizeof(to)))
		return -1;
	return bpf_skb_store_bytes(skb, udp_offset + port_offset, &to, sizeof(to), 0);
}

#endif
