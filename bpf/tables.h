/* SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors */
/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * A service's tables in `ew_lut`, a block of words for each service; plugins/module_utils/bpf/tables.py writes them.
 *
 *   [places of the table] [places of the table that it had, while it drains] [palette: slots of backends]
 *
 * A place is a number of 1 << width bits, which counts in the palette, and lies in a word from its lowest bit on. So a
 * service of two backends needs a bit for a place, and one of a hundred a byte. Where a backend is alone there is one
 * place, the slot itself.
 */
#ifndef EDGEWIRE_TABLES_H
#define EDGEWIRE_TABLES_H

#include "edge_maps.h"

/* Places are slots themselves, and there is no palette. */
#define WIDTH_SLOT 5

/* The words of one table. */
static __always_inline __u32 table_words(const struct service *service)
{
	__u32 width = service->width & 7;

	return (service->table_size + (31 >> width)) >> ((WIDTH_SLOT - width) & 31);
}

/* The slot of the backend at a place. `before`: words in front of the table. 0 where the block ends outside the map. */
static __always_inline __u32 *slot_at(const struct service *service, __u32 before, __u32 place)
{
	__u32 width = service->width & 7, draining = service->flags / SERVICE_DRAINING & 1;
	__u32 index = service->table_offset + before + (place >> ((WIDTH_SLOT - width) & 31));
	__u32 *word = ew_lut.lookup(&index);

	if (!word || width == WIDTH_SLOT)
		return word;
	index = service->table_offset + (table_words(service) << draining) +
		(*word >> (place << width & 31) & ((1U << (1 << width & 31)) - 1));
	return ew_lut.lookup(&index);
}

#endif
