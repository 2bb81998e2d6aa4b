"""How much a ranker rests on each of its inputs: permutation importance (Breiman 2001) on samples that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from core.numbers import finite
from evaluation.metrics import auc
from evaluation.predictions import Predictions
from training.attributes import NUMERIC, of_type
from training.batch import BY_USER, CLOCK_PARTS, RECENT_PARTS, HourKeys
from training.ranker import Ranker
from training.scoring import predict

IDENTITY = "id"


@dataclass(frozen=True)
class Importance:
    """What permuting one input among the samples costs.

    Attributes:
        name: of the input: a facet, a part of the context, an attribute's column, or what is under ``of``.
        of: user, item, moment or clock.
        auc_drop: AUC as it is, less AUC with the input permuted.
        low, high: 95 % interval of the drop, clustered by user; None where the samples are of one user, as nobody knows it.
    """

    name: str
    of: str
    auc_drop: float
    low: float | None
    high: float | None


def importances(ranker: Ranker, keys: HourKeys, head: int, seed: int) -> list[Importance]:
    """Every input's permutation importance, the largest first.

    Inputs that say the same share their importance: each can be permuted without much loss while the other stays.

    Args:
        ranker: that is looked at.
        keys: samples that it was not trained on, of which some are positives and some are not.
        head: index of the behavior.
        seed: of the permutations.
    """
    known = keys.known[:, head]
    rows = np.arange(len(keys))

    def judged(permuted: HourKeys) -> Predictions:
        return Predictions.of(
            keys.users[known], keys.labels[known, head], predict(ranker, permuted)[known, head].astype(np.float64)
        )

    whole = auc(judged(keys))
    drops = []
    for name, owner, permuted in _permuted(ranker, keys, rows, seed):
        drop = whole - auc(judged(permuted))
        drops.append(Importance(name, owner, drop.value, *map(finite, drop.interval())))
    return sorted(drops, key=lambda each: -each.auc_drop)


def _permuted(ranker: Ranker, keys: HourKeys, rows: np.ndarray, seed: int) -> Iterator[tuple[str, str, HourKeys]]:
    """Name, owner and samples with one input permuted, for every input that the ranker reads."""
    rng = np.random.default_rng(seed)

    def column(part: str, at: int) -> HourKeys:
        values: np.ndarray = getattr(keys, part).copy()
        values[:, at] = values[rng.permutation(rows), at]
        return replace(keys, **{part: values})

    def whole(*parts: str) -> HourKeys:
        users = rng.permutation(len(keys.recent_minutes))
        samples = rng.permutation(rows)
        return replace(keys, **{p: getattr(keys, p)[users if p in BY_USER else samples] for p in parts})

    yield IDENTITY, "user", whole("users")
    yield IDENTITY, "item", whole("items")
    yield "activity", "user", whole("dense")
    for at, facet in enumerate(ranker.facets):
        yield facet, "item", column("facets", at)
    for at, name in enumerate(ranker.context):
        yield name, "moment", column("context", at)
    for part, types in (("categories", ("category",)), ("numbers", NUMERIC), ("lists", ("list",))):
        for at, field in enumerate(of_type(ranker.attributes, *types)):
            yield field.column, "moment" if field.owner == "context" else field.owner, column(part, at)
    if keys.clock_values.shape[1]:
        yield "interest clock", "clock", whole(*CLOCK_PARTS)
    if keys.recent_items.shape[1]:
        yield "recent behaviors", "clock", whole(*RECENT_PARTS)


def drawn_rows(keys: HourKeys, count: int, seed: int) -> HourKeys:
    """At most ``count`` of the samples, drawn at random, in their order, with their users only."""
    rng = np.random.default_rng(seed)
    order = np.sort(rng.choice(len(keys), min(count, len(keys)), replace=False))
    users, position = np.unique(keys.user_position[order], return_inverse=True)
    by_user = {name: getattr(keys, name)[users] for name in BY_USER}
    return replace(keys.take(order), **by_user, user_position=position)
