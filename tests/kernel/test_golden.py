# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets that are written down byte by byte (tests/model/golden.yml), against the model and against the programs.

Everywhere else it is computed what must come out, by the model or by these tests' helpers. Where these and the programs
change alike, only this turns red.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.edge_state import (
    BackendWanted,
    EdgeWanted,
    ServiceWanted,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.relays import Relays
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf.worker_maps import EndpointWanted, WorkerWanted
from ansible_collections.edgewire.fleet.tests.kernel.bpf_support import (
    EdgeBox,
    Programs,
    Watch,
    WorkerBox,
    container_frame,
    frame,
)
from ansible_collections.edgewire.fleet.tests.kernel.model_support import (
    PoisonedRunner,
    Through,
    Uplink,
    fill_edge,
    on_edge,
    on_worker,
    xdp_verdict,
)
from ansible_collections.edgewire.fleet.tests.model import edge, handoff, worker
from ansible_collections.edgewire.fleet.tests.model.packet import Outcome
from ansible_collections.edgewire.fleet.tests.model.tables import edge_tables, worker_tables

pytest_plugins = ["ansible_collections.edgewire.fleet.tests.kernel.bpf_support"]

GOLDEN = yaml.safe_load((Path(__file__).resolve().parents[1] / "model" / "golden.yml").read_text(encoding="utf-8"))
PORT, CONTAINER_PORT = 7, 7007


def bytes_of(lines: list[str]) -> bytes:
    """What lines of hexadecimal bytes say; "00 * 3" is three zeros."""
    parts = [line.partition("*") for line in lines]
    return b"".join(bytes.fromhex(part) * int(times or 1) for part, _, times in parts)


@dataclass(frozen=True)
class Golden:
    """A packet into a program, and what comes out: another packet, or none, and why it was dropped.

    ``after`` is a packet that the worker got before, on which that depends.
    """

    name: str
    program: str
    packet: bytes
    out: bytes
    reason: str
    moved: bool
    after: bytes


PACKETS = [
    Golden(
        entry["name"],
        entry["program"],
        bytes_of(entry["in"]),
        bytes_of(entry.get("out", [])),
        entry.get("reason", ""),
        entry.get("moved", False),
        bytes_of(entry.get("after", [])),
    )
    for entry in GOLDEN["packets"]
]


def of(*programs: str) -> Any:
    """A test runs once for each packet of these programs."""
    chosen = [golden for golden in PACKETS if golden.program in programs]
    return pytest.mark.parametrize("golden", chosen, ids=[golden.name for golden in chosen])


# --- The fleet that the packets are of -------------------------------------------------------------------------------


FAMILIES = list(GOLDEN["addresses"].values())
EDGE, WORKER1, WORKER2 = (Relays(*(net[name] for net in FAMILIES)) for name in ("edge", "worker1", "worker2"))
WANTED_AT_EDGE = EdgeWanted(
    EDGE,
    1,
    1,
    {"worker1": WORKER1},
    tuple(
        ServiceWanted("echo", net["vip"], PORT, PORT, (BackendWanted(net["endpoint_id"], "worker1", 1),))
        for net in FAMILIES
    ),
)


def wanted_at_worker(*, moved: bool) -> WorkerWanted:
    """worker1 has the endpoints, or had them before they moved to worker2."""
    endpoints = tuple(
        EndpointWanted(
            net["endpoint_id"],
            "echo",
            net["vip"],
            PORT,
            PORT,
            net["worker2" if moved else "container"],
            0 if moved else CONTAINER_PORT,
            moved=moved,
        )
        for net in FAMILIES
    )
    return WorkerWanted(WORKER1, 1, 1, {"edge1": EDGE, "worker2": WORKER2}, endpoints)


# --- The model -------------------------------------------------------------------------------------------------------


def modelled(golden: Golden) -> Outcome:
    """What the model makes of a packet."""
    at_edge = edge_tables(WANTED_AT_EDGE)
    at_worker = worker_tables(wanted_at_worker(moved=golden.moved), {})
    if golden.after:
        worker.ingress(golden.after, at_worker)
    return {
        "edge_xdp": lambda: edge.ingress(frame(golden.packet), at_edge),
        "edge_handoff": lambda: handoff.uplink(frame(golden.packet), at_edge),
        "edge_egress": lambda: edge.egress(golden.packet, at_edge),
        "worker_ingress": lambda: worker.ingress(golden.packet, at_worker),
        "worker_egress": lambda: worker.egress(container_frame(golden.packet), at_worker),
    }[golden.program]()


def without_link_layer(outcome: Outcome) -> bytes:
    """What is sent; only an answer has a link layer, for it goes back where the frame came from."""
    return outcome.packet[14:] if outcome.action == "answer" else outcome.packet


@of("edge_xdp", "edge_handoff", "edge_egress", "worker_ingress", "worker_egress")
def test_the_model_makes_of_a_packet_what_is_written_down(golden: Golden) -> None:
    outcome = modelled(golden)
    assert without_link_layer(outcome).hex() == golden.out.hex()
    assert outcome.reason == golden.reason


# --- The programs ----------------------------------------------------------------------------------------------------


def expect_golden(golden: Golden, outcome: Outcome, watch: Watch) -> None:
    """What a program did is what is written down, and what it dropped is counted once."""
    assert without_link_layer(outcome).hex() == golden.out.hex()
    assert watch.change().drops == ({golden.reason: 1} if golden.reason else {})


@pytest.mark.kernel
@of("edge_xdp")
def test_edge_xdp_makes_of_a_packet_what_is_written_down(edge_programs: Programs, golden: Golden) -> None:
    fill_edge(edge_programs.maps, WANTED_AT_EDGE)
    run, watch, data = PoisonedRunner(edge_programs.fds["edge_xdp"]), Watch(edge_programs.maps), frame(golden.packet)
    expect_golden(golden, xdp_verdict(run(data), data), watch)


@pytest.mark.kernel
@of("edge_handoff")
def test_edge_handoff_answers_a_packet_with_what_is_written_down(edge_box: EdgeBox, golden: Golden) -> None:
    on_edge(edge_box, WANTED_AT_EDGE)
    run, watch = Uplink(edge_box), edge_box.watch()
    expect_golden(golden, run(frame(golden.packet)), watch)


@pytest.mark.kernel
@of("edge_egress")
def test_edge_egress_makes_of_a_packet_what_is_written_down(edge_box: EdgeBox, golden: Golden) -> None:
    on_edge(edge_box, WANTED_AT_EDGE)
    run, watch = Through(edge_box), edge_box.watch()
    expect_golden(golden, run(golden.packet), watch)


@pytest.mark.kernel
@of("worker_ingress")
def test_worker_ingress_makes_of_a_packet_what_is_written_down(worker_box: WorkerBox, golden: Golden) -> None:
    on_worker(worker_box, wanted_at_worker(moved=golden.moved))
    run, watch = Through(worker_box), worker_box.watch()
    expect_golden(golden, run(golden.packet), watch)


@pytest.mark.kernel
@of("worker_egress")
def test_worker_egress_makes_of_a_packet_what_is_written_down(worker_box: WorkerBox, golden: Golden) -> None:
    on_worker(worker_box, wanted_at_worker(moved=golden.moved))
    worker_box.tun.write(golden.after)
    worker_box.wire.read()
    watch = worker_box.watch()
    worker_box.wire.send(container_frame(golden.packet))
    expect_golden(golden, Outcome("relay", worker_box.tun.read()), watch)
