"""The model's page as values: lineages on one time axis, hours of the day, calibration, and their charts and tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core.files import write_json, write_parquet
from core.hours import Hour
from core.page_table import Row
from core.settings import Settings, load_settings
from evaluation.gate_decision import GateCheck
from events.store import EventStore
from model_registry.registry import BY_HAND, Move
from pages import model_charts
from pages.model_history import by_hour_of_day, calibration, move_kind, overall, timeline
from pages.model_tables import calibration_table, hours_table, overall_table, slices_table
from training.trainer import prediction_file

FIRST = Hour.parse("2026-03-02T00")
VARIANTS = {"1": "hour_embedding", "2": "matched_clock", "3": "matched_clock", "4": "matched_clock"}


def move(alias: str, version: str | None, hour: str | None, who: str = "platform", reason: str = "any reason") -> Move:
    return Move(alias, version, "1", reason, "2026-03-09T00:00:00+00:00", hour, who)


MOVES = [
    move("champion", "1", "2026-03-01T00"), move("champion", "2", "2026-03-02T06"),
    move("champion", "3", "2026-03-02T12", "ann"), move("champion", "2", "2026-03-02T18", reason="automatic at 2026-03-02T18: worse"),
    move("champion", None, None, BY_HAND),
    move("candidate", "1", "2026-03-02T00"), move("candidate", "2", "2026-03-02T01"), move("candidate", "3", "2026-03-02T02"),
    move("candidate", "4", "2026-03-02T03"), move("challenger", "2", "2026-03-02T04"), move("challenger", None, "2026-03-02T08", BY_HAND),
]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Settings:
    """A log of two days, trained but for two hours, with a day of drift."""
    settings = load_settings(var=tmp_path / "var", source="test")
    store = EventStore(settings.events_dir)
    for hour in (FIRST + n for n in range(48)):
        store.partition(hour).mkdir(parents=True)
        (store.partition(hour) / "manifest.json").write_text("{}")
        if hour.key not in {"2026-03-02T10", "2026-03-02T11"}:
            write_parquet(prediction_file(settings, settings.candidate_variant, hour), pa.table({"score": [0.5]}))
    for day, drifted in (("2026-03-02", ["genre", "finish"]), ("2026-03-03", [])):
        write_json(settings.reports_dir / "drift" / f"{day}.json", {"day": day, "columns": 8, "drifted": drifted})
    return settings


def test_every_version_has_its_stretch_on_the_axis_and_the_log_its_gaps(workspace: Settings) -> None:
    line = timeline(workspace, MOVES, VARIANTS)
    spans = [(s.row, s.start, s.end, s.variant) for s in line.spans]
    assert spans == [
        ("champion", "2026-03-02T00", "2026-03-02T06", "hour_embedding"), ("champion", "2026-03-02T06", "2026-03-02T12", "matched_clock"),
        ("champion", "2026-03-02T12", "2026-03-02T18", "matched_clock"), ("champion", "2026-03-02T18", "2026-03-04T00", "matched_clock"),
        ("challenger", "2026-03-02T04", "2026-03-02T08", "matched_clock"),
        ("candidate", "2026-03-02T00", "2026-03-02T01", "hour_embedding"), ("candidate", "2026-03-02T01", "2026-03-04T00", "matched_clock"),
        ("trained", "2026-03-02T00", "2026-03-02T10", "matched_clock"), ("trained", "2026-03-02T12", "2026-03-04T00", "matched_clock"),
    ]  # fmt: skip
    assert [s.what for s in line.spans if s.row == "candidate"][-1] == "matched_clock, to version 4"
    assert [(m.row, m.at, m.kind) for m in line.marks] == [
        ("champion", "2026-03-02T06", "promotion"), ("champion", "2026-03-02T12", "by hand"), ("champion", "2026-03-02T18", "rollback"),
        ("drift", "2026-03-02T12", "drift"),
    ]  # fmt: skip
    assert "2 of 8 columns drifted: genre, finish" in line.marks[-1].text


def test_a_decision_that_waited_follows_the_rollback_that_came_before_it(workspace: Settings) -> None:
    """The gate's runs wait for a person, and the champion is watched meanwhile: a later move may be of an earlier hour."""
    moves = [
        move("champion", "3", "2026-03-02T09"), move("champion", "2", "2026-03-02T15", reason="automatic at 2026-03-02T15: worse"),
        move("champion", "4", "2026-03-02T11"), move("champion", "1", "2026-03-02T20"),
    ]  # fmt: skip
    spans = [(s.start, s.end, s.what[:9]) for s in timeline(workspace, moves, VARIANTS).spans if s.row == "champion"]
    assert spans == [
        ("2026-03-02T09", "2026-03-02T15", "version 3"), ("2026-03-02T15", "2026-03-02T20", "version 4"),
        ("2026-03-02T20", "2026-03-04T00", "version 1"),
    ]  # fmt: skip


