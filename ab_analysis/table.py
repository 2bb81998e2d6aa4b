"""An experiment from elsewhere: a plain table with one row per user, analyzed by the same statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ab_analysis.checks import (
    MIN_SEGMENT_USERS,
    ExperimentCheck,
    UntestedSegment,
    sample_ratio,
    untested_segments,
    withheld_lifts,
)
from ab_analysis.inference import Effect, Method, MetricSpec, compare, measure
from ab_analysis.moments import Cells, read_moments
from ab_analysis.quantiles import compare_quantiles
from ab_analysis.raw_table import load_raw, raw_columns
from ab_analysis.table_spec import TableSpec, check_names
from ab_analysis.text_table import check_column
from core.duck import identifier
from core.errors import ConfigError, DataError
from core.sql_engine import Engine

MISSING = "\x1fis missing"
"""Ends the name of a covariate's indicator, as no table's column can be named."""
REFUSED_P_VALUE = 1e-4
"""A covariate that differs between variants with a p-value below this was measured after exposure, or the groups are not
comparable: adjusting by it would hide an effect, or create one."""
MOST_SEGMENT_VALUES = 50
MOST_VARIANTS = 50


@dataclass(frozen=True)
class TableResult:
    """A row of the result; ``segment`` is None for all users, its value None for users without one."""

    metric: str
    variant: str
    method: Method
    n_control: int
    n_treatment: int
    effect: Effect
    segment: tuple[str, str | None] | None = None


def analyze_table(db: Engine, path: Path, spec: TableSpec) -> tuple[list[TableResult], list[ExperimentCheck]]:
    """Analyze a CSV or Parquet table.

    Args:
        db: runs the queries.
        path: a file, or a folder of Parquet parts.
        spec: what to analyze.

    Returns:
        Rows in the order of the metrics; checks.

    Raises:
        ConfigError: a column does not exist, or a covariate is itself an outcome.
        DataError: a value is not a number, a user appears twice, a variant has no users, or a covariate differs between
            the variants (measured after exposure).
    """
    try:
        return _analyze(db, path, spec)
    except db.errors as error:
        raise DataError(f"{path}: the table cannot be computed: {str(error).splitlines()[0]}") from None


def _analyze(db: Engine, path: Path, spec: TableSpec) -> tuple[list[TableResult], list[ExperimentCheck]]:
    specs, excluded, capped = _prepare(db, path, spec)
    by = ("variant", *dict.fromkeys((*spec.segments, *spec.strata)))
    _check_values(db, spec, by[1:])
    specs = _with_missing(db, specs)
    cells = read_moments(
        db, "table_users", by, [*(t.columns for t in specs), *((q.column,) for q in spec.quantiles.values())]
    )
    counts, planned = _shares(spec, cells, path)
    treatments = [v for v in counts if v != spec.control]
    for t in specs:
        _refuse_late_covariates(spec, t, cells, treatments)
    rows = [
        TableResult(t.metric, v, method, counts[spec.control], counts[v], effect)
        for t in specs
        for v in treatments
        for method, effect in measure(t, cells, spec.control, v, spec.confidence, spec.strata)
    ]
    rows += [
        TableResult(name, v, "quantile", counts[spec.control], counts[v], effect)
        for name, quantile in spec.quantiles.items()
        for v in treatments
        for effect in [compare_quantiles(db, replace(quantile, table="table_users"), spec.control, v, spec.confidence)]
    ]
    in_segments, untested = _in_segments(spec, specs, cells, treatments)
    checks = [sample_ratio(planned, counts), *_alike(list(counts)), *_nothing_to_adjust(specs, cells), *capped]
    if excluded:
        text = f"{excluded:,} users were in more than one variant and are left out; find out why they were."
        checks.append(ExperimentCheck("users in two variants", "warn", text))
    checks += withheld_lifts(list(dict.fromkeys(r.metric for r in rows if r.effect.lift_withheld)))
    checks += untested_segments(untested)
    return rows + in_segments, checks


def _prepare(db: Engine, path: Path, spec: TableSpec) -> tuple[list[MetricSpec], int, list[ExperimentCheck]]:
    """Read the table into ``table_users``.

    Returns:
        Its metrics, how many users of two variants are left out, and what was limited.
    """
    if not path.exists():
        raise ConfigError(f"no table at '{path}'")
    columns = raw_columns(db, path)
    specs = _specs(spec, columns, path)
    if "variant" in {*spec.segments, *spec.strata, *(c for t in specs for c in t.columns)}:
        raise ConfigError("a column named 'variant' cannot be a metric, covariate or segment; rename it")
    numbers = list(
        dict.fromkeys([*(c for t in specs for c in t.columns), *(q.column for q in spec.quantiles.values())])
    )
    if clashing := sorted({*spec.segments, *spec.strata} & set(numbers)):
        raise ConfigError(
            f"column '{clashing[0]}' cannot be a metric or covariate and a segment or stratum at once; copy it"
        )
    for column in (spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else [])):
        check_column(column, columns, path)
    groups = list(dict.fromkeys((spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else []))))
    load_raw(db, path, columns, numbers, groups)
    excluded = _check_users(db, spec, path)
    where = _where_uncrossed(spec, crossed=bool(excluded))
    limits, capped = _limits(db, spec, where)
    _name_users(db, spec, specs, limits, where)
    return specs, excluded, capped


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
            value = float(
                db.scalar(f"SELECT percentile_cont({limit.value!r}) WITHIN GROUP (ORDER BY {name}) FROM raw{where}")
            )
        users = db.scalar(f"SELECT count(*) FILTER (WHERE {name} > {value!r}) FROM raw{where}")
        limits[column] = value
        text = f"Values of {column} above {value:,.6g} count as {value:,.6g}: {users:,} users."
        checks.append(ExperimentCheck("limited values", "ok", text))
    return limits, checks


def _shares(spec: TableSpec, cells: Cells, path: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Number of users and planned share of each variant."""
    if not cells.cells:
        raise DataError(f"{path.name} has no rows")
    variants = cells.values("variant")
    if spec.control not in variants:
        raise DataError(f"no user has {spec.variant} = '{spec.control}' (the variants are {', '.join(variants)})")
    if len(variants) < 2:
        raise DataError(f"every user has {spec.variant} = '{spec.control}': there is nothing to compare")
    counts = {v: cells.of(variant=v).count for v in variants}
    planned = dict(spec.shares or dict.fromkeys(variants, 1.0))
    if absent := sorted(set(planned) - set(variants)):
        raise DataError(f"no user has {spec.variant} = {', '.join(map(repr, absent))}: a variant without users")
    if extra := sorted(set(variants) - set(planned)):
        raise ConfigError(f"--shares names no share for {', '.join(extra)}")
    return counts, planned


