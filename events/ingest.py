"""Ingestion: a raw log in, hour partitions out; every row kept, merged, a duplicate, or quarantined with a reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import duckdb

from core import duck
from core.duck import scalar
from core.engine import engine
from core.errors import DataError
from core.files import temporary_directory, write_json
from core.hours import Hour, hour_range
from core.settings import Settings
from core.spark import SparkEngine
from core.state_version import check_state_version
from events.account import Account, tell
from events.attributes import stage_attributes, write_attributes
from events.exposures import SCHEMA as EXPOSURES
from events.exposures import read_exposures
from events.folds import load_moments
from events.forgotten import ForgottenList
from events.hour_changes import write_hours
from events.input_part import InputPart
from events.items import write_item_facets
from events.local_input import Input, LocalInput, Log
from events.log_files import find_files, format_of, tell_unread
from events.log_paths import LogPaths, in_order, is_remote
from events.mapping import Mapping, load_mapping, log_paths
from events.quarantine import quarantine_file
from events.readers import load_raw
from events.remote_log import on_this_machine, some_files
from events.row_expressions import RowExpressions
from events.source_properties import SourceProperties
from events.spark_input import SparkInput, is_readable
from events.store import EventStore

log = logging.getLogger("events.ingest")

LAST_FILES = 3
"""Of a log elsewhere that are looked at for its end."""


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
        paths: files, folders or globs, also addresses of such; empty: the mapping's own ``paths``.
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
        NotReadyError: the log lies elsewhere, and does not answer.
    """
    mapping, folder = load_mapping(mapping_name)
    if piece_of:
        mapping = mapping.model_copy(update={"exposures": None})
    with on_this_machine(mapping, log_paths(mapping, folder, paths).all(), settings) as (mapping, named):
        return _ingest(mapping, folder, named, settings, out, now or datetime.now().astimezone(), close, only, piece_of)


def _ingest(
    mapping: Mapping,
    folder: Path,
    named: list[str],
    settings: Settings,
    out: Path | None,
    moment: datetime,
    close: tuple[Hour, Hour] | None,
    only: tuple[Hour | None, Hour | None],
    piece_of: Path | None,
) -> Account:
    """As ``ingest``, of files of this machine; relative paths of tables start from ``folder`` or from the log's."""
    files = find_files(named)
    tell_unread(named)
    store = EventStore(out or settings.events_dir)
    if out is None:
        check_state_version(settings)
    with (
        store.writing(),
        _memory_named(files, settings),
        duck.connection(settings, spill_to_file=True) as con,
        ExitStack() as stack,
    ):
        log.info("reading %d file(s)", len(files))
        properties = SourceProperties.of(mapping)
        store.check_declared(properties)
        folders = [folder, (piece_of or files[0]).parent]
        forgotten = ForgottenList(store.root).matcher()
        read = stack.enter_context(_read(con, Log(mapping, files, folders, moment, only, forgotten), store, settings))
        if read.counts.forgotten:
            log.info("%d rows of people who asked to be forgotten are passed over", read.counts.forgotten)
        one_hour = close is not None
        read.counts.require_some_good(files[0], read.examples, one_hour)
        if mapping.items and read.items_file:
            read.match_items().check(mapping.items, read.items_file, one_hour)
        tables = [] if piece_of else stage_attributes(con, mapping, folders, store, read.ids)
        exposures = read_exposures(con, mapping, files, moment, read.ids["user"])
        if forgotten:
            views = {f"{EXPOSURES}.parsed_exposures": "user_key"} if exposures.logged else {}
            for view, key in (views | {table.view: "key" for table in tables if table.owner == "user"}).items():
                con.execute(f"DELETE FROM {view} WHERE {forgotten.sql(key)}")
        store.declare(properties)
        account = read.account(store)
        account.exposure_reasons, digest = exposures.rejected, read.digest()
        if account.quarantined:
            account.quarantine = str(quarantine_file(store, digest))
            read.write_quarantine(Path(account.quarantine))
        write_attributes(con, store, tables, read.ids)
        write_hours(store, read.changes(), exposures.by_hour(con, store), account, read.counts_by_hour(), close)
        if read.items_file and not piece_of:
            read.load_items()
            write_item_facets(con, store, mapping, read.items_file, numbers=read.ids["item"] == "int")
        tell(account, mapping, read.examples, one_hour=one_hour)
        write_json(store.root / "_receipts" / f"{digest}.json", {**asdict(account), "changed_hours": None})
    log.info(
        "%d rows: %d kept, %d merged, %d duplicates, %d quarantined%s; %d hours changed",
        account.rows_in, account.kept, account.merged, account.duplicates, account.quarantined,
        f", {account.ignored} ignored" if account.ignored else "", len(account.changed_hours),
    )  # fmt: skip
    return account


@contextmanager
def _read(con: duckdb.DuckDBPyConnection, log_: Log, store: EventStore, settings: Settings) -> Iterator[Input]:
    """The rows of an input, read by executors of Spark if it is large enough and they can read it, else by this process."""
    size = sum(file.stat().st_size for file in log_.files)
    if settings.engine != "spark" or size < settings.spark_ingest_megabytes * 1_000_000:
        yield LocalInput(con, log_, store)
    elif not is_readable(log_.mapping):
        log.info("logs with lists or actions are read by one process, with Spark, too")
        yield LocalInput(con, log_, store)
    else:
        with (
            engine(settings) as running,
            temporary_directory(f".{store.root.name}-ingest-", store.root.parent) as folder,
        ):
            assert isinstance(running, SparkEngine)
            yield SparkInput(running, con, log_, store, settings, folder)


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


def last_moment(settings: Settings, mapping_name: str, paths: LogPaths) -> datetime | None:
    """Time of the last readable event of a log that is not from the future, None where there is none.

    Of files elsewhere that are named for their times the last few tell it.

    Args:
        settings: of the workspace.
        mapping_name: a mapping file, or the name of a built-in one.
        paths: where the log lies.
    """
    mapping, _ = load_mapping(mapping_name)
    last = [path for pattern, whole in zip(paths.patterns, paths.all(), strict=True) for path in _last(pattern, whole)]
    with (
        on_this_machine(mapping, last, settings) as (mapping, named),
        duck.connection(settings) as con,
    ):
        raw = load_raw(con, mapping, find_files(named))
        cell, kind = RowExpressions(con, raw, InputPart()).moment(mapping.timestamp, "timestamp.column")
        load_moments(con, cell, mapping.timestamp, kind, "moments")
        latest: datetime | None = scalar(con, "SELECT max(ts) FROM moments WHERE ts <= now()")
    return latest


def _last(pattern: str, whole: str) -> list[str]:
    """Of the files of a path those among which the last event is; all of them where they lie here, or no name tells a time."""
    if whole == pattern or not is_remote(whole):
        return [whole]
    urls = in_order(pattern, [file.url for file in some_files(whole)])
    return ([url for url in urls if format_of(Path(url))] or urls)[-LAST_FILES:]


def close_hours(store: EventStore, first: Hour, last: Hour) -> list[Hour]:
    """Close hours in [first, last] in which nothing happened; those closed before stay as they are."""
    with store.writing():
        known = {*store.hours()}
        closed = [hour for hour in hour_range(first, last + 1) if hour not in known]
        for hour in closed:
            store.merge(hour)
        store.close_until(last + 1)
    return closed
