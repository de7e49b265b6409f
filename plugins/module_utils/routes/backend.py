# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend of routes and rules: what the module, ``fleet_verify`` and the boot unit call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.guard import Guard
from ansible_collections.edgewire.fleet.plugins.module_utils.routes import announce, planner, render
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.model import (
    DesiredRouting,
    ObservedRouting,
    desired_from_params,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.routes.rtnetlink import RouteKernel
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step


class Machine(Protocol):
    """Something with one table of ours: the kernel, or a fake."""

    def observe(self) -> ObservedRouting:
        """What it holds."""

    def perform(self, operation: planner.Operation) -> None:
        """Carry out one operation, or raise EdgewireError."""


def preview(params: Mapping[str, Any]) -> list[Step]:
    """What `apply` would do for the plan's ``routes`` object. Read-only.

    A route over an interface that does not exist yet is shown as one to add and is no error.
    """
    return apply(params, check_mode=True)


def apply(params: Mapping[str, Any], check_mode: bool, absent: bool = False, guard: Guard | None = None) -> list[Step]:
    """Make our table and rules what the plan's ``routes`` object says; ``absent``: empty them.

    ``guard`` is armed before the first route or rule is changed; the files are not taken back. What an
    earlier run's guard left is shown as a step.
    With ``announce`` in ``params`` the files that tell others what is ours come first, and go last.
    Raises EdgewireError with what a person has to mend: routes of others in the way, interfaces
    that do not exist, refusals of the kernel. No route is changed before the first two are checked.
    """
    desired = desired_from_params(params)
    if params.get("announce") and not absent:
        announce.check_names(desired.table, desired.protocol)
    files = announce.plan(desired.protocol, absent) if params.get("announce") else []
    guard = guard or Guard("routes", desired.table)
    left = guard.found()
    if not check_mode and not absent:
        announce.perform(files)
    with RouteKernel(desired.table, desired.protocol) as kernel:
        steps = converge(
            kernel, desired, check_mode, absent, lambda before: guard.arm(lambda: _way_back(desired, before))
        )
    if left and not steps and not check_mode:
        guard.settle()
    if not check_mode and absent:
        announce.perform(files)
    return [*left, *files, *steps]


def rendered(params: Mapping[str, Any]) -> dict[str, str]:
    """The routes and rules that ``params`` want as files, path -> content; looks at nothing on this host."""
    return render.rendered(desired_from_params(params))


def gathered(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the kernel has of ours, as options for `apply`, and the names of what no option can say."""
    table, protocol = params["table"], params["protocol"]
    with RouteKernel(table, protocol) as kernel:
        return render.gathered(kernel.observe(), table, protocol)


def foreign(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What others have in the table, and their rules that lead to it. Read-only."""
    with RouteKernel(params["table"], params["protocol"]) as kernel:
        return render.foreign(kernel.observe())


def converge(
    machine: Machine,
    desired: DesiredRouting,
    check_mode: bool,
    absent: bool = False,
    before_change: Callable[[ObservedRouting], None] | None = None,
) -> list[Step]:
    """Plan against the machine and, unless in check mode, perform the plan and look again.

    ``before_change`` gets what there was, if something is going to be changed.
    """
    observed = machine.observe()
    steps = _plan(desired, observed, absent)
    if check_mode or not steps:
        return steps
    missing = [] if absent else planner.missing_interfaces(desired, observed)
    if missing:
        raise EdgewireError(
            f"routes of table {desired.table} want interfaces that do not exist: {', '.join(missing)}; the module"
            " wireguard, or whatever else makes them, has to run first"
        )
    if before_change is not None:
        before_change(observed)
    for operation in planner.ordered(steps):
        machine.perform(operation)
    left = _plan(desired, machine.observe(), absent)
    if left:
        names = ", ".join(f"{step.kind} {step.name}" for step in left)
        raise EdgewireError(
            f"table {desired.table}: accepted, but not in effect: {names}. Something else on this host changes"
            " them, a network manager or a routing daemon: have it leave this table alone, and run again"
        )
    return steps


def restore(machine: Machine, desired: DesiredRouting, before: ObservedRouting) -> list[Step]:
    """Undo what was made of ``before`` for the sake of ``desired``.

    Routes whose interface has gone have gone with it, and what no option can say is not brought back.
    """
    steps = planner.plan_back(desired, before, machine.observe())
    for operation in planner.ordered(steps):
        machine.perform(operation)
    return steps


def _way_back(desired: DesiredRouting, before: ObservedRouting) -> Callable[[], list[Step]]:
    def back() -> list[Step]:
        with RouteKernel(desired.table, desired.protocol) as kernel:
            return restore(kernel, desired, before)

    return back


def _plan(desired: DesiredRouting, observed: ObservedRouting, absent: bool) -> list[Step]:
    if absent:
        return planner.plan_absent(desired, observed)
    return planner.plan(desired, observed)
