"""The one definition of counts, scores and top-k lists, in SQL that every engine runs alike.

A *tile* holds what adds up of one hour: a row per (user, slot, facet value) with its events and their score,
and one per (user, slot) with every behavior's count. Scores are whole numbers of the weights' smallest decimal
(``score_units``), so that taking off what was added leaves nothing behind. Slots are numbered from local
midnight, ``slot_minutes`` wide; with ``split_weekend`` those of Saturday and Sunday follow those of working days.
Inside a query a facet value is a number that sorts like its text, so that ties break alike and hashing stays
cheap; files hold the text.

Tables: ``values_<i>`` (value, id) is the dictionary of facet number i; an *encoded* table has the columns
user_id, slot (and hour), ``v<i>`` for each facet, the event's ``score``, and the behaviors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from core.duck import identifier
from core.engine import Engine
from core.settings import Settings
from events.schema import BEHAVIORS

COUNTS = ("events", *BEHAVIORS)
SCORED = ("events", "score")
"""What adds up of a facet's value."""
WHOLE_DAY = -1
"""Slot of the sums over the whole day."""


def clock_schema(facets: Sequence[str], keys: Sequence[str] = ("user_id", "slot")) -> pa.Schema:
    """Arrow schema of clock rows: one per key and moment of change.

    For every facet the top values, best first, with their scores and counts; ``events`` and the
    behaviors count everything in the slot's window. ``event_timestamp`` is the hour's start from
    which the row holds, ``as_of`` the same as hours since 1970 UTC.
    """
    lists = [
        pa.field(f"{facet}_{name}", pa.list_(kind))
        for facet in facets
        for name, kind in (("values", pa.string()), ("scores", pa.float64()), ("counts", pa.int64()))
    ]
    return pa.schema(
        [
            *(pa.field(key, pa.int64()) for key in keys),
            pa.field("event_timestamp", pa.timestamp("us", tz="UTC")),
            *lists,
            *(pa.field(name, pa.int64()) for name in COUNTS),
            pa.field("as_of", pa.int64()),
        ]
    )


def score_units(weights: Mapping[str, float]) -> tuple[dict[str, int], int]:
    """The weights other than 0 as whole numbers, and how many of these make 1 (0.5 and 1: 5 and 10 of 10).

    ``score = Σ_b weight_b · count_b`` (the paper: likes and finishes less skips and dislikes).
    """
    exact = {b: Decimal(str(w)) for b, w in sorted(weights.items()) if w}
    one = 10 ** max([0, *(-int(w.normalize().as_tuple().exponent) for w in exact.values())])
    return {b: int(w * one) for b, w in exact.items()}, one


def event_score_sql(weights: Mapping[str, float], prefix: str = "") -> str:
    """The score of a single event, in units, from its behaviors."""
    units, _ = score_units(weights)
    marks = [f"CASE WHEN {prefix}{identifier(b)} THEN {n} ELSE 0 END" for b, n in units.items()]
    return f"CAST({' + '.join(marks) or '0'} AS BIGINT)"


def counted() -> str:
    """Counts of events: how many, and how many with each behavior."""
    marks = [f"count(CASE WHEN {identifier(b)} THEN 1 END) AS {identifier(b)}" for b in BEHAVIORS]
    return ", ".join(["count(*) AS events", *marks])


def summed(counts: Sequence[str] = COUNTS, prefix: str = "") -> str:
    """Sums of counts that were counted before."""
    return ", ".join(f"CAST(sum({prefix}{identifier(c)}) AS BIGINT) AS {identifier(c)}" for c in counts)


def negative(counts: Sequence[str] = COUNTS) -> str:
    """The counts with their sign turned."""
    return ", ".join(f"-{identifier(c)} AS {identifier(c)}" for c in counts)


def zeros(counts: Sequence[str] = COUNTS) -> str:
    """The counts, all 0."""
    return ", ".join(f"CAST(0 AS BIGINT) AS {identifier(c)}" for c in counts)


