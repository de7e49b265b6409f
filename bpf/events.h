/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * What happens to packets off the plain way without being a drop, counted. The names that people see are in
 * plugins/module_utils/bpf/layout.py, and the compile fails where the two lists differ.
 */
#ifndef EDGEWIRE_EVENTS_H
#define EDGEWIRE_EVENTS_H

enum event {
	EVENT_ASKED,
	EVENT_RETURNED,
	EVENT_MOVED,
	EVENT_FORWARDED,
	EVENT_PASSED_BACK,
	EVENT_ECHO_ANSWERED,
	EVENT_TOO_BIG_SENT,
	EVENT_TIME_EXCEEDED_SENT,
	EVENT_ERROR_RELAYED,
	EVENT_ICMP_SUPPRESSED,
	EVENTS,
};

BPF_TABLE("percpu_array", __u32, __u64, ew_events, EVENTS);

static __always_inline void count_event(__u32 event)
{
	__u64 *count = ew_events.lookup(&event);

	if (count)
		*count += 1;
}

#endif
