"""Columns and expressions of tables beside the log: read as the log's are."""

from __future__ import annotations

import pandas as pd
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError
from events.schema import Owner
from events.store import EventStore
from tests.events.logs import HEADER, TIME, Log, rows


def attributes(log: Log, owner: Owner) -> list[dict[str, object]]:
    return pq.read_table(EventStore(log.settings.events_dir).attribute_file(owner)).to_pylist()


USES = [
    ("fans / 100", "number", [0.1, 0.02, None]),
    ("fans > likes", "category", ["true", "false", None]),
    ("log(fans) * 0 + abs(likes)", "number", [9.0, 3.0, None]),
    ("likes / (fans - 10)", "number", [None, -0.375, None]),
    ("case when fans > 5 then code else 'few' end", "category", ["007", "few", "few"]),
    ("coalesce(code, fans)", "category", ["007", "12", "1234567890123456789"]),
    ("substr(code, 1, 1)", "category", ["0", "1", "1"]),
    ("code || '-x'", "category", ["007-x", "12-x", "1234567890123456789-x"]),
    ("code in ('007', 'x')", "category", ["true", "false", "false"]),
    ("cast(fans as varchar)", "category", ["10", "2", None]),
]


@pytest.mark.parametrize(("expression", "kind", "values"), USES)
def test_an_expression_over_numbers_of_a_csv_is_computed(
    log: Log, expression: str, kind: str, values: list[object]
) -> None:
    log.write(HEADER + rows(3))
    log.write("uid,fans,likes,code\nu0,10,9,007\nu1,2,3,12\nu2,,,1234567890123456789\n", "users.csv")
    log.ingest(
        users=f'users: {{path: users.csv, key: uid, attributes: {{x: {{column: "{expression}", type: {kind}}}}}}}'
    )
    assert [row["user_x"] for row in attributes(log, "user")] == values


@pytest.mark.parametrize(
    ("expression", "values"),
    [(expression, values) for expression, kind, values in USES if kind == "category"],
)
def test_the_log_reads_an_expression_in_the_same_way(log: Log, expression: str, values: list[object]) -> None:
    table = ["10,9,007", "2,3,12", ",,1234567890123456789"]
    log.write("uid,iid,ts,fans,likes,code\n" + "".join(f"u{n},i{n},{TIME},{cells}\n" for n, cells in enumerate(table)))
    log.ingest(facets=f'facets: {{x: "{expression}"}}')
    facets = log.events().sort_values("item_id")["x"]
    assert [None if value is None else str(value) for value in facets] == values


def test_ids_that_an_expression_puts_together_keep_all_of_their_digits(log: Log) -> None:
    ids = ("1234567890123456788", "1234567890123456789")
    log.write("a,b,iid,genre,ts\n" + "".join(f"{user},,i,x,{TIME}\n" for user in ids))
    log.ingest(columns='columns: {user_id: "coalesce(b, a)", item_id: iid}')
    assert sorted(log.events()["user_id"]) == [int(user) for user in ids]


def test_the_length_of_an_item_may_be_computed(log: Log) -> None:
    log.write(HEADER + rows(2))
    log.write("id,minutes\ni0,3\ni1,2.5\n", "items.csv")
    log.ingest(items='items: {path: items.csv, key: id, duration_seconds: "minutes * 60"}')
    assert sorted(log.events()["duration_seconds"]) == [150, 180]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("items: {path: t.csv, key: id, facets: {m: \"cast(word as date)\"}}", r"items\.facets\.m .*cast\(word as date\)' fails in row 2:"),
        ("items: {path: t.csv, key: id, duration_seconds: \"word * 2\"}", r"items\.duration_seconds \(.*t\.csv\): 'word \* 2' fails"),
        ("items: {path: t.csv, key: id, title: \"word * 2\"}", r"items\.title \(.*t\.csv\): 'word \* 2' fails"),
        ("users: {path: t.csv, key: id, attributes: {b: {column: \"-word\", type: number}}}", r"users\.attributes\.b \(.*: '-word' fails"),
        ("users: {path: t.csv, key: id, since: \"word * 2\", attributes: {a: id}}", r"users\.since \(.*t\.csv\): "),
    ],
)  # fmt: skip
def test_an_expression_that_fails_is_named_by_its_key(log: Log, table: str, said: str) -> None:
    log.write(HEADER + rows(2))
    log.write("id,word\ni0,2026-01-01\ni1,soon\n", "t.csv")
    with pytest.raises(ConfigError, match=said):
        log.ingest(items=table)


