# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what programs send to user space through a perf event array, by libbpf's perf buffer."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf

# perf_buffer_sample_fn and perf_buffer_lost_fn of bpf/libbpf.h
_SAMPLE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
_LOST = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
_PAGES = 64  # of memory for each CPU, a power of two


class PerfBuffer:
    """An open perf buffer. ``lost`` counts the samples that did not fit in because nobody read in time."""

    def __init__(self, map_fd: int) -> None:
        self.lost = 0
        self._samples: list[bytes] = []
        # They must live as long as libbpf may call them.
        self._callbacks = _SAMPLE(self._take), _LOST(self._miss)
        create = libbpf.library().perf_buffer__new
        create.restype = ctypes.c_void_p
        self._handle = ctypes.c_void_p(create(map_fd, ctypes.c_size_t(_PAGES), *self._callbacks, None, None))
        if not self._handle:
            raise libbpf.BpfError("opening the perf buffer", ctypes.get_errno())

    def _take(self, _context: int, _cpu: int, data: int, size: int) -> None:
        self._samples.append(ctypes.string_at(data, size))

    def _miss(self, _context: int, _cpu: int, count: int) -> None:
        self.lost += count

    def poll(self, seconds: float) -> list[bytes]:
        """What has arrived or, where that is nothing, what arrives first in that time; padding may follow each."""
        result = int(libbpf.library().perf_buffer__poll(self._handle, round(seconds * 1000)))
        if result < 0 and -result != errno.EINTR:
            raise libbpf.BpfError("reading samples", -result)
        taken, self._samples = self._samples, []
        return taken

    def close(self) -> None:
        """Take the buffer out of the map and give its memory back."""
        libbpf.library().perf_buffer__free(self._handle)


@contextmanager
def perf_buffer(map_fd: int) -> Iterator[PerfBuffer]:
    """Open the perf event array behind ``map_fd`` to read from it; who opens it later takes it away from who did first.

    :raises BpfError: the kernel refuses perf events here.
    """
    buffer = PerfBuffer(map_fd)
    try:
        yield buffer
    finally:
        buffer.close()