def columns(names: Sequence[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{identifier(name)}" for name in names)


class Recipe:
    """Builds the tables of clocks in an engine.

    Args:
        engine: where they are computed.
        settings: slots, weights, top k.
        facets: of the source, in their order.
    """

    def __init__(self, engine: Engine, settings: Settings, facets: Sequence[str]) -> None:
        self.engine, self.settings, self.facets = engine, settings, list(facets)

    def parts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tables of sums: each facet's number with its values' events and score, and ``all`` with every count."""
        return [*((str(i), SCORED) for i in range(len(self.facets))), ("all", COUNTS)]

    def slot(self) -> str:
        """SQL of an event's slot from its local time."""
        minutes = "(hour(local_time) * 60 + minute(local_time))"
        number = f"CAST(floor({minutes} / {self.settings.slot_minutes}) AS INTEGER)"
        if not self.settings.split_weekend:
            return number
        weekend = f"CASE WHEN {self.engine.weekday('local_time')} >= 6 THEN {self.settings.slots_per_day} ELSE 0 END"
        return f"{number} + {weekend}"

    def read(self, name: str, files: Sequence[Path], table: str = "") -> None:
        """View ``name``: the events of files (or of a table) with their hour and slot; facet values still as text."""
        wanted = columns(["user_id", "item_id", *self.facets, *BEHAVIORS])
        hour = self.engine.hour_number('"timestamp"')
        source = table or (self.engine.files(files) if files else f"({self._no_events()}) nothing")
        self.engine.view(name, f"SELECT {hour} AS hour, {self.slot()} AS slot, {wanted} FROM {source}")

    def _no_events(self) -> str:
        kinds = {"user_id": "BIGINT", "item_id": "BIGINT", "timestamp": "TIMESTAMP", "local_time": "TIMESTAMP"}
        kinds |= dict.fromkeys(self.facets, "VARCHAR(1)") | dict.fromkeys(BEHAVIORS, "BOOLEAN")
        return "SELECT " + ", ".join(f"CAST(NULL AS {k}) AS {identifier(n)}" for n, k in kinds.items()) + " WHERE 1 = 0"

    def dictionaries(self, events: str, sums: Mapping[int, str] | None = None) -> None:
        """Tables ``values_<i>`` of all values in events (and in sums with text values, by facet number)."""
        for i, facet in enumerate(self.facets):
            found = f"SELECT {identifier(facet)} AS value FROM {events}"
            if sums and i in sums:
                found += f" UNION ALL SELECT value FROM {sums[i]}"
            self.engine.table(
                f"values_{i}",
                f"""SELECT value, CAST(row_number() OVER (ORDER BY value) AS INTEGER) AS id
                FROM (SELECT DISTINCT value FROM ({found}) a WHERE value IS NOT NULL) b""",
            )

    def encode(self, name: str, events: str, join: str = "", keys: Sequence[str] = ("user_id", "slot")) -> None:
        """Table ``name``: the events encoded, with the columns ``keys``. ``join`` restricts them (the events are ``r``)."""
        ids = ", ".join(f"v{i}.id AS v{i}" for i in range(len(self.facets)))
        joins = " ".join(
            f"LEFT JOIN values_{i} v{i} ON r.{identifier(facet)} = v{i}.value" for i, facet in enumerate(self.facets)
        )
        marks = f"{event_score_sql(self.settings.score_weights, 'r.')} AS score, {columns(BEHAVIORS, 'r.')}"
        self.engine.table(name, f"SELECT {columns(keys, 'r.')}, {ids}, {marks} FROM {events} r {joins} {join}")

    def sums(self, name: str, encoded: str, keys: Sequence[str]) -> None:
        """Tables ``<name>_<i>`` (keys, value id, events, score) of each facet and ``<name>_all`` (keys, counts)."""
        by = columns(keys)
        for i in range(len(self.facets)):
            self.engine.table(
                f"{name}_{i}",
                f"""SELECT {by}, v{i} AS value, count(*) AS events, CAST(sum(score) AS BIGINT) AS score
                FROM {encoded} WHERE v{i} IS NOT NULL GROUP BY {by}, v{i}""",
            )
        self.engine.table(f"{name}_all", f"SELECT {by}, {counted()} FROM {encoded} GROUP BY {by}")

    def windows(self, name: str, tiles: str, moments: str, window: int) -> None:
        """Like ``sums``, at every moment (as_of, user_id, slot), over the tiles (with hour) of its window."""
        matched = f"""FROM {moments} m JOIN {tiles}_%s t ON t.user_id = m.user_id AND t.slot = m.slot
            AND t.hour >= m.as_of - {window} AND t.hour < m.as_of GROUP BY m.as_of, m.user_id, m.slot"""
        keys = "m.as_of, m.user_id, m.slot"
        for i in range(len(self.facets)):
            self.engine.table(f"{name}_{i}", f"SELECT {keys}, t.value, {summed(SCORED, 't.')} {matched % i}, t.value")
        self.engine.table(f"{name}_all", f"SELECT {keys}, {summed(prefix='t.')} {matched % 'all'}")

    def clock(self, sums: str, keyed: str, keys: Sequence[str], as_of: str) -> str:
        """SELECT of the clock rows of a table of keys, in their order: a row for every key, empty where nothing is left.

        A slot keeps the top k values with a positive score; ties break by count, then by value.

        Args:
            sums: name of the tables made by ``sums`` or ``windows``.
            keyed: table of distinct keys.
            keys: their columns.
            as_of: SQL of the hour number from which the row holds, from the columns of ``k``.
        """
        kept, joins, found, lists = [columns(keys, "k.")], [], [], []
        for i, facet in enumerate(self.facets):
            self._top(i, f"{sums}_{i}", columns(keys))
            kept.append(f"t{i}.best AS best_{i}")
            joins.append(f"LEFT JOIN top_{i} t{i} ON {self._equal(f't{i}', keys)}")
            for name in ("values", "scores", "counts"):
                found.append(f"(SELECT {identifier(name)} FROM listed_{i}) AS {name}_{i}")
                picked = self.engine.take_at(f"{name}_{i}", f"best_{i}")
                lists.append(f"{picked} AS {identifier(f'{facet}_{name}')}")
        if keyed == f"{sums}_all":  # its rows have the totals
            kept.append(columns(COUNTS, "k."))
        else:
            kept += [f"coalesce(a.{identifier(c)}, 0) AS {identifier(c)}" for c in COUNTS]
            joins.append(f"LEFT JOIN {sums}_all a ON {self._equal('a', keys)}")
        # Sorted while rows are narrow; a join afterwards would lose the order, on Spark even the sort itself.
        rows = f"SELECT {', '.join(kept)} FROM {keyed} k {' '.join(joins)} ORDER BY {columns(keys, 'k.')}"
        named = ", ".join(f"CAST(k.{key} AS BIGINT) AS {key}" for key in keys if key != "as_of")
        return f"""SELECT {named}, {self.engine.hour_start(as_of)} AS event_timestamp, {", ".join(lists)},
            {columns(COUNTS, "k.")}, CAST({as_of} AS BIGINT) AS as_of
            FROM (SELECT k.*, {", ".join(found)} FROM ({rows}) k) k"""

    @staticmethod
    def _equal(table: str, keys: Sequence[str]) -> str:
        return " AND ".join(f"k.{identifier(key)} = {table}.{identifier(key)}" for key in keys)

    def _top(self, facet: int, sums: str, keys: str) -> None:
        """Tables ``top_<i>`` of the places of each key's best values, and ``listed_<i>`` of what is at each place.

        A place is that of a (score, events, value) among all there are: one number to compare.
        """
        _, one = score_units(self.settings.score_weights)
        self.engine.table(
            f"ranks_{facet}",
            f"""SELECT score, events, value, row_number() OVER (ORDER BY score, events, value DESC) AS place
            FROM (SELECT DISTINCT score, events, value FROM {sums} WHERE score > 0) s""",
        )
        self.engine.table(
            f"top_{facet}",
            f"""SELECT {keys}, {self.engine.top_n("r.place", self.settings.top_k)} AS best FROM {sums} s
            JOIN ranks_{facet} r ON r.score = s.score AND r.events = s.events AND r.value = s.value GROUP BY {keys}""",
        )
        listed = ", ".join(
            f"{self.engine.collect_ordered(of, 'r.place')} AS {name}"
            for of, name in (
                ("d.value", '"values"'),
                (f"CAST(r.score AS DOUBLE) / {one}", "scores"),
                ("r.events", "counts"),
            )
        )
        self.engine.table(
            f"listed_{facet}", f"SELECT {listed} FROM ranks_{facet} r JOIN values_{facet} d ON d.id = r.value"
        )
