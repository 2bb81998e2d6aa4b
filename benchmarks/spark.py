"""Thirty days of events and an hour on a Spark standalone cluster of two workers, and the same on DuckDB, every row equal.

What Spark did for each figure (jobs, stages, tasks, bytes shuffled) is read from its event log.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.clocks import (
    DAYS,
    EVENTS,
    EVENTS_A_USER,
    SAMPLES,
    SESSION,
    START,
    random_events,
    write_hour,
    write_log,
)
from benchmarks.experiments import write_events
from benchmarks.result import Result
from core import duck
from core.errors import DataError
from core.files import digest_file, read_json
from core.hours import Hour, hour_range
from core.settings import ROOT, Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from feature_repo.clock import ClockState
from tests.servers import SparkCluster, spark_cluster

log = logging.getLogger("benchmarks.spark")

UNTIL = START + DAYS * 24
AB_USERS = 2_000_000
WORKER_MEMORY, PARTITIONS = "4g", 16
RUN = """
import json, sys
from benchmarks.clocks import rebuild_here, refresh_here
from benchmarks.experiments import analysis
from benchmarks.spark import UNTIL, ingest_here, samples_here
from core.settings import load_settings
pieces = {
    "rebuild": lambda settings: rebuild_here(settings, UNTIL),
    "refresh": lambda settings: refresh_here(settings, UNTIL + 1),
    "analysis": analysis,
    "samples": lambda settings: samples_here(settings, UNTIL),
    "ingest": ingest_here,
}
print(json.dumps(pieces[sys.argv[1]](load_settings(**json.loads(sys.argv[2])))))
"""
"""In a separate process: the session ends with it, and the cluster can be stopped."""
PIECES = ("rebuild", "refresh", "analysis")
"""Of ``RUN``, in their order; the last one's result is compared."""
OPTIONS = f"""
spark.executor.memory {WORKER_MEMORY}
spark.driver.memory 2g
spark.eventLog.enabled true
spark.eventLog.rolling.enabled false
spark.eventLog.compress false
"""
LOG_MAPPING = """\
source: bench
columns: {user_id: uid, item_id: iid, event_id: eid, played_seconds: secs}
timestamp: {column: ts}
local_time: {zone: Europe/Berlin}
facets: {genre: genre, mood: mood}
behaviors: {finish: finish, like: liked}
"""
HOUR_EVENTS = 60_000
"""Events of the hour that is refreshed, of the full size."""


class Activity(NamedTuple):
    """What Spark did, from its event log.

    Attributes:
        jobs: started by actions, or by stages whose result decides on the plan.
        stages: completed.
        tasks: ended.
        shuffled: bytes written for other stages.
        cpu: core-seconds of the tasks.
    """

    jobs: int
    stages: int
    tasks: int
    shuffled: int
    cpu: float

    @classmethod
    def of(cls, event_log: Path) -> Activity:
        """Read an application's event log."""
        jobs, stages, tasks, shuffled, cpu = 0, 0, 0, 0, 0.0
        with event_log.open(encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                kind = event["Event"]
                jobs += kind == "SparkListenerJobStart"
                stages += kind == "SparkListenerStageCompleted"
                if kind == "SparkListenerTaskEnd":
                    tasks += 1
                    metrics = event.get("Task Metrics") or {}
                    shuffled += metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
                    cpu += metrics.get("Executor CPU Time", 0) / 1e9
        return cls(jobs, stages, tasks, shuffled, cpu)

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs, {self.stages} stages, {self.tasks} tasks, {self.shuffled / 1e6:.0f} MB shuffled, "
            f"{self.cpu:.0f} core-seconds in tasks"
        )


@dataclass(frozen=True)
class TracedCluster:
    """A cluster whose applications leave event logs.

    Attributes:
        cluster: that runs.
        logs: folder of the event logs.
    """

    cluster: SparkCluster
    logs: Path

    @property
    def options(self) -> dict[str, object]:
        """Settings that let it compute, however few the events."""
        return {
            "engine": "spark",
            "spark_master": self.cluster.url,
            "spark_partitions": PARTITIONS,
            "spark_from_events": 0,
        }

    def report(self, what: str) -> None:
        """Log what Spark did since the last report."""
        for event_log in self.logs.iterdir():
            log.info("%s on Spark: %s", what, Activity.of(event_log))
            event_log.unlink()


@contextmanager
def traced_cluster(folder: Path, options: str = "") -> Iterator[TracedCluster]:
    """Two workers of one core.

    Args:
        folder: new, for logs and scratch.
        options: further lines of ``spark-defaults.conf``.
    """
    logs = folder / "events"
    logs.mkdir(parents=True)
    lines = f"{OPTIONS}{options}spark.eventLog.dir {logs.as_uri()}\n"
    with spark_cluster(folder, WORKER_MEMORY, lines) as cluster:
        yield TracedCluster(cluster, logs)


