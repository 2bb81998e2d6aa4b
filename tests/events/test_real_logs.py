"""Logs as people really have them: each kind of trouble with the value that is right."""

from __future__ import annotations

import csv
import gzip
import json
import logging
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError, DataError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import Account, ingest
from events.mapping import Mapping, is_zone
from events.store import EventStore
from tests.conftest import NOW

BASE = {
    "source": "source: test",
    "columns": "columns: {user_id: uid, item_id: iid}",
    "timestamp": "timestamp: {column: ts}",
    "local_time": "local_time: {zone: UTC}",
    "facets": "facets: {genre: genre}",
    "behaviors": 'behaviors: {finish: "true"}',
}
HEADER = "uid,iid,genre,ts\n"
TIME = "2026-03-10T10:00:00Z"


class Log:
    """A folder with a mapping and a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings = load_settings(var=folder / "var", source="test", mlflow_uri="")

    def write(self, content: str | bytes, name: str = "log.csv") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def ingest(self, *paths: Path | str, **mapping: str) -> Account:
        (self.folder / "mapping.yaml").write_text("\n".join({**BASE, **mapping}.values()) + "\n")
        names = [str(path) for path in paths] or [str(self.folder / "log.csv")]
        return ingest(str(self.folder / "mapping.yaml"), names, self.settings, now=NOW)

    def events(self) -> pd.DataFrame:
        store = EventStore(self.settings.events_dir)
        return pa.concat_tables(store.read(hour) for hour in store.hours()).to_pandas()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def rows(count: int, start: int = 0) -> str:
    return "".join(f"u{n},i{n},rock,2026-03-10T10:{n % 60:02d}:00Z\n" for n in range(start, start + count))


def outcomes(log: Log, behavior: str) -> dict[int, bool | None]:
    frame = log.events().sort_values("timestamp")
    return [None if pd.isna(value) else bool(value) for value in frame[behavior]]  # type: ignore[return-value]


# What cannot be known is not true.


@pytest.mark.parametrize(
    "expression",
    ["played / length >= 0.9", "played // length >= 1 OR played / length >= 0.9", "1 / (played / length) < 2"],
)
def test_what_is_divided_by_zero_is_unknown(log: Log, expression: str) -> None:
    log.write(
        f"uid,iid,genre,ts,played,length\na,1,x,{TIME},0,0\nb,1,x,2026-03-10T10:01:00Z,5,0\nc,1,x,2026-03-10T10:02:00Z,9,9\n"
    )
    log.ingest(behaviors=f'behaviors: {{finish: "{expression}"}}')
    assert outcomes(log, "finish") == [None, None, True]


def test_numbers_of_a_table_that_are_not_finite_are_unknown(log: Log) -> None:
    frame = pd.DataFrame(
        {"uid": ["a", "b", "c"], "iid": "x", "genre": "g", "rating": [float("nan"), float("inf"), 5.0],
         "ts": pd.to_datetime([TIME, "2026-03-10T10:01:00Z", "2026-03-10T10:02:00Z"])}
    )  # fmt: skip
    frame.to_parquet(log.folder / "log.parquet")
    log.ingest(log.folder / "log.parquet", behaviors='behaviors: {like: "rating >= 4"}')
    assert outcomes(log, "like") == [None, None, True]


def test_yes_and_no_are_read_however_they_are_written(log: Log) -> None:
    cells = ["1.0", "0.0", "on", "OFF", " true ", "No", "", "2", "-1", "0.5", "maybe"]
    lines = [f"u,i{n},x,2026-03-10T10:{n:02d}:00Z,{cell}\n" for n, cell in enumerate(cells)]
    log.write("uid,iid,genre,ts,liked\n" + "".join(lines))
    account = log.ingest(behaviors="behaviors: {like: liked}")
    assert outcomes(log, "like") == [True, False, True, False, True, False, None, None, None, None, None]
    assert account.unreadable == {"behaviors.like": 4}


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


# Quotes and lines.


def test_a_quote_that_was_never_meant_swallows_no_row(log: Log) -> None:
    lines = rows(999).splitlines()
    lines[1] = lines[1].replace("rock", '"rock')
    lines[699] = lines[699].replace("rock", 'rock"')
    log.write(HEADER + "\n".join(lines) + "\n")
    account = log.ingest()
    assert account.rows_in == 999
    assert account.kept >= 997
    assert account.reasons["open_quote"] == 1


def test_a_quote_that_is_never_closed_costs_its_own_row(log: Log) -> None:
    lines = rows(999).splitlines()
    lines[1] = lines[1].replace("rock", '"rock')
    log.write(HEADER + "\n".join(lines) + "\n")
    account = log.ingest()
    assert (account.rows_in, account.kept, account.reasons) == (999, 998, {"open_quote": 1})


def test_cells_over_several_lines_and_loose_quotes_are_read(log: Log) -> None:
    log.write(HEADER + f'u,1,"rock\nand\n""roll""",{TIME}\nu,2,12" single,{TIME}\n' + rows(30))
    account = log.ingest()
    assert (account.rows_in, account.kept) == (32, 32)
    assert {'rock\nand\n"roll"', '12" single'} <= set(log.events()["genre"])


