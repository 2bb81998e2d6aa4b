"""An experiment from elsewhere: a plain table with one row per user, analyzed by the same statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

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
from ab_analysis.text_table import TEXT_SUFFIXES, check_column, open_text, read_header, read_rows
from core.duck import identifier, quoted
from core.engine import DuckEngine, Engine
from core.errors import ConfigError, DataError

MISSING = " is missing"
REFUSED_P_VALUE = 1e-4
"""A covariate that differs between variants with a p-value below this was measured after exposure, or the groups are not
comparable: adjusting by it would hide an effect, or create one."""
MOST_SEGMENT_VALUES = 50
MISSING_CELLS = ("", "NA", "N/A", "NULL", "null", "None", "nan", "NaN")
"""Texts that mean a missing value in a CSV file."""
NUMBER = re.compile(r"u?int|float|double|half|decimal|bool")


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
        user: column of the user, to find users who are in the table twice.
        exclude_crossed: leave out users of two variants and report how many, instead of rejecting the table.
        confidence: level of the intervals, above 0.5 and below 1.
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

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ConfigError(f"confidence {self.confidence:g} must lie between 0.5 and 1 (95 % is 0.95)")
        if self.exclude_crossed and not self.user:
            raise ConfigError("--exclude-crossed needs --user, the column that says who is in two variants")


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
    specs, excluded = _prepare(db, path, spec)
    by = ("variant", *dict.fromkeys((*spec.segments, *spec.strata)))
    _check_segments(db, by[1:])
    specs = _with_missing(db, specs)
    cells = read_moments(db, "table_users", by, [t.columns for t in specs])
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
    in_segments, untested = _in_segments(spec, specs, cells, treatments)
    checks = [sample_ratio(planned, counts)]
    if excluded:
        text = f"{excluded:,} users were in more than one variant and are left out; find out why they were."
        checks.append(ExperimentCheck("users in two variants", "warn", text))
    checks += withheld_lifts(list(dict.fromkeys(r.metric for r in rows if r.effect.lift_withheld)))
    checks += untested_segments(untested)
    return rows + in_segments, checks


def _prepare(db: Engine, path: Path, spec: TableSpec) -> tuple[list[MetricSpec], int]:
    """Read the table into ``table_users``; returns its metrics, and how many users of two variants are left out."""
    if not path.exists():
        raise ConfigError(f"no table at '{path}'")
    is_text = path.suffix.lower() in TEXT_SUFFIXES
    columns = _text_columns(db, path) if is_text else _parquet_columns(db, path)
    specs = _specs(spec, columns, path)
    if "variant" in {*spec.segments, *spec.strata, *(c for t in specs for c in t.columns)}:
        raise ConfigError("a column named 'variant' cannot be a metric, covariate or segment; rename it")
    numbers = list(dict.fromkeys(c for t in specs for c in t.columns))
    if clashing := sorted({*spec.segments, *spec.strata} & set(numbers)):
        raise ConfigError(
            f"column '{clashing[0]}' cannot be a metric or covariate and a segment or stratum at once; copy it"
        )
    for column in (spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else [])):
        check_column(column, columns, path)
    groups = list(dict.fromkeys((spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else []))))
    if is_text:
        _load_text(db, path, columns, numbers, groups)
    else:
        _check_column_types(db, path, numbers)
    excluded = _check_users(db, spec, path)
    _name_users(db, spec, specs, crossed=bool(excluded))
    return specs, excluded


def _shares(spec: TableSpec, cells: Cells, path: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Number of users and planned share of each variant."""
    if not cells.cells:
        raise DataError(f"{path.name} has no rows")
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


def _text_columns(db: Engine, path: Path) -> list[str]:
    if not isinstance(db, DuckEngine):
        raise ConfigError(f"{path.name}: with Spark the table must be Parquet")
    return list(read_header(path).names)


def _parquet_columns(db: Engine, path: Path) -> list[str]:
    """Read the table as ``raw``; returns its columns."""
    try:
        parts = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
        db.view("raw", f"SELECT * FROM {db.files(parts)}")
        return list(db.arrow("SELECT * FROM raw LIMIT 0").column_names)
    except Exception as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _load_text(db: Engine, path: Path, columns: Sequence[str], numbers: Sequence[str], groups: Sequence[str]) -> None:
    """Read a CSV into ``raw``: groups as text, numbers as doubles (true and false are 1 and 0).

    Nothing is guessed: columns are read by position, so that names may repeat, and a cell that is not a number is reported.
    """
    header = read_header(path)
    column_types = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(len(columns)))
    source = (
        f"read_csv({quoted(str(path))}, auto_detect = false, header = true, delim = {quoted(header.delimiter)}, quote = '\"', "
        f"escape = '\"', columns = {{{column_types}}}, nullstr = '')"
    )
    position = {name: f"c{n}" for n, name in enumerate(columns)}
    missing = ", ".join(map(quoted, MISSING_CELLS))
    selected = [f"{position[c]} AS {identifier(c)}" for c in groups]
    unreadable = []
    for n, c in enumerate(numbers):
        cell = f"trim({position[c]})"
        number = f"CASE lower({cell}) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE TRY_CAST({cell} AS DOUBLE) END"
        filled = f"{position[c]} IS NOT NULL AND {cell} NOT IN ({missing})"
        if c not in groups:
            selected.append(f"CASE WHEN {filled} THEN {number} END AS {identifier(c)}")
        unreadable.append(f"count(*) FILTER (WHERE {filled} AND ({number}) IS NULL) AS u{n}")
    try:
        db.table("raw", f"SELECT {', '.join(selected)} FROM {source}")
        (counts,) = db.rows(f"SELECT {', '.join(unreadable)} FROM {source}")
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {_csv_error(str(error))}") from None
    for c, bad in zip(numbers, counts, strict=True):
        if bad:
            line, text = _first_unreadable(path, columns.index(c), header.delimiter)
            raise DataError(f"{path.name}, line {line}: column '{c}' holds '{text}', not a number ({bad:,} such cells)")


