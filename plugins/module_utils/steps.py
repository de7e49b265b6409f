# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps: the one form in which every planner of this collection says what it would change.

A planner compares what is wanted with what the kernel has and returns a list of steps. The same list is applied,
shown as the diff, counted for ``changed``, and reported by ``fleet_verify`` as drift, so these four cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verb = Literal["add", "change", "remove"]


class Told(Mapping[str, Any]):
    """What a step says of a thing, worked out by who looks at it: of 50,000 steps a module shows 2,000."""

    __slots__ = ("_all", "_arguments", "_work_out")

    def __init__(self, work_out: Callable[..., Mapping[str, Any]], *arguments: Any) -> None:
        self._work_out, self._arguments = work_out, arguments
        self._all: Mapping[str, Any] | None = None

    def _words(self) -> Mapping[str, Any]:
        if self._all is None:
            self._all = self._work_out(*self._arguments)
        return self._all

    def __getitem__(self, name: str) -> Any:
        return self._words()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words())

    def __len__(self) -> int:
        return len(self._words())


@dataclass(frozen=True, slots=True)
class Step:
    """One smallest change, in human terms, with the operation that carries it out.

    ``kind`` is the sort of thing ("peer", "route", "service"), ``name`` tells it from others of its kind
    ("203.0.113.53:53/udp"). ``before`` and ``after`` describe it in the inventory's words and never hold a secret;
    they are None where the thing is absent. ``op`` is for the backend that applies the step; it is never shown.
    """

    verb: Verb
    kind: str
    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    op: Any = field(default=None, compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        """The step as a module returns it: verb, kind, name, before, after."""
        return {
            "verb": self.verb,
            "kind": self.kind,
            "name": self.name,
            "before": dict(self.before) if self.before is not None else None,
            "after": dict(self.after) if self.after is not None else None,
        }


def make_step(
    kind: str,
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    op: Any = None,
) -> Step:
    """A step whose verb follows from which of ``before`` and ``after`` is there."""
    verb: Verb = "add" if before is None else "remove" if after is None else "change"
    return Step(verb, kind, name, before, after, op)


def _lines(steps: Iterable[Step], side: Literal["before", "after"]) -> str:
    shown = []
    for step in steps:
        value = getattr(step, side)
        if value is not None:
            shown.append(f"{step.kind} {step.name}: {json.dumps(dict(value), sort_keys=True, default=str)}\n")
    return "".join(sorted(shown))


def diff_of(steps: Iterable[Step], header: str = "") -> dict[str, str]:
    """Ansible's diff structure for the steps: one sorted line a thing, before and after."""
    listed = list(steps)
    diff = {"before": _lines(listed, "before"), "after": _lines(listed, "after")}
    if header:
        diff["before_header"] = diff["after_header"] = header
    return diff


def result_of(steps: Iterable[Step], header: str = "", **more: Any) -> dict[str, Any]:
    """What a module returns for the steps: ``changed``, ``diff``, ``steps`` and whatever else it has to say."""
    listed = list(steps)
    return {
        "changed": bool(listed),
        "diff": diff_of(listed, header),
        "steps": [step.describe() for step in listed],
        **more,
    }
