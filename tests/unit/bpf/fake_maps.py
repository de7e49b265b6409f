# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's maps without a kernel: arrays that start as zeros, hashes that fill up, bytes in and bytes out."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import cast

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import direct, layout
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.libbpf import BpfError
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.map_io import (
    Change,
    Fold,
    Maps,
    Run,
    Write,
    fold_writes,
)

# Few, so that services share them, and so that writing them all is no work.
PLACES = 16


class FakeMap:
    """One map; what the planners and ``map_io`` use of :class:`map_io.OpenMap`."""

    def __init__(self, spec: layout.MapSpec, capacity: layout.Capacity) -> None:
        limit = asdict(capacity)[spec.max_entries] if isinstance(spec.max_entries, str) else spec.max_entries
        if spec.name in direct.MAPS:
            limit = PLACES
        self.spec = spec
        self.info = SimpleNamespace(max_entries=limit)
        self.is_hash = spec.type.endswith("hash") or spec.type == "lpm_trie"
        self.entries: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes | None) -> None:
        """Write or, with None, delete one entry; full and out of range as the kernel would say it."""
        if value is None:
            assert self.is_hash, "an array's entries cannot be deleted"
            self.entries.pop(key, None)
            return
        assert (len(key), len(value)) == (self.spec.key.size, self.spec.value.size)
        full = len(self.entries) >= self.info.max_entries and key not in self.entries
        if full if self.is_hash else int.from_bytes(key, "little") >= self.info.max_entries:
            raise BpfError(f"writing map {self.spec.name}", errno.E2BIG)
        self.entries[key] = value

    def read(self, limit: int | None = None) -> tuple[bytes, bytes]:
        """All keys and all values."""
        if self.is_hash:
            return b"".join(self.entries), b"".join(self.entries.values())
        count = self.info.max_entries if limit is None else min(limit, self.info.max_entries)
        keys = [number.to_bytes(4, "little") for number in range(count)]
        zero = bytes(self.spec.value.size)
        return b"".join(keys), b"".join(self.entries.get(key, zero) for key in keys)


class FakeMaps(dict[str, FakeMap]):
    """A role's maps."""

    def __init__(self, role: str, capacity: layout.Capacity) -> None:
        super().__init__({spec.name: FakeMap(spec, capacity) for spec in layout.MAPS[role]})

    def apply(self, changes: Iterable[Change]) -> None:
        """Carry out changes, in order."""
        for change in self.singles(changes):
            if isinstance(change, Fold):
                self.apply(fold_writes(cast(Maps, self), [change]))
            else:
                name, key, value = change
                self[name].put(key, value)

    def singles(self, changes: Iterable[Change]) -> Iterator[Write | Fold]:
        """Changes one entry at a time, as packets may see them."""
        for change in changes:
            if isinstance(change, Run):
                yield from change.singles(self[change.name].spec.value.size)
            else:
                yield change
