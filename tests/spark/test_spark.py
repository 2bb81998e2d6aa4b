"""One definition, two engines: a standalone Spark cluster gives what DuckDB gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from core.settings import ROOT, Settings, load_settings
from core.sql_engine import parquet_parts
from events.store import EventStore
from feature_repo.clock import ClockState
from tests.feature_repo.test_clock import START, WINDOW_DAYS, as_of, ingest_rows, state_of, sums_of
from tests.servers import FEW_ROWS, spark_cluster

pytestmark = pytest.mark.slow

CUT = 40
SLOT_MINUTES = 120
NEW_USERS, DRIVER_TAKES = 4_000, "256k"
"""Users of the last hour, and how much a Spark job may bring to the driver: no more than counts and small dictionaries."""
# A process of its own: its Spark session ends with it, and the cluster can be stopped.
RUN = """
import json, sys
from core.engine import engine
from core.hours import Hour
from core.settings import load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
settings = load_settings(**json.loads(sys.argv[1]))
clock = ClockState(settings, EventStore(settings.events_dir))

def collect(hour):
    # Brings the rows of an hour to the driver, which must not have the memory.
    with engine(settings) as running:
        try:
            running.arrow(f"SELECT * FROM {running.files(clock.logs['clock_slots'].parts(hour))}")
        except running.errors as error:
            assert "maxResultSize" in str(error), error
        else:
            raise AssertionError("the driver could take the rows")

for line in sys.stdin:
    what, hour = line.split()
    (collect if what == "collect" else getattr(clock, what))(Hour.parse(hour))
    print("done", flush=True)
