"""What tests let both engines do: functions of JSON, called in the test's process with DuckDB and in the driver's with Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import events.spark_input
import feature_repo.changes
import feature_repo.slot_passes
from ab_analysis import source_files
from ab_analysis.analysis import analyze
from ab_analysis.table import analyze_table
from ab_analysis.table_spec import TableSpec
from ab_analysis.user_table import build_user_table, make_tables
from core import spark_session
from core.engine import cluster_beside, engine, local_engine
from core.errors import DataError, PlatformError
from core.hours import Hour, hour_range
from core.settings import load_settings
from core.spark import SparkEngine
from core.sql_engine import parquet_parts
from events.ingest import ingest as ingest_log
from events.store import EventStore
from feature_repo.changes import ChangeLog, tablets_of
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization, advance
from feature_repo.retrieval import ClockFeatures
from tests.ab_analysis.test_user_table import BASE, START, UNTIL, plan_of
from tests.conftest import NOW
from training.samples import SampleStore

Options = Mapping[str, Any]


def rebuild(options: Options, hour: str) -> None:
    settings = load_settings(**options)
    ClockState(settings, EventStore(settings.events_dir)).rebuild(Hour.parse(hour))


def rebuild_in_passes(options: Options, hour: str, events: int) -> list[int]:
    """Rebuild without history, a pass having so many events; files of the sums of each slot's users."""
    settings = load_settings(**options)
    state = ClockState(settings, EventStore(settings.events_dir))
    before, feature_repo.slot_passes.PASS_EVENTS = feature_repo.slot_passes.PASS_EVENTS, events
    state.rebuild(Hour.parse(hour), history=False)
    feature_repo.slot_passes.PASS_EVENTS = before
    bases = state.sums(state.require_state()).bases
    return [len(parquet_parts(state.sums_folder / bases[slot].folder / "all")) for slot in bases if slot.isdigit()]


def refresh(options: Options, hour: str) -> None:
    settings = load_settings(**options)
    ClockState(settings, EventStore(settings.events_dir)).refresh(Hour.parse(hour))


def ingest(options: Options, folder: str, files: list[str], piece_bytes: int) -> dict[str, Any]:
    """Ingest files of a folder by its mapping; executors read pieces of so many bytes."""
    events.spark_input.PIECE_BYTES = piece_bytes
    paths = [str(Path(folder) / name) for name in files]
    return asdict(ingest_log(str(Path(folder) / "mapping.yaml"), paths, load_settings(**options), now=NOW))


def bring_forward(options: Options, hour: str) -> dict[str, Any]:
    return asdict(advance(load_settings(**options), Hour.parse(hour)))


def failed_online(options: Options, hour: str) -> str:
    """What a person reads when the online store cannot be filled."""
    try:
        return str(fill_online(options, hour))
    except PlatformError as error:
        return str(error)


def fill_online(options: Options, hour: str) -> int:
    settings = load_settings(**options)
    return Materialization(ClockFeatures(settings, EventStore(settings.events_dir))).materialize_all(Hour.parse(hour))


def refused_rows(options: Options, files: list[str]) -> str:
    """What Spark says when Parquet files are brought to the driver, which must not have the memory."""
    with engine(load_settings(**options)) as running:
        try:
            running.arrow(f"SELECT * FROM {running.files([Path(file) for file in files])}")
        except running.errors as error:
            return str(error)
    return ""


def build_samples(options: Options, first: str, until: str) -> int:
    settings = load_settings(**options)
    hours = hour_range(Hour.parse(first), Hour.parse(until))
    return SampleStore(settings, EventStore(settings.events_dir)).build(hours)


def historical(options: Options, keys: dict[str, list[int]]) -> list[Any]:
    settings = load_settings(**options)
    features = ClockFeatures(settings, EventStore(settings.events_dir)).historical(pa.table(keys))
    return [features.slots.to_pylist(), features.profiles.to_pylist()]


def tablets(options: Options, folder: str, users: int) -> dict[str, list[list[int]]]:
    """Tablet → the users in each of its files, of a change log that begins with a row of every user, a few to a tablet."""
    first = Hour.of(START)
    before, feature_repo.changes.TABLET_ROWS = feature_repo.changes.TABLET_ROWS, users // 5
    log = ChangeLog(
        Path(folder) / "view", ("user_id",), pa.schema([("user_id", pa.int64()), ("as_of", pa.int64())]), 100
    )
    with engine(load_settings(**options)) as running:
        running.register("rows", pa.table({"user_id": range(users), "as_of": [first.number] * users}))
        log.put(running, first, "rows")
        log.tidy(running, first)
    feature_repo.changes.TABLET_ROWS = before
    return {
        tablet.folder.name: [pq.read_table(file)["user_id"].to_pylist() for file in parquet_parts(tablet.folder)]
        for tablet in tablets_of(log.root)
    }


