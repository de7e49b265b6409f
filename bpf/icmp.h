/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * ICMP (RFC 792) and ICMPv6 (RFC 4443), as both roles need it: answering a packet with an error, and translating the
 * packet that an error quotes. Rare work, done in TC. Only what has no IP options and no extension headers of its own is
 * looked at: nobody sends ICMP with any.
 */
#ifndef EDGEWIRE_ICMP_H
#define EDGEWIRE_ICMP_H

#include "address.h"
#include "buckets.h"
#include "checksum.h"
#include "drops.h"
#include "events.h"
#include "kernel.h"
#include "relay.h"

enum {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_ECHO = 8,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12,
	ICMP4_CODE_FRAGMENTATION_NEEDED = 4,
	ICMP6_UNREACHABLE = 1,
	ICMP6_TOO_BIG = 2,
	ICMP6_TIME_EXCEEDED = 3,
	ICMP6_PARAMETER_PROBLEM = 4,
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 rest; /* by type: unused, pointer, MTU, or id and sequence number */
};

/* An error about a UDP packet; behind it may lie more of the packet, and extensions (RFC 4884). */
struct icmp_error {
	struct icmp_header icmp;
	struct iphdr ip;
	struct udphdr udp;
};

struct icmp6_error {
	struct icmp_header icmp;
	struct ipv6hdr ip;
	struct udphdr udp;
};

/*
 * What we generate is limited per CPU (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f), errors and echo replies each
 * for themselves, so that a flood of pings does not stop path MTU discovery.
 */
enum icmp_kind {
	ICMP_ERRORS,
	ICMP_ECHOES,
	ICMP_KINDS,
};
#define ICMP_INTERVAL 1000000ULL /* nanoseconds: 1,000 a second */
#define ICMP_TOLERANCE (64 * ICMP_INTERVAL)
BPF_TABLE("percpu_array", __u32, __u64, ew_icmp_buckets, ICMP_KINDS);

/* Whether one more message of a kind may be sent now; counted where not. */
static __always_inline int icmp_may_send(__u32 kind)
{
	__u64 *bucket = ew_icmp_buckets.lookup(&kind), now = bpf_ktime_get_ns();

	if (bucket && !bucket_is_empty(*bucket, now, ICMP_TOLERANCE)) {
		bucket_take(bucket, now, ICMP_INTERVAL);
		return 1;
	}
	count_event(EVENT_ICMP_SUPPRESSED);
	return 0;
}

static __always_inline int is_icmp_error(__u8 type)
{
	return type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM;
}

static __always_inline int is_icmp6_error(__u8 type)
{
	return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER_PROBLEM;
}

/* Whether an error quotes a UDP packet's headers, ports included. */
static __always_inline int quotes_udp(const struct icmp_error *error)
{
	return is_icmp_error(error->icmp.type) && error->ip.version == 4 && error->ip.ihl == 5 &&
	       error->ip.protocol == IPPROTO_UDP && !(error->ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET_MASK));
}

static __always_inline int quotes_udp6(const struct icmp6_error *error)
{
	return is_icmp6_error(error->icmp.type) && error->ip.version == 6 && error->ip.nexthdr == IPPROTO_UDP;
}

/* Whether the header of a relayed error has nothing but our option, and is not a fragment's. */
static __always_inline int is_whole_icmp(const struct relay_header *relay)
{
	return relay->ip.ihl * 4 == sizeof(*relay) &&
	       !(relay->ip.frag_off & bpf_htons(IP_FLAG_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET_MASK));
}

/* Never answer what one host alone cannot have sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). */
static __always_inline int icmp_may_answer(const struct __sk_buff *skb, __be32 source)
{
	__u8 net = bpf_ntohl(source) >> 24;

	return skb->pkt_type != PACKET_BROADCAST && skb->pkt_type != PACKET_MULTICAST && net && net != 127 && net < 224;
}

static __always_inline int icmp6_may_answer(const struct __sk_buff *skb, const struct address *source)
{
	int low = !source->word[0] && !source->word[1] && !source->word[2]; /* unspecified, loopback */

	return skb->pkt_type != PACKET_BROADCAST && skb->pkt_type != PACKET_MULTICAST && !low &&
	       (bpf_ntohl(source->word[0]) >> 24) != 0xff;
}

/* How much of a packet an error quotes: what leaves it at 576 bytes in IPv4, at the minimum MTU in IPv6. */
#define ICMP_QUOTE_MAX (576 - sizeof(struct iphdr) - sizeof(struct icmp_header))
#define ICMP6_QUOTE_MAX (1280 - sizeof(struct ipv6hdr) - sizeof(struct icmp_header))
#define QUOTE_CHUNK 32

