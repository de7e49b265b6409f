# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages say all that there is to say: every drop reason and event, every variable, a default that is true."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import filters, services, variables

ROOT = Path(__file__).parents[3]


def first_cells(page: str, heading: str) -> list[str]:
    """The code words in the first cells of the table under a heading of a page."""
    section = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([a-z_]+)`", row)]


def test_the_runbook_explains_every_drop_reason_in_order() -> None:
    assert first_cells("runbook.md", "Drop reasons") == list(layout.DROP_REASONS)


def test_the_runbook_explains_every_event() -> None:
    assert sorted(first_cells("runbook.md", "What else is counted")) == sorted(layout.EVENTS)


def test_every_variable_and_key_says_what_it_is() -> None:
    said = {
        name: variable.about for name, variable in {**variables.HOST_VARIABLES, **variables.FLEET_VARIABLES}.items()
    }
    for known in (services.SERVICE_KEYS, services.BACKEND_KEYS, filters.SOURCES_KEYS, filters.LIMITS_KEYS):
        said |= known
    assert [name for name, about in said.items() if not about.endswith(".")] == []
