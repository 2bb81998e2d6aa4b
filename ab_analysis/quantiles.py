"""Compare quantiles of the users' values by the outer interval of order statistics.

The standard error of a quantile p of n independent users is the distance of the order statistics at p ± z·√(p(1 − p)/n)
divided by 2z, so that no density has to be estimated (Liu, Sun, Varshney & Xu 2019, arXiv 1903.08762).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from ab_analysis.effect import UNKNOWN, Effect, from_estimates
from core.duck import identifier, quoted
from core.sql_engine import Engine

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Quantile:
    """A quantile of the users' values.

    Attributes:
        column: of the values.
        share: of the users below it, between 0 and 1.
        table: one row per user, with the column ``variant``.
    """

    column: str
    share: float
    table: str = "users"


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
    n = int(db.scalar(f"SELECT count(*) {where}"))
    step = Z * math.sqrt(p * (1 - p) / n)
    low, high = p - step, p + step
    if low <= 0 or high >= 1:
        return math.nan, math.nan
    percentiles = ", ".join(
        f"percentile_cont({q!r}) WITHIN GROUP (ORDER BY {identifier(quantile.column)}) AS q{i}"
        for i, q in enumerate((p, low, high))
    )
    value, lower, upper = map(float, db.rows(f"SELECT {percentiles} {where}")[0])
    return value, (upper - lower) / (2 * Z) or math.nan
