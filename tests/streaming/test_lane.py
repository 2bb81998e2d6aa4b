"""The lane: rows that are appended to the log reach the online features, and the hour's exact state takes their place."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from core.errors import ConfigError, DataError, NotReadyError
from core.settings import Settings, load_settings
from events.ids import id_files, id_path, log_ids, platform_ids, read_ids
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures, Features
from feature_repo.running import running_events
from operations.doctor import examine
from operations.health import check
from operations.metrics import WorkspaceCollector
from pipeline.forgetting import forget
from pipeline.source import Source, ingest_hour, save_source
from streaming import lane as lane_module
from streaming.lane import Lane, follow
from streaming.status import LaneStatus, status_file
from tests import forked
from tests.conftest import TINY, copy_var, place_tracking_store

UNTIL = TINY.first_hour + 60


@pytest.fixture(scope="module")
def before(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace whose log ends at ``UNTIL``, with clocks; the hour's own rows are in ``rows.csv`` beside the log."""
    settings = load_settings(var=tmp_path_factory.mktemp("lane") / "var", source="simulator")
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    events = EventStore(settings.events_dir)
    for hour in events.hours():
        if hour >= UNTIL:
            shutil.rmtree(events.partition(hour))
    advance(settings, UNTIL)
    app = app_settings.workspace / "app"
    for name in ("items.csv", "exposures"):
        (settings.workspace / "app" / "log").mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (app / name).is_dir() else shutil.copy
        copy(app / name, settings.workspace / "app" / name)
    mapping = yaml.safe_load((app / "mapping.yaml").read_text()) | {"paths": ["log/{hour}.csv"]}
    (settings.workspace / "app" / "mapping.yaml").write_text(yaml.safe_dump(mapping, sort_keys=False))
    rows = gzip.decompress((app / "log" / f"{UNTIL.key}.csv.gz").read_bytes())
    (settings.workspace / "app" / "rows.csv").write_bytes(rows)
    return settings


@pytest.fixture
def workspace(before: Settings, tmp_path: Path) -> Settings:
    copy_var(before.var, tmp_path / "var")
    settings = load_settings(var=tmp_path / "var", source="simulator")
    save_source(settings, Source(str(settings.workspace / "app" / "mapping.yaml")))
    return settings


def log_file(settings: Settings) -> Path:
    return settings.workspace / "app" / "log" / f"{UNTIL.key}.csv"


def rows_of_hour(settings: Settings) -> list[bytes]:
    """Header and rows of the hour that runs."""
    return (settings.workspace / "app" / "rows.csv").read_bytes().splitlines(keepends=True)


def read_online(settings: Settings, users: list[int] | None = None) -> Features:
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    return features.online(users or all_users(features), features.clock.require_state().as_of)


def all_users(features: ClockFeatures) -> list[int]:
    """Everybody who has an id, also who comes first in the hour that runs."""
    return read_ids(id_files(id_path(features.events.root, "user")))["id"].to_pylist()


def both_sides_are_equal(settings: Settings) -> None:
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    users, at = all_users(features), features.clock.require_state().as_of
    keys = pa.table({"user_id": users, "hour": [at.number] * len(users)})
    online, offline = features.online(users, at), features.historical(keys)
    assert online.slots.equals(offline.slots.select(online.slots.column_names))
    assert online.profiles.equals(offline.profiles.select(online.profiles.column_names))
    assert online.history.equals(offline.history)


def events_in(features: Features) -> int:
    return int(pc.sum(features.profiles["events"]).as_py())


@pytest.mark.slow
def test_rows_are_online_when_they_are_whole_and_the_hour_takes_their_place(workspace: Settings) -> None:
    lane, (header, *rows) = Lane(workspace), rows_of_hour(workspace)
    assert not lane.step()  # the file is not there yet
    at_first, file = read_online(workspace), log_file(workspace)
    third = len(rows) // 3
    file.write_bytes(header + b"".join(rows[:third]) + rows[third][:10])
    assert lane.step()
    some = LaneStatus.read(workspace)
    assert third * 0.8 < some.events <= third  # but for late rows and damaged ones
    assert events_in(read_online(workspace)) == events_in(at_first) + some.events
    assert not lane.step()
    with file.open("ab") as stream:
        stream.write(rows[third][10:] + b"".join(rows[third + 1 :]))
    assert lane.step()
    whole = LaneStatus.read(workspace)
    assert len(rows) * 0.8 < whole.events <= len(rows)
    shown = read_online(workspace)
    assert events_in(shown) == events_in(at_first) + whole.events
    ingest_hour(workspace, UNTIL)
    advance(workspace, UNTIL + 1)
    exact, late = read_online(workspace), late_users(workspace)
    for name, left_out in (("slots", ["as_of", "hour"]), ("profiles", ["as_of", "hour"]), ("history", ["hour"])):
        known, refreshed = (
            f.filter(pc.invert(pc.is_in(f["user_id"], pa.array(late)))).drop_columns(left_out)
            for f in (getattr(shown, name), getattr(exact, name))
        )
        assert known.equals(refreshed)
    assert not lane.step()
    assert LaneStatus.read(workspace).as_of == (UNTIL + 1).key
    both_sides_are_equal(workspace)


