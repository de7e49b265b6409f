# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the `wireguard` module: the plan's ``wireguard`` object, and how to apply it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PEER: Mapping[str, Any] = {
    "name": {"type": "str", "required": True},
    # A public key is public: without this, Ansible warns about a name that looks like a secret.
    "public_key": {"type": "str", "no_log": False},
    "endpoint": {"type": "str"},
    "allowed_ips": {"type": "list", "elements": "str", "default": []},
    "persistent_keepalive": {"type": "int", "default": 0},
    "preshared": {"type": "bool"},
}

SPEC: Mapping[str, Any] = {
    "interface": {"type": "str", "default": "wg0"},
    "state": {"type": "str", "choices": ["present", "absent", "rendered", "gathered"], "default": "present"},
    "private_key_file": {
        "type": "path",
        "default": "/etc/edgewire/wireguard/wg0.key",
        "no_log": False,  # a path
    },
    "listen_port": {"type": "int"},
    "fwmark": {"type": "int"},
    "mtu": {"type": "int"},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "peers": {"type": "list", "elements": "dict", "default": [], "options": dict(_PEER)},
    "transport": {"type": "str", "choices": ["auto", "kernel", "userspace"], "default": "auto"},
    "host": {"type": "str"},
    "preshared_secret": {"type": "str", "no_log": True},
    "purge": {"type": "bool"},
    "sole": {"type": "bool", "default": False},
    "roaming": {"type": "bool", "default": True},
    "guard_seconds": {"type": "int", "default": 0},
}
