"""Ingestion: a raw log in, hour partitions out; every row kept, merged, a duplicate, or quarantined with a reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core import duck
from core.documents import one_line
from core.duck import hour_number, identifier, parquet_union, quoted, scalar
from core.errors import DataError
from core.files import digest_file, digest_text, exclusive_lock, recover_directories, write_json, write_text
from core.hours import Hour, hour_range
from core.settings import Settings
from core.state_version import check_state_version
from events.actions import ActionCounts, ActionJoin
from events.cells import timestamp_sql
from events.episodes import SAME_EVENT_HOURS, open_episodes
from events.exposures import read_exposures
from events.ids import extend_ids, id_kinds, id_path
from events.lists import ListMarks
from events.mapping import Actions, Mapping, load_mapping, log_paths
from events.readers import RawLog, find_files, load_raw, raw_rows
from events.schema import BEHAVIORS, REQUEST_COLUMNS
from events.staging import IGNORED, Staging, inner
from events.store import EventStore, Manifest, SourceProperties

log = logging.getLogger("events.ingest")

LONGEST_GAP_HOURS = 31 * 24
"""Hours without events are closed as empty between two events, unless the gap is longer than this."""
NOTED_GAP_HOURS = 24
NOTED_SHARE = 0.05
"""A part of the events of which more than this share could not be read is worth a warning."""
FEW_ROWS = 20
"""So few bad rows alone in an hour do not mean that the mapping is wrong, nor do so few events without a behavior."""
FEW_EVENTS_OF_AN_HOUR = 1000
"""So few events may all be negatives in a quiet hour."""
MOST_OF_A_LIST = 0.5
"""People choose less than this share of what a list shows them."""
MOST_NOT_IN_LIST = 0.1
"""Where more than this share of the chosen items are not in their list, the two are written differently."""


@dataclass(frozen=True)
class ShownItems:
    """Items that were shown, in a log that tells what was.

    Attributes:
        items: how many: kept events of a log with actions, else readable items of lists that have several.
        labeled: those of which the behavior that metrics use as the label is true.
    """

    items: int
    labeled: int


@dataclass
class Account:
    """What became of the rows: ``rows_in == kept + duplicates + merged + quarantined + ignored``, always.

    Attributes:
        rows_in: rows of the input; a row with a list of items counts once an item.
        kept: rows that became an event.
        duplicates: rows that say nothing new.
        merged: rows that add a behavior, or where the item was shown, to another row's event.
        quarantined: rows that could not be read, with their ``reasons``.
        ignored: rows of a log with actions that the mapping passes over.
        actions: of a log with actions, what became of those that are new.
        behaviors: how many of the kept events each behavior is true of.
        null_facets: how many of the kept events have no value of a facet.
        null_context: the same of context.
        shown: of a log that tells what was shown, how many items, and how many of them have the label.
        chosen_not_in_list: items that a column names as chosen and that are not in their row's list.
        unknown_actions: the most frequent values of ``actions.column`` that the mapping does not name.
    """

    rows_in: int = 0
    kept: int = 0
    duplicates: int = 0
    merged: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    hours: int = 0
    users: int = 0
    items: int = 0
    null_facets: dict[str, int] = field(default_factory=dict)
    exposures: int = 0
    changed_hours: list[str] = field(default_factory=list)
    quarantine: str | None = None
    ids: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    ambiguous_times: int = 0
    skipped_times: int = 0
    exposure_reasons: dict[str, int] = field(default_factory=dict)
    unfolded: int = 0
    ignored: int = 0
    actions: ActionCounts | None = None
    behaviors: dict[str, int] = field(default_factory=dict)
    null_context: dict[str, int] = field(default_factory=dict)
    shown: ShownItems | None = None
    chosen_not_in_list: int = 0
    unknown_actions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HourChange:
    """What an input means for an hour.

    Attributes:
        hour: the hour.
        events: of a log with actions all events, else the new ones.
        amended: stored events with other behaviors.
        facts: of a log with actions all that was told.
    """

    hour: Hour
    events: pa.Table
    amended: pa.Table | None = None
    facts: pa.Table | None = None

    def write(
        self, store: EventStore, exposures: pa.Table | None, duplicates: int, rejected: dict[str, int] | None
    ) -> Manifest:
        """Write the hour."""
        if self.facts is not None:
            return store.rewrite(
                self.hour, self.events, self.facts, exposures, duplicates=duplicates, rejected=rejected
            )
        return store.merge(
            self.hour, self.events, exposures, amended=self.amended, duplicates=duplicates, rejected=rejected
        )


def _require_some_good(con: duckdb.DuckDBPyConnection, staging: Staging, one_hour: bool) -> None:
    """Fail where nothing of the input can be read; a few bad rows alone in their hour do not stop the hour.

    Rows that the mapping passes over tell nothing of the others: an input may hold nothing else.
    """
    passed_over = int(scalar(con, f"SELECT count(*) FROM staged WHERE reason = {quoted(IGNORED)}"))
    rows = raw_rows(con) - passed_over
    if not rows or scalar(con, "SELECT count(*) FROM staged WHERE reason IS NULL"):
        return
    if one_hour and rows < FEW_ROWS:
        return
    reasons = con.execute(
        f"""SELECT reason, count(*) AS n FROM (SELECT reason FROM staged UNION ALL SELECT reason FROM malformed)
        WHERE reason <> {quoted(IGNORED)} GROUP BY reason ORDER BY n DESC, reason"""
    ).fetchall()
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons)
    raise DataError(
        f"none of the {rows} rows of {staging.files[0]}{_beside(passed_over)} could be read ({listed}); nothing was ingested. "
        + staging.likely_cause(str(reasons[0][0]))
    )


def _beside(passed_over: int) -> str:
    return f" (beside {passed_over} that are ignored)" if passed_over else ""


def _say(account: Account, mapping: Mapping, one_hour: bool) -> None:
    """Tell what a person should know of an input that was taken."""
    _say_odd_shares(account, mapping, FEW_EVENTS_OF_AN_HOUR if one_hour else FEW_ROWS)
    if not one_hour:
        _say_empty_attributes(account, mapping)
    for part, count in account.unreadable.items():
        if count > account.kept * NOTED_SHARE:
            kind = "neither true nor false" if part.startswith("behaviors.") else "no whole number from 0 on"
            log.warning("%s: %d cells are %s and count as unknown", part, count, kind)
    if account.ambiguous_times:
        log.warning(
            "%d times were shown twice by the clocks of %s; timestamp.fold says which is meant (now: %s)",
            account.ambiguous_times, mapping.timestamp.zone, mapping.timestamp.fold,
        )  # fmt: skip
    if account.skipped_times:
        log.warning(
            "%d times never were on the clocks of %s; %s", account.skipped_times, mapping.timestamp.zone,
            "they are quarantined" if mapping.timestamp.fold == "reject" else "they count as an hour later",
        )  # fmt: skip
    if account.exposure_reasons:
        log.warning("exposures that could not be read: %s", account.exposure_reasons)
    if account.duplicates and not account.kept and not account.merged and not account.changed_hours:
        log.info("every row was ingested already; nothing changed")


def _say_odd_shares(account: Account, mapping: Mapping, few: int) -> None:
    """Tell where behaviors are so frequent, or so rare, that the mapping may say something else than it means."""
    if account.kept >= few and not any(account.behaviors.values()) and not mapping.actions:
        log.warning(
            "none of the %d events has a behavior (%s), so every one is a negative: look at behaviors, impressions.labels "
            "or impressions.chosen", account.kept, ", ".join(account.behaviors),
        )  # fmt: skip
    shown, label = account.shown, mapping.behavior_names[0]
    if shown is None or shown.items < few:
        return
    if account.actions and account.actions.alone >= few and not account.actions.joined:
        log.warning(
            "none of the %d actions belongs to one of the %d impressions: is actions.window_minutes too short, or are the "
            "values of actions and impressions swapped?", account.actions.alone, shown.items,
        )  # fmt: skip
    if shown.labeled == shown.items:
        log.warning(
            "all of the %d items that were shown are %s: is that meant, or are labels or values swapped?", shown.items, label
        )  # fmt: skip
    elif not mapping.actions and shown.labeled > MOST_OF_A_LIST * shown.items:
        log.warning(
            "%d of the %d items of lists are %s, more than half: is that meant, or are labels swapped?",
            shown.labeled, shown.items, label,
        )  # fmt: skip


def _say_quarantined(account: Account, staging: Staging) -> None:
    read = account.rows_in - account.ignored
    if account.quarantined >= FEW_ROWS and account.quarantined > NOTED_SHARE * read:
        reasons = sorted(account.reasons, key=lambda reason: -account.reasons[reason])
        log.warning(
            "%d of the %d rows are quarantined (%s). %s", account.quarantined, read,
            ", ".join(f"{reason} {account.reasons[reason]}" for reason in reasons), staging.likely_cause(reasons[0]),
        )  # fmt: skip


def _say_not_in_list(marks: ListMarks) -> None:
    if marks.chosen_not_in_list > MOST_NOT_IN_LIST * marks.chosen:
        log.warning(
            "%d of the %d items that were chosen are not in their list: do impressions.chosen and impressions.list_column "
            "write items in the same way?", marks.chosen_not_in_list, marks.chosen,
        )  # fmt: skip


def _say_empty_attributes(account: Account, mapping: Mapping) -> None:
    """Tell which facets and which context no event has, although there is a column or an expression for them."""
    for key, nulls in (("facets", account.null_facets), ("context", account.null_context)):
        for name in (name for name, count in nulls.items() if account.kept and count == account.kept):
            source = {**mapping.log_facets, **mapping.context, **(mapping.items.facets if mapping.items else {})}[name]
            log.warning(
                "%s.%s: '%s' is empty in every one of the %d events; look at the column or the expression",
                key, name, one_line(source), account.kept,
            )  # fmt: skip


def ingest(
    mapping_name: str,
    paths: list[str],
    settings: Settings,
    *,
    out: Path | None = None,
    now: datetime | None = None,
    close: tuple[Hour, Hour] | None = None,
    only: tuple[Hour | None, Hour | None] = (None, None),
) -> Account:
    """Ingest log files into the event store.

    Args:
        mapping_name: a mapping file, or the name of a built-in one.
        paths: files, folders or globs; empty: the mapping's own ``paths``.
        settings: gives memory limits and the default place of the store.
        out: root of the store; default ``<workspace>/events``.
        now: moment after which an event counts as from the future; default the clock's.
        close: hours [from, to) to close even where the input has no event in them.
        only: take rows of hours [from, to) only, as if the rest were not in the input. Rows whose time
            cannot be read belong to a range without a start.

    Returns:
        The account. Ingesting the same input again keeps nothing and changes no byte.

    Raises:
        ConfigError, DataError: nothing was written; the message says what to do.
    """
    mapping, folder = load_mapping(mapping_name)
    files = find_files([p.replace("{hour}", "*") for p in paths] or log_paths(mapping, folder))
    store = EventStore(out or settings.events_dir)
    if out is None:
        check_state_version(settings)
    with (
        exclusive_lock(store.root.parent / f".{store.root.name}.lock"),
        _memory_named(files, settings),
        duck.connection(settings, spill_to_file=True) as con,
    ):
        recover_directories(store.root)
        log.info("reading %d file(s)", len(files))
        properties, moment = SourceProperties.of(mapping), now or datetime.now().astimezone()
        store.check_declared(properties)
        staging = Staging(con, mapping, folder, files, id_kinds(store.root))
        staging.stage(moment)
        staging.restrict(*only)
        _require_some_good(con, staging, close is not None)
        staging.check_items(close is not None)
        exposures = read_exposures(con, mapping, files, moment, staging.ids["user"])
        store.declare(properties)
        account, changes = _account(con, store, mapping, staging.ids)
        account.ids, account.unreadable = dict(sorted(staging.ids.items())), staging.unreadable
        account.ambiguous_times = staging.shifted.get("ambiguous", 0)
        account.skipped_times = staging.shifted.get("skipped", 0)
        account.exposure_reasons, account.unfolded = exposures.rejected, staging.unfolded
        account.chosen_not_in_list = staging.marks.chosen_not_in_list
        account.unknown_actions = staging.unknown_actions()
        _write_quarantine(con, store, files, account, staging.raw)
        _write_hours(con, store, changes, exposures.by_hour(con, store), account, close)
        _say(account, mapping, close is not None)
        _say_not_in_list(staging.marks)
        _say_quarantined(account, staging)
        if account.unknown_actions:
            values = staging.describe_actions(account.unknown_actions)
            log.warning(
                "values of actions.column that the mapping does not name: %s; their rows are quarantined", values
            )
        write_json(
            store.root / "_receipts" / f"{_input_digest(files)}.json", {**asdict(account), "changed_hours": None}
        )
    log.info(
        "%d rows: %d kept, %d merged, %d duplicates, %d quarantined%s; %d hours changed",
        account.rows_in, account.kept, account.merged, account.duplicates, account.quarantined,
        f", {account.ignored} ignored" if account.ignored else "", len(account.changed_hours),
    )  # fmt: skip
    return account


@contextmanager
def _memory_named(files: list[Path], settings: Settings) -> Iterator[None]:
    """Make an input that needs too much memory an error that says which setting allows it more."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise DataError(
            f"{files[0]}{' and others' if len(files) > 1 else ''}: the memory of {settings.duckdb_memory} is not enough; "
            "set CLOCK_DUCKDB_MEMORY to more, or ingest fewer files at a time"
        ) from None