def late_users(settings: Settings) -> list[int]:
    """Who has a row of an earlier hour in the file of the hour that runs."""
    rows = pd.read_csv(settings.workspace / "app" / "rows.csv", dtype=str)
    moments = pd.to_numeric(rows["ts_ms"], errors="coerce")
    keys = rows["uid"][moments < UNTIL.start.timestamp() * 1000].dropna().unique().tolist()
    return platform_ids(settings.events_dir, "user", keys)


@pytest.mark.slow
def test_what_the_hour_does_not_have_in_the_end_is_taken_back(workspace: Settings) -> None:
    """Rows that disappear, a lane that is killed, an hour that is refreshed in the middle: the exact state wins."""
    header, *rows = rows_of_hour(workspace)
    at_first = read_online(workspace)
    log_file(workspace).write_bytes(header + b"".join(rows))
    lane = Lane(workspace)
    assert lane.step()
    notes = [*workspace.streaming_dir.glob("users-*.txt")]
    assert [note.name for note in notes] == [f"users-{UNTIL.key}.txt"]
    killed = lane.running_hour.rows(EventStore(running_events(workspace)).read(UNTIL))
    log_file(workspace).write_bytes(header + rows[0])  # written again, with one row
    with pytest.raises(DataError, match="cut off or written again"):
        lane.step()
    assert lane.step()
    assert lane.status.events == 1
    assert events_in(read_online(workspace)) == events_in(at_first) + 1  # nothing of the rows that are gone
    ingest_hour(workspace, UNTIL)
    advance(workspace, UNTIL + 1)
    lane.running_hour.write(killed)  # what a lane does that has not seen the refresh
    again = Lane(workspace)
    again.step()
    assert not [*workspace.streaming_dir.glob("users-*.txt")]
    both_sides_are_equal(workspace)


@pytest.mark.slow
def test_a_lane_that_begins_again_within_the_hour_goes_on(workspace: Settings) -> None:
    header, *rows = rows_of_hour(workspace)
    log_file(workspace).write_bytes(header + b"".join(rows[:10]))
    assert Lane(workspace).step()
    shown = read_online(workspace)
    lane = Lane(workspace)
    assert lane.step()
    assert lane.status.events == LaneStatus.read(workspace).events > 0
    same = read_online(workspace)
    assert (same.slots, same.profiles, same.history) == (shown.slots, shown.profiles, shown.history)
    assert not lane.step()


@pytest.mark.slow
def test_who_is_forgotten_within_the_hour_is_in_nothing_of_the_lane(workspace: Settings) -> None:
    header, *rows = rows_of_hour(workspace)
    log_file(workspace).write_bytes(header + b"".join(rows))
    lane = Lane(workspace)
    assert lane.step()
    store = EventStore(running_events(workspace))
    user = store.read(UNTIL)["user_id"][0].as_py()
    key = log_ids(workspace.events_dir, "user", [user])[user]
    forget(workspace, [key])
    assert lane.step()
    assert user not in store.read(UNTIL)["user_id"].to_pylist()
    assert store.read(UNTIL).num_rows
    assert not read_online(workspace, [user]).slots.num_rows
    held = [p for p in workspace.streaming_dir.rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert not held
    assert str(user) not in (workspace.streaming_dir / f"users-{UNTIL.key}.txt").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paths", "file"),
    [
        ("log", "log/all.csv"),
        ("log/{hour}/*.csv", f"log/{UNTIL.key}/app-1.csv"),
        ("log/{hour:%Y%m%d}.csv", f"log/{UNTIL.day:%Y%m%d}.csv"),
    ],
)
def test_logs_in_folders_and_of_days_are_followed_too(workspace: Settings, paths: str, file: str) -> None:
    """A folder of files that grow, several writers' files of an hour, and a file a day."""
    app = workspace.workspace / "app"
    mapping = (app / "mapping.yaml").read_text()
    (app / "mapping.yaml").write_text(mapping.replace("log/{hour}.csv", paths))
    header, *rows = rows_of_hour(workspace)
    path = app / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(header)
    lane = Lane(workspace)
    assert not lane.step()
    path.write_bytes(header + b"".join(rows[:8]))
    assert lane.step()
    assert lane.status.events > 3


