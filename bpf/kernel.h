/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What the programs need of the kernel. Only uapi headers: pulling in <linux/...> multiplies the compile time on
 * the box, and nothing here looks inside kernel structures.
 */
#ifndef EDGEWIRE_KERNEL_H
#define EDGEWIRE_KERNEL_H

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/if_packet.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/udp.h>

/*
 * bcc 0.26 declares this helper's result as int. Newer kernels fold the sum to 16 bits; to older ones, Linux 6.1 for one, it has
 * 32, and half of all sums would be negative. Errors are (bpf-helpers(7)).
 */
static __s64 (*csum_diff)(const void *from, __u32 from_size, const void *to, __u32 to_size,
			  __u32 seed) = (void *)BPF_FUNC_csum_diff;

/* bcc 0.26 declares this helper with three arguments; the kernel's takes four (bpf-helpers(7)). */
static long (*redirect_neigh)(__u32 ifindex, struct bpf_redir_neigh *params, int plen,
			      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

#define IP_FLAG_DONT_FRAGMENT 0x4000
#define IP_FLAG_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET_MASK 0x1fff
#define IP_FRAGMENT_MASK (IP_FLAG_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET_MASK)

/* Not ours: let the next filter on the hook, and then the host, have the packet. */
#define VERDICT_NEXT TC_ACT_UNSPEC

#endif
