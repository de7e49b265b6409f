# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables in front of the services' maps: what their places say, and the writes that make them say it. Pure.

They say nothing that the services' maps do not say. ``bpf/direct.h`` looks services up in them by the same hashes;
whoever changes those gives the tables other names, so that no build takes over places that it would not find.
"""

from __future__ import annotations

import array
import operator
import struct
from collections.abc import Iterable, Iterator, Mapping

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import Maps, Run, Write

_FACTOR, _FACTOR2 = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
_WORD = (1 << 64) - 1
_ONE = struct.pack("=H", layout.DIRECT_ONE)
# Which table stands in front of which hash map.
FRONT_OF = {"ew_services": "ew_direct", "ew_services6": "ew_direct6"}
# The bits in front of the tries.
_NO_RANGE = "ew_no_range"
MAPS = (*FRONT_OF.values(), _NO_RANGE)
_RECORDS = {"ew_direct": layout.DIRECT, "ew_direct6": layout.DIRECT6}
_NOBODY = {name: record.pack({"state": layout.DIRECT_NOBODY}) for name, record in _RECORDS.items()}
_BLOCK = 256


def place_of(key: bytes, places: int) -> int:
    """The place of a key of ``ew_services`` or ``ew_services6`` among ``places``, a power of two."""
    product: int
    if len(key) == layout.SERVICE_KEY.size:
        product = struct.unpack("=Q", key[:-2] + _ONE)[0] * _FACTOR
    else:
        upper, lower, tail = struct.unpack("=QQI", key[:-2] + _ONE)
        product = (upper * _FACTOR + lower) * _FACTOR + tail * _FACTOR2
    return (product & _WORD) >> (64 - (places.bit_length() - 1))


def _wanted(name: str, places: int, entries: Mapping[bytes, bytes]) -> dict[int, bytes]:
    """The places that are not nobody's: a service's where it is alone, and for several what asks the hash map."""
    found: dict[int, bytes] = {}
    for key, entry in entries.items():
        place = place_of(key, places)
        found[place] = bytes(_RECORDS[name].size) if place in found else key[:-2] + _ONE + entry
    return found


def read(maps: Maps) -> dict[str, bytes]:
    """What the tables say, packed."""
    return {name: maps[name].read()[1] for name in MAPS}


def empty(places: int) -> dict[str, bytes]:
    """Tables as the kernel makes them."""
    return {**{name: bytes(record.size * places) for name, record in _RECORDS.items()}, _NO_RANGE: bytes(places // 8)}


def plan(
    entries: Mapping[str, Mapping[bytes, bytes]], ranges: Iterable[tuple[str, int, int]], state: Mapping[str, bytes]
) -> tuple[list[Write], list[Write | Run]]:
    """The writes before the services' entries are switched, and those after.

    ``entries`` are the wanted ones of each hash map, packed; ``ranges`` are VIP, first and last port. Before, every
    place that changes is set to ask the map behind it; after, it gets its service's entry while it still does, and only
    then the key that packets are compared with.
    """
    before, after = _plan_ranges(ranges, state[_NO_RANGE])
    for services, name in FRONT_OF.items():
        size = _RECORDS[name].size
        places = len(state[name]) // size
        wanted = _wanted(name, places, entries.get(services, {}))
        content = bytearray(_NOBODY[name] * places)
        for place, value in wanted.items():
            content[place * size : (place + 1) * size] = value
        old, new = state[name], bytes(content)
        head = size - layout.SERVICE.size
        changed = list(_changed(old, new, size))
        for place in changed:
            was, will = (side[place * size : (place + 1) * size] for side in (old, new))
            if any(was[:head]):
                before.append((name, layout.U32.of(place), bytes(head) + was[head:]))
            if place in wanted and was[head:] != will[head:]:
                after.append((name, layout.U32.of(place), bytes(head) + will[head:]))
        after += [Run(name, start, new[start * size : end * size]) for start, end in _runs(changed)]
    return before, after


def _plan_ranges(ranges: Iterable[tuple[str, int, int]], state: bytes) -> tuple[list[Write], list[Write | Run]]:
    """The same for the bits in front of the tries: cleared before, set after."""
    old = array.array("Q", state)
    new = array.array("Q", [_WORD] * len(old))
    for place in {place for claim in ranges for place in places_of(*claim, 64 * len(old))}:
        new[place // 64] &= ~(1 << place % 64)
    both = array.array("Q", map(operator.and_, old, new))
    before: list[Write] = [
        (_NO_RANGE, layout.U32.of(word), layout.U64.of(bits)) for word, bits in enumerate(both) if bits != old[word]
    ]
    changed = (word for word, bits in enumerate(both) if bits != new[word])
    return before, [Run(_NO_RANGE, start, new[start:end].tobytes()) for start, end in _runs(changed)]


def places_of(vip: str, first: int, last: int, places: int) -> Iterator[int]:
    """The places of a range's blocks of ports in ``ew_no_range``."""
    record = layout.SERVICE6_KEY if ":" in vip else layout.SERVICE_KEY
    for port in range(first - first % layout.RANGE_BLOCK, last + 1, layout.RANGE_BLOCK):
        yield place_of(record.pack({"vip": vip, "port": port}), places)


def _changed(old: bytes, new: bytes, size: int) -> Iterator[int]:
    """The places that differ; most blocks of places do not, and are not taken apart."""
    step = _BLOCK * size
    for block in range(0, len(new), step):
        if old[block : block + step] != new[block : block + step]:
            for at in range(block, min(block + step, len(new)), size):
                if old[at : at + size] != new[at : at + size]:
                    yield at // size


def _runs(places: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Neighbours together: the first place, and the one behind the last."""
    start = end = -1
    for place in places:
        if place != end:
            if start >= 0:
                yield start, end
            start = place
        end = place + 1
    if start >= 0:
        yield start, end
