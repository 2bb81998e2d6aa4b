"""A table of summary statistics, one row per variant and metric, analyzed as the users would be whom it sums up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ab_analysis.checks import ExperimentCheck
from ab_analysis.comparisons import TableResult
from ab_analysis.inference import Method, MetricSpec
from ab_analysis.moments import Cells, Moments
from ab_analysis.raw_table import load_raw, raw_columns
from ab_analysis.table import TableData, analyze_data
from ab_analysis.table_spec import TableSpec
from ab_analysis.text_table import check_column
from core.documents import did_you_mean
from core.errors import ConfigError, DataError
from core.sql_engine import Engine

METRIC, USERS = "metric", "users"
VALUE = ("mean", "variance")
DENOMINATOR = ("denominator_mean", "denominator_variance", "denominator_covariance")
COVARIATE = ("covariate_mean", "covariate_variance", "covariate_covariance")
BOTH = "covariate_denominator_covariance"
COLUMNS = (USERS, *VALUE, *DENOMINATOR, *COVARIATE, BOTH)
"""Columns of numbers. Variances and covariances are samples', over the users of a variant; covariances are with the value unless their
name says another. Denominators make a metric a ratio of means, covariates were measured before exposure."""
ROUNDING = 1e-6
"""Figures that people copy are rounded: a correlation may be beyond 1 by so much."""

Figures = Mapping[str, float | None]


def analyze_summary(db: Engine, path: Path, spec: TableSpec) -> tuple[list[TableResult], list[ExperimentCheck]]:
    """Analyze a CSV or Parquet table of summary statistics.

    Args:
        db: runs the queries.
        path: of the table.
        spec: what to analyze; without metrics, all that the table has.

    Returns:
        Rows in the order of the metrics, as ``table.analyze_table`` gives them for the users; checks.

    Raises:
        ConfigError: something was asked that only users can answer, or a column does not exist.
        DataError: figures are missing, or no users could have them.
    """
    _refuse_what_needs_users(spec)
    rows = _read(db, path, spec)
    metrics = list(dict.fromkeys(metric for metric, _ in rows))
    if unknown := [m for m in spec.metrics if m not in metrics]:
        raise ConfigError(
            f"{path.name} has no metric '{unknown[0]}'{did_you_mean(unknown[0], metrics)} (it has {', '.join(metrics)})"
        )
    variants = sorted({variant for _, variant in rows})
    specs, cells = [], {}
    for metric in spec.metrics or metrics:
        if absent := [v for v in variants if (metric, v) not in rows]:
            raise DataError(f"{path.name}: metric '{metric}' has no row for {spec.variant} = '{absent[0]}'")
        specs.append(_spec_of(path, metric, [rows[metric, v] for v in variants]))
        cells[metric] = Cells(("variant",), {(v,): _moments(path, v, specs[-1], rows[metric, v]) for v in variants})
    data = TableData(specs, cells, {}, {}, checks=_same_users(cells))
    return analyze_data(data, spec, path)


def _refuse_what_needs_users(spec: TableSpec) -> None:
    asked = {
        "--ratio": spec.ratios, "--covariate": spec.covariates, "--quantile": spec.quantiles, "--cap or --winsorize": spec.limits,
        "--segment": spec.segments, "--stratum": spec.strata, "--user": spec.user, "--cluster": spec.cluster,
    }  # fmt: skip
    if options := [option for option, value in asked.items() if value]:
        hint = "; ratios and covariates are columns of the summary" if options[0] in {"--ratio", "--covariate"} else ""
        raise ConfigError(f"{options[0]} needs a row for each user, which a summary does not have{hint}")


def _read(db: Engine, path: Path, spec: TableSpec) -> dict[tuple[str, str], Figures]:
    """(metric, variant) → figures of its row."""
    columns = raw_columns(db, path)
    for name in (spec.variant, METRIC, USERS, *VALUE):
        check_column(name, columns, path)
    numbers = [name for name in COLUMNS if name in columns]
    load_raw(db, path, columns, numbers, [spec.variant, METRIC])
    rows: dict[tuple[str, str], Figures] = {}
    for row in db.arrow("SELECT * FROM raw").to_pylist():
        key = (str(row[METRIC]), str(row[spec.variant]))
        if row[METRIC] is None or row[spec.variant] is None:
            raise DataError(f"{path.name}: a row has no {METRIC if row[METRIC] is None else spec.variant}")
        if key in rows:
            raise DataError(
                f"{path.name}: metric '{key[0]}' has two rows for {spec.variant} = '{key[1]}'; give one for all its users"
            )
        rows[key] = {name: None if row[name] is None else float(row[name]) for name in numbers}
    if not rows:
        raise DataError(f"{path.name} has no rows")
    return rows


def _spec_of(path: Path, metric: str, rows: Sequence[Figures]) -> MetricSpec:
    """What a metric is, from the figures that its rows have."""

    def has(group: Sequence[str]) -> bool:
        filled = [row.get(name) is not None for row in rows for name in group]
        if any(filled) and not all(filled):
            missing = next(name for row in rows for name in group if row.get(name) is None)
            raise DataError(
                f"{path.name}: metric '{metric}' has no {missing} in some row; give {', '.join(group)} for every variant, or none"
            )
        return all(filled)

    if not has((USERS, *VALUE)):
        raise DataError(f"{path.name}: metric '{metric}' has no {', '.join((USERS, *VALUE))}")
    ratio, covariate = has(DENOMINATOR), has(COVARIATE)
    if ratio and covariate and not has((BOTH,)):
        raise DataError(f"{path.name}: metric '{metric}' is a ratio with a covariate and needs {BOTH}, too")
    methods: tuple[Method, ...] = ("welch", "cuped") if covariate else ("welch",)
    covariates = (f"of {metric}",) if covariate else ()
    return MetricSpec(metric, "value", "denominator" if ratio else None, covariates, methods=methods)


def _moments(path: Path, variant: str, spec: MetricSpec, row: Figures) -> Moments:
    """Moments of the users of a variant."""
    where = f"{path.name}: metric '{spec.metric}' of '{variant}'"

    def figure(name: str) -> float:
        value = row[name]
        if value is None or not math.isfinite(value):
            raise DataError(f"{where}: {name} is not a finite number")
        return value

    users = figure(USERS)
    if users < 1 or users != int(users):
        raise DataError(f"{where}: {users:g} users; a whole number above 0 is needed")
    names = ["value", *(["denominator"] if spec.denominator else []), *spec.covariates]
    prefixes = ["", *(["denominator_"] if spec.denominator else []), *(["covariate_"] if spec.covariates else [])]
    means = np.array([figure(f"{prefix}mean") for prefix in prefixes])
    covariance = np.diag([figure(f"{prefix}variance") for prefix in prefixes])
    if (covariance < 0).any():
        raise DataError(f"{where}: {prefixes[int(np.argmin(np.diag(covariance)))]}variance is below 0")
    for i, prefix in enumerate(prefixes[1:], 1):
        covariance[0, i] = covariance[i, 0] = figure(f"{prefix}covariance")
    if len(prefixes) == 3:
        covariance[1, 2] = covariance[2, 1] = figure(BOTH)
    deviation = np.sqrt(np.diag(covariance))
    scaled = covariance / np.outer(np.where(deviation > 0, deviation, 1.0), np.where(deviation > 0, deviation, 1.0))
    if np.linalg.eigvalsh(scaled)[0] < -ROUNDING:
        raise DataError(f"{where}: no users can have these variances and covariances (a correlation is beyond 1)")
    return Moments(tuple(names), int(users), means, covariance * max(int(users) - 1, 1))


def _same_users(cells: Mapping[str, Cells]) -> list[ExperimentCheck]:
    """Whether all metrics are of the same users, as the sample ratio is checked by those of the first."""
    counts = {metric: {key: moments.count for key, moments in of.cells.items()} for metric, of in cells.items()}
    first = next(iter(counts))
    if not (others := [metric for metric, users in counts.items() if users != counts[first]]):
        return []
    text = f"{', '.join(others)}: other numbers of users than those of {first}, by which the sample ratio is checked."
    return [ExperimentCheck("users", "warn", text)]