def test_mixed_line_ends_and_old_ones_are_read(log: Log) -> None:
    log.write(HEADER.replace("\n", "\r\n") + rows(2).replace("\n", "\r\n") + rows(2, 2))
    assert log.ingest().kept == 4
    log.write((HEADER + rows(3, 4)).replace("\n", "\r"))
    assert log.ingest().kept == 3
    assert set(log.events()["genre"]) == {"rock"}


def test_encodings_are_read_or_named(log: Log) -> None:
    text = HEADER + f"u,song,Café,{TIME}\n"
    log.write(text.encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16"):
        log.ingest()
    log.ingest(csv="csv: {encoding: utf-16}")
    log.write(text.encode("latin-1") + rows(2).encode())
    assert log.ingest().reasons == {"bad_encoding": 1}
    assert log.ingest(csv="csv: {encoding: latin-1}").duplicates == 3
    assert set(log.events()["genre"]) == {"Café", "rock"}


def test_a_tsv_has_tabs(log: Log) -> None:
    path = log.write((HEADER + rows(2)).replace(",", "\t"), "log.tsv")
    assert log.ingest(path).kept == 2
    path = log.write((HEADER + rows(2)).replace(",", "\t"), "log.txt")
    assert log.ingest(path, csv=r"csv: {delimiter: '\t'}").duplicates == 2


def test_files_with_other_headers_are_joined_by_name(log: Log) -> None:
    paths = [log.write(HEADER + rows(2), "a.csv"), log.write(f"ts,uid,iid\n{TIME},z,z\n", "b.csv")]
    assert log.ingest(*paths).kept == 3
    assert log.events()["genre"].isna().sum() == 1


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv.gz", gzip.compress(b"", mtime=0)), ("a.csv", b"\n"), ("a.jsonl", b"\n\n")]
)
def test_a_file_without_rows_is_an_hour_without_rows(log: Log, name: str, content: bytes) -> None:
    path = log.write(content, f"log/{name}")
    account = log.ingest(path)
    assert (account.rows_in, account.kept, account.quarantined) == (0, 0, 0)
    log.write(b"\r\n", "two/a.csv")
    log.write(HEADER + rows(2), "two/b.csv")
    assert log.ingest(log.folder / "two").kept == 2


def test_a_cell_of_ten_megabytes_is_a_cell(log: Log) -> None:
    log.write(HEADER + f'u,1,"{"x" * 10_000_000}",{TIME}\n' + rows(1))
    assert log.ingest().kept == 2


# JSON.


