# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was compiled once is kept: it comes back without a compiler, and what is damaged never gets in."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    attach,
    compiler,
    contents,
    forwarder,
    kept_builds,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EDGE_PARAMS,
    V4,
    V6,
    Tun,
    Wire,
    build_of,
    desired,
    frame,
    make_edge_interfaces,
    tunnel_of,
)
from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns
from ansible_collections.edgewire.fleet.tests.kernel.test_edge_packets import query, relayed

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]
pytestmark = pytest.mark.kernel

BUILD = build_of("edge")
WANTED = desired("edge", BUILD)


@pytest.fixture
def edge(fresh_pins: Path, make_netns: Callable[[], Netns]) -> Iterator[tuple[Tun, Wire]]:
    """An edge's interfaces, nothing attached and nothing kept; this thread is inside."""
    ns, client = make_netns(), make_netns()
    make_edge_interfaces(ns, client)
    tun, wire = tunnel_of(ns, V4.edge_overlay, V6.edge_overlay), Wire(client, "eth0")
    with ns:
        yield tun, wire
    tun.close()
    wire.close()


def reboot() -> None:
    """What a reboot does to BPF: hooks and pins are gone, the disk is not."""
    kept = kept_builds.DIRECTORY
    aside = kept.with_name("aside")
    shutil.copytree(kept, aside)
    forwarder.ensure(desired("edge", BUILD, present=False), None)
    assert not kept.exists()
    aside.rename(kept)


def no_compiler(*_: Any) -> Any:
    raise EdgewireError("there is no compiler")


def test_programs_come_back_without_a_compiler(edge: tuple[Tun, Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    tun, wire = edge
    forwarder.ensure(WANTED, BUILD)
    reboot()
    monkeypatch.setattr(compiler, "compile_and_load", no_compiler)
    assert len(forwarder.ensure(WANTED, BUILD)) == 3
    assert forwarder.ensure(WANTED, BUILD) == []
    contents.ensure("edge", EDGE_PARAMS)
    for net in (V4, V6):
        wire.send(frame(query(net)))
        assert tun.read().hex() == relayed(net, query(net)).hex()


def test_a_build_that_was_lost_is_kept_again_and_nothing_else_happens(edge: tuple[Tun, Wire]) -> None:
    forwarder.ensure(WANTED, BUILD)
    before = attach.observe(WANTED).attached
    kept_builds.forget("edge")
    predicted = forwarder.preview(WANTED)
    assert [(step.verb, step.kind) for step in predicted] == [("add", "build")]
    assert forwarder.ensure(WANTED, BUILD) == predicted
    assert forwarder.preview(WANTED) == []
    assert attach.observe(WANTED).attached == before


def with_half_an_instruction(text: str) -> str:
    """A build whose first program ends within an instruction (8 bytes)."""
    build = json.loads(text)
    name, code = next(iter(build["programs"].items()))
    build["programs"][name] = base64.b64encode(base64.b64decode(code)[:-7]).decode()
    return json.dumps(build)


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[: len(text) // 2], id="cut short"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: "[]", id="another thing"),
        pytest.param(lambda text: text.replace('"build": "', '"build": "00', 1), id="of another build"),
        pytest.param(lambda text: json.dumps({**json.loads(text), "maps": []}), id="without its maps"),
        pytest.param(lambda text: json.dumps({**json.loads(text), "format": 0}), id="of another format"),
        pytest.param(with_half_an_instruction, id="half an instruction"),
    ],
)
def test_a_damaged_build_is_compiled_anew(edge: tuple[Tun, Wire], damage: Callable[[str], str]) -> None:
    forwarder.ensure(WANTED, BUILD)
    reboot()
    path = kept_builds.path_of("edge", BUILD.identity)
    whole = path.read_text()
    path.write_text(damage(whole))
    assert kept_builds.read("edge", BUILD.identity) is None
    assert len(forwarder.ensure(WANTED, BUILD)) == 3
    assert kept_builds.read("edge", BUILD.identity) is not None


def test_what_the_kernel_refuses_is_compiled_anew(edge: tuple[Tun, Wire]) -> None:
    forwarder.ensure(WANTED, BUILD)
    reboot()
    path = kept_builds.path_of("edge", BUILD.identity)
    content = json.loads(path.read_text())
    content["programs"]["edge_handoff"] = content["programs"]["edge_xdp"]  # of another kind: no verifier takes it
    path.write_text(json.dumps(content))
    assert len(forwarder.ensure(WANTED, BUILD)) == 3
    assert json.loads(path.read_text()) != content


def test_only_root_can_write_what_will_be_loaded(edge: tuple[Tun, Wire]) -> None:
    forwarder.ensure(WANTED, BUILD)
    path = kept_builds.path_of("edge", BUILD.identity)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.usefixtures("quick_compiler")
def test_the_builds_of_other_versions_go(edge: tuple[Tun, Wire]) -> None:
    forwarder.ensure(WANTED, BUILD)
    other = kept_builds.path_of("edge", b"another build's identity, 32 byt")
    other.write_text("{}")
    of_worker = kept_builds.path_of("worker", BUILD.identity)
    of_worker.write_text("{}")
    kept_builds.path_of("edge", BUILD.identity).unlink()
    forwarder.ensure(WANTED, BUILD)
    assert sorted(path.name for path in kept_builds.DIRECTORY.iterdir()) == sorted(
        [kept_builds.path_of("edge", BUILD.identity).name, of_worker.name]
    )


def test_a_compile_leaves_no_descriptor_open(edge: tuple[Tun, Wire]) -> None:
    """Whoever compiles often, as these tests do, must not run out of them."""

    def in_use() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    forwarder.ensure(WANTED, BUILD)
    before = in_use()
    kept_builds.forget("edge")
    forwarder.ensure(WANTED, BUILD)
    assert in_use() == before
