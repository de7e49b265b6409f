# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds kept on disk, so that programs come back after a reboot without headers and without a compiler.

What is kept is what bcc handed to the kernel: each program's instructions, the shapes of the maps that they name, what
their records mean, and which build ran before. A file is found by the identity of the build, so it can never stand in
for another one; the kernel's verifier judges it at every load as it judged it first.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import libbpf, schema
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.schema import Schema
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed

DIRECTORY = Path("/var/lib/edgewire/builds")
FORMAT = 2
# struct bpf_insn (linux/bpf.h): opcode, registers, offset, immediate.
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_64 = 0x18  # BPF_LD | BPF_DW | BPF_IMM: two instructions long
_SOURCE_IS_MAP = 1  # BPF_PSEUDO_MAP_FD in the source register


@dataclass(frozen=True)
class MapShape:
    """What it takes to make a map anew."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class KeptBuild:
    """A build's identity (32 bytes), its maps, and its programs by name.

    Programs are instructions whose map loads hold an index into ``maps``. ``schema`` says what the maps' records are,
    ``previous`` which build of the role this one took the place of.
    """

    identity: bytes
    maps: tuple[MapShape, ...]
    programs: Mapping[str, bytes]
    schema: Schema
    previous: bytes | None = None


def path_of(role: str, identity: bytes) -> Path:
    """Where a build is kept."""
    return DIRECTORY / f"{role}-{identity.hex()[:32]}.json"


def build_of(role: str, identity: bytes, programs: Mapping[str, bytes], maps: Mapping[str, int]) -> KeptBuild:
    """What was compiled by this version of the collection, without the kernel's descriptors.

    ``programs`` are instructions whose map loads hold descriptors of ``maps``, all of them open.
    """
    infos = [libbpf.map_info(fd) for fd in maps.values()]
    shapes = tuple(MapShape(i.name, i.type, i.key_size, i.value_size, i.max_entries, i.flags) for i in infos)
    index = {fd: number for number, fd in enumerate(maps.values())}
    return KeptBuild(
        identity, shapes, {name: _with_maps(code, index) for name, code in programs.items()}, schema.of_role(role)
    )


def keep(role: str, build: KeptBuild) -> None:
    """Write a build down, in one step.

    :raises EdgewireError: where it cannot be written.
    """
    content = {
        "format": FORMAT,
        "build": build.identity.hex(),
        "previous": build.previous.hex() if build.previous else None,
        "schema": build.schema.text,
        "maps": [asdict(shape) for shape in build.maps],
        "programs": {name: base64.b64encode(code).decode() for name, code in build.programs.items()},
    }
    path = path_of(role, build.identity)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_if_changed(path, json.dumps(content, indent=1).encode(), mode=0o600)
    except OSError as error:
        raise EdgewireError(f"{path}: {error.strerror}; without it the box needs a compiler at its next boot") from None


def follow(role: str, build: KeptBuild, previous: bytes) -> None:
    """Note which build this one takes the place of."""
    keep(role, replace(build, previous=previous))


def read(role: str, identity: bytes) -> KeptBuild | None:
    """The build, None where it is not kept or its file is damaged: then it has to be compiled."""
    build = _read(path_of(role, identity))
    return build if build is not None and build.identity == identity else None


def _read(path: Path) -> KeptBuild | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return None
        build = KeptBuild(
            identity=bytes.fromhex(content["build"]),
            maps=tuple(MapShape(**shape) for shape in content["maps"]),
            programs={name: base64.b64decode(code, validate=True) for name, code in content["programs"].items()},
            schema=schema.parse(content["schema"]),
            previous=bytes.fromhex(content["previous"]) if content["previous"] else None,
        )
        for code in build.programs.values():
            if any(number not in range(len(build.maps)) for _, number in _map_loads(code)):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return build


def related(role: str, builds: Collection[bytes]) -> set[bytes]:
    """The given builds, those that they took the place of, and those that took the place of one of them.

    The last is what a rollback leaves: the next roll-out goes forward to it.
    """
    wanted = {path_of(role, identity): identity for identity in builds}
    others = (build for path in _files(role) if path not in wanted and (build := _read(path)) is not None)
    previous = {build.previous for identity in builds if (build := read(role, identity)) is not None}
    return {
        *builds,
        *(build.identity for build in others if build.identity in previous or build.previous in set(builds)),
    }


def leftovers(role: str, builds: Collection[bytes]) -> list[Path]:
    """Files of the role that are of no related build, or that were half written when a run was killed."""
    known = {path_of(role, identity) for identity in related(role, builds)}
    return [*(path for path in _files(role) if path not in known), *_half_written(role)]


def _files(role: str) -> list[Path]:
    return sorted(DIRECTORY.glob(f"{role}-*"))


def _half_written(role: str) -> list[Path]:
    return sorted(DIRECTORY.glob(f".{role}-*"))  # see files.py


def load(
    build: KeptBuild, kinds: Mapping[str, str], stack: ExitStack, shared: Mapping[str, int] | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Load a build's programs (name to kind, "xdp" or "tc"); descriptors of programs and of maps by name.

    ``shared`` are maps that exist, by the names that the kernel has: the programs use these. All others are made anew.
    ``stack`` closes what was made; programs live on where they are attached or pinned.

    :raises EdgewireError: where the kernel refuses, or the build lacks a program or a map of its schema.
    """
    shared = shared or {}
    maps = [shared[shape.name] if shape.name in shared else _make(shape, stack) for shape in build.maps]
    by_name = {shape.name: fd for shape, fd in zip(build.maps, maps, strict=True)}
    missing = [name for name in kinds if name not in build.programs]
    missing += [spec.name for spec in build.schema.maps.values() if spec.short_name not in by_name]
    if missing:
        raise EdgewireError(f"the kept build lacks {', '.join(missing)}")
    fds = {
        name: stack.enter_context(
            libbpf.closing(libbpf.prog_load(name, kind, _with_maps(build.programs[name], dict(enumerate(maps)))))
        )
        for name, kind in kinds.items()
    }
    return fds, {spec.name: by_name[spec.short_name] for spec in build.schema.maps.values()}


