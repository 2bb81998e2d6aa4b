"""What loading log files gathers on its way to one raw table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from events.input_part import InputPart
from events.spans import copy_span
from events.text import Cleaned, CleanText


@dataclass
class Loader:
    """What loading gathers on its way.

    Attributes:
        con: has the table ``malformed``.
        scratch: folder for cleaned copies.
        part: which part of the input is loaded.
        columns: names as the files have them, to the column of ``raw``.
        repeated: names that a header has more than once.
        parts: SQL of rows.
        sources: what is read for each file.
        untyped: columns that are text although the format has types.
        hint: what may be the matter where a column is missing.
    """

    con: duckdb.DuckDBPyConnection
    scratch: Path
    part: InputPart
    columns: dict[str, str] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)
    sources: list[tuple[str, Path]] = field(default_factory=list)
    untyped: set[str] = field(default_factory=set)
    hint: str = ""

    def column(self, name: str) -> str:
        """Column of ``raw`` for a name of the files."""
        return self.columns.setdefault(name, f"c{len(self.columns)}")

    def malformed(self, rows: list[tuple[str, str]]) -> None:
        """Keep lines that are not rows: their content and why."""
        if rows:
            contents, reasons = zip(*rows, strict=True)
            self.con.register("bad_lines", pa.table({"content": list(contents), "reason": list(reasons)}))
            self.con.execute("INSERT INTO malformed SELECT content, reason FROM bad_lines")
            self.con.unregister("bad_lines")


def cleaned(loader: Loader, files: list[Path], clean: CleanText, with_header: bool = False) -> list[Path]:
    """The files themselves, or copies where something had to be put right; lines that are not rows are noted.

    Args:
        loader: takes what is noted.
        files: the files.
        clean: puts a file right.
        with_header: each file has one, which every part of it needs.
    """
    texts = []
    for number, file in enumerate(files):
        copy = loader.scratch / f"{len(loader.sources)}-{number}.txt"
        span = loader.part.span
        whole_lines = span and Cleaned(copy_span(file, copy, span, with_first_line=with_header), [], blank=False)
        text, bad, blank = whole_lines or clean(file, copy)
        loader.malformed(bad)
        if not blank:
            texts.append(text)
            loader.sources.append((str(text), file))
    return texts
