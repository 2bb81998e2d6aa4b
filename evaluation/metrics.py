"""Ranking and calibration metrics, exact with ties, each with the influence of every user on it.

The influence function of a metric gives its variance under dependent rows of one user for free: the
squared sum of the users' influences (Obuchowski 1997, doi:10.2307/2533958, for the AUC; the delta
method for ratios). A paired difference of two models has the difference of the influences. So one
pass per metric gives the estimate, its interval, and the interval of any difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluation.estimate import Array, Estimate, clustered_error
from evaluation.groups import auc_influence
from evaluation.predictions import Predictions

PROBABILITY_FLOOR = 1e-7


def _auc_rows(data: Predictions) -> tuple[float, Array]:
    """AUC and the influence of every row on it; NaN and zeros with one label only."""
    values, rows = auc_influence(np.zeros(len(data), np.int64), 1, data.labels, data.ranked, data.weights)
    return float(values[0]), rows


def auc(data: Predictions) -> Estimate:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties count half.

    >>> data = Predictions.of(["ann", "ann", "bob", "bob"], [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.4])
    >>> auc(data).value
    0.875
    """
    value, rows = _auc_rows(data)
    return Estimate(value, np.bincount(data.users, rows, len(data.user_ids)))


def auc_gaps(first: Predictions, second: Predictions, rows: Array, groups: Array, count: int) -> tuple[Array, Array]:
    """AUC of the first less that of the second within each group of some rows, and its standard error clustered by user.

    Args:
        first, second: of the same impressions, row by row.
        rows: positions of the rows.
        groups: of each of them, 0 to ``count`` − 1.
        count: number of groups.

    Returns:
        Differences, NaN with one label only, and standard errors, NaN with one user only; shape (count,).
    """
    sides = [
        auc_influence(groups, count, p.labels[rows], p.ranked.some(rows), p.weights[rows]) for p in (first, second)
    ]
    owners, pairs = pd.factorize(groups * np.int64(len(first.user_ids)) + first.users[rows])
    influence = np.bincount(owners, sides[0][1] - sides[1][1], len(pairs))
    of = pairs // max(len(first.user_ids), 1)
    users = np.bincount(of[influence != 0], minlength=count)
    users = np.where(users > 0, users, np.bincount(of, minlength=count))
    gaps = sides[0][0] - sides[1][0]
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = clustered_error(users, np.bincount(of, np.square(influence), count))
    return gaps, np.where((users > 1) & ~np.isnan(gaps), errors, np.nan)


def delong_influence(data: Predictions) -> Array:
    """Influence of every row on the AUC, shape (rows,), for intervals that take rows as independent."""
    return _auc_rows(data)[1]


def user_aucs(data: Predictions) -> tuple[Array, Array]:
    """AUC of each user (NaN for a user with one label only) and the user's total weight, shape (users,).

    >>> data = Predictions.of(["ann", "ann", "bob", "bob"], [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.4])
    >>> [values.tolist() for values in user_aucs(data)]
    [[1.0, 0.5], [2.0, 2.0]]
    """
    return data.user_aucs


def uauc(data: Predictions) -> Estimate:
    """Mean AUC over the users that have both labels.

    >>> data = Predictions.of(["ann", "ann", "bob", "bob"], [1, 0, 1, 0], [0.9, 0.2, 0.4, 0.4])
    >>> uauc(data).value
    0.75
    """
    values, _ = user_aucs(data)
    return mean_over_users(values, np.ones(len(values)))


def gauc(data: Predictions) -> Estimate:
    """AUC over the users that have both labels, weighted by their impressions (Zhu et al. 2017).

    >>> data = Predictions.of(["ann", "ann", "bob", "bob", "bob"], [1, 0, 1, 0, 0], [0.9, 0.2, 0.4, 0.4, 0.4])
    >>> gauc(data).value
    0.7
    """
    return mean_over_users(*user_aucs(data))


def session_auc(data: Predictions) -> Estimate:
    """AUC within sessions that have both labels, weighted by their impressions.

    A session is what one user was shown together: a request, or a user's hour where the log tells no requests. This is
    GAUC (Zhu et al. 2017, doi:10.1145/3097983.3098134) with sessions as groups. Scores of two hours are never compared,
    so a score that follows the user's own past gains and loses nothing by it, as it does in ``uauc`` and ``gauc``.

    >>> data = Predictions.of(["ann"] * 5, [1, 0, 1, 0, 0], [0.9, 0.2, 0.4, 0.4, 0.4], sessions=[7, 7, 8, 8, 8])
    >>> session_auc(data).value
    0.7
    """
    return ratio_over_users(*session_sums(data))


