"""How good every variant was on each day, with intervals: computed once from a day's predictions, and kept beside the pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from core.files import files_stamp, read_json, write_json
from core.hours import day_hours
from core.settings import Settings
from evaluation.metrics import JUDGED, METRICS
from evaluation.prediction_table import as_predictions
from events.store import EventStore
from training.trainer import prediction_file, read_predictions

SHOWN_DAYS = 42
"""Six weeks: with six variants the model's page takes 1.2 MB."""
MOST_PREDICTIONS = 3_000_000
"""Predictions that are read for one page: of a longer history the newest days come first, and the others with later pages."""


@dataclass(frozen=True)
class DayFigure:
    """A metric of a variant's progressive predictions of a day, with its 95 % interval, clustered by user.

    Attributes:
        variant: of the ranker.
        metric: one of ``JUDGED``.
        day: UTC.
        samples: predictions behind it.
    """

    variant: str
    metric: str
    day: date
    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class _KeptDay:
    """A day as it is kept: ``stamp`` says which files it was computed from, ``hours`` how many they were."""

    stamp: str
    samples: int
    figures: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    hours: int = 0


def daily_figures(settings: Settings, variants: Sequence[str], most: int = MOST_PREDICTIONS) -> list[DayFigure]:
    """Figures of the last ``SHOWN_DAYS`` days of the log, by metric, variant and day.

    A day is computed again where its predictions changed. One whose predictions were removed since keeps its figures, also where only
    those of some hours were: what is too old goes by the hour.

    Args:
        settings: of the workspace.
        variants: to tell of.
        most: predictions to read at most; those of the last day that is begun are all read.
    """
    days = sorted({hour.day for hour in EventStore(settings.events_dir).hours()})[-SHOWN_DAYS:]
    kept = {variant: _read(_file(settings, variant)) for variant in variants}
    before = {variant: dict(of_days) for variant, of_days in kept.items()}
    for day in reversed(days):
        for variant in variants:
            files, known = _files(settings, variant, day), kept[variant].get(str(day))
            if not files or (known and len(files) < known.hours) or most <= 0:
                continue
            stamp = files_stamp(files[0].parent, files)
            if known and known.stamp == stamp:
                continue
            computed = _compute(settings, variant, day, stamp, len(files))
            kept[variant][str(day)] = computed
            most -= computed.samples
    for variant, of_days in kept.items():
        if of_days != before[variant]:
            write_json(_file(settings, variant), {day: asdict(each) for day, each in sorted(of_days.items())})
    return list(_figures(kept, days))


def _figures(kept: dict[str, dict[str, _KeptDay]], days: Sequence[date]) -> Iterator[DayFigure]:
    for metric in JUDGED:
        for variant, of_days in kept.items():
            for day in days:
                each = of_days.get(str(day))
                if each and metric in each.figures:
                    yield DayFigure(variant, metric, day, *each.figures[metric], each.samples)


def _file(settings: Settings, variant: str) -> Path:
    return settings.reports_dir / "days" / f"{variant}.json"


def _read(path: Path) -> dict[str, _KeptDay]:
    content = read_json(path) if path.exists() else {}
    return {
        day: _KeptDay(**{**each, "figures": {name: tuple(bounds) for name, bounds in each["figures"].items()}})
        for day, each in content.items()
    }


def _files(settings: Settings, variant: str, day: date) -> list[Path]:
    """A day's files of predictions."""
    return [path for hour in day_hours(day) if (path := prediction_file(settings, variant, hour)).exists()]


def _compute(settings: Settings, variant: str, day: date, stamp: str, files: int) -> _KeptDay:
    hours = day_hours(day)
    table = read_predictions(settings, variant, hours[0], hours[-1] + 1)
    data = as_predictions(table)
    figures = {}
    for metric in JUDGED:
        estimate = METRICS[metric](data)
        bounds = (estimate.value, *estimate.interval())
        if all(map(math.isfinite, bounds)):
            figures[metric] = bounds
    return _KeptDay(stamp, table.num_rows, figures, files)
