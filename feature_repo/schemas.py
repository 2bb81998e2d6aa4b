"""The rows of every view, defined once: for the change logs on disk and for Feast's registry alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from events.schema import BEHAVIORS

COUNTS = ("events", *BEHAVIORS)
"""What is counted for a key: all its events, and those with each behavior."""
ITEM_COUNTS = ("day_events", "day_finish", *COUNTS)
"""What is counted of an item: two counts of the last 24 hours, the others of the window."""
LISTS = ("values", "scores", "counts")
"""The lists of a facet's top values in a clock row, best first."""
_TIME = pa.field("event_timestamp", pa.timestamp("us", tz="UTC"))
_AS_OF = pa.field("as_of", pa.int64())


@dataclass(frozen=True)
class ViewSchema:
    """A view's rows.

    Attributes:
        keys: columns that identify an entity.
        columns: of a row, in order. ``event_timestamp`` is the start of the hour from which the row holds, ``as_of``
            that hour as hours since 1970 UTC.
    """

    keys: tuple[str, ...]
    columns: pa.Schema


def clock_schema(facets: Sequence[str], keys: Sequence[str] = ("user_id", "slot")) -> pa.Schema:
    """Arrow schema of clock rows: one per key and moment of change.

    For every facet the top values, best first, with their scores and counts; ``events`` and the
    behaviors count everything in the slot's window.
    """
    types = {"values": pa.string(), "scores": pa.float64(), "counts": pa.int64()}
    lists = [pa.field(f"{facet}_{name}", pa.list_(types[name])) for facet in facets for name in LISTS]
    return pa.schema([*_integers(keys), _TIME, *lists, *_integers(COUNTS), _AS_OF])


WHOLE_DAYS = "user_profile"
"""View of users' whole days, which nothing but shrinking thin slots reads."""


def view_schemas(facets: Sequence[str], *, whole_days: bool) -> dict[str, ViewSchema]:
    """The schema of every view that has a change log, by the view's name.

    Args:
        facets: of the source, in their order.
        whole_days: with that of the users' whole days.
    """
    activity = pa.schema([*_integers(["user_id"]), _TIME, *_integers(COUNTS), _AS_OF])
    items = pa.schema(
        [
            *_integers(["item_id"]),
            _TIME,
            *_integers(["first_hour", *ITEM_COUNTS]),
            pa.field("finish_rate", pa.float64()),
            _AS_OF,
        ]
    )
    return {
        "clock_slots": ViewSchema(("user_id", "slot"), clock_schema(facets)),
        "user_activity": ViewSchema(("user_id",), activity),
        "population_clock": ViewSchema(("slot",), clock_schema(facets, ("slot",))),
        "item_stats": ViewSchema(("item_id",), items),
        **({WHOLE_DAYS: ViewSchema(("user_id",), clock_schema(facets, ("user_id",)))} if whole_days else {}),
    }


def _integers(names: Sequence[str]) -> list[pa.Field]:
    return [pa.field(name, pa.int64()) for name in names]
