"""An input that this process reads, with DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb

from core.duck import identifier, scalar
from core.errors import DataError
from core.files import digest_file, write_json, write_text
from core.hours import Hour
from events.account import FEW_ROWS, Account, Examples, StagedExamples, count_kept
from events.actions import ActionJoin
from events.forgotten import ForgottenMatcher
from events.hour_changes import HourChange, HourCounts, HourWriter, changes_of
from events.ids import extend_ids, id_kinds, id_path
from events.mapping import Mapping
from events.mapping_rows import Actions
from events.quarantine import input_digest, quarantine_lines
from events.readers import raw_rows
from events.repeated import mark_repeated
from events.schema import BEHAVIORS
from events.staging import IGNORED, ItemMatches, Staging, inner
from events.store import EventStore


class Log(NamedTuple):
    """What is ingested.

    Attributes:
        mapping: how its rows become events.
        files: its files, in order.
        folders: where tables beside it are looked for.
        moment: after which an event counts as from the future.
        only: hours [from, to) whose rows are taken; None: no limit.
        forgotten: people whose rows are passed over.
    """

    mapping: Mapping
    files: Sequence[Path]
    folders: Sequence[Path]
    moment: datetime
    only: tuple[Hour | None, Hour | None]
    forgotten: ForgottenMatcher


class RowCounts(NamedTuple):
    """What became of an input's rows, before repeated ones are looked for.

    Attributes:
        good: rows with an event.
        reasons: the others, by reason.
        forgotten: those of people who asked to be forgotten.
    """

    good: int
    reasons: dict[str, int]
    forgotten: int

    def require_some_good(self, file: Path, examples: Examples, one_hour: bool) -> None:
        """Fail where nothing of the input can be read; a few bad rows alone in their hour do not stop the hour.

        Rows that the mapping passes over tell nothing of the others: an input may hold nothing else.

        Args:
            file: the input's first.
            examples: of its rows.
            one_hour: the input is an hour of a log.

        Raises:
            DataError: nothing can be read.
        """
        bad = {reason: count for reason, count in self.reasons.items() if reason != IGNORED}
        rows, passed_over = sum(bad.values()), self.reasons.get(IGNORED, 0)
        if self.good or not rows or (one_hour and rows < FEW_ROWS):
            return
        reasons = sorted(bad, key=lambda reason: (-bad[reason], reason))
        listed = ", ".join(f"{reason} {bad[reason]}" for reason in reasons)
        beside = f" (beside {passed_over} that are ignored)" if passed_over else ""
        raise DataError(
            f"none of the {rows} rows of {file}{beside} could be read ({listed}); nothing was ingested. {examples.cause(reasons[0])}"
        )


class Input(Protocol):
    """An input whose rows were read."""

    ids: dict[str, str]
    """Kinds of its ids (int, string), by user and item."""
    items_file: Path | None
    """File of the mapping's table of items."""

    @property
    def counts(self) -> RowCounts:
        """What became of its rows."""
        ...

    @property
    def examples(self) -> Examples:
        """What warnings show."""
        ...

    def match_items(self) -> ItemMatches:
        """How its items match the table of items."""
        ...

    def account(self, store: EventStore) -> Account:
        """Give ids, sort new rows from those that say nothing new, and count.

        Raises:
            DataError: rows do not add up.
        """
        ...

    def digest(self) -> str:
        """What identifies the input: ``events.quarantine.input_digest``."""
        ...

    def write_quarantine(self, file: Path) -> None:
        """Write the rows that could not be read to a file."""
        ...

    def changes(self) -> Iterator[HourWriter]:
        """What it means for each hour: hours with new events in order, then the others. After ``account``."""
        ...

    def counts_by_hour(self) -> HourCounts:
        """Rows that no event shows, by hour."""
        ...

    def load_items(self) -> None:
        """Have the view ``items`` of the table of items in the connection."""
        ...


