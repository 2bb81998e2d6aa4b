"""What to analyze in a plain table, as its reader asked for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ab_analysis.quantiles import Quantile
from ab_analysis.text_table import check_column
from core.errors import ConfigError
from stats.confidence import check_confidence


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
        variant: column of the variant; ``control``: its value for the control.
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

    def __post_init__(self) -> None:
        check_confidence(self.confidence, "--confidence")
        if self.exclude_crossed and not self.user:
            raise ConfigError("--exclude-crossed needs --user, the column that says who is in two variants")


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
