"""Logs that are read while they are written: whole rows only, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError, DataError
from events.mapping import Mapping, load_mapping
from events.mapping_csv import CsvOptions
from streaming.tail import LogTail
from tests.conftest import write_mapping


def tail(path: Path, **csv: object) -> LogTail:
    mapping: Mapping = load_mapping(str(write_mapping(path.parent)))[0]
    return LogTail(path, mapping.model_copy(update={"csv": CsvOptions(**csv)}))


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_rows_come_when_they_are_whole_each_once_with_the_header(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = tail(path)
    assert log.read() == b""
    append(path, b"uid,tr")
    assert log.read() == b""
    append(path, b"ack\nu1,t1\nu2,")
    assert log.read() == b"uid,track\nu1,t1\n"
    assert log.read() == b""
    append(path, b"t2\nu3,t3\n")
    assert log.read() == b"uid,track\nu2,t2\nu3,t3\n"


def test_a_line_break_within_quotes_ends_no_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = tail(path)
    append(path, b'uid,note\nu1,"one\ntwo","three\n')
    assert log.read() == b""
    append(path, b'four"\nu2,plain\nu3,"open\n')
    assert log.read() == b'uid,note\nu1,"one\ntwo","three\nfour"\nu2,plain\n'
    append(path, b"u4,x\n" * 300_000)  # the quote was a stray one
    assert log.read().startswith(b'uid,note\nu3,"open\nu4,x\n')


def test_notes_before_the_header_and_logs_without_one(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    append(path, b"exported today\nuid,track\nu1,t1\n")
    assert tail(path, skip=1).read() == b"exported today\nuid,track\nu1,t1\n"
    assert tail(path, header=False, columns=("uid", "track")).read() == path.read_bytes()
    lines = tmp_path / "log.jsonl"
    append(lines, b'{"uid": "u1"}\n{"uid": "u')
    log = tail(lines)
    assert log.read() == b'{"uid": "u1"}\n'
    append(lines, b'2", "note": "a \\" quote"}\n')
    assert log.read() == b'{"uid": "u2", "note": "a \\" quote"}\n'


def test_a_file_that_is_renamed_when_it_is_complete_is_read_on(tmp_path: Path) -> None:
    path, part = tmp_path / "log.csv", tmp_path / "log.csv.part"
    log = tail(path)
    append(part, b"uid,track\nu1,t1\n")
    assert log.read() == b"uid,track\nu1,t1\n"
    append(part, b"u2,t2\n")
    part.rename(path)
    assert log.read() == b"uid,track\nu2,t2\n"
    packed = tail(tmp_path / "packed.csv.gz")  # packed when it is complete
    append(tmp_path / "packed.csv", b"uid,track\nu1,t1\n")
    assert packed.read() == b"uid,track\nu1,t1\n"
    path.write_bytes(b"uid,track\n")
    with pytest.raises(DataError, match="cut off or written again"):
        log.read()


@pytest.mark.parametrize(("name", "begin"), [("log.parquet", b""), ("log.csv", b"\xff\xfeu\x00")])
def test_other_formats_are_refused(tmp_path: Path, name: str, begin: bytes) -> None:
    append(tmp_path / name, begin)
    with pytest.raises(ConfigError, match=r"only (CSV|UTF-8)"):
        tail(tmp_path / name).read()
