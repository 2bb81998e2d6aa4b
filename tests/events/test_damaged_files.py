"""Random files with random damage: every row is accounted for, or the input is refused with one of the project's errors.

Half of the tests damage a file without mercy, and most of their examples end refused. The other half has one small flaw in
a good file, which costs its own row at most. More examples than the usual few: CLOCK_FUZZ_EXAMPLES=5000.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.errors import PlatformError
from core.settings import load_settings
from events.ingest import Account, ingest
from events.store import EventStore
from tests.conftest import NOW

EXAMPLES = int(os.environ.get("CLOCK_FUZZ_EXAMPLES", "6"))
fuzz = hypothesis_settings(
    max_examples=EXAMPLES,
    phases=[phase for phase in Phase if phase is not Phase.shrink or EXAMPLES < 100],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
COLUMNS = ("uid", "iid", "ts", "played", "length", "genre", "liked", "tz", "action", "shown")
MAPPING = """\
source: test
columns: {user_id: uid, item_id: iid, played_seconds: played, duration_seconds: length / 2}
timestamp: {column: ts, unit: UNIT, zone: Europe/Berlin}
local_time: {zone_column: tz}
facets: {genre: genre, prefix: "left(genre, 2)"}
behaviors: {finish: played_seconds / duration_seconds > 0.5, like: liked}
"""
ACTIONS = """\
actions: {column: action, values: {share: SHARE, like: [LIKE]}}
impressions: {values: [VIEW], list_column: shown}
"""
ODD = (
    "", " ", "null", "NaN", "inf", "-Infinity", "1e400", "-1", "0", "007", "1.0", "1.5", "9223372036854775808", "true", "off",
    '"', '""', 'a"b', "'", "a,b", "a\tb", "a\nb", "a\r\nb", "\x00", "\x01", "\ufeff", "é", "😀", "\\", "\\N", "{}", "[]", '["x","y"]',
    "[1,2", "x|y||z", "|", "2026-03-10T10:00:00Z", "2026-03-10 10:00", "2026-03-29 02:30:00", "2026-10-25 02:30", "0001-01-01",
    "99999-01-01", "2026-13-40", "infinity", "10:00 CST", "1773136800", "1773136800000", "-62135596800", "1e18",
    "Europe/Berlin", "UTC", "Mars/Base",
    "VIEW", "LIKE", "SHARE", "SELECT 1", "x" * 5000,
)  # fmt: skip
GOOD: dict[str, tuple[str, ...]] = {
    "uid": ("u1", "u2", "3"), "iid": ("i1", "i2", "7"), "ts": ("2026-03-10T10:00:00Z", "2026-03-10T10:20:00Z", "2026-03-10T11:30:00Z"),
    "played": ("10", "20.5", ""), "length": ("100", "30", ""), "genre": ("rock", "jazz", ""), "liked": ("true", "0", ""),
    "tz": ("UTC", "Europe/Berlin"), "action": ("VIEW", "LIKE", "SHARE", ""), "shown": ("", "i1|i2"),
}  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries(
        {name: st.one_of(st.sampled_from(GOOD[name]), st.sampled_from(ODD)) for name in COLUMNS}
        | {
            name: st.one_of(*[st.sampled_from(GOOD[name])] * 6, st.sampled_from(ODD))
            for name in ("uid", "iid", "ts", "tz")
        }
    ),
    max_size=8,
)
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]),
        st.integers(0, 10**6),
        st.sampled_from(
            [b'"', b"\x00", b"\xff", b"\n", b"\r", b"\r\n", b",", b"\\", b"'", b"{", b"]", b"\xef\xbb\xbf", b"\xff\xfe", b"\t",
             b"9" * 400, b"\x01", b"x" * 70_000]
        ),
    ),
    max_size=4,
)  # fmt: skip
TYPED = st.one_of(
    st.lists(st.sampled_from(ODD), min_size=4, max_size=4).map(pa.array),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1)), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.uint64())),
    st.lists(st.one_of(st.none(), st.floats()), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.bool_())),
    st.lists(st.one_of(st.none(), st.binary(max_size=4)), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.binary())),
    st.lists(st.lists(st.sampled_from(["i1", "", None]), max_size=3), min_size=4, max_size=4).map(
        lambda v: pa.array(v, pa.list_(pa.string()))
    ),
    st.lists(st.integers(-(2**62), 2**62), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.timestamp("us"))),
    st.lists(st.integers(-(2**62), 2**62), min_size=4, max_size=4).map(lambda v: pa.array(v, pa.timestamp("ns", tz="UTC"))),
    st.sampled_from(
        [
            pa.nulls(4), pa.array([{"a": 1}] * 4), pa.array([Decimal("1.50"), None, Decimal(7), Decimal("-0.01")]),
            pa.array([date(2026, 3, 10)] * 4), pa.array([datetime(2026, 3, 10, 10, n, tzinfo=UTC) for n in range(4)]),
            pa.array(["a", "b", "a", None]).dictionary_encode(), pa.array([3_600] * 4, pa.time32("s")),
            pa.array([5] * 4, pa.duration("us")), pa.array([[("k", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
        ]
    ),
)  # fmt: skip
UNITS = st.sampled_from(["iso", "iso", "s", "ms", "us"])


def damaged(content: bytes, damage: list[tuple[str, int, bytes]]) -> bytes:
    """The bytes after each kind of damage at its place."""
    for kind, place, piece in damage:
        at = place % (len(content) + 1)
        if kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << place % 8)]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "repeat":
            content = content[:at] + content[max(at - 40, 0) :]
        elif kind == "drop":
            content = content[:at] + content[at + 7 :]
    return content


def check(folder: Path, name: str, content: bytes, mapping: str) -> Account | None:
    """Ingest a file twice; every row is accounted for, or it is refused (None) before anything is written."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / name
    path.write_bytes(content)
    (folder / "mapping.yaml").write_text(mapping)
    settings = load_settings(var=folder / "var", source="test", mlflow_uri="")
    store = EventStore(settings.events_dir)
    account, refusal = None, ""
    try:
        account = ingest(str(folder / "mapping.yaml"), [str(path)], settings, now=NOW)
    except PlatformError as error:
        refusal = str(error)
    if account is None:
        assert "\n" not in refusal
        assert not store.hours()
        event("refused")
        return None
    adds_up(account)
    event("ingested" if account.kept else "nothing kept")
    again = ingest(str(folder / "mapping.yaml"), [str(path)], settings, now=NOW)
    adds_up(again)
    assert (again.rows_in, again.kept, again.merged, again.changed_hours) == (account.rows_in, 0, 0, [])
    assert sum(manifest.rows for manifest in store.manifests()) == account.kept
    return account