"""


OPTIONS: dict[str, Any] = {"window_days": WINDOW_DAYS, "slot_minutes": SLOT_MINUTES, "shrinkage": True}


class Runner:
    """A process that rebuilds and refreshes a workspace's clocks with one engine."""

    def __init__(self, settings: Settings, master: str, conf: Path) -> None:
        options = {"var": str(settings.var), "source": "test", **OPTIONS}
        if master:
            options |= {"engine": "spark", "spark_master": master, "spark_partitions": 2}
        self.log = settings.var.with_suffix(".log")
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, json.dumps(options)], cwd=ROOT, env={**os.environ, "SPARK_CONF_DIR": str(conf)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip

    def run(self, what: str, hour: str) -> None:
        """One of ``ClockState``'s methods as of an hour, to its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(what, hour, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n", self.log.read_text()[-3000:]

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes its input, and waits
            pass


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


def test_spark_gives_what_duckdb_gives_in_bulk_and_by_the_hour_with_late_events_and_a_small_driver(
    tmp_path: Path,
) -> None:
    rows = [
        ((n * 7) % 90, (n * 13) % 60, n % 3, ["rock", "jazz", None, "folk"][n % 4], [100, 3, 100, 50][n % 4])
        for n in range(120)
    ]
    rows.sort(key=lambda e: (e[0], e[1]))
    before = [r for r in rows if r[0] < CUT]
    # Many come in the hour: more rows than the driver can take.
    many = [(CUT, 1, user, "rock", 100) for user in range(10, 10 + NEW_USERS)]
    after = [*many, *(r for r in rows if r[0] == CUT), (5, 5, 1, "jazz", 100), (30, 5, 2, "soul", 100)]
    by_engine = {}
    with spark_cluster(tmp_path, options=f"{FEW_ROWS}spark.driver.maxResultSize {DRIVER_TAKES}\n") as (url, conf):
        for name, master in (("duckdb", ""), ("spark", url)):
            settings = load_settings(var=tmp_path / f"{name} [1]*{{a,b}}", source="test", **OPTIONS)
            (tmp_path / f"log-{name}").mkdir()
            with Runner(settings, master, conf) as clock:
                ingest_rows(tmp_path / f"log-{name}", settings, before, 0, (START, START + CUT))
                clock.run("rebuild", (START + CUT).key)
                ingest_rows(tmp_path / f"log-{name}", settings, after, len(before), (START + CUT, START + CUT + 1))
                clock.run("refresh", (START + CUT + 1).key)
                if master:
                    clock.run("collect", (START + CUT + 1).key)
            assert state_of(settings).read() is not None
            assert not out_of_order(settings)
            by_engine[name] = sums_of(settings), [as_of(settings, START + h) for h in (6, 30, CUT, CUT + 1)]
    assert by_engine["spark"] == by_engine["duckdb"]
    assert len(by_engine["spark"][1][-1]) > 30


JOIN = """
import json, sys
import pyarrow as pa
from core.settings import load_settings
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
settings = load_settings(**json.loads(sys.argv[1]))
found = ClockFeatures(settings, EventStore(settings.events_dir)).historical(pa.table(json.loads(sys.argv[2])))
print(json.dumps([found.slots.to_pylist(), found.profiles.to_pylist()]))
"""


def test_feasts_spark_offline_store_joins_what_duckdb_joins(tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (make services)")
    var = tmp_path / "a [1]*{b,c}"  # a pattern, were it not a name
    settings = load_settings(var=var, source="test", window_days=WINDOW_DAYS, slot_minutes=SLOT_MINUTES)
    rows = sorted(
        ((n * 7) % 60, (n * 13) % 60, n % 3, ["rock", "jazz", None][n % 3], [100, 3][n % 2]) for n in range(90)
    )
    ingest_rows(tmp_path, settings, rows, 0, (START, START + CUT))
    ClockState(settings, EventStore(settings.events_dir)).rebuild(START + CUT)
    hours = [(START + h).number for h in (6, 30, CUT)]
    keys = {"user_id": [1, 2, 3, 99] * 3, "hour": [hour for hour in hours for _ in range(4)]}
    options = {"var": str(var), "source": "test", "window_days": WINDOW_DAYS, "slot_minutes": SLOT_MINUTES}
    joined = {}
    for store in ("duckdb", "spark"):
        settings_json = json.dumps(
            {**options, "offline_store": store, "spark_master": "local[1]", "spark_partitions": 1}
        )
        done = subprocess.run(
            [sys.executable, "-c", JOIN, settings_json, json.dumps(keys)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        joined[store] = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(joined["duckdb"][0]) > 20
    assert joined["spark"] == joined["duckdb"]


PLANS = """
import json, sys
from core.engine import engine
from core.settings import load_settings
with engine(load_settings(**json.loads(sys.argv[1]))) as running:
    running.table("part", "SELECT id % 100 AS user_id, id % 24 AS slot, id % 7 AS value FROM range(5000)", by=("user_id",))
    running.table("sums", "SELECT user_id, slot, value, count(*) AS n FROM part GROUP BY user_id, slot, value")
    top = "SELECT user_id, slot, max_by(value, n, 3) AS best FROM sums GROUP BY user_id, slot"
    rows = f"SELECT s.*, t.best FROM sums s LEFT JOIN ({top}) t ON t.user_id = s.user_id AND t.slot = s.slot SORT BY s.user_id"
    spread = "SELECT slot, count(*) AS n FROM sums GROUP BY slot"
    plans = [running.rows(f"EXPLAIN {sql}")[0][0] for sql in (rows, spread)]
    print(json.dumps([plans, running.scalar(f"SELECT count(*) FROM ({rows}) r")]))
"""


def test_what_lies_by_user_is_grouped_and_joined_where_it_lies(tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (make services)")
    (tmp_path / "spark-defaults.conf").write_text(
        f"{FEW_ROWS}spark.sql.autoBroadcastJoinThreshold -1\nspark.sql.adaptive.autoBroadcastJoinThreshold -1\n"
    )
    options = {"var": str(tmp_path), "engine": "spark", "spark_master": "local[1]", "spark_partitions": 2}
    done = subprocess.run(
        [sys.executable, "-c", PLANS, json.dumps(options)], cwd=ROOT, env={**os.environ, "SPARK_CONF_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (rows, spread), count = json.loads(done.stdout.strip().splitlines()[-1])
    assert "Join" in rows
    assert "Exchange" not in rows
    assert "Exchange" in spread  # a plan that moves rows says so
    assert count == 100 * 6 * 7
