/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Samples of dropped packets for whoever looks for the cause (module forwarder_capture). Off unless somebody does, and
 * then only where a packet is dropped: no other packet pays for it.
 */
#ifndef EDGEWIRE_CAPTURE_H
#define EDGEWIRE_CAPTURE_H

#include "kernel.h"

struct capture {
	__u64 until; /* boot time in ns after which nothing is sampled, also if who asked for it is gone; 0: off */
	__u64 reasons; /* a bit for each drop reason */
	__u64 left; /* samples that may still be sent (signed: CPUs that take the last one together overdraw it) */
	__u32 snaplen; /* bytes of a packet, at most */
	__u32 zero;
};
BPF_TABLE("array", __u32, struct capture, ew_capture, 1);

enum sample_hook {
	SAMPLE_XDP,
	SAMPLE_TC,
};

/* What comes before a packet's first bytes in a sample. */
struct sample {
	__u64 when; /* boot time, ns */
	__u32 reason;
	__u32 ifindex;
	__u32 length; /* of the packet */
	__u32 captured; /* bytes of it that follow */
	__u32 hook;
	__u32 zero;
};
BPF_PERF_OUTPUT(ew_samples);

static __always_inline int is_captured(__u32 reason)
{
	__u32 zero = 0;
	struct capture *capture = ew_capture.lookup(&zero);

	if (!capture || !capture->until || !(capture->reasons >> reason & 1) || (__s64)capture->left <= 0 ||
	    bpf_ktime_get_boot_ns() > capture->until)
		return 0;
	__sync_fetch_and_add(&capture->left, -1);
	return 1;
}

static __always_inline void send_sample(void *ctx, struct sample *sample)
{
	__u32 zero = 0;
	struct capture *capture = ew_capture.lookup(&zero);

	if (!capture)
		return;
	sample->captured = sample->length < capture->snaplen ? sample->length : capture->snaplen;
	ew_samples.perf_submit_skb(ctx, sample->captured, sample, sizeof(*sample));
}

#endif
