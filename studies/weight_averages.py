"""Rankers that are scored by an exponential moving average of their dense weights, and trained from the weights as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.hours import Hour
from studies.log import Log, half_of, hours_of
from studies.replay import Learner, Run, progressive_scores
from training.batch import HourKeys
from training.ranker import Ranker
from training.weight_average import WeightAverage

Unit = Literal["hours", "samples"]
Part = Literal["all", "without the time module", "MLP and heads", "cross network"]
PARTS: dict[Part, Callable[[str], bool]] = {
    "all": lambda _: True,
    "without the time module": lambda name: not name.startswith("time."),
    "MLP and heads": lambda name: name.startswith(("mlp.", "head.")),
    "cross network": lambda name: name.startswith("cross."),
}
"""Which parameters are averaged, by their names; the others are scored by as they are."""


@dataclass(frozen=True)
class Average:
    """An average of weights, each hour's as they are at its end.

    Attributes:
        half_life: after so many hours with samples an hour's weights count half; or, in samples, after as many as so many hours
            of the log's first half have in the mean.
        unit: ``hours``: each hour counts alike; ``samples``: an hour counts by its samples.
        part: of the weights.
    """

    half_life: float
    unit: Unit = "hours"
    part: Part = "all"

    @property
    def title(self) -> str:
        """Name for people."""
        width = f"{self.half_life:g} h" if self.unit == "hours" else f"{self.half_life:g} hours' samples"
        return width if self.part == "all" else f"{width}, {self.part}"

    def decay(self, samples: int, hourly: float) -> float:
        """Weight of the average before an hour, next to the hour's own.

        Args:
            samples: of the hour.
            hourly: samples of a mean hour.

        >>> Average(1).decay(samples=7, hourly=100), Average(1, "samples").decay(samples=200, hourly=100)
        (0.5, 0.25)
        """
        age = 1.0 if self.unit == "hours" else samples / hourly
        return float(0.5 ** (age / self.half_life))


RAW = "as they are"
AVERAGES = (
    *(Average(hours) for hours in (1, 3, 6, 12, 24)),
    *(Average(hours, "samples") for hours in (3, 6, 12)),
    *(Average(6, part=part) for part in PARTS if part != "all"),
)
COLUMNS = (RAW, *(average.title for average in AVERAGES))
"""What scores each evaluated sample."""


class MovingAverages:
    """Every average of ``AVERAGES`` of a ranker's dense parameters.

    Args:
        ranker: that is trained.
        hourly: samples of a mean hour.
    """

    def __init__(self, ranker: Ranker, hourly: float) -> None:
        self.hourly = hourly
        parameters = ranker.named_dense_parameters()
        self._averages = {
            average: WeightAverage({n: p for n, p in parameters.items() if PARTS[average.part](n)}, average.half_life)
            for average in AVERAGES
        }

    def add(self, samples: int) -> None:
        """Take in the weights at the end of an hour of so many samples."""
        for average, weights in self._averages.items():
            weights.add(average.decay(samples, self.hourly))

    def scores(self, learner: Learner, keys: HourKeys) -> list[np.ndarray]:
        """Scores by the ranker with each of ``AVERAGES`` in the place of its weights, each of shape (samples,)."""
        scores = []
        for weights in self._averages.values():
            with weights.in_place():
                scores.append(learner.scores(keys))
        return scores


@dataclass(frozen=True)
class AveragedRun:
    """A ranker that is scored by averages of its weights in the log's second half, and only trained before."""

    run: Run

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.run.title}, weights averaged"

    def identity(self, log: Log) -> list[str]:
        """What the scores depend on besides the samples."""
        return [*self.run.identity(log), "weight averages", *COLUMNS]

    def score(self, log: Log) -> np.ndarray:
        """Scores of every sample by each of ``COLUMNS``, shape (samples, columns); equal ones in the log's first half."""
        sizes = {hour.number: len(keys) for hour, keys in hours_of(log)}
        evaluated = half_of(np.array([*sizes]))
        learner = Learner(self.run, log)
        mean_size = float(np.mean([size for number, size in sizes.items() if number < evaluated]))
        averages = MovingAverages(learner.ranker, mean_size)

        def scores(learner: Learner, hour: Hour, keys: HourKeys) -> np.ndarray:
            if learner.hour is not None:
                averages.add(sizes[learner.hour.number])
            as_they_are = learner.scores(keys)
            if hour.number < evaluated:
                return np.repeat(as_they_are[:, None], len(COLUMNS), axis=1)
            return np.stack([as_they_are, *averages.scores(learner, keys)], axis=1)

        return progressive_scores(hours_of(log), learner, scores)
