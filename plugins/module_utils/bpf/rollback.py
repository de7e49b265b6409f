# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back to the build that ran before: what ``forwarder_rollback`` calls.

It is an upgrade to another build that is kept on this box, with the services that run now: the same carrying over, the
same probes, the same swap. Nothing is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import forwarder, kept_builds, map_io
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS, Desired
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


@dataclass(frozen=True)
class Outcome:
    """The steps, and the identities of the builds that run after and before them; equal without steps."""

    steps: list[Step]
    build: bytes
    replaced: bytes


def roll_back(role: str, check_mode: bool) -> Outcome:
    """Put the role's previous programs on the hooks where the present ones are.

    Where no build is kept that ran before the present one, there is nothing to do; so a second call does nothing.

    :raises EdgewireError: no programs run, they are not whole, or the previous build does not work.
    """
    desired, running = _target(role)
    if desired is None:
        return Outcome([], running, running)
    steps = forwarder.preview(desired) if check_mode else forwarder.ensure(desired, None)
    return Outcome(steps, desired.build, running)


def _target(role: str) -> tuple[Desired | None, bytes]:
    found = map_io.find_attached(role)
    module = "xdp_forwarder" if role == "edge" else "tc_delivery"
    missing = [hook.program for hook in HOOKS[role] if hook.program not in found]
    builds = {there.build for _, there in found.values() if there.build is not None}
    if missing or len(builds) != 1:
        what = f"{', '.join(missing)} not attached" if missing else "of several builds"
        raise EdgewireError(f"the {role} programs are not whole on this box ({what}); run {module} first")
    running = builds.pop()
    kept = kept_builds.read(role, running)
    previous = kept.previous if kept is not None else None
    if previous is None or kept_builds.read(role, previous) is None:
        return None, running
    modes = [there.mode for _, there in found.values() if there.mode is not None]
    interfaces = {hook.port: found[hook.program][0] for hook in HOOKS[role]}
    return Desired(role, interfaces, previous, modes[0] if modes else "native"), running
