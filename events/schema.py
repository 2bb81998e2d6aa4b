"""The event: one impression or consumption with its outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

BEHAVIORS = ("finish", "like", "skip", "dislike", "share")
RESERVED = ("event_id", "user_id", "item_id", "timestamp", "local_time", "played_seconds", "duration_seconds")


def event_schema(facets: Sequence[str]) -> pa.Schema:
    """Arrow schema of an hour partition.

    ``timestamp`` is UTC, ``local_time`` the wall clock of the user without a zone, both in
    microseconds; facets are strings, null where unknown; behaviors are null where the source
    cannot know them.
    """
    return pa.schema(
        [
            pa.field("event_id", pa.string(), nullable=False),
            pa.field("user_id", pa.int64(), nullable=False),
            pa.field("item_id", pa.int64(), nullable=False),
            pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("local_time", pa.timestamp("us"), nullable=False),
            *(pa.field(name, pa.string()) for name in facets),
            pa.field("played_seconds", pa.float64()),
            pa.field("duration_seconds", pa.float64()),
            *(pa.field(name, pa.bool_()) for name in BEHAVIORS),
        ]
    )


def fact_schema(facets: Sequence[str]) -> pa.Schema:
    """Arrow schema of what a log with actions told in an hour: its rows, before they are joined to events."""
    told = [pa.field("fact", pa.string(), nullable=False), pa.field("is_action", pa.bool_(), nullable=False)]
    return pa.schema([*told, *event_schema(facets)])


def exposure_schema() -> pa.Schema:
    """Arrow schema of an hour's exposures: the first moment a user met a variant in that hour."""
    return pa.schema(
        [
            pa.field("experiment", pa.string(), nullable=False),
            pa.field("variant", pa.string(), nullable=False),
            pa.field("user_id", pa.int64(), nullable=False),
            pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        ]
    )