def last_moment(con: duckdb.DuckDBPyConnection, mapping_name: str, paths: list[str]) -> datetime | None:
    """Time of the last readable event of a log that is not from the future, None where there is none."""
    mapping, _ = load_mapping(mapping_name)
    raw = load_raw(con, mapping, find_files(paths))
    con.execute(f"SET TimeZone = {quoted(mapping.timestamp.zone)}")
    column = mapping.timestamp.column
    moment = timestamp_sql(raw.cell(column, "timestamp.column"), mapping.timestamp, raw.types.get(column, "VARCHAR"))
    latest: datetime | None = scalar(con, f"SELECT max(m) FROM (SELECT {moment} AS m FROM raw r) WHERE m <= now()")
    con.execute("SET TimeZone = 'UTC'")
    return latest


def close_hours(store: EventStore, first: Hour, last: Hour) -> list[Hour]:
    """Close hours in [first, last] in which nothing happened; those closed before stay as they are."""
    with exclusive_lock(store.root.parent / f".{store.root.name}.lock"):
        closed = [hour for hour in hour_range(first, last + 1) if not store.has(hour)]
        for hour in closed:
            store.merge(hour)
    return closed


def _account(
    con: duckdb.DuckDBPyConnection, store: EventStore, mapping: Mapping, kinds: dict[str, str]
) -> tuple[Account, Iterator[HourChange]]:
    """Give ids, sort new rows from those that say nothing new, and count; with what has to be written."""
    users = _id_table(con, store, "user", kinds)
    items = _id_table(con, store, "item", kinds)
    attributes = {*mapping.facet_names, *mapping.context_names}
    untold = {*store.source.context} - attributes  # the source has it, this mapping does not
    cells = ", ".join(
        f"CAST(NULL AS VARCHAR) AS {identifier(n)}"
        if n in untold
        else f"s.{inner(n)} AS {identifier(n)}"
        if n in attributes
        else f"s.{identifier(n)}"
        for n in store.event_schema.names[4:]
    )
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
        _mark_repeated(con, store)
        account.kept = scalar(con, "SELECT count(*) FROM fresh")
        account.merged = scalar(con, "SELECT count(*) FROM marked WHERE adds")
        changes = _changes(con, store.event_schema)
    account.duplicates = scalar(con, "SELECT count(*) FROM marked WHERE duplicate")
    rejected = """SELECT reason, count(*) FROM (SELECT reason FROM staged WHERE reason IS NOT NULL
        UNION ALL SELECT reason FROM malformed) GROUP BY reason ORDER BY reason"""
    account.reasons = dict(con.execute(rejected).fetchall())
    account.ignored = account.reasons.pop(IGNORED, 0)
    account.quarantined = sum(account.reasons.values())
    account.hours, account.users, account.items = con.execute(
        """SELECT count(DISTINCT time_bucket(INTERVAL 1 HOUR, ts)), count(DISTINCT user_key),
        count(DISTINCT item_key) FROM staged WHERE reason IS NULL"""
    ).fetchall()[0]
    _count_kept(con, mapping, account)
    if account.rows_in != account.kept + account.duplicates + account.merged + account.quarantined + account.ignored:
        raise DataError(f"rows do not add up ({account}); nothing was written. Please report this log's format")
    return account, changes


