"""Runs of the platform's own ranker over a log: test first, then train, as the hourly trainer does."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
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
from training.ranker import Ranker
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
    store, config = log.samples, run.config(log.settings)
    torch.set_num_threads(config.threads)
    ranker = new_ranker(config, store)
    optimizer, head = Optimizer(ranker), store.heads.index(label_of(store.heads))
    scores: list[np.ndarray] = []
    past: dict[int, Ranker] = {}
    for first, part in _parts(hours, daily=run.mode == "daily"):
        keys = part.only(clock=ranker.time.needs_clock, recent_behaviors=ranker.needs_recent_behaviors)
        if run.without:
            keys = without(keys, run.without, log)
        if run.mode == "ages":
            olds = [_as_of(past, first.number - age) or ranker for age in AGES]
            scores.append(np.stack([predict(old, keys)[:, head] for old in olds], axis=1))
        else:
            scores.append(predict(ranker, keys)[:, head])
        if run.mode == "daily":
            keys = keys.take(np.random.default_rng([run.seed, first.number]).permutation(len(keys)))
        fit(ranker, optimizer, keys, first)
        if run.mode == "ages":
            past[first.number] = copy.deepcopy(ranker)
            past = {n: r for n, r in past.items() if n >= first.number - 2 * max(AGES)}
    return np.concatenate(scores)


def _parts(hours: Sequence[tuple[Hour, HourKeys]], *, daily: bool) -> Iterable[tuple[Hour, HourKeys]]:
    """The hours, or the UTC days that they make."""
    if not daily:
        return hours
    days = itertools.groupby(hours, key=lambda pair: pair[0].day)
    return ((pairs[0][0], HourKeys.joined([keys for _, keys in pairs])) for pairs in (list(group) for _, group in days))


def _as_of(past: Mapping[int, Ranker], hour: int) -> Ranker | None:
    """The latest ranker that was trained on nothing after an hour."""
    return past[max(hours)] if (hours := [n for n in past if n <= hour]) else None
