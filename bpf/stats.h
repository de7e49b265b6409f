/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Packets and bytes (IP length, without link layer and relay option) each way, per backend or endpoint, per CPU. */
#ifndef EDGEWIRE_STATS_H
#define EDGEWIRE_STATS_H

struct stats {
	__u64 in_packets;
	__u64 in_bytes;
	__u64 out_packets;
	__u64 out_bytes;
};
BPF_TABLE("percpu_array", __u32, struct stats, ew_stats, MAX_STATS);

static __always_inline void count_in(__u32 index, __u64 bytes)
{
	struct stats *stats = ew_stats.lookup(&index);

	if (stats) {
		stats->in_packets += 1;
		stats->in_bytes += bytes;
	}
}

static __always_inline void count_out(__u32 index, __u64 bytes)
{
	struct stats *stats = ew_stats.lookup(&index);

	if (stats) {
		stats->out_packets += 1;
		stats->out_bytes += bytes;
	}
}

#endif
