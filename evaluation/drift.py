"""Data drift of a day against the days before it, by Evidently."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import NotReadyError
from core.files import write_atomically

log = logging.getLogger("evaluation.drift")

ROWS = 50_000
"""A larger side is sampled down to this many rows, seeded."""
MIN_ROWS = 50


@dataclass(frozen=True)
class Drift:
    """Which columns drifted. ``share`` is the share of the columns."""

    day: str
    columns: int
    drifted: tuple[str, ...]
    share: float
    rows: int
    reference_rows: int
    html: str


def drift_report(
    day: str,
    current: pd.DataFrame,
    reference: pd.DataFrame,
    *,
    categorical: Sequence[str],
    numerical: Sequence[str],
    html: Path,
    seed: int = 0,
) -> Drift:
    """Compare two samples of rows column by column and write Evidently's report.

    Args:
        day: what ``current`` is.
        current, reference: rows with the columns named.
        categorical, numerical: columns to compare.
        html: where the page goes.
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
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        columns = [*categorical, *numerical]
        definition = DataDefinition(categorical_columns=list(categorical), numerical_columns=list(numerical))
        sides = [
            Dataset.from_pandas(_sample(frame[columns], categorical, seed), data_definition=definition)
            for frame in (current, reference)
        ]
        result = Report([DataDriftPreset()]).run(*sides)
        write_atomically(html, lambda target: result.save_html(str(target)))
        drifted = _drifted_columns(result.dict())
    return Drift(day, len(columns), drifted, len(drifted) / len(columns), len(current), len(reference), str(html))


def _sample(frame: pd.DataFrame, categorical: Sequence[str], seed: int) -> pd.DataFrame:
    part = frame.sample(ROWS, random_state=seed) if len(frame) > ROWS else frame
    return part.assign(**{c: part[c].astype("string").fillna("(none)").astype(object) for c in categorical})


def _drifted_columns(content: dict[str, Any]) -> tuple[str, ...]:
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