def _csv_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith(("Expected Number", "Value with", "Invalid unicode"))), "")
    return f"{lines[0]} {reason}".strip()


def _first_unreadable(path: Path, position: int, delimiter: str) -> tuple[int, str]:
    """Line and text of a column's first cell that is not a number."""
    with open_text(path) as handle:
        for line, row in read_rows(handle, path, delimiter):
            text = row[position].strip() if position < len(row) else ""
            if line > 1 and text not in MISSING_CELLS and text.lower() not in {"true", "false"}:
                try:
                    float(text)
                except ValueError:
                    return line, text
    return 0, "?"


def _check_column_types(db: Engine, path: Path, numbers: Sequence[str]) -> None:
    schema = db.arrow("SELECT * FROM raw LIMIT 0").schema
    for c in numbers:
        column_type = str(schema.field(c).type)
        if not NUMBER.match(column_type):
            raise DataError(f"{path.name}: column '{c}' holds {column_type}, not numbers")


def _specs(spec: TableSpec, columns: Sequence[str], path: Path) -> list[MetricSpec]:
    covariates = dict(spec.covariates or {})
    ratios = dict(spec.ratios or {})
    if clashing := sorted(set(spec.metrics) & set(ratios)):
        raise ConfigError(f"{clashing} is the name of a metric and of a ratio")
    if unknown := sorted(set(covariates) - {*spec.metrics, *ratios}):
        raise ConfigError(f"--covariate {unknown[0]}=…: there is no such --metric or --ratio")
    specs = [MetricSpec(m, m, None, tuple(covariates.get(m, ()))) for m in spec.metrics]
    for name, (top, bottom) in ratios.items():
        own_covariates = covariates.get(name) or tuple(c for part in (top, bottom) for c in covariates.get(part, ()))
        specs.append(MetricSpec(name, top, bottom, tuple(dict.fromkeys(own_covariates))))
    if not specs:
        raise ConfigError("nothing to analyze: give --metric or --ratio")
    outcomes = {c for t in specs for c in (t.numerator, t.denominator) if c}
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
    twice, crossed = db.rows(
        f"SELECT count(*) FILTER (WHERE variants = 1), count(*) FILTER (WHERE variants > 1) FROM ({repeated}) repeated"
    )[0]
    if crossed and not spec.exclude_crossed:
        raise DataError(
            f"{path.name}: {crossed:,} users are in two variants; find out why, and leave them out (--exclude-crossed does)"
        )
    if twice:
        raise DataError(f"{path.name}: {twice:,} users are there more than once; the table must have one row per user")
    if crossed:
        db.table("crossed_users", f"SELECT {user} AS crossed_user FROM ({repeated}) repeated WHERE variants > 1")
    return int(crossed)


def _name_users(db: Engine, spec: TableSpec, specs: Sequence[MetricSpec], *, crossed: bool) -> None:
    """Define ``table_users``: numbers as doubles, missing covariates as 0 with a column that flags them.

    A segment's value begins with ``v``; ``n`` marks a user without one, so that no text can be mistaken for it.
    """
    covariates = list(dict.fromkeys(c for t in specs for c in t.covariates))
    outcomes = list(dict.fromkeys(c for t in specs for c in (t.numerator, t.denominator) if c))
    selected = [f"CAST({identifier(spec.variant)} AS STRING) AS variant"]
    selected += [f"CAST({identifier(c)} AS DOUBLE) AS {identifier(c)}" for c in outcomes]
    for c in covariates:
        name = identifier(c)
        selected.append(f"coalesce(CAST({name} AS DOUBLE), 0) AS {name}")
        selected.append(f"CASE WHEN {name} IS NULL THEN 1.0 ELSE 0.0 END AS {identifier(c + MISSING)}")
    for s in dict.fromkeys((*spec.segments, *spec.strata)):
        selected.append(f"coalesce('v' || CAST({identifier(s)} AS STRING), 'n') AS {identifier(s)}")
    where = (
        f" WHERE {identifier(spec.user)} NOT IN (SELECT crossed_user FROM crossed_users)"
        if spec.user and crossed
        else ""
    )
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
            moved = compare(MetricSpec(c, c), control, cells.of(variant=v), spec.confidence, adjusted=False)
            if moved.known and math.isfinite(moved.p_value) and moved.p_value < REFUSED_P_VALUE:
                raise DataError(
                    f"covariate '{c}' differs between '{spec.control}' and '{v}' (p = {moved.p_value:.1g}): it was measured "
                    "after exposure, or the groups were not alike before. Adjusting by it would be wrong; leave it out, or "
                    "mend the table"
                )
