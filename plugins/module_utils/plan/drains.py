# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that were taken out of service by ``edgewire.fleet.drain``: one YAML file beside the inventory,
``edgewire_drained: [host, ...]``, where every later run finds them.

A worker that is drained gets no new flows, as with ``edgewire_worker_state: drain``. An edge's plan stays as it is:
packets stop coming because its addresses are no longer announced, which is the playbook's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.edgewire.fleet.plugins.module_utils.files import write_if_changed
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.convert import shown
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.inventory import Fleet
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems

KEY = "edgewire_drained"
FILE = "edgewire_drained.yml"
_HEADER = (
    "# Hosts out of service, written by edgewire.fleet.drain; edgewire.fleet.undrain brings them back.\n"
    "# Keep it with the inventory: every run of site leaves these hosts drained.\n"
    "---\n"
)
_FORCE = "; drain all the same with -e edgewire_drain_force=true"


@dataclass(frozen=True)
class Request:
    """Whom a run shall drain and bring back; ``force`` also where nobody is left to serve."""

    drain: tuple[str, ...] = ()
    undrain: tuple[str, ...] = ()
    force: bool = False

    def of(self, known: Iterable[str]) -> tuple[str, ...]:
        """The hosts that are drained once this is done, sorted."""
        return tuple(sorted({*known, *self.drain} - {*self.undrain}))


NOTHING = Request()


def load(path: Path, problems: Problems) -> tuple[str, ...]:
    """The hosts in the file at ``path``, sorted; a file that does not exist names none."""
    import yaml  # type: ignore[import-untyped,unused-ignore]  # the controller has it; boxes that import this may not

    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.add(str(path), "", f"cannot be read: {error}; restore it from version control")
        return ()
    if data is None:
        return ()
    if not isinstance(data, dict) or set(data) != {KEY} or not isinstance(data[KEY] or [], list):
        problems.add(str(path), "", f"must hold one list of hosts, {KEY}, and nothing else")
        return ()
    names = data[KEY] or []
    for name in names:
        if not isinstance(name, str):
            problems.add(str(path), KEY, f"{shown(name)} is not a host's name")
    return tuple(sorted({name for name in names if isinstance(name, str)}))


def store(path: Path, names: Iterable[str]) -> bool:
    """Have the file name these hosts, and none if there are none; whether anything changed."""
    listed = "".join(f"  - {json.dumps(name)}\n" for name in sorted(names))
    if listed:
        return write_if_changed(path, f"{_HEADER}{KEY}:\n{listed}".encode(), durable=True)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def check(fleet: Fleet, before: Iterable[str], request: Request, problems: Problems) -> None:
    """Refuse to drain who does not exist, and, unless forced, who is the last to serve something.

    ``fleet`` is as it shall be, ``before`` who was drained until now.
    """
    edges, workers = ({host.name for host in hosts} for hosts in (fleet.edges, fleet.workers))
    # A host that has left the inventory may still be in the file, and is to be got out of it.
    for name in sorted({*request.drain, *request.undrain} - edges - workers - ({*before} - {*request.drain})):
        problems.add("the request", "drain", f"{shown(name)} is not a host of the fleet")
    for name in sorted({*request.drain} & {*request.undrain}):
        problems.add("the request", "drain", f"{name} is also to be undrained; choose one")
    if request.force:
        return
    drained = fleet.drained
    new = drained - {*before}
    idle = {host.name for host in fleet.workers if host.settings.worker_state != "live"}
    for service in fleet.services:
        able = {backend.worker for backend in service.backends if backend.share} - idle
        left = able - drained
        if able & new and not left:
            names = ", ".join(sorted(able & new))
            problems.add(
                f"service {service.name}", "", f"would have no backend but on drained workers ({names}){_FORCE}"
            )
    if edges & new and not edges - drained:
        problems.add("the edges", "", f"none would be left to take packets ({', '.join(sorted(edges & new))}){_FORCE}")
