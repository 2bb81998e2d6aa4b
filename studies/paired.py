"""Two rankers on the same samples: differences over seeds, with intervals clustered by user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from core.documents import JsonObject
from evaluation.estimate import Estimate
from evaluation.metrics import JUDGED, METRICS
from evaluation.predictions import Predictions
from studies.lab import Lab, ScoringRun
from studies.log import Log, evaluated_from, half_of, read_frame

COMPARED = ("auc", "session_auc")
"""What conclusions are about. UAUC is biased against rankers that follow their users, so it is shown and decides nothing."""
COMPARED_TITLES = " and ".join(JUDGED[metric] for metric in COMPARED)
SHOWN = tuple(JUDGED)
"""What tables hold. Sessions are users' hours here."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """A metric, or a difference of two, over several seeds.

    Attributes:
        value: mean over the seeds.
        interval: 95 %; users are the unit of analysis, and the differences between seeds are included.
        seeds: standard deviation over the seeds, 0 with one.
    """

    value: float
    interval: tuple[float, float]
    seeds: float

    def __neg__(self) -> Figure:
        return Figure(-self.value, (-self.interval[1], -self.interval[0]), self.seeds)

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.interval[0] > 0

    @property
    def direction(self) -> str:
        """Whether it is established to be higher or lower than 0, in words."""
        return "higher" if self.above else "lower" if (-self).above else "not established to differ"

    @property
    def text(self) -> str:
        return f"{self.value:.4f} ({self.interval[0]:.4f} – {self.interval[1]:.4f})"

    @property
    def signed(self) -> str:
        return f"{self.value:+.4f} ({self.interval[0]:+.4f} – {self.interval[1]:+.4f})"


def over_seeds(estimates: Sequence[Estimate]) -> Figure:
    """Mean over seeds. Its variance is the variance over users, which more seeds do not reduce, plus that of the mean over seeds."""
    values = np.array([e.value for e in estimates])
    count, users = len(values), float(np.mean([e.standard_error**2 for e in estimates]))
    spread = float(values.std(ddof=1)) if count > 1 else 0.0
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * math.sqrt(users + spread**2 / count)
    mean = float(values.mean())
    return Figure(mean, (mean - half, mean + half), spread)


class Panel:
    """A log's samples in the evaluated time, and the scores of runs on them.

    Args:
        lab: has the runs.
        log: has the samples.
        second_half: evaluate the log's whole second half, and not its last days only.
    """

    def __init__(self, lab: Lab, log: Log, *, second_half: bool = False) -> None:
        self.lab, self.log = lab, log
        self.frame = read_frame(log)
        hours = self.frame["hour"]
        self.first = half_of(hours) if second_half else evaluated_from(log.source, hours)
        self.evaluated = (self.frame["hour"] >= self.first) & self.frame["known"]

    def predictions(self, run: ScoringRun, among: np.ndarray | None = None, column: int | None = None) -> Predictions:
        """A run's scores on the evaluated samples.

        Args:
            run: a finished run.
            among: mask over all samples; default: all.
            column: of runs that score each sample several times, as the mode ``ages`` does.
        """
        scores = self.lab.read(self.log, run)
        return self.predictions_of(scores if column is None else scores[:, column], among)

    def predictions_of(self, scores: np.ndarray, among: np.ndarray | None = None) -> Predictions:
        """Scores of all samples, shape (samples,), on the evaluated ones."""
        rows = self.evaluated if among is None else self.evaluated & among
        users, labels, hours = (self.frame[name][rows] for name in ("user", "label", "hour"))
        return Predictions.of(users, labels, scores[rows], sessions=hours)

    def value(
        self, runs: Sequence[ScoringRun], metric: str, among: np.ndarray | None = None, column: int | None = None
    ) -> Figure:
        """A ranker's metric, over one run per seed."""
        return over_seeds([METRICS[metric](self.predictions(run, among, column)) for run in runs])

    def gap(
        self, base: Sequence[ScoringRun], runs: Sequence[ScoringRun], metric: str, among: np.ndarray | None = None
    ) -> Figure:
        """A metric of ``runs`` minus that of ``base``, paired by seed, on the same samples."""
        pairs = zip(base, runs, strict=True)
        measure = METRICS[metric]
        return over_seeds([measure(self.predictions(b, among)) - measure(self.predictions(a, among)) for a, b in pairs])


def as_json(figures: Mapping[str, Any]) -> JsonObject:
    """Figures as plain values."""
    return {
        k: asdict(v) if isinstance(v, Figure) else as_json(v) if isinstance(v, Mapping) else v
        for k, v in figures.items()
    }