class LocalInput:
    """An input that DuckDB reads in this process.

    Args:
        con: a separate database.
        log: what is read.
        store: where it goes.

    Raises:
        ConfigError, DataError: it cannot be read.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, log: Log, store: EventStore) -> None:
        self._con, self._mapping, self._files = con, log.mapping, log.files
        self.staging = Staging(con, log.mapping, [*log.folders], [*log.files], id_kinds(store.root))
        self.staging.stage(log.moment)
        self.staging.restrict(*log.only)
        self._forgotten = log.forgotten.pass_over(con, IGNORED)
        self.ids, self.items_file = self.staging.ids, self.staging.items_file
        self.examples: Examples = StagedExamples(self.staging)
        self._changes: Iterator[HourChange] = iter(())

    @property
    def counts(self) -> RowCounts:
        return RowCounts(*good_and_reasons(self._con), self._forgotten)

    def match_items(self) -> ItemMatches:
        return self.staging.match_items()

    def account(self, store: EventStore) -> Account:
        staging = self.staging
        account, self._changes = _account(self._con, store, self._mapping, staging.ids)
        account.ids, account.unreadable = dict(sorted(staging.ids.items())), staging.unreadable
        account.ambiguous_times = staging.shifted.get("ambiguous", 0)
        account.skipped_times = staging.shifted.get("skipped", 0)
        account.unfolded = staging.unfolded
        account.chosen_not_in_list = staging.marks.chosen_not_in_list
        account.unknown_actions = staging.unknown_actions()
        return account

    def digest(self) -> str:
        return input_digest(map(digest_file, self._files))

    def write_quarantine(self, file: Path) -> None:
        write_text(file, "\n".join(quarantine_lines(self._con, self.staging.raw)) + "\n")

    def changes(self) -> Iterator[HourWriter]:
        return self._changes

    def counts_by_hour(self) -> HourCounts:
        return HourCounts.of(self._con)

    def load_items(self) -> None:
        """They are loaded."""


def good_and_reasons(con: duckdb.DuckDBPyConnection) -> tuple[int, dict[str, int]]:
    """Count the good rows of ``staged``, and the others with the lines of ``malformed`` by reason."""
    both = "SELECT reason FROM staged UNION ALL SELECT reason FROM malformed"
    reasons = dict(con.execute(f"SELECT reason, count(*) FROM ({both}) GROUP BY reason ORDER BY reason").fetchall())
    return reasons.pop(None, 0), reasons


def add_up(account: Account) -> None:
    """Check that every row became something.

    Raises:
        DataError: one did not.
    """
    if account.rows_in != account.kept + account.duplicates + account.merged + account.quarantined + account.ignored:
        raise DataError(f"rows do not add up ({account}); nothing was written. Please report this log's format")


def keep_id_kinds(root: Path, kinds: dict[str, str]) -> None:
    """Fix the kinds of a source's ids, with the first input that has events.

    Args:
        root: of the event store.
        kinds: int or string, by user and item.
    """
    known = id_kinds(root)
    if any(kind not in known for kind in kinds):
        write_json(root / "_ids" / "kinds.json", {**kinds, **known})


def cells_sql(store: EventStore, mapping: Mapping, null: str) -> str:
    """SQL of an event's columns after its time, from the columns of a staged row ``s``.

    Args:
        store: of the source.
        mapping: of the input.
        null: SQL of a text that is null.
    """
    attributes = {*mapping.facet_names, *mapping.context_names}
    untold = {*store.source.context} - attributes  # the source has it, this mapping does not
    return ", ".join(
        f"{null} AS {identifier(n)}"
        if n in untold
        else f"s.{inner(n)} AS {identifier(n)}"
        if n in attributes
        else f"s.{identifier(n)}"
        for n in store.event_schema.names[4:]
    )


def _account(
    con: duckdb.DuckDBPyConnection, store: EventStore, mapping: Mapping, kinds: dict[str, str]
) -> tuple[Account, Iterator[HourChange]]:
    if scalar(con, "SELECT count(*) FROM staged WHERE reason IS NULL"):
        keep_id_kinds(store.root, kinds)
    users, items = (_id_table(con, store, kind, kinds) for kind in ("user", "item"))
    cells = cells_sql(store, mapping, "CAST(NULL AS VARCHAR)")
    con.execute(
        f"""CREATE VIEW identified AS SELECT s.__row, s.is_action, s.event_id, u.id AS user_id, i.id AS item_id,
        s.ts AS timestamp, {cells}, s.user_key, s.item_key FROM staged s JOIN {users} u ON u.key = s.user_key
        JOIN {items} i ON i.key = s.item_key WHERE s.reason IS NULL"""
    )
    account = Account(rows_in=raw_rows(con))
    if mapping.actions:
        join = _join_actions(con, store, mapping.actions)
        account.actions = join.counts()
        account.kept, account.merged = account.actions.kept, account.actions.merged
        changes: Iterator[HourChange] = (HourChange(hour, events, facts=facts) for hour, events, facts in join.hours())
        totals = [f"bool_or({identifier(name)}) AS {identifier(name)}" for name in BEHAVIORS]
        con.execute(
            f"""CREATE VIEW fresh AS SELECT f.* EXCLUDE ({", ".join(map(identifier, BEHAVIORS))}), o.* EXCLUDE (owner)
            FROM facts f JOIN (SELECT owner, {", ".join(totals)} FROM owners WHERE NOT owner_stored GROUP BY owner) o
            ON f.fact = o.owner"""
        )
    else:
        mark_repeated(con, store)
        account.kept = scalar(con, "SELECT count(*) FROM fresh")
        account.merged = scalar(con, "SELECT count(*) FROM marked WHERE adds")
        changes = changes_of(con, store.event_schema)
    account.duplicates = scalar(con, "SELECT count(*) FROM marked WHERE duplicate")
    _, account.reasons = good_and_reasons(con)
    account.ignored = account.reasons.pop(IGNORED, 0)
    account.quarantined = sum(account.reasons.values())
    account.hours, account.users, account.items = con.execute(
        """SELECT count(DISTINCT time_bucket(INTERVAL 1 HOUR, ts)), count(DISTINCT user_key),
        count(DISTINCT item_key) FROM staged WHERE reason IS NULL"""
    ).fetchall()[0]
    count_kept(con, mapping, account)
    add_up(account)
    return account, changes


def _join_actions(con: duckdb.DuckDBPyConnection, store: EventStore, rule: Actions) -> ActionJoin:
    """Join the input's rows and those told before; leaves ``marked``, which rows were there already."""
    names = store.event_schema.names
    requests = store.moment_columns
    said = ", ".join(
        f"coalesce(CAST({cell} AS VARCHAR), chr(30))"
        for cell in (
            "is_action",
            "event_id",
            "user_key",
            "item_key",
            "epoch_us(timestamp)",
            *(identifier(name) for name in names[4:] if name not in requests),
        )
    )
    said += "".join(f", '{name}=' || {identifier(name)}" for name in requests)  # null, it is no part of the text
    con.execute(
        f"""CREATE TABLE told AS SELECT __row, md5(concat_ws(chr(31), {said})) AS fact, is_action,
        {", ".join(map(identifier, names))} FROM identified"""
    )
    join = ActionJoin(con, store, rule)
    con.execute(
        """CREATE TABLE marked AS SELECT __row, fact IN (SELECT fact FROM stored)
        OR row_number() OVER (PARTITION BY fact ORDER BY __row) > 1 AS duplicate FROM told"""
    )
    return join


def _id_table(con: duckdb.DuckDBPyConnection, store: EventStore, kind: str, kinds: dict[str, str]) -> str:
    if kinds[kind] == "int":
        return f"(SELECT DISTINCT {kind}_key AS key, CAST({kind}_key AS BIGINT) AS id FROM staged WHERE reason IS NULL)"
    query = f"SELECT {kind}_key AS key, min(ts) AS first_seen FROM staged WHERE reason IS NULL GROUP BY ALL"
    return extend_ids(con, id_path(store.root, kind), query)
