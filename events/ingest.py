"""Ingestion: a raw log in, hour partitions out; every row kept, a duplicate, or quarantined with a reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import expressions as exp

from core import duck
from core.documents import did_you_mean
from core.duck import hour_number, identifier, quoted, scalar
from core.errors import ConfigError, DataError
from core.files import digest_file, digest_text, exclusive_lock, read_json, recover_directories, write_json, write_text
from core.hours import Hour, hour_range
from core.settings import Settings
from core.state_version import check_state_version
from events.ids import extend_ids
from events.mapping import Mapping, Timestamp, load_mapping, parse_expression
from events.readers import find_files, load_raw, raw_rows
from events.schema import BEHAVIOURS, event_schema, exposure_schema
from events.store import EventStore

log = logging.getLogger("events.ingest")

DEDUPLICATION_HOURS = 48
"""An event id is looked for among stored events this many hours around the input's own hours."""
LONGEST_GAP_HOURS = 31 * 24
"""Hours without events are closed as empty between two events, unless the gap is longer than this."""
NOTED_GAP_HOURS = 24
FUTURE_TOLERANCE = timedelta(minutes=5)
ITEM_LENGTH = "item duration"
MAJORITY = 0.5
"""A text column counts as numbers (or an id as an integer) when more than this share of its cells is."""


@dataclass
class Account:
    """What became of the rows: ``rows_in == kept + duplicates + quarantined``, always."""

    rows_in: int = 0
    kept: int = 0
    duplicates: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    hours: int = 0
    users: int = 0
    items: int = 0
    null_facets: dict[str, int] = field(default_factory=dict)
    exposures: int = 0
    changed_hours: list[str] = field(default_factory=list)
    quarantine: str | None = None


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
        duck.connection(settings, spill_to_file=True) as con,
    ):
        recover_directories(store.root)
        log.info("reading %d file(s)", len(files))
        plan = _Plan(con, mapping, folder, files)
        plan.stage(now or datetime.now().astimezone())
        plan.restrict(*only)
        store.declare(plan.properties())
        account = plan.account(store)
        _write_quarantine(con, store, files, account)
        _write_hours(con, store, mapping, files, account, close)
        write_json(
            store.root / "_receipts" / f"{_input_digest(files)}.json", {**asdict(account), "changed_hours": None}
        )
    log.info(
        "%d rows: %d kept, %d duplicates, %d quarantined; %d hours changed",
        account.rows_in, account.kept, account.duplicates, account.quarantined, len(account.changed_hours),
    )  # fmt: skip
    return account


def last_moment(con: duckdb.DuckDBPyConnection, mapping_name: str, paths: list[str]) -> datetime | None:
    """Time of the last readable event of a log that is not from the future, None where there is none."""
    mapping, _ = load_mapping(mapping_name)
    load_raw(con, mapping, find_files(paths))
    con.execute(f"SET TimeZone = {quoted(mapping.timestamp.zone)}")
    moment = timestamp_sql(f"r.{identifier(mapping.timestamp.column)}", mapping.timestamp)
    latest: datetime | None = scalar(con, f"SELECT max(m) FROM (SELECT {moment} AS m FROM raw r) WHERE m <= now()")
    con.execute("SET TimeZone = 'UTC'")
    return latest


def log_paths(mapping: Mapping, folder: Path, hour: Hour | None = None) -> list[str]:
    """The mapping's own paths; ``{hour}`` becomes the hour's key, or any hour's."""
    return [_relative(folder, p.replace("{hour}", hour.key if hour else "*")) for p in mapping.paths]


def close_hours(store: EventStore, first: Hour, last: Hour) -> list[Hour]:
    """Close hours in [first, last] in which nothing happened; those closed before stay as they are."""
    with exclusive_lock(store.root.parent / f".{store.root.name}.lock"):
        closed = [hour for hour in hour_range(first, last + 1) if not store.has(hour)]
        for hour in closed:
            store.merge(hour)
    return closed


