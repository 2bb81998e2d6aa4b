"""Files that are not what their names say, and names that a pattern would read otherwise."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from core.cli import EXIT_ERROR
from core.errors import ConfigError, DataError
from core.settings import load_settings
from events.ingest import ingest
from tests.conftest import NOW
from tests.events.logs import BASE, HEADER, TIME, Log, rows


@pytest.mark.parametrize("name", ["a*.csv", "a?.csv", "a[bc].csv"])
def test_a_file_whose_name_looks_like_a_pattern_is_that_file_only(log: Log, name: str) -> None:
    log.write(HEADER + rows(2), name="ab.csv")
    assert log.ingest(log.write(HEADER + rows(1, start=9), name=name)).rows_in == 1


def test_patterns_in_names_mean_nothing_to_json_and_parquet_either(log: Log) -> None:
    cells = {"uid": "a", "iid": "b", "genre": "x", "ts": TIME}
    for name, user in (("a*", "a"), ("ab", "other")):
        log.write(json.dumps({**cells, "uid": user}) + "\n", name=f"{name}.jsonl")
        pd.DataFrame([{**cells, "uid": user, "iid": "c"}]).to_parquet(log.folder / f"{name}.parquet")
    assert log.ingest(log.folder / "a*.jsonl").rows_in == 1
    assert log.ingest(log.folder / "a*.parquet").rows_in == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", gzip.compress(b"uid,iid", mtime=0), "holds gzip and no text; call it .gz"),
        ("log.csv", b"PK\x03\x04" + bytes(20), "ZIP archive .or an Excel workbook. and no text"),
        ("log.csv", b"PAR1" + bytes(20), "set format: parquet"),
        ("log.json", b"BZh91AY&SY", "holds bzip2"),
        ("log.csv", (HEADER + rows(2)).encode("utf-32"), "holds UTF-32 and no text; save it as UTF-8"),
        ("log.csv.zst", b"\x28\xb5\x2f\xfd", "log.csv.zst holds Zstandard and no text; unpack or convert it"),
        ("log.feather", b"ARROW1", "log.feather holds Arrow and no text; unpack or convert it"),
        ("log.dat", (HEADER + rows(2)).encode(), "cannot tell the format of .*log.dat by its name"),
        ("log.csv.gz", (HEADER + rows(2)).encode(), "is not gzip, as its name says; take .gz off"),
        ("log.jsonl.gz", b"{}", "is not gzip, as its name says; take .gz off"),
        ("log.csv.gz", b"PK\x03\x04" + bytes(20), "holds a ZIP archive"),
        ("log.csv.gz", gzip.compress(gzip.compress(HEADER.encode())), "is packed twice by gzip; unpack it once"),
        ("log.csv.gz", gzip.compress(b"PAR1" + bytes(20)), "holds Parquet and no text"),
        (
            "log.csv.gz",
            gzip.compress(bytes(257) + b"ustar\x0000"),
            "holds a tar archive and no text; unpack or convert it",
        ),
        ("log.csv", b"<!DOCTYPE html><html>Log in</html>", "holds a page of HTML and no text; download the log itself"),
        (
            "log.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
            "pointer of Git LFS .* git lfs pull",
        ),
        (
            "log.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
            "pointer of Git LFS .* git lfs pull",
        ),
        ("log.parquet", gzip.compress(b"PAR1"), "holds gzip and no Parquet; unpack or convert it"),
    ],
)
def test_a_file_of_another_format_is_named_with_what_to_do(log: Log, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        log.ingest(log.write(content, name=name))
    assert not log.settings.events_dir.joinpath("source.json").exists()


def test_json_in_a_file_called_csv_is_named_with_the_format_to_set(log: Log) -> None:
    log.write(json.dumps({"uid": "a", "iid": "b", "genre": "x", "ts": TIME}) + "\n")
    with pytest.raises(ConfigError, match="it looks like JSON: set format: jsonl"):
        log.ingest()
    assert log.ingest(format="format: jsonl").kept == 1


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_of_files_that_were_put_together_are_no_part_of_ids(log: Log, name: str, end: str) -> None:
    parts = [HEADER + rows(3), rows(2), f'"u2",i2,rock,{TIME}\n', rows(1)]
    content = "".join("\ufeff" + part for part in parts).replace("\n", end).encode()
    account = log.ingest(log.write(gzip.compress(content, mtime=0) if name.endswith("gz") else content, name=name))
    assert (account.rows_in, account.users, account.quarantined) == (7, 3, 0)


def test_byte_order_marks_between_lines_of_json_cost_no_row(log: Log) -> None:
    texts = [json.dumps({"uid": f"u{n}", "iid": "i", "genre": "x", "ts": TIME}) for n in range(3)]
    assert log.ingest(log.write("".join(f"\ufeff{text}\n" for text in texts), name="log.jsonl")).kept == 3


@pytest.mark.parametrize(
    ("folder", "genre"),
    [
        ("genre=__HIVE_DEFAULT_PARTITION__", None),
        ("genre=a%3Ab%2Fc", "a:b/c"),
        ("genre=r%C3%B6ck%20roll", "röck roll"),
        ("genre=100%", "100%"),
        ("genre=a=b", "a=b"),
        ("genre=", None),
    ],
)
def test_a_folders_value_is_read_as_spark_and_arrow_write_it(log: Log, folder: str, genre: str | None) -> None:
    log.write(f"uid,iid,ts\nu,i,{TIME}\n", f"log/{folder}/part.csv")
    log.write(f"uid,iid,ts\nv,i,{TIME}\n", "log/genre=rock/part.csv")
    log.ingest(log.folder / "log")
    assert set(log.events()["genre"]) == {genre, "rock"}


def test_a_folders_key_in_two_spellings_is_one_column(log: Log) -> None:
    log.write(f"uid,iid,ts\nu,i,{TIME}\n", "log/Genre=rock/part.csv")
    log.write(f"uid,iid,ts\nv,i,{TIME}\n", "log/genre=jazz/part.csv")
    log.ingest(log.folder / "log", facets="facets: {genre: Genre}")
    assert set(log.events()["genre"]) == {"rock", "jazz"}


def test_a_folder_of_several_formats_is_refused(log: Log) -> None:
    log.write(HEADER + rows(1), name="log/a.csv")
    log.write("{}\n", name="log/b.jsonl")
    with pytest.raises(DataError, match=r"several formats \(csv, jsonl\); ingest one format at a time"):
        log.ingest(log.folder / "log")


def test_paths_that_are_no_files_are_refused_with_what_they_are(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write(HEADER + rows(2))
    monkeypatch.chdir(log.folder)
    os.mkfifo("pipe.csv")
    for path, message in (
        ("", "the path of a log is empty"),
        (" ", "the path of a log is empty"),
        ("pipe.csv", "'pipe.csv' is a pipe or a device"),
        ("/dev/null", "'/dev/null' is a pipe or a device"),
    ):
        with pytest.raises(DataError, match=message):
            log.ingest(path)


def test_folders_that_lead_back_into_themselves_are_read_once(log: Log) -> None:
    log.write(HEADER + rows(2), "log/a.csv")
    (log.folder / "log" / "loop").symlink_to(log.folder / "log")
    (log.folder / "log" / "b.csv").symlink_to(log.folder / "log" / "a.csv")
    (log.folder / "log" / "gone.csv").symlink_to(log.folder / "nowhere.csv")
    os.mkfifo(log.folder / "log" / "pipe.csv")
    assert log.ingest(log.folder / "log").rows_in == 2
    assert log.ingest(log.folder / "log" / "**" / "*.csv").rows_in == 2


def test_a_file_that_cannot_be_read_is_named(log: Log) -> None:
    with pytest.raises(DataError, match="/proc/self/mem cannot be read"):
        log.ingest("/proc/self/mem", format="format: csv")


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_another_delimiter_is_guessed_in_the_message(log: Log, delimiter: str) -> None:
    log.write((HEADER + rows(2)).replace(",", delimiter))
    shown = delimiter.replace("\t", "\\t")
    with pytest.raises(ConfigError) as refused:
        log.ingest()
    assert f'set csv: {{delimiter: "{shown}"}}' in str(refused.value)
    assert log.ingest(csv=f'csv: {{delimiter: "{shown}"}}').kept == 2


def test_text_that_is_no_utf_8_is_refused_with_the_encoding_to_try(log: Log) -> None:
    log.write((HEADER + "u1,i1,caf\xe9," + TIME + "\n").encode("latin-1"))
    with pytest.raises(DataError, match="encoding: latin-1"):
        log.ingest()
    assert log.ingest(csv="csv: {encoding: latin-1}").kept == 1
    assert log.events()["genre"].tolist() == ["caf\xe9"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"timestamp": "timestamp: {column: ts, format: '%Q'}"}, "line 3: timestamp.format: .*%Q"),
        ({"csv": "csv: {delimiter: '=====>'}"}, "line 7: csv: a delimiter has at most 4 bytes"),
        ({"csv": "csv: {skip: true}"}, "line 7: csv.skip: Input should be a valid integer"),
        ({"items": "items: {path: '', key: id}"}, "line 7: items.path: String should have at least 1 character"),
        ({"csv": "csv: {quote: ab}"}, "quote is one character of ASCII"),
        ({"csv": "csv: {quote: «}"}, "quote is one character of ASCII"),
        ({"csv": 'csv: {delimiter: "\\n"}'}, "a delimiter holds no line break"),
        ({"csv": 'csv: {delimiter: "\'", quote: "\'"}'}, "no quote"),
        (
            {"csv": "csv: {header: false, columns: [uid, uid, iid, ts]}"},
            "columns.user_id: .* several columns named 'uid'",
        ),
        ({"behaviors": "behaviors: {finish: \"genre ~ '('\"}"}, r"behaviors.finish: 'genre ~ '\(''"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_with_its_key(log: Log, part: dict[str, str], message: str) -> None:
    log.write(HEADER + rows(2))
    with pytest.raises(ConfigError, match=message):
        log.ingest(**part)


def test_nanoseconds_are_a_unit_and_a_likely_one_is_named(log: Log) -> None:
    log.write(HEADER + "u,i,rock,1773136800123456789\n")
    with pytest.raises(DataError, match="look like unit: ns; the mapping says unit: us"):
        log.ingest(timestamp="timestamp: {column: ts, unit: us}")
    log.ingest(timestamp="timestamp: {column: ts, unit: ns}")
    assert log.events()["timestamp"].tolist() == [pd.Timestamp("2026-03-10T10:00:00.123457Z")]


def test_offsets_that_no_clock_has_are_quarantined(log: Log) -> None:
    offsets = ("+14:00", "-0930", "+05", "+25:00", "-16:00", "+05:75")
    log.write(HEADER + "".join(f"u{n},i,rock,2026-03-10T10:00:00{offset}\n" for n, offset in enumerate(offsets)))
    account = log.ingest()
    assert account.reasons == {"bad_timestamp": 3}
    assert sorted(log.events()["timestamp"]) == [
        pd.Timestamp(moment) for moment in ("2026-03-09T20:00Z", "2026-03-10T05:00Z", "2026-03-10T19:30Z")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines_before_the_header_hide_no_row(log: Log, encoding: str, end: str) -> None:
    log.write(("\n\n" + HEADER + rows(3)).replace("\n", end).encode(encoding))
    assert log.ingest(csv=f"csv: {{encoding: {encoding.removesuffix('-sig')}}}").kept == 3


def test_json_that_is_nested_without_end_is_quarantined(log: Log) -> None:
    good = json.dumps({"uid": "a", "iid": "b", "genre": "x", "ts": TIME})
    deep = '{"uid": ' + "[" * 3000 + "]" * 3000 + "}"
    for text in (f"{deep}\n{good}\n", f"[{good},\n{deep}]\n"):
        account = log.ingest(log.write(text, name="log.jsonl"))
        assert (account.rows_in, account.quarantined) == (2, 1)


# Line ends, padding, and what stands between objects.


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ((HEADER + rows(2)).replace("\n", "\r\r\n"), 2),
        (HEADER + rows(1).replace("\n", "\r") + rows(2, 1), 3),
        (HEADER.replace("\n", "\r") + rows(1) + rows(2, 1).replace("\n", "\r"), 3),
        (HEADER.replace("\n", "\r\n") + rows(1).replace("\n", "\r") + rows(1, 1).replace("\n", "\r\n"), 2),
    ],
)
def test_carriage_returns_among_line_feeds_end_rows(log: Log, content: str, kept: int) -> None:
    log.write(content)
    account = log.ingest()
    assert (account.rows_in, account.kept, account.users) == (kept, kept, kept)


@pytest.mark.parametrize(("cell", "text"), [("ro\rck", "ro\rck"), ('"ro\rck"', "ro\rck"), ('"ro\r""ck"""', 'ro\r"ck"')])
def test_a_carriage_return_in_a_cell_is_part_of_it(log: Log, cell: str, text: str) -> None:
    log.write(HEADER + f"u,i,{cell},{TIME}\n" + rows(1))
    assert log.ingest().kept == 2
    assert text in set(log.events()["genre"])


