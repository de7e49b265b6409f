/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Token buckets in the form of a virtual clock (GCRA, ITU-T I.371): a bucket is one number, the time at which it will be
 * full again. A packet moves it on by the interval between two packets at the limit; what would move it more than the
 * tolerance ahead of now is too much. All CPUs may share a bucket without a lock: a packet that is let in is added
 * atomically, one that is refused writes nothing. Only where a bucket was full may CPUs that meet there count one packet
 * for several, so that no more than CPUs - 1 packets are let in beyond the burst.
 */
#ifndef EDGEWIRE_BUCKETS_H
#define EDGEWIRE_BUCKETS_H

static __always_inline int bucket_is_empty(__u64 full_at, __u64 now, __u64 tolerance)
{
	return full_at > now + tolerance;
}

static __always_inline void bucket_take(__u64 *full_at, __u64 now, __u64 interval)
{
	if (*full_at < now)
		*full_at = now + interval;
	else
		__sync_fetch_and_add(full_at, interval);
}

#endif
