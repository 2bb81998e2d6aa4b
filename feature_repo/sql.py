"""Pieces of SQL that every query of the clocks is made of: scores and counts of events, sums of counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from core.duck import identifier
from events.schema import BEHAVIORS
from feature_repo.schemas import COUNTS


def score_units(weights: Mapping[str, float]) -> tuple[dict[str, int], int]:
    """The weights other than 0 as whole numbers, and how many of these units make 1.

    ``score = Σ_b weight_b · count_b`` (the paper: likes and finishes less skips and dislikes). Whole numbers add up
    exactly, so that subtracting what was added leaves 0.

    >>> score_units({"finish": 1, "skip": -0.5, "share": 0})
    ({'finish': 10, 'skip': -5}, 10)
    """
    exact = {b: Decimal(str(w)) for b, w in sorted(weights.items()) if w}
    one = 10 ** max([0, *(-int(w.normalize().as_tuple().exponent) for w in exact.values())])
    return {b: int(w * one) for b, w in exact.items()}, one


def event_score_sql(weights: Mapping[str, float], prefix: str = "") -> str:
    """The score of a single event, in units (``score_units``), from its behaviors."""
    units, _ = score_units(weights)
    marks = [f"CASE WHEN {prefix}{identifier(b)} THEN {n} ELSE 0 END" for b, n in units.items()]
    return f"CAST({' + '.join(marks) or '0'} AS BIGINT)"


def counted() -> str:
    """Aggregates that count events: how many, and how many with each behavior."""
    marks = [f"count(CASE WHEN {identifier(b)} THEN 1 END) AS {identifier(b)}" for b in BEHAVIORS]
    return ", ".join(["count(*) AS events", *marks])


def summed(counts: Sequence[str] = COUNTS, prefix: str = "") -> str:
    """Aggregates that add up counts."""
    return ", ".join(f"CAST(sum({prefix}{identifier(c)}) AS BIGINT) AS {identifier(c)}" for c in counts)


def negative(counts: Sequence[str] = COUNTS) -> str:
    """The counts with their sign turned.

    >>> negative(["events"])
    '-"events" AS "events"'
    """
    return ", ".join(f"-{identifier(c)} AS {identifier(c)}" for c in counts)


def zeros(counts: Sequence[str] = COUNTS) -> str:
    """The counts, all 0."""
    return ", ".join(f"CAST(0 AS BIGINT) AS {identifier(c)}" for c in counts)


def columns(names: Sequence[str], prefix: str = "") -> str:
    """Column names, quoted and separated by commas.

    >>> columns(["user_id", "slot"], "k.")
    'k."user_id", k."slot"'
    """
    return ", ".join(f"{prefix}{identifier(name)}" for name in names)


def newest_rows(rows: str, keys: str, moment: str, condition: str, names: str) -> str:
    """SELECT of the newest row of every entity, in no order.

    Args:
        rows: SQL to select from, called ``f``.
        keys: columns that identify an entity.
        moment: column of which the largest value is the newest.
        condition: which rows ``f`` count.
        names: what is selected of each row.
    """
    return f"""SELECT {names} FROM (SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY {moment} DESC) AS nth
        FROM {rows} f WHERE {condition}) r WHERE nth = 1"""


def known_slots(rows: str, keys: str) -> str:
    """SELECT of keys (user_id, hour) with every slot in which their user has a row by then.

    Args:
        rows: SQL of the slots' change log.
        keys: table of the keys.
    """
    return f"""SELECT k.user_id, k.hour, o.slot FROM {keys} k JOIN (
            SELECT user_id, slot, min(as_of) AS since FROM {rows} r WHERE user_id IN (SELECT user_id FROM {keys})
            GROUP BY user_id, slot) o ON o.user_id = k.user_id WHERE k.hour >= o.since"""
