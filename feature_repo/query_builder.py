"""The one definition of tiles, sums and top lists, as pure functions from names to SQL that every engine runs alike.

A *tile* holds what adds up of one hour: one row per (user, slot, facet value) with its events and their score,
and one per (user, slot) with every behavior's count. Scores are whole numbers of the weights' smallest decimal
(``sql.score_units``). Slots are numbered from local midnight, ``slot_minutes`` wide; with ``split_weekend`` those of
Saturday and Sunday follow those of working days. Inside a query a facet value is a number that sorts like its text,
so that ties break alike and hashing stays cheap; files hold the text.

Nothing here runs a query or knows an engine: a ``Statement`` says what is to be made, a ``Query`` what has to be made
before it can run. ``feature_repo.executor`` runs both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.duck import identifier
from core.settings import Settings
from events.schema import BEHAVIORS
from feature_repo.schemas import COUNTS, ITEM_COUNTS
from feature_repo.sql import columns, counted, event_score_sql, score_units, summed
from feature_repo.statements import Query, SqlFunctions, Statement
from feature_repo.top_lists import TOP_LISTS, TopLists

SCORED = ("events", "score")
"""What adds up of a facet's value."""
WHOLE_DAY = -1
"""Slot of the sums over the whole day."""


@dataclass(frozen=True)
class Part:
    """One table of sums.

    Attributes:
        name: of its folder: the facet's number or ``all``, with ``everyone-`` before it for all users together;
            ``items``.
        keys: columns that identify a row.
        counts: columns that add up.
        facet: number of the facet whose values are counted; None where every event counts.
        everyone: whether all users are counted together.
    """

    name: str
    keys: tuple[str, ...]
    counts: tuple[str, ...]
    facet: int | None = None
    everyone: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.keys, *self.counts)

    @property
    def dictionary(self) -> str:
        """Table (value, id) of the facet's values."""
        return f"values_{self.facet}"


@dataclass(frozen=True)
class SumTables:
    """A set of tables in the engine, one for each part of sums."""

    prefix: str

    def of(self, part: Part) -> str:
        """Name of a part's table.

        >>> SumTables("now").of(Part("everyone-0", ("slot", "value"), SCORED, 0, everyone=True))
        'now_everyone_0'
        """
        return f"{self.prefix}_{part.name.replace('-', '_')}"


ITEMS = Part("items", ("item_id",), ITEM_COUNTS)
PAIR = ("user_id", "slot")


