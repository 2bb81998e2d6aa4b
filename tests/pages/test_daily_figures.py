"""Figures of a day are computed from its predictions once, and kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape

from core.files import write_parquet
from core.hours import Hour, hour_range
from core.settings import Settings, load_settings
from evaluation.metrics import JUDGED, METRICS
from evaluation.prediction_table import as_predictions
from events.store import EventStore
from pages import model_charts
from pages.daily_figures import SHOWN_DAYS, DayFigure, daily_figures
from pages.model_tables import days_table
from training.trainer import prediction_file, read_predictions

FIRST, DAYS = Hour.parse("2026-03-02T00"), 3
VARIANTS = ("none", "matched_clock")


def predictions(seed: int, rows: int = 60) -> pa.Table:
    """Users of an hour, whose scores say something of the label."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.1, 0.9, rows)
    label = (rng.uniform(size=rows) < score).astype(np.int8)
    return pa.table({"user_id": rng.integers(0, 12, rows), "label": label, "score": score.astype(np.float32)})


@pytest.fixture
def workspace(tmp_path: Path) -> Settings:
    settings = load_settings(var=tmp_path / "var", source="test")
    store = EventStore(settings.events_dir)
    for number, hour in enumerate(hour_range(FIRST, FIRST + 24 * DAYS)):
        store.partition(hour).mkdir(parents=True)
        (store.partition(hour) / "manifest.json").write_text("{}")
        for shift, variant in enumerate(VARIANTS):
            write_parquet(prediction_file(settings, variant, hour), predictions(2 * number + shift))
    return settings


def test_a_days_figures_are_those_of_all_its_predictions_with_their_intervals(workspace: Settings) -> None:
    figures = daily_figures(workspace, VARIANTS)
    assert len(figures) == len(JUDGED) * len(VARIANTS) * DAYS
    for figure in figures:
        start = Hour.of_day(figure.day)
        data = as_predictions(read_predictions(workspace, figure.variant, start, start + 24))
        estimate = METRICS[figure.metric](data)
        assert (figure.value, figure.low, figure.high) == pytest.approx((estimate.value, *estimate.interval()))
        assert figure.low < figure.value < figure.high
        assert figure.samples == 24 * 60


def test_a_day_is_computed_again_only_where_its_predictions_changed(workspace: Settings) -> None:
    before = daily_figures(workspace, VARIANTS)
    kept = {path: path.stat().st_mtime_ns for path in (workspace.reports_dir / "days").glob("*.json")}
    assert len(kept) == len(VARIANTS)
    assert daily_figures(workspace, VARIANTS) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    write_parquet(prediction_file(workspace, "none", FIRST + 30), predictions(999, 80))
    after = daily_figures(workspace, VARIANTS)
    changed = {(a.variant, a.day) for a, b in zip(after, before, strict=True) if a != b}
    assert changed == {("none", (FIRST + 24).day)}


def test_a_day_whose_predictions_were_removed_keeps_its_figures(workspace: Settings) -> None:
    before = daily_figures(workspace, VARIANTS)
    for hour in hour_range(FIRST, FIRST + 24):
        prediction_file(workspace, "none", hour).unlink()
    assert daily_figures(workspace, VARIANTS) == before


def test_a_day_of_which_some_hours_were_removed_keeps_the_figures_of_all_of_them(workspace: Settings) -> None:
    before = daily_figures(workspace, VARIANTS)
    for hour in hour_range(FIRST, FIRST + 20):
        prediction_file(workspace, "none", hour).unlink()
    assert daily_figures(workspace, VARIANTS) == before


def test_a_day_that_goes_on_is_computed_again_with_its_new_hours(workspace: Settings) -> None:
    evening = {hour: prediction_file(workspace, "none", hour) for hour in hour_range(FIRST + 60, FIRST + 72)}
    content = {path: path.read_bytes() for path in evening.values()}
    for path in content:
        path.unlink()
    half = [f for f in daily_figures(workspace, VARIANTS) if f.day == (FIRST + 60).day and f.variant == "none"]
    for path, data in content.items():
        path.write_bytes(data)
    whole = [f for f in daily_figures(workspace, VARIANTS) if f.day == (FIRST + 60).day and f.variant == "none"]
    assert {f.samples for f in half} == {12 * 60}
    assert {f.samples for f in whole} == {24 * 60}


def test_of_a_long_history_the_newest_days_come_first_and_the_others_with_later_pages(workspace: Settings) -> None:
    a_day = 24 * 60 * len(VARIANTS)
    days = [sorted({f.day for f in daily_figures(workspace, VARIANTS, most=a_day)}) for _ in range(3)]
    last = (FIRST + 24 * DAYS - 1).day
    assert [len(each) for each in days] == [1, 2, 3]
    assert days[0] == [last]


def test_the_chart_and_the_table_have_every_day_with_its_interval(workspace: Settings) -> None:
    figures = daily_figures(workspace, VARIANTS)
    chart = model_charts.daily([f for f in figures if f.metric == "auc"], [(FIRST + 30).key], "AUC")
    assert chart is not None
    drawing = chart.drawing.to_dict()
    assert len(drawing["data"]["values"]) == len(VARIANTS) * DAYS
    assert [len(layer["data"]["values"]) for layer in drawing["layer"] if "data" in layer] == [1]
    assert drawing["layer"][1]["encoding"]["y2"]["field"] == "high"
    assert len(days_table(figures).rows) == len(figures)


def test_the_days_of_six_variants_leave_room_for_the_rest_of_a_page() -> None:
    rng = np.random.default_rng(0)
    figures = [
        DayFigure(f"a_time_module_{n}", metric, FIRST.day + timedelta(days), rng.uniform(), rng.uniform(), rng.uniform(), 100_000)
        for metric in JUDGED for n in range(6) for days in range(SHOWN_DAYS)
    ]  # fmt: skip
    charts = [model_charts.daily([f for f in figures if f.metric == metric], [FIRST.key], metric) for metric in JUDGED]
    size = sum(len(str(escape(part)).encode()) for part in (*charts, days_table(figures)))
    assert size < 750_000  # of 1.5 MB, with 0.6 MB for the scripts and all else
