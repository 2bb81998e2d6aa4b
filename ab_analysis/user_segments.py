"""Segments as columns of an experiment's user table: ranges of a metric, and the most frequent value of a facet."""

from __future__ import annotations

from itertools import pairwise

from ab_analysis.experiment import Segment
from core.duck import quoted
from core.sql_engine import Engine

MOST_TOP_VALUES = 15
"""Values of a facet that are segments; users of rarer ones are ``other``."""


def segment_labels(segment: Segment) -> list[str]:
    """Names of a segment's ranges, in order."""
    edges = [f"{e:g}" for e in segment.edges]
    return [
        f"under {edges[0]}",
        *(f"{a} to under {b}" for a, b in pairwise(edges)),
        f"{edges[-1]} or more",
    ]


def range_sql(segment: Segment) -> str:
    """SQL of the range that a user's value before the start lies in; ``b`` is the table of users."""
    labels = segment_labels(segment)
    cases = " ".join(
        f"WHEN b.{segment.of}_pre < {edge!r} THEN {quoted(label)}"
        for edge, label in zip(segment.edges, labels, strict=False)
    )
    return f"CASE {cases} ELSE {quoted(labels[-1])} END"


def create_top_values(db: Engine, name: str, facet: str) -> None:
    """Create ``top_<name>``: every user's most frequent value before the start; rare ones are ``other``.

    Args:
        db: has the table ``favorites``, of ``user_rows``.
        name: of the segment.
        facet: whose values are the segments.
    """
    of_facet = f"SELECT user_id, top_value FROM favorites WHERE facet = {quoted(facet)}"
    db.table(
        f"top_{name}",
        f"""SELECT a.user_id, CASE WHEN c.top_value IS NULL THEN 'other' ELSE a.top_value END AS top_value FROM ({of_facet}) a
        LEFT JOIN (SELECT top_value FROM ({of_facet}) f GROUP BY top_value ORDER BY count(*) DESC, top_value
        LIMIT {MOST_TOP_VALUES}) c ON c.top_value = a.top_value""",
    )
