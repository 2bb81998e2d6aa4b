"""Where an item stood among those that were shown together: kept with its event, if the log tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.duck import connection
from core.duck_engine import DuckEngine
from core.hours import Hour
from events.guess import guess_mapping
from events.mapping import load_mapping
from feature_repo.clock import ClockState
from tests.events.test_actions import ActionLog

PLAIN = """\
source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
behaviors: {finish: done}
"""
ASKED = PLAIN.replace("item_id: iid", "item_id: iid, position: rank, request_id: req")
HEADER = "uid,iid,genre,ts,done,rank,req"
ACTED = """\
source: test
columns: {user_id: uid, item_id: iid, position: rank, request_id: req}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
actions: {column: action, values: {like: LIKE}}
impressions: {values: [VIEW], list_column: shown}
"""


def line(minute: int, item: str, rank: object, request: str, hour: int = 10) -> str:
    return f"u1,{item},rock,2026-03-10T{hour}:{minute:02d}:00Z,1,{rank},{request}"


def requests(log: ActionLog) -> list[tuple[int | None, str | None]]:
    """Position and request of every event, in order of time and item."""
    table = pa.concat_tables(log.store.read(hour, verify=True) for hour in log.store.hours())
    rows = sorted(table.to_pylist(), key=lambda row: (row["timestamp"], row["item_id"]))
    return [(row["position"], row["request_id"]) for row in rows]


def test_events_have_the_position_and_the_request_of_their_rows(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, ASKED)
    log.ingest(line(0, "a", 0, "q1"), line(1, "b", "1.0", " q1 "), line(2, "c", 2147483647, ""), header=HEADER)
    assert requests(log) == [(0, "q1"), (1, "q1"), (2147483647, None)]
    assert log.store.event_schema.names[-2:] == ["position", "request_id"]


@pytest.mark.parametrize("cell", ["-1", "1.5", "first", "inf", "NaN", "1e400", "2147483648", "true"])
def test_a_position_that_is_no_whole_number_is_unknown_and_counted(tmp_path: Path, cell: str) -> None:
    log = ActionLog(tmp_path, ASKED)
    account = log.ingest(line(0, "a", cell, "q1"), line(1, "b", "", "q1"), line(2, "c", 3, "q1"), header=HEADER)
    assert requests(log) == [(None, "q1"), (None, "q1"), (3, "q1")]
    assert (account.kept, account.unreadable) == (3, {"columns.position": 1})


def test_typed_columns_and_expressions_are_read_too(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, ASKED.replace("position: rank", "position: rank - 1"))
    moments = pd.to_datetime(["2026-03-10T10:00:00Z", "2026-03-10T10:01:00Z", "2026-03-10T10:02:00Z"])
    frame = pd.DataFrame(
        {"uid": "u1", "iid": ["a", "b", "c"], "genre": "rock", "ts": moments, "done": True, "rank": [1, None, 3], "req": [7, None, 2]}
    )  # fmt: skip
    path = tmp_path / "log.parquet"
    frame.to_parquet(path)
    log.ingest_files(path)
    assert requests(log) == [(0, "7"), (None, None), (2, "2")]


def test_an_unfolded_list_gives_positions_by_itself(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, ACTED.replace("position: rank, ", ""))
    log.ingest(
        "u1,,rock,2026-03-10T10:00:00Z,VIEW,q1,a|b|c", "u1,b,rock,2026-03-10T10:01:00Z,LIKE,,",
        header="uid,iid,genre,ts,action,req,shown",
    )  # fmt: skip
    frame = pa.concat_tables(log.store.read(hour) for hour in log.store.hours()).to_pandas()
    frame = frame.sort_values("position")
    assert frame["position"].tolist() == [0, 1, 2]
    assert frame["request_id"].tolist() == ["q1"] * 3
    assert frame["like"].tolist() == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_facts_keep_them_and_an_action_that_comes_late_does_not_take_them_away(
    tmp_path: Path, parts: tuple[int, ...]
) -> None:
    log = ActionLog(tmp_path, ACTED)
    files = ("u1,a,rock,2026-03-10T10:00:00Z,VIEW,4,q1", "u1,b,rock,2026-03-10T10:00:00Z,VIEW,5,q1",
             "u1,a,rock,2026-03-10T10:20:00Z,LIKE,9,other")  # fmt: skip
    for number in parts:
        log.ingest(files[number], header="uid,iid,genre,ts,action,rank,req", name=f"{number}.csv")
    hour = Hour.parse("2026-03-10T10")
    events = sorted(log.store.read(hour).to_pylist(), key=lambda row: row["position"])
    assert [(e["position"], e["request_id"], e["like"]) for e in events] == [(4, "q1", True), (5, "q1", False)]
    facts = pq.read_table(log.store.fact_files([hour])[0])
    assert sorted(facts["position"].to_pylist()) == [4, 5, 9]


def test_a_source_gets_them_later_and_its_log_read_again_fills_them_in(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, PLAIN)
    lines = [line(0, "a", 3, "q1"), line(0, "b", 4, "q2", hour=11)]
    log.ingest(*lines, header=HEADER)
    files = log.files()
    log.mapping.write_text(ASKED)
    log.ingest(line(0, "c", 5, "q3", hour=12), header=HEADER)
    assert requests(log) == [(None, None), (None, None), (5, "q3")]
    old = [name for name in files if name.endswith("events.parquet")]
    assert {name: files[name] for name in old} == {
        name: log.files()[name] for name in old
    }  # read as null, not rewritten
    again = log.ingest(*lines, header=HEADER)
    assert (again.kept, again.merged, again.duplicates) == (0, 2, 0)
    assert requests(log) == [(3, "q1"), (4, "q2"), (5, "q3")]
    last = log.ingest(*lines, line(1, "a", 3, "q1"), header=HEADER)
    assert (last.kept, last.merged, last.duplicates) == (1, 0, 2)


def test_facts_get_them_later_too(tmp_path: Path) -> None:
    header = "uid,iid,genre,ts,action,rank,req"
    lines = ("u1,a,rock,2026-03-10T10:00:00Z,VIEW,4,q1", "u1,a,rock,2026-03-10T10:01:00Z,LIKE,,")
    acted = ACTED.replace(", list_column: shown", "")
    log = ActionLog(tmp_path, acted.replace(", position: rank, request_id: req", ""))
    log.ingest(*lines, header=header)
    log.mapping.write_text(acted)
    again = log.ingest(*lines, header=header)
    assert (again.kept + again.merged, again.duplicates) == (1, 1)
    assert requests(log) == [(4, "q1")]
    last = log.ingest(*lines, header=header)
    assert (last.kept, last.merged, last.duplicates, last.changed_hours) == (0, 0, 2, [])


def test_a_mapping_that_no_longer_names_them_leaves_what_is_there(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, ASKED)
    log.ingest(line(0, "a", 3, "q1"), header=HEADER)
    log.mapping.write_text(PLAIN)
    log.ingest(line(1, "b", 4, "q1"), line(0, "a", 3, "q1"), header=HEADER)
    assert requests(log) == [(3, "q1"), (None, None)]
    assert json.loads((log.store.root / "source.json").read_text())["requests"] is True


def test_a_source_whose_log_tells_neither_keeps_its_layout(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, PLAIN)
    log.ingest(line(0, "a", 3, "q1"), header=HEADER)
    hour = Hour.parse("2026-03-10T10")
    assert log.store.read(hour).schema.names[-1] == "share"
    assert "requests" not in json.loads((log.store.root / "source.json").read_text())


@pytest.mark.slow
def test_clocks_are_the_same_whether_all_some_or_no_hours_have_them(tmp_path: Path) -> None:
    lines = [line(minute, item, minute, "q", hour) for hour in (9, 10, 11, 12) for minute, item in ((0, "a"), (5, "b"))]
    late = (lines[3], [text for text in lines if text is not lines[3]])
    inputs = {
        "none": [(PLAIN, lines)],
        "all": [(ASKED, lines)],
        "one": [(PLAIN, late[1]), (ASKED, [late[0]])],  # a late event gives them to its hour, among hours without
    }
    clocks = {}
    for name, parts in inputs.items():
        log = ActionLog(tmp_path / name)
        for mapping, part in parts:
            log.mapping.write_text(mapping)
            log.ingest(*part, header=HEADER)
        state = ClockState(log.settings, log.store)
        state.rebuild(Hour.parse("2026-03-10T13"))
        files = sorted(state.root.rglob("*.parquet"))
        clocks[name] = {str(file.relative_to(state.root)): pq.read_table(file).to_pylist() for file in files}
    assert clocks["none"]
    assert clocks["none"] == clocks["all"] == clocks["one"]


def test_readers_that_name_their_columns_read_hours_with_and_without_them(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, ASKED)
    log.ingest(line(0, "a", 3, "q1"), header=HEADER)
    other = ActionLog(tmp_path / "other", PLAIN)
    other.ingest(line(0, "b", 4, "q1", hour=11), header=HEADER)
    files = [store.event_files()[0] for store in (log.store, other.store)]
    with connection(log.settings) as con:
        db = DuckEngine(con)
        for order in (files, files[::-1]):
            db.view("events", f"SELECT * FROM {db.files(order)}")  # as the experiments' tables are read
            assert db.scalar("SELECT count(genre) FROM events") == 2


def guessed(folder: Path, last: str, cells: Callable[[int], str]) -> tuple[str | None, str | None]:
    """Position and request id that a guess names, for a log with the columns ``rank`` and ``last``."""
    path = folder / "log.csv"
    rows = [f"u{n % 5},i{n % 7},jazz,2026-03-02T08:{n % 60:02d}:00Z,{cells(n)}" for n in range(60)]
    path.write_text("\n".join([f"user,item,genre,ts,rank,{last}", *rows]) + "\n")
    (folder / "mapping.yaml").write_text(guess_mapping([str(path)]))
    columns = load_mapping(str(folder / "mapping.yaml"))[0].columns
    return columns.position, columns.request_id


def test_a_guess_names_them(tmp_path: Path) -> None:
    assert guessed(tmp_path, "search_id", lambda n: f"{n % 4},s{n // 4}") == ("rank", "search_id")


def test_a_column_with_another_value_in_every_row_is_no_request(tmp_path: Path) -> None:
    assert guessed(tmp_path, "request_id", lambda n: f"{n * 1000},r{n}") == (None, None)
