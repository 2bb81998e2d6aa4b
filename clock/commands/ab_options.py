"""Options of ``clock ab analyze`` whose values have parts, such as NAME=A/B."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from core.errors import ConfigError

if TYPE_CHECKING:
    from ab_analysis.quantiles import Quantile
    from ab_analysis.table_spec import Limit


def pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    """Name and value of each text of the form NAME=VALUE."""
    pairs = []
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ConfigError(f"{option} {text}: write NAME=VALUE")
        pairs.append((name, value))
    return pairs


def ratio_of(name: str, text: str) -> tuple[str, str]:
    """Numerator and denominator of a ratio."""
    top, slash, bottom = text.partition("/")
    if not (top and slash and bottom):
        raise ConfigError(f"--ratio {name}={text}: write NAME=NUMERATOR/DENOMINATOR")
    return top.strip(), bottom.strip()


def covariates_of(texts: list[str]) -> dict[str, tuple[str, ...]]:
    """Metric → covariates."""
    covariates: dict[str, tuple[str, ...]] = {}
    for name, value in pairs("--covariate", texts):
        columns = tuple(c.strip() for part in value.split(",") for c in part.split("/") if c.strip())
        covariates[name] = (*covariates.get(name, ()), *columns)
    return covariates


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option}: '{text}' is not a number") from None


def quantiles_of(texts: list[str]) -> dict[str, Quantile]:
    """Name → quantile."""
    from ab_analysis.quantiles import Quantile

    quantiles = {}
    for name, text in pairs("--quantile", texts):
        column, at, share = text.rpartition("@")
        if not (column and at and share):
            raise ConfigError(f"--quantile {name}={text}: write NAME=COLUMN@SHARE, for example p90=duration@0.9")
        quantiles[name] = Quantile(column.strip(), _number("--quantile", share))
    return quantiles


def limits_of(caps: list[str], shares: list[str]) -> dict[str, Limit]:
    """Column → what larger values count as."""
    from ab_analysis.table_spec import Limit

    limits: dict[str, Limit] = {}
    for option, texts in (("--cap", caps), ("--winsorize", shares)):
        for column, value in pairs(option, texts):
            if column in limits:
                raise ConfigError(f"{option} {column}={value}: '{column}' has a limit already")
            limits[column] = Limit(_number(option, value), of_users=option == "--winsorize")
    return limits


def shares_of(text: str | None) -> dict[str, float] | None:
    """Variant → planned share; None where none was given."""
    from ab_analysis.experiment import check_shares

    if text is None:
        return None
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not name or math.isnan(share):
            raise ConfigError(f"--shares {text}: write VARIANT=SHARE,VARIANT=SHARE")
        if name in shares:
            raise ConfigError(f"--shares {text}: '{name}' appears twice")
        shares[name] = share
    try:
        check_shares(shares)
    except ValueError as error:
        raise ConfigError(f"--shares {text}: {error}") from None
    return shares