def _count_kept(con: duckdb.DuckDBPyConnection, mapping: Mapping, account: Account) -> None:
    """Count what the kept events, those of ``fresh``, are, have, and lack."""
    facets, context, behaviors = mapping.facet_names, mapping.context_names, mapping.behavior_names
    counts = con.execute(
        f"""SELECT {"".join(f"count(*) FILTER (WHERE {identifier(name)} IS NULL), " for name in (*facets, *context))}
        {", ".join(f"count(*) FILTER (WHERE {identifier(name)})" for name in behaviors)} FROM fresh"""
    ).fetchall()[0]
    by_name = dict(zip((*facets, *context, *behaviors), counts, strict=True))
    account.null_facets = {name: by_name[name] for name in facets}
    account.null_context = {name: by_name[name] for name in context}
    account.behaviors = {name: by_name[name] for name in behaviors}
    listed = "staged JOIN raw USING (__row) WHERE reason IS NULL AND __size > 1"
    shown = "fresh WHERE NOT is_action" if mapping.actions else listed
    if account.kept and (mapping.impressions or mapping.actions):
        label = identifier(behaviors[0])
        row = con.execute(f"SELECT count(*), count(*) FILTER (WHERE {label}) FROM {shown}").fetchall()[0]
        account.shown = ShownItems(*row)


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


