"""The event: one impression or consumption with its outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

BEHAVIORS = ("finish", "like", "skip", "dislike", "share")
RESERVED = ("event_id", "user_id", "item_id", "timestamp", "local_time", "played_seconds", "duration_seconds")
REQUEST_COLUMNS = ("position", "request_id")
"""Where an item stood among those that were shown with it; a source has both columns if its log tells one of them."""

CLOCK_COLUMNS = (
    "hour", "slot", "as_of", "first_hour", "event_timestamp", "score", "events", "count", "weight", "place", "batch",
    "held_from", "id",
)  # fmt: skip
"""Columns that features have beside the facets."""
USER_COLUMNS = (
    "user_id", "variant", "exposure", "exposure_day", "local_day", "day", "phase", "is_new", "new_user", "days_before",
)  # fmt: skip
"""Columns of an experiment's table of users."""
INGEST_COLUMNS = ("fact", "is_action", "stored", "fact_hour", "opened", "again", "conflicts")
"""Columns that ingestion has beside the facets."""
RESERVED_FACETS = frozenset(
    {*RESERVED, *BEHAVIORS, *REQUEST_COLUMNS, *CLOCK_COLUMNS, *USER_COLUMNS, "local_hour", *INGEST_COLUMNS}
)
"""Names that no facet can have; nor can it have one that begins with two underscores."""
PREDICTION_COLUMNS = frozenset({"user_kind", "item_kind", "weekday", "label", "score", "hour", "local_hour"})
"""What a table of predictions has beside attributes."""

AttributeType = Literal["category", "number", "list", "age"]
Owner = Literal["user", "item", "context"]
"""Whom an attribute tells of; the context is the moment of an impression."""
OWNERS: tuple[Owner, ...] = ("user", "item")
"""Owners that have tables beside the log."""


@dataclass(frozen=True)
class AttributeField:
    """What a ranker reads beside ids, facets and the context's categories.

    Attributes:
        owner: whom it tells of.
        name: as the mapping has it.
        type: how it is understood; the time since a moment is an ``age``.
    """

    owner: Owner
    name: str
    type: AttributeType

    @property
    def column(self) -> str:
        """Its column in tables and in a model's input.

        >>> AttributeField("user", "city", "category").column, AttributeField("context", "battery", "number").column
        ('user_city', 'battery')
        """
        return self.name if self.owner == "context" else f"{self.owner}_{self.name}"

    @property
    def arrow(self) -> pa.Field:
        """Its field in a table of attributes; an age is kept as its moment, hours since 1970 UTC."""
        kinds = {"category": pa.string(), "list": pa.list_(pa.string())}
        return pa.field(self.column, kinds.get(self.type, pa.float64()))


def attribute_schema(owner: Owner, fields: Sequence[AttributeField]) -> pa.Schema:
    """Arrow schema of what users or items were from some time on.

    ``event_timestamp`` is the start of the hour from which a row holds, 1970 where it always did.

    Args:
        owner: user or item.
        fields: of the source; those of other owners are left out.
    """
    key = pa.field(f"{owner}_id", pa.int64(), nullable=False)
    moment = pa.field("event_timestamp", pa.timestamp("us", tz="UTC"), nullable=False)
    return pa.schema([key, moment, *(field.arrow for field in fields if field.owner == owner)])


def event_schema(facets: Sequence[str], *, context: Sequence[str] = (), has_requests: bool = False) -> pa.Schema:
    """Arrow schema of an hour partition.

    ``timestamp`` is UTC, ``local_time`` the wall clock of the user without a zone, both in
    microseconds; facets and context are strings, null where unknown; behaviors are null where the source
    cannot know them. ``position`` counts as the log does, from 0 in a list that was unfolded.

    Args:
        facets: of the source.
        context: names of what its log tells of the moment of an impression. Hours that were written before lack them.
        has_requests: whether its log tells ``REQUEST_COLUMNS``. Hours that were written before lack them.
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
            *(pa.field(name, pa.string()) for name in context),
            *([pa.field("position", pa.int32()), pa.field("request_id", pa.string())] if has_requests else []),
        ]
    )


def fact_schema(facets: Sequence[str], *, context: Sequence[str] = (), has_requests: bool = False) -> pa.Schema:
    """Arrow schema of what a log with actions told in an hour: its rows, before they are joined to events."""
    told = [pa.field("fact", pa.string(), nullable=False), pa.field("is_action", pa.bool_(), nullable=False)]
    return pa.schema([*told, *event_schema(facets, context=context, has_requests=has_requests)])


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