def session_sums(data: Predictions) -> tuple[Array, Array]:
    """For each user the weighted sum of the AUCs within sessions, and of the weights, shape (users,)."""
    users, aucs, weights, _ = data.mixed_sessions
    return np.bincount(users, weights * aucs, len(data.user_ids)), np.bincount(users, weights, len(data.user_ids))


def ratio_over_users(above: Array, below: Array) -> Estimate:
    """A ratio of two sums over users, from each user's part of both.

    >>> ratio_over_users(np.array([1.0, 2.0]), np.array([2.0, 2.0])).value
    0.75
    """
    total = below.sum()
    if not total > 0:
        return Estimate(float("nan"), np.zeros(len(above)))
    value = float(above.sum() / total)
    return Estimate(value, _of_several((above - value * below) / total, (above != 0) | (below != 0)))


def mean_over_users(values: Array, weights: Array) -> Estimate:
    """Weighted mean of a value per user; users with NaN are left out.

    >>> mean_over_users(np.array([1.0, 0.5, np.nan]), np.array([3.0, 1.0, 5.0])).value
    0.875
    """
    weights = np.where(np.isnan(values), 0.0, weights)
    total = weights.sum()
    if not total > 0:
        return Estimate(float("nan"), np.zeros(len(values)))
    filled = np.nan_to_num(values)
    mean = float(np.dot(weights, filled) / total)
    return Estimate(mean, _of_several(weights * (filled - mean) / total, weights > 0))


def _of_several(influence: Array, has_part: Array) -> Array:
    """The users' influence, NaN where fewer than two have part in the metric."""
    return influence if np.count_nonzero(has_part) > 1 else np.full(len(influence), np.nan)