def adds_up(account: Account) -> None:
    assert account.rows_in == account.kept + account.duplicates + account.merged + account.quarantined


def mapping_of(unit: str, actions: bool, more: str = "") -> str:
    return MAPPING.replace("UNIT", unit) + (ACTIONS if actions else "") + more


def cell(text: str, quoting: bool) -> str:
    return '"' + text.replace('"', '""') + '"' if quoting or set(text) & set(',"\r\n') else text


@given(rows=ROWS, damage=DAMAGE, quoting=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\r"]), actions=st.booleans(),
       unit=UNITS, encoding=st.sampled_from(["utf-8", "utf-8", "latin-1", "utf-16"]), packed=st.booleans())  # fmt: skip
@fuzz
def test_damaged_csv_is_read_quarantined_or_refused(
    tmp_path: Path, rows: list[dict[str, str]], damage: list[tuple[str, int, bytes]], quoting: bool, end: str, actions: bool,
    unit: str, encoding: str, packed: bool,
) -> None:  # fmt: skip
    text = (
        end.join([",".join(COLUMNS), *(",".join(cell(row[name], quoting) for name in COLUMNS) for row in rows)]) + end
    )
    content = damaged(text.encode(encoding, "replace"), damage)
    if packed:
        content = damaged(gzip.compress(content, mtime=0), damage[:1] if len(damage) > 2 else [])
    name = "log.csv.gz" if packed else "log.csv"
    check(tmp_path / "case", name, content, mapping_of(unit, actions, f"csv: {{encoding: {encoding}}}\n"))


JSON_VALUES = st.one_of(
    st.sampled_from(ODD), st.none(), st.booleans(), st.integers(), st.floats(), st.just([]), st.just(["i1", 2, None]), st.just({"a": [1]})
)  # fmt: skip