def _mark_repeated(con: duckdb.DuckDBPyConnection, store: EventStore) -> None:
    """Find rows whose event exists already, and what they add to it.

    Leaves ``marked`` (a row of an event that another row told is a ``duplicate``, or ``adds`` a behavior, or the place
    where the item was shown), ``fresh`` (events to keep) and ``amended`` (stored events with what was added).
    """
    names = [identifier(name) for name in store.event_schema.names]
    cells = ", ".join(names)
    con.execute(f"CREATE TABLE repeated AS SELECT {cells} FROM identified LIMIT 0")
    span = con.execute("SELECT min(ts), max(ts) FROM staged WHERE reason IS NULL").fetchall()[0]
    if span[0] is not None:
        first, last = Hour.of(span[0]) - SAME_EVENT_HOURS, Hour.of(span[1]) + SAME_EVENT_HOURS
        near = store.event_files(hour for hour in store.hours() if first <= hour <= last)
        if near:
            con.execute(
                f"""INSERT INTO repeated BY NAME SELECT * FROM {parquet_union(near)}
                WHERE event_id IN (SELECT event_id FROM staged WHERE reason IS NULL)"""
            )
    behaviors = [identifier(name) for name in BEHAVIORS]
    requests = [name for name in map(identifier, REQUEST_COLUMNS) if name in names]
    context = [identifier(name) for name in store.source.context]
    added = [*behaviors, *requests, *context]
    listed = ", ".join(added)
    con.execute(
        """CREATE TABLE shared_ids AS SELECT event_id FROM (SELECT event_id FROM staged WHERE reason IS NULL
        UNION ALL SELECT event_id FROM repeated) GROUP BY event_id HAVING count(*) > 1"""
    )
    con.execute(
        """CREATE TABLE shared AS SELECT __row, event_id, ts FROM staged SEMI JOIN shared_ids USING (event_id)
        WHERE reason IS NULL UNION ALL SELECT NULL, event_id, timestamp FROM repeated"""
    )
    open_episodes(con, "shared")
    con.execute(
        """CREATE TABLE placed AS SELECT * FROM (SELECT __row, s.event_id, opened,
            row_number() OVER (PARTITION BY s.event_id, opened ORDER BY __row IS NOT NULL, ts, __row) > 1 AS again
        FROM shared s ASOF JOIN episodes e ON s.event_id = e.event_id AND s.ts >= e.opened) WHERE __row IS NOT NULL
        UNION ALL SELECT __row, event_id, ts, false FROM staged ANTI JOIN shared_ids USING (event_id) WHERE reason IS NULL"""
    )
    con.execute(
        """CREATE TABLE stored_shared AS SELECT r.*, opened FROM repeated r ASOF JOIN episodes e
        ON r.event_id = e.event_id AND r.timestamp >= e.opened"""
    )
    con.execute(
        f"""CREATE TABLE known AS SELECT event_id, opened, user_id, item_id, {listed} FROM stored_shared UNION ALL
        SELECT event_id, opened, user_id, item_id, {listed} FROM identified JOIN placed USING (__row, event_id)
        WHERE NOT again AND (event_id, opened) IN (SELECT (event_id, opened) FROM placed WHERE again)"""
    )
    news = " OR ".join(f"(i.{name} AND k.{name} IS DISTINCT FROM true) OR k.{name} IS NULL AND i.{name} IS NOT NULL"
                       for name in behaviors)  # fmt: skip
    news += "".join(f" OR k.{name} IS NULL AND i.{name} IS NOT NULL" for name in context)
    unplaced = " AND ".join(f"{name} IS NULL" for name in requests)
    if requests:
        k, i = (" AND ".join(f"{row}.{name} IS NULL" for name in requests) for row in "ki")
        news += f" OR {k} AND NOT ({i})"
    con.execute(
        f"""CREATE TABLE additions AS SELECT i.__row, event_id, opened, {", ".join(f"i.{name}" for name in added)}
        FROM identified i JOIN placed p USING (__row, event_id) JOIN known k USING (event_id, opened, user_id, item_id)
        WHERE p.again AND coalesce({news}, false)"""
    )
    con.execute(
        """CREATE TABLE marked AS SELECT __row, again AND NOT adds AS duplicate, adds FROM
        (SELECT *, __row IN (SELECT __row FROM additions) AS adds FROM placed)"""
    )
    totals = [f"bool_or({name}) AS {name}" for name in behaviors]
    totals += [f"first({name} ORDER BY {name} IS NULL, __row NULLS FIRST) AS {name}" for name in context]
    totals += [f"first({name} ORDER BY {unplaced}, __row NULLS FIRST) AS {name}" for name in requests]
    con.execute(
        f"""CREATE TABLE sums AS SELECT event_id, opened, {", ".join(totals)}
        FROM (FROM additions UNION ALL BY NAME SELECT event_id, opened, {listed} FROM known)
        WHERE (event_id, opened) IN (SELECT (event_id, opened) FROM additions) GROUP BY ALL"""
    )
    chosen = ", ".join(f"coalesce(t.{name}, e.{name}) AS {name}" if name in added else f"e.{name}" for name in names)
    con.execute(
        f"""CREATE TABLE fresh AS SELECT {chosen} FROM identified e JOIN placed p USING (__row)
        LEFT JOIN sums t ON t.event_id = e.event_id AND t.opened = p.opened WHERE NOT p.again"""
    )
    con.execute(
        f"""CREATE TABLE amended AS SELECT {chosen} FROM stored_shared e JOIN sums t
        ON t.event_id = e.event_id AND t.opened = e.opened"""
    )


