"""Names of folders, columns and attributes, and ids, as logs really have them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError, DataError
from events.mapping import Mapping
from tests.events.logs import HEADER, TIME, Log, rows

# A folder's key adds a column and replaces none.


def test_the_file_wins_over_its_folders(log: Log) -> None:
    table = pa.table({"uid": ["a"], "iid": ["x"], "ts": ["2026-03-10T10:30:00Z"]})
    folder = log.folder / "log" / "ts=2026-03-10" / "uid=99" / "genre=rock"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part.parquet")
    log.ingest(log.folder / "log", ids="ids: {user: string}")
    events = log.events()
    assert events["timestamp"].tolist() == [pd.Timestamp("2026-03-10T10:30:00Z")]
    assert events["genre"].tolist() == ["rock"]
    keys = pq.read_table(log.settings.events_dir / "_ids" / "user.parquet")
    assert keys["key"].to_pylist() == ["a"]


def test_a_csv_in_a_folder_with_a_key_gets_its_column(log: Log) -> None:
    path = log.write(f"uid,iid,ts\nu,1,{TIME}\n", "log/genre=jazz/part.csv")
    log.ingest(path)
    assert log.events()["genre"].tolist() == ["jazz"]


def test_what_a_job_leaves_while_it_writes_is_no_data(log: Log) -> None:
    log.write(HEADER + rows(2), "log/part.csv")
    for name in ("_temporary/0/part.csv", "_delta_log/0.json", ".hidden/x.csv", "_SUCCESS.csv"):
        log.write(HEADER + rows(3, 10), f"log/{name}")
    assert log.ingest(log.folder / "log").rows_in == 2
    assert log.ingest(log.folder / "log" / "**" / "*.csv").rows_in == 2


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "hour",
        "slot",
        "Like",
        "SLOT",
        "Timestamp",
        "phase",
        "local_day",
        "Variant",
        "position",
        "opened",
        "Fact",
        "__row",
    ],
)
def test_a_facet_with_a_name_of_the_platform_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the platform itself uses"):
        mapping(facets={name: "genre"})


def test_facets_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in case only"):
        mapping(facets={"genre": "a", "Genre": "b"})


def mapping(**parts: object) -> Mapping:
    base = {"source": "s", "columns": {"user_id": "u", "item_id": "i"}, "timestamp": {"column": "t"},
            "local_time": {"zone": "UTC"}, "facets": {"genre": "g"}, "behaviors": {"finish": "true"}}  # fmt: skip
    return Mapping.model_validate({**base, **parts})


@pytest.mark.parametrize("name", ["ts", "user_key", "reason", "event_key", "ts_missing"])
def test_a_facet_may_be_called_as_anything_inside(log: Log, name: str) -> None:
    log.write(f"uid,iid,{name}2,ts\nu,1,rock,{TIME}\n")
    log.ingest(facets=f"facets: {{{name}: {name}2}}")
    assert log.events()[name].tolist() == ["rock"]


def test_columns_may_be_called_as_anything_inside(log: Log) -> None:
    log.write(f'uid,iid,ts,reason,__row,c0,"a ""quoted"", name"\nu,1,{TIME},rock,9,z,q\nu,1,never,rock,9,z,q\n')
    account = log.ingest(facets='facets: {genre: reason, other: __row, third: c0, fourth: "a \\"quoted\\", name"}')
    events = log.events()
    assert events[["genre", "other", "third", "fourth"]].iloc[0].tolist() == ["rock", "9", "z", "q"]
    (bad,) = [json.loads(line) for line in Path(str(account.quarantine)).read_text().splitlines()]
    assert (bad["reason"], bad["content"]["reason"], bad["content"]["__row"]) == ("bad_timestamp", "rock", "9")


def test_names_that_are_empty_or_there_twice_hurt_only_where_they_are_used(log: Log) -> None:
    log.write(f"uid,iid,genre,ts,ID,id,,x,x,\nu,1,rock,{TIME},a,b,c,d,e,f\n")
    assert log.ingest(facets="facets: {genre: genre, big: ID, small: id}").kept == 1
    assert log.events()[["big", "small"]].iloc[0].tolist() == ["a", "b"]
    with pytest.raises(ConfigError, match="several columns named 'x'"):
        log.ingest(facets="facets: {genre: x, big: ID, small: id}")


# Ids.


def test_a_table_with_two_columns_of_one_name_is_read_unless_it_is_used(log: Log) -> None:
    cells = [pa.array(["a"]), pa.array(["i"]), pa.array(["x"]), pa.array([TIME]), pa.array(["b"])]
    path = log.folder / "log.parquet"
    pq.write_table(pa.Table.from_arrays(cells, names=["uid", "iid", "genre", "ts", "uid"]), path)
    with pytest.raises(ConfigError, match="several columns named 'uid'"):
        log.ingest(path)
    pq.write_table(pa.Table.from_arrays(cells, names=["uid", "iid", "genre", "ts", "other"]), path)
    assert log.ingest(path).kept == 1


def test_an_id_is_the_same_whatever_type_an_hour_gives_it(log: Log) -> None:
    for hour, ids in enumerate((pa.array([1, 2], pa.int64()), pa.array([1.0, None], pa.float64()))):
        table = pa.table({"uid": ids, "iid": ["x", "y"], "genre": ["g", "g"], "ts": [TIME, TIME]})
        pq.write_table(table, log.folder / f"{hour}.parquet")
    assert log.ingest(log.folder / "0.parquet").ids["user"] == "int"
    account = log.ingest(log.folder / "1.parquet")
    assert (account.kept, account.duplicates, account.reasons) == (0, 1, {"missing_user_id": 1})


def test_ids_of_decimals_are_those_of_other_numbers_and_lose_no_digit(log: Log) -> None:
    cells = {
        "a": pa.array([Decimal("7.00"), Decimal("8.50")]), "b": pa.array([7, 8]), "c": pa.array([7.0, 8.5]),
        "d": pa.array([Decimal(2**53), Decimal(2**53 + 1)], pa.decimal128(20, 0)),
    }  # fmt: skip
    for name, ids in cells.items():
        table = pa.table({"uid": ids, "iid": ["x", "x"], "genre": ["g", "g"], "ts": [TIME, TIME]})
        pq.write_table(table, log.folder / f"{name}.parquet")
    account = log.ingest(*(log.folder / f"{name}.parquet" for name in cells))
    assert (account.users, account.duplicates) == (5, 3)
    other = Log(log.write("", "other/empty").parent)
    other.ingest(log.folder / "a.parquet")
    assert other.ingest(log.folder / "c.parquet").duplicates == 2


def test_a_table_without_columns_is_an_hour_without_rows(log: Log) -> None:
    pd.DataFrame().to_parquet(log.folder / "a.parquet")
    assert log.ingest(log.folder / "a.parquet").rows_in == 0
    pd.DataFrame({"uid": ["a"], "iid": ["b"], "genre": ["x"], "ts": [TIME]}).to_parquet(log.folder / "b.parquet")
    assert log.ingest(log.folder / "a.parquet", log.folder / "b.parquet").kept == 1


def test_large_ids_of_two_types_are_not_rounded_into_one(log: Log) -> None:
    big = 2**53
    for name, ids in (("a", pa.array([big, big + 1], pa.int64())), ("b", pa.array([3.0, None], pa.float64()))):
        table = pa.table({"uid": ids, "iid": ["x", "x"], "genre": ["g", "g"], "ts": [TIME, TIME]})
        pq.write_table(table, log.folder / f"{name}.parquet")
    account = log.ingest(log.folder / "a.parquet", log.folder / "b.parquet")
    assert (account.kept, account.quarantined) == (3, 1)
    assert sorted(log.events()["user_id"]) == [3, big, big + 1]


def test_the_first_file_fixes_the_kind_of_ids(log: Log) -> None:
    log.write(HEADER + "".join(f"{n},i{n},x,{TIME}\n" for n in (1, 2, 3)))
    assert log.ingest().ids == {"item": "string", "user": "int"}
    log.write(HEADER + f"guest-a,i,x,{TIME}\n4,i,x,{TIME}\n007,i,x,{TIME}\n99999999999999999999,i,x,{TIME}\n")
    account = log.ingest()
    assert (account.kept, account.reasons) == (1, {"bad_user_id": 3})
    with pytest.raises(DataError, match="of kind int since its first ingestion"):
        log.ingest(ids="ids: {user: string}")


def test_numbers_among_words_are_words(log: Log) -> None:
    log.write(HEADER + f"u1,i,x,{TIME}\nu2,i,x,{TIME}\n")
    log.ingest()
    log.write(HEADER + f"101,i,x,{TIME}\n")
    assert log.ingest().kept == 1


def test_leading_zeros_and_19_digits_are_kept_apart(log: Log) -> None:
    log.write(HEADER + f"007,1234567890123456789,x,{TIME}\n7,1234567890123456789,x,{TIME}\n")
    account = log.ingest()
    assert (account.kept, account.users, account.ids) == (2, 2, {"item": "int", "user": "string"})
    assert set(log.events()["item_id"]) == {1234567890123456789}


def test_an_event_id_of_another_user_or_item_loses_no_row_without_a_word(log: Log) -> None:
    header = "uid,iid,genre,ts,event\n"
    columns = "columns: {user_id: uid, item_id: iid, event_id: event}"
    log.write(header + f"u,i,x,{TIME},1\nv,i,x,{TIME},1\nu,j,x,{TIME},1\nu,i,x,{TIME},1\nw,i,x,{TIME},2\n")
    account = log.ingest(columns=columns)
    assert (account.kept, account.duplicates, account.reasons) == (2, 1, {"conflicting_event_id": 2})
    again = log.ingest(columns=columns)
    assert (again.kept, again.duplicates, again.reasons) == (0, 3, {"conflicting_event_id": 2})
    log.write(header + f"z,i,x,{TIME},2\n" + "".join(f"n{n},i,x,{TIME},e{n}\n" for n in range(3)))
    account = log.ingest(columns=columns)
    assert (account.kept, account.reasons) == (3, {"conflicting_event_id": 1})
    contents = [json.loads(line)["content"] for line in Path(str(account.quarantine)).read_text().splitlines()]
    assert [content["uid"] for content in contents] == ["z"]


@pytest.mark.parametrize("word", ["NaN", "None", "null", "<NA>", "\\N"])
def test_words_for_a_missing_id_tie_no_rows_together_and_are_said_of_users(
    log: Log, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    log.write(
        "uid,iid,genre,ts,event\n" + "".join(f"u{n},i,x,{TIME},{word}\n" for n in range(3)) + f"{word},i,x,{TIME},e\n"
    )
    account = log.ingest(columns="columns: {user_id: uid, item_id: iid, event_id: event}")
    assert (account.kept, account.odd_ids) == (4, {"user: missing": 1})
    assert "columns.user_id: in 1 rows 'uid' reads NaN, None or another word" in caplog.text


def test_an_id_that_is_a_whole_object_is_warned_about(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"uid": {"$oid": f"5f{n}"}, "iid": "i", "genre": "x", "ts": TIME} for n in range(3)]
    log.write("\n".join(map(json.dumps, lines)), "log.jsonl")
    assert log.ingest(log.folder / "log.jsonl").odd_ids == {"user: nested": 3}
    assert "columns.user_id: in 3 rows 'uid' is a whole JSON object or list" in caplog.text
