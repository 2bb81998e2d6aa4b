"""Metrics of predictions in Parquet larger than memory: the same figures, from two sorted passes.

DuckDB sorts by score, then by user, spilling to disk; the passes hold a batch and one number a user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from core import duck
from core.duck import identifier, quoted, scalar
from core.errors import ConfigError, DataError
from core.numbers import finite
from core.parquet_source import parquet_source
from core.settings import Settings
from evaluation.compare import is_paired
from evaluation.estimate import Estimate
from evaluation.groups import NO_SESSION
from evaluation.metrics import (
    METRICS,
    OF_PROBABILITIES,
    PROBABILITY_FLOOR,
    calibration_error,
    mean_over_users,
    ndcg_of_users,
    over_entropy,
    ratio_over_users,
    session_counts,
    session_sums,
    user_aucs,
)
from evaluation.predictions import LARGEST_WEIGHT, SESSION_COLUMNS, Predictions
from events.readers import exact_text

ROWS_AT_ONCE = 1_000_000
IN_MEMORY_ROWS = 6_000_000
"""Up to this many rows the plain functions are used."""
BINS = 20
MOST_SLICES = 1000


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a prediction file.

    Attributes:
        sessions: columns that name a user's session together; empty: those of ``SESSION_COLUMNS`` that the files have.
    """

    user: str = "user_id"
    label: str = "label"
    score: str = "score"
    weight: str | None = None
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceMetrics:
    """Metrics of the rows with one value of a column; ``value`` is None for rows without a value."""

    value: str | None
    metrics: dict[str, object]


@dataclass(frozen=True)
class FileMetrics:
    """Metrics of prediction files: of all rows, and of each slice.

    Attributes:
        overall: metric → value, for metrics with an interval also ``<metric>_ci95``; None where it is undefined.
        slices: in the order of their values, rows without a value last.
        no_probabilities: scores outside [0, 1]; if there are any, the metrics of probabilities are None.
        session_columns: columns that named the sessions; empty where the files have none.
    """

    overall: dict[str, object]
    slices: tuple[SliceMetrics, ...] = ()
    no_probabilities: int = 0
    session_columns: tuple[str, ...] = ()

    def as_json(self, by: str | None = None) -> dict[str, object]:
        """The overall metrics; ``by`` holds the slices by their text, ``missing`` the rows without a value."""
        if by is None:
            return dict(self.overall)
        content: dict[str, object] = {
            **self.overall,
            "by": {by: {s.value: s.metrics for s in self.slices if s.value is not None}},
        }
        if without := [s.metrics for s in self.slices if s.value is None]:
            content["missing"] = {by: without[0]}
        return content


def file_metrics(settings: Settings, files: Sequence[Path], columns: Columns, *, by: str | None = None) -> FileMetrics:
    """Metrics of prediction files, overall and by the values of a column.

    Raises:
        DataError: a file or a column is missing, there are no rows, or a value is not usable.
    """
    with duck.connection(settings, spill_to_file=True) as con, _readable(files, columns):
        source, session_columns = _source(con, files, columns, by)
        if not scalar(con, f"SELECT count(*) FROM {source}"):
            raise DataError(f"no rows in {', '.join(map(str, files))}: there is nothing to measure")
        if columns.weight and scalar(con, f"SELECT max(weight) FROM {source}") == 0:
            raise DataError(
                f"every '{columns.weight}' in {', '.join(map(str, files))} is 0: there is nothing to measure"
            )
        outside = int(scalar(con, f"SELECT count(*) FROM {source} WHERE score < 0 OR score > 1"))
        if by and (values := scalar(con, f"SELECT count(DISTINCT slice) FROM {source}")) > MOST_SLICES:
            raise ConfigError(f"--by {by}: the column has {values:,} values; at most {MOST_SLICES:,} are measured")
        overall = _metrics(con, source, files)
        values = (
            [r[0] for r in con.sql(f"SELECT DISTINCT slice FROM {source} ORDER BY slice NULLS LAST").fetchall()]
            if by
            else []
        )
        slices = []
        for value in values:
            test = "slice IS NULL" if value is None else f"slice = {quoted(value)}"
            slices.append(SliceMetrics(value, _metrics(con, f"(SELECT * FROM {source} WHERE {test})", files)))
    if outside:
        for row in (overall, *(s.metrics for s in slices)):
            row.update({name: None for name in row if name.removesuffix("_ci95") in OF_PROBABILITIES})
    return FileMetrics(overall, tuple(slices), outside, session_columns)


