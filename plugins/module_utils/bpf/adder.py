# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Add to counters that programs are counting in at this moment, and lose nothing.

A program cannot be kept from counting between user space's read and its write. So the addition is done in the kernel,
by a program of a few instructions that is run on a made-up packet (BPF_PROG_TEST_RUN): it adds with one instruction
each to the counters of the CPU that it runs on, and nobody but that CPU ever writes those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

_HEAD = 8  # index and padding, in front of what is to be added
_ETHERNET_MIN = 14  # a test run takes no shorter packet
_DONE = 2
# Opcodes and registers of struct bpf_insn (linux/bpf.h, linux/bpf_common.h).
_MOV, _MOV_IMM, _ADD_IMM, _JGT, _JEQ_IMM, _CALL, _EXIT = 0xBF, 0xB7, 0x07, 0x2D, 0x15, 0x85, 0x95
_LOAD_32, _LOAD_64, _STORE_32, _ATOMIC_ADD_64, _LOAD_MAP = 0x61, 0x79, 0x63, 0xDB, 0x18
_LOOKUP = 1  # bpf_map_lookup_elem


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, target | source << 4, offset, immediate)


def _program(map_fd: int, fields: int) -> bytes:
    """Packet: index (4 bytes), 4 bytes of nothing, what to add to each field (8 bytes each)."""
    head = [
        _instruction(_LOAD_32, 2, 1, 0),  # r2 = data
        _instruction(_LOAD_32, 3, 1, 4),  # r3 = data_end
        _instruction(_MOV, 7, 2),
        _instruction(_ADD_IMM, 2, immediate=_HEAD + 8 * fields),
    ]
    adding = [
        _instruction(_LOAD_32, 4, 7, 0),
        _instruction(_STORE_32, 10, 4, -4),
        _instruction(_MOV, 2, 10),
        _instruction(_ADD_IMM, 2, immediate=-4),
        _instruction(_LOAD_MAP, 1, 1, 0, map_fd),
        _instruction(0),
        _instruction(_CALL, immediate=_LOOKUP),
        _instruction(_JEQ_IMM, 0, 0, 2 * fields + 2, 0),
    ]
    for number in range(fields):
        adding += [
            _instruction(_LOAD_64, 1, 7, _HEAD + 8 * number),
            _instruction(_ATOMIC_ADD_64, 0, 1, 8 * number),
        ]
    adding += [_instruction(_MOV_IMM, 0, immediate=_DONE), _instruction(_EXIT)]
    failed = [_instruction(_MOV_IMM, 0, immediate=0), _instruction(_EXIT)]
    return b"".join([*head, _instruction(_JGT, 2, 3, len(adding)), *adding, *failed])


def add(map_fd: int, fields: int, additions: Iterable[tuple[int, Sequence[int]]]) -> None:
    """Add to entries of a per-CPU array of 64-bit ``fields``; pairs of index and an amount for each field."""
    with ExitStack() as stack:
        program = None
        for index, amounts in additions:
            if program is None:
                loaded = libbpf.prog_load("ew_add", "xdp", _program(map_fd, fields))
                program = stack.enter_context(libbpf.closing(loaded))
            packet = struct.pack(f"=II{fields}Q", index, 0, *amounts).ljust(_ETHERNET_MIN, b"\0")
            if libbpf.run_program(program, packet).retval != _DONE:
                raise EdgewireError(f"counter {index} could not be carried over")
