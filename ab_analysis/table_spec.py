"""What to analyze in a plain table, as its reader asked for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ab_analysis.effect import Alternative
from ab_analysis.multiplicity import Correction
from ab_analysis.quantiles import Quantile
from ab_analysis.text_table import check_column
from core.errors import ConfigError
from stats.confidence import check_confidence

CORRECTION_NAMES: dict[Correction, str] = {
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "fdr_bh": "Benjamini and Hochberg",
}
SMALLEST_EFFECT = 1e-6
"""Relative effect for which a test can be planned."""


@dataclass(frozen=True)
class Limit:
    """What larger values of a metric count as, so that a few users do not decide.

    Attributes:
        value: the limit itself, or, with ``of_users``, the quantile of all users' values that is the limit.
    """

    value: float
    of_users: bool = False


@dataclass(frozen=True)
class TableSpec:
    """What to analyze in a table.

    Attributes:
        variant: column of the variant, empty for a table of users who were not assigned yet; ``control``: its value for the control.
        metrics: columns of means.
        ratios: name → (numerator column, denominator column).
        covariates: metric or ratio → columns measured before the experiment.
        segments: columns to analyze by; ``strata``: columns to post-stratify by.
        shares: planned share of each variant; empty: equal.
        user: column of the user, to detect users who are in the table twice.
        exclude_crossed: leave out users of two variants and report how many, instead of rejecting the table.
        confidence: level of the intervals, above 0.5 and below 1.
        quantiles: name → quantile of a column's values over the users.
        limits: column of an outcome → what larger values count as.
        alternative: on which side of 0 an effect is looked for.
        correction: for the number of metrics and variants; None: each comparison by itself.
        planned_users: of all variants, for intervals that hold however often the growing table is analyzed and are the narrowest at
            this number; None: one look.
        cluster: column of what was assigned to the variants, if that is not the user: a household, a shop, a city.
        power: with which the smallest detectable effect is told; None: it is not.
        minimum_effect: relative effect whose power and users are told.
    """

    variant: str
    control: str
    metrics: tuple[str, ...] = ()
    ratios: Mapping[str, tuple[str, str]] | None = None
    covariates: Mapping[str, tuple[str, ...]] | None = None
    segments: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    shares: Mapping[str, float] | None = None
    user: str | None = None
    exclude_crossed: bool = False
    confidence: float = 0.95
    quantiles: Mapping[str, Quantile] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    alternative: Alternative = "two-sided"
    correction: Correction | None = None
    planned_users: int | None = None
    cluster: str | None = None
    power: float | None = None
    minimum_effect: float | None = None

    def __post_init__(self) -> None:
        check_confidence(self.confidence, "--confidence")
        if self.planned_users is not None and self.planned_users < 2:
            raise ConfigError(f"--sequential {self.planned_users}: the planned number of users, at least 2")
        if self.planned_users is not None and self.alternative != "two-sided":
            raise ConfigError(f"--sequential has two-sided limits only; leave out --alternative {self.alternative}")
        check_power(self.power, self.minimum_effect)
        if self.exclude_crossed and not self.user:
            raise ConfigError("--exclude-crossed needs --user, the column that says who is in two variants")

    @property
    def groups(self) -> list[str]:
        """Columns of segments and strata."""
        return list(dict.fromkeys((*self.segments, *self.strata)))

    @property
    def reads_together(self) -> bool:
        """Whether p-values and intervals hold for several comparisons or looks together."""
        return bool(self.correction or self.planned_users)

    def covariates_of(self, metric: str) -> tuple[str, ...]:
        """What adjusts a metric or ratio; for a ratio that has none of its own, what adjusts its parts."""
        covariates = self.covariates or {}
        parts = (self.ratios or {}).get(metric, ())
        return tuple(dict.fromkeys(covariates.get(metric) or (c for part in parts for c in covariates.get(part, ()))))


def check_power(power: float | None, minimum_effect: float | None) -> None:
    """Check what a power is asked for.

    Raises:
        ConfigError: a number is out of its range.
    """
    if power is not None and not 0.5 < power < 1:
        raise ConfigError(f"--power {power:g}: between 0.5 and 1, for example 0.8")
    if minimum_effect is not None and not SMALLEST_EFFECT <= minimum_effect < 10:
        raise ConfigError(
            f"--minimum-effect {minimum_effect:g}: a relative effect from {SMALLEST_EFFECT:f} to 10, for example 0.02 for 2 %"
        )


def check_names(spec: TableSpec, columns: Sequence[str], path: Path, outcomes: Collection[str]) -> None:
    """Check the names of quantiles and limits, and what they are of."""
    for name, quantile in spec.quantiles.items():
        if name in {*spec.metrics, *(spec.ratios or {})}:
            raise ConfigError(f"{name} is the name of a quantile and of a metric or ratio")
        if not 0 < quantile.share < 1:
            raise ConfigError(f"--quantile {name}={quantile.column}@{quantile.share:g}: between 0 and 1")
        check_column(quantile.column, columns, path)
        if quantile.column in spec.limits:
            raise ConfigError(f"--quantile {name}: '{quantile.column}' has a limit, which a quantile does not need")
    for column, limit in spec.limits.items():
        if column not in outcomes:
            raise ConfigError(f"'{column}' has a limit, but no --metric or --ratio is made of it")
        if limit.of_users and not 0.5 < limit.value < 1:
            raise ConfigError(f"--winsorize {column}={limit.value:g}: between 0.5 and 1")
        if not math.isfinite(limit.value):
            raise ConfigError(f"--cap {column}={limit.value}: give a number")