def read_predictions(
    settings: Settings, files: Sequence[Path], columns: Columns, order: str | None = None
) -> Predictions:
    """Prediction files as columns in memory, ordered by a column where one is given (to pair two models).

    Raises:
        DataError: a file or a column is missing, or a value is not usable.
    """
    with duck.connection(settings) as con, _readable(files, columns):
        source, session_columns = _source(con, files, columns, order)
        table = con.sql(f"SELECT * FROM {source} {'ORDER BY slice' if order else ''}").to_arrow_table()
    predictions = _predictions(table, files)
    return predictions if session_columns else replace(predictions, sessions=None)


def read_models(
    settings: Settings, files: Sequence[Path], columns: Columns, key: str | None = None
) -> list[Predictions]:
    """Predictions of several models on the same impressions, one file a model, row by row the same.

    The sessions are those that the first file names.

    Args:
        settings: bound memory and threads.
        files: one a model, the baseline first.
        columns: names of the columns.
        key: column that identifies an impression; without it the rows must be in the same order.

    Raises:
        DataError: a key is null, appears twice, or is not in every file, or the impressions are not the same.
    """
    if key is not None:
        with duck.connection(settings) as con, _readable(files, columns):
            _check_keys(con, files, columns, key)
    baseline, *others = (read_predictions(settings, [file], columns, key) for file in files)
    for file, other in zip(files[1:], others, strict=True):
        if len(baseline) and not is_paired(baseline, other):
            raise DataError(f"{file} and {files[0]} {_unpaired(columns, key)}")
    return [baseline, *(other.in_sessions_of(baseline) for other in others)]


def _unpaired(columns: Columns, key: str | None) -> str:
    """How two files differ that should hold the same impressions, and what to do."""
    names = ", ".join(filter(None, (columns.user, columns.label, columns.weight)))
    if key is None:
        return (
            f"do not have the same impressions in the same rows ({names}); where only the order differs, name the column that "
            "identifies an impression with --key, else score both models on the same impressions"
        )
    return f"do not have the same impressions: rows with the same '{key}' differ in one of {names}; take both from the same log"


def _check_keys(con: duckdb.DuckDBPyConnection, files: Sequence[Path], columns: Columns, key: str) -> None:
    for n, file in enumerate(files):
        _source(con, [file], columns, key)
        con.execute(f"CREATE TABLE keys_{n} AS SELECT slice AS k, count(*) AS n FROM predictions GROUP BY slice")
        if missing := scalar(con, f"SELECT n FROM keys_{n} WHERE k IS NULL"):
            raise DataError(f"{file}: {missing:,} rows have no '{key}'; rows without a key cannot be paired")
        repeated, example = con.sql(f"SELECT count(*), min(k) FROM keys_{n} WHERE n > 1").fetchall()[0]
        if repeated:
            raise DataError(f"{file}: {repeated:,} values of '{key}' appear more than once (for example '{example}')")
    for n, file in enumerate(files[1:], 1):
        for complete, incomplete, having, lacking in ((files[0], file, 0, n), (file, files[0], n, 0)):
            missing, example = con.sql(
                f"SELECT count(*), min(k) FROM keys_{having} ANTI JOIN keys_{lacking} USING (k)"
            ).fetchall()[0]
            if missing:
                raise DataError(
                    f"{incomplete} lacks {missing:,} impressions of {complete} (for example {key} = '{example}'); "
                    "score every model on the same impressions"
                )


@contextmanager
def _readable(files: Sequence[Path], columns: Columns) -> Iterator[None]:
    """What the engine cannot read, such as a label that is text, becomes one line."""
    try:
        yield
    except duckdb.Error as error:
        names = ", ".join(c for c in (columns.label, columns.score, columns.weight) if c)
        raise DataError(
            f"{', '.join(map(str, files))}: a value cannot be read ({str(error).splitlines()[0]}); {names} must be numbers, labels 0 or 1"
        ) from None


