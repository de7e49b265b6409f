/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * One form for the addresses of both families in the maps: 16 bytes in network order, an IPv4 address as its
 * IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), so that an entry says by itself which family it is of.
 */
#ifndef EDGEWIRE_ADDRESS_H
#define EDGEWIRE_ADDRESS_H

#include "kernel.h"

struct address {
	__be32 word[4];
};

#define ADDRESS_V4_MARK bpf_htonl(0xffff)

static __always_inline struct address address_of_v4(__be32 v4)
{
	struct address address = {.word = {0, 0, ADDRESS_V4_MARK, v4}};

	return address;
}

static __always_inline struct address address_of_v6(const struct in6_addr *v6)
{
	return *(const struct address *)v6;
}

static __always_inline int address_is_v4(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == ADDRESS_V4_MARK;
}

static __always_inline int address_is_set(const struct address *address)
{
	return address->word[0] || address->word[1] || address->word[2] || address->word[3];
}

static __always_inline int address_equal(const struct address *one, const struct address *other)
{
	return one->word[0] == other->word[0] && one->word[1] == other->word[1] && one->word[2] == other->word[2] &&
	       one->word[3] == other->word[3];
}

#endif