def _make(shape: MapShape, stack: ExitStack) -> int:
    sizes = (shape.key_size, shape.value_size, shape.max_entries, shape.flags)
    return stack.enter_context(libbpf.closing(libbpf.map_create(shape.name, shape.type, *sizes)))


def forget(role: str) -> None:
    """Remove the role's builds."""
    for path in (*_files(role), *_half_written(role)):
        path.unlink()
    for directory in (DIRECTORY, DIRECTORY.parent):
        try:
            directory.rmdir()
        except OSError:  # not there, or others keep things in it
            return


def _map_loads(instructions: bytes) -> list[tuple[int, int]]:
    """Where instructions load a map: byte offset and what stands for the map. ValueError where the last is cut off."""
    if len(instructions) % _INSTRUCTION.size:
        raise ValueError("half an instruction")
    opcodes, registers = instructions[:: _INSTRUCTION.size], instructions[1 :: _INSTRUCTION.size]
    found = []
    number = opcodes.find(_LOAD_64)  # a wide instruction's second half has opcode 0 (RFC 9669 section 3.2)
    while number >= 0:
        if registers[number] >> 4 == _SOURCE_IS_MAP:
            offset = number * _INSTRUCTION.size
            found.append((offset, _INSTRUCTION.unpack_from(instructions, offset)[3]))
        number = opcodes.find(_LOAD_64, number + 1)
    return found


def _with_maps(instructions: bytes, replacement: Mapping[int, int]) -> bytes:
    """The instructions with what stands for each map replaced."""
    changed = bytearray(instructions)
    for offset, what in _map_loads(instructions):
        opcode, registers, jump, _ = _INSTRUCTION.unpack_from(changed, offset)
        _INSTRUCTION.pack_into(changed, offset, opcode, registers, jump, replacement[what])
    return bytes(changed)
