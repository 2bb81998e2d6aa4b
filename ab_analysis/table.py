"""Somebody else's experiment: a plain table with a row a user, analyzed by the same statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ab_analysis.analysis import MIN_SEGMENT_USERS
from ab_analysis.checks import ExperimentCheck, sample_ratio
from ab_analysis.inference import Effect, MetricSpec, compare, post_stratified
from ab_analysis.moments import Cells, read_moments
from core.documents import did_you_mean
from core.duck import identifier, quoted
from core.engine import DuckEngine, Engine
from core.errors import ConfigError, DataError

MISSING = " is missing"
REFUSED = 1e-4
"""A covariate that differs between variants with a p-value below this was measured after exposure, or the groups are not
comparable: adjusting by it would hide an effect, or make one."""
MOST_SEGMENT_VALUES = 50


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
        user: column of the user, to find users that are in the table twice.
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
    confidence: float = 0.95


@dataclass(frozen=True)
class TableResult:
    """A row of the answer; ``segment`` is None for all users."""

    metric: str
    variant: str
    method: str
    n_control: int
    n_treatment: int
    effect: Effect
    segment: tuple[str, str] | None = None


def analyze_table(db: Engine, path: Path, spec: TableSpec) -> tuple[list[TableResult], list[ExperimentCheck]]:
    """Analyze a CSV or Parquet table.

    Returns:
        Rows in the order of the metrics; checks.

    Raises:
        ConfigError: a column that is not there, or a covariate that is the metric itself.
        DataError: values that are no numbers, a user twice, a variant without users, or a covariate that differs between
            the variants (measured after exposure).
    """
    columns = _open(db, path)
    tested = _tested(spec, columns)
    used = {*spec.segments, *spec.strata, *(c for t in tested for c in t.block)}
    if "variant" in used:
        raise ConfigError("a column named 'variant' cannot be a metric, covariate or segment; rename it")
    for wanted in (spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else [])):
        check_column(wanted, columns, path)
    _users(db, spec, tested, path)
    by = ("variant", *dict.fromkeys((*spec.segments, *spec.strata)))
    _check_segments(db, by[1:])
    tested = _with_missing(db, tested)
    cells = read_moments(db, "table_users", by, [t.block for t in tested])
    variants = cells.values("variant")
    if spec.control not in variants:
        raise DataError(f"no user has {spec.variant} = '{spec.control}' (there are {', '.join(variants)})")
    if len(variants) < 2:
        raise DataError(f"every user has {spec.variant} = '{spec.control}': there is nothing to compare")
    counts = {v: cells.of(variant=v).count for v in variants}
    planned = dict(spec.shares or dict.fromkeys(variants, 1.0))
    if absent := sorted(set(planned) - set(variants)):
        raise DataError(f"no user has {spec.variant} = {', '.join(map(repr, absent))}: a variant without users")
    if extra := sorted(set(variants) - set(planned)):
        raise ConfigError(f"--shares names no share for {', '.join(extra)}")
    treatments = [v for v in variants if v != spec.control]
    for t in tested:
        _refuse_late_covariates(spec, t, cells, treatments)
    rows = [
        TableResult(t.metric, v, method, counts[spec.control], counts[v], effect)
        for t in tested
        for v in treatments
        for method, effect in _methods(spec, t, cells, v)
    ]
    return rows + _in_segments(spec, tested, cells, treatments), [sample_ratio(planned, counts)]


def _methods(spec: TableSpec, t: MetricSpec, cells: Cells, variant: str) -> list[tuple[str, Effect]]:
    control, treatment = cells.of(variant=spec.control), cells.of(variant=variant)
    rows = [("welch", compare(t, control, treatment, spec.confidence, adjusted=False))]
    if t.covariates:
        rows.append(("cuped", compare(t, control, treatment, spec.confidence, adjusted=True)))
    if spec.strata and t.denominator is None:
        found = post_stratified(t, cells, spec.strata, spec.control, variant, spec.confidence)
        rows.append(("post_stratified", found))
    return rows


def _in_segments(
    spec: TableSpec, tested: Sequence[MetricSpec], cells: Cells, treatments: Sequence[str]
) -> list[TableResult]:
    rows = []
    for segment in spec.segments:
        for value in cells.values(segment):
            for t, v in ((t, v) for t in tested for v in treatments):
                sides = [cells.of(variant=side, **{segment: value}) for side in (spec.control, v)]
                if min(m.count for m in sides) < MIN_SEGMENT_USERS:
                    continue
                effect = compare(t, sides[0], sides[1], spec.confidence, adjusted=bool(t.covariates))
                method = "cuped" if t.covariates else "welch"
                rows.append(TableResult(t.metric, v, method, sides[0].count, sides[1].count, effect, (segment, value)))
    return rows


def _open(db: Engine, path: Path) -> list[str]:
    """Name the table ``raw``; its columns."""
    if not path.exists():
        raise ConfigError(f"no table at '{path}'")
    if path.suffix.lower() in {".csv", ".tsv", ".gz", ".txt"}:
        if not isinstance(db, DuckEngine):
            raise ConfigError(f"{path.name}: with Spark the table must be Parquet")
        import duckdb

        try:
            db.view("raw", f"SELECT * FROM read_csv({quoted(str(path))}, sample_size = -1)")
        except duckdb.Error as error:
            raise DataError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from None
    else:
        try:
            parts = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
            db.view("raw", f"SELECT * FROM {db.files(parts)}")
        except Exception as error:
            raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    return list(db.arrow("SELECT * FROM raw LIMIT 0").column_names)


def check_column(name: str, columns: Sequence[str], path: Path) -> None:
    """``ConfigError`` says which columns there are, and which was meant."""
    if name not in columns:
        raise ConfigError(
            f"{path.name} has no column '{name}'{did_you_mean(name, columns)} (columns: {', '.join(columns)})"
        )


def _tested(spec: TableSpec, columns: Sequence[str]) -> list[MetricSpec]:
    covariates = dict(spec.covariates or {})
    ratios = dict(spec.ratios or {})
    if both := sorted(set(spec.metrics) & set(ratios)):
        raise ConfigError(f"{both} is the name of a metric and of a ratio")
    if unknown := sorted(set(covariates) - {*spec.metrics, *ratios}):
        raise ConfigError(f"--covariate {unknown[0]}=…: there is no such --metric or --ratio")
    found = [MetricSpec(m, m, None, tuple(covariates.get(m, ()))) for m in spec.metrics]
    for name, (top, bottom) in ratios.items():
        own = covariates.get(name) or tuple(c for part in (top, bottom) for c in covariates.get(part, ()))
        found.append(MetricSpec(name, top, bottom, tuple(dict.fromkeys(own))))
    if not found:
        raise ConfigError("nothing to analyze: give --metric or --ratio")
    outcomes = {c for t in found for c in (t.numerator, t.denominator) if c}
    for t in found:
        if late := sorted(set(t.covariates) & outcomes):
            raise ConfigError(
                f"covariate '{late[0]}' of '{t.metric}' is itself an outcome: a covariate must be measured before exposure"
            )
        for name in t.block:
            check_column(name, columns, Path("the table"))
    return found


def _users(db: Engine, spec: TableSpec, tested: Sequence[MetricSpec], path: Path) -> None:
    """Name the table ``table_users``: numbers as doubles, unknown covariates as 0 with a column that says so."""
    variant = identifier(spec.variant)
    if n := db.scalar(f"SELECT count(*) FROM raw WHERE {variant} IS NULL"):
        raise DataError(f"{path.name}: {n:,} rows have no {spec.variant}")
    if spec.user:
        user = identifier(spec.user)
        twice, crossed = db.rows(
            f"""SELECT count(*), count(*) FILTER (WHERE variants > 1) FROM
            (SELECT {user}, count(DISTINCT {variant}) AS variants FROM raw GROUP BY {user} HAVING count(*) > 1) repeated"""
        )[0]
        if crossed:
            raise DataError(f"{path.name}: {crossed:,} users are in two variants; leave them out, and find out why")
        if twice:
            raise DataError(f"{path.name}: {twice:,} users are there more than once; the table must have a row a user")
    covariates = list(dict.fromkeys(c for t in tested for c in t.covariates))
    outcomes = list(dict.fromkeys(c for t in tested for c in (t.numerator, t.denominator) if c))
    chosen = [f"CAST({variant} AS STRING) AS variant"]
    chosen += [f"CAST({identifier(c)} AS DOUBLE) AS {identifier(c)}" for c in outcomes]
    for c in covariates:
        name = identifier(c)
        chosen.append(f"coalesce(CAST({name} AS DOUBLE), 0) AS {name}")
        chosen.append(f"CASE WHEN {name} IS NULL THEN 1.0 ELSE 0.0 END AS {identifier(c + MISSING)}")
    for s in dict.fromkeys((*spec.segments, *spec.strata)):
        chosen.append(f"coalesce(CAST({identifier(s)} AS STRING), 'unknown') AS {identifier(s)}")
    db.view("table_users", f"SELECT {', '.join(chosen)} FROM raw")
    kinds = db.arrow("SELECT * FROM raw LIMIT 0").schema
    for c in (*outcomes, *covariates):
        kind = str(kinds.field(c).type)
        if not re.match(r"u?int|float|double|half|decimal|bool", kind):
            raise DataError(f"{path.name}: column '{c}' holds {kind}, not numbers")


def _with_missing(db: Engine, tested: Sequence[MetricSpec]) -> list[MetricSpec]:
    """Users without a pre-period get an indicator of their own, a covariate beside the empty one."""
    covariates = list(dict.fromkeys(c for t in tested for c in t.covariates))
    if not covariates:
        return list(tested)
    sums = ", ".join(f"sum({identifier(c + MISSING)}) AS f{n}" for n, c in enumerate(covariates))
    empty = {c for c, n in zip(covariates, db.rows(f"SELECT {sums} FROM table_users")[0], strict=True) if n}
    return [replace(t, covariates=(*t.covariates, *(c + MISSING for c in t.covariates if c in empty))) for t in tested]


def _check_segments(db: Engine, names: Sequence[str]) -> None:
    if not names:
        return
    distinct = ", ".join(f"count(DISTINCT {identifier(name)}) AS n{n}" for n, name in enumerate(names))
    for name, values in zip(names, db.rows(f"SELECT {distinct} FROM table_users")[0], strict=True):
        if values > MOST_SEGMENT_VALUES:
            raise ConfigError(f"segment '{name}' has {values:,} values; at most {MOST_SEGMENT_VALUES} can be read")


def _refuse_late_covariates(spec: TableSpec, t: MetricSpec, cells: Cells, treatments: Sequence[str]) -> None:
    control = cells.of(variant=spec.control)
    for c in t.covariates:
        for v in treatments:
            found = compare(MetricSpec(c, c), control, cells.of(variant=v), spec.confidence, adjusted=False)
            if found.known and math.isfinite(found.p_value) and found.p_value < REFUSED:
                raise DataError(
                    f"covariate '{c}' differs between '{spec.control}' and '{v}' (p = {found.p_value:.1g}): it was measured "
                    "after exposure, or the groups were not alike before. Adjusting by it would be wrong; leave it out, or "
                    "mend the table"
                )
