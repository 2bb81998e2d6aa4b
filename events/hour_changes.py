"""What an input means for each hour, written hour by hour; hours in which nothing happened are closed between them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa

from core import duck
from core.duck import hour_number
from core.hour_batches import hours_of
from core.hours import Hour, hour_range
from events.account import Account
from events.partition import Manifest
from events.staging import IGNORED
from events.store import EventStore

log = logging.getLogger("events.ingest")

LONGEST_GAP_HOURS = 31 * 24
"""Hours without events are closed as empty between two events, unless the gap is longer than this."""
NOTED_GAP_HOURS = 24
NOT_OF_AN_HOUR = ("in_future", "too_old", IGNORED)
"""Reasons of rows that no hour's manifest counts."""


@dataclass(frozen=True)
class HourCounts:
    """What became of rows that no event shows, by the hour's number.

    Attributes:
        duplicates: how many were dropped.
        rejected: how many were quarantined, by reason.
    """

    duplicates: Mapping[int, int] = field(default_factory=dict)
    rejected: Mapping[int, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, con: duckdb.DuckDBPyConnection) -> HourCounts:
        """Count the tables ``staged`` and ``marked`` of an input."""
        by_hour = hour_number("ts")
        duplicates = con.execute(
            f"SELECT {by_hour}, count(*) FROM staged JOIN marked USING (__row) WHERE duplicate GROUP BY ALL"
        ).fetchall()
        return cls(dict(duplicates), rejected_by_hour(con.execute(rejected_query("staged")).fetchall()))


class HourWriter(Protocol):
    """What an input means for an hour."""

    @property
    def hour(self) -> Hour:
        """The hour."""
        ...

    @property
    def rows(self) -> int:
        """Its new events; of a log with actions all of its events."""
        ...

    def write(self, store: EventStore, exposures: pa.Table | None, counts: HourCounts) -> Manifest:
        """Write the hour."""
        ...


@dataclass(frozen=True)
class HourChange:
    """Rows of an hour.

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

    @property
    def rows(self) -> int:
        return int(self.events.num_rows)

    def write(
        self, store: EventStore, exposures: pa.Table | None, counts: HourCounts, into: Path | None = None
    ) -> Manifest:
        """Write the hour, or fill a folder with it (``EventStore.merge``)."""
        duplicates, rejected = counts.duplicates.get(self.hour.number, 0), counts.rejected.get(self.hour.number)
        if self.facts is not None:
            return store.rewrite(
                self.hour, self.events, self.facts, exposures, duplicates=duplicates, rejected=rejected
            )
        return store.merge(
            self.hour, self.events, exposures, amended=self.amended, duplicates=duplicates, rejected=rejected, into=into
        )


def rejected_query(table: str) -> str:
    """SQL that counts rejected rows of a staged table by hour and reason; ``rejected_by_hour`` takes its rows."""
    return f"""SELECT {hour_number("ts")} AS hour, reason, count(*) AS n FROM {table}
        WHERE reason NOT IN ({duck.texts([NOT_OF_AN_HOUR])}) AND ts IS NOT NULL GROUP BY ALL"""


def rejected_by_hour(rows: Iterable[tuple[int, str, int]]) -> dict[int, dict[str, int]]:
    """Hour → reason → rows.

    >>> rejected_by_hour([(3, "bad", 1), (3, "worse", 2), (3, "bad", 4)])
    {3: {'bad': 5, 'worse': 2}}
    """
    rejected: dict[int, dict[str, int]] = {}
    for hour, reason, count in rows:
        reasons = rejected.setdefault(hour, {})
        reasons[reason] = reasons.get(reason, 0) + count
    return rejected


def changes_of(con: duckdb.DuckDBPyConnection, schema: pa.Schema) -> Iterator[HourChange]:
    """What the tables ``fresh`` and ``amended`` mean for each hour: hours with new events in order, then the others."""
    amended = dict(_hourly(con, schema, "amended"))
    for hour, events in _hourly(con, schema, "fresh"):
        yield HourChange(hour, events, amended=amended.pop(hour, None))
    for hour, events in amended.items():
        yield HourChange(hour, schema.empty_table(), amended=events)


def write_hours(
    store: EventStore,
    changes: Iterable[HourWriter],
    exposures: dict[Hour, pa.Table],
    account: Account,
    counts: HourCounts,
    close: tuple[Hour, Hour] | None,
) -> None:
    """Write the hours of an input; the account tells which are other ones than before.

    Args:
        store: where they go.
        changes: hours with new events in order, then the others.
        exposures: of hours; they are taken out.
        account: of the input.
        counts: of its rows that are no events.
        close: hours [from, to) to close even where the input has no event in them.
    """
    closing = [*hour_range(*close)] if close else []
    if closing:  # what lies beyond the hours of the input does not count as closed, also after a crash
        store.close_until(closing[0])
    newest = _write_changes(store, changes, exposures, account, counts)
    for hour in closing:
        if not store.has(hour):
            store.merge(hour)
            account.changed_hours.append(hour.key)
    if closing:
        store.close_until(closing[-1] + 1)
    elif newest is not None and store.notes_closed:
        store.close_until(newest + 1)


def _write_changes(
    store: EventStore,
    changes: Iterable[HourWriter],
    exposures: dict[Hour, pa.Table],
    account: Account,
    counts: HourCounts,
) -> Hour | None:
    """Write the hours that an input has rows of; returns the newest of them."""
    account.exposures = sum(table.num_rows for table in exposures.values())
    newest, previous = max(exposures, default=None), None
    done = 0
    for change in changes:
        hour = change.hour
        newest = max(newest or hour, hour)
        if previous is not None:
            _close_gap(store, previous, hour, exposures)
        before = store.manifest(hour).digest if store.has(hour) else None
        manifest = change.write(store, exposures.pop(hour, None), counts)
        if manifest.digest != before:
            account.changed_hours.append(hour.key)
        previous = hour if change.rows else previous
        done += change.rows
        if len(account.changed_hours) % 500 == 499:
            log.info("%s: %d of %d events written", hour, done, account.kept)
    for hour, table in exposures.items():
        store.merge(hour, None, table)
    return newest


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
    rows = con.sql(f"SELECT {hour_number('timestamp')} AS hour, * FROM {source} ORDER BY timestamp, event_id")
    for number, table in hours_of(rows.to_arrow_reader(200_000)):
        yield Hour(number), table.select(schema.names).cast(schema)
