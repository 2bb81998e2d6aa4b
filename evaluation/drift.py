"""Data drift of a day against like hours of the days before it, by Evidently."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from core.documents import JsonObject
from core.errors import NotReadyError
from core.files import write_atomically
from core.hours import Hour

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

log = logging.getLogger("evaluation.drift")

ROWS = 50_000
"""A larger side is sampled down to this many rows, seeded."""
MIN_ROWS = 50


@dataclass(frozen=True)
class Drift:
    """Which columns drifted.

    Attributes:
        day: what was compared with the days before it.
        columns: how many were compared.
        drifted: names of those that drifted.
        share: of the columns that drifted, 0 to 1.
        rows, reference_rows: compared.
        html: path of Evidently's page.
        hours: for every local hour of day with enough rows on both sides, the columns that drifted within it.
    """

    day: str
    columns: int
    drifted: tuple[str, ...]
    share: float
    rows: int
    reference_rows: int
    html: str
    hours: dict[str, tuple[str, ...]] = field(default_factory=dict)


def like_hours(reference: Iterable[Hour], current: Iterable[Hour]) -> list[Hour]:
    """The reference's hours at the UTC hours of day that the current side has.

    So a day that is not over is compared with the same part of the days before it.

    Args:
        reference: hours of the days before.
        current: hours of the day that have events.

    >>> day = Hour.parse("2026-03-03T00")
    >>> [hour.key for hour in like_hours([day - n for n in range(24, 0, -1)], [day + 8, day + 9])]
    ['2026-03-02T08', '2026-03-02T09']
    """
    hours_of_day = {hour.number % 24 for hour in current}
    return [hour for hour in reference if hour.number % 24 in hours_of_day]


def drift_report(
    day: str,
    current: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    categorical: Sequence[str],
    numerical: Sequence[str],
    html: Path,
    hour: str | None = None,
    seed: int = 0,
) -> Drift:
    """Compare two samples of rows column by column and write Evidently's report.

    Args:
        day: what ``current`` is.
        current, reference: rows with the columns named.
        categorical, numerical: columns to compare.
        html: where the page goes.
        hour: column of the local hour of day, to compare each hour with the same hour of the reference too.
        seed: of the sampling.

    Raises:
        NotReadyError: a side has too few rows to compare.
    """
    if min(len(current), len(reference)) < MIN_ROWS:
        raise NotReadyError(
            f"{day}: {len(current)} rows against {len(reference)} before; drift needs {MIN_ROWS} on both sides"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = _compare(current, reference, categorical, numerical, seed)
        write_atomically(html, lambda target: result.save_html(str(target)))
        drifted = _drifted_columns(result.dict())
        hours = _by_hour(current, reference, hour, categorical, numerical, seed) if hour else {}
    columns = len(categorical) + len(numerical)
    return Drift(day, columns, drifted, len(drifted) / columns, len(current), len(reference), str(html), hours)


def _compare(
    current: pd.DataFrame, reference: pd.DataFrame, categorical: Sequence[str], numerical: Sequence[str], seed: int
) -> Snapshot:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(categorical_columns=list(categorical), numerical_columns=list(numerical))
    sides = [
        Dataset.from_pandas(_sample(frame[[*categorical, *numerical]], categorical, seed), data_definition=definition)
        for frame in (current, reference)
    ]
    return Report([DataDriftPreset()]).run(*sides)


def _by_hour(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    hour: str,
    categorical: Sequence[str],
    numerical: Sequence[str],
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """Columns that drifted within each hour of day: the tests of Evidently's report without its pictures, which cost most."""
    drifted = {}
    before = dict(list(reference.groupby(hour)))
    for value, rows in current.groupby(hour):
        if value in before and min(len(rows), len(before[value])) >= MIN_ROWS:
            now, then = (_sample(frame, categorical, seed) for frame in (rows, before[value]))
            numbers = [c for c in numerical if c != hour and now[c].notna().any() and then[c].notna().any()]
            columns = {**dict.fromkeys(categorical, "cat"), **dict.fromkeys(numbers, "num")}
            drifted[str(value).zfill(2)] = tuple(
                sorted(name for name, kind in columns.items() if _has_drifted(now[name], then[name], kind))
            )
    return drifted


def _has_drifted(current: pd.Series, reference: pd.Series, kind: str) -> bool:
    """Evidently's test of one column, chosen by its size and kind (``cat``, ``num``)."""
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    now, before = (side.replace([-np.inf, np.inf], np.nan).dropna() for side in (current, reference))
    test = get_stattest(before, now, ColumnType(kind), None)
    return bool(test(before, now, ColumnType(kind), None).drifted)


def _sample(frame: pd.DataFrame, categorical: Sequence[str], seed: int) -> pd.DataFrame:
    part = frame.sample(ROWS, random_state=seed) if len(frame) > ROWS else frame
    return part.assign(**{c: part[c].astype("string").fillna("(none)").astype(object) for c in categorical})


def _drifted_columns(content: JsonObject) -> tuple[str, ...]:
    """Columns whose drift test failed, from Evidently's metric list."""
    drifted = []
    for metric in content["metrics"]:
        config = metric["config"]
        if not config["type"].endswith(":ValueDrift"):
            continue
        value, threshold = float(metric["value"]), float(config["threshold"])
        if (value < threshold) if "p_value" in config["method"] else (value >= threshold):
            drifted.append(config["column"])
    return tuple(sorted(drifted))