def _changes(con: duckdb.DuckDBPyConnection, schema: pa.Schema) -> Iterator[HourChange]:
    """What the tables ``fresh`` and ``amended`` mean for each hour: hours with new events in order, then the others."""
    amended = dict(_hourly(con, schema, "amended"))
    for hour, events in _hourly(con, schema, "fresh"):
        yield HourChange(hour, events, amended=amended.pop(hour, None))
    for hour, events in amended.items():
        yield HourChange(hour, schema.empty_table(), amended=events)


def _id_table(con: duckdb.DuckDBPyConnection, store: EventStore, kind: str, kinds: dict[str, str]) -> str:
    _keep_id_kind(con, store, kind, kinds)
    if kinds[kind] == "int":
        return f"(SELECT DISTINCT {kind}_key AS key, CAST({kind}_key AS BIGINT) AS id FROM staged WHERE reason IS NULL)"
    query = f"SELECT {kind}_key AS key, min(ts) AS first_seen FROM staged WHERE reason IS NULL GROUP BY ALL"
    return extend_ids(con, id_path(store.root, kind), query)


def _keep_id_kind(con: duckdb.DuckDBPyConnection, store: EventStore, kind: str, kinds: dict[str, str]) -> None:
    """Fix the kind of a source's ids with the first input that has events."""
    known = id_kinds(store.root)
    if kind not in known and scalar(con, "SELECT count(*) FROM staged WHERE reason IS NULL"):
        write_json(store.root / "_ids" / "kinds.json", {**known, kind: kinds[kind]})


