# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text format, read back with Prometheus' own parser."""

from __future__ import annotations

from ansible_collections.edgewire.fleet.plugins.module_utils.metrics.exposition import Family, render
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

# What UTF-8 can carry, and no carriage return: the parser splits lines at it, which Prometheus itself does not.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1)
samples = st.dictionaries(texts, st.integers(0, 2**53), min_size=1, max_size=5)


@given(about=texts, counts=samples)
def test_what_is_written_is_what_is_read(about: str, counts: dict[str, int]) -> None:
    family = Family("edgewire_things_total", "counter", about)
    for text, count in counts.items():
        family.add(count, thing=text, nothing=None)
    (read,) = text_string_to_metric_families(render([family]))
    assert (read.name, read.type) == ("edgewire_things", "counter")
    assert {sample.labels["thing"]: sample.value for sample in read.samples} == counts
    assert all(set(sample.labels) == {"thing"} for sample in read.samples)


def test_a_family_without_samples_is_not_told() -> None:
    assert render([Family("edgewire_things_total", "counter", "Things.")]) == ""


def test_a_sample_needs_no_labels() -> None:
    family = Family("edgewire_thing", "gauge", "A thing.")
    family.add(1)
    assert render([family]) == "# HELP edgewire_thing A thing.\n# TYPE edgewire_thing gauge\nedgewire_thing 1\n"
