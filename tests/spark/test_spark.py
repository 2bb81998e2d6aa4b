"""One definition, two engines: a standalone Spark cluster gives what DuckDB gives.

All tests share a cluster and a driver, in one file: to start these takes longer than most of what they do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import redis

from core.files import read_json
from core.hours import Hour
from core.ports import free_port
from core.settings import ROOT, Settings, load_settings
from core.sql_engine import parquet_parts
from events.ingest import ingest
from events.store import EventStore
from feature_repo.materialization import advance
from operations.services import airflow_environment, migrate_airflow
from pipeline.source import Source, ingest_history, ingest_hour, save_source
from pipeline.training import train_hour
from tests.ab_analysis import test_closed_days as closed_days
from tests.ab_analysis.test_user_table import write_log
from tests.conftest import NOW
from tests.feature_repo.test_clock import START, WINDOW_DAYS, as_of, ingest_rows, state_of, sums_of
from tests.servers import FEW_ROWS, redis_server
from tests.spark import calls
from tests.spark.cluster import Spark, call_and_kill, kill_driver, running_cluster
from tests.spark.driver import Driver
from tests.spark.logs import dirty_log, one_facet, repeated_log, stored_files
from tests.training.test_attributes import MAPPING, TABLES
from training.state import StateStore

pytestmark = pytest.mark.slow

MANY_USERS = 4_000
"""Users of a last hour: more rows than the driver can take."""


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


AT_LENGTH = bool(os.environ.get("CLOCK_TEST_SPARK"))
"""Whether there is time for what takes minutes; ``make spark`` sets it."""
CUT, SLOT_MINUTES = 40, 120
CLOCKS: dict[str, Any] = {
    "source": "test", "window_days": WINDOW_DAYS, "slot_minutes": SLOT_MINUTES, "shrinkage": True,
}  # fmt: skip


def out_of_order(settings: Settings) -> list[str]:
    """Files of change logs and bases of sums whose rows are not in the order of their keys."""
    state = state_of(settings)
    pieces = [(span, [*changes.keys, "as_of"]) for changes in state.logs.values() for span in changes.spans()]
    for base in state.sums(state.require_state()).bases.values():
        for part in (state.sums_folder / base.folder).iterdir():
            names = pq.read_schema(parquet_parts(part)[0]).names
            pieces.append((part, [key for key in ("slot", "user_id", "item_id", "value") if key in names]))
    unsorted = []
    for folder, keys in pieces:
        for file in parquet_parts(folder):
            rows = pq.read_table(file, columns=keys)
            read = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
            unsorted += [] if read == sorted(read) else [str(file)]
    return unsorted


def test_clocks_are_duckdbs_in_bulk_and_by_the_hour_with_late_events_a_small_driver_and_lost_executors(
    spark: Spark, tmp_path: Path
) -> None:
    rows = [
        ((n * 7) % 90, (n * 13) % 60, n % 3, ["rock", "jazz", None, "folk"][n % 4], [100, 3, 100, 50][n % 4])
        for n in range(120)
    ]
    rows.sort(key=lambda e: (e[0], e[1]))
    before = [r for r in rows if r[0] < CUT]
    many = [(CUT, 1, user, "rock", 100) for user in range(10, 10 + MANY_USERS)]
    after = [*many, *(r for r in rows if r[0] == CUT), (5, 5, 1, "jazz", 100), (30, 5, 2, "soul", 100)]
    by_engine = {}
    for name, engine in (("duckdb", {}), ("spark", spark.options)):
        place = {"var": str(tmp_path / f"{name} [1]*{{a,b}}"), **CLOCKS}  # a pattern, were it not a name
        settings, options = load_settings(**place), {**place, **engine}
        (tmp_path / f"log-{name}").mkdir()
        ingest_rows(tmp_path / f"log-{name}", settings, before, 0, (START, START + CUT))
        for call, hour in (("rebuild", START + CUT), ("refresh", START + CUT + 1)):
            if call == "refresh":
                ingest_rows(tmp_path / f"log-{name}", settings, after, len(before), (START + CUT, START + CUT + 1))
            if name == "spark":
                call_and_kill(spark, call, 4, options=options, hour=hour.key)
            else:
                getattr(calls, call)(options, hour.key)
        if name == "spark":
            files = [str(part) for part in state_of(settings).logs["clock_slots"].parts(START + CUT + 1)]
            refused = spark.driver.call("refused_rows", options=options, files=files)
            assert "maxResultSize" in refused
        assert state_of(settings).read() is not None
        assert not out_of_order(settings)
        # An hour of few events needs no cluster: whichever engine computed what it goes on from, the rows are the same.
        ingest_rows(
            tmp_path / f"log-{name}", settings, [], len(before) + len(after), (START + CUT + 1, START + CUT + 2)
        )
        without = {"engine": name, "spark_master": f"spark://127.0.0.1:{free_port()}"}
        calls.refresh({**place, **without}, (START + CUT + 2).key)
        by_engine[name] = sums_of(settings), [as_of(settings, START + h) for h in (6, 30, CUT, CUT + 1, CUT + 2)]
    assert by_engine["spark"] == by_engine["duckdb"]
    assert len(by_engine["spark"][1][-1]) > 30


def test_passes_side_by_side_are_duckdbs_also_where_the_users_of_a_slot_are_split(spark: Spark, tmp_path: Path) -> None:
    genres = ["rock", "jazz", None, "folk"]
    busy = [(h, n, n % 11, genres[n % 4], [100, 3, 50][n % 3]) for h in (3, 4, 27) for n in range(40)]
    busy += [(9, n, 1, "rock", 100) for n in range(55)]  # of one user: some shares have nobody
    rows = [*busy, *((h, 7, h % 5, "soul", 100) for h in range(0, CUT, 3))]
    rows.sort(key=lambda e: (e[0], e[1]))
    by_engine, files = {}, {}
    for name, engine in (("duckdb", {}), ("spark", spark.options)):
        place = {"var": str(tmp_path / name), **CLOCKS, "slot_minutes": 60}
        settings = load_settings(**place)
        (tmp_path / f"log-{name}").mkdir()
        ingest_rows(tmp_path / f"log-{name}", settings, rows, 0, (START, START + CUT))
        what: dict[str, Any] = {"options": {**place, **engine}, "hour": (START + CUT).key, "events": 30}
        files[name] = spark.driver.call("rebuild_in_passes", **what) if engine else calls.rebuild_in_passes(**what)
        assert not out_of_order(settings)
        assert not list(state_of(settings).sums_folder.glob("passes-*"))
        calls.refresh(place, (START + CUT).key)  # nothing to do: whatever wrote the state, it is understood
        by_engine[name] = sums_of(settings), as_of(settings, START + CUT)
    assert by_engine["spark"] == by_engine["duckdb"]
    assert set(files["duckdb"]) == {1}
    assert max(files["spark"]) > 1


def test_tablets_are_written_in_one_job_and_are_duckdbs(spark: Spark, tmp_path: Path) -> None:
    ours = calls.tablets({"var": str(tmp_path / "duckdb"), "source": "test"}, str(tmp_path / "duckdb"), 30)
    options = {"var": str(tmp_path / "spark"), "source": "test", **spark.options}
    theirs = spark.driver.call("tablets", options=options, folder=str(tmp_path / "spark"), users=30)
    assert len(ours) == 5
    assert all(users == sorted(users) for files in theirs.values() for users in files)
    assert {tablet: [sorted(user for users in files for user in users)] for tablet, files in theirs.items()} == ours


def test_executors_ingest_what_one_process_does_byte_for_byte_also_when_a_driver_or_an_executor_is_lost(
    spark: Spark, tmp_path: Path
) -> None:
    first, later = dirty_log(tmp_path), repeated_log(tmp_path)
    stores = {}
    for name, engine in (("duckdb", {}), ("spark", spark.options)):
        options = {"var": str(tmp_path / name), "source": "test", **engine, "spark_ingest_megabytes": 0}
        accounts = []
        for files, seconds in ((first, 3), (later, 0)):
            arguments: dict[str, Any] = {
                "options": options,
                "folder": str(tmp_path),
                "files": files,
                "piece_bytes": 60_000,
            }
            if name == "duckdb":
                accounts.append(calls.ingest(**arguments))
            elif seconds:
                accounts.append(call_and_kill(spark, "ingest", seconds, **arguments))
            else:
                accounts.append(spark.driver.call("ingest", **arguments))
        stores[name] = stored_files(tmp_path / name), repr(accounts).replace(str(tmp_path / name), "VAR")
        assert not [*(tmp_path / name / "test").glob(".*-ingest-*")]
    assert stores["spark"] == stores["duckdb"]
    for account in accounts:
        assert min(account[what] for what in ("kept", "duplicates", "merged", "quarantined")) > 100
    assert {"malformed_row", "open_quote", "bad_encoding", "conflicting_event_id"} <= {*accounts[0]["reasons"]}
    events = [str(file) for file in (tmp_path / "spark" / "test" / "events").glob("hour=*/events.parquet")]
    assert "maxResultSize" in spark.driver.call("refused_rows", options=options, files=events)


def test_an_hours_dags_leave_on_the_cluster_what_they_leave_on_duckdb(spark: Spark, tmp_path: Path) -> None:
    (log,) = dirty_log(tmp_path)
    one_facet(tmp_path)
    hour, plain = (
        Hour.parse("2026-03-28T04"),
        {"source": "test", "window_days": 1, "variants": ["none"], "slot_minutes": 120},
    )
    before = load_settings(var=tmp_path / "duckdb", **plain)
    save_source(before, Source(str(tmp_path / "mapping.yaml"), (str(tmp_path / log),)))
    ingest_history(before, hour)
    calls.rebuild({"var": str(before.var), **plain}, hour.key)
    shutil.copytree(before.var, tmp_path / "spark")
    pages = "http://127.0.0.1:8080/app/?appId={application}"
    settings = load_settings(var=tmp_path / "spark", **plain, **spark.options, spark_ingest_megabytes=0, spark_ui=pages)
    migrate_airflow(settings)
    dags = ["ingest_hour", "materialize_clock", *(["train_ranker"] if AT_LENGTH else [])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.spark.airflow_hour", hour.key, *dags],
        cwd=ROOT, env={**os.environ, **airflow_environment(settings), "SPARK_CONF_DIR": str(spark.cluster.conf)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (states,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
    assert set(json.loads(states).values()) == {"success"}, done.stdout[-3000:]
    (application,) = set(re.findall(r"Spark application (app-\S+)", done.stdout))  # all tasks' work was one session's
    with sqlite3.connect(settings.workspace / "airflow" / "airflow.db") as database:
        links = database.execute("SELECT value FROM xcom WHERE key = '_link_SparkLink'").fetchall()
    tasks = len(dags) + 1  # an hour's ingestion has two
    assert [json.loads(value) for (value,) in links] == [pages.format(application=application)] * tasks
    ingest_hour(before, hour)
    advance(before, hour + 1)
    assert stored_files(settings.var) == stored_files(before.var)
    ours = load_settings(var=settings.var, **plain)
    assert sums_of(ours) == sums_of(before)
    assert as_of(ours, hour + 1) == as_of(before, hour + 1)
    if AT_LENGTH:
        (trained,) = train_hour(before, hour)
        assert StateStore(settings.training_dir / "states", "none").info(hour).digest == trained.digest


HOURS = 32
SAMPLES: dict[str, Any] = {
    "source": "test", "window_days": WINDOW_DAYS, "slot_minutes": SLOT_MINUTES, "history_length": 3, "history_days": 1,
    "variants": ["matched_clock"],
}  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with attributes and negatives, whose last two hours are of many users, and clocks by DuckDB; not to be changed."""
    folder = tmp_path_factory.mktemp("app")
    settings = load_settings(var=folder / "var", **SAMPLES)
    rng = np.random.default_rng(4)
    few = [
        (int(u), int(m)) for u, m in zip(rng.integers(0, 40, 900), rng.integers(0, 60 * (HOURS - 2), 900), strict=True)
    ]
    many = [(u, 60 * hour + u % 60) for hour in (HOURS - 2, HOURS - 1) for u in range(MANY_USERS)]
    moments = [(START.start + timedelta(minutes=m), u) for u, m in sorted([*few, *many], key=lambda e: e[1])]
    pd.DataFrame(
        {
            "uid": [u + 1 for _, u in moments],
            "iid": [(u * 7 + n) % 30 + 1 for n, (_, u) in enumerate(moments)],
            "genre": [["rock", "jazz", "folk", ""][(u + n) % 4] for n, (_, u) in enumerate(moments)],
            "ts": [moment.isoformat() for moment, _ in moments],
            "tab": [["1", "2", ""][n % 3] for n in range(len(moments))],
            "battery": [["5", "50.5", ""][n % 3] for n in range(len(moments))],
            "finish": [int(n % 3 > 0) for n in range(len(moments))],
        }
    ).to_csv(folder / "log.csv", index=False)
    users = range(1, MANY_USERS, 2)
    pd.DataFrame(
        {
            "uid": [*users, *users],
            "since": [""] * len(users) + [(START + 20).start.isoformat()] * len(users),
            "town": [f"t{u % 3}" for u in users] + [f"t{u % 5}" for u in users],
            "fans": [str(u / 4) for u in (*users, *users)],
        }
    ).to_csv(folder / "users.csv", index=False)
    pd.DataFrame(
        {
            "iid": range(1, 31),
            "tags": ["hit|new" if i % 3 == 0 else "" for i in range(1, 31)],
            "released": [(START.start - timedelta(days=i)).isoformat() if i % 5 else "" for i in range(1, 31)],
            "maker": [f"m{i % 4}" if i % 4 else "" for i in range(1, 31)],
        }
    ).to_csv(folder / "items.csv", index=False)
    (folder / "mapping.yaml").write_text(
        f"{MAPPING}{TABLES}negatives: {{per_positive: 2, kind: popularity, seed: 5}}\n"
    )
    ingest(str(folder / "mapping.yaml"), [str(folder / "log.csv")], settings, now=NOW)
    calls.rebuild({"var": str(settings.var), **SAMPLES}, (START + HOURS - 3).key)
    for hour in range(HOURS - 2, HOURS + 1):
        calls.refresh({"var": str(settings.var), **SAMPLES}, (START + hour).key)
    return settings.var