class _Plan:
    """Turns the table ``raw`` into ``staged``: one row an input row, with its event and its reason."""

    def __init__(self, con: duckdb.DuckDBPyConnection, mapping: Mapping, folder: Path, files: list[Path]) -> None:
        self.con, self.mapping, self.files = con, mapping, files
        try:
            self.raw = load_raw(con, mapping, files)
        except duckdb.Error as error:
            raise DataError(f"cannot read the log: {str(error).splitlines()[0]}; nothing was ingested") from error
        self.item_columns = self._load_items(folder) if mapping.items else ()
        self.numbers: set[str] = set()
        self.ids: dict[str, str] = {}

    def properties(self) -> dict[str, object]:
        """What must stay the same between ingestions of one source."""
        return {
            "source": self.mapping.source,
            "facets": list(self.mapping.facet_names),
            "behaviours": [name for name in BEHAVIOURS if name in self.mapping.behaviours],
            "negatives": self.mapping.negatives.model_dump() if self.mapping.negatives else None,
        }

    def stage(self, now: datetime) -> None:
        """Build ``staged``: raw content, event columns, and ``reason`` (null for a good row)."""
        mapping, columns = self.mapping, self.mapping.columns
        user = self._text(columns.user_id, "columns.user_id")
        item = self._text(columns.item_id, "columns.item_id")
        played = self._number(columns.played_seconds, "columns.played_seconds")
        length = self._number(columns.duration_seconds, "columns.duration_seconds")
        if columns.duration_seconds is None and mapping.items and mapping.items.duration_seconds:
            length = f"TRY_CAST(i.{identifier(ITEM_LENGTH)} AS DOUBLE)"
        event_id = self._text(columns.event_id, "columns.event_id") if columns.event_id else "NULL"
        facets = {name: self._text(text, f"facets.{name}") for name, text in mapping.facets.items()}
        facets |= {
            name: f"nullif(trim(CAST(i.{identifier(name)} AS VARCHAR)), '')"
            for name in (mapping.items.facets if mapping.items else {})
        }
        own = {"played_seconds": "played_seconds", "duration_seconds": "duration_seconds"}
        behaviours: dict[str, str] = {
            name: f"TRY_CAST(({self._expression(text, f'behaviours.{name}', own)}) AS BOOLEAN)"
            for name, text in mapping.behaviours.items()
        }
        moment = timestamp_sql(self._column(mapping.timestamp.column, "timestamp.column"), mapping.timestamp)
        join = f"LEFT JOIN items i ON i.key = {item}" if mapping.items else ""
        self.con.execute(f"SET TimeZone = {quoted(mapping.timestamp.zone)}")
        self.con.execute(
            f"""CREATE TABLE parsed AS SELECT r.__row, {user} AS user_key, {item} AS item_key,
            {moment} AS ts, r.{identifier(mapping.timestamp.column)} IS NULL AS ts_missing,
            {event_id} AS event_key, {played} AS played_seconds, {length} AS duration_seconds,
            {", ".join(f"{sql} AS {identifier(name)}" for name, sql in facets.items())}
            FROM raw r {join}"""
        )
        self.con.execute("SET TimeZone = 'UTC'")
        self._add_ids()
        local, zone_bad = self._local_time()
        digest = "md5(concat_ws(chr(31), p.user_key, p.item_key, CAST(epoch_us(p.ts) AS VARCHAR)))"
        reasons = self._reasons(now, zone_bad)
        typed_behaviours: dict[str, str] = {**behaviours}
        typed = ", ".join(
            f"{typed_behaviours.get(name, 'CAST(NULL AS BOOLEAN)')} AS {identifier(name)}" for name in BEHAVIOURS
        )
        self.con.execute(
            f"""CREATE TABLE staged AS SELECT p.__row, coalesce(p.event_key, {digest}) AS event_id, p.user_key, p.item_key,
            p.ts, {local} AS local_time, {", ".join(f"p.{identifier(name)}" for name in facets)},
            p.played_seconds, p.duration_seconds, {typed}, {reasons} AS reason
            FROM parsed p JOIN raw r USING (__row)"""
        )
        self.con.execute("DROP TABLE parsed")

    def restrict(self, first: Hour | None, end: Hour | None) -> None:
        """Forget the rows outside hours [first, end)."""
        outside = [f"ts < {_instant(first)} OR ts IS NULL"] if first else []
        outside += [f"ts >= {_instant(end)}"] if end else []
        if outside:
            self.con.execute(f"DELETE FROM staged WHERE {' OR '.join(outside)}")
            self.con.execute("DELETE FROM raw WHERE __row NOT IN (SELECT __row FROM staged)")
        if first:
            self.con.execute("DELETE FROM malformed")

    def account(self, store: EventStore) -> Account:
        """Mark duplicates, give ids, and count; leaves the table ``fresh`` of events to keep."""
        con = self.con
        span = con.execute("SELECT min(ts), max(ts) FROM staged WHERE reason IS NULL").fetchall()[0]
        con.execute("CREATE TABLE stored_ids (event_id VARCHAR)")
        if span[0] is not None:
            first, last = Hour.of(span[0]) - DEDUPLICATION_HOURS, Hour.of(span[1]) + DEDUPLICATION_HOURS
            near = [
                str(store.partition(hour) / "events.parquet")
                for hour in store.hours()
                if first <= hour <= last and store.manifest(hour).rows
            ]
            if near:
                files = "[" + ", ".join(map(quoted, near)) + "]"
                con.execute(f"INSERT INTO stored_ids SELECT event_id FROM read_parquet({files})")
        con.execute(
            """CREATE TABLE marked AS SELECT __row, (event_id IN (SELECT event_id FROM stored_ids)
            OR row_number() OVER (PARTITION BY event_id ORDER BY ts, __row) > 1) AS duplicate
            FROM staged WHERE reason IS NULL"""
        )
        users = self._id_table(store, "user")
        items = self._id_table(store, "item")
        names = [f.name for f in event_schema(self.mapping.facet_names)]
        rest = ", ".join(f"s.{identifier(n)}" for n in names[4:])
        con.execute(
            f"""CREATE TABLE fresh AS SELECT s.event_id, u.id AS user_id, i.id AS item_id, s.ts AS timestamp, {rest}
            FROM staged s JOIN marked m USING (__row) JOIN {users} u ON u.key = s.user_key
            JOIN {items} i ON i.key = s.item_key WHERE NOT m.duplicate"""
        )
        account = Account(rows_in=raw_rows(con))
        account.duplicates = scalar(con, "SELECT count(*) FROM marked WHERE duplicate")
        account.kept = scalar(con, "SELECT count(*) FROM fresh")
        rejected = """SELECT reason, count(*) FROM (SELECT reason FROM staged WHERE reason IS NOT NULL
            UNION ALL SELECT reason FROM malformed) GROUP BY reason ORDER BY reason"""
        account.reasons = dict(con.execute(rejected).fetchall())
        account.quarantined = sum(account.reasons.values())
        account.hours, account.users, account.items = con.execute(
            """SELECT count(DISTINCT time_bucket(INTERVAL 1 HOUR, ts)), count(DISTINCT user_key),
            count(DISTINCT item_key) FROM staged WHERE reason IS NULL"""
        ).fetchall()[0]
        account.null_facets = {
            name: scalar(con, f"SELECT count(*) FROM fresh WHERE {identifier(name)} IS NULL")
            for name in self.mapping.facet_names
        }
        if account.rows_in != account.kept + account.duplicates + account.quarantined:
            raise DataError(f"rows do not add up ({account}); nothing was written. Please report this log's format")
        return account

    def _id_table(self, store: EventStore, kind: str) -> str:
        if self._id_kind(store, kind) == "int":
            return f"(SELECT DISTINCT {kind}_key AS key, CAST({kind}_key AS BIGINT) AS id FROM staged WHERE reason IS NULL)"
        query = f"SELECT {kind}_key AS key, min(ts) AS first_seen FROM staged WHERE reason IS NULL GROUP BY ALL"
        return extend_ids(self.con, store.root / "_ids" / f"{kind}.parquet", query)

    def _id_kind(self, store: EventStore, kind: str) -> str:
        """``int`` or ``string``: chosen by the first input that has events, then kept."""
        path = store.root / "_ids" / "kinds.json"
        known = read_json(path) if path.exists() else {}
        if kind not in known and scalar(self.con, "SELECT count(*) FROM staged WHERE reason IS NULL"):
            known[kind] = self.ids[kind]
            write_json(path, known)
        return str(known.get(kind, "string"))

    def _add_ids(self) -> None:
        for kind in ("user", "item"):
            chosen = self.mapping.ids.get(kind, "auto")
            if chosen == "auto":
                share = scalar(
                    self.con,
                    f"SELECT avg((regexp_full_match({kind}_key, '-?[0-9]{{1,18}}'))::INT) FROM parsed WHERE {kind}_key IS NOT NULL",
                )
                chosen = "int" if share is not None and share > MAJORITY else "string"
            self.ids[kind] = chosen

    def _reasons(self, now: datetime, zone_bad: str) -> str:
        limit = (now + FUTURE_TOLERANCE).timestamp()
        cases = [
            ("missing_timestamp", "p.ts_missing"),
            ("bad_timestamp", "p.ts IS NULL"),
            ("missing_user_id", "p.user_key IS NULL"),
            ("missing_item_id", "p.item_key IS NULL"),
            *(
                (f"bad_{kind}_id", f"NOT regexp_full_match(p.{kind}_key, '-?[0-9]{{1,18}}')")
                for kind in ("user", "item")
                if self.ids[kind] == "int"
            ),
            ("in_future", f"epoch(p.ts) > {limit!r}"),
            ("too_old", "p.ts < TIMESTAMPTZ '1990-01-01 00:00:00+00'"),
            ("unknown_zone", zone_bad),
            *(
                (f"not_a_number:{name}", f"r.{identifier(name)} IS NOT NULL AND {self._cell(name)} IS NULL")
                for name in sorted(self.numbers)
            ),
            ("not_finite", "NOT isfinite(p.played_seconds) OR NOT isfinite(p.duration_seconds)"),
            ("negative_duration", "p.duration_seconds < 0"),
            ("negative_played_seconds", "p.played_seconds < 0"),
        ]
        return "CASE " + " ".join(f"WHEN {sql} THEN {quoted(name)}" for name, sql in cases) + " END"

    def _local_time(self) -> tuple[str, str]:
        """SQL of the wall clock, and of "the row's zone is unknown"."""
        rule = self.mapping.local_time
        if rule.zone:
            return f"p.ts AT TIME ZONE {quoted(rule.zone)}", "false"
        if rule.offset_minutes_column:
            minutes = self._number(rule.offset_minutes_column, "local_time.offset_minutes_column")
            bad = f"coalesce(abs({minutes}) > 26 * 60, true)"
            return f"(p.ts AT TIME ZONE 'UTC') + to_minutes(CAST({minutes} AS BIGINT))", bad
        column = self._column(str(rule.zone_column), "local_time.zone_column")
        names = [row[0] for row in self.con.execute(f"SELECT DISTINCT CAST({column} AS VARCHAR) FROM raw r").fetchall()]
        known = [name for name in names if name and _is_zone(name)]
        listed = ", ".join(map(quoted, known)) or "''"
        safe = f"CASE WHEN {column} IN ({listed}) THEN {column} ELSE 'UTC' END"
        return f"p.ts AT TIME ZONE ({safe})", f"coalesce({column} NOT IN ({listed}), true)"

    def _load_items(self, folder: Path) -> tuple[str, ...]:
        items = self.mapping.items
        assert items is not None
        found = [
            [p] if p.is_file() else sorted(p.parent.glob(p.name))
            for p in (Path(_relative(folder, items.path)), self.files[0].parent / items.path)
        ]
        path = next((paths[0] for paths in found if paths), None)
        if path is None:
            raise DataError(f"no items table at '{items.path}' (items.path, relative to the mapping or to the log)")
        side = self.mapping.model_copy(update={"format": items.format, "csv": items.csv})
        other = self.con.cursor()
        other.execute("CREATE SCHEMA items_load")
        other.execute("USE items_load")
        raw = load_raw(other, side, find_files([str(path)]))
        _check_known(items.key, raw.columns, f"items.key ({path})")
        wanted = {**items.facets, **({ITEM_LENGTH: items.duration_seconds} if items.duration_seconds else {})}
        values = {name: _item_value(text, f"items.{name} ({path})", raw.columns) for name, text in wanted.items()}
        cells = ", ".join(f"arg_min({sql}, __row) AS {identifier(name)}" for name, sql in values.items())
        other.execute(
            f"""CREATE TABLE memory_items AS SELECT trim(CAST({identifier(items.key)} AS VARCHAR)) AS key
            {"," + cells if cells else ""} FROM raw GROUP BY ALL"""
        )
        self.con.execute("CREATE VIEW items AS SELECT * FROM items_load.memory_items")
        other.close()
        return tuple(wanted)

    def _column(self, name: str, where: str) -> str:
        _check_known(name, self.raw.columns, where)
        return f"r.{identifier(name)}"

    def _text(self, text: str, where: str) -> str:
        return f"nullif(trim(CAST(({self._expression(text, where)}) AS VARCHAR)), '')"

    def _number(self, text: str | None, where: str) -> str:
        if text is None:
            return "CAST(NULL AS DOUBLE)"
        if text in self.raw.columns and not self.raw.typed:
            self.numbers.add(text)
        return f"TRY_CAST(({self._expression(text, where)}) AS DOUBLE)"

    def _expression(self, text: str, where: str, own: dict[str, str] | None = None) -> str:
        """SQL of a mapping's expression: columns checked, text columns that hold numbers made numbers."""
        if text in self.raw.columns:
            return self._cell(text)
        tree: exp.Expr = parse_expression(text, where)
        for column in list(tree.find_all(exp.Column)):
            name = column.name
            if own and name in own:
                sql = f"p.{identifier(own[name])}"
            else:
                _check_known(name, (*self.raw.columns, *(own or ())), where)
                if not self.raw.typed and self._is_number(name):
                    self.numbers.add(name)
                sql = self._cell(name)
            cell = sqlglot.parse_one(sql, read="duckdb")
            tree = cell if column is tree else tree
            column.replace(cell)
        return tree.sql(dialect="duckdb")

    def _cell(self, name: str) -> str:
        column = f"r.{identifier(name)}"
        return f"TRY_CAST({column} AS DOUBLE)" if name in self.numbers else column

    def _is_number(self, name: str) -> bool:
        column = identifier(name)
        share = scalar(
            self.con,
            f"SELECT avg((TRY_CAST({column} AS DOUBLE) IS NOT NULL)::INT) FROM raw WHERE {column} IS NOT NULL",
        )
        return share is not None and share > MAJORITY


