/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which service a packet is for, and which backend its flow goes to. */
#ifndef EDGEWIRE_SERVICES_H
#define EDGEWIRE_SERVICES_H

#include "direct.h"
#include "drops.h"
#include "edge_maps.h"
#include "relay.h"
#include "tables.h"

/* By value, so that the key is written as one word: reading it back as one does not wait for its parts. */
static __always_inline struct service_key service_key_of(__be32 vip, __be16 port)
{
	struct service_key key = {.vip = vip, .port = port};

	return key;
}

static __always_inline struct service *find_service(__be32 vip, __be16 port)
{
	int ask = 0;
	struct service *service = find_direct(vip, port, &ask);

	if (ask) {
		struct service_key key = service_key_of(vip, port);

		service = ew_services.lookup(&key);
	}
	if (!service && may_be_in_range(vip, port)) {
		struct range_key range = {.prefix_bits = 32 + 16, .vip = vip, .port = port};

		service = ew_ranges.lookup(&range);
	}
	return service;
}

static __always_inline struct service *find_service6(const struct address *vip, __be16 port)
{
	int ask = 0;
	struct service *service = find_direct6(vip, port, &ask);

	if (ask) {
		struct service6_key key = {.vip = *vip};

		/* Port and zero as one word, for the same reason. */
		*(__be32 *)&key.port = bpf_htonl((__u32)bpf_ntohs(port) << 16);
		service = ew_services6.lookup(&key);
	}
	if (!service && may_be_in_range6(vip, port)) {
		struct range6_key range = {.prefix_bits = 128 + 16, .vip = *vip, .port = port};

		service = ew_ranges6.lookup(&range);
	}
	return service;
}

/* One word for a client of either family; an IPv4 client's is its address. */
static __always_inline __u32 client_word(const struct address *client)
{
	return client->word[0] * 0x9e3779b1 ^ client->word[1] * 0x85ebca77 ^ client->word[2] * 0xc2b2ae3d ^
	       client->word[3] * 0x27d4eb2f;
}

/* The same on every edge, so that a flow which anycast moves keeps its backend (murmur3's finalizer). */
static __always_inline __u32 flow_hash(__u32 client, __u32 ports)
{
	__u32 hash = client * 0xcc9e2d51 ^ ports * 0x1b873593;

	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* A backend, the worker that it is on, and what a packet goes there for. */
struct choice {
	struct backend *backend;
	struct worker *worker;
	enum relay_stage stage;
};

/* How far a flow looks for a live worker along its service's table. */
#define MAX_PROBES 32

/*
 * What a place of a service's table leads to; `before` are the words in front of that table. 0, or the reason where that
 * is nowhere, as a negative number.
 */
static __always_inline int read_choice(const struct service *service, __u32 before, __u32 place, struct choice *choice)
{
	__u32 *slot = slot_at(service, before, place);

	choice->backend = slot ? ew_backends.lookup(slot) : 0;
	if (!choice->backend || !choice->backend->endpoint_id)
		return -DROP_NO_BACKEND;
	choice->worker = ew_workers.lookup(&choice->backend->worker);
	if (!choice->worker || choice->worker->state == WORKER_NONE)
		return -DROP_UNKNOWN_WORKER;
	return 0;
}

/*
 * The flow's own worker is dead: take the next place of the table whose worker lives. Neighbours in a Maglev table
 * are as good as random, so the flows of a dead worker spread over the others by their weights, on every edge alike.
 */
static __always_inline int probe_on(const struct service *service, __u32 place, struct choice *choice)
{
	for (int i = 0; i < MAX_PROBES; i++) {
		place = place + 1 < service->table_size ? place + 1 : 0;
		if (!read_choice(service, 0, place, choice) && choice->worker->state == WORKER_LIVE)
			return 0;
	}
	return -DROP_NO_BACKEND;
}

/* A flow's place in its service's table. */
static __always_inline __u32 place_of(const struct service *service, __u32 client, const struct udphdr *udp)
{
	__u32 ports = service->flags & SERVICE_AFFINITY_CLIENT ? 0 : (__u32)udp->source << 16 | udp->dest;

	return (__u64)flow_hash(client, ports) * service->table_size >> 32;
}

/* The backend at a place, and its worker. 0, or the reason where there is none, as a negative number. */
static __always_inline int pick_backend(const struct service *service, __u32 place, struct choice *choice)
{
	int error;

	choice->stage = RELAY_PLAIN;
	if (!service->table_size)
		return -DROP_NO_BACKEND;
	error = read_choice(service, 0, place, choice);
	if (!error && choice->worker->state != WORKER_LIVE)
		error = probe_on(service, place, choice);
	return error;
}

#endif