def copied(app: Path, var: Path, **options: Any) -> dict[str, Any]:
    """Settings of a workspace with the events and the clocks of the app."""
    for name in ("events", "features"):
        shutil.copytree(app / "test" / name, var / "test" / name)
    return {"var": str(var), **SAMPLES, **options}


def test_samples_are_joined_by_executors_of_which_one_is_lost_and_are_duckdbs_row_for_row(
    spark: Spark, app: Path, tmp_path: Path
) -> None:
    plain = copied(app, tmp_path / "duckdb")
    theirs = copied(app, tmp_path / "spark [1]*{a,b}", **spark.options)
    ranges = [(START + 4, START + 20), (START + 20, START + HOURS)]  # hours side by side, and a few hours together
    for first, until in ranges:
        built = calls.build_samples(plain, first.key, until.key)
        assert call_and_kill(spark, "build_samples", 2, options=theirs, first=first.key, until=until.key) == built
    folders = {
        name: load_settings(**options).training_dir / "samples"
        for name, options in (("duckdb", plain), ("spark", theirs))
    }
    assert {p.name for p in folders["spark"].iterdir()} == {p.name for p in folders["duckdb"].iterdir()}
    rows: dict[str, int] = {}
    for hour in folders["duckdb"].iterdir():
        assert {p.name for p in hour.iterdir()} == {p.name for p in (folders["spark"] / hour.name).iterdir()}
        for file in hour.glob("*.parquet"):
            ours, other = pq.ParquetFile(file).read(), pq.ParquetFile(folders["spark"] / hour.name / file.name).read()
            assert other.schema.equals(ours.schema), file
            assert other.equals(ours), file
            rows[file.stem] = rows.get(file.stem, 0) + ours.num_rows
        described = [read_json(folder / hour.name / "meta.json") for folder in folders.values()]
        assert described[0] == described[1]  # with its digest: the same bytes
    assert set(rows) == {"samples", "slots", "profiles", "history", "user_attributes", "item_attributes"}
    assert min(rows.values()) > 500
    for name in ("samples", "slots"):
        files = [str(hour / f"{name}.parquet") for hour in folders["spark"].iterdir()]
        assert "maxResultSize" in spark.driver.call("refused_rows", options=theirs, files=files), name


