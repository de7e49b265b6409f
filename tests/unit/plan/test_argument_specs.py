# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``ansible-doc -t role edgewire.fleet.mesh`` says of the inventory is what the planner reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.plan import filters, services, variables
from ansible_collections.edgewire.fleet.plugins.module_utils.plan.problems import Problems

ROOT = Path(__file__).parents[3]
SPECS = yaml.safe_load((ROOT / "roles/mesh/meta/argument_specs.yml").read_text())["argument_specs"]
SPEC: Mapping[str, Any] = SPECS["inventory"]["options"]
SERVICE: Mapping[str, Any] = SPEC["edgewire_services"]["options"]
BACKEND: Mapping[str, Any] = SERVICE["backends"]["options"]
KNOWN: Mapping[str, variables.Variable] = {**variables.HOST_VARIABLES, **variables.FLEET_VARIABLES}
LEAST: Mapping[str, Any] = {
    "name": "dns",
    "vips": ["203.0.113.53"],
    "ports": [53],
    "backends": [{"worker": "worker1", "address": "10.88.0.53"}],
}


def in_ansible_markup(about: str) -> str:
    return re.sub(r"`([^`]+)`", r"C(\1)", about)


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        (SPEC, {name: variable.about for name, variable in KNOWN.items()}),
        (SERVICE, services.SERVICE_KEYS),
        (BACKEND, services.BACKEND_KEYS),
        (SERVICE["sources"]["options"], filters.SOURCES_KEYS),
        (SERVICE["limits"]["options"], filters.LIMITS_KEYS),
    ],
    ids=["variables", "services", "backends", "sources", "limits"],
)
def test_both_have_the_same_names_and_say_the_same_of_them(spec: Mapping[str, Any], known: Mapping[str, str]) -> None:
    assert {name: option["description"] for name, option in spec.items()} == {
        name: in_ansible_markup(about) for name, about in known.items()
    }


def choices_of(convert: Any) -> list[str] | None:
    """What a converter names when it refuses, if it takes one of a few words."""
    try:
        convert("none of these")
    except ValueError as error:
        found = re.search(r" is not one of (.*)", str(error))
        return found[1].split(", ") if found else None
    return None


def test_variables_have_the_planners_defaults_and_choices() -> None:
    for name, option in SPEC.items():
        default = KNOWN[name].default
        assert option.get("default") == ([] if default == () else default), name
        assert sorted(option.get("choices", [])) == (choices_of(KNOWN[name].convert) or []), name


def parsed(**more: Any) -> services.Service:
    """The one service that these keys, over the least that there must be, describe; or what is wrong, as a failure."""
    problems = Problems()
    (service,) = services.parse_services([{**LEAST, **more}], ["worker1"], problems)
    problems.raise_if_any()
    return service


def parsed_backend(**more: Any) -> services.Service:
    return parsed(backends=[{**LEAST["backends"][0], **more}])


@pytest.mark.parametrize(("spec", "parse"), [(SERVICE, parsed), (BACKEND, parsed_backend)], ids=["service", "backend"])
def test_what_is_left_out_is_the_default_and_only_the_choices_are_taken(spec: Mapping[str, Any], parse: Any) -> None:
    for name, option in spec.items():
        if "default" in option:
            assert parse(**{name: option["default"]}) == parse(), name
        if "choices" in option:
            with pytest.raises(EdgewireError, match=f"is not one of {', '.join(map(str, sorted(option['choices'])))}"):
                parse(**{name: "none of these"})


def test_what_must_be_there_must() -> None:
    assert {name for name, option in SERVICE.items() if option.get("required")} == set(LEAST)
    for name in LEAST:
        with pytest.raises(EdgewireError, match=name):
            parsed(**{name: None})
    assert [name for name, option in BACKEND.items() if option.get("required")] == ["worker"]
    with pytest.raises(EdgewireError, match="worker"):
        parsed_backend(worker=None)


@pytest.mark.parametrize("inventory", ["example", "lab"])
def test_inventories_are_of_the_types_that_it_names(inventory: str) -> None:
    files = (ROOT / "inventories" / inventory / "group_vars/all").glob("edgewire.yml")
    given = {name: value for path in files for name, value in yaml.safe_load(path.read_text()).items()}
    assert given["edgewire_services"]
    as_modules_have_it = {name: spec_of_module(option) for name, option in SPEC.items()}
    result = ArgumentSpecValidator(as_modules_have_it).validate({k: v for k, v in given.items() if k in SPEC})
    assert result.error_messages == []


def spec_of_module(option: Mapping[str, Any]) -> dict[str, Any]:
    """A role's option as the validator takes it."""
    kept = {key: value for key, value in option.items() if key not in ("description", "options")}
    if "options" in option:
        kept["options"] = {name: spec_of_module(inner) for name, inner in option["options"].items()}
    return kept
