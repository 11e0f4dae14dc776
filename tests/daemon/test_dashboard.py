"""The dashboard for Grafana: it can be read, and every metric and label that it asks for exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from autotune.daemon.metrics import Metrics

PATH = Path(__file__).parents[2] / "docs" / "grafana-dashboard.json"
PROCESS = {"process_resident_memory_bytes"}
"""Of the main process, which its server adds."""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(PATH.read_text()))


def expressions() -> list[str]:
    made = dashboard()
    queries = [one["query"] for one in made["templating"]["list"] if one["type"] == "query"]
    return [target["expr"] for panel in made["panels"] for target in panel["targets"]] + queries


def exposed() -> dict[str, set[str]]:
    """The labels of every series that the daemon exposes once everything has happened."""
    metrics = Metrics()
    metrics.device_state("cpu", "idle")
    metrics.trial("cpu", "ok")
    metrics.decision("cpu", "promoted")
    metrics.study("cpu", "ended", 1.0)
    metrics.request("new", "default")
    metrics.requests_waiting(1)
    metrics.yielded("cpu", "lease", 0.1)
    metrics.leases(1)
    metrics.disk_full(False)
    metrics.error("x")
    metrics.fleet.expose(True)
    families = text_string_to_metric_families(metrics.text().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_every_metric_that_is_asked_for_exists() -> None:
    known = exposed()
    asked = {name for text in expressions() for name in re.findall(r"\b(?:autotune|process)_\w+", text)}
    assert set() == asked - known.keys() - PROCESS
    assert {name for name in known if name.endswith("_total")} <= asked


def test_every_label_that_is_summed_by_exists() -> None:
    known = exposed()
    for text in expressions():
        (name, *_) = re.findall(r"\b(?:autotune|process)_\w+", text)
        for labels in re.findall(r"by \(([^)]*)\)", text):
            assert {label.strip() for label in labels.split(",")} <= known[name], text


def test_panels_have_numbers_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(places) == len(set(places))
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
