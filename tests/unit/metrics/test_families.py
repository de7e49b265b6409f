# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of counters as metrics; that documentation and dashboard use the names that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics import exposition
from ansible_collections.edgewire.fleet.plugins.module_utils.metrics.families import Families, families_of
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "examples/grafana/edgewire.json"
COUNTERS = {"in_packets": 7, "in_bytes": 700, "out_packets": 5, "out_bytes": 900}
REST: dict[str, Any] = {
    "fragments": {"held": 4, "released": 3},
    "drops": [{"reason": "ttl_expired", "packets": 2}, {"reason": "too_big", "packets": 0}],
    "events": [{"event": "moved", "packets": 1}],
}
FILTER = {"counters": {"source_denied": 3, "source_rate": 0, "service_rate": 0}}


def service(vip: str, name: str | None = "dns", *, filtered: bool = False) -> dict[str, Any]:
    """A service as ``statistics.tell`` tells it."""
    backend = {"worker": "worker1", "endpoint_id": 12, "counters": COUNTERS}
    told = {"name": name, "vip": vip, "ports": "53", "counters": COUNTERS, "backends": [backend]}
    return {**told, "filter": FILTER if filtered else None}


def read(told: dict[str, Any], peers: list[dict[str, Any]] | None = None) -> dict[tuple[str, frozenset[str]], float]:
    """Metrics by name and label values, through the text; that no series is there twice is checked."""
    text = exposition.render(families_of(told, peers or [], "wg0"))
    found: dict[tuple[str, frozenset[str]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(f"{name}={value}" for name, value in sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def test_an_edge_tells_services_backends_drops_and_events() -> None:
    found = read({"edge": {"services": [service("203.0.113.53")], **REST}})
    where = {"service=dns", "vip=203.0.113.53", "port=53"}
    which = {*where, "worker=worker1", "endpoint_id=12"}
    for what, labels in (("service", where), ("backend", which)):
        for direction in ("in", "out"):
            for unit in ("packets", "bytes"):
                key = f"edgewire_{what}_{unit}_total", frozenset({*labels, f"direction={direction}"})
                assert found.pop(key) == COUNTERS[f"{direction}_{unit}"]
    assert found == {
        ("edgewire_programs_attached", frozenset({"role=edge"})): 1,
        ("edgewire_dropped_packets_total", frozenset({"role=edge", "reason=ttl_expired"})): 2,
        ("edgewire_dropped_packets_total", frozenset({"role=edge", "reason=too_big"})): 0,
        ("edgewire_events_total", frozenset({"role=edge", "event=moved"})): 1,
        ("edgewire_held_fragments_total", frozenset({"role=edge"})): 4,
        ("edgewire_released_fragments_total", frozenset({"role=edge"})): 3,
    }


@pytest.mark.parametrize(("name", "told"), [("dns", {"dns"}), (None, {"203.0.113.53:53", "203.0.113.54:53"})])
def test_a_filter_is_counted_once_for_all_addresses_of_its_service(name: str | None, told: set[str]) -> None:
    services = [service(f"203.0.113.{n}", name, filtered=True) for n in (53, 54)]
    found = read({"edge": {"services": services, **REST}})
    denied = {
        labels: value
        for (metric, labels), value in found.items()
        if metric == "edgewire_refused_packets_total" and "reason=source_denied" in labels
    }
    assert denied == {frozenset({f"service={one}", "reason=source_denied"}): 3 for one in told}


def test_a_worker_tells_its_endpoints_and_those_that_moved() -> None:
    here = {"service": "dns", "vip": "203.0.113.53", "ports": "53", "endpoint_id": 12, "counters": COUNTERS}
    away = {**here, "endpoint_id": 13, "moved_to": "worker2"}
    found = read({"worker": {"endpoints": [{**here, "container_address": "10.88.0.53"}, away], **REST}})
    assert {
        labels for name, labels in found if name == "edgewire_endpoint_packets_total" and "direction=in" in labels
    } == {
        frozenset(
            {"service=dns", "vip=203.0.113.53", "port=53", "direction=in", "endpoint_id=12", "container=10.88.0.53"}
        ),
        frozenset({"service=dns", "vip=203.0.113.53", "port=53", "direction=in", "endpoint_id=13", "moved_to=worker2"}),
    }


def test_programs_that_should_run_and_do_not_are_told() -> None:
    assert read({"edge": None}) == {("edgewire_programs_attached", frozenset({"role=edge"})): 0}


def test_sessions_are_told_by_the_peers_name_or_key() -> None:
    numbers = {"latest_handshake": 1_700_000_000, "rx_bytes": 1, "tx_bytes": 2}
    found = read({}, [{"name": "worker1", "public_key": "a", **numbers}, {"name": None, "public_key": "b=", **numbers}])
    assert {next(iter(labels - {"interface=wg0"})) for _, labels in found} == {"peer=worker1", "peer=b="}
    assert len(found) == 6


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert re.findall(r"^\| `(edgewire_\w+)` \|", page, re.MULTILINE) == [family.name for family in Families().all()]


def labels_of(family: exposition.Family) -> set[str]:
    """The labels that a metric's series have on a box where there is one of everything, and what Prometheus adds."""
    endpoint = {"service": "dns", "vip": "203.0.113.53", "ports": "53", "endpoint_id": 12, "counters": COUNTERS}
    told = {
        "edge": {"services": [service("203.0.113.53", filtered=True)], **REST},
        "worker": {"endpoints": [{**endpoint, "container_address": "10.88.0.53"}], **REST},
    }
    peers = [{"name": "worker1", "public_key": "a", "latest_handshake": 1, "rx_bytes": 1, "tx_bytes": 2}]
    (found,) = [one for one in families_of(told, peers, "wg0") if one.name == family.name]
    return {"instance", *(name for labels, _ in found.samples for name in labels)}


def asked_for(query: str) -> dict[str, set[str]]:
    """Metric to labels that a query names, by its grammar; a grouping's labels count for all metrics under it."""
    found: dict[str, set[str]] = {}

    def walk(node: Any, grouped: frozenset[str]) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.setdefault(node.name, set()).update(grouped, (m.name for m in node.matchers.matchers))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped |= frozenset(node.modifier.labels)
        below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
        for child in [*below, *(getattr(node, "args", None) or ())]:
            if child is not None:
                walk(child, grouped)

    walk(promql_parser.parse(query.replace("$__rate_interval", "2m")), frozenset())
    return found


def dashboard_queries() -> list[str]:
    """What the panels and variables of the dashboard ask for."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    values = [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    return queries + [re.sub(r"label_values\((\w+), (\w+)\)", r"sum by (\2) (\1)", value) for value in values]


def alert_queries() -> list[str]:
    """Those of the alerts in the documentation."""
    (block,) = re.findall(r"```yaml\n(groups:.*?)```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL)
    return [rule["expr"] for group in yaml.safe_load(block)["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("query", [*dashboard_queries(), *alert_queries()])
def test_queries_ask_for_metrics_and_labels_that_there_are(query: str) -> None:
    known = {family.name: labels_of(family) for family in Families().all()}
    known["node_textfile_mtime_seconds"] = {"instance", "file"}  # node_exporter's
    asked = asked_for(query)
    assert asked
    for metric, labels in asked.items():
        assert labels <= known[metric]