def stored(url: str) -> dict[bytes, dict[bytes, bytes]]:
    """Everything that a Redis holds."""
    host, port = url.split(":")
    with redis.Redis(host, int(port)) as client:
        content: Any = {key: client.hgetall(key) for key in client.scan_iter()}
    return content


@pytest.mark.skipif(not AT_LENGTH, reason="four drivers take minutes: make spark")
def test_a_driver_that_is_killed_leaves_nothing_half_written_and_the_work_is_repeated(
    spark: Spark, tmp_path: Path
) -> None:
    (log,) = dirty_log(tmp_path)
    one_facet(tmp_path)
    hours = [Hour.parse("2026-03-27T23"), Hour.parse("2026-03-28T04"), Hour.parse("2026-03-28T05")]
    plain, var = {"source": "test", "window_days": 1, "slot_minutes": 120, "variants": ["none"]}, tmp_path / "spark"
    options = {**plain, "var": str(var), **spark.options, "spark_ingest_megabytes": 0}
    settings, theirs = load_settings(var=var, **plain), {**plain, "var": str(tmp_path / "duckdb")}
    work: dict[str, dict[str, Any]] = {
        "ingest": {"folder": str(tmp_path), "files": [log], "piece_bytes": 60_000},
        "rebuild": {"hour": hours[1].key},
        "refresh": {"hour": hours[2].key},
        "build_samples": {"first": hours[0].key, "until": hours[2].key},
    }
    results = [repr(calls.ingest(theirs, **work["ingest"]))]
    for call, arguments in work.items():
        begun = partial(has_more_files, var, files_of(var))
        kill_driver(spark, tmp_path / f"{call}.log", begun, call, options=options, **arguments)
        events = EventStore(settings.events_dir)
        assert not [events.read(hour, verify=True) for hour in events.hours() if call == "ingest"]
        as_before = {"rebuild": None, "refresh": hours[1], "build_samples": hours[2]}
        if call in as_before:
            state = state_of(settings).read()
            assert (state and state.as_of) == as_before[call]
        assert not [*(settings.training_dir / "samples").glob("hour=*")]
        result = spark.driver.call(call, options=options, **arguments)
        results.append(repr(result))
        if call != "ingest":
            assert getattr(calls, call)(theirs, **arguments) == result
    assert results[0].replace(str(tmp_path / "duckdb"), str(var)) == results[1]
    other = load_settings(**theirs)
    assert stored_files(var) == stored_files(other.var)
    assert sums_of(settings) == sums_of(other)
    assert [as_of(settings, hour) for hour in hours[1:]] == [as_of(other, hour) for hour in hours[1:]]
    for file in (other.training_dir / "samples").glob("hour=*/meta.json"):
        assert read_json(file) == read_json(settings.training_dir / "samples" / file.parent.name / file.name)
    assert not [path for path in var.rglob("*") if path.name.startswith((".events-ingest-", "spark-", "together-"))]


