from __future__ import annotations

import shutil
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.engine import engine
from core.errors import ConfigError, DataError, NotReadyError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from feature_repo.behavior_state import BehaviorState
from feature_repo.changes import bounds
from feature_repo.clock import ClockState
from feature_repo.computation import ClockComputation
from feature_repo.executor import Executor
from feature_repo.query_builder import PAIR, SumTables
from feature_repo.schemas import COUNTS
from feature_repo.sql import columns, score_units
from tests.conftest import NOW, write_mapping

START = Hour.parse("2026-03-27T00")  # daylight saving begins in Berlin two days later
WINDOW_DAYS = 2
USERS = 3

event = st.tuples(
    st.integers(0, 95),  # hour since START
    st.integers(0, 59),  # minute
    st.integers(0, USERS - 1),
    st.sampled_from(["rock", "jazz", "folk", "soul", None]),
    st.sampled_from([100, 50, 3]),  # finish, nothing, skip
)


def write_log(path: Path, rows: list[tuple[int, int, int, str | None, int]], first: int = 0) -> None:
    pd.DataFrame(
        [
            {
                "uid": user + 1,
                "track": (user * 7 + minute) % 5 + 1,
                "ts": (START.start + timedelta(hours=hour, minutes=minute, seconds=n % 60)).isoformat(),
                "played": played,
                "length": 100,
                "genre": genre,
                "id": first + n,
            }
            for n, (hour, minute, user, genre, played) in enumerate(rows)
        ],
        columns=["uid", "track", "ts", "played", "length", "genre", "id"],
    ).to_csv(path, index=False)


def ingest_rows(folder: Path, settings: Settings, rows: list[Any], first: int, close: tuple[Hour, Hour]) -> None:
    write_log(folder / "log.csv", rows, first)
    mapping = write_mapping(
        folder,
        columns="columns: {user_id: uid, item_id: track, event_id: id, played_seconds: played, duration_seconds: length}",
    )
    ingest(str(mapping), [str(folder / "log.csv")], settings, now=NOW, close=close)


def state_of(settings: Settings) -> ClockState:
    return ClockState(settings, EventStore(settings.events_dir))


def sums_of(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Every stored sum, by the slot (or users, items) and facet."""
    clock = state_of(settings)
    state = clock.require_state()
    stored = {}
    with engine(settings) as running:
        computation, sums = ClockComputation(clock, running, START), clock.sums(state)
        for name in sums.bases:
            for part in computation.build.base_parts(name):
                merged = computation.merged(sums, [name], part)
                rows = running.arrow(f"{merged} ORDER BY {', '.join(part.keys)}").to_pylist()
                if rows:
                    stored[f"{name}/{part.name}"] = rows
    return stored


@dataclass(frozen=True)
class LoggedRow:
    """A row of a change log.

    Attributes:
        key: the view's name and the row's keys in it.
        as_of: number of the hour from which on it holds.
        content: what the view says.
    """

    key: tuple[Any, ...]
    as_of: int
    content: dict[str, Any]


def logged_rows(settings: Settings) -> list[LoggedRow]:
    """The change logs of every view."""
    return [
        LoggedRow(
            (view, *(row[k] for k in changes.keys)),
            row["as_of"],
            {c: v for c, v in row.items() if c not in {"as_of", "event_timestamp"}},
        )
        for view, changes in state_of(settings).logs.items()
        for file in changes.parts()
        for row in pq.ParquetFile(file).read().to_pylist()
    ]


def as_of(settings: Settings, hour: Hour) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What the offline sources say at an hour, by brute force; rows without events left out."""
    return latest(logged_rows(settings), hour)


def latest(rows: list[LoggedRow], hour: Hour) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Of each key the last row that holds at an hour, if it has events."""
    last: dict[tuple[Any, ...], LoggedRow] = {}
    for row in rows:
        if row.as_of <= hour.number and row.as_of >= last.get(row.key, row).as_of:
            last[row.key] = row
    return {key: row.content for key, row in last.items() if row.content["events"]}


def clocks(rows: list[LoggedRow], hour: Hour) -> dict[tuple[int, int], tuple[list[str], list[float], int]]:
    """(user, slot) → values, scores, events as of an hour; the whole day as of the last midnight is slot −1."""
    return {
        (user, slot[0] if slot else -1): (row["genre_values"], row["genre_scores"], row["events"])
        for (view, user, *slot), row in latest(rows, hour).items()
        if view in {"clock_slots", "user_profile"}
    }


def brute_force(rows: list[Any], hour: Hour) -> dict[tuple[int, int], tuple[list[str], list[float], int]]:
    """The clock's definition, written as a loop: (user, slot) → values, scores, events."""
    berlin = ZoneInfo("Europe/Berlin")
    counts: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0]))
    totals: dict[tuple[int, int], int] = defaultdict(int)
    midnight = Hour(hour.number - hour.number % 24)
    for n, (h, minute, user, genre, played) in enumerate(rows):
        moment = START.start + timedelta(hours=h, minutes=minute, seconds=n % 60)
        for slot, end in ((moment.astimezone(berlin).hour, hour), (-1, midnight)):
            if not end.start - timedelta(days=WINDOW_DAYS) <= moment < end.start:
                continue
            totals[user + 1, slot] += 1
            if genre:
                cell = counts[user + 1, slot][genre]
                cell[0] += (played == 100) - (played == 3)
                cell[1] += 1
    out = {}
    for key, events in totals.items():
        best = sorted((-s, -c, v) for v, (s, c) in counts[key].items() if s > 0)[:3]
        out[key] = ([v for *_, v in best], [-s for s, *_ in best], events)
    return out


