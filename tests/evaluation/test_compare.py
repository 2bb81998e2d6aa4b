"""Paired comparisons: against independent formulas, and by simulation with users of very unequal activity."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from core.errors import DataError
from evaluation.compare import bootstrap, compare
from evaluation.metrics import ndcg, normalised_entropy
from evaluation.predictions import Predictions


def draw(rng: np.random.Generator, users: int = 60, edge: float = 0.0) -> tuple[Predictions, Predictions]:
    """Two models on the same impressions; B has ``edge`` more of the signal."""
    size = np.minimum(rng.geometric(0.05, users) * rng.integers(1, 4, users) + 2, 300)
    user = np.repeat(np.arange(users), size)
    lean = np.repeat(rng.normal(0, 0.6, users), size)
    signal = rng.normal(0, 1, len(user))
    labels = rng.uniform(size=len(user)) < 1 / (1 + np.exp(-(signal + lean)))
    scores = [1 / (1 + np.exp(-((0.5 + e) * signal + rng.normal(0, 0.7, len(user))))) for e in (0.0, edge)]
    sessions = np.arange(len(user)) // 6
    return tuple(Predictions.of(user, labels, s, sessions=sessions) for s in scores)  # type: ignore[return-value]


def delong_by_hand(a: Predictions, b: Predictions) -> tuple[float, float]:
    """DeLong, DeLong & Clarke-Pearson 1988, from the definition of the placement values."""
    placements = []
    for p in (a, b):
        pos, neg = p.scores[p.labels == 1], p.scores[p.labels == 0]
        wins = (pos[:, None] > neg[None, :]) + 0.5 * (pos[:, None] == neg[None, :])
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    (xa, ya), (xb, yb) = placements
    variance = np.var(xb - xa, ddof=1) / len(xa) + np.var(yb - ya, ddof=1) / len(ya)
    return float(xb.mean() - xa.mean()), float(np.sqrt(variance))


def test_delong_agrees_with_the_definition() -> None:
    a, b = draw(np.random.default_rng(1))
    row = next(r for r in compare(a, b) if r.method == "delong")
    difference, error = delong_by_hand(a, b)
    assert row.difference == pytest.approx(difference, abs=1e-12)
    assert (row.interval[1] - row.interval[0]) / 2 / 1.959964 == pytest.approx(error, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auc", "uauc", "gauc", "session_auc", "ndcg@10"])
def test_bootstrap_and_influence_agree(metric: str) -> None:
    a, b = draw(np.random.default_rng(2), users=150, edge=0.3)
    row = compare(a, b, names=(metric,))[0]
    drawn = bootstrap(a, b, metric, replications=400)
    assert drawn.difference == pytest.approx(row.difference, abs=1e-12)
    assert drawn.interval == pytest.approx(row.interval, abs=0.004)


@pytest.mark.slow
def test_intervals_of_differences_cover_the_truth() -> None:
    """1,000 comparisons of equal models: coverage of 95 % intervals within 93 to 97 %, false wins at 2.5 %."""
    rng, metrics = np.random.default_rng(3), ("auc", "uauc", "gauc", "session_auc")
    covered, wins = Counter[str](), Counter[str]()
    for _ in range(1000):
        for row in compare(*draw(rng, users=100), names=metrics):
            if row.method == "clustered":
                covered[row.metric] += row.interval[0] <= 0 <= row.interval[1]
                wins[row.metric] += row.interval[0] > 0
    assert covered.keys() == set(metrics)
    assert all(0.93 <= count / 1000 <= 0.97 for count in covered.values())
    assert all(count / 1000 <= 0.04 for count in wins.values())


def test_the_detectable_difference_is_found_with_the_stated_power() -> None:
    rng = np.random.default_rng(4)
    a, b = draw(rng, users=200)
    row = compare(a, b)[0]
    error = (row.interval[1] - row.interval[0]) / 2 / 1.959964
    assert row.detectable == pytest.approx(2.8016 * error, rel=1e-3)


def test_models_on_other_impressions_are_refused() -> None:
    a, _ = draw(np.random.default_rng(5))
    other, _ = draw(np.random.default_rng(6))
    with pytest.raises(DataError, match="same impressions"):
        compare(a, other)


def test_ndcg_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(7)
    users = np.repeat(np.arange(30), 12)
    labels, scores = rng.integers(0, 2, 360), rng.integers(0, 5, 360) / 5
    expected = [
        ndcg_score([labels[users == u]], [scores[users == u]], k=10) for u in range(30) if labels[users == u].sum()
    ]
    assert ndcg(Predictions.of(users, labels, scores)).value == pytest.approx(np.mean(expected), abs=1e-12)


def test_normalised_entropy_of_the_base_rate_is_one() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    entropy = normalised_entropy(Predictions.of(np.arange(5), labels, np.full(5, 0.6)))
    assert entropy.value == pytest.approx(1)