def _in_segments(
    spec: TableSpec, specs: Sequence[MetricSpec], cells: Cells, treatments: Sequence[str]
) -> tuple[list[TableResult], list[UntestedSegment]]:
    rows: list[TableResult] = []
    untested: list[UntestedSegment] = []
    for segment in spec.segments:
        for key in cells.values(segment):
            value = _segment_value(key)
            for t, v in ((t, v) for t in specs for v in treatments):
                sides = [cells.of(variant=side, **{segment: key}) for side in (spec.control, v)]
                users = (sides[0].count, sides[1].count)
                if min(users) < MIN_SEGMENT_USERS:
                    untested.append(UntestedSegment(segment, value, v, *users))
                    continue
                effect = compare(t, sides[0], sides[1], spec.confidence, adjusted=bool(t.covariates))
                method: Method = "cuped" if t.covariates else "welch"
                rows.append(TableResult(t.metric, v, method, *users, effect, (segment, value)))
    return rows, list(dict.fromkeys(untested))


def _specs(spec: TableSpec, columns: Sequence[str], path: Path) -> list[MetricSpec]:
    covariates = dict(spec.covariates or {})
    ratios = dict(spec.ratios or {})
    if clashing := sorted(set(spec.metrics) & set(ratios)):
        raise ConfigError(f"{clashing} is the name of a metric and of a ratio")
    if unknown := sorted(set(covariates) - {*spec.metrics, *ratios}):
        raise ConfigError(f"--covariate {unknown[0]}=…: there is no such --metric or --ratio")
    specs = [MetricSpec(m, m, None, tuple(covariates.get(m, ()))) for m in spec.metrics]
    for name, (top, bottom) in ratios.items():
        if top == bottom:
            raise ConfigError(f"--ratio {name}={top}/{bottom}: numerator and denominator are the same column")
        own_covariates = covariates.get(name) or tuple(c for part in (top, bottom) for c in covariates.get(part, ()))
        specs.append(MetricSpec(name, top, bottom, tuple(dict.fromkeys(own_covariates))))
    if not (specs or spec.quantiles):
        raise ConfigError("nothing to analyze: give --metric, --ratio or --quantile")
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


