"""Logs that come packed: bzip2, xz and ZIP are read as what is in them; what cannot be read is named with what to do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from core.errors import DataError
from events.guess import guess_mapping
from events.mapping_csv import CsvOptions
from tests.events.logs import HEADER, TIME, Log, rows
from tests.packed import PACKERS, archive, zipped

PLAIN = (HEADER + rows(40) + "u1,i1,rock\n").encode()


@pytest.mark.parametrize("ending", [*PACKERS, ".BZ2"])
@pytest.mark.parametrize(
    "content", [PLAIN, PLAIN.replace(b"\n", b"\r\n", 3), b"\xef\xbb\xbf" + PLAIN, PLAIN + b"u\xff,i,x,\n"]
)
def test_a_packed_log_gives_the_events_of_the_plain_one(tmp_path: Path, ending: str, content: bytes) -> None:
    plain, packed = Log(tmp_path / "plain"), Log(tmp_path / "packed")
    account = plain.ingest(plain.write(content))
    file = packed.write(PACKERS[ending.lower()](content), f"log.csv{ending}")
    told = packed.ingest(file)
    assert account.kept == 40
    assert (told.rows_in, told.kept, told.reasons) == (account.rows_in, account.kept, account.reasons)
    assert packed.events().equals(plain.events())
    assert packed.ingest(file).kept == 0


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_json_is_read_also_as_an_array(log: Log, ending: str) -> None:
    objects = [{"uid": f"u{n}", "iid": "i", "genre": "x", "ts": TIME} for n in range(30)]
    lines = "\n".join(map(json.dumps, objects)).encode()
    pack = PACKERS[ending] if ending != ".zip" else lambda content: zipped(content, "log.jsonl")
    assert log.ingest(log.write(pack(lines), f"a.jsonl{ending}")).kept == 30
    assert log.ingest(log.write(pack(json.dumps(objects).encode()), f"b.json{ending}")).duplicates == 30


@pytest.mark.parametrize("ending", PACKERS)
def test_a_mapping_is_guessed_from_a_packed_log(log: Log, ending: str) -> None:
    content = (
        "uid\tiid\tgenre\tfinish\tts\n" + "".join(f"u{n}\ti{n}\trock\t{n % 2}\t{TIME}\n" for n in range(50))
    ).encode()
    plain = guess_mapping([str(log.write(content, "log.tsv"))], source="test")
    assert guess_mapping(
        [str(log.write(PACKERS[ending](content), f"log.tsv{ending}"))], source="test"
    ) == plain.replace("log.tsv", f"log.tsv{ending}")


def test_an_archive_is_read_by_the_name_of_its_only_file(log: Log) -> None:
    content = PLAIN.replace(b",", b"\t")
    assert log.ingest(log.write(zipped(content, "ratings.tsv"), "archive.zip")).kept == 40
    assert CsvOptions().delimiter_of(log.folder / "archive.zip") == "\t"
    assert log.ingest(log.write(zipped(content, "ratings"), "ratings.tsv.zip")).duplicates == 40
    tables = "items: {path: items.zip, key: id, facets: {mood: mood}}"
    log.write(zipped(b"id,mood\ni1,calm\n", "items.csv"), "items.zip")
    other = Log(log.folder / "other")
    log.write(zipped(b"id,mood\ni1,calm\n", "items.csv"), "other/items.zip")
    other.ingest(other.write(PLAIN), items=tables)
    assert set(other.events()["mood"].dropna()) == {"calm"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", archive(("x.csv", PLAIN), ("y.csv", PLAIN)), r"a.zip is an archive of 2 files \(x.csv, y.csv\).*unpack it, and name"),
        ("a.csv.zip", archive(*((f"{n}.csv", PLAIN) for n in range(5))), r"archive of 5 files \(0.csv, 1.csv, 2.csv, ...\)"),
        ("a.csv.zip", archive(("__MACOSX/x", b"")), "is an archive of no file"),
        ("a.zip", archive(("x.csv", PLAIN), flags=1), "a.zip is encrypted; unpack it with its password"),
        ("a.csv.gz", gzip.compress(PLAIN)[:-30], "a.csv.gz is damaged or was cut short"),
        ("a.csv.zip", zipped(PLAIN)[:-30], "a.csv.zip is damaged or was cut short"),
        ("a.csv.xz", lzma.compress(PLAIN)[:-30], "a.csv.xz is damaged or was cut short"),
        ("a.csv.bz2", bz2.compress(PLAIN)[:-30], "a.csv.bz2 is damaged or was cut short"),
        ("a.csv.bz2", PLAIN, "is not bzip2, as its name says; take .bz2 off"),
        ("a.csv.bz2", bz2.compress(bz2.compress(PLAIN)), "is packed twice by bzip2; unpack it once"),
        ("a.csv.xz", lzma.compress(b"PAR1" + PLAIN), "holds Parquet and no text; call it .parquet"),
        ("a.csv", bz2.compress(PLAIN), "holds bzip2 and no text; call it .bz2"),
        ("a.csv.7z", b"7z\xbc\xaf\x27\x1c", "holds a 7z archive and no text; unpack or convert it"),
        ("a.rar", b"Rar!\x1a\x07", "holds a RAR archive and no text; unpack or convert it"),
        ("a.parquet.zip", zipped(b"PAR1", "a.parquet"), "holds a ZIP archive .* and no Parquet; unpack or convert it"),
    ],
)  # fmt: skip
def test_what_cannot_be_unpacked_is_named_with_what_to_do(log: Log, name: str, content: bytes, message: str) -> None:
    file = log.write(content, name)
    with pytest.raises(DataError, match=message):
        log.ingest(file)
    assert not log.settings.events_dir.joinpath("source.json").exists()
    with pytest.raises(DataError, match=message.replace("is damaged or was cut short", "cannot be looked at")):
        guess_mapping([str(file)])


def test_a_method_that_python_does_not_know_is_named(log: Log) -> None:
    content = bytearray(archive(("x.csv", PLAIN)))
    for magic, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(magic) + place] = 9  # Deflate64, as Windows packs large files
    with pytest.raises(DataError, match=r"cannot be unpacked here .*; unpack it by the program that packed it"):
        log.ingest(log.write(bytes(content), "x.csv.zip"))
