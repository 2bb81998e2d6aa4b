"""The online store holds every row of the clocks' hour again after whatever came between the two."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from core import duck
from core.duck_engine import DuckEngine
from core.files import write_json
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization, advance
from feature_repo.online_progress import OnlineProgress
from feature_repo.retrieval import ClockFeatures
from feature_repo.shrinkage import Prior, Shrinkage
from tests.conftest import NOW

START, HOURS = Hour.parse("2026-03-02T00"), 6
USERS = [1, 2, 3, 4]
MAPPING = """
source: test
format: csv
columns: {user_id: uid, item_id: iid}
facets: {genre: genre}
timestamp: {column: ts}
local_time: {zone: UTC}
behaviors: {finish: finish = 1}
"""
TABLE = "users: {path: users.csv, key: uid, attributes: {plan: plan}}\n"
DATED = "users: {path: users.csv, key: uid, since: {column: since}, attributes: {plan: plan}}\n"
Row = tuple[int, int, str]
"""Hour after ``START``, user, genre."""
EVERYBODY: list[Row] = [(hour, user, "rock" if user % 2 else "jazz") for hour in range(HOURS) for user in USERS]


def told(folder: Path, rows: list[Row], name: str = "log", mapping: str = MAPPING, **options: object) -> Settings:
    """Ingest rows into the workspace of a folder."""
    settings = load_settings(var=folder / "var", source="test", window_days=1, **options)
    (folder / "mapping.yaml").write_text(mapping)
    frame = pd.DataFrame(rows, columns=["hour", "uid", "genre"])
    frame["ts"] = [(START + hour).start + timedelta(minutes=n % 59) for n, hour in enumerate(frame.pop("hour"))]
    frame.assign(iid=frame["uid"] * 10, finish=1).to_csv(folder / f"{name}.csv", index=False)
    ingest(str(folder / "mapping.yaml"), [str(folder / f"{name}.csv")], settings, now=NOW)
    return settings


def features(settings: Settings) -> ClockFeatures:
    return ClockFeatures(settings, EventStore(settings.events_dir))


def is_whole(settings: Settings, hour: Hour) -> bool:
    """Whether clocks and activity online are those of the change logs, for everybody."""
    both = features(settings)
    asked = pa.table({"user_id": pa.array(USERS, pa.int64()), "hour": pa.array([hour.number] * len(USERS), pa.int64())})
    online, offline = both.online(USERS, hour), both.historical(asked)
    clocks = online.slots.drop_columns("as_of"), offline.slots.select(online.slots.column_names).drop_columns("as_of")
    return clocks[0].num_rows > 0 and clocks[0].equals(clocks[1]) and online.profiles.equals(
        offline.profiles.select(online.profiles.column_names)
    )  # fmt: skip


def test_late_events_change_whole_days_online_before_the_next_midnight(tmp_path: Path) -> None:
    rows = [
        (hour, user, "rock" if user % 2 else "jazz") for hour in range(40) for user in USERS if hour < 24 or user > 1
    ]
    settings = told(tmp_path, rows, shrinkage=True)
    fitted = Shrinkage("", settings.top_k, {"genre": Prior(day=5, population=5, gain=0, events=0)})
    write_json(Shrinkage.path(settings), asdict(fitted))
    advance(settings, START + 38)
    assert is_whole(settings, START + 38)
    before = features(settings).get_clock([1], START + 38)
    told(tmp_path, [(3, 1, "folk")] * 9, "late")
    for hour in (39, 40):
        advance(settings, START + hour)
        assert is_whole(settings, START + hour)
    assert "folk" not in before["genre_values"].combine_chunks().flatten().to_pylist()
    assert (
        "folk" in features(settings).get_clock([1], START + 40)["genre_values"].combine_chunks().flatten().to_pylist()
    )


def clock_of(settings: Settings) -> ClockState:
    return ClockState(settings, EventStore(settings.events_dir))


def test_a_rebuild_whose_rows_did_not_go_online_is_made_up_for(tmp_path: Path) -> None:
    settings = told(tmp_path, EVERYBODY[:-1])
    clock_of(settings).rebuild(START + HOURS)
    assert advance(settings, START + HOURS).online_rows > 0
    assert is_whole(settings, START + HOURS)
    told(tmp_path, [(HOURS, 1, "soul")], "more")
    clock_of(settings).rebuild(START + HOURS)  # with another state online, and an hour to go
    advance(settings, START + HOURS + 1)
    assert is_whole(settings, START + HOURS + 1)


def test_hours_that_did_not_go_online_are_made_up_for(tmp_path: Path) -> None:
    settings = told(tmp_path, EVERYBODY)
    advance(settings, START + 2)
    for hour in (3, 4):
        clock_of(settings).refresh(START + hour)
    online = settings.workspace / "feast" / "online.db"
    kept = online.rename(online.with_suffix(".away"))
    online.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        advance(settings, START + 5)
    online.rmdir()
    kept.rename(online)
    assert advance(settings, START + HOURS).refreshed == 2
    assert is_whole(settings, START + HOURS)


def test_late_events_that_did_not_go_online_are_made_up_for(tmp_path: Path) -> None:
    settings = told(tmp_path, EVERYBODY[:-4])
    at = START + HOURS - 1
    advance(settings, at)
    told(tmp_path, [(1, 4, "blues")], "late")
    Materialization(features(settings)).expect(at)
    clock_of(settings).refresh(at)
    assert not is_whole(settings, at)
    told(tmp_path, EVERYBODY[-4:-1], "next")
    advance(settings, at + 1)
    assert is_whole(settings, at + 1)


def test_nothing_is_written_twice_and_another_store_is_filled(tmp_path: Path) -> None:
    settings = told(tmp_path, EVERYBODY)
    whole = advance(settings, START + 3).online_rows
    assert advance(settings, START + 3).online_rows < whole  # the hour's rows again
    assert OnlineProgress(settings).as_of == START + 3
    elsewhere = load_settings(var=settings.var, source="test", window_days=1, online_store="redis")
    assert OnlineProgress(elsewhere).as_of is None
    shutil.rmtree(settings.workspace / "feast")
    advance(settings, START + 4)
    assert is_whole(settings, START + 4)


@pytest.mark.parametrize("lost", ["everything", "the last hour"])
def test_a_store_that_lost_rows_is_filled_again(tmp_path: Path, lost: str) -> None:
    settings = told(tmp_path, EVERYBODY)
    online = settings.workspace / "feast" / "online.db"
    advance(settings, START + 3)
    kept = shutil.copy(online, tmp_path / "kept.db")
    advance(settings, START + 4)
    if lost == "everything":
        with closing(sqlite3.connect(online)) as con, con:
            for (table,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                con.execute(f'DELETE FROM "{table}"')
    else:  # as a Redis that starts again from its last snapshot
        shutil.copy(kept, online)
    advance(settings, START + 5)
    assert is_whole(settings, START + 5)


def plans(settings: Settings, hour: Hour) -> list[str | None]:
    """What is online of the users' plans."""
    plan: list[str | None] = features(settings).online(USERS, hour).attributes["user_plan"].to_pylist()
    return plan


