"""Somebody else's experiment: a plain table with a row a user, analyzed by the same statistics."""

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
REFUSED = 1e-4
"""A covariate that differs between variants with a p-value below this was measured after exposure, or the groups are not
comparable: adjusting by it would hide an effect, or make one."""
MOST_SEGMENT_VALUES = 50
MISSING_CELLS = ("", "NA", "N/A", "NULL", "null", "None", "nan", "NaN")
"""What stands for no number in a CSV file."""
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
        user: column of the user, to find users that are in the table twice.
        exclude_crossed: leave users of two variants out and say how many, instead of refusing the table.
        confidence: of the intervals, above 0.5 and below 1.
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
    """A row of the answer; ``segment`` is None for all users, its value None for users without one."""

    metric: str
    variant: str
    method: Method
    n_control: int
    n_treatment: int
    effect: Effect
    segment: tuple[str, str | None] | None = None


def analyze_table(db: Engine, path: Path, spec: TableSpec) -> tuple[list[TableResult], list[ExperimentCheck]]:
    """Analyze a CSV or Parquet table.

    Returns:
        Rows in the order of the metrics; checks.

    Raises:
        ConfigError: a column that is not there, or a covariate that is the metric itself.
        DataError: values that are no numbers, a user twice, a variant without users, or a covariate that differs between
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
    """Name the table ``table_users``; its metrics, and how many users of two variants are left out."""
    if not path.exists():
        raise ConfigError(f"no table at '{path}'")
    is_text = path.suffix.lower() in TEXT_SUFFIXES
    columns = _text_columns(db, path) if is_text else _parquet_columns(db, path)
    specs = _specs(spec, columns, path)
    if "variant" in {*spec.segments, *spec.strata, *(c for t in specs for c in t.columns)}:
        raise ConfigError("a column named 'variant' cannot be a metric, covariate or segment; rename it")
    numbers = list(dict.fromkeys(c for t in specs for c in t.columns))
    if both := sorted({*spec.segments, *spec.strata} & set(numbers)):
        raise ConfigError(
            f"column '{both[0]}' cannot be a metric or covariate and a segment or stratum at once; copy it"
        )
    for wanted in (spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else [])):
        check_column(wanted, columns, path)
    groups = list(dict.fromkeys((spec.variant, *spec.segments, *spec.strata, *([spec.user] if spec.user else []))))
    if is_text:
        _load_text(db, path, columns, numbers, groups)
    else:
        _check_kinds(db, path, numbers)
    excluded = _check_users(db, spec, path)
    _name_users(db, spec, specs, crossed=bool(excluded))
    return specs, excluded


def _shares(spec: TableSpec, cells: Cells, path: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Users of each variant, and the share that was planned for it."""
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
    """Name the table ``raw``; its columns."""
    try:
        parts = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
        db.view("raw", f"SELECT * FROM {db.files(parts)}")
        return list(db.arrow("SELECT * FROM raw LIMIT 0").column_names)
    except Exception as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _load_text(db: Engine, path: Path, columns: Sequence[str], numbers: Sequence[str], groups: Sequence[str]) -> None:
    """Read a CSV into ``raw``: groups as they are written, numbers as doubles (true and false are 1 and 0).

    Nothing is guessed: columns are read by position, so that names may repeat, and a cell that is no number is named.
    """
    header = read_header(path)
    kinds = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(len(columns)))
    source = (
        f"read_csv({quoted(str(path))}, auto_detect = false, header = true, delim = {quoted(header.delimiter)}, quote = '\"', "
        f"escape = '\"', columns = {{{kinds}}}, nullstr = '')"
    )
    position = {name: f"c{n}" for n, name in enumerate(columns)}
    missing = ", ".join(map(quoted, MISSING_CELLS))
    chosen = [f"{position[c]} AS {identifier(c)}" for c in groups]
    unread = []
    for n, c in enumerate(numbers):
        cell = f"trim({position[c]})"
        number = f"CASE lower({cell}) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE TRY_CAST({cell} AS DOUBLE) END"
        known = f"{position[c]} IS NOT NULL AND {cell} NOT IN ({missing})"
        if c not in groups:
            chosen.append(f"CASE WHEN {known} THEN {number} END AS {identifier(c)}")
        unread.append(f"count(*) FILTER (WHERE {known} AND ({number}) IS NULL) AS u{n}")
    try:
        db.table("raw", f"SELECT {', '.join(chosen)} FROM {source}")
        (counts,) = db.rows(f"SELECT {', '.join(unread)} FROM {source}")
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {_csv_error(str(error))}") from None
    for c, bad in zip(numbers, counts, strict=True):
        if bad:
            line, text = _first_unread(path, columns.index(c), header.delimiter)
            raise DataError(f"{path.name}, line {line}: column '{c}' holds '{text}', not a number ({bad:,} such cells)")