def _json_cell(column: str, kind: str) -> str:
    """SQL of a cell for JSON, which has no infinite numbers."""
    if kind not in {"FLOAT", "DOUBLE"}:
        return column
    return f"CASE WHEN isfinite({column}) THEN to_json({column}) ELSE to_json(CAST({column} AS VARCHAR)) END"


def _input_digest(files: list[Path]) -> str:
    return digest_text(*(digest_file(file) for file in files))[:16]


def _write_quarantine(
    con: duckdb.DuckDBPyConnection, store: EventStore, files: list[Path], account: Account, raw: RawLog
) -> None:
    if not account.quarantined:
        return
    cells = ", ".join(f"{quoted(name)}, {_json_cell(column, raw.types[name])}" for name, column in raw.columns.items())
    rows = con.execute(
        f"""SELECT reason, __row, json_object({cells}) FROM raw JOIN staged s USING (__row)
        WHERE reason IS NOT NULL AND reason <> {quoted(IGNORED)}
        UNION ALL SELECT reason, NULL, to_json(content) FROM malformed"""
    ).fetchall()
    lines = [
        json.dumps({"reason": reason, "row": number, "content": json.loads(text)}, ensure_ascii=False)
        for reason, number, text in rows
    ]
    path = store.root / "_quarantine" / f"{_input_digest(files)}.jsonl"
    write_text(path, "\n".join(sorted(lines)) + "\n")
    account.quarantine = str(path)


