"""Runs of the platform's own ranker over a log: test first, then train, as the hourly trainer does."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
import torch

from core.hours import Hour
from core.settings import Settings
from studies.columns import without
from studies.log import Changes, Log, hours_of, new_ranker
from training.batch import HourKeys
from training.config import RankerConfig, code_version, label_of, load_ranker_config
from training.optimizer import Optimizer
from training.scoring import predict
from training.trainer import fit

Mode = Literal["streaming", "daily", "ages"]
AGES = (1, 6, 12, 18, 24)
"""For the mode ``ages``: how many hours before the scored hour the ranker saw its last sample."""


@dataclass(frozen=True)
class Run:
    """A ranker over a log.

    Attributes:
        variant: time module.
        seed: for the ranker's initial weights.
        changes: values that differ from the ranker's config file.
        mode: ``streaming`` (test on an hour, then train on it), ``daily`` (test on a day, then train on it
            shuffled), ``ages`` (streaming; every hour scored by the rankers of ``AGES`` hours before).
        without: features that are unknown to it, see ``studies.columns.without``.
    """

    variant: str
    seed: int
    changes: Changes = field(default_factory=dict)
    mode: Mode = "streaming"
    without: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.variant}, seed {self.seed}"

    def identity(self, log: Log) -> list[str]:
        """What the scores depend on besides the samples."""
        return [self.config(log.settings).digest, self.mode, *self.without, _code()]

    def score(self, log: Log) -> np.ndarray:
        """Scores of every sample, made before the ranker is trained on it."""
        return replay(hours_of(log), log, self)

    def config(self, settings: Settings) -> RankerConfig:
        file_values = load_ranker_config(settings, self.variant).model_dump()
        return RankerConfig(**{**file_values, **self.changes, "seed": self.seed})


@cache
def _code() -> str:
    """Version of the code that trains, once for all runs of a process."""
    return code_version()


class Learner:
    """A ranker while it runs over a log.

    Attributes:
        ranker: as it is now.
        hour: last one that it was trained on; None before the first.
    """

    def __init__(self, run: Run, log: Log) -> None:
        config, store = run.config(log.settings), log.samples
        torch.set_num_threads(config.threads)
        self.run, self.log = run, log
        self.hour: Hour | None = None
        self.ranker = new_ranker(config, store)
        self._optimizer = Optimizer(self.ranker)
        self._head = store.heads.index(label_of(store.heads))
        self._within_hour = False

    def reads(self, keys: HourKeys) -> HourKeys:
        """The part of an hour's keys that the ranker reads."""
        keys = keys.only(clock=self.ranker.time.needs_clock, recent_behaviors=self.ranker.needs_recent_behaviors)
        return without(keys, self.run.without, self.log) if self.run.without else keys

    def scores(self, keys: HourKeys) -> np.ndarray:
        """Scores of the label, shape (samples,)."""
        with self._optimizer.scoring(within_hour=self._within_hour):
            scores: np.ndarray = predict(self.ranker, keys)[:, self._head]
        return scores

    def train(self, keys: HourKeys, hour: Hour, *, piece: bool = False) -> None:
        """Train on the samples of an hour, or on a piece of them, in their order."""
        fit(self.ranker, self._optimizer, keys, hour)
        if not piece:
            self._optimizer.end_hour()
        self.hour, self._within_hour = hour, piece

    def copy(self) -> Learner:
        """One that learns on by itself from here."""
        other = copy.copy(self)
        other.ranker = copy.deepcopy(self.ranker)
        other._optimizer = Optimizer(other.ranker)
        other._optimizer.load(self._optimizer.tensors())
        return other


Score = Callable[[Learner, Hour, HourKeys], np.ndarray]
"""Scores of an hour's samples, by the ranker of before the hour: shape (samples,) or (samples, columns)."""
Shown = Callable[[Learner, Hour, HourKeys], HourKeys]
"""The samples of an hour as a ranker is shown them in training."""


def progressive_scores(
    hours: Iterable[tuple[Hour, HourKeys]], learner: Learner, score: Score | None = None, shown: Shown | None = None
) -> np.ndarray:
    """Let a ranker score each hour, or other part of a log, before it is trained on it.

    Args:
        hours: with all their keys, as ``hours_of`` gives them.
        learner: untrained.
        score: scores an hour; default: the ranker scores it.
        shown: the hour as it is trained on; default: as it is.

    Returns:
        What ``score`` gave, of all samples.
    """
    scores = []
    for hour, whole in hours:
        keys = learner.reads(whole)
        scores.append(score(learner, hour, keys) if score else learner.scores(keys))
        learner.train(shown(learner, hour, keys) if shown else keys, hour)
    return np.concatenate(scores)


def replay(hours: Sequence[tuple[Hour, HourKeys]], log: Log, run: Run) -> np.ndarray:
    """Run a ranker over a log: every sample is scored before the ranker is trained on it.

    Args:
        hours: of ``hours_of``.
        log: has the settings and the samples.
        run: the ranker.

    Returns:
        Scores of the label.
        Shape (samples,); with mode ``ages`` (samples, ages).
    """

    def shuffled(learner: Learner, first: Hour, keys: HourKeys) -> HourKeys:
        del learner
        return keys.take(np.random.default_rng([run.seed, first.number]).permutation(len(keys)))

    daily = run.mode == "daily"
    return progressive_scores(
        _parts(hours, daily=daily),
        Learner(run, log),
        _by_ages() if run.mode == "ages" else None,
        shuffled if daily else None,
    )


def _by_ages() -> Score:
    """Scores by the rankers of ``AGES`` hours before, shape (samples, ages)."""
    past = PastRankers()

    def scores(learner: Learner, hour: Hour, keys: HourKeys) -> np.ndarray:
        past.keep(learner)
        return np.stack([(past.as_of(hour - age) or learner).scores(keys) for age in AGES], axis=1)

    return scores


class PastRankers:
    """Rankers as they were at the end of past hours, as many as ``AGES`` needs."""

    def __init__(self) -> None:
        self._kept: dict[int, Learner] = {}

    def keep(self, learner: Learner) -> None:
        """Keep a copy of one as it is after the last hour that it was trained on."""
        if learner.hour is not None:
            end = learner.hour.number
            self._kept = {n: kept for n, kept in self._kept.items() if n >= end - 2 * max(AGES)} | {end: learner.copy()}

    def as_of(self, hour: Hour) -> Learner | None:
        """The latest that was trained on nothing after an hour; None where there is none."""
        return self._kept[max(hours)] if (hours := [n for n in self._kept if n <= hour.number]) else None


def _parts(hours: Sequence[tuple[Hour, HourKeys]], *, daily: bool) -> Iterable[tuple[Hour, HourKeys]]:
    """The hours, or the UTC days that they make."""
    if not daily:
        return hours
    days = itertools.groupby(hours, key=lambda pair: pair[0].day)
    return ((pairs[0][0], HourKeys.joined([keys for _, keys in pairs])) for pairs in (list(group) for _, group in days))
