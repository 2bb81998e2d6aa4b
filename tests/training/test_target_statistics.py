"""Target statistics: smoothed rates and counts as of the hour's start, against a loop over the samples."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from core.hours import Hour
from events.schema import AttributeField
from training.batch import HourKeys
from training.config import RankerConfig, Variant
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.target_statistics import COUNT_SCALE, FIRST_PRIOR
from training.tensors import to_batch
from training.time_of_day_counts import MEMORY_HOURS
from training.trainer import fit

FIRST = Hour.parse("2026-03-02T00")
LENGTH = 3
COUNTED = ("user", "item", "genre", "tab", "city", "length")
"""What has statistics, in their order; the bins of the last one move from hour to hour."""


def hour_of(draw: np.random.Generator, hour: Hour, rows: int = 60) -> HourKeys:
    """Samples of few users, items and values; some labels are not known, some values missing."""
    users = draw.integers(1, 8, rows)
    return HourKeys(
        users=users, items=draw.integers(1, 6, rows), facets=draw.integers(0, 4, (rows, 1)) * 101,
        context=draw.integers(0, 3, (rows, 1)) * 1009, minutes=hour.number * 60 + np.sort(draw.integers(0, 60, rows)),
        categories=draw.integers(0, 3, (rows, 1)) * 7001, numbers=draw.normal(size=(rows, 1)), lists=np.zeros((rows, 0, 0), np.int64),
        dense=np.zeros((rows, 3), np.float32), user_position=np.zeros(rows, np.int64),
        clock_values=np.zeros((1, 24, 1, 3), np.int64), clock_scores=np.zeros((1, 24, 1, 3), np.float32),
        slot_events=np.zeros((1, 24), np.float32), recent_items=np.zeros((1, LENGTH), np.int64),
        recent_minutes=np.full((1, LENGTH), -1), labels=draw.integers(0, 2, (rows, 1)).astype(np.float32),
        known=draw.uniform(size=(rows, 1)) < 0.8,
    )  # fmt: skip


def ranker(variant: Variant, **options: object) -> Ranker:
    config = RankerConfig.model_validate({"variant": variant, "dim": 4, "history_length": LENGTH, **options})
    attributes = [AttributeField("user", "city", "category"), AttributeField("item", "length", "number")]
    return Ranker(config, ["genre"], ["finish"], ["tab"], attributes)


@pytest.mark.parametrize("variant", ["none", "matched_clock"])
def test_they_are_the_shrunk_log_odds_and_counts_of_earlier_hours(variant: Variant) -> None:
    model, draw = ranker(variant, target_statistics=True), np.random.default_rng(1)
    optimizer = Optimizer(model)
    past: dict[tuple[str, int], np.ndarray] = {}
    everything = np.zeros(2)
    last = 0
    for step in (0, 1, 5, 30):
        keys = hour_of(draw, FIRST + step)
        if step:
            _compare(model, keys, past, everything)
        fit(model, optimizer, keys, FIRST + step)
        model.target_statistics.log_prior.data.fill_(math.log(FIRST_PRIOR))  # type: ignore[union-attr]
        fade = math.exp(-(step - last) / MEMORY_HOURS)
        past, everything, last = {key: counts * fade for key, counts in past.items()}, everything * fade, step
        for at in np.flatnonzero(keys.known[:, 0]):
            count = np.array([keys.labels[at, 0], 1 - keys.labels[at, 0]])
            everything += count
            for key in _values(keys, at):
                past[key] = past.get(key, np.zeros(2)) + count


def _values(keys: HourKeys, at: Any) -> list[tuple[str, int]]:
    columns = {
        "user": keys.users, "item": keys.items, "genre": keys.facets[:, 0], "tab": keys.context[:, 0],
        "city": keys.categories[:, 0],
    }  # fmt: skip
    return [(name, int(values[at])) for name, values in columns.items()]


def _compare(model: Ranker, keys: HourKeys, past: dict[tuple[str, int], np.ndarray], everything: np.ndarray) -> None:
    assert model.target_statistics is not None
    tables = model.users, model.items, model.values, model.time_of_day_counts
    statistics = model.target_statistics(to_batch(keys, model), *tables).detach().numpy()
    usual = (everything[0] + 1) / (everything.sum() + 2)
    for at in range(len(keys)):
        for n, key in enumerate(_values(keys, at)):
            good, bad = past.get(key, np.zeros(2)) if key[1] else np.zeros(2)  # a missing value has no row
            rate = (good + FIRST_PRIOR * usual) / (good + bad + FIRST_PRIOR)
            odds = math.log(rate / (1 - rate)) - math.log(usual / (1 - usual))
            assert statistics[at, n] == pytest.approx(odds, abs=1e-4)
            assert statistics[at, len(COUNTED) + n] == pytest.approx(math.log1p(good + bad) / COUNT_SCALE, abs=1e-4)


def test_an_hour_does_not_see_its_own_labels() -> None:
    draw = np.random.default_rng(2)
    models = [ranker("none", target_statistics=True) for _ in range(2)]
    first, second = hour_of(draw, FIRST), hour_of(draw, FIRST + 1)
    flipped = HourKeys(**{f.name: getattr(second, f.name) for f in fields(second)} | {"labels": 1 - second.labels})
    for model in models:
        fit(model, Optimizer(model), first, FIRST)
    with torch.no_grad():
        scores = [m(to_batch(keys, m)) for m, keys in zip(models, (second, flipped), strict=True)]
    assert torch.equal(*scores)


def test_an_embedding_penalty_keeps_embeddings_small_and_smoothed_labels_keep_scores_near_half() -> None:
    keys = hour_of(np.random.default_rng(3), FIRST, rows=400)
    models = {
        name: ranker("none", **options)
        for name, options in {
            "plain": {},
            "penalty": {"embedding_penalty": 30.0},
            "smooth": {"label_smoothing": 0.4},
        }.items()
    }
    for model in models.values():
        optimizer = Optimizer(model)
        for step in range(12):
            fit(model, optimizer, keys, FIRST + step)
    size = {name: float(m.users.weight.square().sum()) for name, m in models.items()}
    assert size["penalty"] < size["plain"] / 2
    with torch.no_grad():
        spread = {name: float(m(to_batch(keys, m)).std()) for name, m in models.items()}
    assert spread["smooth"] < spread["plain"]