def _write_hours(
    con: duckdb.DuckDBPyConnection,
    store: EventStore,
    changes: Iterator[HourChange],
    exposures: dict[Hour, pa.Table],
    account: Account,
    close: tuple[Hour, Hour] | None,
) -> None:
    account.exposures = sum(table.num_rows for table in exposures.values())
    by_hour = hour_number("ts")
    duplicates = dict(
        con.execute(
            f"SELECT {by_hour}, count(*) FROM staged JOIN marked USING (__row) WHERE duplicate GROUP BY ALL"
        ).fetchall()
    )
    rejected: dict[int, dict[str, int]] = {}
    elsewhere = duck.texts([("in_future", "too_old", IGNORED)])
    for number, reason, count in con.execute(
        f"SELECT {by_hour}, reason, count(*) FROM staged WHERE reason NOT IN ({elsewhere}) AND ts IS NOT NULL GROUP BY ALL"
    ).fetchall():
        rejected.setdefault(number, {})[reason] = count
    previous: Hour | None = None
    done = 0
    for change in changes:
        hour = change.hour
        if previous is not None:
            _close_gap(store, previous, hour, exposures)
        before = store.manifest(hour).digest if store.has(hour) else None
        manifest = change.write(
            store, exposures.pop(hour, None), duplicates.get(hour.number, 0), rejected.get(hour.number)
        )
        if manifest.digest != before:
            account.changed_hours.append(hour.key)
        previous = hour if change.events.num_rows else previous
        done += change.events.num_rows
        if len(account.changed_hours) % 500 == 499:
            log.info("%s: %d of %d events written", hour, done, account.kept)
    for hour, table in exposures.items():
        store.merge(hour, None, table)
    if close:
        for hour in hour_range(*close):
            if not store.has(hour):
                store.merge(hour)
                account.changed_hours.append(hour.key)


def _close_gap(store: EventStore, previous: Hour, hour: Hour, exposures: dict[Hour, pa.Table]) -> None:
    if hour.number - previous.number - 1 > LONGEST_GAP_HOURS:
        log.warning(
            "no events from %s to %s: the gap is long, so its hours stay open. If nothing happened in it, run "
            "'clock events close %s %s'", previous + 1, hour - 1, previous + 1, hour - 1,
        )  # fmt: skip
        return
    if hour.number - previous.number - 1 > NOTED_GAP_HOURS:
        log.warning("no events from %s to %s: closed as empty hours", previous + 1, hour - 1)
    for empty in hour_range(previous + 1, hour):
        if not store.has(empty):
            store.merge(empty, None, exposures.pop(empty, None))


def _hourly(con: duckdb.DuckDBPyConnection, schema: pa.Schema, source: str) -> Iterator[tuple[Hour, pa.Table]]:
    """A table of events an hour at a time, in order; holds two batches of rows at most."""
    reader = con.sql(f"SELECT * FROM {source} ORDER BY timestamp, event_id").to_arrow_reader(200_000)
    pending: list[pa.Table] = []
    current: int | None = None
    for batch in reader:
        table = pa.Table.from_batches([batch]).cast(schema)
        numbers = pc.divide(pc.cast(table["timestamp"], pa.int64()), 3_600_000_000)
        for number in pc.unique(numbers).to_pylist():
            part = table.filter(pc.equal(numbers, number))
            if current is not None and number != current:
                yield Hour(current), pa.concat_tables(pending)
                pending = []
            current = number
            pending.append(part)
    if current is not None:
        yield Hour(current), pa.concat_tables(pending)
