"""An input read in pieces, as executors read it, is the input read whole: the same rows, numbers, reasons, and errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import duck
from core.errors import PlatformError
from core.settings import load_settings
from events.forgotten import ForgottenMatcher
from events.local_input import LocalInput, Log
from events.mapping import load_mapping
from events.part_tasks import QuarantineLines, Reader
from events.pieces import read_pieces
from events.quarantine import quarantine_lines
from events.store import EventStore
from tests.conftest import NOW
from tests.events.logs import BASE

T = TypeVar("T")
R = TypeVar("R")
NAMES = ("uid", "iid", "genre", "ts", "secs", "liked")
CELLS = {
    "uid": ["1", "2", "7.0", "u3", "", "NaN", '{"a":1}'],
    "iid": ["10", "11", "i12", ""],
    "genre": ["rock", 'a "b" c', "x, y", "", "two\nlines"],
    "ts": ["2026-03-10T10:00:00Z", "2025-10-26 02:30:00", "2026-03-29 02:30:00", "soon", "", "2031-01-01T00:00:00Z"],
    "secs": ["3", "4.5", "x", "", "-1", "inf"],
    "liked": ["1", "0", "maybe", "", "true"],
}
MAPPING = {
    **BASE,
    "columns": "columns: {user_id: uid, item_id: iid, played_seconds: secs}",
    "timestamp": "timestamp: {column: ts, zone: Europe/Berlin, fold: reject}",
    "behaviors": "behaviors: {finish: secs > 3, like: liked}",
}
GOOD = {"uid": "1", "iid": "10", "genre": "rock", "ts": "2026-03-10T10:00:00Z", "secs": "3", "liked": "1"}
ROWS = st.lists(st.fixed_dictionaries({name: st.sampled_from(cells) for name, cells in CELLS.items()}), max_size=12)


def one_after_the_other(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]


def outcome(folder: Path, files: list[Path], size: int | None) -> dict[str, Any]:
    """What becomes of a log that is read whole, or in pieces of about a size."""
    mapping, here = load_mapping(str(folder / "mapping.yaml"))
    workspace = load_settings(var=folder / "var", source="test", mlflow_uri="")
    forgotten = ForgottenMatcher({})
    log = Log(mapping, files, [here], NOW, (None, None), forgotten)
    cells = '__row, event_id, user_key, item_key, ts, local_time, played_seconds, finish, "like", "facet:genre"'
    with duck.connection(workspace) as con:
        try:
            if size is None:
                read = LocalInput(con, log, EventStore(folder / "store"))
                rows = con.execute(f"SELECT {cells} FROM staged WHERE reason IS NULL ORDER BY __row").fetchall()
                counts, staging = read.counts, read.staging
                return {
                    "rows": rows, "counts": counts, "ids": read.ids, "unreadable": staging.unreadable, "shifted": staging.shifted,
                    "quarantine": quarantine_lines(con, staging.raw),
                }  # fmt: skip
            target = folder / "pieces"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            pieces = read_pieces(con, log, Reader(workspace, log, {}, target), one_after_the_other, size)
        except PlatformError as error:
            return {"error": str(error)}
        staged = {str(r.staged): offset for r, offset in zip(pieces.results, pieces.offsets, strict=False)}
        rows = [
            (row[0] + offset, *row[1:])
            for file, offset in staged.items()
            for row in con.execute(f"SELECT {cells} FROM read_parquet('{file}') ORDER BY __row").fetchall()
        ]
        quarantined = [file for r in pieces.results if (file := r.quarantine)]
        batches = (batch for file in quarantined for batch in pq.read_table(file).to_batches())
        lines = [line for batch in QuarantineLines(pieces.offsets)(batches) for line in batch["line"].to_pylist()]
        return {
            "rows": rows, "counts": pieces.counts, "ids": pieces.results[0].ids, "unreadable": pieces.sums("unreadable"),
            "shifted": pieces.sums("shifted"), "quarantine": sorted(lines),
        }  # fmt: skip


def write_log(folder: Path, kind: str, logs: list[list[dict[str, str]]], columns: list[list[str]]) -> list[Path]:
    files = []
    for number, (rows, names) in enumerate(zip(logs, columns, strict=True)):
        path = (
            folder / f"genre=g{number}" / f"log{number}.{kind}"
            if "genre" not in names
            else folder / f"log{number}.{kind}"
        )
        path.parent.mkdir(exist_ok=True)
        kept = [{name: row[name] for name in names} for row in rows]
        if kind == "csv":
            quoted = (",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set('",\n') else cell
                               for cell in row.values()) for row in kept)  # fmt: skip
            path.write_text("\n".join([",".join(names), *quoted, *(["short,row"] if number else [])]) + "\n")
        elif kind == "jsonl":
            lines = [json.dumps({name: cell for name, cell in row.items() if cell}) for row in kept]
            path.write_text("\n".join([*lines, *(["{broken"] if number else [])]) + "\n")
        else:
            table = pa.table({name: pa.array([row[name] or None for row in kept], pa.string()) for name in names})
            if number == 1 and all((row["secs"] or "0").replace(".", "").isdigit() for row in kept):
                numbers = pa.array([float(row["secs"]) if row["secs"] else None for row in kept], pa.float64())
                table = table.set_column(names.index("secs"), "secs", numbers) if "secs" in names else table
            pq.write_table(table, path)
        files.append(path)
    return files


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_log_read_in_pieces_is_the_log_read_whole(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text("\n".join(MAPPING.values()) + "\n")
    differing = set()

    @settings(max_examples=10)
    @example(
        logs=[[GOOD, GOOD | {"iid": "11"}, GOOD | {"ts": "soon"}], [GOOD | {"uid": "2"}]],
        columns=[[*NAMES]] * 3,
        size=60,
    )
    @given(
        logs=st.lists(ROWS, min_size=1, max_size=3),
        columns=st.lists(
            st.sampled_from([[*NAMES], [n for n in NAMES if n != "genre"], [*NAMES[::-1]], [*NAMES[:5]]]), min_size=3
        ),
        size=st.integers(30, 300),
    )
    def check(logs: list[list[dict[str, str]]], columns: list[list[str]], size: int) -> None:
        folder = tmp_path / "log"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = write_log(folder, kind, logs, columns[: len(logs)])
        shutil.copy(tmp_path / "mapping.yaml", folder)
        whole, pieces = outcome(folder, files, None), outcome(folder, files, size)
        assert pieces == whole
        differing.add("error" if "error" in whole else "rows" if whole["rows"] else "none")

    check()
    assert "rows" in differing
