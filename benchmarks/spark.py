"""Thirty days of events on a Spark standalone cluster of two workers, and the same on DuckDB: times, and every row equal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.clocks import DAYS, EVENTS, EVENTS_A_USER, START, write_log
from benchmarks.experiments import write_events
from benchmarks.result import Result
from core import duck
from core.errors import DataError
from core.files import read_json
from core.settings import ROOT, Settings, load_settings
from tests.servers import spark_cluster

UNTIL = START + DAYS * 24
AB_USERS = 2_000_000
WORKER_MEMORY, PARTITIONS = "4g", 16
RUN = """
import json, sys
from benchmarks.clocks import rebuild_here
from benchmarks.experiments import analysis
from benchmarks.spark import UNTIL
from core.settings import load_settings
pieces = {"rebuild": lambda settings: rebuild_here(settings, UNTIL), "analysis": analysis}
print(json.dumps(pieces[sys.argv[1]](load_settings(**json.loads(sys.argv[2])))))
"""
"""In a separate process: the session ends with it, and the cluster can be stopped."""
OPTIONS = f"spark.executor.memory {WORKER_MEMORY}\nspark.driver.memory 2g\n"


def bench_spark(scale: float) -> list[Result]:
    """The rebuild of every view, and an experiment's analysis; raises ``DataError`` where the engines differ in anything."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        write_log(settings, int(EVENTS * scale), int(EVENTS / EVENTS_A_USER * scale), DAYS * 24)
        write_events(settings.var, int(EVENTS * scale), int(AB_USERS * scale))
        (settings.var / "cluster").mkdir()
        theirs = settings.var / "duckdb"
        seconds: dict[str, dict[str, float]] = {"DuckDB": {}, "Spark": {}}
        with spark_cluster(settings.var / "cluster", WORKER_MEMORY, OPTIONS) as (master, conf):
            on_spark = {"engine": "spark", "spark_master": master, "spark_partitions": PARTITIONS}
            analyses = {}
            for name, options in (("DuckDB", {}), ("Spark", on_spark)):
                seconds[name]["rebuild"], _ = _run("rebuild", settings, options, conf)
                if name == "DuckDB":
                    shutil.move(settings.features_dir, theirs)
                seconds[name]["analysis"], analyses[name] = _run("analysis", settings, options, conf)
        if differing := _differing(settings, theirs):
            raise DataError(f"Spark and DuckDB differ in {', '.join(differing)}")
        if analyses["Spark"] != analyses["DuckDB"]:
            raise DataError("Spark and DuckDB differ in the analysis of the experiment")
    return [
        Result(f"spark_{what}", ours, "s", "DuckDB, equal results", peer, peer / ours)
        for what in ("rebuild", "analysis")
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
    sums = [layer["folder"] for layer in read_json(theirs / "state.json")["sums"]["bases"].values()]
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