@pytest.mark.parametrize("dated", [False, True])
def test_attributes_that_change_are_online_with_the_next_hour(tmp_path: Path, dated: bool) -> None:
    mapping = MAPPING + (DATED if dated else TABLE)
    table = pd.DataFrame({"uid": USERS[:3], "plan": ["free", "free", "paid"], "since": START.start.isoformat()})

    def tell(rows: pd.DataFrame, hour: int) -> Settings:
        rows.to_csv(tmp_path / "users.csv", index=False)
        settings = told(tmp_path, EVERYBODY[4 * hour : 4 * hour + 4], f"log-{hour}", mapping)
        advance(settings, START + hour + 1)
        return settings

    assert plans(tell(table, 0), START + 1) == ["free", "free", "paid", None]
    late = pd.DataFrame({"uid": [2, 4], "plan": ["paid", "free"], "since": (START.start + timedelta(minutes=5)).isoformat()})  # fmt: skip
    if dated:  # of the hour that was written already
        tell(table, 1)
    settings = tell(pd.concat([table if dated else table[table.uid != 2], late]), 1 + dated)
    hour = START + 2 + dated
    assert plans(settings, hour) == ["free", "paid", "paid", "free"]
    online = Materialization(features(settings))
    assert online.attributes.due(hour, whole=False) is None
    assert online.attributes.due(hour + 5, whole=False) is None


def test_a_table_that_a_running_source_is_given_goes_online(tmp_path: Path) -> None:
    told(tmp_path, EVERYBODY[:4])
    advance(load_settings(var=tmp_path / "var", source="test", window_days=1), START + 1)
    pd.DataFrame({"uid": USERS, "plan": "free"}).to_csv(tmp_path / "users.csv", index=False)
    settings = told(tmp_path, EVERYBODY[4:8], "next", MAPPING + TABLE)
    advance(settings, START + 2)
    assert plans(settings, START + 2) == ["free"] * 4


def test_a_table_that_is_replaced_while_its_rows_go_online_is_looked_at_again(tmp_path: Path) -> None:
    table = pd.DataFrame({"uid": USERS, "plan": "free"})
    table.to_csv(tmp_path / "users.csv", index=False)
    settings = told(tmp_path, EVERYBODY[:4], mapping=MAPPING + TABLE)
    advance(settings, START + 1)
    table.assign(plan=["paid", *table.plan[1:]]).to_csv(tmp_path / "users.csv", index=False)
    told(tmp_path, EVERYBODY[4:8], "next", MAPPING + TABLE)
    attributes = Materialization(features(settings)).attributes
    with duck.connection(settings) as con:
        attributes.missing(DuckEngine(con), START + 2, whole=False)
        table.assign(plan="gone").to_csv(tmp_path / "users.csv", index=False)
        told(tmp_path, EVERYBODY[8:12], "third", MAPPING + TABLE)  # as the next hour's ingestion does
        attributes.note(START + 2)
    assert attributes.due(START + 2, whole=False) == START + 2
    advance(settings, START + 3)
    assert plans(settings, START + 3) == ["gone"] * 4
