# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How ``ew_lut`` holds a service's tables; the twin of ``bpf/tables.h``. Pure.

A block of 32-bit words for each service: its table, while it drains the one that it had, and the palette, which are
the slots of its backends. A place of a table is a number of 1 << width bits, which counts in the palette, and lies in a
word from its lowest bit on. So 4,096 places for two backends are 130 words. Where a backend is alone its slot is all.
"""

from __future__ import annotations

import functools
import itertools
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout

# Places are slots themselves, and there is no palette.
WIDTH_SLOT = 5
# Slots of a palette, which a service's entry counts in 16 bits.
MOST_BACKENDS = 65_535


def width_for(n_backends: int, size: int) -> int:
    """The width of ``size`` places that so many backends share, at most :data:`MOST_BACKENDS`."""
    if size == 1:
        return WIDTH_SLOT
    return next(width for width in range(WIDTH_SLOT) if n_backends <= 1 << (1 << width))


def words_for(size: int, width: int) -> int:
    """The words of ``size`` places."""
    return size + (31 >> width) >> (WIDTH_SLOT - width)


def pack(numbers: Sequence[int], width: int) -> array[int]:
    """Places as words. ``numbers`` count in the palette, or are slots with :data:`WIDTH_SLOT`."""
    if width == WIDTH_SLOT:
        return array("I", numbers)
    if width == WIDTH_SLOT - 1:
        data = _little(array("H", numbers)).tobytes()
    else:
        data = bytes(numbers)
        for step in range(width, 3):  # two neighbours into one byte, until it is full
            even, odd = (int.from_bytes(data[first::2], "little") for first in (0, 1))
            data = (even | odd << (1 << step)).to_bytes((len(data) + 1) // 2, "little")
    return _little(array("I", data + bytes(-len(data) % 4)))


def unpack(words: array[int], width: int, size: int) -> Sequence[int]:
    """The inverse of :func:`pack`; fewer than ``size`` numbers where the words end before that."""
    if width == WIDTH_SLOT:
        return words[:size]
    data = _little(words).tobytes()
    if width == WIDTH_SLOT - 1:
        return _little(array("H", data))[:size]
    for step in range(2, width - 1, -1):
        number, mask = int.from_bytes(data, "little"), _mask(1 << step, len(data))
        both = bytearray(2 * len(data))
        both[::2] = (number & mask).to_bytes(len(data), "little")
        both[1::2] = (number >> (1 << step) & mask).to_bytes(len(data), "little")
        data = bytes(both)
    return data[:size]


def n_tables(flags: int) -> int:
    """How many tables a service with these flags has in its block."""
    return 2 if flags & layout.SERVICE_DRAINING else 1


def width_of(service: Mapping[str, int]) -> int:
    """A service's width; of one that is none, the widest."""
    return min(service["width"], WIDTH_SLOT)


def shape_of(service: Mapping[str, int]) -> tuple[int, int, int, int]:
    """What a service's block is like: how many tables it has, of what size and width, and how long its palette is."""
    return n_tables(service["flags"]), service["table_size"], service["width"], service["palette"]


def span_of(service: Mapping[str, int]) -> int:
    """How many words of ``ew_lut`` a service has."""
    return span(service["table_size"], service["flags"], service["width"], service["palette"])


def span(size: int, flags: int, width: int, palette: int) -> int:
    """The same, from what a service's entry says."""
    return n_tables(flags) * words_for(size, min(width, WIDTH_SLOT)) + palette


def parts_of(lut: array[int], service: Mapping[str, int]) -> tuple[list[array[int]], array[int]]:
    """A service's block taken apart: the words of each of its tables, and the palette."""
    start, length = service["table_offset"], words_for(service["table_size"], width_of(service))
    cuts = [start + number * length for number in range(n_tables(service["flags"]) + 1)]
    words = [lut[first:last] for first, last in itertools.pairwise(cuts)]
    return words, lut[cuts[-1] : cuts[-1] + service["palette"]]


class PackedTable(Sequence[int]):
    """A table as words, and whom its numbers mean: reads as a list of endpoint ids, each looked for when asked for."""

    def __init__(self, words: array[int], width: int, size: int, palette: Sequence[int]) -> None:
        self.words = words
        self._width, self._size, self._palette = width, size, palette

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return list(self)[place]
        if not -self._size <= place < self._size:
            raise IndexError(place)
        place %= self._size
        word = self.words[place >> (WIDTH_SLOT - self._width)]
        return self._palette[word >> (place << self._width & 31) & (1 << (1 << self._width)) - 1]

    def __iter__(self) -> Iterator[int]:
        return map(self._palette.__getitem__, unpack(self.words, self._width, self._size))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@functools.lru_cache(64)
def _mask(bits: int, length: int) -> int:
    """The lowest bits of each of so many bytes."""
    return int.from_bytes(bytes([(1 << bits) - 1]) * length, "little")


def _little(words: array[int]) -> array[int]:
    """From this machine's order of bytes to little endian, or back."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words