def timestamp_sql(column: str, rule: Timestamp) -> str:
    """SQL of an instant (TIMESTAMPTZ, null where unreadable); naive times are in the session's zone."""
    if rule.format:
        return f"CAST(try_strptime(CAST({column} AS VARCHAR), {quoted(rule.format)}) AS TIMESTAMPTZ)"
    if rule.unit == "iso":
        return f"TRY_CAST({column} AS TIMESTAMPTZ)"
    micros = {"s": 1_000_000, "ms": 1_000, "us": 1}[rule.unit]
    number = f"(round(TRY_CAST({column} AS DOUBLE) * {micros}) + {rule.origin_us})"
    return f"CASE WHEN abs({number}) < 2.5e17 THEN make_timestamptz(CAST({number} AS BIGINT)) END"


def _instant(hour: Hour) -> str:
    return f"TIMESTAMPTZ {quoted(hour.start.isoformat())}"


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return True


def _item_value(text: str, where: str, columns: tuple[str, ...]) -> str:
    """SQL of a column of the items table, or of an expression over its columns."""
    if text in columns:
        return identifier(text)
    tree = parse_expression(text, where)
    for column in tree.find_all(exp.Column):
        _check_known(column.name, columns, where)
    return tree.sql(dialect="duckdb")


def _check_known(name: str, columns: tuple[str, ...], where: str) -> None:
    if name not in columns:
        raise ConfigError(
            f"{where}: the log has no column '{name}'{did_you_mean(name, columns)} (columns: {', '.join(columns)})"
        )


