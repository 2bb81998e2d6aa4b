"""What the model's page shows, as values: who stood where on one time axis, and how good rankers are by hour of day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa

from core.files import read_json
from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import Settings
from evaluation.metrics import COMPARED, METRICS, ratio_over_users
from evaluation.prediction_table import as_predictions
from events.store import EventStore
from model_registry.registry import ALIASES, BY_PLATFORM, CANDIDATE, CHAMPION, Move
from training.trainer import prediction_file, read_predictions

SHOWN_DAYS, MEASURED_DAYS = 60, 7
"""Days on the time axis; days whose predictions are measured."""
BINS = 10
FEWEST_USERS = 5
"""Users of an hour of the day below which nothing is said of it."""
BY_HOUR = ("auc", "uauc")


@dataclass(frozen=True)
class Span:
    """A stretch on the time axis.

    Attributes:
        row: an alias, or ``trained``.
        start, end: keys of hours, the end exclusive.
        what: version and time module behind the alias then.
        variant: the time module; empty where nobody knows any more.
    """

    row: str
    start: str
    end: str
    what: str
    variant: str


@dataclass(frozen=True)
class Mark:
    """A moment on the time axis.

    Attributes:
        row: an alias, or ``drift``.
        at: key of the hour.
        kind: ``promotion``, ``rollback``, ``by hand``, or ``drift``.
        text: what happened.
    """

    row: str
    at: str
    kind: str
    text: str


@dataclass(frozen=True)
class Timeline:
    """The lineages on one time axis."""

    spans: list[Span]
    marks: list[Mark]


@dataclass(frozen=True)
class Figure:
    """A metric of a variant's progressive predictions, with its 95 % interval, clustered by user.

    Attributes:
        variant: of the ranker.
        metric: ``auc``, ``uauc``, ...
        local_hour: hour of the day by the users' clocks; None for all of it.
        samples: predictions behind it.
    """

    variant: str
    metric: str
    local_hour: int | None
    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions of about the same size: their mean, and the share that came true with its 95 % interval, clustered by user."""

    variant: str
    predicted: float
    observed: float
    low: float
    high: float
    samples: int


def timeline(settings: Settings, moves: Sequence[Move], variants: Mapping[str, str]) -> Timeline:
    """Who stood behind each alias when, which hours were trained, and which days drifted.

    Args:
        settings: name the workspace.
        moves: of all aliases, the oldest first.
        variants: version → time module, of those that are still registered.
    """
    hours = EventStore(settings.events_dir).hours()
    if not hours:
        return Timeline([], [])
    end = hours[-1] + 1
    first = max(hours[0], end - SHOWN_DAYS * DAY_HOURS)
    spans = [span for alias in ALIASES for span in _spans_of(alias, moves, variants, first, end)]
    spans += _trained(settings, first, end)
    marks = [
        Mark(m.alias, m.hour, move_kind(m), f"version {m.version or 'none'}, by {m.who}: {m.reason}")
        for m in moves
        if m.alias == CHAMPION and m.hour and first.key <= m.hour
    ]
    for path in sorted((settings.reports_dir / "drift").glob("*.json")):
        day = read_json(path)
        if day["drifted"] and first.key[:10] <= path.stem:
            text = f"{len(day['drifted'])} of {day['columns']} columns drifted: {', '.join(day['drifted'])}"
            marks.append(Mark("drift", f"{path.stem}T12", "drift", text))
    return Timeline(spans, marks)


def move_kind(move: Move) -> str:
    """What a move of the champion was."""
    if move.who != BY_PLATFORM:
        return "by hand"
    return "rollback" if move.reason.startswith("automatic at") else "promotion"


def _spans_of(alias: str, moves: Sequence[Move], variants: Mapping[str, str], first: Hour, end: Hour) -> list[Span]:
    """An alias's versions one after the other; the candidate's, a new one every hour, by time module.

    A decision that waited for a person moves the champion at its own hour, which may be before that of a rollback meanwhile.
    """
    dated = [(m.hour, m.version) for m in moves if m.alias == alias and m.hour]
    dated = [*zip(accumulate((hour for hour, _ in dated), max), (version for _, version in dated), strict=True)]
    spans: list[Span] = []
    for n, (hour, version) in enumerate(dated):
        until = dated[n + 1][0] if n + 1 < len(dated) else end.key
        start = max(hour, first.key)
        if version is None or until <= start:
            continue
        variant = variants.get(version, "")
        if spans and alias == CANDIDATE and spans[-1].variant == variant and spans[-1].end == start:
            spans[-1] = Span(alias, spans[-1].start, until, f"{variant}, to version {version}", variant)
        else:
            spans.append(Span(alias, start, until, f"version {version} {variant}".strip(), variant))
    return spans


def _trained(settings: Settings, first: Hour, end: Hour) -> list[Span]:
    """Stretches of hours without a gap that the candidate's variant was trained on."""
    variant = settings.candidate_variant
    hours = [h for h in hour_range(first, end) if prediction_file(settings, variant, h).exists()]
    begins = [h for h in hours if h - 1 not in set(hours)]
    ends = [h + 1 for h in hours if h + 1 not in set(hours)]
    return [
        Span("trained", begin.key, until.key, f"{until.number - begin.number:,} hours without a gap", variant)
        for begin, until in zip(begins, ends, strict=True)
    ]


def recent_predictions(settings: Settings, variants: Sequence[str]) -> dict[str, pa.Table]:
    """Variant → its progressive predictions of the last days of the log, each made before training on it."""
    hours = EventStore(settings.events_dir).hours()
    if not hours:
        return {}
    end = hours[-1] + 1
    tables = {v: read_predictions(settings, v, end - MEASURED_DAYS * DAY_HOURS, end) for v in dict.fromkeys(variants)}
    return {variant: table for variant, table in tables.items() if table.num_rows}


def overall(variant: str, table: pa.Table) -> list[Figure]:
    """Every metric by which models are compared."""
    data = as_predictions(table)
    figures = []
    for name in COMPARED:
        estimate = METRICS[name](data)
        figures.append(Figure(variant, name, None, estimate.value, *estimate.interval(), table.num_rows))
    return figures


def by_hour_of_day(variant: str, table: pa.Table) -> list[Figure]:
    """AUC and UAUC of each hour of the day by the users' clocks; hours with too few users are left out."""
    hours = table["local_hour"].to_numpy()
    figures = []
    for hour in np.unique(hours):
        rows = table.filter(pa.array(hours == hour))
        if len(rows["user_id"].unique()) < FEWEST_USERS:
            continue
        data = as_predictions(rows)
        for metric in BY_HOUR:
            estimate = METRICS[metric](data)
            bounds = (estimate.value, *estimate.interval())
            if np.isfinite(bounds).all():
                figures.append(Figure(variant, metric, int(hour), *bounds, rows.num_rows))
    return figures


def calibration(variant: str, table: pa.Table) -> list[CalibrationBin]:
    """Predictions in bins of equal numbers, the smallest first."""
    order = np.argsort(table["score"].to_numpy(), kind="stable")
    scores, labels, users = (table[name].to_numpy()[order] for name in ("score", "label", "user_id"))
    bins = []
    for rows in np.array_split(np.arange(len(order)), min(BINS, len(order))):
        _, user = np.unique(users[rows], return_inverse=True)
        true, count = np.bincount(user, labels[rows].astype(float)), np.bincount(user).astype(float)
        observed = ratio_over_users(true, count)
        low, high = observed.interval()
        bins.append(
            CalibrationBin(
                variant, float(scores[rows].mean()), observed.value, max(low, 0.0), min(high, 1.0), len(rows)
            )
        )
    return bins
