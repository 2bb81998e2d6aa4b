"""Quotes, lines, encodings and JSON, as logs really have them."""

from __future__ import annotations

import gzip
import json
import zipfile

import pytest

from core.errors import ConfigError, DataError
from events.guess import guess_mapping
from events.mapping import Mapping, load_mapping
from tests.events.logs import HEADER, TIME, Log, rows

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


def test_files_of_a_folder_that_are_packed_otherwise_are_told(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write(HEADER + rows(3), "log/day1.csv")
    log.write(b"\x28\xb5\x2f\xfd", "log/day2.csv.zst")
    with zipfile.ZipFile(log.folder / "log" / "day3.zip", "w") as archive:
        archive.writestr("day3.csv", HEADER + rows(3, 6))
        archive.writestr("day4.csv", HEADER + rows(3, 9))
    log.write("about this log", "log/README")
    log.write("<!DOCTYPE html>", "log/about.html")
    assert log.ingest(log.folder / "log").kept == 3
    assert "2 files in folder" in caplog.text
    assert "such as day2.csv.zst, which holds Zstandard; if they belong to the log, unpack or convert" in caplog.text


def test_files_of_a_folder_without_a_known_name_are_named(log: Log) -> None:
    log.write("1::2::3::4", "ml/ratings.dat")
    with pytest.raises(
        DataError, match=r"holds no log files .*; if ratings.dat are logs, name them by their paths and set format"
    ):
        log.ingest(log.folder / "ml")


def test_objects_as_python_prints_them_are_read(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    objects = [
        {"username": f"O'Neil {n}", "iid": n, "genre": None if n else "é", "ts": TIME, "early": True} for n in range(30)
    ]
    path = log.write("\n".join([*map(repr, objects), "{'username': 'a', 'iid'", ""]), "log.json")
    account = log.ingest(
        path, columns="columns: {user_id: username, item_id: iid}", behaviors="behaviors: {finish: early}"
    )
    assert (account.kept, account.reasons, account.null_facets) == (30, {"malformed_json": 1}, {"genre": 29})
    assert (account.behaviors, account.ids) == ({"finish": 30}, {"user": "string", "item": "int"})
    assert load_mapping_of(guess_mapping([str(path)], source="printed"), log).columns.user_id == "username"


def load_mapping_of(text: str, log: Log) -> Mapping:
    return load_mapping(str(log.write(text, "guessed.yaml")))[0]
