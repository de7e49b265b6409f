/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Incremental Internet checksum (RFC 1624): sums are kept unfolded in 64 bits and folded once at the end. */
#ifndef EDGEWIRE_CHECKSUM_H
#define EDGEWIRE_CHECKSUM_H

static __always_inline __u64 checksum_open(__u16 check)
{
	return (__u16)~check;
}

static __always_inline __u64 checksum_replace16(__u64 sum, __u16 from, __u16 to)
{
	return sum + (__u16)~from + to;
}

static __always_inline __u64 checksum_add32(__u64 sum, __u32 value)
{
	return sum + value;
}

static __always_inline __u64 checksum_replace32(__u64 sum, __u32 from, __u32 to)
{
	return sum + (__u32)~from + to;
}

/* Both in network order, 16 bytes each. */
static __always_inline __u64 checksum_replace128(__u64 sum, const __u32 *from, const __u32 *to)
{
	for (int i = 0; i < 4; i++)
		sum = checksum_replace32(sum, from[i], to[i]);
	return sum;
}

static __always_inline __u16 checksum_close(__u64 sum)
{
	/* Two halves side by side added crosswise: the upper one gets their sum, and the carry. */
	sum += sum << 32 | sum >> 32;
	sum >>= 32;
	sum += sum << 16 | sum >> 16;
	return ~(__u16)(sum >> 16);
}

#endif
