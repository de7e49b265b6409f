# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of upgrades share: an edge in a namespace, and traffic through it.

PYTEST_DONT_REWRITE (a plugin that its test modules also import from).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import (
    contents,
    forwarder,
    map_io,
    successors,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.programs import Desired
from ansible_collections.edgewire.fleet.plugins.module_utils.steps import Step
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EDGE_PARAMS,
    EDGE_RELAY,
    PORT,
    V4,
    V6,
    WORKER_RELAY,
    BareEdge,
    Tun,
    Wire,
    build_of,
    datagram,
    desired,
    drops,
    frame,
    make_edge_interfaces,
    payload_of,
    relay_packet,
    tunnel_of,
)
from ansible_collections.edgewire.fleet.tests.kernel.conftest import Netns

OLD = build_of("edge")
# Another identity, the same layout: what a new release of the collection is as a rule.
NEW = replace(OLD, source=OLD.source + "/* newer */\n")


class Edge(BareEdge):
    """An edge that is upgraded, and the namespace of its one client."""

    def __init__(self, ns: Netns, client: Netns, tun: Tun, wire: Wire) -> None:
        super().__init__(ns, tun, wire)
        self.client, self.build = client, OLD

    def wanted(self, **more: Any) -> Desired:
        """The programs of the present build."""
        return replace(desired("edge", self.build), **more)

    def ensure(self, params: dict[str, Any] | None = None, **more: Any) -> list[Step]:
        """Predict, do, and find that the prediction was right and that the next run finds nothing to do."""
        predicted = forwarder.preview(self.wanted(**more))
        steps = forwarder.ensure(self.wanted(**more), self.build, params)
        assert steps == predicted
        assert forwarder.preview(self.wanted(**more)) == []
        assert forwarder.ensure(self.wanted(**more), self.build, params) == []
        return steps

    def run_after(self) -> None:
        """A whole run, as after any other: it changes nothing, neither programs nor contents."""
        assert forwarder.ensure(self.wanted(), self.build, EDGE_PARAMS) == []
        assert contents.preview("edge", EDGE_PARAMS) == []
        assert contents.ensure("edge", EDGE_PARAMS) == []

    def serve(self) -> None:
        """The present build with its services."""
        self.ensure()
        contents.ensure("edge", EDGE_PARAMS)

    def upgrade(self, build: successors.Build, params: dict[str, Any] | None = None) -> list[Step]:
        """Make another build the present one."""
        self.build = build
        return self.ensure(params)

    def running(self) -> set[bytes | None]:
        """The builds that are attached anywhere."""
        return {there.build for _, there in map_io.find_attached("edge").values()}

    def map_ids(self) -> dict[str, int]:
        """The running maps' ids."""
        with map_io.running_maps("edge") as maps:
            assert maps is not None
            return {name: found.info.id for name, found in maps.items()}

    def drops(self) -> dict[str, int]:
        """The running counters of drops, those that are not 0."""
        with map_io.running_maps("edge") as maps:
            assert maps is not None
            return {name: count for name, count in drops(maps).items() if count}

    def relay_one(self) -> None:
        """A client's packet of each family goes through, and its answer comes back."""
        super().relay_one()
        self.tun.write(reply(b"answer"))
        assert payload_of(self.wire.read()[14:]) == b"answer"


def reply(payload: bytes) -> bytes:
    """A worker's relayed answer to the client."""
    inner = datagram(V4.dns_vip, V4.client, PORT, 40_000, payload)
    return relay_packet(WORKER_RELAY, EDGE_RELAY, V4.dns_endpoint, V4.client, inner)


@pytest.fixture
def edge(fresh_pins: Path, quick_compiler: None, make_netns: Callable[[], Netns]) -> Iterator[Edge]:
    """An edge without programs."""
    ns, client = make_netns(), make_netns()
    make_edge_interfaces(ns, client)
    tun, wire = tunnel_of(ns, V4.edge_overlay, V6.edge_overlay), Wire(client, "eth0")
    ns.run("ip", "link", "set", "wg0", "txqueuelen", "20000")
    with ns:
        yield Edge(ns, client, tun, wire)
    tun.close()
    wire.close()


class Traffic:
    """Numbered packets both ways, one after the other, until it is stopped; every one of them must arrive."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.requests: list[int] = []
        self.replies: list[int] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            payload = self.sent.to_bytes(8, "big")
            self._edge.wire.send(frame(datagram(V4.client, V4.dns_vip, 40_000, PORT, payload)))
            self._edge.tun.write(reply(payload))
            self.sent += 1
            self._collect()
            time.sleep(0.0005)
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline and min(len(self.requests), len(self.replies)) < self.sent:
            self._collect()

    def _collect(self) -> None:
        while packet := self._edge.tun.take():
            self.requests.append(int.from_bytes(payload_of(packet), "big"))
        while data := self._edge.wire.take():
            self.replies.append(int.from_bytes(payload_of(data[14:]), "big"))

    def wait_for(self, packets: int) -> None:
        """Let so many more packets go."""
        until = self.sent + packets
        while self.sent < until:
            assert self._thread.is_alive()
            time.sleep(0.005)
