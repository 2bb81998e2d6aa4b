"""One definition, two engines: a Spark cluster gives the analysis that DuckDB gives, to the last digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.settings import ROOT
from tests.ab_analysis.test_closed_days import ingest, open_store, random_rows
from tests.ab_analysis.test_user_table import write_log
from tests.servers import spark_cluster

pytestmark = pytest.mark.slow

# A process of its own: its Spark session ends with it, and the cluster can be stopped.
RUN = """
import json, sys
from pathlib import Path
from ab_analysis.analysis import analyze
from ab_analysis.metrics import load_catalog
from ab_analysis.table import analyze_table
from ab_analysis.table_spec import TableSpec
from ab_analysis.user_table import build_user_table, make_tables
from core.engine import engine
from core.errors import DataError
from core.hours import Hour
from core.settings import load_settings
from events.store import EventStore
from tests.ab_analysis.test_user_table import BASE, START, UNTIL, plan_of
folder = Path(sys.argv[2])
plan = plan_of(
    primary=("active_days", "duration_hours"), strata=("habit",), trigger="local_hour BETWEEN 1 AND 22",
    population="NOT is_new", model_covariates=("duration_hours",),
    metrics={**BASE["metrics"], "fast": {"count": "played_seconds / (local_hour % 3) >= 100"}},
    secondary=("fast", "likes", "skip_rate", "retained_day_1", "heavy", "capped", "winsorised", "duration_p90"),
)
settings = load_settings(**json.loads(sys.argv[1]))
with engine(settings) as db:
    counts = make_tables(db, plan, UNTIL, events=[folder / "events.parquet"], exposures=[folder / "exposures.parquet"])
    analysis = analyze(db, plan, counts, seed=1).as_json()
    spec = TableSpec("variant", "a", ("duration_hours",), covariates={"duration_hours": ("duration_hours_pre",)}, segments=("habit",))
    if not (folder / "users.parquet").exists():
        import pyarrow.parquet as pq
        pq.write_table(db.arrow("SELECT * FROM users"), folder / "users.parquet")
    rows, _ = analyze_table(db, folder / "users.parquet", spec)
    try:
        bad = plan_of(metrics={"m": {"sum": "CAST(concat('x', genre) AS INT)"}}, secondary=("m",))
        make_tables(db, bad, UNTIL, events=[folder / "events.parquet"], exposures=[folder / "exposures.parquet"])
    except DataError as error:
        refused = str(error)
    looks, store, short = [], EventStore(folder / "store"), plan_of(trigger="local_hour BETWEEN 6 AND 9", pre_days=1)
    for hours in (30, 55):
        counts = build_user_table(db, store, short, Hour.of(START) + hours, kept=settings.experiment_days_dir)
        looks.append([repr(counts), sorted(map(repr, db.rows("SELECT * FROM users")))])
    assert (settings.experiment_days_dir / "index.json").exists()
print(json.dumps({"looks": looks, "refused": refused, "analysis": analysis, "table": [repr(r) for r in rows]}))
"""


def test_a_spark_cluster_gives_what_duckdb_gives(tmp_path: Path) -> None:
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
    ingest(
        open_store(tmp_path / "store"), random_rows(rng, 150), [("test", u, "ab"[u % 2], 60 * u) for u in range(12)], 0
    )
    by_engine = {}
    with spark_cluster(tmp_path) as (url, conf):
        for name, options in {
            "duckdb": {},
            "spark": {"engine": "spark", "spark_master": url, "spark_partitions": 2},
        }.items():
            settings = {"var": str(tmp_path / name), "source": "test", **options}
            done = subprocess.run(
                [sys.executable, "-c", RUN, json.dumps(settings), str(tmp_path)],
                cwd=ROOT,
                env={**os.environ, "SPARK_CONF_DIR": str(conf), "PYTHONPATH": "."},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            by_engine[name] = json.loads(done.stdout.splitlines()[-1])
    assert by_engine["spark"]["looks"] == by_engine["duckdb"]["looks"]
    assert by_engine["spark"]["table"] == by_engine["duckdb"]["table"]
    ours, theirs = by_engine["duckdb"]["analysis"], by_engine["spark"]["analysis"]
    assert {r["method"] for r in ours["results"]} == {"welch", "cuped", "cupac", "post_stratified", "quantile"}
    assert theirs == ours
    culprit = "metric 'm', 'CAST(CONCAT('x', genre) AS INT)', cannot be computed for an event"
    assert all(culprit.lower() in result["refused"].lower() for result in by_engine.values()), by_engine["spark"][
        "refused"
    ]