@given(
    rows=st.lists(
        st.fixed_dictionaries({name: st.one_of(*[st.sampled_from(GOOD[name])] * 4, JSON_VALUES) for name in COLUMNS}).flatmap(
            lambda row: st.sets(st.sampled_from(COLUMNS), max_size=2).map(lambda gone: {k: v for k, v in row.items() if k not in gone})
        ),
        max_size=8,
    ),
    damage=DAMAGE, form=st.sampled_from(["lines", "array", "indented"]), actions=st.booleans(), unit=UNITS,
)  # fmt: skip
@fuzz
def test_damaged_json_is_read_quarantined_or_refused(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    damage: list[tuple[str, int, bytes]],
    form: str,
    actions: bool,
    unit: str,
) -> None:
    if form == "lines":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, indent=2 if form == "indented" else None)
    check(tmp_path / "case", "log.jsonl", damaged(text.encode("utf-8", "replace"), damage), mapping_of(unit, actions))


def good_cells(name: str) -> st.SearchStrategy[pa.Array]:
    """Four good cells of a column; what is counted has the type of numbers."""
    values: tuple[Any, ...] = (10.0, 20.5, None) if name in {"played", "length"} else GOOD[name]
    return st.lists(st.sampled_from(values), min_size=4, max_size=4).map(
        lambda cells: pa.array(cells, pa.float64() if name in {"played", "length"} else pa.string())
    )


@given(columns=st.fixed_dictionaries({name: st.one_of(*[good_cells(name)] * 7, TYPED) for name in COLUMNS}),
    damage=DAMAGE, whole=st.sampled_from([True, True, False]), actions=st.booleans(), unit=UNITS)  # fmt: skip
@fuzz
def test_damaged_tables_are_read_quarantined_or_refused(
    tmp_path: Path,
    columns: dict[str, pa.Array],
    damage: list[tuple[str, int, bytes]],
    whole: bool,
    actions: bool,
    unit: str,
) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path)
    content = path.read_bytes() if whole or not damage else damaged(path.read_bytes(), damage)
    check(tmp_path / "case", "log.parquet", content, mapping_of(unit, actions))


# One flaw in a good file.

FIRST = datetime(2026, 3, 10, 10, tzinfo=UTC)
SCALE = {"s": 1, "ms": 1_000, "us": 1_000_000}
MOST_OF_A_ROW = 5
"""So many events does a row give at most: an action, and a list of four items."""
GOOD_ROWS = st.lists(
    st.fixed_dictionaries(
        {name: st.sampled_from(GOOD[name]) for name in COLUMNS} | {"ts": st.integers(0, 90), "length": st.sampled_from(["100", "30"])}
    ),
    min_size=3, max_size=30,
)  # fmt: skip
"""Most cells of ``length`` are numbers whatever the flaw is: the mapping divides it, which words are refused for."""
ODD_CELL = st.tuples(st.sampled_from(COLUMNS), st.sampled_from(ODD))
PLACE = st.integers(0, 10**6)


def moment(minute: int, unit: str) -> str:
    at = FIRST + timedelta(minutes=minute)
    return at.isoformat() if unit == "iso" else str(round(at.timestamp()) * SCALE[unit])


def check_one_flaw(folder: Path, name: str, content: bytes, mapping: str, rows: int) -> None:
    """Ingest a file of so many good rows but for one flaw: it costs its own row at most."""
    account = check(folder, name, content, mapping)
    assert account is not None
    assert account.rows_in - account.unfolded in {rows - 1, rows, rows + 1}
    assert account.quarantined <= MOST_OF_A_ROW


@pytest.mark.slow
@given(rows=GOOD_ROWS, flaw=st.sampled_from(["none", "cell", "short", "long", "byte", "blank", "ends", "mark", "again"]),
       odd=ODD_CELL, place=PLACE, byte=st.sampled_from([b"\x00", b"\xff", b"\x01", b"\xe9", b"'", b"\\", b"\xc2\xa0", b"\r", b'"']),
       end=st.sampled_from(["\n", "\r\n", "\r"]), quoting=st.booleans(), actions=st.booleans(), unit=UNITS,
       packed=st.booleans())  # fmt: skip