def objects(count: int) -> list[dict[str, object]]:
    return [{"uid": f"u{n}", "iid": "i", "genre": "a, [b]", "ts": f"2026-03-10T10:{n:02d}:00Z"} for n in range(count)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("form", ["array", "stream", "line_each"])
def test_json_arrays_and_objects_over_several_lines_are_read(log: Log, indent: int | None, form: str) -> None:
    texts = [json.dumps(o, indent=indent) for o in objects(30)]
    content = {
        "array": json.dumps(objects(30), indent=indent),
        "stream": "\n".join(texts),
        "line_each": "[" + ",\n".join(texts) + "]",
    }
    path = log.write(content[form], "log.json")
    account = log.ingest(path)
    assert (account.rows_in, account.kept) == (30, 30)
    assert set(log.events()["genre"]) == {"a, [b]"}


def test_arrays_that_follow_each_other_are_read_object_by_object(log: Log) -> None:
    texts = [json.dumps(objects(30)[:10]), json.dumps(objects(30)[10:20], indent=2), json.dumps(objects(30)[20:])]
    account = log.ingest(log.write("\n".join([*texts, "[]", '{"uid": "alone"}']), "log.json"))
    assert (account.rows_in, account.kept, account.reasons) == (31, 30, {"missing_timestamp": 1})
    nested = log.write(f"[{json.dumps(objects(1)[0])}, [1, 2], [[3]]]", "nested.json")
    assert log.ingest(nested).reasons == {"malformed_json": 2}


def test_what_python_writes_for_no_number_is_no_value_of_json(log: Log) -> None:
    lines = [
        json.dumps({"uid": u, "iid": "i", "genre": g, "ts": TIME})
        for u, g in ((float("nan"), "x"), ("a", float("-inf")), ("b", "NaN"))
    ]
    account = log.ingest(log.write("\n".join(lines), "log.jsonl"))
    assert account.reasons == {"missing_user_id": 1}
    assert set(log.events()["genre"]) == {None, "NaN"}


def test_an_object_with_a_key_twice_is_quarantined(log: Log) -> None:
    lines = [json.dumps(o) for o in objects(3)]
    lines[1] = lines[1].replace('"uid"', '"uid": "other", "uid"')
    account = log.ingest(log.write("\n".join(lines), "log.jsonl"))
    assert (account.rows_in, account.kept, account.reasons) == (3, 2, {"repeated_key": 1})


def test_rows_inside_of_one_object_are_named_with_how_to_take_them_out(log: Log) -> None:
    path = log.write(json.dumps({"total": 1, "data": objects(3)}), "log.json")
    with pytest.raises(
        ConfigError, match=r"no column 'uid'.*the list under 'data'\? Take them out, for example with jq"
    ):
        log.ingest(path)


def test_one_bad_line_of_json_costs_one_row(log: Log) -> None:
    lines = [json.dumps(o).encode() for o in objects(20)]
    lines[3] = lines[3].replace(b"[b]", b"\xff")
    lines[5] = lines[5].replace(b"[b]", b"\x01")
    lines[7] = lines[7].replace(b'"uid"', b'"UID"')
    path = log.write(b"\n".join(lines), "log.jsonl")
    account = log.ingest(path)
    assert (account.rows_in, account.kept) == (20, 17)
    assert account.reasons == {"bad_encoding": 1, "control_character": 1, "missing_user_id": 1}


def test_keys_of_json_may_be_anything(log: Log) -> None:
    odd = {'a"b': "1", "": "2", "*": "3", "x/y~z": "4", "$.q": "5", "0": "6"}
    path = log.write(json.dumps({**objects(1)[0], **odd}), "log.jsonl")
    log.ingest(path, facets="facets: {genre: genre, star: '*', slash: x/y~z, dollar: $.q, zero: '0'}")
    assert log.events()[["star", "slash", "dollar", "zero"]].iloc[0].tolist() == ["3", "4", "5", "6"]


# Times.


def test_abbreviations_of_zones_and_infinity_are_no_times(log: Log) -> None:
    times = [
        "2026-03-10 10:00:00 CST",
        "2026-03-10 10:00:00 PST",
        "infinity",
        "epoch",
        TIME,
        "2026-03-10 11:00:00 Europe/Berlin",
    ]
    log.write(HEADER + "".join(f"u,{n}i,x,{time}\n" for n, time in enumerate(times)))
    account = log.ingest(timestamp="timestamp: {column: ts, zone: Asia/Shanghai}")
    assert account.reasons == {"bad_timestamp": 2, "zone_abbreviation": 2}
    assert set(log.events()["timestamp"]) == {pd.Timestamp(TIME)}


def test_a_format_with_a_zones_name_takes_no_abbreviation(log: Log) -> None:
    cells = ["2026-03-10 10:00 CST", "2026-03-10 10:00 UTC", "2026-03-10 10:00 Asia/Shanghai", "2026-03-10 10:00 IST"]
    log.write(HEADER + "".join(f"u{n},i,x,{cell}\n" for n, cell in enumerate(cells)))
    account = log.ingest(timestamp='timestamp: {column: ts, format: "%Y-%m-%d %H:%M %Z"}')
    assert account.reasons == {"zone_abbreviation": 2}
    assert sorted(t.hour for t in log.events()["timestamp"]) == [2, 10]


def test_a_zone_with_spaces_around_it_is_that_zone(log: Log) -> None:
    log.write("uid,iid,genre,ts,tz\n" + f"u,i,x,{TIME}, Europe/Berlin \n")
    log.ingest(local_time="local_time: {zone_column: tz}")
    assert log.events()["local_time"].dt.hour.tolist() == [11]


def test_an_infinite_time_of_a_table_is_no_time(log: Log) -> None:
    import duckdb

    path = log.folder / "log.parquet"
    duckdb.sql(
        f"""COPY (SELECT 'u' AS uid, i::VARCHAR AS iid, 'x' AS genre, t AS ts FROM (VALUES (1, TIMESTAMP 'infinity'),
        (2, TIMESTAMP '2026-03-10 10:00:00')) v(i, t)) TO '{path}'"""
    )
    account = log.ingest(path)
    assert (account.kept, account.quarantined) == (1, 1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-10 10:00:00 +0100", "09:00"),
        ("2026-03-10 10:00:00 -05:30", "15:30"),
        ("2026-03-10T10:00:00+1", "09:00"),
        ("2026-03-10t10:00:00z", "10:00"),
        ("2026-03-10 10:00:00 Z", "10:00"),
        ("2026-03-10T10:00:00UTC", "10:00"),
        ("2026-03-10 10:00:00,000", "10:00"),
        ("2026-03-10t10:00:00,0", "10:00"),
        ("2026-03-10 10:00 Etc/GMT+5", "15:00"),
    ],
)
def test_times_of_iso_8601_are_read_as_ruby_git_python_and_java_write_them(log: Log, text: str, moment: str) -> None:
    log.write(HEADER + f'u,i,x,"{text}"\n')
    log.ingest()
    assert [f"{t:%H:%M}" for t in log.events()["timestamp"]] == [moment]


