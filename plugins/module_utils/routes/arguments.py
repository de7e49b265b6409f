# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the `routes` module: the plan's ``routes`` object, and how to apply it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import ROUTE_TYPES

_RULE: Mapping[str, Any] = {
    "to": {"type": "str"},
    "from": {"type": "str"},
    "priority": {"type": "int", "required": True},
    "table": {"type": "int"},
}
_NEXT_HOP: Mapping[str, Any] = {
    "interface": {"type": "str"},
    "gateway": {"type": "str"},
    "weight": {"type": "int", "default": 1},
}
_MEMBER: Mapping[str, Any] = {
    "id": {"type": "int", "required": True},
    "weight": {"type": "int", "default": 1},
}
_NEXTHOP: Mapping[str, Any] = {
    "id": {"type": "int", "required": True},
    "family": {"type": "str", "choices": ["ipv4", "ipv6"]},
    "interface": {"type": "str"},
    "gateway": {"type": "str"},
    "blackhole": {"type": "bool", "default": False},
    "group": {"type": "list", "elements": "dict", "default": [], "options": dict(_MEMBER)},
}
_ROUTE: Mapping[str, Any] = {
    "destination": {"type": "str", "required": True},
    "type": {"type": "str", "choices": list(ROUTE_TYPES), "default": "unicast"},
    "interface": {"type": "str"},
    "gateway": {"type": "str"},
    "next_hops": {"type": "list", "elements": "dict", "default": [], "options": dict(_NEXT_HOP)},
    "nexthop": {"type": "int"},
    "metric": {"type": "int"},
}

SPEC: Mapping[str, Any] = {
    "table": {"type": "int", "default": 7700},
    "protocol": {"type": "int", "default": 158},
    "state": {"type": "str", "choices": ["present", "absent", "rendered", "gathered"], "default": "present"},
    "announce": {"type": "bool", "default": False},
    "show_foreign": {"type": "bool", "default": False},
    "guard_seconds": {"type": "int", "default": 0},
    "rules": {"type": "list", "elements": "dict", "default": [], "options": dict(_RULE)},
    "nexthops": {"type": "list", "elements": "dict", "default": [], "options": dict(_NEXTHOP)},
    "routes": {"type": "list", "elements": "dict", "default": [], "options": dict(_ROUTE)},
}