def _check_users(db: Engine, spec: TableSpec, path: Path) -> int:
    """Check that every row has a variant and a user, and every user one row; returns how many crossed users to leave out."""
    variant = identifier(spec.variant)
    if n := db.scalar(f"SELECT count(*) FROM raw WHERE {variant} IS NULL"):
        raise DataError(f"{path.name}: {n:,} rows have no {spec.variant}")
    if not spec.user:
        return 0
    user = identifier(spec.user)
    if n := db.scalar(f"SELECT count(*) FROM raw WHERE {user} IS NULL"):
        raise DataError(f"{path.name}: {n:,} rows have no {spec.user}; leave them out: nobody knows who they are")
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
    selected = [f"CAST({identifier(spec.variant)} AS STRING) AS variant"]
    for c in outcomes:
        value = f"CAST({identifier(c)} AS DOUBLE)"
        if c in limits:  # what is missing stays so, and is refused
            value = f"CASE WHEN {value} > {limits[c]!r} THEN {limits[c]!r} ELSE {value} END"
        selected.append(f"{value} AS {identifier(c)}")
    for c in covariates:
        name = identifier(c)
        selected.append(f"coalesce(CAST({name} AS DOUBLE), 0) AS {name}")
        selected.append(f"CASE WHEN {name} IS NULL THEN 1.0 ELSE 0.0 END AS {identifier(c + MISSING)}")
    groups = [identifier(name) for name in dict.fromkeys((*spec.segments, *spec.strata))]
    selected += [f"coalesce('v' || CAST({name} AS STRING), 'n') AS {name}" for name in groups]
    db.view("table_users", f"SELECT {', '.join(selected)} FROM raw{where}")


def _segment_value(key: str) -> str | None:
    return key[1:] if key.startswith("v") else None


def _with_missing(db: Engine, specs: Sequence[MetricSpec]) -> list[MetricSpec]:
    """Add an indicator of missing values as a covariate beside each covariate that has any."""
    covariates = list(dict.fromkeys(c for t in specs for c in t.covariates))
    if not covariates:
        return list(specs)
    sums = ", ".join(f"sum({identifier(c + MISSING)}) AS f{n}" for n, c in enumerate(covariates))
    empty = {c for c, n in zip(covariates, db.rows(f"SELECT {sums} FROM table_users")[0], strict=True) if n}
    return [replace(t, covariates=(*t.covariates, *(c + MISSING for c in t.covariates if c in empty))) for t in specs]


def _check_values(db: Engine, spec: TableSpec, names: Sequence[str]) -> None:
    """Check that variants, segments and strata have few enough values to be read."""
    distinct = ", ".join(f"count(DISTINCT {identifier(name)}) AS n{n}" for n, name in enumerate(("variant", *names)))
    variants, *counts = db.rows(f"SELECT {distinct} FROM table_users")[0]
    if variants > MOST_VARIANTS:
        raise ConfigError(
            f"--variant {spec.variant}: the column has {variants:,} values; at most {MOST_VARIANTS} are compared"
        )
    for name, values in zip(names, counts, strict=True):
        if values > MOST_SEGMENT_VALUES:
            raise ConfigError(f"segment '{name}' has {values:,} values; at most {MOST_SEGMENT_VALUES} can be read")


def _alike(variants: Sequence[str]) -> list[ExperimentCheck]:
    """Variants whose names differ only in case or spaces: perhaps one variant, written in two ways."""
    groups: dict[str, list[str]] = {}
    for v in variants:
        groups.setdefault("".join(v.split()).casefold(), []).append(v)
    pairs = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    if not pairs:
        return []
    text = (
        f"Variants {'; '.join(pairs)} are compared as different ones; if they are one, write them alike in the table."
    )
    return [ExperimentCheck("variants alike", "warn", text)]


def _nothing_to_adjust(specs: Sequence[MetricSpec], cells: Cells) -> list[ExperimentCheck]:
    """Covariates without any variation, by which nothing is adjusted."""
    everybody = cells.of()
    constant = dict.fromkeys(
        c for t in specs for c in t.covariates if not c.endswith(MISSING) and not everybody.variance(c) > 0
    )
    if not constant:
        return []
    text = f"Covariate {', '.join(constant)} is empty or the same for every user: nothing is adjusted by it."
    return [ExperimentCheck("covariates", "warn", text)]


def _refuse_late_covariates(spec: TableSpec, t: MetricSpec, cells: Cells, treatments: Sequence[str]) -> None:
    control = cells.of(variant=spec.control)
    for c in t.covariates:
        for v in treatments:
            moved = compare(MetricSpec(c, c), control, cells.of(variant=v), spec.confidence, adjusted=False)
            if moved.known and math.isfinite(moved.p_value) and moved.p_value < REFUSED_P_VALUE:
                raise DataError(
                    f"covariate '{c}' differs between '{spec.control}' and '{v}' (p = {moved.p_value:.1g}): it was measured "
                    "after exposure, or the groups were not alike before. Adjusting by it would be wrong; leave it out, or "
                    "mend the table"
                )
