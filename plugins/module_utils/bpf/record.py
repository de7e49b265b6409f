# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""C structs as Python reads and writes them: many at once, fields converted to what people read.

A map of 100,000 entries is read at every run, so runs of records are taken apart by column, and a column's values are
converted once each: addresses, ports and indices repeat.
"""

from __future__ import annotations

import functools
import operator
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

FieldKind = Literal["ipv4", "ipv6", "address", "be16", "be32", "u16", "u32", "u64", "hash", "frame"]
Fields = tuple[tuple[str, FieldKind], ...]

# Format for `struct`, and the conversions between what the map holds and what people read.
_FORMATS = {
    "ipv4": "4s",
    "ipv6": "16s",
    "address": "16s",
    "be16": "2s",
    "be32": "4s",
    "u16": "H",
    "u32": "I",
    "u64": "Q",
    "hash": "32s",
    "frame": "1536s",
}
# An IPv4 address in 16 bytes: its IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as in bpf/address.h.
_V4_MAPPED = bytes(10) + b"\xff\xff"
# How many conversions of one kind are remembered; an address is one of a few thousand VIPs, workers or containers.
_REMEMBERED = 65_536


@functools.lru_cache(_REMEMBERED)
def _pack_address(value: str) -> bytes:
    if not value:
        return bytes(16)
    return socket.inet_pton(socket.AF_INET6, value) if ":" in value else _V4_MAPPED + socket.inet_aton(value)


@functools.lru_cache(_REMEMBERED)
def _unpack_address(value: bytes) -> str:
    if value.startswith(_V4_MAPPED):
        return socket.inet_ntoa(value[12:])
    return socket.inet_ntop(socket.AF_INET6, value) if any(value) else ""


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


# A field that is not given is 0 of its kind.
_ENCODERS: dict[str, Callable[[Any], Any]] = {
    "ipv4": functools.lru_cache(_REMEMBERED)(lambda value: socket.inet_aton(value or "0.0.0.0")),
    "ipv6": lambda value: socket.inet_pton(socket.AF_INET6, value or "::"),
    "address": lambda value: _pack_address(value or ""),
    "be16": struct.Struct(">H").pack,
    "be32": struct.Struct(">I").pack,
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "ipv4": functools.lru_cache(_REMEMBERED)(socket.inet_ntoa),
    "ipv6": functools.lru_cache(_REMEMBERED)(lambda value: socket.inet_ntop(socket.AF_INET6, value)),
    "address": _unpack_address,
    "be16": _number,
    "be32": _number,
}


@dataclass(frozen=True)
class Record:
    """A C struct: its name and its fields in order, with no implicit padding."""

    name: str
    fields: Fields

    @functools.cached_property
    def codec(self) -> struct.Struct:
        """Native byte order; fields that are big endian in the map are held as bytes."""
        return struct.Struct("=" + "".join(_FORMATS[kind] for _, kind in self.fields))

    @functools.cached_property
    def _given(self) -> Fields:
        """The fields without padding."""
        return tuple((name, kind) for name, kind in self.fields if name != "zero")

    @functools.cached_property
    def _packer(self) -> struct.Struct:
        formats = [(name, _FORMATS[kind]) for name, kind in self.fields]
        return struct.Struct("=" + "".join(f"{struct.calcsize(f)}x" if name == "zero" else f for name, f in formats))

    @functools.cached_property
    def _row_of(self) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
        names = [name for name, _ in self._given]
        return operator.itemgetter(*names) if len(names) > 1 else lambda values: (values[names[0]],)

    @functools.cached_property
    def _encoders(self) -> list[tuple[int, Callable[[Any], Any]]]:
        return [(place, _ENCODERS[kind]) for place, (_, kind) in enumerate(self._given) if kind in _ENCODERS]

    @property
    def size(self) -> int:
        """Bytes of one record."""
        return self.codec.size

    def offset(self, field: str) -> int:
        """Bytes in front of a field."""
        names = [name for name, _ in self.fields]
        return struct.calcsize("=" + "".join(_FORMATS[kind] for _, kind in self.fields[: names.index(field)]))

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """One record as bytes; a field that is not given is 0."""
        try:
            row = self._row_of(values)
        except KeyError:
            row = [values.get(name, 0) for name, _ in self._given]
        if self._encoders:
            row = list(row)
            for place, encode in self._encoders:
                row[place] = encode(row[place])
        return self._packer.pack(*row)

    @functools.cached_property
    def of(self) -> Callable[[Any], bytes]:
        """Makes the bytes of a value, where that is all that the record is: one number, or one address."""
        ((_, kind),) = self.fields
        return _ENCODERS.get(kind) or struct.Struct(f"={_FORMATS[kind]}").pack

    def iter_unpack(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The records in a run of bytes, as dicts by field name; padding fields ("zero") are left out."""
        columns = list(zip(*self.codec.iter_unpack(data), strict=True))
        if not columns:
            return
        names, shown = [], []
        for column, (name, kind) in zip(columns, self.fields, strict=True):
            if name != "zero":
                decode = _DECODERS.get(kind)
                names.append(name)
                shown.append(map(decode, column) if decode else column)
        for row in zip(*shown, strict=True):
            yield dict(zip(names, row, strict=True))

    def column(self, field: str, data: bytes) -> Iterator[int]:
        """One 32-bit field of all records in a run of bytes, in the machine's byte order."""
        offset = self.offset(field)
        for (value,) in struct.iter_unpack(f"={offset}xI{self.size - offset - 4}x", data):
            yield value


def _scalar(kind: FieldKind) -> Record:
    return Record("", (("value", kind),))


U32 = _scalar("u32")
U64 = _scalar("u64")
BE32 = _scalar("be32")
ADDRESS = _scalar("address")
