"""What is old goes, and nothing that is still read changes by it."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from core.errors import ConfigError, DataError
from core.files import write_parquet
from core.hours import Hour
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.retrieval import ClockFeatures
from feature_repo.served import served_hours, write_part
from operations.airflow_records import retire_records
from operations.services import airflow_home, migrate_airflow
from pipeline.retention import retire_state
from training.samples import SampleStore
from training.trainer import prediction_file

pytestmark = pytest.mark.slow

KEPT_DAYS = 3
HOURLY = 78
"""Hours that were refreshed one by one, after a first of all before them."""


def test_old_state_goes_and_what_is_still_read_stays_the_same(app_settings: Settings, tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="simulator", window_days=1, keep_days=KEPT_DAYS)
    settings.workspace.mkdir()
    (settings.workspace / "events").symlink_to(app_settings.events_dir)
    store = EventStore(settings.events_dir)
    hours, end = store.hours(), store.hours()[-1]
    clock, cutoff = ClockState(settings, store), end - 24 * KEPT_DAYS
    clock.rebuild(end - HOURLY)
    for n in range(HOURLY):
        clock.refresh(end - HOURLY + n + 1)
    SampleStore(settings, store).build(hours[:-1])
    for hour in (hours[0], cutoff, hours[-2]):
        write_part(settings, hour, "requests", pa.table({"request_id": ["r"]}), "one")
        write_parquet(prediction_file(settings, "none", hour), pa.table({"score": [0.5]}))
    write_parquet(prediction_file(settings, "version=1", hours[0]), pa.table({"score": [0.5]}))

    for name, last in (
        ("ended", cutoff.day - timedelta(days=2)),
        ("runs", cutoff.day),
        ("wrong", None),
        ("gone", None),
    ):
        settings.experiments_dir.mkdir(exist_ok=True)
        (settings.experiment_days_dir / name).mkdir(parents=True)
        if name != "gone":
            first = hours[0].day - timedelta(days=30)
            text = f"name: {name}\nvariants: {{a: 1, b: 1}}\ncontrol: a\nstart: {first}\nend: {last}\n"
            (settings.experiments_dir / f"{name}.yaml").write_text("name: [" if last is None else text)

    removed = retire_state(settings)

    samples = len([hour for hour in hours if hour < cutoff])
    assert removed == {"samples": samples, "predictions": 2, "served": 1, "states": 0, "changes": 0, "experiments": 2}
    assert {path.name for path in settings.experiment_days_dir.iterdir()} == {"runs", "wrong"}
    assert [path.name for path in served_hours(settings)] == [f"hour={h.key}" for h in (cutoff, hours[-2])]
    assert {path.name for path in (settings.training_dir / "predictions").iterdir()} == {"variant=none"}
    assert store.hours() == hours
    assert set(retire_state(settings).values()) == {0}
    assert not retire_state(load_settings(**{**settings.model_dump(include=settings.model_fields_set), "keep_days": 0}))

    features, cutoff = ClockFeatures(settings, store), end - 2
    users = pa.chunked_array([store.read(hour)["user_id"].combine_chunks() for hour in hours]).unique()

    def asked(hour: Hour) -> pa.Table:
        return pa.table({"user_id": users, "hour": pa.array([hour.number] * len(users))})

    before = [features.historical(asked(hour)) for hour in (cutoff, end)]
    latest = pa.concat_tables(features.latest("clock_slots", end)).to_pylist()
    assert clock.retire(cutoff) > 0
    after = [features.historical(asked(hour)) for hour in (cutoff, end)]
    assert before[0].slots.num_rows
    assert [(f.slots, f.profiles) for f in after] == [(f.slots, f.profiles) for f in before]
    still = pa.concat_tables(features.latest("clock_slots", end)).to_pylist()
    assert [row for row in latest if row["events"]] == [row for row in still if row["events"]]
    with pytest.raises(DataError, match=f"the change logs begin at {cutoff}"):
        features.historical(asked(cutoff - 1))
    assert clock.retire(cutoff) == 0


def test_too_few_days_are_refused() -> None:
    with pytest.raises(ConfigError, match="32 days"):
        load_settings(keep_days=20)


@pytest.mark.slow
def test_old_logs_and_run_records_go_and_the_audit_log_stays(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="simulator")
    migrate_airflow(settings)
    now, home = datetime.now(UTC), airflow_home(settings)
    old, new = now - timedelta(days=400), now - timedelta(days=3)
    runs = home / "logs" / "dag_id=ingest_hour"
    for name, moment in (("old/ingest/attempt=1.log", old), ("new/ingest/attempt=1.log", new)):
        path = runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a line")
        os.utime(path, (moment.timestamp(), moment.timestamp()))
    database = sqlite3.connect(home / "airflow.db")
    with database:
        for moment in (old, new):
            text = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
            database.execute("INSERT INTO job (state, latest_heartbeat) VALUES ('success', ?)", (text,))
            database.execute("INSERT INTO log (dttm, event) VALUES (?, 'promote')", (text,))
    sound = (home / "airflow.db").rename(home / "sound.db")
    (home / "airflow.db").write_bytes(b"no database" * 1000)
    assert retire_records(settings, now) == 0, (
        "Airflow's command failed: the files stay, so that the next day tries again"
    )
    sound.replace(home / "airflow.db")
    assert retire_records(settings, now) == 1
    assert [p.relative_to(runs).as_posix() for p in sorted(runs.rglob("*"))] == [
        "new", "new/ingest", "new/ingest/attempt=1.log",
    ], "of old runs no folders stay either"  # fmt: skip
    assert database.execute("SELECT count(*) FROM job").fetchone() == (1,)
    assert database.execute("SELECT count(*) FROM log WHERE event = 'promote'").fetchone() == (2,)
    assert retire_records(settings, now) == 0
