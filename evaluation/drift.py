"""Data drift of a day against like hours of the days before it, by Evidently's tests."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from core.documents import JsonObject
from core.errors import NotReadyError
from core.hours import DAY_HOURS, Hour

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

log = logging.getLogger("evaluation.drift")

ROWS = 50_000
"""A larger side is sampled down to this many rows, seeded."""
MIN_ROWS = 50
NONE = "(none)"
"""Stands for a missing value; ``OTHERS``: for the values of a category beyond the ``VALUES`` most frequent."""
OTHERS, VALUES = "(others)", 15
BINS = 20
"""Ranges of a number, the outer ones open; one with no more values than this, or hours of a day, has a bin for each."""
TAIL = 0.01
"""Share of rows in each open range."""


@dataclass(frozen=True)
class Drift:
    """Which columns drifted.

    Attributes:
        day: what was compared with the days before it.
        columns: how many were compared.
        drifted: names of those that drifted.
        share: of the columns that drifted, 0 to 1.
        rows, reference_rows: compared.
        html: path of the page.
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


@dataclass(frozen=True)
class ColumnDrift:
    """How a column of the day differs from the days before it.

    Attributes:
        name: of the column.
        kind: ``category`` or ``number``.
        test: Evidently's name of the test, chosen by the column's kind and the number of rows.
        value: of the test; a p-value where the name says so, which drifts below the limit, else a distance, which drifts above it.
        limit: of the value.
        drifted: whether the column did.
        hours: local hours of day within which it drifted.
        bins: values of a category, the most frequent first, or ranges of a number.
        current, reference: share of the rows in each bin, 0 to 1.
    """

    name: str
    kind: str
    test: str
    value: float
    limit: float
    drifted: bool
    hours: tuple[str, ...]
    bins: tuple[str, ...]
    current: tuple[float, ...]
    reference: tuple[float, ...]


class DriftComparison(NamedTuple):
    """What drifted, and how each column was distributed on both sides, those that drifted first."""

    drift: Drift
    columns: tuple[ColumnDrift, ...]


def compare_days(
    day: str,
    current: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    categorical: Sequence[str],
    numerical: Sequence[str],
    html: Path,
    hour: str | None = None,
    seed: int = 0,
) -> DriftComparison:
    """Compare two samples of rows column by column.

    Args:
        day: what ``current`` is.
        current, reference: rows with the columns named.
        categorical, numerical: columns to compare.
        html: where the page will be.
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
        tests = _column_tests(_compare(current, reference, categorical, numerical, seed).dict())
        hours = _by_hour(current, reference, hour, categorical, numerical, seed) if hour else {}
    drifted = tuple(sorted(name for name, test in tests.items() if test.drifted))
    columns = [
        ColumnDrift(
            name, "category" if name in categorical else "number", *test,
            tuple(key for key, names in hours.items() if name in names),
            *(_category_shares if name in categorical else _number_shares)(current[name], reference[name]),
        )
        for name, test in tests.items()
    ]  # fmt: skip
    count = len(categorical) + len(numerical)
    drift = Drift(day, count, drifted, len(drifted) / count, len(current), len(reference), str(html), hours)
    return DriftComparison(drift, tuple(sorted(columns, key=lambda column: not column.drifted)))


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


class _ColumnTest(NamedTuple):
    """Evidently's test of a column: see ``ColumnDrift``."""

    test: str
    value: float
    limit: float
    drifted: bool


def _column_tests(content: JsonObject) -> dict[str, _ColumnTest]:
    """Column → its drift test, from Evidently's metric list."""
    tests = {}
    for metric in content["metrics"]:
        config = metric["config"]
        if config["type"].endswith(":ValueDrift"):
            value, limit = float(metric["value"]), float(config["threshold"])
            drifted = value < limit if "p_value" in config["method"] else value >= limit
            tests[config["column"]] = _ColumnTest(config["method"], value, limit, drifted)
    return tests


class _Shares(NamedTuple):
    """Bins of a column, and the shares of the rows of both sides in them."""

    bins: tuple[str, ...]
    current: tuple[float, ...]
    reference: tuple[float, ...]


def _category_shares(current: pd.Series, reference: pd.Series) -> _Shares:
    sides = [side.astype("string").fillna(NONE).value_counts(normalize=True) for side in (current, reference)]
    largest = pd.concat(sides, axis=1).fillna(0.0).max(axis=1)
    order = sorted(largest.index, key=lambda value: (-largest[value], value))
    bins, others = order[:VALUES], order[VALUES:]
    shares = [[float(side.get(value, 0.0)) for value in bins] for side in sides]
    if others:
        bins = [*bins, OTHERS]
        shares = [[*of_side, max(1.0 - sum(of_side), 0.0)] for of_side in shares]
    return _Shares(tuple(bins), tuple(shares[0]), tuple(shares[1]))


def _number_shares(current: pd.Series, reference: pd.Series) -> _Shares:
    sides = [side.to_numpy(dtype=float, na_value=np.nan) for side in (current, reference)]
    joined = np.concatenate(sides)
    joined = joined[np.isfinite(joined)]
    values = np.unique(joined)
    if len(values) <= max(BINS, DAY_HOURS):
        edges, bins = values, _apart(values, 6)
    else:
        low, high = (float(np.quantile(joined, share)) for share in (TAIL, 1 - TAIL))
        edges = np.unique(np.linspace(low, high, BINS - 1))
        names = _apart(edges, 4)
        bins = [f"under {names[0]}", *(f"{a} to {b}" for a, b in pairwise(names)), f"{names[-1]} or more"]
        edges = np.concatenate(([-np.inf], edges))
    counts = [
        np.bincount(np.searchsorted(edges, side[np.isfinite(side)], side="right") - 1, minlength=len(bins))
        for side in sides
    ]
    missing = [len(side) - int(count.sum()) for side, count in zip(sides, counts, strict=True)]
    if any(missing):
        bins, counts = [*bins, NONE], [np.append(count, gone) for count, gone in zip(counts, missing, strict=True)]
    shares = [tuple((count / len(side)).tolist()) for side, count in zip(sides, counts, strict=True)]
    return _Shares(tuple(bins), *shares)


def _apart(values: np.ndarray, digits: int) -> list[str]:
    """Distinct numbers as texts, with more digits where they would be alike: a chart takes bins of one name for one.

    >>> _apart(np.array([0.25, 3.0]), 4), _apart(np.array([1000001.0, 1000002.0]), 4)
    (['0.25', '3'], ['1000001', '1000002'])
    """
    texts = [f"{value:.{digits}g}" for value in values]
    return texts if len({*texts}) == len(texts) else _apart(values, digits + 1)