def test_a_carriage_return_that_breaks_a_row_costs_that_row_only(log: Log) -> None:
    log.write(HEADER + f"u,i\rrock,{TIME}\n" + rows(3))
    account = log.ingest()
    assert (account.kept, account.reasons) == (3, {"malformed_row": 2})


def test_zeros_after_a_packed_or_plain_file_hide_no_row(log: Log) -> None:
    plain = (HEADER + rows(2)).encode()
    log.write(gzip.compress(plain, mtime=0) + bytes(512), name="log.csv.gz")
    assert log.ingest(log.folder / "log.csv.gz").kept == 2
    account = log.ingest(log.write(plain + bytes(512), name="padded.csv"))
    assert (account.duplicates, account.reasons) == (2, {"control_character": 1})


@pytest.mark.parametrize("form", ["{}", "\x1e{}\n", "{}\r", "{},\n", "{} {}\n"])
def test_objects_may_follow_each_other_in_any_way(log: Log, form: str) -> None:
    texts = [
        json.dumps({"uid": f"u{n}", "iid": "i", "genre": "a\u2028b", "ts": TIME}, ensure_ascii=False) for n in range(4)
    ]
    per_form = form.count("{}")
    content = "".join(form.format(*texts[n : n + per_form]) for n in range(0, 4, per_form))
    assert log.ingest(log.write(content, name="log.json")).kept == 4
    assert set(log.events()["genre"]) == {"a\u2028b"}