def files_of(var: Path) -> int:
    """How many Parquet files a workspace holds, finished or not."""
    return sum(1 for _ in var.rglob("*.parquet"))


def has_more_files(var: Path, than: int) -> bool:
    """Whether a workspace holds more Parquet files than before."""
    return files_of(var) > than


def test_executors_put_the_same_bytes_online(spark: Spark, app: Path, tmp_path: Path) -> None:
    contents = {}
    for name, engine in (("duckdb", {}), ("spark", spark.options)):
        (tmp_path / f"redis-{name}").mkdir()
        with redis_server(tmp_path / f"redis-{name}") as (url, _):
            options = copied(app, tmp_path / name, online_store="redis", redis_url=url, **engine)
            written = []
            for call, hour in (("fill_online", START + HOURS - 1), ("bring_forward", START + HOURS)):
                arguments = {"options": options, "hour": hour.key}
                done = spark.driver.call(call, **arguments) if engine else getattr(calls, call)(**arguments)
                written.append(done)
                contents[name, call] = stored(url)
            contents[name, "written"] = {b"": {b"": repr(written).encode()}}
    for step in ("fill_online", "bring_forward", "written"):
        assert contents["spark", step] == contents["duckdb", step], step
    assert contents["duckdb", "bring_forward"] != contents["duckdb", "fill_online"]
    assert len(contents["spark", "bring_forward"]) >= MANY_USERS