/* The unfolded sum of `length` bytes, a multiple of 4 up to ICMP6_QUOTE_MAX and not 0; negative on failure. */
static __always_inline __s64 sum_bytes(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	__u32 odd = ((length - 1) & (QUOTE_CHUNK - 1)) + 1; /* so that all other chunks are whole */
	__be32 chunk[QUOTE_CHUNK / 4] = {};
	__s64 sum;

	if (bpf_skb_load_bytes(skb, offset, chunk, odd))
		return -1;
	sum = csum_diff(0, 0, chunk, sizeof(chunk), 0);
#pragma nounroll
	for (__u64 i = 0; i < ICMP6_QUOTE_MAX / QUOTE_CHUNK; i++) {
		/* Left to itself, the compiler counts with `odd` alone, and then Linux 6.1's verifier sees no end. */
		asm volatile("" : "+r"(i));
		if (odd >= length)
			break;
		if (sum < 0 || bpf_skb_load_bytes(skb, offset + odd, chunk, sizeof(chunk)))
			return -1;
		sum = csum_diff(0, 0, chunk, sizeof(chunk), sum);
		odd += QUOTE_CHUNK;
	}
	return sum;
}

/* Ethernet, IP and ICMP headers, as they lie together in the packet from `eth` on. */
struct icmp_answer {
	__u16 align; /* so that what follows the Ethernet header can be read in words */
	struct ethhdr eth;
	struct iphdr ip;
	struct icmp_header icmp;
};

struct icmp6_answer {
	__u16 align;
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct icmp_header icmp;
};

#define ICMP_TTL 64
#define ICMP_TOS 0xc0 /* internetwork control (RFC 1812 section 4.3.2.5) */

static __always_inline void turn_ethernet(struct ethhdr *eth)
{
	__u8 kept[ETH_ALEN];

	__builtin_memcpy(kept, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, kept, ETH_ALEN);
}

static __always_inline __u16 ip_header_sum(const struct iphdr *ip)
{
	return checksum_close(csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
}

/* The sum over ICMPv6's pseudo-header (RFC 8200 section 8.1), unfolded. */
static __always_inline __u64 icmp6_pseudo_sum(const struct ipv6hdr *ip)
{
	__u64 sum = csum_diff(0, 0, (__be32 *)&ip->saddr, sizeof(ip->saddr) + sizeof(ip->daddr), 0);

	return sum + ip->payload_len + bpf_htons(IPPROTO_ICMPV6);
}

/* Cut the packet to what is quoted, and make room in front of that for `size` bytes. 0, or negative on failure. */
static __always_inline long quote_behind(struct __sk_buff *skb, __u32 quoted, __u32 size)
{
	long error = bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0);

	return error ? error : bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/*
 * Answer a packet with an error, out of the interface `ifindex`, to whoever the packet came from on that link. Its
 * source is the packet's destination: to the world the edge is the VIP, and to a container no address is more at home.
 * The checksum covers what a container may have left to its device to finish; to the container, which is on a veth pair
 * with this box, such a packet counts as whole. The packet itself is dropped for `reason`, answered or not.
 */
static __always_inline int answer_error(struct __sk_buff *skb, __u8 type, __u8 code, __u32 rest, __u32 reason,
					__u32 ifindex)
{
	struct icmp_answer answer;
	__u32 quoted;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, 0, &answer.eth, sizeof(answer.eth) + sizeof(answer.ip)) ||
	    !icmp_may_answer(skb, answer.ip.saddr) || !icmp_may_send(ICMP_ERRORS))
		return tc_drop(reason);
	quoted = bpf_ntohs(answer.ip.tot_len);
	if (quoted > ICMP_QUOTE_MAX)
		quoted = ICMP_QUOTE_MAX;
	quoted &= ~3;
	sum = sum_bytes(skb, ETH_HLEN, quoted);
	if (sum < 0)
		return tc_drop(reason);
	answer.icmp = (struct icmp_header){.type = type, .code = code, .rest = bpf_htonl(rest)};
	answer.icmp.check = checksum_close(csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer.icmp), sum));
	answer.ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tos = ICMP_TOS,
		.tot_len = bpf_htons(sizeof(answer.ip) + sizeof(answer.icmp) + quoted),
		.frag_off = bpf_htons(IP_FLAG_DONT_FRAGMENT),
		.ttl = ICMP_TTL,
		.protocol = IPPROTO_ICMP,
		.saddr = answer.ip.daddr,
		.daddr = answer.ip.saddr,
	};
	answer.ip.check = ip_header_sum(&answer.ip);
	turn_ethernet(&answer.eth);
	tc_account(skb, reason);
	if (quote_behind(skb, quoted, sizeof(answer.ip) + sizeof(answer.icmp)) ||
	    bpf_skb_store_bytes(skb, 0, &answer.eth, sizeof(answer) - sizeof(answer.align), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(reason == DROP_TOO_BIG ? EVENT_TOO_BIG_SENT : EVENT_TIME_EXCEEDED_SENT);
	return bpf_redirect(ifindex, 0);
}

static __always_inline int answer_error6(struct __sk_buff *skb, __u8 type, __u8 code, __u32 rest, __u32 reason,
					 __u32 ifindex)
{
	struct icmp6_answer answer;
	struct address source;
	__u32 quoted;
	__s64 sum;

	if (bpf_skb_load_bytes(skb, 0, &answer.eth, sizeof(answer.eth) + sizeof(answer.ip)))
		return tc_drop(reason);
	source = address_of_v6(&answer.ip.saddr);
	if (!icmp6_may_answer(skb, &source) || !icmp_may_send(ICMP_ERRORS))
		return tc_drop(reason);
	quoted = sizeof(answer.ip) + bpf_ntohs(answer.ip.payload_len);
	if (quoted > ICMP6_QUOTE_MAX)
		quoted = ICMP6_QUOTE_MAX;
	quoted &= ~3;
	sum = sum_bytes(skb, ETH_HLEN, quoted);
	if (sum < 0)
		return tc_drop(reason);
	*(__be32 *)&answer.ip = bpf_htonl(6 << 28);
	answer.ip.payload_len = bpf_htons(sizeof(answer.icmp) + quoted);
	answer.ip.nexthdr = IPPROTO_ICMPV6;
	answer.ip.hop_limit = ICMP_TTL;
	answer.ip.saddr = answer.ip.daddr;
	*(struct address *)&answer.ip.daddr = source;
	answer.icmp = (struct icmp_header){.type = type, .code = code, .rest = bpf_htonl(rest)};
	sum = csum_diff(0, 0, (__be32 *)&answer.icmp, sizeof(answer.icmp), sum);
	answer.icmp.check = checksum_close(sum + icmp6_pseudo_sum(&answer.ip));
	turn_ethernet(&answer.eth);
	tc_account(skb, reason);
	if (quote_behind(skb, quoted, sizeof(answer.ip) + sizeof(answer.icmp)) ||
	    bpf_skb_store_bytes(skb, 0, &answer.eth, sizeof(answer) - sizeof(answer.align), 0))
		return tc_drop(DROP_REWRITE_FAILED);
	count_event(reason == DROP_TOO_BIG ? EVENT_TOO_BIG_SENT : EVENT_TIME_EXCEEDED_SENT);
	return bpf_redirect(ifindex, 0);
}

/* A packet is dropped because it does not fit; its sender learns how much would, by its family. */
static __always_inline int answer_too_big(struct __sk_buff *skb, __u32 mtu, __u32 mtu6, __u32 ifindex)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return answer_error(skb, ICMP4_UNREACHABLE, ICMP4_CODE_FRAGMENTATION_NEEDED, mtu, DROP_TOO_BIG,
				    ifindex);
	return answer_error6(skb, ICMP6_TOO_BIG, 0, mtu6, DROP_TOO_BIG, ifindex);
}