def test_a_source_without_events_has_no_axis(tmp_path: Path) -> None:
    line = timeline(load_settings(var=tmp_path, source="test"), MOVES, VARIANTS)
    assert (line.spans, line.marks) == ([], [])
    assert model_charts.lineages(line) is None


@pytest.mark.parametrize(("who", "kind"), [("platform", "promotion"), ("ann", "by hand"), (BY_HAND, "by hand")])
def test_who_moved_the_champion_says_what_it_was(who: str, kind: str) -> None:
    assert move_kind(move("champion", "2", "2026-03-02T06", who)) == kind


def predictions(rows: int = 4000) -> pa.Table:
    """Calibrated predictions that rank better in the evening than in the morning, where the score says nothing."""
    rng = np.random.default_rng(5)
    score = rng.uniform(0.1, 0.9, rows)
    hour = np.where(np.arange(rows) % 2, 20, 8)
    label = rng.uniform(size=rows) < np.where(hour == 20, score, 0.5)
    return pa.table(
        {
            "user_id": rng.integers(0, 60, rows),
            "label": label.astype(np.int8),
            "score": score.astype(np.float32),
            "local_hour": hour,
        }
    )


def test_each_hour_of_the_day_has_its_own_figures_with_intervals() -> None:
    figures = by_hour_of_day("matched_clock", predictions())
    assert {(f.metric, f.local_hour) for f in figures} == {(m, h) for m in ("auc", "uauc") for h in (8, 20)}
    of_auc = {f.local_hour: f for f in figures if f.metric == "auc"}
    assert of_auc[8].low < 0.5 < of_auc[8].high
    assert of_auc[20].low > 0.6
    assert of_auc[20].samples == 2000
    few = predictions(6)
    assert by_hour_of_day("matched_clock", few) == []


def test_calibrated_predictions_come_true_as_often_as_they_say() -> None:
    table = predictions(20_000)
    evening = table.filter(pa.array(table["local_hour"].to_numpy() == 20))
    bins = calibration("matched_clock", evening)
    assert len(bins) == 10
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
    assert sum(b.low <= b.predicted <= b.high for b in bins) >= 8
    assert sum(b.samples for b in bins) == evening.num_rows


def test_tables_have_a_row_for_every_figure_and_slices_sort() -> None:
    table = predictions()
    hours, bins, total = by_hour_of_day("a_b", table), calibration("a_b", table), overall("a_b", table)
    assert len(hours_table(hours).rows) == 4
    assert len(calibration_table(bins).rows) == 10
    assert len(overall_table(total).rows) == len(total)
    checks = [
        GateCheck("auc_difference", True, 0.1, 0.0, (0.0, 0.2)),
        GateCheck("auc where genre = jazz", True, 0.02, -0.01, (0.0, 0.1)),
        GateCheck("auc where genre = pop", False, 0.05, 0.06, (0.0, 0.1)),
    ]
    slices = slices_table(checks)
    assert slices
    rows = [row for row in slices.rows if isinstance(row, Row)]
    assert [str(row.cells[0]) for row in rows] == ["AUC where genre = pop", "AUC where genre = jazz"]
    assert slices_table(checks[:1]) is None


def test_what_has_no_interval_is_shown_without_one() -> None:
    """Of one user's predictions nobody knows the error, and JSON, from which a page draws its charts, has no NaN."""
    table = predictions(40)
    table = table.set_column(0, "user_id", pa.array(np.zeros(40, np.int64)))
    total, bins = overall("a_b", table), calibration("a_b", table)
    shown = "".join(str(of.__html__()) for of in (overall_table(total), calibration_table(bins)))
    assert "nan" not in shown
    chart = model_charts.calibration(bins)
    assert chart is not None
    markup = str(chart.__html__())
    json.loads(
        markup.partition('<script type="application/json">')[2].partition("</script>")[0], parse_constant=pytest.fail
    )


def test_without_figures_there_is_no_chart() -> None:
    assert model_charts.by_hour([], "auc", "AUC") is None
    assert model_charts.calibration([]) is None
    assert model_charts.daily([], [], "AUC") is None


def test_the_chart_that_is_drawn_once_follows_vega_lites_schema() -> None:
    chart = model_charts.hour_by_hour({"2026-03-05T18": (0.6, 0.5), "2026-03-05T19": (0.7, 0.6)}, "champion")
    assert chart is not None
    drawing = chart.drawing.to_dict()  # Altair checks it here: its specification stands in no page
    assert len(drawing["data"]["values"]) == 4
