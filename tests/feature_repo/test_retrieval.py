"""Retrieval on the simulated app: no future, both sides equal, pushes, shrinkage, finer clocks, pages, the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from clock.commands.features import app as commands
from core import cli
from core.engine import local_engine
from core.errors import CorruptStateError, DataError, NotReadyError, PlatformError
from core.files import write_json, write_parquet
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ids import SCHEMA, log_ids, platform_ids
from events.schema import BEHAVIORS
from events.store import EventStore
from feature_repo import shrinkage
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization, advance
from feature_repo.retrieval import ClockFeatures
from feature_repo.running import RunningHour
from feature_repo.schemas import clock_schema
from feature_repo.shrinkage import Prior, Shrinkage, fit, shrink
from feature_repo.status import ViewStatus, feature_status
from operations.doctor import examine
from pages.clocks import clock_json, write_clock_page
from tests import forked
from tests.conftest import TINY

UNTIL = TINY.first_hour + 60


def workspace(app_settings: Settings, folder: Path, **options: object) -> Settings:
    settings = load_settings(var=folder / "var", source="simulator", **options)
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    return settings


@pytest.fixture(scope="module")
def ready(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = workspace(app_settings, tmp_path_factory.mktemp("clocks"))
    advance(settings, UNTIL)
    return settings


def features(settings: Settings) -> ClockFeatures:
    return ClockFeatures(settings, EventStore(settings.events_dir))


def users_of(settings: Settings) -> list[int]:
    store = EventStore(settings.events_dir)
    tables = [store.read(h)["user_id"] for h in store.hours() if h < UNTIL and store.manifest(h).rows]
    return sorted(pc.unique(pa.chunked_array([c for t in tables for c in t.chunks])).to_pylist())


def keys(users: list[int], hour: Hour) -> pa.Table:
    return pa.table({"user_id": pa.array(users, pa.int64()), "hour": pa.array([hour.number] * len(users), pa.int64())})


def both_sides_are_equal(settings: Settings) -> pa.Table:
    clock_features, users = features(settings), users_of(settings)
    online = clock_features.get_clock(users, UNTIL)
    offline = clock_features.historical(keys(users, UNTIL)).slots.select(online.column_names)
    assert online.equals(offline)
    return online


@pytest.mark.slow
def test_offline_and_online_are_equal_for_every_user(ready: Settings) -> None:
    clocks = both_sides_are_equal(ready)
    assert clocks.num_rows > 100
    clock_features = features(ready)
    users = users_of(ready)
    assert clock_features.online(users, UNTIL).profiles.equals(
        clock_features.historical(keys(users, UNTIL)).profiles.select(
            clock_features.online(users, UNTIL).profiles.column_names
        )
    )


@pytest.mark.slow
def test_no_value_comes_from_after_the_start_of_the_sample_s_hour(ready: Settings, tmp_path: Path) -> None:
    """The features of an hour are the same when everything from that hour on never happened."""
    hour = TINY.first_hour + 40
    settings = load_settings(var=tmp_path / "var", source="simulator")
    shutil.copytree(ready.events_dir, settings.events_dir)
    for later in EventStore(settings.events_dir).hours():
        if later >= hour:
            shutil.rmtree(EventStore(settings.events_dir).partition(later))
    advance(settings, hour)
    users = users_of(ready)
    then, now = features(settings).historical(keys(users, hour)), features(ready).historical(keys(users, hour))
    assert then.slots.num_rows > 100
    assert then.slots.equals(now.slots)
    assert then.profiles.equals(now.profiles)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"slot_minutes": 30}, {"slot_minutes": 120, "split_weekend": True}])
def test_finer_clocks_and_weekend_clocks_are_equal_on_both_sides(
    app_settings: Settings, tmp_path: Path, options: dict[str, object]
) -> None:
    settings = workspace(app_settings, tmp_path, **options)
    advance(settings, UNTIL - 2)
    for n in (1, 0):
        advance(settings, UNTIL - n)  # refreshed, not rebuilt
    clocks = both_sides_are_equal(settings)
    slots = set(clocks["slot"].to_pylist())
    assert max(slots) < settings.slots
    assert len(slots) > (24 if "split_weekend" not in options else 6)
    fresh = workspace(app_settings, tmp_path / "again", **options)
    advance(fresh, UNTIL)
    assert both_sides_are_equal(fresh).drop_columns("as_of").equals(clocks.drop_columns("as_of"))


@pytest.mark.slow
def test_a_snapshot_without_history_says_the_same_and_is_refreshed_alike(ready: Settings, tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    shutil.copytree(ready.events_dir, settings.events_dir)
    clock = ClockState(settings, EventStore(settings.events_dir))
    midnight = TINY.first_hour + 48
    hour = midnight + 2
    clock.rebuild(midnight - 2, history=False)
    Materialization(features(settings)).materialize_all(midnight - 2)
    advance(settings, hour)
    whole, snapshot = features(ready), features(settings)
    users = users_of(ready)
    for view in ("clock_slots", "user_activity", "population_clock", "item_stats"):
        rows = [
            {tuple(r[k] for k in f.clock.logs[view].keys): r for t in f.latest(view, hour) for r in t.to_pylist()}
            for f in (whole, snapshot)
        ]
        for r in rows:
            for row in r.values():
                row.pop("as_of"), row.pop("event_timestamp")
        alive = [{k: v for k, v in r.items() if v["events"]} for r in rows]
        assert alive[0] == alive[1], view
    online = snapshot.get_clock(users, hour).drop_columns("as_of")
    assert online.equals(whole.historical(keys(users, hour)).slots.select(online.column_names))


@pytest.mark.slow
def test_the_running_hour_shows_at_once_and_its_refresh_writes_the_same(ready: Settings, tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    shutil.copytree(ready.workspace, settings.workspace)
    clock_features = features(settings)
    hour = next(
        h for h in EventStore(settings.events_dir).hours() if h >= UNTIL and clock_features.events.manifest(h).rows > 20
    )
    advance(settings, hour)
    events = clock_features.events.read(hour)
    users = [*pc.unique(events["user_id"]).to_pylist(), 10_000]
    before = clock_features.online(users, hour)
    running_hour = RunningHour(clock_features)
    events = pa.concat_tables([events, one_event_of(10_000, events)])  # of somebody whom the log has never seen
    rows = running_hour.rows(events)
    assert running_hour.write(rows) > 0
    shown = clock_features.online(users, hour)
    assert not shown.slots.equals(before.slots)
    assert 10_000 in shown.slots["user_id"].to_pylist()
    assert shown.history.num_rows > 1
    assert not shown.history.equals(before.history)
    running_hour.write(running_hour.rows(events))
    again = clock_features.online(users, hour)
    assert (again.slots, again.profiles, again.history) == (shown.slots, shown.profiles, shown.history)
    assert running_hour.restore(users) == hour
    restored = clock_features.online(users, hour)
    assert restored.slots.equals(before.slots)
    assert restored.profiles.equals(before.profiles)
    assert restored.history.equals(before.history)
    running_hour.write(rows)
    advance(settings, hour + 1)
    refreshed = clock_features.online(users[:-1], hour + 1)
    known = [pc.is_in(t["user_id"], pa.array(users[:-1])) for t in (shown.slots, shown.profiles, shown.history)]
    plain = ["user_id", "slot", "genre_values", "genre_scores", "events"]
    assert shown.slots.filter(known[0]).select(plain).equals(refreshed.slots.select(plain))
    assert (
        shown.profiles.filter(known[1])
        .drop_columns(["as_of", "hour"])
        .equals(refreshed.profiles.drop_columns(["as_of", "hour"]))
    )
    assert shown.history.filter(known[2]).drop_columns("hour").equals(refreshed.history.drop_columns("hour"))
    with pytest.raises(DataError, match="lie before"):
        running_hour.rows(events)


def one_event_of(user: int, events: pa.Table) -> pa.Table:
    """A finished item of another user, told of this one."""
    row = events.filter(pc.equal(events["finish"], True)).slice(0, 1).to_pylist()[0]
    return pa.Table.from_pylist([{**row, "user_id": user, "event_id": "one"}], schema=events.schema)


def online_rows(settings: Settings) -> dict[str, int]:
    """Rows of each view's table in the online store."""
    with closing(sqlite3.connect(settings.workspace / "feast" / "online.db")) as online:
        tables = [name for (name,) in online.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            t.removeprefix("simulator_"): online.execute(f'SELECT count(*) FROM "{t}"').fetchone()[0] for t in tables
        }