def test_one_bad_object_of_a_line_of_many_costs_itself(log: Log) -> None:
    good = [json.dumps({"uid": f"u{n}", "iid": "i", "genre": "x", "ts": TIME}) for n in range(4)]
    account = log.ingest(log.write("".join([*good[:2], '{"uid":,"iid":1}', *good[2:]]), name="log.jsonl"))
    assert (account.kept, account.reasons) == (4, {"malformed_json": 1})


def test_a_name_in_another_case_is_proposed(log: Log) -> None:
    log.write(HEADER.replace("uid", "UID") + rows(1))
    with pytest.raises(ConfigError, match="no column 'uid'; did you mean 'UID'"):
        log.ingest()


# What shows nothing.


@pytest.mark.parametrize(
    "blank", ["\u00a0", "\u3000", "\u2028", "\u200b", "\ufeff", "\t", "\x0b", "\u200e \u00a0", "\x85"]
)
def test_an_id_of_blanks_only_is_missing(log: Log, blank: str) -> None:
    cells = {"uid": "u", "iid": "i", "genre": "x", "ts": TIME}
    rows_ = [{**cells, "uid": blank}, {**cells, "iid": f" {blank}"}, {**cells, "genre": blank}]
    log.write("\n".join(json.dumps(row) for row in rows_), name="log.jsonl")
    account = log.ingest(log.folder / "log.jsonl")
    assert account.reasons == {"missing_item_id": 1, "missing_user_id": 1}
    assert (account.kept, account.null_facets) == (1, {"genre": 1})


