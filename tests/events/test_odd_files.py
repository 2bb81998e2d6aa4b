"""Files that are not what their names say, and names that a pattern would read otherwise."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from core.errors import ConfigError, DataError
from tests.events.test_real_logs import HEADER, TIME, Log, rows


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


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
        ("log.csv.zst", b"\x28\xb5\x2f\xfd", "cannot tell the format of .*log.csv.zst by its name"),
        ("log.feather", b"ARROW1", "cannot tell the format of .*log.feather by its name"),
    ],
)
def test_a_file_of_another_format_is_named_with_what_to_do(log: Log, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        log.ingest(log.write(content, name=name))
    assert not log.settings.events_dir.joinpath("source.json").exists()


def test_a_folder_of_several_formats_is_refused(log: Log) -> None:
    log.write(HEADER + rows(1), name="log/a.csv")
    log.write("{}\n", name="log/b.jsonl")
    with pytest.raises(DataError, match=r"several formats \(csv, jsonl\); ingest one format at a time"):
        log.ingest(log.folder / "log")


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
