"""Ingestion: a raw log in, hour partitions out; every row kept, merged, a duplicate, or quarantined with a reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from core import duck
from core.duck import hour_number, identifier, quoted, scalar
from core.errors import DataError
from core.files import digest_file, digest_text, exclusive_lock, recover_directories, write_json, write_text
from core.hours import Hour, hour_range
from core.settings import Settings
from core.state_version import check_state_version
from events.account import FEW_ROWS, Account, count_kept, tell
from events.actions import ActionJoin
from events.attributes import stage_attributes, write_attributes
from events.cells import timestamp_sql
from events.exposures import SCHEMA as EXPOSURES
from events.exposures import read_exposures
from events.forgotten import ForgottenList
from events.ids import extend_ids, id_kinds, id_path
from events.items import write_item_facets
from events.likely_cause import likely_cause
from events.log_files import find_files
from events.mapping import Actions, Mapping, load_mapping, log_paths
from events.readers import RawLog, load_raw, raw_rows
from events.repeated import mark_repeated
from events.schema import BEHAVIORS
from events.source_properties import SourceProperties
from events.staging import IGNORED, Staging, inner
from events.store import EventStore, Manifest

log = logging.getLogger("events.ingest")

LONGEST_GAP_HOURS = 31 * 24
"""Hours without events are closed as empty between two events, unless the gap is longer than this."""
NOTED_GAP_HOURS = 24


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
    both = "(SELECT reason FROM staged UNION ALL SELECT reason FROM malformed)"
    passed_over = int(scalar(con, f"SELECT count(*) FROM {both} WHERE reason = {quoted(IGNORED)}"))
    rows = raw_rows(con) - passed_over
    if not rows or scalar(con, "SELECT count(*) FROM staged WHERE reason IS NULL"):
        return
    if one_hour and rows < FEW_ROWS:
        return
    reasons = con.execute(
        f"""SELECT reason, count(*) AS n FROM {both}
        WHERE reason <> {quoted(IGNORED)} GROUP BY reason ORDER BY n DESC, reason"""
    ).fetchall()
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons)
    raise DataError(
        f"none of the {rows} rows of {staging.files[0]}{_beside(passed_over)} could be read ({listed}); nothing was ingested. "
        + likely_cause(staging, str(reasons[0][0]))
    )


def _beside(passed_over: int) -> str:
    return f" (beside {passed_over} that are ignored)" if passed_over else ""


def ingest(
    mapping_name: str,
    paths: list[str],
    settings: Settings,
    *,
    out: Path | None = None,
    now: datetime | None = None,
    close: tuple[Hour, Hour] | None = None,
    only: tuple[Hour | None, Hour | None] = (None, None),
    piece_of: Path | None = None,
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
        piece_of: log that the files are a piece of: the table of items is looked for beside it, and exposures and attributes
            are left to whoever ingests the whole.

    Returns:
        The account. Ingesting the same input again keeps nothing and changes no byte.

    Raises:
        ConfigError, DataError: nothing was written; the message says what to do.
    """
    mapping, folder = load_mapping(mapping_name)
    if piece_of:
        mapping = mapping.model_copy(update={"exposures": None})
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
        store.changes.recover()
        log.info("reading %d file(s)", len(files))
        properties, moment = SourceProperties.of(mapping), now or datetime.now().astimezone()
        store.check_declared(properties)
        beside = (piece_of or files[0]).parent
        staging = Staging(con, mapping, [folder, beside], files, id_kinds(store.root))
        staging.stage(moment)
        staging.restrict(*only)
        forgotten = ForgottenList(store.root).matcher()
        if passed := forgotten.pass_over(con, IGNORED):
            log.info("%d rows of people who asked to be forgotten are passed over", passed)
        _require_some_good(con, staging, close is not None)
        staging.check_items(close is not None)
        tables = [] if piece_of else stage_attributes(con, mapping, [folder, beside], store, staging.ids)
        exposures = read_exposures(con, mapping, files, moment, staging.ids["user"])
        if forgotten:
            views = {f"{EXPOSURES}.parsed_exposures": "user_key"} if exposures.logged else {}
            for view, key in (views | {table.view: "key" for table in tables if table.owner == "user"}).items():
                con.execute(f"DELETE FROM {view} WHERE {forgotten.sql(key)}")
        store.declare(properties)
        account, changes = _account(con, store, mapping, staging.ids)
        account.ids, account.unreadable = dict(sorted(staging.ids.items())), staging.unreadable
        account.ambiguous_times = staging.shifted.get("ambiguous", 0)
        account.skipped_times = staging.shifted.get("skipped", 0)
        account.exposure_reasons, account.unfolded = exposures.rejected, staging.unfolded
        account.chosen_not_in_list = staging.marks.chosen_not_in_list
        account.unknown_actions = staging.unknown_actions()
        _write_quarantine(con, store, files, account, staging.raw)
        write_attributes(con, store, tables, staging.ids)
        _write_hours(con, store, changes, exposures.by_hour(con, store), account, close)
        if staging.items_file and not piece_of:
            write_item_facets(con, store, mapping, staging.items_file, numbers=staging.ids["item"] == "int")
        tell(account, mapping, staging, one_hour=close is not None)
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
        mark_repeated(con, store)
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
    count_kept(con, mapping, account)
    if account.rows_in != account.kept + account.duplicates + account.merged + account.quarantined + account.ignored:
        raise DataError(f"rows do not add up ({account}); nothing was written. Please report this log's format")
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
        UNION ALL SELECT reason, NULL, to_json(content) FROM malformed WHERE reason <> {quoted(IGNORED)}"""
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
