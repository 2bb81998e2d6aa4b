"""Speed and memory of the A/B analysis: 10 M users × 6 metrics, and the user table from 100 M events."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ab_analysis.analysis import analyze
from ab_analysis.experiment import Experiment, ExperimentPlan
from ab_analysis.metrics import load_catalog
from ab_analysis.table import TableSpec, analyze_table
from ab_analysis.user_table import Counts, make_tables
from benchmarks.result import Result, in_own_process, timed
from core.documents import JsonObject
from core.duck import connection, quoted, scalar
from core.engine import Engine, engine
from core.hours import Hour
from core.settings import Settings, load_settings

USERS, METRICS = 10_000_000, 6
PEER_SHARE = 0.1
EVENTS, EVENT_USERS, DAYS, PRE_DAYS = 100_000_000, 2_000_000, 28, 14
PEER_EVENTS = 5_000_000
START = datetime(2026, 1, 15, tzinfo=UTC)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def write_users(path: Path, users: int) -> None:
    """A table of users: six counts with their pre-period, two segments, two variants."""
    columns = ", ".join(
        f"CAST(floor(20 * random() * random()) + {k} AS DOUBLE) AS m{k}, 10 * random() AS m{k}_pre"
        for k in range(METRICS)
    )
    with connection(load_settings(var=path.parent)) as con:
        con.execute(
            f"""COPY (SELECT i AS user_id, CASE WHEN hash(i) % 2 = 0 THEN 'a' ELSE 'b' END AS variant, 's' || (hash(i + 7) % 4) AS country,
            'p' || (hash(i + 9) % 6) AS platform, {columns} FROM range({users}) t(i)) TO {quoted(str(path))}
            (FORMAT parquet, COMPRESSION zstd)"""
        )


def _analyze(path: Path) -> None:
    names = tuple(f"m{k}" for k in range(METRICS))
    spec = TableSpec(
        "variant",
        "a",
        names,
        covariates={m: (f"{m}_pre",) for m in names},
        segments=("country", "platform"),
        user="user_id",
    )
    with engine(load_settings(var=path.parent)) as db:
        analyze_table(db, path, spec)


def with_pandas(path: Path) -> None:
    """The same in idiomatic pandas and statsmodels."""
    from scipy.stats import chisquare
    from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

    frame = pq.read_table(path).to_pandas()
    chisquare(frame.variant.value_counts())
    assert not frame.user_id.duplicated().any()

    def test(part: pd.DataFrame, y: pd.Series) -> None:
        comparison = CompareMeans(*(DescrStatsW(y[part.variant == v]) for v in ("b", "a")))
        comparison.ttest_ind(usevar="unequal")
        comparison.tconfint_diff(usevar="unequal")

    for k in range(METRICS):
        parts = [frame, *(g for s in ("country", "platform") for _, g in frame.groupby(s))]
        for part in parts:
            x = part[f"m{k}_pre"]
            theta = np.cov(part[f"m{k}"], x)[0, 1] / x.var()
            if part is frame:
                test(part, part[f"m{k}"])
            test(part, part[f"m{k}"] - theta * (x - x.mean()))


def bench_ab_analysis(scale: float) -> list[Result]:
    """Welch and CUPED of six metrics, sample ratio, duplicate users, two segments, from Parquet."""
    with tempfile.TemporaryDirectory() as name:
        path, tenth = Path(name) / "users.parquet", Path(name) / "tenth.parquet"
        write_users(path, int(USERS * scale))
        write_users(tenth, int(USERS * scale * PEER_SHARE))
        seconds, memory = in_own_process(_analyze, path)
        peer = timed(lambda: with_pandas(tenth), 1) / PEER_SHARE
    what = "pandas and statsmodels, scaled from a tenth of the users"
    return [
        Result("ab_analysis", seconds, "s", what, peer, peer / seconds),
        Result("ab_analysis_memory", memory, "GB", "the bar", 3.0, 3.0 / memory),
    ]


def write_events(folder: Path, events: int, users: int) -> list[Path]:
    """Events of 28 days, a file a day, heavy users among them; and everybody's exposure on the fifteenth day."""
    paths = []
    with connection(load_settings(var=folder)) as con:
        for day in range(DAYS):
            path = folder / f"events-{day:02d}.parquet"
            moment = f"make_timestamptz({int(FIRST.timestamp() * 1e6)} + (86400 * {day} + CAST(floor(86400 * r) AS BIGINT)) * 1000000)"
            con.execute(
                f"""COPY (SELECT CAST(row_number() OVER () AS VARCHAR) AS event_id, user_id, item_id, {moment} AS timestamp,
                CAST({moment} AS TIMESTAMP) AS local_time, played_seconds, 240.0 AS duration_seconds, finish, "like", skip,
                false AS dislike, false AS share FROM (SELECT CAST(floor({users} * random() * random()) AS BIGINT) AS user_id,
                CAST(floor(random() * 10000) AS BIGINT) AS item_id, random() AS r, 200 * random() AS played_seconds,
                random() < 0.4 AS finish, random() < 0.05 AS "like", random() < 0.3 AS skip FROM range({events // DAYS})))
                TO {quoted(str(path))} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"""
            )
            paths.append(path)
        con.execute(
            f"""COPY (SELECT 'bench' AS experiment, CASE WHEN hash(i) % 2 = 0 THEN 'a' ELSE 'b' END AS variant, i AS user_id,
            make_timestamptz({int(START.timestamp() * 1e6)} + (i % 86400) * 1000000) AS timestamp FROM range({users}) t(i))
            TO {quoted(str(folder / "exposures.parquet"))} (FORMAT parquet)"""
        )
    return paths