def _source(
    con: duckdb.DuckDBPyConnection, files: Sequence[Path], columns: Columns, extra: str | None
) -> tuple[str, tuple[str, ...]]:
    """A view ``predictions`` of (user, label, score, weight, session[, slice]) over the files, checked.

    Returns:
        The view's name, and the columns that name sessions.
    """
    try:
        table = parquet_source(files)
    except DataError as error:
        raise DataError(
            f"{error}; predictions are Parquet, a row for each impression with user, label and score"
        ) from None
    known = table.columns
    measured = [columns.user, columns.label, columns.score, *([columns.weight] if columns.weight else [])]
    sessions = columns.sessions or tuple(c for c in SESSION_COLUMNS if c in known and c not in measured)
    required = [*measured, *sessions, *([extra] if extra else [])]
    if missing := [c for c in required if c not in known]:
        raise DataError(
            f"no column {missing} in {files[0]}; it has {list(known)}. Name them with --user, --label, --score, --weight, --session, --by"
        )
    for name in required:
        if (times := sum(k.lower() == name.lower() for k in known)) > 1:
            raise DataError(
                f"{files[0]} has {times} columns named '{name}', upper and lower case aside; rename all but one"
            )
    if len({*measured, *sessions}) < len(measured) + len(sessions):
        raise ConfigError(
            f"--user, --label, --score, --weight and --session must be different columns, not {[*measured, *sessions]}"
        )
    weight = f"CAST({identifier(columns.weight)} AS DOUBLE)" if columns.weight else "1.0::DOUBLE"
    types = {row[0]: row[1] for row in con.sql(f"DESCRIBE SELECT * FROM {table.sql}").fetchall()}
    if types[columns.user].endswith(("]", ")")) and not types[columns.user].startswith("DECIMAL"):
        raise DataError(f"{files[0]}: column '{columns.user}' holds {types[columns.user]}; users are text or numbers")
    user = identifier(columns.user)
    if types[columns.user] in {"FLOAT", "DOUBLE"}:  # pandas writes a missing value among numbers as NaN
        user = f"CASE WHEN isfinite({user}) THEN {user} END"
    slice_ = f", {exact_text(identifier(extra), types[extra])} AS slice" if extra else ""
    con.execute(
        f"""CREATE OR REPLACE VIEW predictions AS SELECT {user} AS "user",
        CAST({identifier(columns.label)} AS DOUBLE) AS label, CAST({identifier(columns.score)} AS DOUBLE) AS score,
        {weight} AS weight, {_session_sql({name: types[name] for name in sessions})} AS session {slice_} FROM {table.sql}"""
    )
    return "predictions", sessions


def _session_sql(types: Mapping[str, str]) -> str:
    """SQL of a row's session, a BIGINT: equal where the columns hold equal text, ``NO_SESSION`` where all are null."""
    if not types:
        return f"{NO_SESSION}::BIGINT"
    texts = [exact_text(identifier(name), type_) for name, type_ in types.items()]
    number = f"CAST(hash({', '.join(texts)}) >> 1 AS BIGINT)"  # two sessions of one user meet with a chance of 2⁻⁶³
    return f"CASE WHEN coalesce({', '.join(texts)}) IS NULL THEN {NO_SESSION} ELSE {number} END"


def _predictions(table: pa.Table, files: Sequence[Path]) -> Predictions:
    users = table["user"].to_numpy(zero_copy_only=False)
    try:
        return Predictions.of(users, *(table[c].to_numpy() for c in ("label", "score", "weight", "session")))
    except DataError as error:
        raise DataError(f"{', '.join(map(str, files))}: {error}") from None


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what is undefined becomes null
def _metrics(con: duckdb.DuckDBPyConnection, source: str, files: Sequence[Path]) -> dict[str, object]:
    rows = int(scalar(con, f"SELECT count(*) FROM {source}"))
    if rows <= IN_MEMORY_ROWS:
        data = _predictions(con.sql(f"SELECT * FROM {source}").to_arrow_table(), files)
        estimates = {name: metric(data) for name, metric in METRICS.items()}
        return _row(
            estimates, calibration_error(data), {"samples": rows, "users": len(data.user_ids), **session_counts(data)}
        )
    return _streamed(con, source, rows, files)


def _row(estimates: Mapping[str, Estimate], ece: float, counts: Mapping[str, int]) -> dict[str, object]:
    row: dict[str, object] = {}
    for name, estimate in estimates.items():
        row[name] = finite(estimate.value)
        row[f"{name}_ci95"] = None if np.isnan(estimate.standard_error) else list(estimate.interval())
    return {**row, "ece": finite(ece), **counts}


def _streamed(con: duckdb.DuckDBPyConnection, source: str, rows: int, files: Sequence[Path]) -> dict[str, object]:
    bad = scalar(con, f"""SELECT count(*) FROM {source} WHERE NOT isfinite(score) OR score IS NULL OR label NOT IN (0, 1)
        OR label IS NULL OR NOT isfinite(weight) OR weight IS NULL
        OR (weight <> 0 AND NOT weight BETWEEN {1 / LARGEST_WEIGHT!r} AND {LARGEST_WEIGHT!r})
        OR "user" IS NULL OR CAST("user" AS VARCHAR) = ''""")  # fmt: skip
    if bad:
        raise DataError(
            f"{', '.join(map(str, files))}: {bad} of {rows} rows have a missing or infinite score or weight, "
            "a label that is not 0 or 1, or no user"
        )
    con.execute(
        f"""CREATE OR REPLACE TABLE user_ids AS SELECT "user", row_number() OVER (ORDER BY "user") - 1 AS code
        FROM (SELECT DISTINCT "user" FROM {source})"""
    )
    users = int(scalar(con, "SELECT count(*) FROM user_ids"))
    con.execute(
        f"""CREATE OR REPLACE TABLE coded AS SELECT CAST(code AS INTEGER) AS code, label, score, weight, session
        FROM {source} JOIN user_ids USING ("user")"""
    )
    p, n = con.sql("SELECT sum(weight * label), sum(weight * (1 - label)) FROM coded").fetchall()[0]
    estimates = {"auc": _streamed_auc(con, users, p, n)}
    by_user, ece, counts = _by_user(con, users, p, n)
    con.execute("DROP TABLE coded")
    return _row(estimates | by_user, ece, {"samples": rows, "users": users, **counts})