static __always_inline int answer_time_exceeded(struct __sk_buff *skb, __u32 ifindex)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return answer_error(skb, ICMP4_TIME_EXCEEDED, 0, 0, DROP_TTL_EXPIRED, ifindex);
	return answer_error6(skb, ICMP6_TIME_EXCEEDED, 0, 0, DROP_TTL_EXPIRED, ifindex);
}

/* What UDP's checksum becomes; none stays none, and a sum never becomes none (RFC 768). */
static __always_inline __u16 udp_check_close(__u16 before, __u64 sum)
{
	__u16 check = checksum_close(sum);

	return before ? check ? check : 0xffff : 0;
}

/*
 * Translate an address and a port of the packet that an error quotes, with its checksums and the error's own. `address`
 * and `port` are in `error`. The quoted IP header's sum does not change, so ICMP's only follows what UDP's part does.
 */
static __always_inline void translate_quoted(struct icmp_error *error, __be32 *address, __be32 to, __be16 *port,
					     __be16 to_port)
{
	__u64 ip = checksum_open(error->ip.check), udp = checksum_open(error->udp.check);
	__u64 icmp = checksum_open(error->icmp.check);
	__u16 udp_check;

	error->ip.check = checksum_close(checksum_replace32(ip, *address, to));
	udp = checksum_replace16(checksum_replace32(udp, *address, to), *port, to_port);
	udp_check = udp_check_close(error->udp.check, udp);
	icmp = checksum_replace16(icmp, error->udp.check, udp_check);
	error->icmp.check = checksum_close(checksum_replace16(icmp, *port, to_port));
	error->udp.check = udp_check;
	*address = to;
	*port = to_port;
}

/*
 * The same for ICMPv6. There the error's own address changes from `address` to `to` as well, and is in its checksum by
 * way of the pseudo-header.
 */
static __always_inline void translate_quoted6(struct icmp6_error *error, struct address *address,
					      const struct address *to, __be16 *port, __be16 to_port)
{
	__u64 udp = checksum_open(error->udp.check), icmp = checksum_open(error->icmp.check);
	__u16 udp_check;

	udp = checksum_replace16(checksum_replace128(udp, address->word, to->word), *port, to_port);
	udp_check = udp_check_close(error->udp.check, udp);
	icmp = checksum_replace16(icmp, error->udp.check, udp_check);
	icmp = checksum_replace16(icmp, *port, to_port);
	icmp = checksum_replace128(icmp, address->word, to->word);
	error->icmp.check = checksum_close(checksum_replace128(icmp, address->word, to->word));
	error->udp.check = udp_check;
	*address = *to;
	*port = to_port;
}

#endif