def _relative(folder: Path, path: str) -> str:
    return path if Path(path).is_absolute() else str(folder / path)


def _input_digest(files: list[Path]) -> str:
    return digest_text(*(digest_file(file) for file in files))[:16]


def _write_quarantine(con: duckdb.DuckDBPyConnection, store: EventStore, files: list[Path], account: Account) -> None:
    if not account.quarantined:
        return
    con.execute(
        "CREATE TABLE good_raw AS SELECT s.reason, r.* FROM raw r JOIN staged s USING (__row) WHERE reason IS NOT NULL"
    )
    rows = con.execute(
        """SELECT reason, to_json(g) FROM (SELECT * FROM good_raw ORDER BY __row) g
        UNION ALL SELECT reason, to_json(content) FROM malformed"""
    ).fetchall()
    lines = []
    for reason, text in rows:
        content = json.loads(text)
        number = None
        if isinstance(content, dict):
            number = content.pop("__row")
            content.pop("reason", None)
        lines.append(json.dumps({"reason": reason, "row": number, "content": content}, ensure_ascii=False))
    path = store.root / "_quarantine" / f"{_input_digest(files)}.jsonl"
    write_text(path, "\n".join(sorted(lines)) + "\n")
    account.quarantine = str(path)


def _write_hours(
    con: duckdb.DuckDBPyConnection,
    store: EventStore,
    mapping: Mapping,
    files: list[Path],
    account: Account,
    close: tuple[Hour, Hour] | None,
) -> None:
    exposures = _exposures_by_hour(con, store, mapping, files, account)
    by_hour = hour_number("ts")
    duplicates = dict(
        con.execute(
            f"SELECT {by_hour}, count(*) FROM staged JOIN marked USING (__row) WHERE duplicate GROUP BY ALL"
        ).fetchall()
    )
    rejected: dict[int, dict[str, int]] = {}
    for number, reason, count in con.execute(
        f"SELECT {by_hour}, reason, count(*) FROM staged WHERE reason NOT IN ('in_future', 'too_old') AND ts IS NOT NULL GROUP BY ALL"
    ).fetchall():
        rejected.setdefault(number, {})[reason] = count
    previous: Hour | None = None
    done = 0
    for hour, table in _hourly(con, mapping):
        if previous is not None:
            _close_gap(store, previous, hour, exposures)
        before = store.manifest(hour).digest if store.has(hour) else None
        manifest = store.merge(
            hour, table, exposures.pop(hour, None),
            duplicates=duplicates.get(hour.number, 0), rejected=rejected.get(hour.number),
        )  # fmt: skip
        if manifest.digest != before:
            account.changed_hours.append(hour.key)
        previous = hour
        done += table.num_rows
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
            "'python -m events close %s %s'", previous + 1, hour - 1, previous + 1, hour - 1,
        )  # fmt: skip
        return
    if hour.number - previous.number - 1 > NOTED_GAP_HOURS:
        log.warning("no events from %s to %s: closed as empty hours", previous + 1, hour - 1)
    for empty in hour_range(previous + 1, hour):
        if not store.has(empty):
            store.merge(empty, None, exposures.pop(empty, None))


