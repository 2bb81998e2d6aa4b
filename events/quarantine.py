"""Rows that could not be read, kept with the reason and their original content, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import duckdb

from core.duck import quoted
from core.files import digest_text
from events.readers import RawLog
from events.staging import IGNORED
from events.store import EventStore


def input_digest(digests: Iterable[str]) -> str:
    """What identifies an input, from the digests of its files."""
    return digest_text(*digests)[:16]


def quarantine_file(store: EventStore, digest: str) -> Path:
    """Where an input's quarantined rows are kept.

    Args:
        store: of the source.
        digest: of ``input_digest``.
    """
    return store.root / "_quarantine" / f"{digest}.jsonl"


def rejected_rows(raw: RawLog, where: str = "true") -> str:
    """SQL of the quarantined rows of the tables ``raw`` and ``staged``: reason, number, and content as JSON.

    Args:
        raw: the log.
        where: which of them.
    """
    return f"""SELECT reason, __row AS number, {_content(raw)} AS content FROM raw JOIN staged s USING (__row)
        WHERE reason IS NOT NULL AND reason <> {quoted(IGNORED)} AND {where}"""


def malformed_rows() -> str:
    """SQL of the lines of the table ``malformed``, as of ``rejected_rows``; they have no number."""
    return f"SELECT reason, CAST(NULL AS BIGINT) AS number, to_json(content) AS content FROM malformed WHERE reason <> {quoted(IGNORED)}"


def quarantine_lines(con: duckdb.DuckDBPyConnection, raw: RawLog) -> list[str]:
    """The lines of an input's file in quarantine, in order."""
    rows = con.execute(f"{rejected_rows(raw)} UNION ALL {malformed_rows()}").fetchall()
    return sorted(quarantine_line(*row) for row in rows)


def quarantine_line(reason: str, number: int | None, content: str) -> str:
    """A quarantined row as a line.

    >>> quarantine_line("bad_timestamp", 7, '{"ts": "soon"}')
    '{"reason": "bad_timestamp", "row": 7, "content": {"ts": "soon"}}'
    """
    return json.dumps({"reason": reason, "row": number, "content": json.loads(content)}, ensure_ascii=False)


def _content(raw: RawLog) -> str:
    cells = ", ".join(f"{quoted(name)}, {_json_cell(column, raw.types[name])}" for name, column in raw.columns.items())
    return f"json_object({cells})"


def _json_cell(column: str, kind: str) -> str:
    """SQL of a cell for JSON, which has no infinite numbers."""
    if kind not in {"FLOAT", "DOUBLE"}:
        return column
    return f"CASE WHEN isfinite({column}) THEN to_json({column}) ELSE to_json(CAST({column} AS VARCHAR)) END"
