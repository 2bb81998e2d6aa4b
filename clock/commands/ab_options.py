"""Options that commands of ``clock ab`` share, and those whose values have parts, such as NAME=A/B."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ConfigError

if TYPE_CHECKING:
    from ab_analysis.power import PlanRow
    from ab_analysis.quantiles import Quantile
    from ab_analysis.table_spec import Limit, TableSpec
    from core.documents import JsonObject

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="OUT.json", help="Write the rows to a file: a list, one object per row."),
]
TableArgument = Annotated[
    Path, typer.Argument(metavar="TABLE", help="CSV or Parquet, a file or a folder of Parquet parts.")
]
MetricOption = Annotated[
    list[str] | None, typer.Option("--metric", metavar="COLUMN", help="A mean per user; may be repeated.")
]
RatioOption = Annotated[
    list[str] | None,
    typer.Option("--ratio", metavar="NAME=A/B", help="Sum of A over sum of B; delta method. May be repeated."),
]
CovariateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--covariate",
        metavar="METRIC=COLUMN[,COLUMN]",
        help="Measured before exposure; for a metric or a ratio (NAME=A_PRE/B_PRE). May be repeated.",
    ),
]
CapOption = Annotated[
    list[str] | None,
    typer.Option("--cap", metavar="COLUMN=VALUE", help="Larger values count as this one. May be repeated."),
]
WinsorizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--winsorize",
        metavar="COLUMN=SHARE",
        help="The same at a quantile of all users, such as 0.99. May be repeated.",
    ),
]
SharesOption = Annotated[
    str | None,
    typer.Option("--shares", metavar="V=S,V=S", help="Planned shares of the variants. Default: equal."),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="COLUMN",
        help="What was assigned, if not the user: a household, a shop. Errors are over these.",
    ),
]


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


def outcomes_of(
    metric: list[str] | None,
    ratio: list[str] | None,
    covariate: list[str] | None,
    cap: list[str] | None,
    winsorize: list[str] | None,
    cluster: str | None,
    confidence: float,
) -> TableSpec:
    """What is measured in a table, from the options that its analysis and its plan share; without variants.

    Args:
        metric, ratio, covariate, cap, winsorize, cluster, confidence: values of the options.

    Raises:
        ConfigError: a value is not of its option's form.
    """
    from ab_analysis.table_spec import TableSpec

    return TableSpec(
        variant="", control="", metrics=tuple(dict.fromkeys(metric or ())),
        ratios={name: ratio_of(name, text) for name, text in pairs("--ratio", ratio or [])},
        covariates=covariates_of(covariate or []), limits=limits_of(cap or [], winsorize or []), cluster=cluster,
        confidence=confidence,
    )  # fmt: skip


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
    if text is None:
        return None
    from ab_analysis.experiment import check_shares

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


def write_rows(path: Path, rows: list[JsonObject]) -> None:
    """Write a JSON list, one object per line."""
    from core.files import write_output

    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_output(path, f"[\n{lines}\n]\n")
    print(f"written to {path}", file=sys.stderr)


def print_plan(rows: Sequence[PlanRow], units: str = "users") -> None:
    """Print what tests could find, one line per row; a column of days where they are known.

    Args:
        rows: of a plan.
        units: what is assigned.
    """
    days = any(r.days for r in rows)
    width = max([len(r.metric) for r in rows] + [24]) + 2
    print(
        f"{'metric':<{width}}{'method':<8}{'days':>5}"[: None if days else -5]
        + f"{units:>12}{'mean':>11}{'sd':>11}{'saved':>7}{'detectable':>12}{'needed':>13}{'power':>7}"
    )
    for r in rows:
        print(
            f"{r.metric:<{width}}{r.method:<8}{f'{r.days:>5}' if days else ''}{r.users:>12,}{r.mean:>11.4g}{r.sd:>11.4g}"
            f"{r.variance_reduction:>7.0%}{r.detectable:>12.2%}{r.users_needed:>13,}{r.power:>7.0%}"
        )