def _hourly(con: duckdb.DuckDBPyConnection, mapping: Mapping) -> Iterator[tuple[Hour, pa.Table]]:
    """The table ``fresh`` an hour at a time, in order; holds two batches of rows at most."""
    schema = event_schema(mapping.facet_names)
    reader = con.sql("SELECT * FROM fresh ORDER BY timestamp, event_id").to_arrow_reader(200_000)
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


def _exposures_by_hour(
    con: duckdb.DuckDBPyConnection, store: EventStore, mapping: Mapping, files: list[Path], account: Account
) -> dict[Hour, pa.Table]:
    """First exposures of each hour, from the exposure logs that stand beside the event logs."""
    rule = mapping.exposures
    if rule is None:
        return {}
    paths = [
        file.parent / rule.path.replace("{name}", file.name).replace("{stem}", file.name.split(".")[0])
        for file in files
    ]
    found = sorted({str(path) for path in paths if path.exists()})
    if not found:
        return {}
    con.execute("CREATE SCHEMA exposure_load")
    con.execute("USE exposure_load")
    try:
        raw = load_raw(con, mapping.model_copy(update={"format": "auto"}), find_files(found))
        for name in (rule.experiment, rule.variant, rule.user_id, rule.timestamp.column):
            _check_known(name, raw.columns, f"exposures ({found[0]})")
        moment = timestamp_sql(f"r.{identifier(rule.timestamp.column)}", rule.timestamp)
        users = store.root / "_ids" / "user.parquet"
        source = f"""SELECT CAST({identifier(rule.experiment)} AS VARCHAR) AS experiment,
            CAST({identifier(rule.variant)} AS VARCHAR) AS variant,
            trim(CAST({identifier(rule.user_id)} AS VARCHAR)) AS user_key, {moment} AS timestamp FROM raw r"""
        con.execute(f"CREATE TABLE parsed_exposures AS {source}")
        if users.exists():
            ids = extend_ids(
                con, users,
                "SELECT user_key AS key, min(timestamp) AS first_seen FROM exposure_load.parsed_exposures "
                "WHERE user_key IS NOT NULL GROUP BY ALL",
            )  # fmt: skip
        else:
            ids = "(SELECT DISTINCT user_key AS key, TRY_CAST(user_key AS BIGINT) AS id FROM exposure_load.parsed_exposures)"
        found_rows = con.sql(
            f"""SELECT experiment, variant, id AS user_id, min(timestamp) AS timestamp
            FROM exposure_load.parsed_exposures JOIN {ids} ON key = user_key
            WHERE experiment IS NOT NULL AND variant IS NOT NULL AND id IS NOT NULL AND timestamp IS NOT NULL
            GROUP BY experiment, variant, id, {hour_number("timestamp")}"""
        )
        table = found_rows.to_arrow_table()
    finally:
        con.execute("USE main")
    table = table.cast(exposure_schema())
    account.exposures = table.num_rows
    numbers = pc.divide(pc.cast(table["timestamp"], pa.int64()), 3_600_000_000)
    return {Hour(n): table.filter(pc.equal(numbers, n)) for n in sorted(pc.unique(numbers).to_pylist())}
