"""What closed days add to an experiment's user table, kept so that a look costs its own day's hours and a pass over users.

Layout below the workspace's ``experiment_days/<experiment>``, a folder of Parquet per item::

    index.json                        digest of every item that is whole
    exposures/<day>-<key>/            the day's first exposures, of all experiments
    arrivals/<day>-<key>/             users from whose exposure on events count from that day on, and who waits for the trigger
    days/<day>-<key>/                 day rows (``user_days``)
    tastes/<day>-<key>/               facet values of users before the start, for segments by facet
    all-exposures/, all-tastes/       the same of all days up to one
    spans/, recent/<day>-<key>/       day rows of all days up to one: summed by user, and those that later events may still change

A day is a UTC day. A key is the digest of everything that an item follows from: the day's hours, the SQL, and the items
that it is made of. So what does not fit is not found, and computed from the events: after a late event, an edit of the
experiment, another version of the platform. ``kept_items`` writes and reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path

from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.kept_items import DamagedItemError, Item, KeptItems
from ab_analysis.metrics import condition_sql
from ab_analysis.source_files import RefusedQueryError, SourceFiles
from ab_analysis.user_days import (
    EXPOSURE_COLUMNS,
    TASTE_COLUMNS,
    counted_sql,
    day_columns,
    day_rows_sql,
    event_columns,
    events_sql,
    merged_days_sql,
    merged_spans_sql,
    merged_tastes_sql,
    span_columns,
    spans_sql,
    tastes_sql,
)
from core.duck import quoted
from core.files import digest_text, exclusive_lock
from core.hours import DAY_HOURS, Hour
from core.spark import SparkEngine
from core.sql_engine import Engine
from events.store import EventStore

log = logging.getLogger("ab_analysis.closed_days")

WESTMOST_DAYS = 2
"""A local time is at most 26 hours from UTC, so a local day lies at most so many days before the UTC day."""
SUMS = ("all-exposures", "all-tastes", "spans", "recent")
"""Kinds of items that hold what all days up to one amount to."""
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class ClosedPart:
    """Files of what the closed days hold, while they are locked.

    Attributes:
        until: first hour that is not among them.
        exposures: first exposures, columns as in the log.
        arrivals: users and the moment (``since``, may be null) from which on their events count; none without a trigger.
        spans: of users, see ``user_days``.
        recent: day rows that later events may still change; they are not in ``spans``.
        tastes: of users; none if no segment needs them.
        days: day rows of all days from the start on; None if they were not asked for.
    """

    until: Hour
    exposures: Sequence[Path]
    arrivals: Sequence[Path]
    spans: Sequence[Path]
    recent: Sequence[Path]
    tastes: Sequence[Path]
    days: Sequence[Path] | None


class UnkeptDaysError(Exception):
    """What closed days add cannot be kept, for the reason that it says."""


class ClosedDays:
    """The closed days of one experiment.

    Args:
        db: DuckDB, which reads them.
        store: events and exposures of the source.
        plan: the experiment and its metrics.
        root: the experiment's folder.
        cluster: computes them; None: ``db`` does.
    """

    def __init__(
        self, db: Engine, store: EventStore, plan: ExperimentPlan, root: Path, cluster: SparkEngine | None = None
    ) -> None:
        self.db, self.store, self.plan, self.root = db, store, plan, root
        self.start = plan.experiment.start_time
        self._items = KeptItems(db, cluster, root, SUMS)

    @contextmanager
    def up_to(self, hours: Mapping[Hour, str], until: Hour, *, with_days: bool) -> Iterator[ClosedPart | None]:
        """Bring the days that are over at ``until`` up to date, and hold them for the length of a ``with`` block.

        Args:
            hours: digest of each ingested hour that counts for the experiment.
            until: hour up to which events count, exclusive.
            with_days: whether day rows are needed, for a series of days.

        Yields:
            What they hold; None if no day is over.

        Raises:
            UnkeptDaysError: they cannot be kept for this log, which must be read whole.
        """
        end = Hour.of_day(until.day)
        digests = _by_day({hour: digest for hour, digest in hours.items() if hour < end})
        if not digests:
            yield None
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.root / ".lock"):
            self._items.open()
            before = len(self.db.queries)
            part = self._repaired(digests, end, with_days)
            del self.db.queries[before:]  # a report shows the look's own, which are the same whatever was kept
            yield part

    def rows_to_read(self, hours: Mapping[Hour, str], until: Hour) -> int:
        """Events and rows of users that a look reads, about: those of the days that are not kept, and the users kept.

        Args:
            hours: as ``up_to`` takes them.
            until: hour up to which events count, exclusive.
        """
        chain, read = "", [hour for hour in hours if hour >= Hour.of_day(until.day)]
        self.root.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.root / ".lock"):
            self._items.open()
            for day, of_day in _by_day(hours).items():
                arrivals = Item.of("arrivals", day, of_day, chain, self._arrivals_sql)
                if self._items.has(arrivals):
                    chain = digest_text(chain, self._items.rows_digest(arrivals))
                if not self._items.has(arrivals, self._day_item(day, of_day, chain)):
                    read = [hour for hour in hours if hour.day >= day]
                    break
            return self.store.count(read) + self._items.rows("spans")

    def _repaired(self, digests: Mapping[date, Mapping[str, str]], end: Hour, with_days: bool) -> ClosedPart:
        for _ in range(len(self._items) + 1):
            try:
                return self._bring(digests, end, with_days)
            except DamagedItemError as error:
                log.warning("%s is damaged; computed again from the events", self.root / str(error))
                self._items.drop(str(error))
            except RefusedQueryError as error:
                raise UnkeptDaysError(str(error)) from None
        raise UnkeptDaysError(f"{self.root} is damaged as soon as it is written")

    def _bring(self, digests: Mapping[date, Mapping[str, str]], end: Hour, with_days: bool) -> ClosedPart:
        self._items.begin()
        chain = ""
        exposures: list[Item] = []
        arrivals: list[Item] = []
        days: list[Item] = []
        tastes: list[Item] = []
        for day, hours in digests.items():
            midnight = Hour.of_day(day)
            item = Item.of("exposures", day, hours)
            if not self._items.has(item):
                self._items.write({item: _first_exposures("closed_log")}, self._exposures(hours))
            exposures.append(item)
            item = Item.of("arrivals", day, hours, chain, self._arrivals_sql)
            if not self._items.has(item):
                self._items.write(
                    {item: self._arrivals_sql}, self._arrivals(hours, exposures[-1:], arrivals), digest_rows=True
                )
            arrivals.append(item)
            chain = digest_text(chain, self._items.rows_digest(item))
            item = self._day_item(day, hours, chain)
            if not self._items.has(item):
                sources = self._events(hours) | self._arrived([] if self._is_before_start(day) else arrivals)
                self._items.write({item: self._days_sql}, sources, check=partial(self._check_local_days, day))
            days.append(item)
            if self.plan.top_facets and midnight.start < self.start:
                item = Item.of("tastes", day, hours, self._tastes_sql)
                if not self._items.has(item):
                    self._items.write({item: self._tastes_sql}, self._events(hours))
                tastes.append(item)
        spans, recent = (self._items.files([item]) for item in self._sum_days(days))
        from_start = [item for item in days if (Hour.of_day(item.day) + DAY_HOURS).start > self.start]
        part = ClosedPart(
            end,
            exposures=self._items.files([self._sum_exposures(exposures)]),
            arrivals=self._items.files(arrivals if self.plan.experiment.trigger else []),
            spans=spans,
            recent=recent,
            tastes=self._items.files([self._sum_tastes(tastes)] if tastes else []),
            days=self._items.files(from_start) if with_days else None,
        )
        self._items.remove_unused(max(digests))
        return part

    def _day_item(self, day: date, hours: Mapping[str, str], chain: str) -> Item:
        """The day rows of a day; ``chain`` tells all arrivals up to it."""
        return Item.of("days", day, hours, "" if self._is_before_start(day) else chain, self._days_sql)

    def _is_before_start(self, day: date) -> bool:
        return (Hour.of_day(day) + DAY_HOURS).start <= self.start

    # What a day adds

    def _exposures(self, hours: Mapping[str, str]) -> dict[str, SourceFiles]:
        return {"closed_log": SourceFiles(self.store.exposure_files(map(Hour.parse, hours)), EXPOSURE_COLUMNS)}

    @cached_property
    def _arrivals_sql(self) -> str:
        """Of ``closed_met``, the day's exposures, ``closed_arrived``, earlier arrivals, and ``closed_events``.

        ``met``: first exposure to a variant that the file names; ``since``: that, or the first event that meets the trigger
        from then on. Users of two variants are among them, and are left out where the days are read.
        """
        experiment = self.plan.experiment
        variants = ", ".join(map(quoted, experiment.variants))
        met = f"""SELECT user_id, min(timestamp) AS met FROM closed_met WHERE experiment = {quoted(experiment.name)}
            AND variant IN ({variants}) GROUP BY user_id"""
        known = "closed_known AS (SELECT user_id, min(met) AS met, min(since) AS since FROM closed_arrived GROUP BY user_id)"
        if experiment.trigger is None:
            return f"""WITH {known} SELECT m.user_id, m.met, m.met AS since FROM ({met}) m
                LEFT JOIN closed_known k ON k.user_id = m.user_id WHERE k.user_id IS NULL ORDER BY m.user_id"""
        waiting = f"""SELECT w.user_id, min(w.met) AS met, max(w.known) AS known FROM (SELECT user_id, met, 0 AS known FROM ({met}) m
            UNION ALL SELECT user_id, met, 1 AS known FROM closed_known) w
            WHERE w.user_id NOT IN (SELECT user_id FROM closed_known WHERE since IS NOT NULL) GROUP BY w.user_id"""
        first = f"""SELECT e.user_id, min(e.timestamp) AS since FROM ({events_sql("closed_events")}) e
            JOIN closed_waiting w ON w.user_id = e.user_id
            WHERE e.timestamp >= w.met AND {condition_sql(experiment.trigger)} GROUP BY e.user_id"""
        return f"""WITH {known}, closed_waiting AS ({waiting}) SELECT w.user_id, w.met, f.since FROM closed_waiting w
            LEFT JOIN ({first}) f ON f.user_id = w.user_id WHERE f.since IS NOT NULL OR w.known = 0 ORDER BY w.user_id"""

    def _arrivals(
        self, hours: Mapping[str, str], exposures: Sequence[Item], earlier: Sequence[Item]
    ) -> dict[str, SourceFiles]:
        sources = {"closed_met": SourceFiles(self._items.files(exposures), EXPOSURE_COLUMNS)} | self._arrived(earlier)
        return sources | self._events(hours) if self.plan.experiment.trigger else sources

    def _arrived(self, arrivals: Sequence[Item]) -> dict[str, SourceFiles]:
        return {"closed_arrived": SourceFiles(self._items.files(arrivals), ("user_id", "met", "since"))}

    @cached_property
    def _days_sql(self) -> str:
        """Of ``closed_events`` and ``closed_arrived``."""
        starts = "SELECT user_id, min(since) AS exposure FROM closed_arrived WHERE since IS NOT NULL GROUP BY user_id"
        events = f"({events_sql('closed_events')})"
        counted = counted_sql(self.plan, events, f"({starts})", everybody=True)
        return day_rows_sql(self.plan, f"({counted}) c")

    def _check_local_days(self, day: date, rows: str) -> None:
        first = (day - EPOCH).days - WESTMOST_DAYS
        if self.db.scalar(f"SELECT count(*) FROM {rows} WHERE local_day < {first}"):
            raise UnkeptDaysError(f"local times of {day} are more than {WESTMOST_DAYS} days before UTC")

    @cached_property
    def _tastes_sql(self) -> str:
        """Of ``closed_events``."""
        nobody = "(SELECT user_id, timestamp AS exposure FROM closed_events WHERE false)"
        counted = counted_sql(self.plan, "closed_events", nobody, everybody=True)
        return tastes_sql(f"({counted}) c", self.plan.top_facets)

    def _events(self, hours: Mapping[str, str]) -> dict[str, SourceFiles]:
        closed = [Hour.parse(key) for key in hours]
        files = self.store.event_files(closed) or [self.store.partition(closed[0]) / "events.parquet"]
        return {"closed_events": SourceFiles(files, event_columns(self.plan))}

    # What all days up to one amount to

    def _sum_exposures(self, members: Sequence[Item]) -> Item:
        (target,), base, rest = self._newest(("all-exposures",), members)
        if rest:
            sources = {"closed_rows": SourceFiles(self._items.files([*base, *rest]), EXPOSURE_COLUMNS)}
            self._items.write({target: _first_exposures("closed_rows")}, sources)
        return target

    def _sum_tastes(self, members: Sequence[Item]) -> Item:
        (target,), base, rest = self._newest(("all-tastes",), members)
        if rest:
            sources = {"closed_rows": SourceFiles(self._items.files([*base, *rest]), TASTE_COLUMNS)}
            self._items.write({target: merged_tastes_sql("closed_rows")}, sources)
        return target

    def _sum_days(self, members: Sequence[Item]) -> tuple[Item, Item]:
        """``spans`` and ``recent``: local days that no later event can belong to are summed, the others kept apart."""
        plan, open_day = self.plan, (members[-1].day - EPOCH).days + 1 - WESTMOST_DAYS
        salt = merged_spans_sql(plan, "spans"), merged_days_sql(plan, "days")
        (spans, recent), base, rest = self._newest(("spans", "recent"), members, *salt)
        if rest:
            columns = day_columns(plan)
            sources = {"closed_rows": SourceFiles(self._items.files([*base[1:], *rest]), columns)}
            days = f"({merged_days_sql(plan, 'closed_rows')})"
            added = spans_sql(plan, f"(SELECT * FROM {days} r WHERE local_day < {open_day}) o")
            if base:
                sources["closed_base"] = SourceFiles(self._items.files(base[:1]), span_columns(plan))
                added = f"SELECT * FROM closed_base UNION ALL {added}"
            later = f"SELECT {', '.join(columns)} FROM {days} r WHERE local_day >= {open_day}"
            self._items.write({spans: merged_spans_sql(plan, f"({added})"), recent: later}, sources)
        return spans, recent

    def _newest(
        self, kinds: tuple[str, ...], members: Sequence[Item], *salt: str
    ) -> tuple[list[Item], list[Item], list[Item]]:
        """The sums of all members, the newest sums that are there, and the members that these lack."""
        chain, sums = digest_text(*salt), []
        for member in members:
            chain = digest_text(chain, member.name)
            sums.append([Item.of(kind, member.day, chain) for kind in kinds])
        kept = [n for n, items in enumerate(sums) if self._items.has(*items)]
        newest = kept[-1] if kept else -1
        return sums[-1], sums[newest] if kept else [], list(members[newest + 1 :])


def _by_day(hours: Mapping[Hour, str]) -> dict[date, dict[str, str]]:
    """Day → the keys of its hours with their digests, in order."""
    days: dict[date, dict[str, str]] = {}
    for hour, digest in sorted(hours.items()):
        days.setdefault(hour.day, {})[hour.key] = digest
    return days


def _first_exposures(source: str) -> str:
    return f"""SELECT experiment, variant, user_id, min(timestamp) AS timestamp FROM {source}
        GROUP BY experiment, variant, user_id"""
