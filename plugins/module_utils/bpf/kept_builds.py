# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds kept on disk, so that programs come back after a reboot without headers and without a compiler.

What is kept is what bcc handed to the kernel: each program's instructions, and the shapes of the maps that they name.
A file is found by the identity of the build, so it can never stand in for another one; the kernel's verifier judges it
at every load as it judged it first.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, libbpf
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed

DIRECTORY = Path("/var/lib/edgewire/builds")
FORMAT = 1
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
    """The maps of a build, and its programs by name: instructions whose map loads hold an index into ``maps``."""

    maps: tuple[MapShape, ...]
    programs: Mapping[str, bytes]


def path_of(role: str, identity: bytes) -> Path:
    """Where a build is kept."""
    return DIRECTORY / f"{role}-{identity.hex()[:32]}.json"


def keep(role: str, identity: bytes, programs: Mapping[str, bytes], maps: Mapping[str, int]) -> None:
    """Write a build down, in one step, and forget the role's other ones.

    ``programs`` are instructions whose map loads hold descriptors of ``maps``, all of them open.

    :raises EdgewireError: where it cannot be written.
    """
    infos = [libbpf.map_info(fd) for fd in maps.values()]
    shapes = [MapShape(i.name, i.type, i.key_size, i.value_size, i.max_entries, i.flags) for i in infos]
    index = {fd: number for number, fd in enumerate(maps.values())}
    text = {name: base64.b64encode(_with_maps(code, index)).decode() for name, code in programs.items()}
    content = {
        "format": FORMAT,
        "build": identity.hex(),
        "maps": [asdict(shape) for shape in shapes],
        "programs": text,
    }
    path = path_of(role, identity)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_if_changed(path, json.dumps(content, indent=1).encode(), mode=0o600)
        for other in path.parent.glob(f"{role}-*"):
            if other != path:
                other.unlink()
    except OSError as error:
        raise EdgewireError(f"{path}: {error.strerror}; without it the box needs a compiler at its next boot") from None


def read(role: str, identity: bytes) -> KeptBuild | None:
    """The build, None where it is not kept or its file is damaged: then it has to be compiled."""
    try:
        content = json.loads(path_of(role, identity).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["build"] != identity.hex():
            return None
        programs = {name: base64.b64decode(code, validate=True) for name, code in content["programs"].items()}
        build = KeptBuild(tuple(MapShape(**shape) for shape in content["maps"]), programs)
        for code in programs.values():
            if any(number not in range(len(build.maps)) for _, number in _map_loads(code)):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    return build


def load(
    build: KeptBuild, role: str, kinds: Mapping[str, str], stack: ExitStack
) -> tuple[dict[str, int], dict[str, int]]:
    """Make a build's maps and load its programs (name to kind, "xdp" or "tc"); descriptors of both by name.

    ``stack`` closes them; programs live on where they are attached or pinned.

    :raises EdgewireError: where the kernel refuses, or the build lacks a program or a map of the role.
    """
    maps = [
        stack.enter_context(
            libbpf.closing(
                libbpf.map_create(
                    shape.name, shape.type, shape.key_size, shape.value_size, shape.max_entries, shape.flags
                )
            )
        )
        for shape in build.maps
    ]
    by_name = {shape.name: fd for shape, fd in zip(build.maps, maps, strict=True)}
    # The kernel keeps 15 characters of a name.
    missing = [name for name in kinds if name not in build.programs]
    missing += [spec.name for spec in layout.MAPS[role] if spec.name[:15] not in by_name]
    if missing:
        raise EdgewireError(f"the kept build of the {role} programs lacks {', '.join(missing)}")
    fds = {
        name: stack.enter_context(
            libbpf.closing(libbpf.prog_load(name, kind, _with_maps(build.programs[name], dict(enumerate(maps)))))
        )
        for name, kind in kinds.items()
    }
    return fds, {spec.name: by_name[spec.name[:15]] for spec in layout.MAPS[role]}


def forget(role: str) -> None:
    """Remove the role's builds."""
    for path in DIRECTORY.glob(f"{role}-*"):
        path.unlink()
    for directory in (DIRECTORY, DIRECTORY.parent):
        try:
            directory.rmdir()
        except OSError:  # not there, or others keep things in it
            return


def _map_loads(instructions: bytes) -> list[tuple[int, int]]:
    """Where instructions load a map: byte offset and what stands for the map."""
    found = []
    offset = 0
    while offset < len(instructions):
        opcode, registers, _, immediate = _INSTRUCTION.unpack_from(instructions, offset)
        if opcode == _LOAD_64 and registers >> 4 == _SOURCE_IS_MAP:
            found.append((offset, immediate))
        offset += _INSTRUCTION.size * (2 if opcode == _LOAD_64 else 1)
    return found


def _with_maps(instructions: bytes, replacement: Mapping[int, int]) -> bytes:
    """The instructions with what stands for each map replaced."""
    changed = bytearray(instructions)
    for offset, what in _map_loads(instructions):
        opcode, registers, jump, _ = _INSTRUCTION.unpack_from(changed, offset)
        _INSTRUCTION.pack_into(changed, offset, opcode, registers, jump, replacement[what])
    return bytes(changed)