@pytest.mark.slow
def test_what_nothing_reads_online_is_not_written_there(app_settings: Settings, tmp_path: Path) -> None:
    settings = workspace(app_settings, tmp_path)
    advance(settings, UNTIL)
    rows = online_rows(settings)
    assert rows["clock"] > 0 < rows["user_activity"]
    assert not rows.get("item_stats")
    assert not rows.get("user_profile")


@pytest.mark.slow
def test_damaged_sums_are_detected_and_a_rebuild_repairs_them(ready: Settings, tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    shutil.copytree(ready.workspace, settings.workspace)
    clock = ClockState(settings, EventStore(settings.events_dir))
    for file in clock.sums_folder.rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    assert {f.check: f.status for f in examine(settings)}["sums"] == "failed"
    with pytest.raises(CorruptStateError, match="clock features rebuild"):
        advance(settings, UNTIL + 1)
    clock.rebuild(UNTIL)
    assert {f.check: f.status for f in examine(settings)}["sums"] == "ok"
    assert advance(settings, UNTIL + 1).refreshed == 1


@pytest.mark.slow
def test_the_priors_are_fitted_and_give_a_new_user_everybody_s_clock(app_settings: Settings, tmp_path: Path) -> None:
    settings = workspace(app_settings, tmp_path, shrinkage=True)
    plain = load_settings(var=settings.var, source="simulator")
    advance(plain, UNTIL)
    assert feature_status(features(settings)).views["user_profile"] == ViewStatus(None, rows=0, entities=0)
    with pytest.raises(NotReadyError, match="clock features rebuild"):
        features(settings).get_clock([1], UNTIL)
    assert advance(settings, UNTIL).rebuilt
    with pytest.raises(NotReadyError, match="clock features fit"):
        features(settings).get_clock([1], UNTIL)
    fitted = fit(settings)
    assert all(prior.gain >= 0 and prior.events > 50 for prior in fitted.priors.values())
    assert fitted.priors["genre"].gain > 0.1
    assert online_rows(settings)["user_profile"] > 10
    nobody = 10**9
    clock = features(settings).get_clock([nobody], UNTIL)
    everyone = features(settings).population(UNTIL)
    shown = [any(row[f"{f}_values"] for f in features(settings).facets) for row in everyone.to_pylist()]
    everyone = everyone.filter(pa.array(shown))  # slots where somebody liked something
    assert clock["slot"].to_pylist() == everyone["slot"].to_pylist()
    assert clock["genre_values"].to_pylist() == _by_rate(everyone)
    assert clock["events"].to_pylist() == [0] * clock.num_rows
    users = users_of(settings)
    shrunk, bare = features(settings).get_clock(users, UNTIL), features(plain).get_clock(users, UNTIL)
    assert shrunk.num_rows > bare.num_rows
    offline = features(settings).historical(keys([*users, nobody], UNTIL)).slots
    online = features(settings).get_clock([*users, nobody], UNTIL)
    assert offline.select(online.column_names).equals(online)
    thin = next(row["user_id"] for row in shrunk.to_pylist() if row["as_of"] is None)
    assert None in {row["as_of"] for row in clock_json(features(settings), [thin], UNTIL)}
    assert "borrowed" in write_clock_page(features(settings), thin).read_text()
    assert not advance(plain, UNTIL + 1).rebuilt  # what has whole days serves who wants none, and keeps none of them
    assert not (plain.features_dir / "user_profile").exists()


def _by_rate(everyone: pa.Table) -> list[list[str]]:
    return [
        [v for _, v in sorted(zip((-s for s in row["genre_scores"]), row["genre_values"], strict=True))]
        for row in everyone.to_pylist()
    ]


def test_of_more_events_than_are_fitted_on_all_kinds_have_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, draws, slots, values = load_settings(var=tmp_path), np.random.default_rng(3), 4, 6
    everyone = draws.dirichlet(np.full(values, 5.0), slots)

    def events(user: int, slot: int, chances: np.ndarray, count: int) -> pa.Table:
        genres = pa.array([f"g{n}" for n in draws.choice(values, count, p=chances)])
        numbers = {"user_id": pa.array(np.full(count, user)), "slot": pa.array(np.full(count, slot))}
        liked = {b: pa.array(np.full(count, b == "finish")) for b in BEHAVIORS}
        return pa.table({**numbers, "genre": genres, **liked})

    sides: dict[str, list[pa.Table]] = {"before": [], "held_out": []}
    for user in range(500):
        whole_day = draws.dirichlet(8 * everyone.mean(axis=0))
        for slot, often in enumerate(draws.integers(1, 60, slots)):
            chances = draws.dirichlet(5 * whole_day)
            sides["before"].append(events(user, slot, chances, int(often)))
            sides["held_out"].append(events(user, slot, chances, 1 + int(often) // 10))
    fitted = []
    for most in (shrinkage.MOST_GROUPS, 1000):
        monkeypatch.setattr(shrinkage, "MOST_GROUPS", most)
        with local_engine(settings) as running:
            for name, tables in sides.items():
                running.register(name, pa.concat_tables(tables))
            fitted.append(shrinkage._fit_facet(running, settings, "genre"))
    whole, some = fitted
    assert some.events < whole.events / 3
    assert some.day == pytest.approx(whole.day, rel=0.2)
    assert some.gain == pytest.approx(whole.gain, rel=0.2)


def test_a_thin_slot_borrows_and_a_full_one_does_not() -> None:
    def row(values: list[str], scores: list[float], events: int) -> dict[str, list[object]]:
        return {
            "genre_values": [values],
            "genre_scores": [scores],
            "genre_counts": [[1] * len(values)],
            "events": [events],
        }

    at = {"user_id": [1], "hour": [5]}
    day = pa.table({**at, **row(["rock"], [80.0], 100)})
    everyone = pa.table({"hour": [5], "slot": [8], **row(["soul"], [900.0], 1000)})
    fitted = Shrinkage("", 3, {"genre": Prior(day=5, population=5, gain=0, events=0)})
    for events, first in ((1, "rock"), (1000, "jazz")):
        slots = pa.table({**at, "slot": [8], **row(["jazz"], [0.9 * events], events), "as_of": [4]})
        shrunk = shrink(fitted, pa.table(at), slots, day, everyone).to_pylist()[0]
        assert shrunk["genre_values"][0] == first
        expected = {"jazz": 0.9 * events, "rock": 5 * 80 / 105, "soul": 5 * 5 * 0.9 / 105}
        assert dict(zip(shrunk["genre_values"], shrunk["genre_scores"], strict=True)) == pytest.approx(expected)


def test_a_day_full_of_what_its_user_did_not_like_borrows_little() -> None:
    def row(values: list[str], scores: list[float], events: int) -> dict[str, list[object]]:
        counts = [1] * len(values)
        lists = {"values": values, "scores": scores, "counts": counts}
        types = clock_schema(["genre"])
        columns = {
            name: pa.array([each], types.field(name).type) for n, each in lists.items() if (name := f"genre_{n}")
        }
        return {**columns, "events": [events]}

    at = {"user_id": [1], "hour": [5]}
    everyone = pa.table({"hour": [5], "slot": [8], **row(["soul"], [900.0], 1000)})
    fitted = Shrinkage("", 3, {"genre": Prior(day=5, population=5, gain=0, events=0)})
    slots = pa.table({**at, "slot": [8], **row(["jazz"], [2.0], 9), "as_of": [4]})
    for disliked in (1, 95):
        day = pa.table({**at, **row([], [], disliked)})
        (shrunk,) = shrink(fitted, pa.table(at), slots, day, everyone).to_pylist()
        scores = dict(zip(shrunk["genre_values"], shrunk["genre_scores"], strict=True))
        assert scores == pytest.approx({"jazz": 2.0, "soul": 5 * 5 * 0.9 / (disliked + 5)})


@pytest.mark.slow
def test_pages_draw_a_user_and_everybody(ready: Settings) -> None:
    clock_features = features(ready)
    user = clock_features.most_active(1)[0]
    for who in (user, None):
        text = write_clock_page(clock_features, who, "21:15").read_text()
        assert "At <strong data-moment>21:15</strong> the ranker sees" in text
    with pytest.raises(NotReadyError, match="has no event"):
        write_clock_page(clock_features, 10**9)


@pytest.mark.slow
def test_pages_and_commands_call_a_user_as_the_log_does(
    ready: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    shutil.copytree(ready.workspace, settings.workspace)
    source = features(settings)
    first, second = source.most_active(2)
    names = pa.table({"key": ["Ann-7f", "Bob-3c"], "id": [first, second]}, schema=SCHEMA)
    write_parquet(settings.events_dir / "_ids" / "user.parquet", names)
    write_json(settings.events_dir / "_ids" / "kinds.json", {"user": "string", "item": "int"})
    text = write_clock_page(source, second).read_text()
    assert "Interest clock of user Bob-3c" in text
    assert f"user {second}" not in text
    assert platform_ids(settings.events_dir, "user", ["Bob-3c", "Ann-7f"]) == [second, first]
    monkeypatch.setenv("CLOCK_VAR", str(settings.var))
    printed = []
    for arguments in (
        ("page", "Bob-3c"),
        ("page", "--key", str(second)),
        ("clock", "Bob-3c"),
        ("clock", "--key", str(second)),
    ):
        cli.call(commands, ["--source", "simulator", *arguments])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[2] == printed[3]
    clock = json.loads(printed[2])
    assert {(row["user"], row["user_id"]) for row in clock} == {("Bob-3c", second)}
    for arguments, message in (
        (
            ("clock", str(second)),
            f"no user '{second}' in the log; give a user's id as it stands in the log, for example 'Ann-7f'",
        ),
        (("page", "Bob-3d"), "did you mean 'Bob-3c'"),
        (("clock", "Bob-3c", "--key"), "with --key give the platform's own number"),
        (("page", "--key", "999999999"), "has no event in the 30 days before"),
        (("clock", "--key", "999999999"), "one that has is Ann-7f"),
    ):
        with pytest.raises(PlatformError, match=re.escape(message)):
            cli.call(commands, ["--source", "simulator", *arguments])
    assert log_ids(settings.events_dir, "user", [second, 10**9]) == {second: "Bob-3c", 10**9: str(10**9)}


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOCK_VAR": str(settings.var)}
    return forked.run("feature_repo", "--source", "simulator", *arguments, environment=environment)


@pytest.mark.slow
def test_the_command_line_shows_clocks_and_names_wrong_input(ready: Settings) -> None:
    user = features(ready).most_active(1)[0]
    key = log_ids(ready.events_dir, "user", [user])[user]
    clock = json.loads(command(ready, "clock", key).stdout)
    assert (clock[0]["user"], clock[0]["user_id"]) == (key, user)
    status = json.loads(command(ready, "status").stdout)
    assert status["as_of"] == UNTIL.key
    assert status["views"]["clock_slots"]["last_change"] <= UNTIL.key
    assert Path(command(ready, "page", "everyone").stdout.strip()).exists()
    for arguments, message in (
        (("page", "../x"), "no user '../x' in the log; give a user's id as it stands in the log, for example 'u"),
        (("page", key, "--time", "25:00"), "is not a local time"),
        (("clock", key, "--at", "yesterday"), "is not an hour"),
        (("rebuild", "2031-01-01T00"), "has not been ingested"),
    ):
        done = command(ready, *arguments)
        assert done.returncode in {2, 75}
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_the_asof_join_gives_what_feast_s_own_join_gives(ready: Settings, tmp_path: Path) -> None:
    """Hours before the log, inside it, and so late that every row outlived its TTL."""
    from feast import FeatureStore

    clock_features, users = features(ready), users_of(ready)
    config = yaml.safe_load((ready.workspace / "feast" / "feature_store.yaml").read_text())
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump({**config, "offline_store": {"type": "duckdb"}}))
    late = UNTIL.number + 24 * (ready.window_days + 3)
    frame = pd.DataFrame(
        [
            {"user_id": user, "slot": slot, "hour": hour}
            for user in [*users[:20], 10**9]
            for slot in (0, 9, 21)
            for hour in (TINY.first_hour.number - 5, TINY.first_hour.number + 30, UNTIL.number, late)
        ]
    )
    frame["event_timestamp"] = pd.to_datetime(frame["hour"] * 3600, unit="s", utc=True)
    names = [r for view in clock_features.references("training_set").values() for r in view if not r.endswith(":as_of")]
    names = [n for n in names if n != "user_activity:events"]  # of the same name in both views
    shown = ["user_id", "slot", "hour", *(name.split(":")[1] for name in names)]
    sides = [
        store.get_historical_features(entity_df=frame, features=names).to_arrow().select(shown)
        for store in (clock_features.store, FeatureStore(repo_path=str(tmp_path)))
    ]
    rows = [sorted(side.to_pylist(), key=lambda r: (r["user_id"], r["slot"], r["hour"])) for side in sides]
    assert rows[0] == rows[1]
    assert sum(row["genre_values"] is not None for row in rows[0]) > 10
    assert all(row["genre_values"] is None for row in rows[0] if row["hour"] in {late, TINY.first_hour.number - 5})


def test_ties_and_many_values_stay_within_the_top_k(ready: Settings) -> None:
    clocks = features(ready).get_clock(users_of(ready), UNTIL)
    for facet in features(ready).facets:
        scores = clocks[f"{facet}_scores"].to_pylist()
        assert max(map(len, scores)) <= ready.top_k
        assert all(np.all(np.diff(s) <= 0) for s in scores)
        assert all(s > 0 for row in scores for s in row)
