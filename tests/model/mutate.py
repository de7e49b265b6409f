# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets that nobody should send: a few changes to good ones, such that each still gets deep into a program."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

Change = Callable[[random.Random, bytearray], None]

_BYTES = (0, 1, 2, 5, 17, 20, 40, 43, 44, 58, 60, 127, 128, 158, 0x5E, 254, 255)
_SHORTS = (0, 1, 7, 8, 19, 20, 27, 28, 32, 39, 40, 48, 64, 0x1FFF, 0x2000, 0x4000, 0x7FFF, 0x8000, 0xFFFF)


def _flip_bits(rng: random.Random, packet: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, packet: bytearray) -> None:
    # Headers are at the front: that is where a byte matters.
    packet[rng.randrange(min(len(packet), 100))] = rng.choice(_BYTES)


def _set_short(rng: random.Random, packet: bytearray) -> None:
    if len(packet) >= 2:
        offset = rng.randrange(min(len(packet), 100) // 2) * 2
        struct.pack_into("!H", packet, min(offset, len(packet) - 2), rng.choice(_SHORTS))


def _truncate(rng: random.Random, packet: bytearray) -> None:
    del packet[rng.randrange(1, len(packet) + 1) :]


def _lengthen(rng: random.Random, packet: bytearray) -> None:
    packet += rng.randbytes(rng.choice((1, 2, 4, 8, 60, 400)))


def _cut_out(rng: random.Random, packet: bytearray) -> None:
    start = rng.randrange(len(packet))
    del packet[start : start + rng.choice((1, 2, 4, 8, 12, 20, 24))]
    if not packet:
        packet.append(0x45)


def _insert(rng: random.Random, packet: bytearray) -> None:
    start = rng.randrange(len(packet) + 1)
    packet[start:start] = rng.randbytes(rng.choice((1, 4, 8, 12, 24)))


class Mutator:
    """Makes packets out of good ones, always the same for the same seed.

    :param seeds: good packets.
    :param start: where IP begins in them: 14 behind Ethernet, 0 without link layer.
    :param words: addresses, ids and the like that mean something to the program; one is put where another may lie.
    """

    def __init__(self, seed: int, seeds: Sequence[bytes], start: int, words: Sequence[bytes]) -> None:
        self._rng = random.Random(seed)
        self._seeds, self._start, self._words = seeds, start, words
        general: tuple[Change, ...] = (_flip_bits, _set_byte, _set_short, _truncate, _lengthen, _cut_out, _insert)
        self._changes = (*general, self._lie, self._set_header, self._splice, self._substitute)

    def __call__(self) -> bytes:
        """The next packet."""
        rng = self._rng
        packet = bytearray(rng.choice(self._seeds))
        for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 4))):
            rng.choice(self._changes)(rng, packet)
            if not packet:
                packet.append(0)
        return bytes(packet)

    def _is_v6(self, packet: bytearray) -> bool:
        return len(packet) > self._start and packet[self._start] >> 4 == 6

    def _lie(self, rng: random.Random, packet: bytearray) -> None:
        """A length that is off by a little, in the base header or in UDP's."""
        offset = self._start + rng.choice((4, 44) if self._is_v6(packet) else (2, 24))
        if offset + 2 <= len(packet):
            (length,) = struct.unpack_from("!H", packet, offset)
            struct.pack_into("!H", packet, offset, length + rng.randint(-50, 50) & 0xFFFF)

    def _set_header(self, rng: random.Random, packet: bytearray) -> None:
        """An edge value in a field that the programs look at."""
        if self._is_v6(packet):
            # Hop limit, next header; the same of a first extension header, its length and what a fragment header has.
            offset, values = rng.choice(
                (
                    (7, (0, 1, 2, 255)),
                    (6, (0, 17, 43, 44, 60, 59)),
                    (40, (0, 17, 43, 44, 60)),
                    (41, (0, 1, 2, 3, 31, 255)),
                    (42, (0x5E, 0x7E, 0x9E, 0xBE, 0xDE, 0xFE)),
                    (43, (0, 1, 8, 9, 20)),
                )
            )
        else:
            # Version and header length, protocol, TTL, fragment bits, the first option.
            offset, values = rng.choice(
                (
                    (0, (0x40, 0x44, 0x45, 0x46, 0x48, 0x4C, 0x4D, 0x4F, 0x55, 0x65)),
                    (9, (0, 1, 6, 17)),
                    (8, (0, 1, 2, 255)),
                    (6, (0, 0x20, 0x40, 0x80, 0x3F)),
                    (7, (0, 1, 255)),
                    (20, (0, 1, 158)),
                    (21, (0, 4, 12, 40)),
                    (22, (0, 1, 2)),
                    (23, (0, 1, 2, 3, 4, 5)),
                )
            )
        if self._start + offset < len(packet):
            packet[self._start + offset] = rng.choice(values)

    def _splice(self, rng: random.Random, packet: bytearray) -> None:
        """The front of this one, the end of another."""
        other = rng.choice(self._seeds)
        at = rng.randrange(min(len(packet), len(other)))
        packet[at:] = other[at:]

    def _substitute(self, rng: random.Random, packet: bytearray) -> None:
        """A word that means something where another one lies."""
        word, old = rng.choice(self._words), rng.choice(self._words)
        at = packet.find(old) if len(old) == len(word) else rng.randrange(len(packet))
        if at >= 0:
            packet[at : at + len(word)] = word