@pytest.mark.parametrize("blank", ["\u00a0", "\u200b", "\ufeff", "\u2060", "\u200e", "\t", "\u3000"])
def test_blanks_around_an_id_are_no_part_of_it(log: Log, blank: str) -> None:
    rows_ = [{"uid": user, "iid": "i", "genre": "x", "ts": TIME} for user in ("u", f"{blank}u", f"u{blank} ", "u u")]
    account = log.ingest(log.write("\n".join(map(json.dumps, rows_)), name="log.jsonl"))
    assert (account.users, account.duplicates) == (2, 2)


def test_a_flag_that_ends_with_signs_that_show_nothing_alone_stays_that_flag(log: Log) -> None:
    england = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    log.write(HEADER + f"u,i,{england},{TIME}\nv,i,\U0001f3f4,{TIME}\n")
    log.ingest()
    assert set(log.events()["genre"]) == {england, "\U0001f3f4"}


def test_blanks_inside_an_id_are_part_of_it(log: Log) -> None:
    log.write(HEADER + f"a\u00a0b,i,x,{TIME}\na b,i,x,{TIME}\n")
    assert log.ingest().users == 2


def test_a_list_without_end_costs_its_row_and_not_the_memory(log: Log) -> None:
    shown = "|".join(f"i{n}" for n in range(100_000))
    log.write(f"uid,iid,genre,ts,shown\nu,,x,{TIME},{shown}\nu,,x,{TIME},a|b\n")
    account = log.ingest(impressions="impressions: {list_column: shown}")
    assert (account.rows_in, account.kept, account.reasons) == (3, 2, {"list_too_long": 1})


