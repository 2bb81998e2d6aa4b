"""A report's JSON as other pages read it: the fields that they use."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from core.files import read_json

FINAL = "final"
"""Name of the files of an experiment's report after its end; others are named for the hour as of which they are."""


def newest_report(folder: Path) -> Path | None:
    """The JSON of an experiment's final report if there is one, else of its latest; None without any."""
    final = folder / f"{FINAL}.json"
    dated = sorted(path for path in folder.glob("*.json") if path.stem[:1].isdigit())
    return final if final.exists() else dated[-1] if dated else None


class Lift(NamedTuple):
    """A relative effect with its interval of one look and one comparison."""

    effect: float
    low: float
    high: float


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ReportedResult(_Part):
    """A metric's effect by one method, see ``ab_analysis.results.MetricResult``; unknown figures are None."""

    metric: str
    variant: str
    method: str
    headline: bool
    effect: float | None
    effect_ci: tuple[float | None, float | None]
    rel_effect: float | None
    rel_effect_ci: tuple[float | None, float | None]
    p_value: float | None
    truth: float | None
    adjusted_ci: tuple[float | None, float | None] | None = None

    @property
    def lift(self) -> Lift | None:
        """The relative effect with its interval, None unless all three are known."""
        low, high = self.rel_effect_ci
        if self.rel_effect is None or low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
            return None
        return Lift(self.rel_effect, low, high)


class ReportedCheck(_Part):
    """A check, see ``ab_analysis.checks.ExperimentCheck``."""

    name: str
    level: str
    p_value: float | None


class ReportedDecision(_Part):
    """The decision, see ``ab_analysis.decision.ExperimentDecision``."""

    verdict: str
    sentence: str
    variant: str | None
    harmful: tuple[str, ...] = ()


class AboutExperiment(_Part):
    """Keys of the experiment file."""

    hypothesis: str
    owner: str
    start: str
    end: str | None
    primary: tuple[str, ...]
    holdout: bool = False
    confidence: float = 0.95


class ReportedLift(_Part):
    """A relative effect, None where it is not known."""

    rel_effect: float | None


class ReportedPoint(_Part):
    """A metric's effect of a variant after a day, see ``ab_analysis.series.Point``."""

    day: date
    metric: str
    variant: str
    so_far: ReportedLift


class ReportFile(_Part):
    """An experiment's report as of an hour.

    Attributes:
        until: key of the hour up to which events count, exclusive.
        users: variant → users.
        results: one row per metric, variant and method.
        points: metrics day by day.
    """

    experiment: str
    until: str
    users: dict[str, int]
    about: AboutExperiment
    decision: ReportedDecision
    checks: tuple[ReportedCheck, ...]
    results: tuple[ReportedResult, ...]
    points: tuple[ReportedPoint, ...] = ()

    def headlines(self) -> dict[str, dict[str, ReportedResult]]:
        """Variant → metric → the row by the method that decides; metrics whose lift is unknown are left out."""
        rows: dict[str, dict[str, ReportedResult]] = {}
        for row in self.results:
            if row.headline and row.lift is not None:
                rows.setdefault(row.variant, {})[row.metric] = row
        return rows


def read_report(path: Path) -> ReportFile:
    """Read a report's JSON.

    Raises:
        CorruptStateError: it cannot be parsed.
    """
    return ReportFile.model_validate(read_json(path))
