# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of public keys: one YAML file beside the inventory, ``edgewire_public_keys: {host:
key}``.

It is what makes ``--limit`` and hosts that are down harmless: a key that was once seen stays a peer
everywhere. Nothing here ever takes a host out of it; a person does, by deleting its line.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.plan.convert import shown
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems

KEY = "edgewire_public_keys"
_HEADER = (
    "# WireGuard public keys of the fleet, written by edgewire.fleet.fleet_plan.\n"
    "# Keep it with the inventory. Hosts are added and their keys replaced, never removed:\n"
    "# delete a host's line by hand when the host is gone.\n"
    "---\n"
)


def is_public_key(value: object) -> bool:
    """Whether ``value`` is a WireGuard public key: 32 bytes, not all zero, in canonical base64."""
    if not isinstance(value, str) or len(value) != 44:
        return False
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == 32 and any(raw) and base64.b64encode(raw).decode() == value


def parse_registry(text: str, where: str, problems: Problems) -> dict[str, str]:
    """Host → key out of the file's text; anything but one mapping of good keys is a problem. Empty
    text is empty.
    """
    import yaml  # type: ignore[import-untyped,unused-ignore]  # the controller has it; boxes that import this may not

    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        problems.add(where, "", f"is not plain YAML{line}; restore it from version control")
        return {}
    if data is None:
        return {}
    if not isinstance(data, dict) or set(data) != {KEY}:
        problems.add(where, "", f"must hold one mapping, {KEY}, and nothing else")
        return {}
    mapping = {} if data[KEY] is None else data[KEY]
    if not isinstance(mapping, dict):
        problems.add(where, KEY, f"{shown(mapping)} is not a mapping of hosts to keys")
        return {}
    return check_keys(mapping, where, problems)


def check_keys(keys: Mapping[Any, Any], where: str, problems: Problems) -> dict[str, str]:
    """The good ones of host → key; each other one is a problem."""
    good = {}
    for host, key in keys.items():
        if not isinstance(host, str):
            problems.add(where, KEY, f"{shown(host)} is not a host's name")
        elif not is_public_key(key):
            # Not quoted: what was pasted here by mistake may be a private key of the wrong length.
            problems.add(where, f"{KEY}.{host}", "is not a WireGuard public key")
        else:
            good[str(host)] = str(key)
    return good


def merge_keys(known: Mapping[str, str], fresh: Mapping[str, str]) -> dict[str, str]:
    """``known`` with the ``fresh`` keys added or replaced; no host is ever lost."""
    return {**known, **fresh}


def render_registry(keys: Mapping[str, str]) -> bytes:
    """The file's bytes; sorted and quoted, so the same keys are the same bytes."""
    if not keys:
        return f"{_HEADER}{KEY}: {{}}\n".encode()
    lines = "".join(f"  {json.dumps(host)}: {json.dumps(keys[host])}\n" for host in sorted(keys))
    return f"{_HEADER}{KEY}:\n{lines}".encode()


def load_registry(path: Path, problems: Problems) -> dict[str, str]:
    """The registry at ``path``; a file that does not exist is an empty one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.add(str(path), "", f"cannot be read: {error}")
        return {}
    return parse_registry(text, str(path), problems)


def shadowed_file(path: Path) -> Path | None:
    """The ``group_vars/all.yml`` that Ansible would no longer read once ``group_vars/all/`` exists,
    or None.

    Ansible takes the directory or the file of a group, never both (``DataLoader.find_vars_files``).
    """
    directory = path.parent
    if directory.parent.name not in ("group_vars", "host_vars"):
        return None
    for suffix in ("", ".yml", ".yaml", ".json"):
        candidate = directory.with_name(directory.name + suffix)
        if candidate.is_file():
            return candidate
    return None