def check(settings: Settings, rows: list[Any], *hours: Hour) -> None:
    logged = logged_rows(settings)
    for hour in hours:
        assert clocks(logged, hour) == brute_force(rows, hour)


@pytest.mark.slow
@given(
    history=st.lists(event, min_size=20, max_size=100),
    late=st.lists(event, min_size=1, max_size=12),
    cut=st.one_of(st.sampled_from([21, 45, 69]), st.integers(10, 80)),  # at midnight the day before is merged
)
@example(history=[], late=[(25, 0, 0, "rock", 100), (30, 0, 1, "jazz", 100)], cut=72)
# A late event in the very slot of the user's event that leaves the window in the same hour.
@example(history=[(26, 0, 0, "rock", 100)], late=[(49, 0, 0, "jazz", 100)], cut=72)
@hypothesis_settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_refreshes_with_late_events_equal_a_full_rebuild(
    tmp_path_factory: pytest.TempPathFactory, history: list[Any], late: list[Any], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("clock")
    settings = load_settings(var=folder / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    # Every user has an event in the first hour, so that the log begins there.
    first = [(0, 0, u, "rock", 100) for u in range(USERS)]
    history = first + sorted(history, key=lambda e: e[0])
    late = [e for e in late if e[0] < cut + 2]
    known: list[Any] = []

    def arrive(rows: list[Any], since: int, until: int) -> None:
        ingest_rows(folder, settings, rows, len(known), (START + since, START + until))
        known.extend(rows)

    def happened(since: int, until: int) -> list[Any]:
        return [e for e in history if since <= e[0] < until]

    arrive(happened(0, cut), 0, cut)
    state_of(settings).rebuild(START + cut)
    last = min(cut + 5, 95)
    for hour in range(cut, last):
        arrive(happened(hour, hour + 1) + (late if hour == cut + 2 else []), hour, hour + 1)
        state_of(settings).refresh(START + hour + 1)
        state_of(settings).refresh(START + hour + 1)
    moments = [START + 1, START + cut // 2, *(START + hour for hour in range(cut, last + 1))]
    sums, logged = sums_of(settings), logged_rows(settings)
    check(settings, known, *moments)
    state_of(settings).rebuild(START + last)
    assert sums == sums_of(settings)
    rebuilt = logged_rows(settings)
    for moment in moments:
        assert latest(logged, moment) == latest(rebuilt, moment)


@pytest.mark.slow
def test_every_hour_of_a_rebuilt_history_equals_the_definition(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    rows = [
        ((n * 7) % 90, (n * 13) % 60, n % 3, ["rock", "jazz", None, "folk"][n % 4], [100, 3, 100, 50][n % 4])
        for n in range(120)
    ]
    rows.sort(key=lambda e: (e[0], e[1]))
    ingest_rows(tmp_path, settings, rows, 0, (START, START + 90))
    state_of(settings).rebuild(START + 90)
    check(settings, rows, *(START + offset for offset in range(1, 91, 7)))


def test_a_negative_total_drops_a_value_out_and_ties_break_by_count_then_value(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    rows = [
        (0, 0, 0, "soul", 100), (0, 1, 0, "soul", 50), (0, 2, 0, "jazz", 100), (0, 3, 0, "folk", 100), (0, 4, 0, "rock", 3),
        (0, 5, 0, "blue", 100),
    ]  # fmt: skip
    ingest_rows(tmp_path, settings, rows, 0, (START, START + 1))
    state_of(settings).rebuild(START + 1)
    row = as_of(settings, START + 1)["clock_slots", 1, 1]
    assert row["genre_values"] == ["soul", "blue", "folk"]
    assert row["genre_scores"] == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_late_events_without_a_new_hour_are_corrected_in_place(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    rows: list[Any] = [(h, 5, h % 3, "rock", 100) for h in range(6)]
    ingest_rows(tmp_path, settings, rows, 0, (START, START + 6))
    state_of(settings).rebuild(START + 5)
    state_of(settings).refresh(START + 6)
    late: list[Any] = [(2, 40, 2, "jazz", 100), (2, 41, 2, "jazz", 100), (5, 59, 0, "folk", 100)]
    ingest_rows(tmp_path, settings, late, len(rows), (START, START + 6))
    assert state_of(settings).refresh(START + 6).hours_corrected == 2
    check(settings, rows + late, *(START + hour for hour in range(1, 7)))


ACTIONS = """\
actions: {column: action, values: {finish: PLAY, like: LIKE}}
"""


@pytest.mark.slow
def test_an_event_that_a_late_impression_takes_over_leaves_the_clocks(tmp_path: Path) -> None:
    """At first an action is a separate event, and the only one of its hour, user and item; then it is not."""

    def take(settings: Settings, *lines: str) -> None:
        (tmp_path / "log.csv").write_text("\n".join(["uid,track,ts,genre,action", *lines]) + "\n")
        mapping = write_mapping(tmp_path, ACTIONS, columns="columns: {user_id: uid, item_id: track}", behaviors="")
        ingest(str(mapping), [str(tmp_path / "log.csv")], settings, now=NOW, close=(START, START + 8))

    live = load_settings(var=tmp_path / "live", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    begin, impression, action, later = (
        "1,1,2026-03-27T00:05:00Z,rock,", "2,2,2026-03-27T02:50:00Z,jazz,", "2,2,2026-03-27T03:10:00Z,jazz,PLAY",
        "2,2,2026-03-27T07:55:00Z,jazz,",
    )  # fmt: skip
    take(live, begin, action, later)
    state_of(live).rebuild(START + 7)
    recent = BehaviorState(state_of(live))
    recent.bring_to(START + 7)
    take(live, impression)
    state_of(live).refresh(START + 7)
    state_of(live).refresh(START + 8)
    recent.bring_to(START + 8)
    whole = load_settings(var=tmp_path / "whole", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    take(whole, begin, impression, action, later)
    state_of(whole).rebuild(START + 8)
    assert sums_of(live) == sums_of(whole)
    logged, rebuilt = logged_rows(live), logged_rows(whole)
    for hour in range(1, 9):
        assert latest(logged, START + hour) == latest(rebuilt, START + hour)
    fresh = BehaviorState(state_of(whole))
    fresh.bring_to(START + 8)
    assert recent.read(np.array([1, 2])).equals(fresh.read(np.array([1, 2])))


@pytest.mark.slow
def test_a_crash_while_a_day_is_merged_leaves_no_row_twice(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    rows: list[Any] = [(h, m, h % 3, "rock", 100) for h in range(44) for m in (5, 25)]
    ingest_rows(tmp_path, settings, rows, 0, (START, START + 44))
    state_of(settings).rebuild(START + 19)
    for hour in range(20, 26):
        state_of(settings).refresh(START + hour)
    logs = state_of(settings).logs
    hourly = {
        view: [s for s in log.spans() if bounds(s)[0] == bounds(s)[1] < START + 24]
        for view, log in logs.items() if view != "user_profile"  # changes at midnight only
    }  # fmt: skip
    shutil.copytree(settings.features_dir, tmp_path / "before")
    for hour in range(26, 43):  # every view has had its turn
        state_of(settings).refresh(START + hour)
    assert all(len(spans) > 3 for spans in hourly.values())
    assert not any(span.exists() for spans in hourly.values() for span in spans)
    for span in [span for spans in hourly.values() for span in spans[1:]]:  # the process died when it had removed one
        shutil.copytree(tmp_path / "before" / span.relative_to(settings.features_dir), span)
    state_of(settings).refresh(START + 43)
    for log in state_of(settings).logs.values():
        logged = pd.concat(pd.read_parquet(part) for part in log.parts())
        assert not logged.duplicated([*log.keys, "as_of"]).any()
    check(settings, rows, *(START + hour for hour in range(1, 44)))


def test_rows_of_whole_days_stay_until_clocks_are_computed_without_them_and_then_go_whole(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    ingest_rows(tmp_path, settings, [(h, 0, 0, "rock", 100) for h in range(49)], 0, (START, START + 49))
    state_of(settings).rebuild(START + 48)
    folders = [state_of(settings).root / "user_profile", state_of(settings).root / "latest" / "user_profile"]
    assert all(folder.exists() for folder in folders)
    without = state_of(settings.model_copy(update={"shrinkage": False}))
    without.commit(without.require_state())  # as retention does, which computes nothing
    assert all(folder.exists() for folder in folders)
    assert without.require_state().config == state_of(settings).config
    without.refresh(START + 49)
    assert not any(folder.exists() for folder in folders)


def test_a_missing_hour_is_named_and_not_skipped(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    ingest_rows(tmp_path, settings, [(0, 0, 0, "rock", 100)], 0, (START, START + 1))
    state_of(settings).rebuild(START + 1)
    with pytest.raises(NotReadyError, match="2026-03-27T01 has not been ingested"):
        state_of(settings).refresh(START + 2)
    with pytest.raises(NotReadyError, match="refresh 2026-03-27T02 before"):
        state_of(settings).refresh(START + 5)


def test_changing_the_window_asks_for_a_rebuild(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    ingest_rows(tmp_path, settings, [(0, 0, 0, "rock", 100)], 0, (START, START + 2))
    state_of(settings).rebuild(START + 1)
    other = load_settings(var=tmp_path / "var", source="test", window_days=3)
    with pytest.raises(DataError, match="settings changed"):
        state_of(other).refresh(START + 2)


def test_hours_are_utc_and_ordered() -> None:
    assert Hour.of(datetime(2026, 3, 27, 0, 59, tzinfo=UTC)) == START
    assert START + 1 > START


@pytest.mark.slow
def test_a_facet_with_very_many_values_and_a_user_with_everything(tmp_path: Path) -> None:
    """One person, two hours, every event with its own value: nothing is cut, ties go by the value's name."""
    count = 150_000
    settings = load_settings(var=tmp_path / "var", source="test", window_days=WINDOW_DAYS, shrinkage=True)
    for hour in (0, 1):
        numbers = pd.Series(range(count))
        frame = pd.DataFrame(
            {
                "uid": 1,
                "track": numbers % 1000 + 1,
                "ts": pd.Timestamp((START + hour).start) + pd.to_timedelta(numbers % 3600, unit="s"),
                "played": (numbers % 2) * 100,
                "length": 100,
                "genre": "g" + (numbers + hour * count).astype(str).str.zfill(7),
                "id": numbers + hour * count,
            }
        )
        frame.to_csv(tmp_path / "log.csv", index=False)
        mapping = write_mapping(
            tmp_path,
            columns="columns: {user_id: uid, item_id: track, event_id: id, played_seconds: played, duration_seconds: length}",
        )
        ingest(str(mapping), [str(tmp_path / "log.csv")], settings, now=NOW, close=(START + hour, START + hour + 1))
        clock = state_of(settings)
        (clock.rebuild if hour == 0 else clock.refresh)(START + hour + 1)
    clock_rows = [clock for _, clock in sorted(clocks(logged_rows(settings), START + 2).items())]
    assert clock_rows == [([f"g{hour * count + n:07d}" for n in (1, 3, 5)], [1.0] * 3, count) for hour in (0, 1)]


def test_counts_beyond_32_bits_are_exact(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="test")
    many = 3_000_000_000_000
    with engine(settings) as running:
        executor = Executor(running, settings, ["genre"])
        running.table("values_0", "SELECT * FROM (VALUES ('jazz', 1), ('rock', 2)) v(value, id)")
        key = "CAST(1 AS BIGINT) AS user_id, CAST(5 AS INTEGER) AS slot"
        running.table("sum_all", f"SELECT {key}, {', '.join(f'{many} AS {columns([c])}' for c in COUNTS)}")
        running.table(
            "sum_0",
            f"SELECT {key}, 1 AS value, {many} AS events, {many} AS score UNION ALL SELECT {key}, 2, {many}, {many} + 1",
        )
        rows = executor.build.clock_rows(SumTables("sum"), "sum_all", PAIR, "500000")
        (row,) = executor.arrow(rows).to_pylist()
    assert row["genre_values"] == ["rock", "jazz"]
    assert row["genre_scores"] == [many + 1.0, float(many)]
    assert row["events"] == many


@pytest.mark.parametrize(
    ("weights", "units", "one"),
    [
        ({"finish": 1, "skip": -1, "like": 0}, {"finish": 1, "skip": -1}, 1),
        ({"finish": 0.1, "skip": -0.25, "like": 100}, {"finish": 10, "like": 10_000, "skip": -25}, 100),
        ({}, {}, 1),
    ],
)
def test_weights_are_whole_numbers_of_their_smallest_decimal(
    weights: dict[str, float], units: dict[str, int], one: int
) -> None:
    assert score_units(weights) == (units, one)


@pytest.mark.slow
def test_tenths_add_up_to_exact_scores_and_leave_nothing_behind(tmp_path: Path) -> None:
    settings = load_settings(
        var=tmp_path / "var", source="test", window_days=1, score_weights={"finish": 0.1, "skip": -0.3}
    )
    played = [*[100] * 3, 3, *[100] * 3]  # as doubles 0.1 + 0.1 + 0.1 - 0.3 is not 0
    rows = [(0 if n < 4 else 1, n, 0, "rock", p) for n, p in enumerate(played)]
    ingest_rows(tmp_path, settings, rows, 0, (START, START + 27))
    state_of(settings).rebuild(START + 1)
    assert clocks(logged_rows(settings), START + 1) == {(1, 1): ([], [], 4)}
    for hour in range(2, 27):
        state_of(settings).refresh(START + hour)
    logged = logged_rows(settings)
    assert clocks(logged, START + 24)[1, 2] == (["rock"], [0.3], 3)
    assert (1, 2) not in clocks(logged, START + 26)


@pytest.mark.parametrize("weight", [0.1234567, 1001.0, float("nan")])
def test_weights_of_too_many_decimals_or_too_large_are_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(ConfigError, match="at most six decimals"):
        load_settings(var=tmp_path, source="test", score_weights={"finish": weight})
