# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many entries of a map in one call: reading, writing, deleting. bpf(2), BPF_MAP_LOOKUP_BATCH and its siblings."""

from __future__ import annotations

import ctypes
import errno

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf

_ARRAYS = (libbpf.BPF_MAP_TYPE_ARRAY, libbpf.BPF_MAP_TYPE_PERCPU_ARRAY)
# Of how many entries a hash map or trie is read in one call.
_AT_ONCE = 65_536


def user_value_size(info: libbpf.MapInfo) -> int:
    """Bytes of one value as user space sees it: a per-CPU map hands out all CPUs' values, each padded to 8 bytes."""
    if info.type != libbpf.BPF_MAP_TYPE_PERCPU_ARRAY:
        return info.value_size
    return (info.value_size + 7) // 8 * 8 * libbpf.possible_cpus()


def read_all(fd: int, info: libbpf.MapInfo, limit: int | None = None) -> tuple[bytes, bytes]:
    """All keys and all values of a map, each as one run of bytes, by batch lookup.

    ``limit`` bounds the number of entries: of an array, which is read from index 0 on, the rest may be unused.
    """
    size = user_value_size(info)
    capacity = info.max_entries if limit is None else min(limit, info.max_entries)
    # An array has all its entries; what has them one by one seldom has as many as there is room for.
    room = capacity if info.type in _ARRAYS else min(capacity, _AT_ONCE)
    keys, values = [], []
    cursor = ctypes.create_string_buffer(max(info.key_size, 4))
    done, first = 0, True
    while done < capacity:
        room = min(room, capacity - done)
        found_keys, found_values = (ctypes.create_string_buffer(room * each) for each in (info.key_size, size))
        count = ctypes.c_uint32(room)
        result = int(
            libbpf.library().bpf_map_lookup_batch(
                fd,
                None if first else ctypes.byref(cursor),
                ctypes.byref(cursor),
                found_keys,
                found_values,
                ctypes.byref(count),
                None,
            )
        )
        if result == -errno.ENOSPC and room < capacity - done:  # a hash map's bucket is read whole
            room *= 2
            continue
        if result < 0 and result != -errno.ENOENT:
            raise libbpf.BpfError(f"reading map {info.name}", -result)
        done += count.value
        keys.append(ctypes.string_at(found_keys, count.value * info.key_size))
        values.append(ctypes.string_at(found_values, count.value * size))
        first = False
        if result == -errno.ENOENT or count.value == 0:
            break
    return b"".join(keys), b"".join(values)


def update_batch(fd: int, name: str, keys: bytes, values: bytes, count: int) -> None:
    """Write ``count`` entries, given as two runs of bytes, in one call.

    :raises BpfError: E2BIG where the map is full; the entries before the one that failed are written.
    """
    if count:
        number = ctypes.c_uint32(count)
        what = f"writing {count} entries to map {name}"
        libbpf.call(what, "bpf_map_update_batch", fd, keys, values, ctypes.byref(number), None)


def delete_batch(fd: int, name: str, keys: bytes, count: int) -> None:
    """Delete ``count`` entries in one call; a key that is gone already is no error."""
    size = len(keys) // count if count else 0
    done = 0
    while done < count:
        number = ctypes.c_uint32(count - done)
        rest = ctypes.create_string_buffer(keys[done * size :])
        result = int(libbpf.library().bpf_map_delete_batch(fd, rest, ctypes.byref(number), None))
        done += number.value
        if result == -errno.ENOENT:
            done += 1
        elif result < 0:
            raise libbpf.BpfError(f"deleting {count} entries from map {name}", -result)