def _batches(con: duckdb.DuckDBPyConnection, order: str) -> Iterator[dict[str, np.ndarray]]:
    names = ("code", "label", "score", "weight", "session")
    reader = con.sql(f"SELECT {', '.join(names)} FROM coded ORDER BY {order}").to_arrow_reader(ROWS_AT_ONCE)
    for batch in reader:
        yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}


def _whole_groups(batches: Iterator[dict[str, np.ndarray]], key: str) -> Iterator[dict[str, np.ndarray]]:
    """Re-cut sorted batches so that no group of equal keys is torn."""
    held: dict[str, np.ndarray] | None = None
    for batch in batches:
        joined = batch if held is None else {k: np.concatenate([held[k], batch[k]]) for k in batch}
        cut = int(np.searchsorted(joined[key], joined[key][-1], "left"))
        if cut:
            yield {k: v[:cut] for k, v in joined.items()}
        held = {k: v[cut:] for k, v in joined.items()}
    if held is not None and len(held[key]):
        yield held


def _streamed_auc(con: duckdb.DuckDBPyConnection, users: int, p: float, n: float) -> Estimate:
    if not (p > 0 and n > 0):
        return Estimate(float("nan"), np.zeros(users))
    influence, wins = np.zeros(users), 0.0
    positives, negatives = np.zeros(users), np.zeros(users)
    below_p = below_n = 0.0
    for part in _whole_groups(_batches(con, "score"), "score"):
        positive, negative = part["weight"] * part["label"], part["weight"] * (1 - part["label"])
        starts = np.flatnonzero(np.append(True, part["score"][1:] != part["score"][:-1]))
        run = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(part["score"]))))
        per_p, per_n = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
        win = (below_n + np.cumsum(per_n) - per_n / 2) / n
        loss = (p - (below_p + np.cumsum(per_p) - per_p / 2)) / p
        wins += float(np.dot(per_p, win))
        influence += np.bincount(part["code"], positive * win[run] / p + negative * loss[run] / n, users)
        positives += np.bincount(part["code"], positive, users)
        negatives += np.bincount(part["code"], negative, users)
        below_p, below_n = below_p + per_p.sum(), below_n + per_n.sum()
    value = wins / p
    return Estimate(value, influence - value * (positives / p + negatives / n))


def _by_user(
    con: duckdb.DuckDBPyConnection, users: int, p: float, n: float
) -> tuple[dict[str, Estimate], float, dict[str, int]]:
    """Every other metric in one pass in the order of users, the calibration error, and the counts of sessions."""
    aucs, gains = np.full(users, np.nan), np.full(users, np.nan)
    weights, losses, scores, labels, session_wins, session_weights = (np.zeros(users) for _ in range(6))
    gaps, total, counts = np.zeros(BINS), p + n, Counter[str]()
    for part in _whole_groups(_batches(con, "code"), "code"):
        ids, local = np.unique(part["code"], return_inverse=True)
        data = Predictions(local, part["label"], part["score"], part["weight"], ids, part["session"])
        aucs[ids], weights[ids] = user_aucs(data)
        gains[ids] = ndcg_of_users(data)
        session_wins[ids], session_weights[ids] = session_sums(data)
        counts.update(session_counts(data))
        chance = np.clip(part["score"], PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        loss = -(part["label"] * np.log(chance) + (1 - part["label"]) * np.log1p(-chance))
        for store, values in ((losses, loss), (scores, part["score"]), (labels, part["label"])):
            store += np.bincount(part["code"], part["weight"] * values, users)
        bucket = np.clip((part["score"] * BINS).astype(np.int64), 0, BINS - 1)
        gaps += np.bincount(bucket, part["weight"] * (part["score"] - part["label"]), BINS)
    loss = ratio_over_users(losses, weights)
    estimates = {
        "uauc": mean_over_users(aucs, np.ones(users)),
        "gauc": mean_over_users(aucs, weights),
        "session_auc": ratio_over_users(session_wins, session_weights),
        "logloss": loss,
        "calibration": ratio_over_users(scores, labels),
        "normalised_entropy": over_entropy(loss, ratio_over_users(labels, weights)),
        "ndcg@10": mean_over_users(gains, np.ones(users)),
    }
    return estimates, float(np.abs(gaps).sum() / total), dict(counts)