TWO_ROWS = "id,mood,tempo,minutes,name\ni0,,slow,,\ni0,sad,,3,Song\ni0,calm,fast,4,Song\ni1,glad,fast,5,Other\n"
FACETS = "items: {path: items.csv, key: id, facets: {mood: mood, tempo: tempo}, title: name, duration_seconds: minutes"


@pytest.mark.parametrize("attributes_too", [False, True])
def test_of_several_rows_of_an_item_the_first_counts_alone(
    log: Log, caplog: pytest.LogCaptureFixture, attributes_too: bool
) -> None:
    log.write(HEADER + rows(2))
    log.write(TWO_ROWS, "items.csv")
    table = FACETS + (", attributes: {mood2: mood}}" if attributes_too else "}")
    log.ingest(items=table)
    events = log.events().sort_values("item_id")
    assert events["mood"].tolist() == [None, "glad"]
    assert events["tempo"].tolist() == ["slow", "fast"]
    assert events["duration_seconds"].isna().tolist() == [True, False]
    kept = pq.read_table(EventStore(log.settings.events_dir).item_facets_file).to_pylist()
    assert [list(row.values())[1:] for row in kept] == [[None, "slow", None], ["glad", "fast", "Other"]]
    if attributes_too:
        assert [row["item_mood2"] for row in attributes(log, "item")] == [None, "glad"]
    said = [text for text in caplog.messages if "2 rows are of an item that had a row before; the first counts" in text]
    assert len(said) == 1
    log.ingest(items=table)  # the same table again
    assert caplog.text.count("the first counts") == 1


def test_the_table_of_changes_of_items_may_have_several_rows_of_one(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write(HEADER + rows(1))
    log.write("id,mood,since\ni0,sad,2026-01-01\ni0,calm,2026-02-01\n", "items.csv")
    log.ingest(items="items: {path: items.csv, key: id, since: since, facets: {mood: mood}, attributes: {m: mood}}")
    assert "the first counts" not in caplog.text


@pytest.mark.parametrize(
    ("length", "column", "read"),
    [
        ("len", "len", [10, None, None, None]),
        ("len * 2", "len", [20, None, None, None]),
        ("trim(len)", "trim(len)", [10, None, None, None]),
    ],
)
def test_lengths_of_items_that_are_no_numbers_are_told_once_and_counted(
    log: Log, caplog: pytest.LogCaptureFixture, length: str, column: str, read: list[float | None]
) -> None:
    log.write(HEADER + rows(4) + rows(4, 1).replace("u", "v"))
    log.write('id,len\ni0,10\ni1,"1,200"\ni2,3 min\ni3,\ni5,4\ni6,4\ni7,5\n', "items.csv")
    table = f'items: {{path: items.csv, key: id, duration_seconds: "{length}", facets: {{x: id}}}}'
    account = log.ingest(items=table)
    events = log.events().drop_duplicates("item_id").sort_values("item_id")["duration_seconds"]
    assert [None if pd.isna(seconds) else seconds for seconds in events][:4] == read
    assert account.unreadable == {"items.duration_seconds": 4}
    said = f"items ({log.folder / 'items.csv'}): 2 cells of '{column}' are not a number, such as '1,200'; they count as missing"
    assert [text for text in caplog.messages if "are not a number" in text or "no JSON" in text] == [said]
    log.write(HEADER + rows(2).replace("u", "w"))
    log.ingest(items=table)  # the same table again
    assert caplog.text.count("are not a number") == 1


def test_cells_that_an_attribute_s_expression_cannot_compute_with_are_told(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.write(HEADER + rows(3))
    log.write("uid,fans\nu0,10\nu1,many\nu2,4\n", "users.csv")
    log.ingest(users='users: {path: users.csv, key: uid, attributes: {x: {column: "fans / 2", type: number}}}')
    assert [row["user_x"] for row in attributes(log, "user")] == [5, None, 2]
    assert "1 cells of 'fans' are not a number, such as 'many'; they count as missing" in caplog.text
    log.ingest(users='users: {path: users.csv, key: uid, attributes: {x: {column: "trim(fans)", type: number}}}')
    said = "1 cells of 'trim(fans)' are not a number, such as 'many'; they count as missing (attributes.x)"
    assert said in caplog.text
