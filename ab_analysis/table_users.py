"""Somebody else's table made ready for the statistics: checked, as numbers, with flags for what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ab_analysis.checks import ExperimentCheck
from ab_analysis.inference import Method, MetricSpec
from ab_analysis.moments import Ranges, read_ranges
from ab_analysis.raw_table import load_raw, raw_columns
from ab_analysis.table_spec import TableSpec, check_names
from ab_analysis.text_table import check_column
from core.duck import identifier, is_finite
from core.errors import ConfigError, DataError
from core.sql_engine import Engine

MISSING = "\x1fis missing"
"""Ends the name of a covariate's indicator, as no table's column can be named."""
CLUSTER = "\x1fcluster"
"""Column of ``table_users`` with the cluster."""
MOST_SEGMENT_VALUES = 50
MOST_VARIANTS = 50


@dataclass(frozen=True)
class TableUsers:
    """The view ``table_users``: one row per user with ``variant``, numbers, segments and strata.

    Attributes:
        specs: the metrics, with an indicator of missing values beside each covariate that has any.
        by: group columns, the variant first.
        ranges: of all columns of numbers, by group.
        excluded: users of two variants, who are left out.
        checks: what was limited.
    """

    specs: list[MetricSpec]
    by: tuple[str, ...]
    ranges: Ranges
    excluded: int
    checks: list[ExperimentCheck]


@contextmanager
def told_errors(db: Engine, path: Path) -> Iterator[None]:
    """Turn an error of the engine, within a ``with`` block, into one that says which table cannot be computed.

    Raises:
        DataError: the engine failed.
    """
    try:
        yield
    except db.errors as error:
        raise DataError(f"{path}: the table cannot be computed: {str(error).splitlines()[0]}") from None


def prepare_users(db: Engine, path: Path, spec: TableSpec) -> TableUsers:
    """Check a table and read it into ``table_users``.

    Args:
        db: runs the queries.
        path: of the table.
        spec: what to analyze.

    Raises:
        ConfigError: a column does not exist, or cannot be what it was named for.
        DataError: what a row holds cannot be analyzed.
    """
    columns = raw_columns(db, path)
    specs = _specs(spec, columns, path)
    quantiles = [q.column for q in spec.quantiles.values()]
    numbers = list(dict.fromkeys([*(c for t in specs for c in t.columns), *quantiles]))
    groups = spec.groups
    if own := [c for c in (*numbers, *groups) if c.lower() == "variant"]:
        raise ConfigError(f"a column named '{own[0]}' cannot be a metric, covariate or segment; rename it")
    keys = [name for name in (spec.user, spec.cluster) if name]
    if clashing := sorted({*groups, *([spec.cluster] if spec.cluster else [])} & set(numbers)):
        raise ConfigError(
            f"column '{clashing[0]}' cannot be a metric or covariate and a segment, stratum or cluster at once; copy it"
        )
    variants = [spec.variant] if spec.variant else []
    for column in (*variants, *groups, *keys):
        check_column(column, columns, path)
    load_raw(db, path, columns, numbers, list(dict.fromkeys((*variants, *groups, *keys))))
    _check_groups(db, spec, path)
    excluded = _check_users(db, spec, path)
    where = _where_uncrossed(spec, crossed=bool(excluded))
    limits, limited = _limits(db, spec, where)
    _name_users(db, spec, specs, limits, where)
    by = ("variant", *groups)
    covariates = list(dict.fromkeys(c for t in specs for c in t.covariates))
    ranges = read_ranges(db, "table_users", by, [*numbers, *(c + MISSING for c in covariates)])
    incomplete = {c for c in covariates if ranges.largest(c + MISSING)}
    specs = [
        replace(t, covariates=(*t.covariates, *(c + MISSING for c in t.covariates if c in incomplete))) for t in specs
    ]
    return TableUsers(specs, by, ranges, excluded, limited)


def _where_uncrossed(spec: TableSpec, *, crossed: bool) -> str:
    """SQL that leaves out users of two variants."""
    if not (spec.user and crossed):
        return ""
    return f" WHERE {identifier(spec.user)} NOT IN (SELECT crossed_user FROM crossed_users)"


def _limits(db: Engine, spec: TableSpec, where: str) -> tuple[dict[str, float], list[ExperimentCheck]]:
    """Limit of each limited column, and how many users it concerns."""
    limits, checks = {}, []
    for column, limit in spec.limits.items():
        value, name = limit.value, f"CAST({identifier(column)} AS DOUBLE)"
        if limit.of_users:
            known = f"CASE WHEN {is_finite(name)} THEN {name} END"
            quantile = db.scalar(
                f"SELECT percentile_cont({limit.value!r}) WITHIN GROUP (ORDER BY {known}) FROM raw{where}"
            )
            if quantile is None:
                continue
            value = float(quantile)
        users = db.scalar(f"SELECT count(*) FILTER (WHERE {_above(name, value)}) FROM raw{where}")
        limits[column] = value
        text = f"Values of {column} above {value:,.6g} count as {value:,.6g}: {users:,} users."
        checks.append(ExperimentCheck("limited values", "ok", text))
    return limits, checks


def _above(name: str, limit: float) -> str:
    """SQL of whether a number is above a limit; NaN and infinity, the largest of numbers to DuckDB, are not."""
    return f"{name} > {limit!r} AND {is_finite(name)}"


def _specs(spec: TableSpec, columns: Sequence[str], path: Path) -> list[MetricSpec]:
    covariates, ratios = spec.covariates or {}, dict(spec.ratios or {})
    if clashing := sorted(set(spec.metrics) & set(ratios)):
        raise ConfigError(f"'{clashing[0]}' is the name of a metric and of a ratio; give the ratio another one")
    if unknown := sorted(set(covariates) - {*spec.metrics, *ratios}):
        raise ConfigError(f"--covariate {unknown[0]}=…: there is no such --metric or --ratio")
    specs = [MetricSpec(m, m, None, spec.covariates_of(m)) for m in spec.metrics]
    for name, (top, bottom) in ratios.items():
        if top == bottom:
            raise ConfigError(f"--ratio {name}={top}/{bottom}: numerator and denominator are the same column")
        specs.append(MetricSpec(name, top, bottom, spec.covariates_of(name)))
    if not (specs or spec.quantiles):
        raise ConfigError(
            f"nothing to analyze: give --metric{', --ratio or --quantile' if spec.variant else ' or --ratio'}"
        )
    outcomes = {c for t in specs for c in (t.numerator, t.denominator) if c}
    check_names(spec, columns, path, outcomes)
    for t in specs:
        if outcome_covariates := sorted(set(t.covariates) & outcomes):
            raise ConfigError(
                f"covariate '{outcome_covariates[0]}' of '{t.metric}' is itself an outcome: a covariate must be measured before exposure"
            )
        for name in t.columns:
            check_column(name, columns, path)
    return [replace(t, methods=_methods(spec, t)) for t in specs]


def _methods(spec: TableSpec, t: MetricSpec) -> tuple[Method, ...]:
    methods: list[Method] = ["welch"]
    if t.covariates:
        methods.append("cuped")
    if spec.strata and t.denominator is None:
        methods.append("post_stratified")
    return tuple(methods)


def _check_groups(db: Engine, spec: TableSpec, path: Path) -> None:
    """Check that every row has a variant, a user and a cluster, and that variants, segments and strata have few enough values."""
    keys = [name for name in (spec.variant, spec.user, spec.cluster) if name]
    selected = [f"count(*) FILTER (WHERE {identifier(name)} IS NULL) AS k{n}" for n, name in enumerate(keys)]
    selected += [
        f"count(DISTINCT {identifier(name)}) + count(DISTINCT CASE WHEN {identifier(name)} IS NULL THEN 1 END) AS d{n}"
        for n, name in enumerate((*([spec.variant] if spec.variant else []), *spec.groups))
    ]
    if not selected:
        return
    figures = db.rows(f"SELECT {', '.join(selected)} FROM raw")[0]
    for name, missing in zip(keys, figures, strict=False):
        if missing:
            remedy = (
                "leave them out: nobody knows who they are"
                if name == spec.user
                else "fill them in, or leave the rows out"
            )
            raise DataError(f"{path.name}: {missing:,} rows have no {name}; {remedy}")
    variants, counts = (figures[len(keys)], figures[len(keys) + 1 :]) if spec.variant else (1, figures[len(keys) :])
    if variants > MOST_VARIANTS:
        raise ConfigError(
            f"--variant {spec.variant}: the column has {variants:,} values; at most {MOST_VARIANTS} are compared"
        )
    for name, values in zip(spec.groups, counts, strict=True):
        if values > MOST_SEGMENT_VALUES:
            kind = "segment" if name in spec.segments else "stratum"
            raise ConfigError(f"{kind} '{name}' has {values:,} values; at most {MOST_SEGMENT_VALUES} can be read")


def _check_users(db: Engine, spec: TableSpec, path: Path) -> int:
    """Check that every user has one row; returns how many users of two variants are to be left out."""
    if not spec.user:
        return 0
    variant, user = identifier(spec.variant) if spec.variant else "''", identifier(spec.user)
    repeated = f"SELECT {user}, count(DISTINCT {variant}) AS variants FROM raw GROUP BY {user} HAVING count(*) > 1"
    not_crossed, crossed = db.rows(
        f"SELECT count(*) FILTER (WHERE variants = 1), count(*) FILTER (WHERE variants > 1) FROM ({repeated}) repeated"
    )[0]
    if crossed and not spec.exclude_crossed:
        raise DataError(
            f"{path.name}: {crossed:,} users are in two variants; find out why, and leave them out (--exclude-crossed does)"
        )
    if not_crossed:
        raise DataError(
            f"{path.name}: {not_crossed:,} users appear more than once; the table must have one row per user"
        )
    if crossed:
        db.table("crossed_users", f"SELECT {user} AS crossed_user FROM ({repeated}) repeated WHERE variants > 1")
    return int(crossed)


def _name_users(
    db: Engine, spec: TableSpec, specs: Sequence[MetricSpec], limits: Mapping[str, float], where: str
) -> None:
    """Define ``table_users``: numbers as doubles, missing covariates as 0 with a column that flags them.

    A segment's value begins with ``v``; ``n`` marks a user without one, so that no text can be mistaken for it.
    """
    covariates = list(dict.fromkeys(c for t in specs for c in t.covariates))
    outcomes = [c for t in specs for c in (t.numerator, t.denominator) if c]
    outcomes = list(dict.fromkeys([*outcomes, *(q.column for q in spec.quantiles.values())]))
    variant = identifier(spec.variant) if spec.variant else "'all'"
    selected = [f"CAST({variant} AS STRING) AS variant"]
    for c in outcomes:
        value = f"CAST({identifier(c)} AS DOUBLE)"
        if c in limits:  # what is no finite number stays so, and is refused
            value = f"CASE WHEN {_above(value, limits[c])} THEN {limits[c]!r} ELSE {value} END"
        selected.append(f"{value} AS {identifier(c)}")
    for c in covariates:
        name = identifier(c)
        selected.append(f"coalesce(CAST({name} AS DOUBLE), 0) AS {name}")
        selected.append(f"CASE WHEN {name} IS NULL THEN 1.0 ELSE 0.0 END AS {identifier(c + MISSING)}")
    if spec.cluster:
        selected.append(f"{identifier(spec.cluster)} AS {identifier(CLUSTER)}")
    groups = [identifier(name) for name in spec.groups]
    selected += [f"coalesce('v' || CAST({name} AS STRING), 'n') AS {name}" for name in groups]
    db.view("table_users", f"SELECT {', '.join(selected)} FROM raw{where}")
