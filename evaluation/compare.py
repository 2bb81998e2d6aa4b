"""Paired comparison of two models on the same impressions: intervals of the difference, and its power."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import numpy as np

from core.documents import JsonObject
from core.errors import ConfigError, DataError
from core.numbers import finite
from evaluation.estimate import Estimate
from evaluation.metrics import COMPARED, METRICS, auc, delong_influence
from evaluation.predictions import Predictions
from stats.confidence import check_confidence

POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """Difference of a metric, B minus A.

    Attributes:
        method: ``clustered`` (influences summed by user), ``delong`` (rows taken as independent;
            DeLong et al. 1988, doi:10.2307/2531595), ``bootstrap`` (users drawn with replacement).
        detectable: smallest true difference detected with a power of 80 %.
    """

    metric: str
    method: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    detectable: float

    def as_json(self) -> JsonObject:
        """Its values; what is undefined is None."""
        low, high = self.interval
        figures = {k: finite(getattr(self, k)) for k in ("a", "b", "difference", "p_value", "detectable")}
        return {**asdict(self), **figures, "interval": (finite(low), finite(high))}


def check_paired(a: Predictions, b: Predictions) -> None:
    """``DataError`` unless both hold the same impressions in the same order."""
    if not len(a):
        raise DataError("the predictions have no rows: there is nothing to compare")
    if not is_paired(a, b):
        raise DataError(
            "the two models were not scored on the same impressions (users, labels or weights differ); score both on the same ones"
        )


def is_paired(a: Predictions, b: Predictions) -> bool:
    """Whether two models' rows have the same users, labels and weights, in the same order."""
    same_users = len(a) == len(b) and np.array_equal(a.user_ids, b.user_ids) and np.array_equal(a.users, b.users)
    return same_users and np.array_equal(a.labels, b.labels) and np.array_equal(a.weights, b.weights)


def compare(
    a: Predictions,
    b: Predictions,
    confidence: float = 0.95,
    names: tuple[str, ...] = COMPARED,
) -> list[Comparison]:
    """Every metric's difference with an interval clustered by user, and DeLong's for the AUC.

    Raises:
        DataError: the two were not scored on the same impressions.
    """
    check_confidence(confidence)
    check_paired(a, b)
    rows = []
    for name in names:
        first, second = METRICS[name](a), METRICS[name](b)
        rows.append(_row(name, "clustered", first.value, second.value, second - first, confidence))
    first, second = auc(a), auc(b)
    gap = Estimate(second.value - first.value, delong_influence(b) - delong_influence(a))
    rows.insert(1, _row("auc", "delong", first.value, second.value, gap, confidence))
    return rows


def bootstrap(
    a: Predictions,
    b: Predictions,
    name: str = "auc",
    *,
    replications: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """The difference's percentile interval from users drawn with replacement."""
    check_confidence(confidence)
    check_paired(a, b)
    if replications < 2:
        raise ConfigError(f"{replications} replications give no interval; take 200 or more")
    rng = np.random.default_rng(seed)
    users = len(a.user_ids)
    metric = METRICS[name]
    order = np.argsort(a.users, kind="stable")
    begins, sizes = np.searchsorted(a.users[order], np.arange(users)), np.bincount(a.users, minlength=users)
    gaps = []
    for _ in range(replications):
        chosen = rng.integers(0, users, users)
        counts = sizes[chosen]
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows, owners = order[np.repeat(begins[chosen], counts) + place], np.repeat(np.arange(users), counts)
        drawn = [_drawn(p, rows, owners) for p in (a, b)]
        gaps.append(metric(drawn[1]).value - metric(drawn[0]).value)
    values = np.array([g for g in gaps if not np.isnan(g)])
    if not len(values):
        raise DataError(f"{name} is undefined in every replication")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    first, second = metric(a).value, metric(b).value
    p_value = min(1.0, 2 * float(min((values <= 0).mean(), (values >= 0).mean())))
    spread = detectable(float(values.std(ddof=1)), confidence)
    return Comparison(name, "bootstrap", first, second, second - first, (float(low), float(high)), p_value, spread)


def _drawn(data: Predictions, rows: np.ndarray, owners: np.ndarray) -> Predictions:
    """Rows of users drawn with replacement; one who was drawn twice is two of the ``owners``."""
    return replace(
        data, users=owners, labels=data.labels[rows], scores=data.scores[rows], weights=data.weights[rows],
        user_ids=np.arange(len(data.user_ids)), sessions=None if data.sessions is None else data.sessions[rows],
    )  # fmt: skip


def detectable(standard_error: float, confidence: float = 0.95) -> float:
    """Smallest true difference that a two-sided test finds with a power of 80 %."""
    normal = NormalDist()
    return (normal.inv_cdf(0.5 + confidence / 2) + normal.inv_cdf(POWER)) * standard_error


def _row(name: str, method: str, first: float, second: float, gap: Estimate, confidence: float) -> Comparison:
    return Comparison(
        name,
        method,
        first,
        second,
        gap.value,
        gap.interval(confidence),
        gap.p_value(),
        detectable(gap.standard_error, confidence),
    )
