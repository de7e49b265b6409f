# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparisons that came out equal, remembered, so that the same one need not be worked out again.

Comparing is a pure function of what is wanted and of the bytes that the maps hold. Where it found nothing to do, the
hash of all that went into it is a proof that there is nothing to do: of the contents that are wanted, of the
interfaces, of every byte that was read from the kernel, and of the code that compared. Nothing is taken for granted:
a run reads the maps as ever and hashes them, and a byte that differs, anywhere, leads to the whole comparison. What
this saves is building every service's load balancing table again, and taking 100,000 entries apart.

What was just written is proven in the same way where the maps were read back as the plan meant them to be, byte for
byte (:mod:`readback`): a plan from there on has nothing to do, which the planners' property tests show.

Proofs lie in /run: after a reboot the maps are new.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import edge_state, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.loading import module_source

DIRECTORY = Path("/run/edgewire/proofs")
# Several, as options and plan may say the same in different words.
KEPT = 8
# What the programs themselves write, or what is no part of the comparison.
_NOT_COMPARED = frozenset(
    {
        *("ew_drops", "ew_events", "ew_icmp_buckets", "ew_identity", "ew_capture", "ew_samples", "ew_stats"),
        *("ew_fragments", "ew_held", "ew_held_scratch", "ew_held_count"),
        *("ew_moved", "ew_retired", "ew_filtered", "ew_buckets", "ew_source_buckets", "ew_flows"),
    }
)
# Where the comparing is done.
_CODE = (
    *("contents", "direct", "edge_backends", "edge_maps", "edge_phases", "edge_services", "edge_state", "filters"),
    *("layout", "map_io", "ports", "proofs", "readback", "record", "relays", "running_tables", "space", "tables"),
    *("wanted", "worker_maps"),
)
_PACKAGE = __name__.rpartition(".")[0]


def asked(role: str, wanted: Mapping[str, Any]) -> bytes:
    """What a proof says of its question, for however many looks at the maps: hash of what is wanted, and of the code
    that compares; 32 bytes.
    """
    digest = hashlib.sha256(code())
    digest.update(json.dumps([role, wanted], sort_keys=True, default=str).encode())
    return digest.digest()


def compared(maps: map_io.Maps) -> dict[str, tuple[bytes, bytes]]:
    """All that counts in a comparison: keys and values of each map. Of ``ew_lut`` it is the part that services use."""
    read = {}
    for name in sorted(maps.keys() - _NOT_COMPARED):
        limit = edge_state.lut_used(maps) if name == "ew_lut" else None
        read[name] = maps[name].read(limit) if limit != 0 else (b"", b"")
    return read


def of(question: bytes, surroundings: Iterable[Any], maps: map_io.Maps) -> bytes:
    """The proof that ``maps`` are as was :func:`asked`, if they are; 32 bytes.

    ``surroundings`` is whatever else the comparison depends on.
    """
    digest = hashlib.sha256(question)
    digest.update(json.dumps(list(surroundings)).encode())
    for name, (keys, values) in compared(maps).items():
        digest.update(f"{name} {maps[name].info.max_entries} {len(keys)} {len(values)}\n".encode())
        digest.update(keys)
        digest.update(values)
    return digest.digest()


def code() -> bytes:
    """A hash of the code that compares; 32 bytes."""
    names = [*(f"{_PACKAGE}.{name}" for name in _CODE), _PACKAGE.rpartition(".")[0] + ".plan.maglev"]
    digest = hashlib.sha256()
    for name in names:
        digest.update((module_source(sys.modules[name].__loader__, name) or name).encode())
    return digest.digest()


def kept(name: str) -> list[bytes]:
    """The hashes that a file of this directory has; none where there is no such file."""
    with suppress(OSError):
        data = (DIRECTORY / name).read_bytes()
        return [data[at : at + 32] for at in range(0, len(data) - 31, 32)]
    return []


def keep(name: str, hashes: Iterable[bytes]) -> None:
    """Write such a file; where that cannot be, the next run works out anew what it would have said."""
    with suppress(OSError):
        DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_if_changed(DIRECTORY / name, b"".join(hashes), mode=0o600)


def known(role: str, proof: bytes) -> bool:
    """Whether the comparison was made before and came out equal."""
    return proof in kept(role)


def remember(role: str, proof: bytes) -> None:
    """Keep a proof; where that cannot be, the next run compares again."""
    others = [other for other in kept(role) if other != proof]
    keep(role, [proof, *others][:KEPT])
