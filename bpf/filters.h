/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * Who may send to a service, and how much: lists of source networks, and packet rates.
 */
#ifndef EDGEWIRE_FILTERS_H
#define EDGEWIRE_FILTERS_H

#include "buckets.h"
#include "drops.h"
#include "edge_maps.h"

#define ADMITTED DROP_REASONS

/*
 * The rates of a filter. The service's bucket is looked at first and charged last: a flood from ever new sources adds no
 * more sources a second than the service takes packets, and what one source sends too much takes nothing from the others.
 */
static __always_inline __u32 limit(const struct filter *filter, __u32 index, struct source_rate_key *source)
{
	__u64 now = bpf_ktime_get_ns(), *bucket = 0, *source_bucket, fresh;

	if (filter->interval) {
		bucket = ew_buckets.lookup(&index);
		if (!bucket || bucket_is_empty(*bucket, now, filter->tolerance))
			return DROP_SERVICE_RATE;
	}
	if (filter->source_interval) {
		source_bucket = ew_source_buckets.lookup(source);
		if (!source_bucket) {
			fresh = now + filter->source_interval;
			ew_source_buckets.update(source, &fresh);
		} else if (bucket_is_empty(*source_bucket, now, filter->source_tolerance)) {
			return DROP_SOURCE_RATE;
		} else {
			bucket_take(source_bucket, now, filter->source_interval);
		}
	}
	if (bucket)
		bucket_take(bucket, now, filter->interval);
	return ADMITTED;
}

/* What the filter's default says of a source that no list has: an empty filter admits nobody. */
static __always_inline int admits(const struct filter *filter, const __u32 *verdict)
{
	return verdict ? *verdict == SOURCE_ALLOWED : filter->flags & FILTER_ADMITS;
}

/* ADMITTED, or why the filter refuses a packet from `client`. */
static __always_inline __u32 filter_client(__u32 index, __be32 client)
{
	struct filter *filter = ew_filters.lookup(&index);
	__u32 *verdict = 0;

	if (!filter)
		return DROP_SOURCE_DENIED;
	if (filter->sources) {
		struct source_key key = {.prefix_bits = 32 + 32, .list = filter->sources, .network = client};

		verdict = ew_sources.lookup(&key);
	}
	if (!admits(filter, verdict))
		return DROP_SOURCE_DENIED;
	if (filter->interval || filter->source_interval) {
		struct source_rate_key source = {.filter = index, .version = 4, .network = {client}};

		return limit(filter, index, &source);
	}
	return ADMITTED;
}

/* The same over IPv6, where whoever has one address has its /64: that is one source to the rates. */
static __always_inline __u32 filter_client6(__u32 index, const struct address *client)
{
	struct filter *filter = ew_filters.lookup(&index);
	__u32 *verdict = 0;

	if (!filter)
		return DROP_SOURCE_DENIED;
	if (filter->sources) {
		struct source6_key key = {.prefix_bits = 32 + 128, .list = filter->sources, .network = *client};

		verdict = ew_sources6.lookup(&key);
	}
	if (!admits(filter, verdict))
		return DROP_SOURCE_DENIED;
	if (filter->interval || filter->source_interval) {
		struct source_rate_key source = {
			.filter = index,
			.version = 6,
			.network = {client->word[0], client->word[1]},
		};

		return limit(filter, index, &source);
	}
	return ADMITTED;
}

static __always_inline int xdp_drop_filtered(__u32 index, __u32 reason)
{
	struct filtered *filtered = ew_filtered.lookup(&index);

	if (filtered) {
		if (reason == DROP_SOURCE_DENIED)
			filtered->source_denied += 1;
		else if (reason == DROP_SOURCE_RATE)
			filtered->source_rate += 1;
		else
			filtered->service_rate += 1;
	}
	return xdp_drop(reason);
}

#endif