def test_what_fails_at_executors_is_named_in_one_line(spark: Spark, app: Path, tmp_path: Path) -> None:
    away = f"127.0.0.1:{free_port()}"
    options = copied(app, tmp_path, online_store="redis", redis_url=away, **spark.options)
    said = spark.driver.call("failed_online", options=options, hour=(START + HOURS).key)
    assert said.startswith(
        f"Spark at {spark.cluster.url} gave up after several tries (redis.exceptions.ConnectionError: "
    ), said
    assert "\n" not in said


def test_feasts_spark_offline_store_joins_what_duckdb_joins(spark: Spark, tmp_path: Path) -> None:
    options = {
        "var": str(tmp_path / "a [1]*{b,c}"),
        "source": "test",
        "window_days": WINDOW_DAYS,
        "slot_minutes": SLOT_MINUTES,
    }
    rows = sorted(
        ((n * 7) % 60, (n * 13) % 60, n % 3, ["rock", "jazz", None][n % 3], [100, 3][n % 2]) for n in range(90)
    )
    ingest_rows(tmp_path, load_settings(**options), rows, 0, (START, START + CUT))
    calls.rebuild(options, (START + CUT).key)
    hours = [(START + h).number for h in (6, 30, CUT)]
    keys = {"user_id": [1, 2, 3, 99] * 3, "hour": [hour for hour in hours for _ in range(4)]}
    joined = calls.historical(options, keys)
    assert len(joined[0]) > 20
    on_spark = {**options, **spark.options, "engine": "duckdb", "offline_store": "spark"}
    assert spark.driver.call("historical", options=on_spark, keys=keys) == joined


