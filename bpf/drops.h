/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Why a packet was dropped. Every drop of ours has a name and a counter; the names that people see are in
 * plugins/module_utils/bpf/layout.py, and the compile fails where the two lists differ.
 */
#ifndef EDGEWIRE_DROPS_H
#define EDGEWIRE_DROPS_H

#include "capture.h"

enum drop_reason {
	DROP_MALFORMED,
	DROP_RELAY_FROM_OUTSIDE,
	DROP_FRAGMENT_TINY,
	DROP_FRAGMENT_NOT_HELD,
	DROP_TTL_EXPIRED,
	DROP_TOO_BIG,
	DROP_OPTIONS_TOO_LONG,
	DROP_NO_BACKEND,
	DROP_UNKNOWN_WORKER,
	DROP_NO_HEADROOM,
	DROP_NO_METADATA,
	DROP_NOT_CONFIGURED,
	DROP_NOT_RELAYED,
	DROP_BAD_OPTION,
	DROP_UNKNOWN_EDGE,
	DROP_UNKNOWN_ENDPOINT,
	DROP_WRONG_WORKER,
	DROP_WRONG_PORT,
	DROP_UNKNOWN_FLOW,
	DROP_ICMP_LIMITED,
	DROP_REWRITE_FAILED,
	DROP_SOURCE_DENIED,
	DROP_SOURCE_RATE,
	DROP_SERVICE_RATE,
	DROP_NOT_A_SERVICE,
	DROP_TOO_MANY_HOPS,
	DROP_NO_WAY_BACK,
	DROP_REASONS,
};

BPF_TABLE("percpu_array", __u32, __u64, ew_drops, DROP_REASONS);

/*
 * Who this program is: written once after load and before attach, read back through the attached program's own map
 * ids, to which it is added when it is loaded.
 */
struct identity {
	__u8 build[32]; /* sources, flags and schema */
	__u8 schema[32]; /* map layouts alone: where equal, contents can be carried over */
};
BPF_TABLE("array", __u32, struct identity, ew_identity, 1);

/*
 * What stands for a drop and its reason on the way out of a program; the program's last line (xdp_verdict, tc_verdict)
 * counts it, has it sampled and makes the kernel's verdict of it. No verdict of the kernel's has such a number.
 */
#define DROP_VERDICT 0x100

static __always_inline int xdp_drop(__u32 reason)
{
	return DROP_VERDICT + reason;
}

static __always_inline int tc_drop(__u32 reason)
{
	return DROP_VERDICT + reason;
}

static __always_inline void count_drop(__u32 reason)
{
	__u64 *count = ew_drops.lookup(&reason);

	if (count)
		*count += 1;
}

static __always_inline int xdp_verdict(struct xdp_md *ctx, int verdict)
{
	__u32 reason = verdict - DROP_VERDICT;

	if (reason >= DROP_REASONS)
		return verdict;
	count_drop(reason);
	if (is_captured(reason)) {
		struct sample sample = {
			.when = bpf_ktime_get_boot_ns(),
			.reason = reason,
			.ifindex = ctx->ingress_ifindex,
			.length = (void *)(long)ctx->data_end - (void *)(long)ctx->data,
			.hook = SAMPLE_XDP,
		};

		send_sample(ctx, &sample);
	}
	return XDP_DROP;
}

/* Count a packet as dropped, and have it sampled. */
static __always_inline void tc_account(struct __sk_buff *skb, __u32 reason)
{
	count_drop(reason);
	if (is_captured(reason)) {
		struct sample sample = {
			.when = bpf_ktime_get_boot_ns(),
			.reason = reason,
			.ifindex = skb->ifindex,
			.length = skb->len,
			.hook = SAMPLE_TC,
		};

		send_sample(skb, &sample);
	}
}

static __always_inline int tc_verdict(struct __sk_buff *skb, int verdict)
{
	__u32 reason = verdict - DROP_VERDICT;

	if (reason >= DROP_REASONS)
		return verdict;
	tc_account(skb, reason);
	return TC_ACT_SHOT;
}

#endif
