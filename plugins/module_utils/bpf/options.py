# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several modules share, and how they become the backends' types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import sources
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.layout import Capacity
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, Desired
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.successors import Build
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.maglev import TABLE_SIZES

SOURCES_SPEC: dict[str, Any] = {"sources": {"type": "dict"}}
CAPACITY_SPEC: dict[str, Any] = {
    "capacity": {
        "type": "dict",
        "default": {},
        "options": {field.name: {"type": "int", "default": field.default} for field in fields(Capacity)},
    }
}

# What the modules that attach a role's programs share besides.
PROGRAMS_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "contents": {"type": "json"},
    "force": {"type": "bool", "default": False},
    "alone": {"type": "bool", "default": True},
    **CAPACITY_SPEC,
    **SOURCES_SPEC,
}

# Which option names the interface of which port of a role's hooks.
PORT_OPTIONS = {
    "edge": {"uplink": "uplink", "wireguard": "wireguard_interface"},
    "worker": {"container": "container_interface", "wireguard": "wireguard_interface"},
}


def build_from(role: str, params: Mapping[str, Any]) -> Build:
    """What to compile, from the options ``sources`` and ``capacity``."""
    capacity = Capacity(**{k: v for k, v in (params.get("capacity") or {}).items() if v is not None})
    return Build(role, params["sources"][role], tuple(sources.flags_of(capacity)))


def programs_from(role: str, params: Mapping[str, Any], build: Build) -> Desired:
    """Where the programs shall hang, from the options that name interfaces, ``xdp_mode`` and ``state``."""
    ports = {hook.port for hook in HOOKS[role]}
    return Desired(
        role=role,
        interfaces={port: params[option] for port, option in PORT_OPTIONS[role].items() if port in ports},
        build=build.identity,
        xdp_mode=params.get("xdp_mode") or "native",
        present=params.get("state", "present") == "present",
        force=bool(params.get("force")),
        alone=params.get("alone") is not False,
    )


def _listed(**options: dict[str, Any]) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "default": [], "options": options}


_STR: dict[str, Any] = {"type": "str", "required": True}
_INT: dict[str, Any] = {"type": "int", "required": True}
_OVERSIZE: dict[str, Any] = {"type": "str", "choices": ["refuse", "fragment"], "default": "refuse"}
_HOST: dict[str, Any] = {"name": _STR, "relay_address": {"type": "str"}, "relay_address_ipv6": {"type": "str"}}
_COUNT: dict[str, Any] = {"type": "int"}
_NETWORKS: dict[str, Any] = {"type": "list", "elements": "str", "default": []}

STATES = ["merged", "overridden", "deleted", "gathered", "rendered"]

# The options of forwarder_map: a plan's ``edge`` or ``worker`` object, flat.
CONTENTS_SPEC: dict[str, Any] = {
    "role": {"type": "str", "choices": ["edge", "worker"], "required": True},
    "state": {"type": "str", "choices": STATES, "default": "overridden"},
    "force": {"type": "bool", "default": False},
    "keep_leaving": {"type": "bool", "default": False},
    "contents": {"type": "json"},
    "relay_address": {"type": "str"},
    "relay_address_ipv6": {"type": "str"},
    "wireguard_interface": {"type": "str", "default": "wg0"},
    "uplink": {"type": "str", "default": "eth0"},
    "reply_interface": {"type": "str"},
    "container_interface": {"type": "str", "default": "podman0"},
    "workers": _listed(**_HOST, state={"type": "str", "choices": ["live", "dead"], "default": "live"}),
    "services": _listed(
        name=_STR,
        vip=_STR,
        port=_INT,
        last_port={"type": "int"},
        affinity={"type": "str", "choices": ["flow", "client"], "default": "flow"},
        oversize=_OVERSIZE,
        table_size={"type": "int", "choices": list(TABLE_SIZES)},
        drain_deadline={"type": "int", "default": 600},
        backends=_listed(
            endpoint_id=_INT,
            worker=_STR,
            weight={"type": "int", "default": 1},
            drain_weight={"type": "int", "default": 0},
        ),
    ),
    "filters": _listed(
        service=_STR,
        allow=_NETWORKS,
        deny=_NETWORKS,
        packets_per_second=_COUNT,
        burst=_COUNT,
        per_source_packets_per_second=_COUNT,
        per_source_burst=_COUNT,
    ),
    "drop_unserved": {"type": "bool", "default": False},
    "edges": _listed(**_HOST),
    "endpoints": _listed(
        endpoint_id=_INT,
        service={"type": "str"},
        vip={"type": "str"},
        port={"type": "int"},
        last_port={"type": "int"},
        container_address={"type": "str"},
        container_port={"type": "int"},
        reply={"type": "str", "choices": ["edge", "direct"], "default": "edge"},
        drain_idle={"type": "int", "default": 60},
        oversize=_OVERSIZE,
    ),
    "moved": _listed(
        endpoint_id=_INT,
        service={"type": "str"},
        vip={"type": "str"},
        port={"type": "int"},
        last_port={"type": "int"},
        moved_to={"type": "str"},
    ),
}
