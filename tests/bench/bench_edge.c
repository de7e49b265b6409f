/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Appended to the edge's flattened source by bench_edge.py, with edge_xdp made a function to be inlined. */
/*
 * Ethernet's header and IP's, in words as long as fit into the 34 bytes, or 54: copying them byte by byte would be most of
 * what undoing costs.
 */
struct bench_head {
	u64 word[4];
	u16 last;
};
struct bench_head6 {
	u64 word[6];
	u32 word4;
	u16 last;
};
#define BENCH_CLIENT (ETH_HLEN + offsetof(struct iphdr, saddr))
#define BENCH_CLIENT6 (ETH_HLEN + offsetof(struct ipv6hdr, saddr.s6_addr32[3]))
BPF_TABLE("array", u32, struct bench_head, bench_heads, 1);
BPF_TABLE("array", u32, struct bench_head6, bench_heads6, 1);
BPF_TABLE("array", u32, u32, bench_turns, 1);

/* Write the headers that edge_xdp's output lies over, with the next flow's client; flows is a power of two. */
static __always_inline int bench_restore(struct xdp_md *ctx, u32 flows)
{
	void *data_end = (void *)(long)ctx->data_end;
	struct bench_head *out = (void *)(long)ctx->data;
	u32 zero = 0, *turn = bench_turns.lookup(&zero);
	struct bench_head *head = bench_heads.lookup(&zero);

	if (!turn || !head || (void *)(out + 1) > data_end)
		return XDP_ABORTED;
	for (int i = 0; i < 4; i++)
		out->word[i] = head->word[i];
	out->last = head->last;
	*turn += 1;
	*(__be32 *)((void *)out + BENCH_CLIENT) = bpf_htonl(0xc6100000 | (*turn * 40503 & (flows - 1)));  /* 198.16.0.0/12 */
	return XDP_PASS;
}

static __always_inline int bench_restore6(struct xdp_md *ctx, u32 flows)
{
	void *data_end = (void *)(long)ctx->data_end;
	struct bench_head6 *out = (void *)(long)ctx->data;
	u32 zero = 0, *turn = bench_turns.lookup(&zero);
	struct bench_head6 *head = bench_heads6.lookup(&zero);

	if (!turn || !head || (void *)(out + 1) > data_end)
		return XDP_ABORTED;
	for (int i = 0; i < 6; i++)
		out->word[i] = head->word[i];
	out->word4 = head->word4;
	out->last = head->last;
	*turn += 1;
	*(__be32 *)((void *)out + BENCH_CLIENT6) = bpf_htonl(*turn * 40503 & (flows - 1));
	return XDP_PASS;
}

static __always_inline int bench_undo(struct xdp_md *ctx, u32 flows)
{
	if (bpf_xdp_adjust_meta(ctx, 4) || bpf_xdp_adjust_head(ctx, sizeof(struct relay_option)))
		return XDP_ABORTED;
	return bench_restore(ctx, flows);
}

int bench_empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

int bench_adjust(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct relay_option)) ||
	    bpf_xdp_adjust_head(ctx, sizeof(struct relay_option)))
		return XDP_ABORTED;
	return XDP_PASS;
}

int bench_frame(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct relay_option)) || bpf_xdp_adjust_meta(ctx, -4))
		return XDP_ABORTED;
	return bench_undo(ctx, 65536);
}

int bench_hit_1(struct xdp_md *ctx)
{
	if (edge_xdp(ctx) != XDP_PASS)
		return XDP_ABORTED;
	return bench_undo(ctx, 1);
}

int bench_hit_64k(struct xdp_md *ctx)
{
	if (edge_xdp(ctx) != XDP_PASS)
		return XDP_ABORTED;
	return bench_undo(ctx, 65536);
}

int bench_hit_1m(struct xdp_md *ctx)
{
	if (edge_xdp(ctx) != XDP_PASS)
		return XDP_ABORTED;
	return bench_undo(ctx, 1048576);
}

static __always_inline int bench_undo6(struct xdp_md *ctx, u32 flows)
{
	if (bpf_xdp_adjust_meta(ctx, 4) || bpf_xdp_adjust_head(ctx, sizeof(struct relay6_option)))
		return XDP_ABORTED;
	return bench_restore6(ctx, flows);
}

int bench_hit6_1(struct xdp_md *ctx)
{
	if (edge_xdp(ctx) != XDP_PASS)
		return XDP_ABORTED;
	return bench_undo6(ctx, 1);
}

int bench_hit6_64k(struct xdp_md *ctx)
{
	if (edge_xdp(ctx) != XDP_PASS)
		return XDP_ABORTED;
	return bench_undo6(ctx, 65536);
}

int bench_hit6_1m(struct xdp_md *ctx)
{
	if (edge_xdp(ctx) != XDP_PASS)
		return XDP_ABORTED;
	return bench_undo6(ctx, 1048576);
}

int bench_miss(struct xdp_md *ctx)
{
	return edge_xdp(ctx);
}