def user_table(folder: Path, events: list[Path]) -> None:
    """The user table of the experiment of ``write_events``."""
    with engine(load_settings(var=folder)) as db:
        _make_tables(db, folder, events)


def analysis(settings: Settings) -> JsonObject:
    """The analysis of that experiment, as JSON; its files lie in ``settings.var``."""
    with engine(settings) as db:
        plan, counts = _make_tables(db, settings.var, sorted(settings.var.glob("events-*.parquet")))
        return analyze(db, plan, counts, seed=1).as_json()


def _make_tables(db: Engine, folder: Path, events: list[Path]) -> tuple[ExperimentPlan, Counts]:
    experiment = Experiment(
        name="bench", variants={"a": 1, "b": 1}, control="a", start=START, pre_days=PRE_DAYS,
        secondary=("finishes", "likes", "skips", "plays"),
    )  # fmt: skip
    plan = ExperimentPlan(experiment, load_catalog())
    until = Hour.of(FIRST) + 24 * DAYS
    counts = make_tables(db, plan, until, events=events, exposures=[folder / "exposures.parquet"])
    assert sum(counts.analyzed.values()) > 0
    return plan, counts


def user_table_with_pandas(events: Path, exposures: Path) -> None:
    """The same user table in pandas, from one file of some users' events."""
    seen = pq.read_table(exposures).to_pandas()
    frame = pq.read_table(events).to_pandas()
    frame = frame.merge(seen[["user_id", "variant", "timestamp"]], on="user_id", suffixes=("", "_seen"))
    frame["day"] = frame.local_time.dt.date
    for part in (frame[frame.timestamp >= frame.timestamp_seen], frame[frame.timestamp < START]):
        part.groupby("user_id").agg(
            active_days=("day", "nunique"), duration=("played_seconds", "sum"), finishes=("finish", "sum"),
            likes=("like", "sum"), skips=("skip", "sum"), plays=("event_id", "count"),
        )  # fmt: skip


def bench_user_table(scale: float) -> list[Result]:
    """From events and exposures to one row per user with six metrics and their pre-period."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events = write_events(folder, int(EVENTS * scale), int(EVENT_USERS * scale))
        seconds, memory = in_own_process(user_table, folder, events)
        with connection(load_settings(var=folder)) as con:
            all_events, some_events = (
                f"read_parquet([{', '.join(quoted(str(p)) for p in events)}])",
                folder / "few.parquet",
            )
            total = int(scalar(con, f"SELECT count(*) FROM {all_events}"))
            # Users are not equally active: those who together have the peer's share of the events.
            last_user = scalar(
                con,
                f"SELECT CAST(approx_quantile(user_id, {min(1.0, PEER_EVENTS / total)}) AS BIGINT) FROM {all_events}",
            )
            con.execute(
                f"COPY (SELECT * FROM {all_events} WHERE user_id <= {last_user}) TO {quoted(str(some_events))} (FORMAT parquet)"
            )
            rows_taken = int(scalar(con, f"SELECT count(*) FROM read_parquet({quoted(str(some_events))})"))
        peer = timed(lambda: user_table_with_pandas(some_events, folder / "exposures.parquet"), 1) * total / rows_taken
    return [
        Result("ab_user_table", seconds, "s", "pandas, scaled from 5 M events", peer, peer / seconds),
        Result("ab_user_table_memory", memory, "GB", "the clocks' bar", 2.5, 2.5 / memory),
    ]