def _csv_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith(("Expected Number", "Value with", "Invalid unicode"))), "")
    return f"{lines[0]} {reason}".strip()


def _first_unread(path: Path, at: int, delimiter: str) -> tuple[int, str]:
    """Line and text of the first cell of a column that is no number."""
    with open_text(path) as handle:
        for line, row in read_rows(handle, path, delimiter):
            text = row[at].strip() if at < len(row) else ""
            if line > 1 and text not in MISSING_CELLS and text.lower() not in {"true", "false"}:
                try:
                    float(text)
                except ValueError:
                    return line, text
    return 0, "?"


def _check_kinds(db: Engine, path: Path, numbers: Sequence[str]) -> None:
    kinds = db.arrow("SELECT * FROM raw LIMIT 0").schema
    for c in numbers:
        kind = str(kinds.field(c).type)
        if not NUMBER.match(kind):
            raise DataError(f"{path.name}: column '{c}' holds {kind}, not numbers")


def _specs(spec: TableSpec, columns: Sequence[str], path: Path) -> list[MetricSpec]:
    covariates = dict(spec.covariates or {})
    ratios = dict(spec.ratios or {})
    if both := sorted(set(spec.metrics) & set(ratios)):
        raise ConfigError(f"{both} is the name of a metric and of a ratio")
    if unknown := sorted(set(covariates) - {*spec.metrics, *ratios}):
        raise ConfigError(f"--covariate {unknown[0]}=…: there is no such --metric or --ratio")
    specs = [MetricSpec(m, m, None, tuple(covariates.get(m, ()))) for m in spec.metrics]
    for name, (top, bottom) in ratios.items():
        before = covariates.get(name) or tuple(c for part in (top, bottom) for c in covariates.get(part, ()))
        specs.append(MetricSpec(name, top, bottom, tuple(dict.fromkeys(before))))
    if not specs:
        raise ConfigError("nothing to analyze: give --metric or --ratio")
    outcomes = {c for t in specs for c in (t.numerator, t.denominator) if c}
    for t in specs:
        if late := sorted(set(t.covariates) & outcomes):
            raise ConfigError(
                f"covariate '{late[0]}' of '{t.metric}' is itself an outcome: a covariate must be measured before exposure"
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
    """Every row needs a variant and a user, every user one row; how many users of two variants were left out."""
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
        raise DataError(f"{path.name}: {twice:,} users are there more than once; the table must have a row a user")
    if crossed:
        db.table("crossed_users", f"SELECT {user} AS crossed_user FROM ({repeated}) repeated WHERE variants > 1")
    return int(crossed)


def _name_users(db: Engine, spec: TableSpec, specs: Sequence[MetricSpec], *, crossed: bool) -> None:
    """Name the table ``table_users``: numbers as doubles, unknown covariates as 0 with a column that says so.

    A segment's value begins with ``v``; ``n`` is a user without one, which no text can be taken for.
    """
    covariates = list(dict.fromkeys(c for t in specs for c in t.covariates))
    outcomes = list(dict.fromkeys(c for t in specs for c in (t.numerator, t.denominator) if c))
    chosen = [f"CAST({identifier(spec.variant)} AS STRING) AS variant"]
    chosen += [f"CAST({identifier(c)} AS DOUBLE) AS {identifier(c)}" for c in outcomes]
    for c in covariates:
        name = identifier(c)
        chosen.append(f"coalesce(CAST({name} AS DOUBLE), 0) AS {name}")
        chosen.append(f"CASE WHEN {name} IS NULL THEN 1.0 ELSE 0.0 END AS {identifier(c + MISSING)}")
    for s in dict.fromkeys((*spec.segments, *spec.strata)):
        chosen.append(f"coalesce('v' || CAST({identifier(s)} AS STRING), 'n') AS {identifier(s)}")
    where = (
        f" WHERE {identifier(spec.user)} NOT IN (SELECT crossed_user FROM crossed_users)"
        if spec.user and crossed
        else ""
    )
    db.view("table_users", f"SELECT {', '.join(chosen)} FROM raw{where}")


def _segment_value(key: str) -> str | None:
    return key[1:] if key.startswith("v") else None


def _with_missing(db: Engine, specs: Sequence[MetricSpec]) -> list[MetricSpec]:
    """Users without a pre-period get an indicator of their own, a covariate beside the empty one."""
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
            if moved.known and math.isfinite(moved.p_value) and moved.p_value < REFUSED:
                raise DataError(
                    f"covariate '{c}' differs between '{spec.control}' and '{v}' (p = {moved.p_value:.1g}): it was measured "
                    "after exposure, or the groups were not alike before. Adjusting by it would be wrong; leave it out, or "
                    "mend the table"
                )
