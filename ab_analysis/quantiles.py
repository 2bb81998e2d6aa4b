"""Compare quantiles of the users' values by the outer interval of order statistics.

The standard error of a quantile p of n independent users is the distance of the order statistics at p ± z·√(p(1 − p)/n)
divided by 2z, so that no density has to be estimated (Liu, Sun, Varshney & Xu 2019, arXiv 1903.08762).

Of users in clusters, √(p(1 − p)/n) is replaced by the standard error over clusters of the share of users at or below the quantile:
that share is what the quantile's influence function counts (Deng, Knoblich & Lu 2018, doi:10.1145/3219819.3219919, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

from ab_analysis.effect import UNKNOWN, Effect, from_estimates
from core.duck import double, identifier, quoted
from core.sql_engine import Engine

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Quantile:
    """A quantile of the users' values.

    Attributes:
        column: of the values.
        share: of the users below it, between 0 and 1.
        table: one row per user, with the column ``variant``.
        cluster: column of what was assigned, if that is not the user.
    """

    column: str
    share: float
    table: str = "users"
    cluster: str | None = None


def compare_quantiles(db: Engine, quantile: Quantile, control: str, treatment: str, confidence: float) -> Effect:
    """Compare a quantile between two variants.

    Args:
        db: has the table of users.
        quantile: which one.
        control, treatment: names of the variants.
        confidence: level of the intervals.

    Returns:
        ``UNKNOWN`` if there are too few users or too few distinct values.
    """
    sides = [estimate_quantile(db, quantile, variant) for variant in (control, treatment)]
    if not all(math.isfinite(se) for _, se in sides):
        return UNKNOWN
    return from_estimates(sides[0][0], sides[1][0], sides[0][1], sides[1][1], confidence)


def estimate_quantile(db: Engine, quantile: Quantile, variant: str) -> tuple[float, float]:
    """A quantile of a variant and its standard error; NaN if the order statistics around it lie outside the sample.

    Args:
        db: has the table of users.
        quantile: which one.
        variant: name of the variant.
    """
    p, where = quantile.share, f"FROM {quantile.table} WHERE variant = {quoted(variant)}"
    step = Z * (_share_error(db, quantile, where) if quantile.cluster else _share_error_of_users(db, p, where))
    low, high = p - step, p + step
    if not 0 < low <= high < 1:
        return math.nan, math.nan
    value, lower, upper = _percentiles(db, quantile, (p, low, high), where)
    return value, (upper - lower) / (2 * Z) or math.nan


def _percentiles(db: Engine, quantile: Quantile, shares: Sequence[float], where: str) -> list[float]:
    selected = ", ".join(
        f"percentile_cont({share!r}) WITHIN GROUP (ORDER BY {identifier(quantile.column)}) AS q{n}"
        for n, share in enumerate(shares)
    )
    return [float(value) for value in db.rows(f"SELECT {selected} {where}")[0]]


def _share_error_of_users(db: Engine, share: float, where: str) -> float:
    return math.sqrt(share * (1 - share) / int(db.scalar(f"SELECT count(*) {where}")))


def _share_error(db: Engine, quantile: Quantile, where: str) -> float:
    """Standard error over clusters of the share of users at or below the quantile; NaN with fewer than two clusters.

    The share is a ratio of two sums per cluster, and its error is the delta method's. All sums are of whole numbers.
    """
    (value,) = _percentiles(db, quantile, (quantile.share,), where)
    below = f"count(CASE WHEN {identifier(quantile.column)} <= {double(value)} THEN 1 END)"
    sums = f"SELECT {below} AS b, count(*) AS n {where} GROUP BY {identifier(str(quantile.cluster))}"
    figures = db.rows(
        "SELECT count(*) AS clusters, CAST(sum(b) AS BIGINT) AS b, CAST(sum(n) AS BIGINT) AS n, CAST(sum(b * b) AS BIGINT) AS bb, "
        f"CAST(sum(b * n) AS BIGINT) AS bn, CAST(sum(n * n) AS BIGINT) AS nn FROM ({sums}) of_clusters"
    )
    clusters, b, n, bb, bn, nn = map(int, figures[0])
    if clusters < 2:
        return math.nan
    squares = Fraction(bb) - 2 * Fraction(b, n) * bn + Fraction(b, n) ** 2 * nn
    return math.sqrt(squares * clusters / (clusters - 1)) / n