def test_an_unusual_spelling_of_a_time_without_an_offset_is_shown_twice_as_any_other(log: Log) -> None:
    log.write(HEADER + 'u,1,x,"2026-10-25t02:30:00,5"\nu,2,x,"2026-10-25 02:30:00,5"\n')
    account = log.ingest(timestamp="timestamp: {column: ts, zone: Europe/Berlin, fold: first}")
    assert account.ambiguous_times == 2
    assert [f"{t:%H:%M}" for t in log.events()["timestamp"]] == ["00:30", "00:30"]


@pytest.mark.parametrize(
    ("zone", "time", "moments"),
    [
        ("Australia/Lord_Howe", "2026-04-05 01:45:00", ["14:45", "15:15"]),
        ("Antarctica/Troll", "2026-10-25 01:30:00", ["23:30", "01:30"]),
        ("Australia/Lord_Howe", "2026-10-04 02:15:00", ["15:45", "15:45"]),
        ("Antarctica/Troll", "2026-03-29 01:30:00", ["01:30", "01:30"]),
    ],
)
def test_clocks_that_change_by_half_an_hour_or_two_are_read_as_others(
    tmp_path: Path, zone: str, time: str, moments: list[str]
) -> None:
    for fold, moment in zip(("first", "second"), moments, strict=True):
        (tmp_path / fold).mkdir()
        log = Log(tmp_path / fold)
        log.write(HEADER + f"u,i,x,{time}\n")
        account = log.ingest(timestamp=f"timestamp: {{column: ts, zone: {zone}, fold: {fold}}}")
        assert account.ambiguous_times + account.skipped_times == 1
        assert [f"{t:%H:%M}" for t in log.events()["timestamp"]] == [moment]


