"""Speed and memory of the A/B analysis: 10 M users × 6 metrics, the user table from 100 M events, and the hourly look."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import chisquare

from ab_analysis.analysis import analyze
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import load_catalog
from ab_analysis.report import analyze_experiment
from ab_analysis.table import analyze_table
from ab_analysis.table_spec import TableSpec
from ab_analysis.user_table import Counts, build_user_table, make_tables
from benchmarks.clocks import START as LOG_START
from benchmarks.clocks import write_log
from benchmarks.result import Result, in_own_process, timed
from core.documents import JsonObject
from core.duck import connection, quoted, scalar
from core.engine import cluster_beside, local_engine
from core.files import digest_file, digest_text, write_json
from core.hours import DAY_HOURS, Hour
from core.settings import Settings, load_settings
from core.spark import SparkEngine
from core.sql_engine import Engine
from events.schema import exposure_schema
from events.store import EventStore

USERS, METRICS = 10_000_000, 6
PEER_SHARE = 0.1
EVENTS, EVENT_USERS, DAYS, PRE_DAYS = 100_000_000, 2_000_000, 28, 14
PEER_EVENTS = 5_000_000
START = datetime(2026, 1, 15, tzinfo=UTC)
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LOOK_DAYS = (7, 28, 84)
"""Length of the experiment, days, at which the same look is measured."""
LOOK_USERS, LOOK_EVENTS_AN_HOUR, LOOK_SESSION = 20_000, 2_000, 4
LOOK_HOURS = range(10, 15)
"""Hours of the day that is not over at which it is looked; one look before them brings the closed days up to date."""


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
    with local_engine(load_settings(var=path.parent)) as db:
        analyze_table(db, path, spec)


def with_pandas(path: Path) -> None:
    """The same in idiomatic pandas and statsmodels."""
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
    with local_engine(load_settings(var=folder)) as db:
        _make_tables(db, folder, events)


def analysis(settings: Settings) -> JsonObject:
    """The analysis of that experiment, as JSON; its files lie in ``settings.var``."""
    with local_engine(settings) as db, cluster_beside(settings) as cluster:
        plan, counts = _make_tables(db, settings.var, sorted(settings.var.glob("events-*.parquet")), cluster)
        return analyze(db, plan, counts, seed=1).as_json()


def _make_tables(
    db: Engine, folder: Path, events: list[Path], cluster: SparkEngine | None = None
) -> tuple[ExperimentPlan, Counts]:
    experiment = Experiment(
        name="bench", variants={"a": 1, "b": 1}, control="a", start=START, pre_days=PRE_DAYS,
        secondary=("finishes", "likes", "skips", "plays"),
    )  # fmt: skip
    plan = ExperimentPlan(experiment, load_catalog())
    until = Hour.of(FIRST) + 24 * DAYS
    exposures = [folder / "exposures.parquet"]
    counts = make_tables(db, plan, until, events=events, exposures=exposures, cluster=cluster)
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


def bench_experiment_look(scale: float) -> list[Result]:
    """Median core-seconds of an hourly look, and of a report, after 7, 28 and 84 days of experiment.

    Core-seconds, not seconds: what else the machine does leaves them as they are.
    """
    with tempfile.TemporaryDirectory() as name:
        log = EventStore(load_settings(var=Path(name), source="bench").events_dir)
        hours = DAY_HOURS * (PRE_DAYS + LOOK_DAYS[-1]) + LOOK_HOURS.stop
        write_log(
            load_settings(var=Path(name), source="bench"), int(LOOK_EVENTS_AN_HOUR * scale) * hours,
            int(LOOK_USERS * scale), hours, session=LOOK_SESSION,
        )  # fmt: skip
        for hour in log.hours()[DAY_HOURS * PRE_DAYS :]:
            expose_users(log, hour)
        costs = {
            days: look_costs(log, load_settings(var=Path(name), source=f"look-{days}"), days) for days in LOOK_DAYS
        }
    results = []
    for days, cost in costs.items():
        for what in ("look", "report"):
            seconds, whole, short = cost[what], cost[f"{what}, all events"], costs[LOOK_DAYS[0]][what]
            results.append(
                Result(f"experiment_{what}_{days}d", seconds, "s", "all events read again", whole, whole / seconds)
            )
            if days > LOOK_DAYS[0]:
                peer = f"after {LOOK_DAYS[0]} days"
                results.append(Result(f"experiment_{what}_growth_{days}d", seconds, "s", peer, short, short / seconds))
    return results


def look_costs(log: EventStore, settings: Settings, days: int) -> dict[str, float]:
    """Median core-seconds of a look and of a report, each also from all events, in a log that ends where it is looked.

    Args:
        log: the longest log.
        settings: name a workspace of its own.
        days: length of the experiment.
    """
    store = EventStore(settings.events_dir)
    settings.events_dir.mkdir(parents=True)
    (settings.events_dir / "source.json").symlink_to(log.root / "source.json")
    start = LOG_START + DAY_HOURS * PRE_DAYS
    experiment = Experiment(
        name="bench", variants={"a": 1, "b": 1}, control="a", start=start.start, pre_days=PRE_DAYS,
        secondary=("finishes", "likes", "skips", "plays", "retained_day_7", "finish_rate"),
        primary=("active_days", "plays_won"), metrics={"plays_won": {"sum": "CASE WHEN finish THEN 1.5 ELSE 0.1 END"}},
        segments={"activity": {"of": "active_days", "edges": (1, 4, 8)}, "genre": {"top": "genre"}},
    )  # fmt: skip
    plan = ExperimentPlan(experiment, load_catalog(), tuple(store.facets))

    def from_all_events(until: Hour) -> None:
        with local_engine(settings) as db:
            analyze(db, plan, build_user_table(db, store, plan, until))

    ways: dict[str, Callable[[Hour], object]] = {
        "look": lambda until: analyze_experiment(settings, experiment, until, with_days=False),
        "report": lambda until: analyze_experiment(settings, experiment, until),
        "all events": from_all_events,
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    last = start + DAY_HOURS * days + LOOK_HOURS.start
    _link(log, store, last)
    ways["report"](last)
    for until in (last + n for n in range(1, len(LOOK_HOURS))):
        _link(log, store, until)
        for way, work in ways.items():
            begun = time.process_time()
            work(until)
            spent[way].append(time.process_time() - begun)
    medians = {way: float(np.median(seconds)) for way, seconds in spent.items()}
    whole = medians.pop("all events")
    return medians | {f"{way}, all events": whole for way in medians}


def _link(log: EventStore, store: EventStore, until: Hour) -> None:
    """Let a store have the log's hours before ``until``."""
    known = set(store.hours())
    for hour in log.hours():
        if hour < until and hour not in known:
            store.partition(hour).symlink_to(log.partition(hour))


def expose_users(store: EventStore, hour: Hour, below: int | None = None) -> None:
    """Expose the users of an hour's events to ``bench``, those with a number below a bound alone if there is one."""
    folder = store.partition(hour)
    users = np.unique(pq.read_table(folder / "events.parquet", columns=["user_id"])["user_id"].to_numpy())
    users = users if below is None else users[users < below]
    columns = {
        "experiment": pa.array(["bench"] * len(users)),
        "variant": pa.array(np.where(users * 2_654_435_761 % 2**32 < 2**31, "a", "b")),
        "user_id": users,
        "timestamp": pa.array(np.full(len(users), hour.number * 3_600_000_000), pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns).cast(exposure_schema()), folder / "exposures.parquet")
    files = [folder / "events.parquet", folder / "exposures.parquet"]
    manifest = {"hour": hour.key, "rows": pq.read_metadata(files[0]).num_rows, "exposures": len(users)}
    write_json(folder / "manifest.json", {**manifest, "digest": digest_text(*map(digest_file, files))})