def test_what_lies_by_user_is_grouped_and_joined_where_it_lies(spark: Spark, tmp_path: Path) -> None:
    (rows, spread), count = spark.driver.call("plans", options={"var": str(tmp_path), **spark.options})
    assert "Join" in rows
    assert "Exchange" not in rows
    assert "Exchange" in spread  # a plan that moves rows says so
    assert count == 100 * 6 * 7


def test_an_experiment_is_duckdbs_to_the_last_digit(spark: Spark, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows, met = [], []
    for u in range(900):
        met.append((u, "ab"[u % 2], int(rng.integers(0, 3000))))
        minutes = rng.integers(0, 14_000, rng.poisson(8))
        rows += [
            (
                u,
                int(m),
                int(rng.integers(1, 900)),
                bool(rng.random() < 0.2),
                bool(rng.random() < 0.3),
                ["rock", "jazz", None][m % 3],
            )
            for m in minutes
        ]
    write_log(tmp_path, rows, met)
    store = closed_days.open_store(tmp_path / "store")
    exposures = [("test", u, "ab"[u % 2], 60 * u) for u in range(12)]
    closed_days.ingest(store, closed_days.random_rows(rng, 150), exposures, 0)
    ours = calls.experiment({"var": str(tmp_path / "duckdb"), "source": "test"}, str(tmp_path))
    options = {"var": str(tmp_path / "spark"), "source": "test", **spark.options}
    theirs = spark.driver.call("experiment", options=options, folder=str(tmp_path))
    assert theirs["looks"] == [[repr_, rows] for repr_, rows in ours["looks"]]
    assert theirs["table"] == ours["table"]
    assert {r["method"] for r in ours["analysis"]["results"]} == {
        "welch",
        "cuped",
        "cupac",
        "post_stratified",
        "quantile",
    }
    assert theirs["analysis"] == ours["analysis"]
    culprit = "metric 'm', 'CAST(CONCAT('x', genre) AS INT)', cannot be computed for an event"
    for result in (ours, theirs):
        assert culprit.lower() in result["refused"].lower(), result["refused"]


def test_a_cluster_whose_workers_cannot_run_a_task_is_named(spark: Spark, tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text(f"{FEW_ROWS}spark.executor.memory 64g\n")
    with Driver(tmp_path, tmp_path / "driver.log") as driver:
        said = driver.call("refusal", options={"var": str(tmp_path), **spark.options}, seconds=3)
    assert said.startswith(f"Spark at {spark.cluster.url} gives no executor with 64g of memory in 3 s")


def test_a_master_that_is_not_there_is_named(tmp_path: Path) -> None:
    master = f"spark://127.0.0.1:{free_port()}"
    said = calls.refusal({"var": str(tmp_path), "engine": "spark", "spark_master": master})
    assert said.startswith(f"Spark at {master} does not answer")