def test_a_decimal_comma_is_named_with_the_expression_that_reads_it(log: Log) -> None:
    log.write(f"uid;iid;genre;ts;played\nu;i;x;{TIME};1,5\nu;j;x;{TIME};2,25\n")
    played = "columns: {user_id: uid, item_id: iid, played_seconds: PLAYED}"
    with pytest.raises(
        DataError, match=r"not_a_number:played 2.*a cell reads '1,5'; write \"replace\(played, ',', '.'\)\""
    ):
        log.ingest(csv='csv: {delimiter: ";"}', columns=played.replace("PLAYED", "played"))
    log.ingest(csv='csv: {delimiter: ";"}', columns=played.replace("PLAYED", "\"replace(played, ',', '.')\""))
    assert sorted(log.events()["played_seconds"]) == [1.5, 2.25]


@pytest.mark.parametrize(("fold", "hours"), [("second", [1, 2]), ("first", [0, 2])])
def test_the_repeated_hour_of_autumn_is_the_mappings_choice(log: Log, fold: str, hours: list[int]) -> None:
    log.write(HEADER + "u,1,x,2026-10-25 02:30:00\nu,2,x,2026-10-25 03:30:00\nu,3,x,2026-03-29 02:30:00\n")
    account = log.ingest(timestamp=f"timestamp: {{column: ts, zone: Europe/Berlin, fold: {fold}}}")
    assert [t.hour for t in sorted(log.events()["timestamp"])][1:] == hours
    assert (account.ambiguous_times, account.skipped_times) == (1, 1)


def test_times_that_are_not_clear_may_be_refused(log: Log) -> None:
    log.write(HEADER + "u,1,x,2026-10-25 02:30:00\nu,2,x,2026-10-25 03:30:00\nu,3,x,2026-03-29 02:30:00\n")
    account = log.ingest(timestamp="timestamp: {column: ts, zone: Europe/Berlin, fold: reject}")
    assert (account.kept, account.reasons) == (1, {"ambiguous_local_time": 1, "skipped_local_time": 1})


def test_a_wrong_unit_is_an_error_that_names_the_right_one(log: Log) -> None:
    log.write(HEADER + "".join(f"u,{n},x,{1772438400000 + n}\n" for n in range(50)))
    with pytest.raises(DataError, match="look like unit: ms"):
        log.ingest(timestamp="timestamp: {column: ts, unit: s}")
    assert not log.settings.events_dir.joinpath("source.json").exists()


