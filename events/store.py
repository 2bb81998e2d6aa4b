"""Hour partitions on disk: written whole, with a manifest, never half.

Layout below the store's root::

    source.json                            facets, negatives, …: fixed by the first ingestion
    hour=2026-11-23T10/events.parquet      the hour's events, ordered by (timestamp, event_id)
    hour=2026-11-23T10/facts.parquet       what rows told, where a log has actions: the events follow from it
    hour=2026-11-23T10/exposures.parquet   first exposures of the hour (only where there are any)
    hour=2026-11-23T10/manifest.json       rows, digest, rejected, duplicates, watermark
    _attributes/{user,item}.parquet        what tables beside the log tell of users and items, see ``events.attributes``
    _ids/{user,item}.parquet               string ids → integers, those of later hours in user.<first id>.parquet
    _quarantine/<digest>.jsonl             rejected rows with their reason and original content
    _receipts/<digest>.json                the account of each ingestion
    _closed.json                           the hour before which all are closed, once one was ingested or closed by itself
    _forgotten.json                        digests of people who are not ingested again, see ``events.forgotten``
    .changes/                              which hours changed, see ``events.change_list``
    .digests/2026-11.json                  digests of a month's hours, so that only manifests written since are read
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import CorruptStateError, DataError, NotReadyError
from core.files import FROM_BACKUP, exclusive_lock, read_json, recover_directories, replaced_directory, write_json
from core.hours import Hour, hour_range
from events.change_list import ChangeList
from events.partition import HourContent, Manifest, first_exposures, partition_digest
from events.schema import (
    REQUEST_COLUMNS,
    AttributeField,
    Owner,
    attribute_schema,
    event_schema,
    exposure_schema,
    fact_schema,
)
from events.source_properties import SourceProperties


class EventStore:
    """The event log of one source, by hour."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes = ChangeList(root)

    @cached_property
    def source(self) -> SourceProperties:
        """The source's fixed properties.

        Raises:
            NotReadyError: nothing was ingested yet.
        """
        path = self.root / "source.json"
        if not path.exists():
            raise self._nothing_yet()
        return SourceProperties.from_json(read_json(path, FROM_BACKUP))

    @property
    def facets(self) -> list[str]:
        return list(self.source.facets)

    @property
    def moment_columns(self) -> list[str]:
        """Columns that say where an item was shown and in what context; the source may have had them only since some hour."""
        context = self.source.context
        return [name for name in self.event_schema.names if name in REQUEST_COLUMNS or name in context]

    @property
    def behaviors(self) -> list[str]:
        """Behaviors that the source can know, in the schema's order."""
        return list(self.source.behaviors)

    @property
    def event_schema(self) -> pa.Schema:
        """Arrow schema of the source's events."""
        return event_schema(self.source.facets, context=self.source.context, has_requests=self.source.has_requests)

    @property
    def fact_schema(self) -> pa.Schema:
        """Arrow schema of what the rows of a log with actions told."""
        return fact_schema(self.source.facets, context=self.source.context, has_requests=self.source.has_requests)

    def attribute_fields(self, owner: Owner) -> tuple[AttributeField, ...]:
        """The source's attributes of users, items or the context."""
        return tuple(each for each in self.source.attributes if each.owner == owner)

    def attribute_schema(self, owner: Owner) -> pa.Schema:
        """Arrow schema of what users or items were from some hour on."""
        return attribute_schema(owner, self.source.attributes)

    def attribute_file(self, owner: Owner) -> Path:
        """What users or items were; the file is there once a table of them was read."""
        return self.root / "_attributes" / f"{owner}.parquet"

    @property
    def item_facets_file(self) -> Path:
        """Facets of the items of the last table of items, shown or not; the file is there once one was read."""
        return self.root / "_items" / "facets.parquet"

    def check_declared(self, properties: SourceProperties) -> None:
        """Return if the source's properties are the ones fixed before, or none were.

        Raises:
            DataError: the store holds events of another source, or with other facets, behaviors or negatives.
        """
        path = self.root / "source.json"
        if not path.exists():
            return
        fixed = (SourceProperties.from_json(read_json(path, FROM_BACKUP)), properties)
        fixed[0].check_types(properties)
        declared, asked = (replace(each, has_requests=False, context=(), attributes=()).to_json() for each in fixed)
        if declared != asked:
            changed = sorted(k for k in {*declared, *asked} if declared.get(k) != asked.get(k))
            raise DataError(
                f"{self.root} holds events of '{declared.get('source')}' with other {', '.join(changed)}; "
                "give another --out, or remove that folder to start the source again"
            )

    def declare(self, properties: SourceProperties) -> None:
        """Fix the source's properties, or check that they are the ones fixed before (``check_declared``)."""
        self.check_declared(properties)
        path = self.root / "source.json"
        if not path.exists():
            write_json(path, properties.to_json())
        elif (grown := self.source.grown_to(properties)) != self.source:
            write_json(path, grown.to_json())
        self.__dict__.pop("source", None)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For one writer at a time, the others wait; what a crash left of a write is undone or noted first."""
        with exclusive_lock(self.root.parent / f".{self.root.name}.lock"):
            recover_directories(self.root)
            self.changes.recover()
            yield

    def partition(self, hour: Hour) -> Path:
        return self.root / f"hour={hour.key}"

    def event_files(self, hours: Iterable[Hour] | None = None) -> list[Path]:
        """Event files of those of the hours (None: of all) that were closed and have events, in the order given."""
        return [
            self.partition(hour) / "events.parquet"
            for hour in (self.hours() if hours is None else hours)
            if self.has(hour) and self.manifest(hour).rows
        ]

    def exposure_files(self, hours: Iterable[Hour] | None = None) -> list[Path]:
        """Exposure files of those of the hours (None: of all) that have any, in the order given."""
        return [
            self.partition(hour) / "exposures.parquet"
            for hour in (self.hours() if hours is None else hours)
            if self.has(hour) and self.manifest(hour).exposures
        ]

    def hours(self) -> list[Hour]:
        """Every hour that was closed, in order, empty ones included.

        An hour that has rows already, because the file of the hour before it ran on, is none until it is ingested itself.
        """
        keys, end = self._keys(), self._closed_until()
        return [Hour.parse(key) for key in keys if end is None or key < end.key]

    def close_until(self, until: Hour) -> None:
        """Note that the hours before one are closed, and those from it on are not, unless they were before.

        Args:
            until: the hour after the last that is closed.
        """
        noted, keys = self._closed_until(), self._keys()
        before = Hour.parse(keys[-1]) + 1 if noted is None and keys else noted
        end = until if before is None else max(before, until)
        if end != noted:
            write_json(self._closed_file, {"until": end.key})

    @property
    def notes_closed(self) -> bool:
        """Whether it is noted which hours are closed; else all are that have a folder."""
        return self._closed_file.exists()

    @property
    def _closed_file(self) -> Path:
        return self.root / "_closed.json"

    def _closed_until(self) -> Hour | None:
        return Hour.parse(read_json(self._closed_file, FROM_BACKUP)["until"]) if self.notes_closed else None

    def closed_between(self, first: Hour, until: Hour) -> list[Hour]:
        """The hours in [first, until) that were closed, in order; costs as much as they are, however long the log is."""
        return [hour for hour in hour_range(first, until) if self.has(hour)]

    def first_hour(self) -> Hour:
        """The first hour that was closed.

        Raises:
            NotReadyError: nothing was ingested yet.
        """
        keys = self._keys()
        if not keys:
            raise self._nothing_yet()
        return Hour.parse(keys[0])

    def require_hours(self) -> list[Hour]:
        """The hours that were closed, at least one.

        Raises:
            NotReadyError: nothing was ingested yet.
        """
        hours = self.hours()
        if not hours:
            raise self._nothing_yet()
        return hours

    def _nothing_yet(self) -> NotReadyError:
        return NotReadyError(
            f"no events in {self.root} yet; run 'clock events ingest' first, or name another source with --source"
        )

    def _keys(self) -> list[str]:
        """Keys of the hours whose folders exist, in order; a folder is whole as soon as it has its name."""
        if not self.root.exists():
            return []
        with os.scandir(self.root) as entries:
            return sorted(entry.name.removeprefix("hour=") for entry in entries if entry.name.startswith("hour="))

    def has(self, hour: Hour) -> bool:
        return (self.partition(hour) / "manifest.json").exists()

    def manifest(self, hour: Hour) -> Manifest:
        """The hour's manifest; ``NotReadyError`` names the hour when it was never closed."""
        path = self.partition(hour) / "manifest.json"
        if not path.exists():
            raise NotReadyError(
                f"hour {hour} has not been ingested; run 'clock events ingest' on its log, or "
                f"'clock events close {hour}' if nothing happened in it"
            )
        return Manifest(**read_json(path))

    def digests(self, first: Hour, until: Hour) -> dict[Hour, str]:
        """Digest of every closed hour in [first, until), in order."""
        digests: dict[Hour, str] = {}
        for month, hours in groupby(hour_range(first, until), key=lambda hour: hour.key[:7]):
            path = self.root / ".digests" / f"{month}.json"
            known = read_json(path) if path.exists() else {}
            news = {}
            for hour in hours:
                try:
                    seen = os.stat(f"{self.root}/hour={hour.key}/manifest.json")  # noqa: PTH116 (three times as fast)
                except FileNotFoundError:
                    continue
                stamp = f"{seen.st_ino}-{seen.st_mtime_ns}-{seen.st_size}"
                if known.get(hour.key, ("", ""))[0] != stamp:
                    news[hour.key] = [stamp, self.manifest(hour).digest]
                digests[hour] = (news.get(hour.key) or known[hour.key])[1]
            if news:
                write_json(path, {**known, **news})
        return digests

    def manifests(self) -> list[Manifest]:
        return [self.manifest(hour) for hour in self.hours()]

    def count(self, hours: Iterable[Hour]) -> int:
        """How many events some hours have together; one that is not closed has none."""
        return sum(self.manifest(hour).rows for hour in hours if self.has(hour))

    def read(self, hour: Hour, *, verify: bool = False) -> pa.Table:
        """The hour's events; with ``verify`` the bytes are checked against the manifest."""
        manifest = self.manifest(hour)
        folder = self.partition(hour)
        if verify and partition_digest(folder) != manifest.digest:
            raise CorruptStateError(
                f"{folder} does not match its manifest; remove the folder and ingest the hour's log again"
            )
        if not manifest.rows:
            return self.event_schema.empty_table()
        return self.with_all_columns(pq.ParquetFile(folder / "events.parquet").read())

    def with_all_columns(self, events: pa.Table) -> pa.Table:
        """Events with a null column for each that the source has had only since they were written."""
        for column in self.event_schema:
            if column.name not in events.column_names:
                events = events.append_column(column, pa.nulls(events.num_rows, column.type))
        return events

    def read_exposures(self, hour: Hour) -> pa.Table:
        path = self.partition(hour) / "exposures.parquet"
        return pq.ParquetFile(path).read() if path.exists() else exposure_schema().empty_table()

    def fact_files(self, hours: Iterable[Hour]) -> list[Path]:
        """Files of what the rows of these hours told, of a log with actions.

        They hold the user, item and local time of every event that the hours have or ever had.
        """
        files = [self.partition(hour) / "facts.parquet" for hour in hours if self.has(hour)]
        return [file for file in files if file.exists()]

    def merge(
        self,
        hour: Hour,
        events: pa.Table | None = None,
        exposures: pa.Table | None = None,
        *,
        amended: pa.Table | None = None,
        duplicates: int = 0,
        rejected: dict[str, int] | None = None,
        into: Path | None = None,
    ) -> Manifest:
        """Add rows to an hour (its own rows win over equal ids) and write it whole.

        The same rows a second time leave every byte as it was.

        Args:
            hour: the hour.
            events: rows to add.
            exposures: of the hour, to add.
            amended: rows that take the place of the hour's own with equal ids.
            duplicates: rows that were dropped.
            rejected: rows that were quarantined, by reason.
            into: an empty folder that is filled instead of the hour's own; ``place`` puts it there.
        """
        old = self.manifest(hour) if self.has(hour) else None
        if old and not any(table is not None and table.num_rows for table in (events, exposures, amended)):
            return old
        schema = self.event_schema
        merged = (events if events is not None else schema.empty_table()).cast(schema)
        if old:
            before = self.read(hour, verify=True)
            if amended is not None:
                kept = pa.compute.invert(pa.compute.is_in(before["event_id"], amended["event_id"]))
                before = pa.concat_tables([before.filter(kept), amended.cast(schema)])
            fresh = pa.compute.invert(pa.compute.is_in(merged["event_id"], before["event_id"]))
            merged = pa.concat_tables([before, merged.filter(fresh)])
        merged = merged.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])
        return self._write(hour, old, merged, exposures, None, duplicates, rejected, into)

    def rewrite(
        self,
        hour: Hour,
        events: pa.Table,
        facts: pa.Table,
        exposures: pa.Table | None = None,
        *,
        duplicates: int = 0,
        rejected: dict[str, int] | None = None,
    ) -> Manifest:
        """Write the events of an hour that follow from its facts; an hour that has both already stays as it is.

        Args:
            hour: the hour.
            events: all of the hour, in order of timestamp and event id.
            facts: all that rows told in the hour, in order of timestamp and fact.
            exposures: of the hour, to add.
            duplicates: rows that were dropped.
            rejected: rows that were quarantined, by reason.
        """
        old = self.manifest(hour) if self.has(hour) else None
        events, facts = events.cast(self.event_schema), facts.cast(self.fact_schema)
        if old and not (exposures and exposures.num_rows):
            files = self.fact_files([hour])
            known = pq.ParquetFile(files[0]).read() if files else self.fact_schema.empty_table()
            if known["fact"].equals(facts["fact"]) and self.read(hour, verify=True).equals(events):
                return old
        return self._write(hour, old, events, exposures, facts, duplicates, rejected)

    def _write(
        self,
        hour: Hour,
        old: Manifest | None,
        events: pa.Table,
        exposures: pa.Table | None,
        facts: pa.Table | None,
        duplicates: int,
        rejected: dict[str, int] | None,
        into: Path | None = None,
    ) -> Manifest:
        seen = (exposures if exposures is not None else exposure_schema().empty_table()).cast(exposure_schema())
        if old:
            seen = pa.concat_tables([self.read_exposures(hour), seen])
        seen = first_exposures(seen)
        if facts is None and (files := self.fact_files([hour])):
            facts = pq.ParquetFile(files[0]).read()
        reasons = dict(old.rejected) if old else {}
        for reason, count in (rejected or {}).items():
            reasons[reason] = reasons.get(reason, 0) + count
        duplicates += old.duplicates if old else 0
        content = HourContent(hour, events, seen, facts, duplicates, reasons)
        return self._replace(old, content) if into is None else content.write(into)

    def place(self, hour: Hour, folder: Path) -> Manifest:
        """Let a folder that ``merge`` filled take the place of an hour.

        Args:
            hour: the hour, which was not written since.
            folder: on the store's file system.
        """
        old, manifest = self.manifest(hour) if self.has(hour) else None, Manifest(**read_json(folder / "manifest.json"))
        self.changes.begin(hour)
        with replaced_directory(self.partition(hour)) as target:
            for file in sorted(folder.iterdir()):
                file.replace(target / file.name)
        self.changes.end(hour, changed=old is None or manifest.digest != old.digest)
        return manifest

    def without_users(self, hour: Hour, users: Sequence[int]) -> dict[str, int]:
        """Write an hour again without the rows of some users; what was counted of its inputs stays.

        Args:
            hour: that was closed.
            users: the platform's numbers.

        Returns:
            Rows left out of ``events``, ``facts`` and ``exposures``.
        """
        old, ids = self.manifest(hour), pa.array(users, pa.int64())
        facts = [pq.ParquetFile(file).read() for file in self.fact_files([hour])]
        events = pq.ParquetFile(self.partition(hour) / "events.parquet").read()
        tables = {"events": events, "exposures": self.read_exposures(hour), **dict(zip(["facts"], facts, strict=False))}
        kept = {n: t.filter(pa.compute.invert(pa.compute.is_in(t["user_id"], ids))) for n, t in tables.items()}
        removed = {name: table.num_rows - kept[name].num_rows for name, table in tables.items()}
        if any(removed.values()):
            content = HourContent(
                hour, kept["events"], kept["exposures"], kept.get("facts"), old.duplicates, dict(old.rejected)
            )
            self._replace(old, content)
        return removed

    def _replace(self, old: Manifest | None, content: HourContent) -> Manifest:
        """Write an hour's folder whole, and put it on the list of changes where it is another one than before."""
        self.changes.begin(content.hour)
        with replaced_directory(self.partition(content.hour)) as target:
            manifest = content.write(target)
        self.changes.end(content.hour, changed=old is None or manifest.digest != old.digest)
        return manifest


def missing_hours(hours: Iterable[Hour]) -> list[Hour]:
    """Hours between the first and the last that are missing."""
    known = sorted(hours)
    have = set(known)
    if not known:
        return []
    return [Hour(n) for n in range(known[0].number, known[-1].number) if Hour(n) not in have]
