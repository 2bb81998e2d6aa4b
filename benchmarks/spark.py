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
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.clocks import DAYS, EVENTS, EVENTS_A_USER, START, random_events, write_hour, write_log
from benchmarks.experiments import write_events
from benchmarks.result import Result
from core import duck
from core.errors import DataError
from core.files import read_json
from core.settings import ROOT, Settings, load_settings
from tests.servers import spark_cluster

log = logging.getLogger("benchmarks.spark")

UNTIL = START + DAYS * 24
AB_USERS = 2_000_000
WORKER_MEMORY, PARTITIONS = "4g", 16
RUN = """
import json, sys
from benchmarks.clocks import rebuild_here, refresh_here
from benchmarks.experiments import analysis
from benchmarks.spark import UNTIL
from core.settings import load_settings
pieces = {
    "rebuild": lambda settings: rebuild_here(settings, UNTIL),
    "refresh": lambda settings: refresh_here(settings, UNTIL + 1),
    "analysis": analysis,
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


def bench_spark(scale: float) -> list[Result]:
    """The rebuild of every view, the next hour, an experiment's analysis; ``DataError`` where the engines differ in anything."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        users = int(EVENTS / EVENTS_A_USER * scale)
        store = write_log(settings, int(EVENTS * scale), users, DAYS * 24)
        rng, events = np.random.default_rng(2), int(HOUR_EVENTS * scale)
        write_hour(store, UNTIL, random_events(rng, UNTIL, events, rng.integers(0, users, events)))
        write_events(settings.var, int(EVENTS * scale), int(AB_USERS * scale))
        cluster, theirs = settings.var / "cluster", settings.var / "duckdb"
        logs = cluster / "events"
        logs.mkdir(parents=True)
        seconds: dict[str, dict[str, float]] = {"DuckDB": {}, "Spark": {}}
        options = f"{OPTIONS}spark.eventLog.dir {logs.as_uri()}\n"
        with spark_cluster(cluster, WORKER_MEMORY, options) as (master, conf):
            on_spark = {"engine": "spark", "spark_master": master, "spark_partitions": PARTITIONS}
            analyses = {}
            for name, chosen in (("DuckDB", {}), ("Spark", on_spark)):
                for what in PIECES:
                    seconds[name][what], result = _run(what, settings, chosen, conf)
                    analyses[name] = result
                    for event_log in logs.iterdir():
                        log.info("%s on Spark: %s", what, Activity.of(event_log))
                        event_log.unlink()
                if name == "DuckDB":
                    shutil.move(settings.features_dir, theirs)
        if differing := _differing(settings, theirs):
            raise DataError(f"Spark and DuckDB differ in {', '.join(differing)}")
        if analyses["Spark"] != analyses["DuckDB"]:
            raise DataError("Spark and DuckDB differ in the analysis of the experiment")
    return [
        Result(f"spark_{what}", ours, "s", "DuckDB, equal results", peer, peer / ours)
        for what in PIECES
        for ours, peer in [(seconds["Spark"][what], seconds["DuckDB"][what])]
    ]


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
