/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * While a service drains: new flows go where the new table says, and those that the old backend knows stay with it. The
 * edge has no flow table to tell them apart, the worker has. So a packet whose places in the two tables differ goes to
 * the old backend with a question; a worker that does not know the flow returns it, and from then on it is the new
 * backend's. Only the first packets of a new flow take the longer way.
 */
#ifndef EDGEWIRE_DRAIN_H
#define EDGEWIRE_DRAIN_H

#include "events.h"
#include "services.h"

/* Choose the old backend, with the question, where a flow may be its; `choice` has the new one already. */
static __always_inline void ask_old_backend(const struct service *service, __u32 place, const struct moved_key *flow,
					    struct choice *choice)
{
	struct choice old = {.stage = RELAY_ASK};
	__u64 *moved;

	if (read_choice(service, table_words(service), place, &old) || old.backend == choice->backend)
		return;
	if (old.worker->state != WORKER_LIVE || bpf_ktime_get_coarse_ns() >= old.backend->asked_until)
		return;
	moved = ew_moved.lookup(flow);
	if (moved && *moved == old.backend->asked_until)
		return;
	*choice = old;
	count_event(EVENT_ASKED);
}

/*
 * A flow that `old` returned: remember that it moved, and find where to. 0, or the reason where there is nowhere, as a
 * negative number.
 */
static __always_inline int move_flow(const struct service *service, __u32 place, const struct moved_key *flow,
				     const struct backend *old, struct choice *choice)
{
	__u64 until = old->asked_until;
	int error = pick_backend(service, place, choice);

	if (error)
		return error;
	ew_moved.update((struct moved_key *)flow, &until);
	count_event(EVENT_MOVED);
	return 0;
}

#endif
