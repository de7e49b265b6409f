# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' text format, written: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).

The library ``prometheus_client`` would be one more package on every box, for a format of three line forms; the tests
read what is written here with its parser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """Metrics of one name. ``kind`` is "counter" (its name ends in _total) or "gauge"; units are in the name."""

    name: str
    kind: str
    about: str
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float, **labels: str | int | None) -> None:
        """One sample; a label without a value is left out, which is the same to Prometheus as an empty one."""
        self.samples.append(({name: str(text) for name, text in labels.items() if text is not None}, value))


def _escaped(text: str, quote: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _line(name: str, labels: Labels, value: float) -> str:
    told = ",".join(f'{label}="{_escaped(text, quote=True)}"' for label, text in labels.items())
    return f"{name}{{{told}}} {value}" if told else f"{name} {value}"


def render(families: Iterable[Family]) -> str:
    """The families that have samples, as the content of a file; samples in the order in which they were added."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines.append(f"# HELP {family.name} {_escaped(family.about, quote=False)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines += [_line(family.name, labels, value) for labels, value in family.samples]
    return "".join(f"{line}\n" for line in lines)