def plans(options: Options) -> tuple[list[str], int]:
    """Plans of a query by user and of one by slot, where nothing is small enough to be sent to everybody; rows of the first."""
    with engine(load_settings(**options)) as running:
        assert isinstance(running, SparkEngine)
        limits = ("spark.sql.autoBroadcastJoinThreshold", "spark.sql.adaptive.autoBroadcastJoinThreshold")
        for limit in limits:
            running.session.conf.set(limit, -1)
        running.table(
            "part", "SELECT id % 100 AS user_id, id % 24 AS slot, id % 7 AS value FROM range(5000)", by=("user_id",)
        )
        running.table("sums", "SELECT user_id, slot, value, count(*) AS n FROM part GROUP BY user_id, slot, value")
        top = "SELECT user_id, slot, max_by(value, n, 3) AS best FROM sums GROUP BY user_id, slot"
        rows = f"SELECT s.*, t.best FROM sums s LEFT JOIN ({top}) t ON t.user_id = s.user_id AND t.slot = s.slot SORT BY s.user_id"
        spread = "SELECT slot, count(*) AS n FROM sums GROUP BY slot"
        explained = [running.rows(f"EXPLAIN {sql}")[0][0] for sql in (rows, spread)]
        count = running.scalar(f"SELECT count(*) FROM ({rows}) r")
        for limit in limits:
            running.session.conf.unset(limit)
        return explained, count


def experiment(options: Options, folder: str) -> dict[str, Any]:
    """An analysis with every method, one of a table of users, two looks at a running experiment, and a metric that fails."""
    root, settings = Path(folder), load_settings(**options)
    plan = plan_of(
        primary=("active_days", "duration_hours"), strata=("habit",), trigger="local_hour BETWEEN 1 AND 22",
        population="NOT is_new", model_covariates=("duration_hours",),
        metrics={**BASE["metrics"], "fast": {"count": "played_seconds / (local_hour % 3) >= 100"}},
        secondary=("fast", "likes", "skip_rate", "retained_day_1", "heavy", "capped", "winsorised", "duration_p90"),
    )  # fmt: skip
    files = {"events": [root / "events.parquet"], "exposures": [root / "exposures.parquet"]}
    source_files.SHARE_BYTES = 1  # divides the few users of the test
    with local_engine(settings) as db, cluster_beside(settings) as cluster:
        counts = make_tables(db, plan, UNTIL, **files, cluster=cluster)
        analysis = analyze(db, plan, counts, seed=1).as_json()
        covariates = {"duration_hours": ("duration_hours_pre",)}
        spec = TableSpec("variant", "a", ("duration_hours",), covariates=covariates, segments=("habit",))
        if not (root / "users.parquet").exists():
            pq.write_table(db.arrow("SELECT * FROM users"), root / "users.parquet")
        rows, _ = analyze_table(db, root / "users.parquet", spec)
        refused = ""
        try:
            bad = plan_of(metrics={"m": {"sum": "CAST(concat('x', genre) AS INT)"}}, secondary=("m",))
            make_tables(db, bad, UNTIL, **files, cluster=cluster)
        except DataError as error:
            refused = str(error)
        looks, store, short = [], EventStore(root / "store"), plan_of(trigger="local_hour BETWEEN 6 AND 9", pre_days=1)
        for hours in (30, 55):
            kept = settings.experiment_days_dir / "kept"
            counts = build_user_table(db, store, short, Hour.of(START) + hours, kept=kept, cluster=cluster)
            looks.append([repr(counts), sorted(map(repr, db.rows("SELECT * FROM users")))])
        assert (kept / "index.json").exists()
    return {"looks": looks, "refused": refused, "analysis": analysis, "table": [repr(row) for row in rows]}


def refusal(options: Options, seconds: int = spark_session.WORKER_SECONDS) -> str:
    """What a person reads when Spark cannot be used; so long a task may wait for an executor."""
    spark_session.WORKER_SECONDS = seconds
    try:
        with engine(load_settings(**options)):
            return ""
    except PlatformError as error:
        return str(error)