@pytest.mark.slow
def test_rows_that_a_store_did_not_take_are_written_with_the_next_look(workspace: Settings) -> None:
    header, *rows = rows_of_hour(workspace)
    at_first = read_online(workspace)
    log_file(workspace).write_bytes(header + b"".join(rows[:9]))
    lane = Lane(workspace)
    with closing(sqlite3.connect(workspace.workspace / "feast" / "online.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            lane.step()
    assert not lane.step()  # nothing came meanwhile
    assert events_in(read_online(workspace)) == events_in(at_first) + lane.status.events > events_in(at_first)


def test_what_cannot_be_followed_is_said(workspace: Settings) -> None:
    app = workspace.workspace / "app"
    with pytest.raises(NotReadyError, match="clock stream follow"):
        LaneStatus.read(workspace)
    mapping = (app / "mapping.yaml").read_text()
    (app / "mapping.yaml").write_text(
        mapping.replace("{hour}.csv", "{hour}.parquet").replace("format: csv", "format: parquet")
    )
    with pytest.raises(ConfigError, match="only CSV and JSON lines"):
        Lane(workspace)
    (app / "mapping.yaml").write_text(mapping.replace("log/{hour}.csv", "s3://bucket/log/{hour}.csv"))
    with pytest.raises(ConfigError, match=r"s3://bucket/log/\{hour\}\.csv cannot be followed"):
        Lane(workspace)
    (app / "mapping.yaml").write_text(mapping.replace("mood: mood", "feeling: mood"))
    with pytest.raises(DataError, match="other facets"):
        Lane(workspace)
    (app / "mapping.yaml").write_text(mapping)
    behind = load_settings(var=workspace.var, source="simulator", live=True)
    with pytest.raises(NotReadyError, match="have caught up"):
        Lane(behind)
    with lane_module.only_one(workspace), pytest.raises(NotReadyError, match="runs already"):
        follow(workspace)
    typo = load_settings(var=workspace.var, source="simulater")
    with pytest.raises(NotReadyError, match="there is no workspace"):
        follow(typo)
    assert not typo.workspace.exists()


@pytest.mark.slow
def test_the_command_follows_until_it_is_stopped(workspace: Settings) -> None:
    header, *rows = rows_of_hour(workspace)
    environment = {**os.environ, "CLOCK_VAR": str(workspace.var), "CLOCK_STREAMING_SECONDS": "0.2"}
    command = [sys.executable, "-m", "clock", "stream", "follow"]
    clocks = workspace.features_dir.rename(workspace.workspace / "later")
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: "no clocks" in status_of(workspace).problem)  # started before the first hour
            clocks.rename(workspace.features_dir)
            log_file(workspace).write_bytes(header + rows[0])
            wait_until(lambda: status_of(workspace).events == 1)
            log_file(workspace).unlink()
            log_file(workspace).write_bytes(header)
            wait_until(lambda: "written again" in status_of(workspace).problem)
            log_file(workspace).write_bytes(header + rows[0] + rows[1])
            wait_until(lambda: status_of(workspace).events == 2 and not status_of(workspace).problem)
            check(workspace, "streaming")
            place_tracking_store(workspace)
            told_of = {m.name: m.samples[0].value for m in WorkspaceCollector(workspace).collect() if m.samples}
            assert told_of["clock_stream_events"] == 2
            assert time.time() - told_of["clock_stream_seen_seconds"] < 60
        finally:
            process.terminate()
        _, told = process.communicate(timeout=30)
    assert "following the log of 'simulator'" in told
    assert "Traceback" not in told
    shown = forked.run("clock", "stream", "status", environment=environment)
    assert json.loads(shown.stdout)["events"] == 2
    os.utime(status_file(workspace), (1, 1))
    with pytest.raises(NotReadyError, match="has not looked at the log"):
        check(workspace, "streaming")
    (finding,) = [finding for finding in examine(workspace) if finding.check == "streaming"]
    assert (finding.status, "has not looked at the log" in finding.detail) == ("warning", True)


def status_of(settings: Settings) -> LaneStatus:
    return LaneStatus.read(settings) if status_file(settings).exists() else LaneStatus("")


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_lane_and_training_on_what_was_served_refuse_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CLOCK_FEATURES_AS_SERVED=true does not go with the lane"):
        load_settings(var=tmp_path, streaming=True, features_as_served=True)
    with pytest.raises(ConfigError, match="sample's own outcome"):
        follow(load_settings(var=tmp_path, features_as_served=True))