def test_too_little_memory_is_an_error_that_names_the_setting(log: Log) -> None:
    log.write(HEADER + rows(60_000))
    log.settings = log.settings.model_copy(update={"duckdb_memory": "2MB"})
    with pytest.raises(DataError, match="the memory of 2MB is not enough; set CLOCK_DUCKDB_MEMORY"):
        log.ingest()


def test_items_of_a_list_that_are_blanks_only_were_not_shown(log: Log) -> None:
    log.write(f"uid,iid,genre,ts,shown\nu,,x,{TIME},a|\u00a0|\u200b|b\n")
    assert log.ingest(impressions="impressions: {list_column: shown}").kept == 2


def test_rows_of_the_items_table_that_cannot_be_read_are_said(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write('id,mood\ni0,"calm\ni1,wild\n', name="items/items.csv")
    log.write(HEADER + rows(2))
    account = log.ingest(facets="", items="items: {path: items/items.csv, key: id, facets: {mood: mood}}")
    assert account.null_facets == {"mood": 1}
    assert "items.csv): 1 rows could not be read" in caplog.text


# Paths.


@pytest.mark.parametrize("folder", ["log [old]", "a*b", "what?", "[x]"])
def test_a_pattern_below_a_folder_with_signs_in_its_name_means_that_folder(log: Log, folder: str) -> None:
    log.write(HEADER + rows(1), f"{folder}/2026-03-10T10.csv")
    log.write(HEADER + rows(1, 5), "a/2026-03-10T10.csv")
    for pattern in ("{hour}.csv", "*.csv", "2026-03-10T1?.csv"):
        assert log.ingest(log.folder / folder / pattern).rows_in == 1


def test_an_hour_pattern_of_the_mapping_may_stand_below_such_a_folder_too(tmp_path: Path) -> None:
    log = Log(tmp_path / "log [old]")
    path = log.write(HEADER + rows(1), "2026-03-10T10.csv")
    log.ingest(path)
    mapping = tmp_path / "log [old]" / "mapping.yaml"
    mapping.write_text(mapping.read_text() + "paths: ['{hour}.csv']\n")
    assert ingest(str(mapping), [], log.settings, now=NOW).duplicates == 1


@pytest.mark.parametrize("name", ["a\\b", "a?b", "a%20b", "a\nb"])
def test_a_workspace_that_databases_would_not_find_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"CLOCK_VAR: .* holds .*choose a folder without it") as error:
        load_settings(var=tmp_path / name, source="test", mlflow_uri="")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a#b", "100%", "a*b", "[a]", "it's", 'a"b', "a;b", "a b", "é"])
def test_a_workspace_may_have_any_other_name(tmp_path: Path, name: str) -> None:
    log = Log(tmp_path / name)
    log.write(HEADER + rows(3))
    assert (log.ingest().kept, log.ingest().duplicates) == (3, 3)


def test_a_backslash_beside_a_sign_of_patterns_is_refused(log: Log) -> None:
    assert log.ingest(log.write(HEADER + rows(1), name="a\\b.csv")).kept == 1
    with pytest.raises(DataError, match="a backslash and one of"):
        log.ingest(log.write(HEADER + rows(1), name="a\\b[1].csv"))


# Files that must not be read.


