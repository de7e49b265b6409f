# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that are JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.modules import object_of
from hypothesis import given
from hypothesis import strategies as st

TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), TREES), st.booleans())
def test_an_object_is_the_same_as_text_and_as_a_dictionary(plan: dict[str, Any], as_text: bool) -> None:
    validator = ArgumentSpecValidator({"plan": {"type": "json"}})
    checked = validator.validate({"plan": json.dumps(plan) if as_text else plan})
    assert not checked.error_messages
    assert object_of(checked.validated_parameters, "plan") == plan


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "plan is no JSON: "), ("[]", "must be a JSON object and is a list"), ("7", "must be a JSON object")],
)
def test_anything_else_is_refused(text: str, told: str) -> None:
    with pytest.raises(EdgewireError, match=told):
        object_of({"plan": text}, "plan")