def logloss(data: Predictions) -> Estimate:
    """Mean negative log-likelihood of the labels, nats; scores are probabilities.

    >>> round(logloss(Predictions.of(["ann", "bob"], [1, 0], [0.5, 0.5])).value, 4)
    0.6931
    """
    chance = np.clip(data.scores, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    loss = -(data.labels * np.log(chance) + (1 - data.labels) * np.log1p(-chance))
    return _mean_over_rows(data, loss, data.weights)


def calibration_ratio(data: Predictions) -> Estimate:
    """Sum of predictions over sum of labels: 1 is calibrated, above 1 too sure.

    >>> calibration_ratio(Predictions.of(["ann", "bob"], [1, 0], [0.75, 0.5])).value
    1.25
    """
    return _mean_over_rows(data, data.scores, data.weights, data.weights * data.labels)


def _mean_over_rows(data: Predictions, values: Array, weights: Array, below: Array | None = None) -> Estimate:
    """``Σ weights·values / Σ below``, with below = weights for a mean."""
    below = weights if below is None else below
    users, total = len(data.user_ids), below.sum()
    if not total > 0:
        return Estimate(float("nan"), np.zeros(users))
    ratio = float(np.dot(weights, values) / total)
    return Estimate(ratio, np.bincount(data.users, (weights * values - ratio * below) / total, users))


def normalised_entropy(data: Predictions) -> Estimate:
    """Log-loss over the entropy of the base rate: below 1 beats predicting the average (He et al. 2014).

    >>> round(normalised_entropy(Predictions.of(["ann", "bob"], [1, 0], [0.5, 0.5])).value, 6)
    1.0
    """
    return over_entropy(logloss(data), _mean_over_rows(data, data.labels, data.weights))


def over_entropy(loss: Estimate, rate: Estimate) -> Estimate:
    """A log-loss over the entropy of the base rate, by the delta method."""
    if not 0 < rate.value < 1:
        return Estimate(float("nan"), np.zeros(len(loss.influence)))
    entropy = -(rate.value * np.log(rate.value) + (1 - rate.value) * np.log1p(-rate.value))
    ratio = float(loss.value / entropy)
    slope = -np.log(rate.value / (1 - rate.value))  # derivative of the entropy by the rate
    return Estimate(ratio, (loss.influence - ratio * slope * rate.influence) / entropy)


def ndcg(data: Predictions, k: int = 10) -> Estimate:
    """Mean over users of the normalised discounted cumulative gain of their k best-scored rows.

    Gains are the labels; users without a positive are left out. Rows of equal score share their places'
    mean discount, so the order of the input does not matter (McSherry & Najork 2008).

    >>> round(ndcg(Predictions.of(["ann", "ann"], [0, 1], [0.9, 0.2])).value, 4)
    0.6309
    """
    return mean_over_users(ndcg_of_users(data, k), np.ones(len(data.user_ids)))


def ndcg_of_users(data: Predictions, k: int = 10) -> Array:
    """NDCG of each user, NaN for a user without a positive, shape (users,)."""
    users = len(data.user_ids)
    order = np.lexsort((-data.scores, data.users))
    user, score, label = data.users[order], data.scores[order], data.labels[order]
    counts = np.bincount(user, minlength=users)
    place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    discount = np.where(place < k, 1 / np.log2(place + 2), 0.0)
    tie = np.empty(len(user), dtype=bool)
    tie[:1] = True
    tie[1:] = (user[1:] != user[:-1]) | (score[1:] != score[:-1])
    run = np.cumsum(tie) - 1
    mean_discount = (np.bincount(run, discount) / np.bincount(run))[run]
    gain = np.bincount(user, label * mean_discount, users)
    positives = np.bincount(user, label, users).astype(np.int64)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])[np.minimum(positives, k)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(positives > 0, gain / ideal, np.nan)


def calibration_error(data: Predictions, bins: int = 20) -> float:
    """Expected calibration error over equal-width bins of the prediction (Naeini et al. 2015).

    >>> calibration_error(Predictions.of(["ann", "bob"], [1, 0], [0.75, 0.25]))
    0.25
    """
    if not len(data):
        return float("nan")
    bucket = np.clip((data.scores * bins).astype(np.int64), 0, bins - 1)
    gap = np.bincount(bucket, data.weights * (data.scores - data.labels), bins)
    return float(np.abs(gap).sum() / data.weights.sum())


METRICS: dict[str, Callable[[Predictions], Estimate]] = {
    "auc": auc,
    "uauc": uauc,
    "gauc": gauc,
    "session_auc": session_auc,
    "logloss": logloss,
    "calibration": calibration_ratio,
    "normalised_entropy": normalised_entropy,
    "ndcg@10": ndcg,
}
"""Every metric that has an interval. Higher is better for auc, uauc, gauc, session_auc; lower for logloss."""


OF_PROBABILITIES = ("logloss", "calibration", "normalised_entropy", "ece")
"""Metrics that mean nothing where scores are not probabilities."""
COMPARED = ("auc", "uauc", "gauc", "session_auc", "logloss")
"""What two models are compared by."""
JUDGED = {"auc": "AUC", "uauc": "UAUC", "session_auc": "session AUC"}
"""What the gate and studies compare rankers by, and the names for people."""
TRACKED = (*COMPARED, "calibration")
"""What is logged for every hour."""


def summary(data: Predictions) -> dict[str, float]:
    """Values of the tracked metrics, with ``ece``, ``samples``, ``users``, ``sessions`` and ``session_samples``.

    The last two count the sessions with both labels and their rows. The session AUC of several hours is the mean of the
    hours', weighted by ``session_samples``.
    """
    values = {name: METRICS[name](data).value for name in TRACKED}
    counts = {"samples": len(data), "users": len(data.user_ids), **session_counts(data)}
    return {**values, "ece": calibration_error(data), **{name: float(count) for name, count in counts.items()}}


def session_counts(data: Predictions) -> dict[str, int]:
    """``sessions`` with both labels, and ``session_samples``: how many rows are in them."""
    samples = data.mixed_sessions.samples
    return {"sessions": len(samples), "session_samples": int(samples.sum())}


@dataclass(frozen=True)
class MetricValue:
    """A metric with its 95 % interval, clustered by user."""

    value: float
    ci95: tuple[float, float]


def with_intervals(data: Predictions) -> dict[str, MetricValue]:
    """Metric → value and interval, of the metrics that two models are compared by."""
    estimates = {name: METRICS[name](data) for name in COMPARED}
    return {name: MetricValue(e.value, e.interval()) for name, e in estimates.items()}
