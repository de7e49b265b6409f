# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From files to the one text that is compiled, and what identifies it."""

from __future__ import annotations

import re

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import layout, sources
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import HOOKS
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.plugin_utils import bpf_sources

FILES = {
    "main.c": '#include "a.h"\n#include "b.h"\n#include <uapi/linux/ip.h>\nint main;\n',
    "a.h": '#include "common.h"\nint a;\n',
    "b.h": '#include "common.h"\nint b;\n',
    "common.h": "int common;\n",
}


def test_each_header_comes_once_and_lines_keep_their_places() -> None:
    assert sources.flatten(FILES.__getitem__, "main.c").splitlines() == [
        '#line 1 "main.c"',
        '#line 1 "a.h"',
        '#line 1 "common.h"',
        "int common;",
        '#line 2 "a.h"',
        "int a;",
        '#line 2 "main.c"',
        '#line 1 "b.h"',
        "int b;",
        '#line 3 "main.c"',
        "#include <uapi/linux/ip.h>",
        "int main;",
    ]


@pytest.mark.parametrize("role", ["edge", "worker"])
def test_the_shipped_sources(role: str) -> None:
    text = bpf_sources.source_of(role)
    assert '#include "' not in text
    headers = re.findall(r"^#ifndef (EDGEWIRE_\w+_H)$", text, re.MULTILINE)
    assert len(headers) == len(set(headers)) > 0
    assert text.count("struct relay_option {") == 1
    assert re.findall(r"^#include (.*)$", text, re.MULTILINE) != []
    assert all("uapi/" in line for line in re.findall(r"^#include (.*)$", text, re.MULTILINE))
    assert text.endswith(layout.assertions(role))


def test_an_unknown_role() -> None:
    with pytest.raises(EdgewireError, match="'router'"):
        sources.source_of("router", FILES.__getitem__)


def test_identity_depends_on_source_flags_and_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = sources.flags_of(layout.Capacity())
    base = sources.identity_of("edge", "text", flags)
    assert sources.identity_of("edge", "text", list(flags)) == base
    others = [
        sources.identity_of("edge", "text ", flags),
        sources.identity_of("edge", "text", sources.flags_of(layout.Capacity(services=1))),
        sources.identity_of("worker", "text", flags),
    ]
    monkeypatch.setitem(layout.MAPS, "edge", layout.MAPS["edge"][1:])
    others.append(sources.identity_of("edge", "text", flags))
    assert len({base, *others}) == 5
    assert len(base) == 32


@pytest.mark.parametrize("role", ["edge", "worker"])
def test_every_drop_is_counted_and_can_be_sampled(role: str) -> None:
    """Whatever a program decides passes through the one place that counts, and nothing else says drop."""
    text = bpf_sources.source_of(role)
    programs = re.findall(r"^int (\w+)\((struct \w+) \*(\w+)\)\n\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    assert {name for name, *_ in programs} == {hook.program for hook in HOOKS[role]}
    for name, context, argument, body in programs:
        kind = "xdp" if context == "struct xdp_md" else "tc"
        assert re.fullmatch(rf"\treturn {kind}_verdict\({argument}, \w+\({argument}\)\);\n", body), name
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert sorted(re.findall(r"^.*(?:XDP_DROP|XDP_ABORTED|TC_ACT_SHOT).*$", code, re.MULTILINE)) == [
        "\treturn TC_ACT_SHOT;",
        "\treturn XDP_DROP;",
    ]