def bench_spark(scale: float) -> list[Result]:
    """The rebuild of every view, the next hour, an experiment's analysis; ``DataError`` where the engines differ in anything."""
    return _compare(scale, PIECES)


def bench_spark_rebuild(scale: float) -> list[Result]:
    """The rebuild alone; ``DataError`` where the engines differ in any row."""
    return _compare(scale, PIECES[:1])


def bench_spark_experiment(scale: float) -> list[Result]:
    """The analysis of an experiment alone; ``DataError`` where the engines differ in any figure."""
    return _compare(scale, PIECES[2:])


def _compare(scale: float, pieces: Sequence[str]) -> list[Result]:
    """Seconds of pieces of ``RUN`` on Spark beside DuckDB's."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        if "rebuild" in pieces:
            users = int(EVENTS / EVENTS_A_USER * scale)
            store = write_log(settings, int(EVENTS * scale), users, DAYS * 24)
            rng, events = np.random.default_rng(2), int(HOUR_EVENTS * scale)
            write_hour(store, UNTIL, random_events(rng, UNTIL, events, rng.integers(0, users, events)))
        if "analysis" in pieces:
            write_events(settings.var, int(EVENTS * scale), int(AB_USERS * scale))
        theirs = settings.var / "duckdb"
        seconds: dict[str, dict[str, float]] = {"DuckDB": {}, "Spark": {}}
        with traced_cluster(settings.var / "cluster") as running:
            results = {}
            for name, chosen in (("DuckDB", {}), ("Spark", running.options)):
                for what in pieces:
                    seconds[name][what], result = _run(what, settings, chosen, running.cluster.conf)
                    results[name] = result
                    running.report(what)
                if name == "DuckDB" and "rebuild" in pieces:
                    shutil.move(settings.features_dir, theirs)
        if "rebuild" in pieces and (differing := _differing(settings, theirs)):
            raise DataError(f"Spark and DuckDB differ in {', '.join(differing)}")
        if results["Spark"] != results["DuckDB"]:
            raise DataError("Spark and DuckDB differ in the analysis of the experiment")
    return [
        Result(f"spark_{what}", ours, "s", "DuckDB, equal results", peer, peer / ours)
        for what in pieces
        for ours, peer in [(seconds["Spark"][what], seconds["DuckDB"][what])]
    ]


def bench_spark_join(scale: float) -> list[Result]:
    """Samples of thirty days with their features, built by both engines; ``DataError`` where a row differs."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        events = int(SAMPLES * scale)
        store = write_log(settings, events, events // EVENTS_A_USER, DAYS * 24, session=SESSION)
        ClockState(settings, store).rebuild(UNTIL)
        samples, theirs = settings.training_dir / "samples", settings.var / "duckdb"
        with traced_cluster(settings.var / "cluster") as running:
            peer, _ = _run("samples", settings, {}, running.cluster.conf)
            shutil.move(samples, theirs)
            seconds, _ = _run("samples", settings, running.options, running.cluster.conf)
            running.report("samples")
        with duck.connection(settings) as con:
            for name in sorted({file.stem for file in samples.glob("*/*.parquet")}):
                one, other = (f"SELECT * FROM {_hours_of(root, name)}" for root in (samples, theirs))
                for left, right in ((one, other), (other, one)):
                    if duck.scalar(con, f"SELECT count(*) FROM (({left}) EXCEPT ALL ({right}))"):
                        raise DataError(f"Spark and DuckDB differ in {name} of the samples")
    return [Result("spark_join", seconds, "s", "DuckDB, equal samples", peer, peer / seconds)]


def samples_here(settings: Settings, until: Hour) -> None:
    """Build the samples of every hour before one."""
    from training.samples import SampleStore  # with PyTorch, which the other pieces do not wait for

    SampleStore(settings, EventStore(settings.events_dir)).build(hour_range(START, until))


def _hours_of(root: Path, name: str) -> str:
    pattern = duck.quoted(str(root / "*" / f"{name}.parquet"))
    return f"read_parquet({pattern}, hive_partitioning = true, hive_types_autocast = false)"


def bench_spark_ingest(scale: float) -> list[Result]:
    """A month's CSV files ingested by both engines; ``DataError`` where a byte of an hour, of ids or of quarantine differs."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", spark_ingest_megabytes=0)
        write_csv(settings, int(EVENTS * scale))
        theirs = settings.var / "duckdb"
        with traced_cluster(settings.var / "cluster") as running:
            peer, _ = _run("ingest", settings, {}, running.cluster.conf)
            shutil.move(settings.events_dir, theirs)
            seconds, _ = _run("ingest", settings, running.options, running.cluster.conf)
            running.report("ingestion")
        stores = [_kept(root) for root in (settings.events_dir, theirs)]
        if differing := [name for name in {**stores[0], **stores[1]} if stores[0].get(name) != stores[1].get(name)]:
            raise DataError(f"Spark and DuckDB differ in {len(differing)} files, such as {differing[0]}")
    return [Result("spark_ingest", seconds, "s", "DuckDB, equal files", peer, peer / seconds)]


def write_csv(settings: Settings, rows: int) -> None:
    """Write a log of CSV files, one a day, and its mapping: texts as ids of users; one row in a hundred cannot be read, or is repeated.

    Args:
        settings: of the workspace; the log lies in its ``log``.
        rows: number of rows.
    """
    log_dir, a_day = settings.var / "log", rows // DAYS
    log_dir.mkdir()
    (settings.var / "mapping.yaml").write_text(LOG_MAPPING)
    with duck.connection(settings) as con:
        for day in range(DAYS):
            start = (START + 24 * day).start.isoformat()
            con.execute(
                f"""COPY (SELECT 'u' || (hash(n, 1) % {max(rows // EVENTS_A_USER, 1)}) AS uid, hash(n, 2) % 20000 AS iid,
                {day * a_day} + n - CAST(n % 100 = 99 AS BIGINT) AS eid,
                CASE WHEN n % 100 = 50 THEN 'soon' ELSE strftime(TIMESTAMPTZ '{start}'
                    + to_microseconds(CAST((n // 100) * 100 * {86_400_000_000 // a_day} AS BIGINT)), '%Y-%m-%dT%H:%M:%S.%fZ') END AS ts,
                hash(n, 4) % 300 AS secs, 'genre' || (hash(n, 5) % 12) AS genre, 'mood' || (hash(n, 6) % 8) AS mood,
                hash(n, 7) % 2 AS finish, hash(n, 8) % 20 // 19 AS liked FROM range({a_day}) t(n) ORDER BY n)
                TO {duck.quoted(str(log_dir / f"day-{day:02d}.csv"))} (HEADER)"""
            )


def ingest_here(settings: Settings) -> None:
    """Ingest what ``write_csv`` wrote."""
    ingest(str(settings.var / "mapping.yaml"), [str(settings.var / "log")], settings)


def _kept(root: Path) -> dict[str, str]:
    """Digests of the hours, ids and quarantined rows of an event store."""
    files = (file for folder in ("hour=*", "_ids", "_quarantine") for file in root.glob(f"{folder}/*"))
    return {str(file.relative_to(root)): digest_file(file) for file in files}


def bench_spark_scaling(scale: float) -> list[Result]:
    """The rebuild with one worker's core and with two."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        write_log(settings, int(EVENTS * scale), int(EVENTS / EVENTS_A_USER * scale), DAYS * 24)
        for cores in (1, 2):
            with traced_cluster(settings.var / f"cluster-{cores}", f"spark.cores.max {cores}\n") as running:
                seconds[cores], _ = _run("rebuild", settings, running.options, running.cluster.conf)
                running.report(f"rebuild with {cores} cores")
    return [Result("spark_two_workers", seconds[2], "s", "one worker", seconds[1], seconds[1] / seconds[2])]


def _run(what: str, settings: Settings, options: Mapping[str, object], conf: Path) -> tuple[float, str]:
    """Seconds and result of a piece of ``RUN``, in a separate process."""
    settings_json = json.dumps(settings.model_dump(mode="json", include=settings.model_fields_set) | dict(options))
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, what, settings_json], cwd=ROOT, env={**os.environ, "SPARK_CONF_DIR": str(conf)},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return time.perf_counter() - begun, done.stdout.splitlines()[-1]


def _differing(settings: Settings, theirs: Path) -> list[str]:
    """Views and sums of which the two folders do not hold the same rows."""
    views = [folder.name for folder in theirs.iterdir() if any(folder.glob("*--*/*.parquet"))]
    layers = read_json(theirs / "state.json")["sums"]
    sums = [layer["folder"] for layer in (*layers["bases"].values(), *layers["deltas"])]
    names = [f"{view}/*" for view in views]
    names += [f"sums/{name}/{part.name}" for name in sums for part in (theirs / "sums" / name).iterdir()]
    differing = []
    with duck.connection(settings) as con:
        for name in names:
            ours, other = (f"SELECT * FROM read_parquet({duck.quoted(str(root / name / '*.parquet'))})"
                          for root in (settings.features_dir, theirs))  # fmt: skip
            for left, right in ((ours, other), (other, ours)):
                if duck.scalar(con, f"SELECT count(*) FROM (({left}) EXCEPT ALL ({right}))"):
                    differing.append(name)
    return differing