def test_a_log_with_dates_only_is_warned_about(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    dates = "".join(f"u{n},i,x,2026-03-{n % 9 + 10}\n" for n in range(30))
    log.write(HEADER + dates)
    zone = "timestamp: {column: ts, zone: Asia/Tokyo}"
    assert log.ingest(timestamp=zone).midnights == 30
    assert "all of the 30 events are at midnight" in caplog.text
    caplog.clear()
    log.write(HEADER + dates.replace("u", "v") + rows(1, 50))
    assert log.ingest(timestamp=zone).midnights == 30
    assert "midnight" not in caplog.text


def test_times_with_a_type_need_no_unit_and_the_message_says_so(log: Log) -> None:
    table = pa.table({"uid": ["a"], "iid": ["b"], "genre": ["x"], "ts": pa.array([1773136800], pa.timestamp("s"))})
    pq.write_table(table, log.folder / "log.parquet")
    with pytest.raises(
        DataError, match="Times such as '2026-03-10 10:00:00' look like unit: iso; the mapping says unit: s"
    ):
        log.ingest(log.folder / "log.parquet", timestamp="timestamp: {column: ts, unit: s}")


@pytest.mark.parametrize("name", ["localtime", "posixrules", "right/Europe/Berlin", "Mars/Base"])
def test_a_zone_is_one_that_every_library_knows(name: str) -> None:
    assert not is_zone(name)
    assert is_zone("Europe/Berlin")


def test_offsets_that_are_no_numbers_are_quarantined(log: Log) -> None:
    cells = ["60", "nan", "inf", "1e300", ""]
    log.write("uid,iid,genre,ts,off\n" + "".join(f"u,{n}i,x,{TIME},{cell}\n" for n, cell in enumerate(cells)))
    account = log.ingest(local_time='local_time: {offset_minutes_column: "off"}')
    assert (account.kept, account.reasons) == (1, {"unknown_zone": 4})
    assert log.events()["local_time"].tolist() == [pd.Timestamp("2026-03-10T11:00:00")]


# Expressions.


def test_an_error_inside_an_expression_names_it_and_the_row(log: Log) -> None:
    log.write(HEADER + rows(5) + f"u,1,x,{TIME}\n")
    with pytest.raises(ConfigError, match=r"behaviors\.finish: .*fails in row"):
        log.ingest(behaviors='behaviors: {finish: "CAST(genre AS INT) = 1"}')
    assert not log.settings.events_dir.joinpath("source.json").exists()


def test_a_log_without_attributes_has_the_item_for_its_facet(log: Log) -> None:
    log.write(HEADER + rows(2))
    log.ingest(facets="")
    assert log.events()["item"].tolist() == ["i0", "i1"]


@pytest.mark.parametrize("expression", ["rating:float >= 4", "rating IN (SELECT 4)", "a b > 1"])
def test_a_name_that_needs_quotes_gets_the_hint(log: Log, expression: str) -> None:
    log.write(HEADER + rows(2))
    with pytest.raises(ConfigError, match="written in double quotes"):
        log.ingest(behaviors=f'behaviors: {{like: "{expression}"}}')


def test_a_column_called_off_gets_the_hint(log: Log) -> None:
    log.write(HEADER + rows(2))
    with pytest.raises(ConfigError, match="write the name in quotes"):
        log.ingest(local_time="local_time: {offset_minutes_column: off}")


NESTED = [{"uid": f"u{n}", "iid": "i", "ts": TIME, "geo": {"country": "DE"}, "tags": ["a", "b"]} for n in range(3)]


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        ("csv", ("geo->>'$.country'", "tags->>'$[0]'")),
        ("jsonl", ("geo->>'$.country'", "tags->>'$[0]'")),
        ("parquet", ("geo['country']", "tags[1]")),
    ],
)
def test_an_attribute_that_is_a_whole_object_or_list_is_warned_about_with_how_to_name_a_part(
    log: Log, caplog: pytest.LogCaptureFixture, form: str, parts: tuple[str, str]
) -> None:
    path = log.folder / f"log.{form}"
    if form == "csv":
        texts = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in NESTED]
        pd.DataFrame(texts).to_csv(path, index=False)
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, NESTED)))
    else:
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    account = log.ingest(path, facets="facets: {land: geo}\ncontext: {tag: tags}")
    assert (account.kept, account.nested) == (3, {"land": 3, "tag": 3})
    for key, part in (("facets.land", parts[0].replace("country", "name")), ("context.tag", parts[1])):
        assert any(
            line.startswith(f"{key}: ") and line.endswith(f"name a part of it: {part}") for line in caplog.messages
        )
    caplog.clear()
    other = Log(log.write("", "other/empty").parent)
    rule = f'facets: {{land: "{parts[0]}"}}\ncontext: {{tag: "{parts[1]}"}}'
    assert other.ingest(path, facets=rule).nested == {}
    assert {tuple(row) for row in other.events()[["land", "tag"]].to_numpy()} == {("DE", "a")}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_words_in_brackets_are_neither_objects_nor_lists(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write(
        HEADER + "".join(f"u{n},i,{cell},{TIME}\n" for n, cell in enumerate(("[deleted]", "{x}", "[", "[a] b [c]")))
    )
    assert log.ingest().nested == {}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_cell_that_is_no_json_costs_its_value_and_is_counted(log: Log) -> None:
    cells = ('"{""country"": ""DE""}"', "", "oops", "[1")
    log.write("uid,iid,geo,ts\n" + "".join(f"u{n},i,{cell},{TIME}\n" for n, cell in enumerate(cells)))
    account = log.ingest(facets="facets: {land: \"geo->>'$.country'\"}")
    assert (account.kept, account.null_facets, account.unreadable) == (4, {"land": 3}, {"facets.land": 2})


def test_an_items_table_with_a_cell_that_is_no_json_is_read(log: Log) -> None:
    log.write('id,about\ni0,"{""mood"": ""calm""}"\ni1,oops\n', name="items.csv")
    log.write(HEADER + rows(2))
    log.ingest(facets="", items="items: {path: items.csv, key: id, facets: {mood: \"about->>'$.mood'\"}}")
    assert log.events()["mood"].tolist() == ["calm", None]


# Exposures.


def test_exposures_are_read_as_events_are(log: Log) -> None:
    log.write(HEADER + rows(5), "log/a.csv")
    log.write(
        "user,experiment,variant,at\nu1,e,control,2026-03-10 11:00:00\nu2,e,control,2099-01-01 00:00:00\n"
        "u3,e,,2026-03-10 11:00:00\nu4,e,treatment,yesterday\n,e,treatment,2026-03-10 11:00:00\n",
        "exposures/a.csv",
    )
    account = log.ingest(
        log.folder / "log",
        exposures="exposures: {path: '../exposures/{name}', user_id: user, timestamp: {column: at, zone: Europe/Berlin}}",
    )
    assert account.exposures == 1
    assert account.exposure_reasons == {"bad_timestamp": 1, "in_future": 1, "missing_user_id": 1, "missing_variant": 1}
    store = EventStore(log.settings.events_dir)
    (row,) = store.read_exposures(Hour.parse("2026-03-10T10")).to_pylist()
    assert row["timestamp"] == datetime(2026, 3, 10, 10, tzinfo=UTC)
    assert [hour.key for hour in store.hours()] == ["2026-03-10T10"]


def test_exposed_users_are_whole_numbers_as_those_of_events_are(log: Log) -> None:
    log.write(HEADER + f"8,i,x,{TIME}\n", "log/a.csv")
    users = ("8.0", "7.5", "008", "1e1", "9")
    log.write("user,experiment,variant,at\n" + "".join(f"{user},e,control,{TIME}\n" for user in users), "exposures.csv")
    account = log.ingest(
        log.folder / "log", exposures="exposures: {path: ../exposures.csv, user_id: user, timestamp: {column: at}}"
    )
    assert account.exposure_reasons == {"bad_user_id": 3}
    rows_ = EventStore(log.settings.events_dir).read_exposures(Hour.parse("2026-03-10T10")).to_pylist()
    assert sorted(row["user_id"] for row in rows_) == [8, 9]


def test_a_column_without_content_is_unknown_in_every_expression(log: Log) -> None:
    """An hour in which nobody has a length is an hour like any other."""
    log.write('{"uid":"a","iid":"x","ts":"2026-03-10T10:00:00Z","genre":"","length":""}\n', "log.jsonl")
    account = log.ingest(
        log.folder / "log.jsonl",
        columns="columns: {user_id: uid, item_id: iid, duration_seconds: length / 2}",
        facets="facets: {genre: genre, letter: 'left(genre, 1)'}",
        behaviors="behaviors: {finish: length / 2 > 1}",
    )
    assert (account.kept, account.quarantined) == (1, 0)
    assert outcomes(log, "finish") == [None]


def test_empty_cells_do_not_make_a_column_of_numbers_text(log: Log) -> None:
    cells = ["", "", "100"]
    lines = [json.dumps({"uid": "a", "iid": f"i{n}", "ts": TIME, "length": cell}) for n, cell in enumerate(cells)]
    log.write("\n".join(lines) + "\n", "l.jsonl")
    account = log.ingest(log.folder / "l.jsonl", facets="", behaviors="behaviors: {finish: length / 2 > 1}")
    assert (account.kept, account.quarantined) == (3, 0)
    assert list(log.events()["finish"]).count(True) == 1


def test_a_zone_column_of_another_type_is_no_zone(log: Log) -> None:
    frame = pd.DataFrame({"uid": ["a"] * 30, "iid": ["x"] * 30, "genre": ["rock"] * 30})
    frame["tz"] = pd.Timestamp("2026-03-10")
    frame["ts"] = [f"2026-03-10T10:{n:02d}:00Z" for n in range(30)]
    frame.to_parquet(log.folder / "log.parquet")
    with pytest.raises(DataError, match="unknown_zone 30"):
        log.ingest(log.folder / "log.parquet", local_time="local_time: {zone_column: tz}")


def test_utf_16_without_its_mark_and_a_header_without_end_are_refused(log: Log) -> None:
    log.write((HEADER + rows(2)).encode("utf-16")[2:])
    with pytest.raises(DataError, match="no byte order mark"):
        log.ingest(csv="csv: {encoding: utf-16}")
    log.write("uid,iid,genre," + "x" * 200_000 + "\n" + rows(2))
    csv.field_size_limit(1 << 24)  # as a reader of other tables in this process leaves it
    with pytest.raises(DataError, match="cannot be read as a header"):
        log.ingest()


# A message is one line, whatever the names of columns and the expressions are.


@pytest.mark.parametrize(
    ("content", "mapping", "message"),
    [
        ('"uid,iid,genre,ts\ru,i,rock,2026-03-10T10:00:00Z\r', {}, r"no column 'uid' \(columns: uid,iid,genre,ts u,i"),
        (
            HEADER,
            {"behaviors": "behaviors:\n  finish: |\n    uid =\n    (SELECT 1)\n"},
            r"'uid = \(SELECT 1\)' must be one",
        ),
        (HEADER, {"behaviors": "behaviors:\n  finish: |\n    uid =\n    geenre\n"}, r"\(uid = geenre\): .*'genre'"),
        (",".join(f"c{n}" for n in range(500)) + "\n", {}, r"c39 and 460 more\)"),
    ],
)
def test_messages_are_one_line(log: Log, content: str, mapping: dict[str, str], message: str) -> None:
    log.write(content)
    with pytest.raises(ConfigError, match=message) as refused:
        log.ingest(**mapping)
    assert "\n" not in str(refused.value)
    assert not (log.settings.events_dir / "source.json").exists()


def test_a_file_name_with_a_line_break_is_refused(log: Log) -> None:
    path = log.write(HEADER, name="log\n2.csv")
    with pytest.raises(DataError, match=r"log\\n2.csv': a path with control characters"):
        log.ingest(path)