class ClockQueryBuilder:
    """Writes the queries of clocks.

    Tables of a facet's values, ``values_<i>`` (value, id), are their dictionary. An *encoded* table has the columns
    user_id, slot (and hour), ``v<i>`` for each facet, the event's ``score``, and the behaviors.

    Args:
        functions: how the engine spells what differs.
        settings: slots, weights, top k.
        facets: of the source, in their order.
    """

    def __init__(self, functions: SqlFunctions, settings: Settings, facets: Sequence[str]) -> None:
        self.functions, self.settings, self.facets = functions, settings, list(facets)

    # Which tables exist.

    def parts(self, keys: Sequence[str], *, everyone: bool = False) -> list[Part]:
        """One part for each facet's values, and one of all events.

        Args:
            keys: columns that identify a row, besides the value.
            everyone: whether all users are counted together.
        """
        prefix = "everyone-" if everyone else ""
        facets = [Part(f"{prefix}{i}", (*keys, "value"), SCORED, i, everyone=everyone) for i in range(len(self.facets))]
        return [*facets, Part(f"{prefix}all", tuple(keys), COUNTS, everyone=everyone)]

    def slot_parts(self) -> list[Part]:
        """The parts of a slot: each of a user's, followed by everybody's."""
        together = zip(self.parts(PAIR), self.parts(("slot",), everyone=True), strict=True)
        return [part for both in together for part in both]

    def base_parts(self, name: str) -> list[Part]:
        """The parts of a base of sums: of ``users``, ``items`` or a slot's number.

        Users' values are summed only where there are rows of their whole days.
        """
        if name == "items":
            return [ITEMS]
        if name == "users":
            return self.parts(("user_id",))[0 if self.settings.shrinkage else -1 :]
        return self.slot_parts()

    # Events.

    def slot(self) -> str:
        """SQL of an event's slot from its local time."""
        minutes = "(hour(local_time) * 60 + minute(local_time))"
        number = f"CAST(floor({minutes} / {self.settings.slot_minutes}) AS INTEGER)"
        if not self.settings.split_weekend:
            return number
        weekday = self.functions.weekday("local_time")
        return f"{number} + CASE WHEN {weekday} >= 6 THEN {self.settings.slots_per_day} ELSE 0 END"

    def read(self, name: str, source: str | None) -> Statement:
        """View ``name``: events with their hour and slot; facet values still as text.

        Args:
            name: of the view.
            source: what to select events from; None for no events.
        """
        names = columns(["user_id", "item_id", *self.facets, *BEHAVIORS])
        hour = self.functions.hour_number('"timestamp"')
        events = source or f"({self._no_events()}) nothing"
        return Statement(name, f"SELECT {hour} AS hour, {self.slot()} AS slot, {names} FROM {events}", view=True)

    def _no_events(self) -> str:
        types = {"user_id": "BIGINT", "item_id": "BIGINT", "timestamp": "TIMESTAMP", "local_time": "TIMESTAMP"}
        types |= dict.fromkeys(self.facets, "VARCHAR(1)") | dict.fromkeys(BEHAVIORS, "BOOLEAN")
        nulls = ", ".join(f"CAST(NULL AS {kind}) AS {identifier(name)}" for name, kind in types.items())
        return f"SELECT {nulls} WHERE 1 = 0"

    def dictionaries(self, events: str, texts: Mapping[int, str] | None = None) -> list[Statement]:
        """Tables ``values_<i>`` of all values.

        Args:
            events: what to select events from.
            texts: by facet number, what to select more values (column ``value``, text) from.
        """
        if not self.facets:
            return []
        # One look at the events for all facets: values belong to items, so their combinations are few.
        statements = [Statement("facet_values", f"SELECT DISTINCT {columns(self.facets)} FROM {events}")]
        for i, facet in enumerate(self.facets):
            values = f"SELECT {identifier(facet)} AS value FROM facet_values"
            if texts and i in texts:
                values += f" UNION ALL SELECT value FROM {texts[i]}"
            sql = f"""SELECT value, CAST(row_number() OVER (ORDER BY value) AS INTEGER) AS id
                FROM (SELECT DISTINCT value FROM ({values}) a WHERE value IS NOT NULL) b"""
            statements.append(Statement(f"values_{i}", sql))
        return statements

    def encode(
        self, name: str, events: str, join: str = "", keys: Sequence[str] = PAIR, by: tuple[str, ...] = ()
    ) -> Statement:
        """Table ``name``: the events encoded.

        Args:
            name: of the table.
            events: view made by ``read``, or one with the same columns.
            join: JOIN or WHERE that restricts the events, which are ``r``.
            keys: columns to keep beside values and behaviors.
            by: columns by whose values a cluster keeps the events together.
        """
        ids = ", ".join(f"v{i}.id AS v{i}" for i in range(len(self.facets)))
        joins = " ".join(
            f"LEFT JOIN values_{i} v{i} ON r.{identifier(facet)} = v{i}.value" for i, facet in enumerate(self.facets)
        )
        marks = f"{event_score_sql(self.settings.score_weights, 'r.')} AS score, {columns(BEHAVIORS, 'r.')}"
        return Statement(name, f"SELECT {columns(keys, 'r.')}, {ids}, {marks} FROM {events} r {joins} {join}", by=by)

    # Sums.

    def sums(self, into: SumTables, encoded: str, keys: Sequence[str]) -> list[Statement]:
        """Tables of sums of an encoded table, one for each of ``parts(keys)``, with value ids."""
        by = columns(keys)
        return [
            Statement(into.of(part), f"SELECT {by}, {counted()} FROM {encoded} GROUP BY {by}")
            if part.facet is None
            else Statement(
                into.of(part),
                f"""SELECT {by}, v{part.facet} AS value, count(*) AS events, CAST(sum(score) AS BIGINT) AS score
                FROM {encoded} WHERE v{part.facet} IS NOT NULL GROUP BY {by}, v{part.facet}""",
            )
            for part in self.parts(keys)
        ]

    def everyone(self, tables: SumTables) -> list[Statement]:
        """Everybody's sums from the tables of slots' sums, into the same set."""
        statements = []
        for ours, part in zip(self.parts(PAIR), self.parts(("slot",), everyone=True), strict=True):
            by = ", ".join(part.keys)
            sql = f"SELECT {by}, {summed(part.counts)} FROM {tables.of(ours)} s GROUP BY {by}"
            statements.append(Statement(tables.of(part), sql))
        return statements

    def windows(self, into: SumTables, tiles: SumTables, moments: str, window: int) -> list[Statement]:
        """Like ``sums``, at every moment (as_of, user_id, slot), over the tiles (with hour) of its window.

        Args:
            into: the tables to make.
            tiles: tables of sums by user, slot and hour.
            moments: table (as_of, user_id, slot).
            window: hours before a moment that count.
        """
        keys, statements = "m.as_of, m.user_id, m.slot", []
        for part in self.parts(PAIR):
            value = "" if part.facet is None else ", t.value"
            sql = f"""SELECT {keys}{value}, {summed(part.counts, "t.")} FROM {moments} m
                JOIN {tiles.of(part)} t ON t.user_id = m.user_id AND t.slot = m.slot
                AND t.hour >= m.as_of - {window} AND t.hour < m.as_of GROUP BY m.as_of, m.user_id, m.slot{value}"""
            statements.append(Statement(into.of(part), sql))
        return statements

    def with_ids(self, sums: str, part: Part) -> str:
        """SELECT of sums with text values, with the ids of the values instead."""
        if part.facet is None:
            return f"SELECT * FROM {sums} t"
        kept = columns([k for k in part.keys if k != "value"], "t.")
        return f"""SELECT {kept}, d.id AS value, {columns(part.counts, "t.")} FROM {sums} t
            JOIN {part.dictionary} d ON d.value = t.value"""

    def with_texts(self, sums: str, part: Part, where: str = "") -> str:
        """SELECT of sums ``s`` with value ids, values as text, in the order of their keys: ids sort as their texts do."""
        text = f"JOIN {part.dictionary} d ON d.id = s.value" if part.facet is not None else ""
        kept = ", ".join("d.value" if key == "value" else f"s.{key}" for key in part.keys)
        order = columns(sorted(part.keys, key=("slot", "user_id", "value").index), "s.")
        order_clause = self.functions.sorted_by(order)
        return f"SELECT {kept}, {columns(part.counts, 's.')} FROM {sums} s {text} {where} {order_clause}"

    def slot_sums(self, tables: SumTables, part: Part, slot: int | None = None) -> str:
        """SELECT of a part's sums with values as text, in the order of their keys.

        Args:
            tables: of sums, with value ids.
            part: of a slot.
            slot: only that one; None for all.
        """
        table = tables.of(part)
        if (
            slot is None
        ):  # a cluster brings a slot's rows together, in tasks of some size; elsewhere the hint is a comment
            return self.with_texts(f"(SELECT /*+ REBALANCE(slot) */ * FROM {table})", part)
        return self.with_texts(table, part, f"WHERE s.slot = {slot}")

    # Clock rows.

    def clock_rows(
        self, sums: SumTables, keyed: str, keys: Sequence[str], as_of: str, *, everyone: bool = False
    ) -> Query:
        """SELECT of the clock rows of a table of keys, in their order: one row for every key, empty where nothing is left.

        A slot keeps the top k values with a positive score; ties break by count, then by value.

        Args:
            sums: tables made by ``sums``, ``windows`` or ``everyone``.
            keyed: table of distinct keys.
            keys: their columns.
            as_of: SQL of the hour number from which the row holds, from the columns of ``k``.
            everyone: read everybody's sums.
        """
        parts = self.parts(keys, everyone=everyone)
        totals = sums.of(parts[-1])
        needs: list[Statement] = []
        kept, joins, listed, picked = [columns(keys, "k.")], [], [], []
        for i, (facet, part) in enumerate(zip(self.facets, parts[:-1], strict=True)):
            top = self._top(i, sums.of(part), columns(keys))
            needs += top.needs
            kept.append(f"t{i}.best AS best_{i}")
            joins.append(f"LEFT JOIN top_{i} t{i} ON {self._equal(f't{i}', keys)}")
            listed += [f"{sql} AS {name}" for name, sql in top.looked_up.items()]
            picked += [f"{sql} AS {identifier(f'{facet}_{name}')}" for name, sql in top.lists.items()]
        if keyed == totals:  # its rows have the totals
            kept.append(columns(COUNTS, "k."))
        else:
            kept += [f"coalesce(a.{identifier(c)}, 0) AS {identifier(c)}" for c in COUNTS]
            joins.append(f"LEFT JOIN {totals} a ON {self._equal('a', keys)}")
        # Sorted while rows are narrow; a join afterwards would lose the order, on Spark even the sort itself.
        order = self.functions.sorted_by(columns(keys, "k."))
        rows = f"SELECT {', '.join(kept)} FROM {keyed} k {' '.join(joins)} {order}"
        named = ", ".join(f"CAST(k.{key} AS BIGINT) AS {key}" for key in keys if key != "as_of")
        sql = f"""SELECT {named}, {self.functions.hour_start(as_of)} AS event_timestamp, {", ".join(picked)},
            {columns(COUNTS, "k.")}, CAST({as_of} AS BIGINT) AS as_of
            FROM (SELECT {", ".join(["k.*", *listed])} FROM ({rows}) k) k"""
        return Query(sql, tuple(needs))

    @staticmethod
    def _equal(table: str, keys: Sequence[str]) -> str:
        return " AND ".join(f"k.{identifier(key)} = {table}.{identifier(key)}" for key in keys)

    def _top(self, facet: int, sums: str, keys: str) -> TopLists:
        _, one = score_units(self.settings.score_weights)
        return TOP_LISTS[self.functions.dialect](facet, sums, keys, self.settings.top_k, one)