@fuzz
def test_one_flaw_in_a_csv_costs_one_row_at_most(
    tmp_path: Path, rows: list[dict[str, Any]], flaw: str, odd: tuple[str, str], place: int, byte: bytes, end: str, quoting: bool,
    actions: bool, unit: str, packed: bool,
) -> None:  # fmt: skip
    at = place % len(rows)
    cells = [{**row, "ts": moment(row["ts"], unit)} for row in rows]
    if flaw == "cell":
        cells[at][odd[0]] = odd[1]
    lines = [",".join(cell(row[name], quoting) for name in COLUMNS) for row in cells]
    if flaw == "short":
        lines[at] = lines[at].rpartition(",")[0]
    elif flaw == "long":
        lines[at] += ",more"
    elif flaw == "blank":
        lines[at] += end
    elif flaw == "ends":
        lines[at] += "\r" if end == "\n" else ""
    elif flaw == "again":
        lines.append(lines[at])
    header = ",".join(COLUMNS).encode()
    body = [line.encode() for line in lines]
    if flaw == "byte":
        middle = place % (len(body[at]) + 1)
        body[at] = body[at][:middle] + byte + body[at][middle:]
    ends = [b"\n" if flaw == "ends" and n == at else end.encode() for n in range(len(body))]
    content = header + end.encode() + b"".join(line + mark for line, mark in zip(body, ends, strict=True))
    content = b"\xef\xbb\xbf" + content if flaw == "mark" else content
    name = "log.csv.gz" if packed else "log.csv"
    content = gzip.compress(content, mtime=0) if packed else content
    check_one_flaw(tmp_path / "case", name, content, mapping_of(unit, actions), len(lines))


@pytest.mark.slow
@given(rows=GOOD_ROWS, flaw=st.sampled_from(["none", "cell", "gone", "new", "byte", "text", "again"]), column=st.sampled_from(COLUMNS),
       value=JSON_VALUES, place=PLACE, byte=st.sampled_from([b"\x00", b"\xff", b"\x01", b"}", b"{", b",", b"\\", b"\r", b'"']),
       actions=st.booleans(), unit=UNITS)  # fmt: skip
@fuzz
def test_one_flaw_in_json_lines_costs_one_row_at_most(
    tmp_path: Path, rows: list[dict[str, Any]], flaw: str, column: str, value: Any, place: int, byte: bytes, actions: bool, unit: str
) -> None:  # fmt: skip
    at = place % len(rows)
    objects: list[dict[str, Any]] = [{**row, "ts": moment(row["ts"], unit)} for row in rows]
    if flaw == "cell":
        objects[at][column] = value
    elif flaw == "gone":
        del objects[at][column]
    elif flaw == "new":
        objects[at]["new"] = value
    elif flaw == "again":
        objects.append(objects[at])
    lines = [json.dumps(each, ensure_ascii=False).encode("utf-8", "replace") for each in objects]
    if flaw == "byte":
        middle = place % (len(lines[at]) + 1)
        lines[at] = lines[at][:middle] + byte + lines[at][middle:]
    elif flaw == "text":
        lines.append(b"done.")
    check_one_flaw(tmp_path / "case", "log.jsonl", b"\n".join(lines) + b"\n", mapping_of(unit, actions), len(lines))


@pytest.mark.slow
@given(rows=GOOD_ROWS, column=st.sampled_from([name for name in COLUMNS if name not in {"uid", "iid", "ts", "tz"}]), odd=TYPED,
       actions=st.booleans(), unit=UNITS)  # fmt: skip
@fuzz
def test_a_column_of_another_type_in_a_table_is_read_or_refused_as_a_whole(
    tmp_path: Path, rows: list[dict[str, Any]], column: str, odd: pa.Array, actions: bool, unit: str
) -> None:
    four = (rows * 2)[:4]
    columns: dict[str, Any] = {name: [row[name] for row in four] for name in COLUMNS}
    columns["ts"] = [moment(row["ts"], unit) for row in four]
    columns |= {
        name: pa.array([float(text) if text else None for text in columns[name]]) for name in ("played", "length")
    }
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns | {column: odd}), path)
    check(tmp_path / "case", "log.parquet", path.read_bytes(), mapping_of(unit, actions))
