"""Tiles and clocks in SQL: the one definition of a count, a score and a top-k list.

A *tile* holds the additive behaviour counts of one hour, one row per (user, slot, facet, value).
Slots 0-23 are local hours of day; slot ``DAY`` sums the whole day. The pseudo facet ``ALL`` counts
every event, whether its facets are known or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from core.duck import hour_number, identifier, quoted
from core.hours import Hour
from events.schema import BEHAVIOURS

DAY = 24
ALL = "_all"
COUNTS = ("events", *BEHAVIOURS)
KEYS = ("user_id", "slot", "facet", "value")

TILE_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("slot", pa.int64(), nullable=False),
        pa.field("facet", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTS),
    ]
)


def tiles_sql(files: Sequence[Path], facets: Sequence[str], *, with_hour: bool = False) -> str:
    """SELECT of the tile rows of event files, in no order.

    Args:
        files: ``events.parquet`` of one or many hours.
        facets: facets of the source.
        with_hour: add ``hour`` (hours since 1970 UTC) to the key, for many hours at once.
    """
    hour = f"{hour_number('timestamp')} AS hour," if with_hour else ""
    key = ["hour"] if with_hour else []
    sums = ", ".join(
        ["count(*) AS events"]
        + [f"CAST(coalesce(sum(CAST({identifier(b)} AS BIGINT)), 0) AS BIGINT) AS {identifier(b)}" for b in BEHAVIOURS]
    )
    pairs = ", ".join(
        [f"{{'facet': {quoted(f)}, 'value': {identifier(f)}}}" for f in facets]
        + [f"{{'facet': {quoted(ALL)}, 'value': ''}}"]
    )
    names = "[" + ", ".join(quoted(str(file)) for file in files) + "]"
    return f"""
        WITH hits AS (
            SELECT {hour} user_id, unnest([CAST(hour(local_time) AS BIGINT), CAST({DAY} AS BIGINT)]) AS slot,
                {", ".join(map(identifier, BEHAVIOURS))}, {", ".join(map(identifier, facets))}
            FROM read_parquet({names})
        ), pairs AS (SELECT *, unnest([{pairs}]) AS pair FROM hits)
        SELECT {", ".join([*key, "user_id", "slot"])}, pair.facet AS facet, pair.value AS value, {sums}
        FROM pairs WHERE pair.value IS NOT NULL
        GROUP BY {", ".join([*key, "user_id", "slot"])}, pair.facet, pair.value"""


def hour_tile(con: duckdb.DuckDBPyConnection, file: Path, facets: Sequence[str]) -> pa.Table:
    """The tile of one hour, ordered by its key, so that equal events give equal bytes."""
    ordered = f"SELECT * FROM ({tiles_sql([file], facets)}) ORDER BY {', '.join(KEYS)}"
    return con.sql(ordered).to_arrow_table().cast(TILE_SCHEMA)


def clock_schema(facets: Sequence[str]) -> pa.Schema:
    """Arrow schema of clock rows: one per (user, slot) and moment of change.

    For every facet the top values, best first, with their scores and counts; ``events`` and the
    behaviours count everything in the slot's window. ``event_timestamp`` is the hour's start from
    which the row holds.
    """
    return pa.schema(
        [
            pa.field("user_id", pa.int64(), nullable=False),
            pa.field("slot", pa.int64(), nullable=False),
            pa.field("event_timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
            *(
                field
                for f in facets
                for field in (
                    pa.field(f"{f}_values", pa.list_(pa.string())),
                    pa.field(f"{f}_scores", pa.list_(pa.float64())),
                    pa.field(f"{f}_counts", pa.list_(pa.int64())),
                )
            ),
            *(pa.field(name, pa.int64()) for name in COUNTS),
            pa.field("as_of", pa.int64(), nullable=False),
        ]
    )


def score_sql(weights: Mapping[str, float]) -> str:
    """``score = Σ_b weight_b · count_b`` (the paper: likes and finishes less skips and dislikes)."""
    return " + ".join(f"{float(w)!r} * {identifier(b)}" for b, w in sorted(weights.items())) or "0.0"


def clock_sql(sums: str, keys: str, facets: Sequence[str], weights: Mapping[str, float], top_k: int) -> str:
    """SELECT of the clock rows of ``keys`` from window sums.

    A slot keeps the ``top_k`` values with a positive score; ties break by count, then by value.

    Args:
        sums: table of (as_of, user_id, slot, facet, value, counts...).
        keys: table of (as_of, user_id, slot): every one gets a row, an empty one where nothing is left.
        facets, weights, top_k: of the source and the settings.
    """
    lists = ", ".join(
        f"list({column} ORDER BY rank) FILTER (WHERE facet = {quoted(f)}) AS {identifier(f'{f}_{name}')}"
        for f in facets
        for name, column in (("values", "value"), ("scores", "score"), ("counts", "events"))
    )
    filled = ", ".join(
        f"coalesce(t.{identifier(f'{f}_{name}')}, []) AS {identifier(f'{f}_{name}')}"
        for f in facets
        for name in ("values", "scores", "counts")
    )
    totals = ", ".join(f"coalesce(a.{identifier(c)}, 0) AS {identifier(c)}" for c in COUNTS)
    return f"""
        WITH scored AS (SELECT *, CAST({score_sql(weights)} AS DOUBLE) AS score FROM {sums} WHERE facet <> {quoted(ALL)}),
        ranked AS (
            SELECT *, row_number() OVER (
                PARTITION BY as_of, user_id, slot, facet ORDER BY score DESC, events DESC, value) AS rank
            FROM scored WHERE score > 0 QUALIFY rank <= {int(top_k)}
        ), tops AS (SELECT as_of, user_id, slot, {lists} FROM ranked GROUP BY as_of, user_id, slot)
        SELECT k.user_id, k.slot, make_timestamptz(k.as_of * 3600000000) AS event_timestamp, {filled}, {totals}, k.as_of
        FROM {keys} k LEFT JOIN tops t USING (as_of, user_id, slot)
        LEFT JOIN (SELECT * FROM {sums} WHERE facet = {quoted(ALL)}) a USING (as_of, user_id, slot)
        ORDER BY k.user_id, k.slot, k.as_of"""


def clock_table(
    con: duckdb.DuckDBPyConnection,
    sums: str,
    keys: str,
    facets: Sequence[str],
    weights: Mapping[str, float],
    top_k: int,
) -> pa.Table:
    """``clock_sql`` as an Arrow table in ``clock_schema``."""
    return con.sql(clock_sql(sums, keys, facets, weights, top_k)).to_arrow_table().cast(clock_schema(facets))


def window_start(as_of: Hour, window_hours: int) -> Hour:
    """First hour of the window of a clock as of ``as_of``: it covers [as_of − window, as_of)."""
    return as_of - window_hours
