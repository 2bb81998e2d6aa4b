"""Rows with one event id are one event within 48 hours of the first of them, however they are split into inputs."""

from __future__ import annotations

import itertools
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from events import actions, episodes, repeated
from events.episodes import SAME_EVENT_HOURS, open_episodes
from tests.events.test_actions import ActionLog

PLAIN = (
    "source: test\ncolumns: {user_id: uid, item_id: iid, event_id: eid}\ntimestamp: {column: ts}\n"
    "local_time: {zone: UTC}\nbehaviors: {like: liked, finish: done}\n"
)
ACTIONS = (
    "source: test\ncolumns: {user_id: uid, item_id: iid, event_id: eid}\ntimestamp: {column: ts}\n"
    "local_time: {zone: UTC}\nactions: {column: action, values: {like: LIKE, finish: DONE}}\n"
)
START = datetime(2026, 3, 10, 10, tzinfo=UTC)
HOURS = st.sampled_from([0, 1, 20, 40, 47, 48, 49, 60, 90, 96, 97, 100, 140, 150])


@pytest.fixture
def one_hour_for_24(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are used again after two hours, so that few hours have to be written."""
    for module in (episodes, actions, repeated):
        monkeypatch.setattr(module, "SAME_EVENT_HOURS", 2)


def moment(hours: float) -> str:
    return (START + timedelta(hours=hours)).isoformat()


@pytest.mark.slow
@given(times=st.lists(st.integers(0, 300), min_size=1, max_size=20), ids=st.integers(1, 3))
@hypothesis_settings(max_examples=30, deadline=None)
def test_an_episode_lasts_48_hours_from_its_first_row(times: list[int], ids: int) -> None:
    opened: list[tuple[str, int]] = []
    for key in sorted({n % ids for n in range(len(times))}):
        last = None
        for hour in sorted(t for n, t in enumerate(times) if n % ids == key):
            if last is None or hour > last + SAME_EVENT_HOURS:
                opened.append((str(key), hour))
                last = hour
    with duckdb.connect() as con:
        con.execute("CREATE TABLE told (event_id VARCHAR, ts TIMESTAMPTZ)")
        con.executemany(
            "INSERT INTO told VALUES (?, ?)", [(str(n % ids), START + timedelta(hours=t)) for n, t in enumerate(times)]
        )
        open_episodes(con, "told")
        rows = con.execute("SELECT event_id, epoch(opened) FROM episodes ORDER BY ALL").fetchall()
    assert [(key, (seconds - START.timestamp()) / 3600) for key, seconds in rows] == opened


def events(log: ActionLog) -> list[tuple[object, ...]]:
    frame = log.frame()
    named = frame[["event_id", "user_id", "item_id", "timestamp", "like", "finish"]].astype(str)
    return sorted(named.itertuples(index=False, name=None))


@pytest.mark.slow
@pytest.mark.usefixtures("one_hour_for_24")
@given(rows=st.lists(st.tuples(st.sampled_from("ab"), HOURS, st.sampled_from([",", "true,", ",true", "false,"])), min_size=1, max_size=8),
       cuts=st.lists(HOURS, max_size=3))  # fmt: skip
@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_in_order_of_time_gives_the_same_events(
    tmp_path: Path, rows: list[tuple[str, int, str]], cuts: list[int]
) -> None:
    shutil.rmtree(tmp_path)
    whole, parts = ActionLog(tmp_path / "whole", PLAIN), ActionLog(tmp_path / "parts", PLAIN)
    header = "uid,iid,ts,eid,liked,done"
    lines = [(hours, f"1,7,{moment(hours / 24)},{key},{told}") for key, hours, told in sorted(rows, key=lambda r: r[1])]
    whole.ingest(*(line for _, line in lines), header=header)
    edges = [-1, *sorted(cuts), 1000]
    for after, until in itertools.pairwise(edges):
        if part := [line for hours, line in lines if after < hours <= until]:
            parts.ingest(*part, header=header)
            assert parts.ingest(*part, header=header).changed_hours == []
    assert events(parts) == events(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("one_hour_for_24")
@given(rows=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), HOURS, st.sampled_from(["", "", "LIKE", "DONE"]),
                               st.integers(0, 2)), min_size=1, max_size=9), order=st.permutations(range(3)))  # fmt: skip
@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_actions_any_split_in_any_order_gives_the_same_events(
    tmp_path: Path, rows: list[tuple[str, str, int, str, int]], order: list[int]
) -> None:
    shutil.rmtree(tmp_path)
    whole, parts = ActionLog(tmp_path / "whole", ACTIONS), ActionLog(tmp_path / "parts", ACTIONS)
    header = "uid,iid,ts,eid,action"
    lines = [(place, f"{user},7,{moment(hours / 24)},{key},{action}") for key, user, hours, action, place in rows]
    first = f"9,9,{moment(0)},z,"
    whole.ingest(first, *(line for _, line in lines), header=header)
    for number in order:
        parts.ingest(first, *(line for place, line in lines if place == number), header=header)
    assert events(parts) == events(whole)


@pytest.mark.parametrize("mapping", [PLAIN, ACTIONS])
def test_an_id_that_is_used_again_after_48_hours_is_another_event(tmp_path: Path, mapping: str) -> None:
    log = ActionLog(tmp_path, mapping)
    last = "liked,done" if mapping is PLAIN else "action"
    told = ("true,", ",") if mapping is PLAIN else ("LIKE", "")
    account = log.ingest(
        *(f"1,7,{moment(hours)},e,{told[liked]}" for hours, liked in ((0, 1), (48, 0), (49, 1), (97, 1), (98, 0))),
        header=f"uid,iid,ts,eid,{last}",
    )
    assert (account.kept, account.rows_in) == (3, 5)
    likes = log.frame().sort_values("timestamp")["like"].tolist()
    assert [bool(like) for like in likes] == [True, False, True]
