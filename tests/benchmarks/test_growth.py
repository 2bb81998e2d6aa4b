"""The benches of growth run every step of an hour on a service that the platform made, and draw what they found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.growth import BEGIN, Service, ServiceLog, growth, hour_costs
from benchmarks.growth_chart import curves, draw_growth
from core.files import read_json
from docs.run_tables import growth_table

STEPS = ["ingestion", "clocks", "samples", "training", "gate", "experiments"]


def write_results(folder: Path) -> Path:
    costs = {size: dict.fromkeys(STEPS, seconds) for size, seconds in (("0.1M", 2.0), ("1M", 2.5))}
    results = [vars(result) for result in growth("population", costs, "0.1M")]
    path = folder / "bench" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{**results[0], "name": "uauc"}, *results]))
    return path


def test_costs_are_drawn_as_multiples_of_the_reference_and_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    results = write_results(tmp_path)
    assert curves(results) == {"population": {step: {0.1: 1.0, 1.0: 1.25} for step in STEPS}}
    charts = [tmp_path / name for name in ("one.svg", "two.svg")]
    assert [draw_growth(results, chart) for chart in charts] == [True, True]
    assert charts[0].read_bytes() == charts[1].read_bytes()
    assert (growth_table("population", tmp_path) or "").splitlines()[2:4] == [
        "| ingestion | 2 s | 2.5 s |", "| clocks | 2 s | 2.5 s |",
    ]  # fmt: skip


def test_without_results_nothing_is_drawn(tmp_path: Path) -> None:
    assert not draw_growth(tmp_path / "results.json", tmp_path / "growth.svg")
    assert not (tmp_path / "growth.svg").exists()


@pytest.mark.slow
def test_every_step_of_an_hour_runs_and_is_measured(tmp_path: Path) -> None:
    service = Service(
        days=2, users=60, active=30, events=120, events_before=60, exposed=40, positives_only=True, warm_hours=0, measured_hours=1,
    )  # fmt: skip
    settings = ServiceLog(tmp_path / "log", service).workspace(tmp_path / "var", 2)
    costs = hour_costs({"small": settings}, service)["small"]
    assert list(costs) == STEPS
    assert min(costs.values()) > 0
    assert read_json(settings.events_dir / f"hour={BEGIN}" / "manifest.json")["rows"] == 120
    assert read_json(settings.features_dir / "state.json")["as_of"] == (BEGIN + 1).key
    assert (settings.reports_dir / "gate" / f"{BEGIN}.json").exists()
