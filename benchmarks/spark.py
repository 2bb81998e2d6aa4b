"""Thirty days of events on a Spark standalone cluster of two workers, and the same on DuckDB: times, and every row equal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.clocks import DAYS, EVENTS, EVENTS_A_USER, START, rebuild, write_log
from benchmarks.result import Result
from core import duck
from core.errors import DataError
from core.files import read_json
from core.settings import ROOT, Settings, load_settings
from tests.servers import spark_cluster

UNTIL = START + DAYS * 24
WORKER_MEMORY, PARTITIONS = "4g", 16
RUN = """
import json, sys
from core.hours import Hour
from core.settings import load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
settings = load_settings(**json.loads(sys.argv[1]))
ClockState(settings, EventStore(settings.events_dir)).rebuild(Hour.parse(sys.argv[2]), history=False)
"""
"""In a process of its own: the session ends with it, and the cluster can be stopped."""
OPTIONS = "spark.executor.memory 4g\nspark.driver.memory 2g\n"


def bench_spark(scale: float) -> Result:
    """The rebuild of every view; raises ``DataError`` where the two engines differ in a row."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        write_log(settings, int(EVENTS * scale), int(EVENTS / EVENTS_A_USER * scale), DAYS * 24)
        with_duckdb, _ = rebuild(settings.var, UNTIL)
        theirs = Path(folder) / "duckdb"
        shutil.move(settings.features_dir, theirs)
        (Path(folder) / "cluster").mkdir()
        with spark_cluster(Path(folder) / "cluster", WORKER_MEMORY, OPTIONS) as (master, conf):
            options = settings.model_dump(exclude_unset=True) | {
                "engine": "spark", "spark_master": master, "spark_partitions": PARTITIONS,
            }  # fmt: skip
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", RUN, json.dumps(options, default=str), UNTIL.key],
                cwd=ROOT, env={**os.environ, "SPARK_CONF_DIR": str(conf)}, check=True,
            )  # fmt: skip
            seconds = time.perf_counter() - begun
        if differing := _differing(settings, theirs):
            raise DataError(f"Spark and DuckDB differ in {', '.join(differing)}")
    return Result(
        "spark_rebuild", seconds, "s", "DuckDB in one process, equal rows", with_duckdb, with_duckdb / seconds
    )


def _differing(settings: Settings, theirs: Path) -> list[str]:
    """Views and sums of which the two folders do not hold the same rows."""
    views = [folder.name for folder in theirs.iterdir() if any(folder.glob("*--*/*.parquet"))]
    sums = [entry["folder"] for entry in read_json(theirs / "state.json")["sums"].values()]
    names = [f"{view}/*" for view in views]
    names += [f"sums/{name}/{part.name}" for name in sums for part in (theirs / "sums" / name).iterdir()]
    found = []
    with duck.connection(settings) as con:
        for name in names:
            one, other = (f"SELECT * FROM read_parquet({duck.quoted(str(root / name / '*.parquet'))})"
                          for root in (settings.features_dir, theirs))  # fmt: skip
            for left, right in ((one, other), (other, one)):
                if duck.scalar(con, f"SELECT count(*) FROM (({left}) EXCEPT ALL ({right}))"):
                    found.append(name)
    return found
