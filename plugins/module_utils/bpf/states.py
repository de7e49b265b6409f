# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of ``forwarder_map``: what of the running maps stays, as the whole contents that are wanted then. Pure.

A state is only another way to say what shall be there, so that one planner writes it, shows it, and finds nothing left
to do the second time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.ports import claim_text
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError

Options = Mapping[str, Any]
Key = Callable[[Options], Any]


def _claim(item: Options) -> tuple[str, int, int]:
    """What a service claims; an address that is none is told by whoever reads the whole."""
    last = item.get("last_port")
    try:
        vip = str(ipaddress.ip_address(item["vip"]))
    except ValueError:
        vip = item["vip"]
    return vip, item["port"], item["port"] if last is None else last


def _by(name: str) -> Key:
    return lambda item: item[name]


# What tells the entries of a list from each other, in the order of their being looked at.
_KEYS: dict[str, dict[str, Key]] = {
    "edge": {"workers": _by("name"), "services": _claim, "filters": _by("service")},
    "worker": {
        "workers": _by("name"),
        "edges": _by("name"),
        "endpoints": _by("endpoint_id"),
        "moved": _by("endpoint_id"),
    },
}
_endpoint_id = _by("endpoint_id")


def merged(role: str, params: Options, running: Options) -> dict[str, Any]:
    """The running contents, and of ``params`` what is new or differs: nothing goes.

    A service keeps the backends that ``params`` does not name. An endpoint that has moved and one that is here are the
    same endpoint. What is no list is as ``params`` says.
    """
    result = {**running, **{name: value for name, value in params.items() if name not in _KEYS[role]}}
    for name, key in _KEYS[role].items():
        here = {key(item): item for item in running[name]}
        for item in params.get(name) or ():
            known = here.get(key(item), {})
            more = _united(known.get("backends", ()), item.get("backends") or ()) if name == "services" else {}
            here[key(item)] = {**item, **more}
        result[name] = list(here.values())
    if role == "worker":
        for name, other in (("moved", "endpoints"), ("endpoints", "moved")):
            given = {item["endpoint_id"] for item in params.get(other) or ()}
            result[name] = [item for item in result[name] if item["endpoint_id"] not in given]
    return result


def _united(running: Iterable[Options], given: Iterable[Options]) -> dict[str, list[Options]]:
    both = {_endpoint_id(backend): backend for backend in running}
    both.update({_endpoint_id(backend): backend for backend in given})
    return {"backends": list(both.values())}


def staying(role: str, params: Options, running: Options) -> dict[str, Any]:
    """What ``params`` say, and of what runs besides that what packets on their way still need.

    On a worker that is all that runs: an edge may not know yet that an endpoint has gone. On an edge it is the backends
    that have left a service: they are in no table, but replies to what they were sent find their way.
    """
    if role == "worker":
        return merged(role, params, running)
    here = {_claim(item): item["backends"] for item in running["services"]}
    names = {worker["name"] for worker in params["workers"]}
    known = {worker["name"]: worker for worker in running["workers"] if worker["name"] not in names}
    services, needed = [], set()
    for service in params["services"]:
        given = {_endpoint_id(backend) for backend in service["backends"]}
        left = [
            {"endpoint_id": backend["endpoint_id"], "worker": backend["worker"], "weight": 0, "leaving": True}
            for backend in here.get(_claim(service), ())
            if _endpoint_id(backend) not in given and backend["worker"] in names | known.keys()
        ]
        needed |= {backend["worker"] for backend in left} - names
        services.append({**service, "backends": [*service["backends"], *left]} if left else service)
    workers = [*params["workers"], *(known[name] for name in sorted(needed))]
    return {**params, "services": services, "workers": workers}


def deleted(role: str, params: Options, running: Options, force: bool) -> dict[str, Any]:
    """The running contents without what ``params`` names; what is not there is no error.

    A service for which backends are named loses these, one without goes as a whole.

    :raises EdgewireError: a service would be left without a backend that takes new flows, and ``force`` is not set.
    """
    result = dict(running)
    for name, key in _KEYS[role].items():
        named = {key(item): item for item in params.get(name) or ()}
        result[name] = [item for item in running[name] if key(item) not in named]
    if role == "edge":
        partly = {_claim(item): item["backends"] for item in params.get("services") or () if item.get("backends")}
        kept = [item for item in running["services"] if _claim(item) in partly]
        result["services"] += [_without(item, partly[_claim(item)]) for item in kept]
        names = {item["name"] for item in result["services"]}
        result["filters"] = [item for item in result["filters"] if item["service"] in names]
        if not force:
            _refuse_last(running["services"], result["services"])
    return result


def _without(service: Options, backends: Iterable[Options]) -> Options:
    gone = {_endpoint_id(backend) for backend in backends}
    return {**service, "backends": [b for b in service["backends"] if _endpoint_id(b) not in gone]}


def _refuse_last(before: Iterable[Options], after: Iterable[Options]) -> None:
    def serving(services: Iterable[Options]) -> dict[tuple[str, int, int], bool]:
        return {_claim(item): any(backend["weight"] for backend in item["backends"]) for item in services}

    served = serving(before)
    lost = [claim_text(*claim) for claim, live in serving(after).items() if served[claim] and not live]
    if lost:
        raise EdgewireError(
            f"the last backend that takes new flows would go, of {', '.join(sorted(lost))}; name the service without"
            " backends to delete it as a whole, or set force"
        )