@pytest.fixture
def powerless() -> list[str]:
    """Beginning of a command line whose process has no right to what the modes of files forbid."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read every file, and there is no setpriv to take that right away")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "argument", "message"),
    [
        ("log/a.csv", "log", "log/a.csv cannot be read (Permission denied)"),
        ("log/more", "log", "log/more' cannot be looked into (Permission denied)"),
        ("log", "log/*.csv", "log/*.csv' must not be read or written by this user (Permission denied)"),
        ("mapping.yaml", "log", "mapping.yaml' cannot be read: Permission denied"),
        ("var", "log", "var/test/version.json' must not be read or written by this user (Permission denied)"),
    ],
)
def test_what_must_not_be_read_or_written_is_named_in_one_line(
    log: Log, powerless: list[str], closed: str, argument: str, message: str
) -> None:
    log.write(HEADER + rows(3), "log/a.csv")
    log.write(HEADER + rows(3, 9), "log/more/b.csv")
    log.write("\n".join(BASE.values()), "mapping.yaml")
    (log.folder / "var").mkdir()
    path = log.folder / closed
    path.chmod(0o000)
    try:
        done = subprocess.run(
            [*powerless, sys.executable, "-m", "clock", "events", "ingest", str(log.folder / "mapping.yaml"), str(log.folder / argument)],
            env={**os.environ, "CLOCK_VAR": str(log.folder / "var")}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        path.chmod(0o700)
    assert done.returncode == EXIT_ERROR
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not log.settings.events_dir.exists()


ROWS = "uid;iid;genre;ts\n1;7;rock;2026-03-10T10:00:00Z\n2;8;jazz;2026-03-10T10:01:00Z\n"


@pytest.mark.parametrize(
    ("notes", "count"),
    [("sep=;\n", 1), ("# exported by hand\n# on a Monday\n", 2), ("// log\r\n\r\n", 2), ('% "quoted\n', 1)],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_before_a_header_are_named_and_passed_over(tmp_path: Path, notes: str, count: int, encoding: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes((notes + ROWS).encode(encoding))
    options = f'delimiter: ";", encoding: {"utf-16" if encoding == "utf-16" else "utf-8"}'
    written = """source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
behaviors: {finish: "true"}
csv: {OPTIONS}
"""
    mapping, settings = tmp_path / "mapping.yaml", load_settings(var=tmp_path / "var", source="test")
    mapping.write_text(written.replace("OPTIONS", options))
    with pytest.raises(ConfigError, match=rf"like a note: set csv: \{{skip: {count}\}}"):
        ingest(str(mapping), [str(path)], settings, now=NOW)
    assert not settings.events_dir.exists()
    mapping.write_text(written.replace("OPTIONS", f"{options}, skip: {count}"))
    account = ingest(str(mapping), [str(path)], settings, now=NOW)
    assert (account.rows_in, account.kept, account.quarantined) == (2, 2, 0)


@pytest.mark.parametrize(
    ("first", "rest", "told"),
    [
        ("uid,iid,genre,ts\n", rows(3), True),
        ("User,Item,Genre,When\n", rows(3), True),
        ('"user name",track,genre,"at, UTC"\n', rows(3), True),
        ("uid,iid,genre,ts\n", "", True),
        (rows(1, start=9), rows(3), False),
        ("u9,i9,rock,yesterday\n", "u,i,x,today\n", False),
        ("u9,i9,rock,\n", rows(3), False),
        ("\n", "", False),
    ],
)
def test_a_header_that_the_mapping_denies_is_told(
    log: Log, caplog: pytest.LogCaptureFixture, first: str, rest: str, told: bool
) -> None:
    log.write(first + rest, name="a.csv")
    log.write(rows(2, start=20), name="b.csv")
    log.ingest(log.folder / "a.csv", log.folder / "b.csv", csv="csv: {header: false, columns: [uid, iid, genre, ts]}")
    assert ("a.csv: its first line looks like a header" in caplog.text) == told
    assert ("skip: 1" in caplog.text) == told


def test_a_header_of_a_table_of_items_that_the_mapping_denies_is_told(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.write(HEADER + rows(3))
    log.write("id::mood::year\ni1::calm::1999\n", name="items.dat")
    csv = "{header: false, delimiter: '::', columns: [key, feel, year]}"
    log.ingest(items=f"items: {{path: items.dat, format: csv, csv: {csv}, key: key, facets: {{mood: feel}}}}")
    assert "items.dat: its first line looks like a header (id::mood::year)" in caplog.text
