# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of maps: what it says comes back, and it tells layouts apart."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, schema


@pytest.mark.parametrize("role", ["edge", "worker"])
def test_a_description_says_what_the_maps_are(role: str) -> None:
    found = schema.parse(schema.describe(role))
    assert [(m.name, m.type, m.key, m.value, m.carried) for m in found.maps.values()] == [
        (spec.name, spec.type, spec.key, spec.value, spec.carried) for spec in layout.MAPS[role]
    ]
    assert found.hash == schema.schema_hash(role)


def test_layouts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = schema.schema_hash("edge")
    assert edge != schema.schema_hash("worker")
    swapped = layout.Record("service", (layout.SERVICE.fields[1], layout.SERVICE.fields[0], *layout.SERVICE.fields[2:]))
    assert swapped.size == layout.SERVICE.size
    specs = [replace(s, value=swapped) if s.value is layout.SERVICE else s for s in layout.MAPS["edge"]]
    monkeypatch.setitem(layout.MAPS, "edge", tuple(specs))
    assert schema.schema_hash("edge") != edge


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"maps": [{}], "numbers": {}}'])
def test_what_is_no_description_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"description|Expecting"):
        schema.parse(text)


def test_a_kind_of_field_from_the_future_is_refused() -> None:
    content = json.loads(schema.describe("edge"))
    content["maps"][0]["value"]["fields"] = [["value", "u128"]]
    with pytest.raises(ValueError, match="u128"):
        schema.parse(json.dumps(content))
