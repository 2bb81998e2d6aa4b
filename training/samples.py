"""Samples of an hour: its events, negatives where the log has none, and features as of the hour's start.

Layout below the workspace's ``training/samples``::

    hour=2026-11-23T10/samples.parquet    one row a sample, in time order
    hour=2026-11-23T10/slots.parquet      clock slots of the hour's users (empty ones left out)
    hour=2026-11-23T10/profiles.parquet   all-day activity of the hour's users
    hour=2026-11-23T10/history.parquet    their recent behaviors
    hour=2026-11-23T10/{user,item}_attributes.parquet  what tables beside the log tell of them, where there are any
    hour=2026-11-23T10/meta.json          digests of what they were built from, and of themselves

All variants train on the same files.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from core import duck
from core.documents import JsonObject
from core.duck import file_list, hour_number, identifier
from core.files import digest_file, digest_json, read_json, replaced_directory, write_json, write_parquet
from core.hours import Hour, hour_range
from core.settings import Settings
from events.mapping import Negatives
from events.schema import BEHAVIORS, Owner
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from feature_repo.served import prefer_served
from feature_repo.shrinkage import Shrinkage
from training.ahead import start
from training.batch import HourKeys, SampleTables
from training.ranker import Ranker
from training.sample_files import FILES, attribute_files, count_rows, read_part_of_tables, read_tables, samples_digest
from training.tensors import DecodedHour

log = logging.getLogger("training.samples")

KEYS_AT_ONCE = 20_000
"""Distinct (user, hour) of one point-in-time join: bounds memory."""
ROW_GROUP = 1 << 14
"""Rows of a row group: several processes that train together read different ones."""
TRIES = 4
"""A negative equal to its positive is drawn again this often, then left out."""


@dataclass(frozen=True)
class HourSamples:
    """The samples of one hour with their features, and the digest that identifies them."""

    hour: Hour
    tables: SampleTables
    digest: str
    _decoded: dict[tuple[tuple[Hashable, ...], ...], DecodedHour] = field(
        default_factory=dict, repr=False, compare=False
    )

    def keys(self, ranker: Ranker) -> HourKeys:
        """The samples as the arrays that a ranker needs, decoded once for all rankers."""
        names = ranker.facets, ranker.heads, ranker.context, ranker.attributes
        if names not in self._decoded:
            self._decoded[names] = DecodedHour(self.tables, *names)
        return self._decoded[names].keys(ranker)

    def decoded_for(self, ranker: Ranker) -> HourSamples:
        """The same, with what ``keys`` gives for a ranker decoded."""
        self.keys(ranker)
        return self


class SampleStore:
    """Builds and reads the samples of a source."""

    def __init__(self, settings: Settings, events: EventStore) -> None:
        self.settings, self.events = settings, events
        self.root = settings.training_dir / "samples"
        self.facets = events.facets
        self.heads = events.behaviors
        self.context = events.source.categories
        self.attributes = events.source.attributes
        self.negatives = events.source.negatives
        self.negative_hours = settings.window_hours
        self._features: ClockFeatures | None = None
        self._last_read: HourSamples | None = None
        self._last_part: tuple[HourSamples, np.ndarray] | None = None
        self._ahead: tuple[Hour, Future[HourSamples]] | None = None

    @property
    def features(self) -> ClockFeatures:
        """The feature store, opened on first use."""
        if self._features is None:
            self._features = ClockFeatures(self.settings, self.events)
        return self._features

    def folder(self, hour: Hour) -> Path:
        return self.root / f"hour={hour.key}"

    def is_current(self, hour: Hour) -> bool:
        """Whether the hour's samples exist and were built from the hour's events as they are now."""
        path = self.folder(hour) / "meta.json"
        return path.exists() and read_json(path)["inputs"] == self._inputs(hour)

    def ensure(self, hour: Hour) -> None:
        """Build the samples of an hour unless they exist."""
        if not self._exists(hour):
            self._settle()
            self._ensure(hour)

    def read(self, hour: Hour) -> HourSamples:
        """Samples of an hour, built if they do not exist. The last hour that was read is kept for the next reader."""
        if self._ahead and self._ahead[0] == hour:
            (_, pending), self._ahead = self._ahead, None
            self._last_read = pending.result()
        self.ensure(hour)
        last = self._last_read
        if last is None or (last.hour, last.digest) != (hour, self.digest(hour)):
            self._last_read = None  # a third hour at once would take more memory
            self._last_read = last = self._read(hour)
        return last

    def count(self, hour: Hour) -> int:
        """How many samples an hour has, which must exist."""
        return count_rows(self.folder(hour))

    def read_part(self, hour: Hour, rows: np.ndarray) -> HourSamples:
        """Some of an hour's samples, with the features of their users and items only; they must exist.

        Args:
            hour: to read.
            rows: positions of the samples, ascending; only the row groups that they lie in are read.
        """
        digest, last = self.digest(hour), self._last_part
        if last is None or (last[0].hour, last[0].digest) != (hour, digest) or not np.array_equal(last[1], rows):
            self._last_part = None
            tables = read_part_of_tables(self.folder(hour), rows)
            self._last_part = last = HourSamples(hour, tables, digest), rows
        return last[0]

    def read_ahead(self, hour: Hour, ranker: Ranker) -> None:
        """Begin to build, read and decode an hour's samples for a ranker, in another thread; ``read`` waits for it.

        Whatever is wrong with the hour is raised by ``read``. Several rankers may ask for the same hour in turn.
        """
        if self._ahead and self._ahead[0] == hour:
            before = self._ahead[1]
            self._ahead = hour, start(lambda: before.result().decoded_for(ranker))
        else:
            self._settle()
            self._ahead = hour, start(lambda: self._built(hour).decoded_for(ranker))

    def _built(self, hour: Hour) -> HourSamples:
        self._ensure(hour)
        return self._read(hour)

    def _settle(self) -> None:
        """Wait for an hour that is read ahead: files are written by one thread at a time."""
        if self._ahead:
            wait([self._ahead[1]])

    def _ensure(self, hour: Hour) -> None:
        if not self._exists(hour):
            self._build([hour])

    def _exists(self, hour: Hour) -> bool:
        return (self.folder(hour) / "meta.json").exists()

    def _read(self, hour: Hour) -> HourSamples:
        folder, digest = self.folder(hour), self.digest(hour)
        return HourSamples(hour, read_tables(folder), digest)

    def digest(self, hour: Hour) -> str:
        """Digest of an hour's samples, which must exist."""
        return str(read_json(self.folder(hour) / "meta.json")["digest"])

    def build(self, hours: Iterable[Hour], *, force: bool = False) -> int:
        """Build the samples of hours that have none for their events yet, in few joins.

        Returns:
            Hours built.
        """
        self._settle()
        self._last_read = self._ahead = None  # no need of their memory meanwhile
        return self._build([hour for hour in sorted(hours) if force or not self.is_current(hour)])

    def _build(self, stale: Sequence[Hour]) -> int:
        done = 0
        chunk: list[tuple[Hour, pa.Table, int]] = []
        for hour, table in self._with_negatives(stale):
            chunk.append((hour, table, len(pc.unique(table["user_id"]))))
            if sum(keys for *_, keys in chunk) >= KEYS_AT_ONCE:
                done += self._write([(h, t) for h, t, _ in chunk])
                log.info("samples: %d of %d hours", done, len(stale))
                chunk = []
        return done + self._write([(h, t) for h, t, _ in chunk])

    def _inputs(self, hour: Hour) -> JsonObject:
        return {
            "events": self.events.manifest(hour).digest,
            "negatives": self.negatives.model_dump() if self.negatives else None,
            "negative_hours": self.negative_hours,
            "window_hours": self.settings.window_hours,
            "top_k": self.settings.top_k,
            "weights": digest_json(self.settings.score_weights),
            "history": [self.settings.history_length, self.settings.history_days],
            "slots": [self.settings.slot_minutes, self.settings.split_weekend],
            "shrinkage": self._priors(),
            **({"features": "as served"} if self.settings.features_as_served else {}),
            **({"attributes": [list(astuple(each)) for each in self.attributes]} if self.attributes else {}),
        }

    def _priors(self) -> str:
        """Digest of the priors that thin slots are shrunk with, empty where they are not."""
        return digest_file(Shrinkage.path(self.settings)) if self.settings.shrinkage else ""

    def _columns(self) -> list[str]:
        requests = ["request_id"] if self.events.source.has_requests else []
        return [
            "event_id",
            "user_id",
            "item_id",
            "timestamp",
            "local_time",
            *self.facets,
            *BEHAVIORS,
            *self.events.source.context,
            *requests,
        ]

    def _with_negatives(self, hours: Sequence[Hour]) -> Iterable[tuple[Hour, pa.Table]]:
        rule = self.negatives
        pool = _Pool(self.settings, self.events, self.facets, self.negative_hours, hours) if rule and hours else None
        for hour in hours:
            events = self.events.read(hour).select(self._columns())
            if pool is not None and rule and events.num_rows:
                events = pool.with_negatives(hour, events, rule)
            yield hour, events

    def _write(self, parts: list[tuple[Hour, pa.Table]]) -> int:
        if not parts:
            return 0
        keys = _keys(parts, "user_id") if any(t.num_rows for _, t in parts) else None
        features = self.features.historical(keys) if keys is not None else None
        if features is not None and self.settings.features_as_served:
            features = prefer_served(self.settings, features, [hour for hour, _ in parts])
        joined = (features.slots, features.profiles, features.history) if features is not None else None
        attributes: dict[Owner, pa.Table] = {}
        if features is not None:
            attributes = {
                "user": features.attributes,
                "item": self.features.attributes("item", _keys(parts, "item_id")),
            }
        for hour, table in parts:
            with replaced_directory(self.folder(hour)) as target:
                write_parquet(target / "samples.parquet", table, row_group=ROW_GROUP)
                for at, name in enumerate(FILES[1:]):
                    rows = (
                        self._rows_of(joined[at], hour) if joined else pa.table({"user_id": pa.array([], pa.int64())})
                    )
                    write_parquet(target / f"{name}.parquet", rows, row_group=ROW_GROUP)
                for owner, file in attribute_files(target).items():
                    if owner in attributes and attributes[owner].num_columns:
                        write_parquet(file, self._rows_of(attributes[owner], hour))
                digest = samples_digest(target)
                write_json(
                    target / "meta.json", {"inputs": self._inputs(hour), "rows": table.num_rows, "digest": digest}
                )
        return len(parts)

    @staticmethod
    def _rows_of(rows: pa.Table, hour: Hour) -> pa.Table:
        return rows.filter(pc.equal(rows["hour"], hour.number)).drop_columns(["hour"]).combine_chunks()


def _keys(parts: Sequence[tuple[Hour, pa.Table]], key: str) -> pa.Table:
    """The distinct ids of each hour's samples, with the hour's number."""
    return pa.concat_tables(
        pa.table({key: ids, "hour": pa.array([hour.number] * len(ids), pa.int64())})
        for hour, table in parts
        if len(ids := pc.unique(table[key]))
    )


class _Pool:
    """Past events to draw negatives from: a uniform draw from them is a draw by popularity.

    Only events before the start of the positive's hour, and so many hours before it at most, take part, so no
    negative and no facet of one comes from the future.
    """

    def __init__(
        self, settings: Settings, events: EventStore, facets: Sequence[str], window: int, hours: Sequence[Hour]
    ) -> None:
        self.window, self.facets = window, list(facets)
        past = hour_range(hours[0] - window, hours[-1] + 1)
        names = file_list(events.event_files(past))
        columns = ", ".join(map(identifier, ["user_id", "item_id", *self.facets]))
        with duck.connection(settings) as con:
            table = con.sql(
                f"""SELECT {hour_number("timestamp")} AS hour, {columns}
                FROM read_parquet({names}) ORDER BY timestamp, event_id"""
            ).to_arrow_table()
        self.hours = table["hour"].to_numpy()
        self.users, self.items = table["user_id"].to_numpy(), table["item_id"].to_numpy()
        self.table = table

    def with_negatives(self, hour: Hour, events: pa.Table, rule: Negatives) -> pa.Table:
        """The hour's positives, each followed by its negatives.

        Args:
            hour: the hour of ``events``.
            events: positives, in time order.
            rule: how they are drawn. The kind ``popularity`` draws by popularity in the window before the hour; ``own``
                draws from the user's own earlier events (which of my places now?), evenly over the items; positives on
                items that are new to the user, or the only one so far, are left out, for they would be told by that
                alone. The draws depend on the seed and on the hour, so an hour can be built by itself.
        """
        first, last = np.searchsorted(self.hours, [hour.number - self.window, hour.number])
        draw = np.random.default_rng([rule.seed, hour.number])
        if rule.kind == "own":
            events = events.filter(pa.array(self._revisits(events, first, last)))
        positives = np.repeat(np.arange(events.num_rows), rule.per_positive)
        item = events["item_id"].to_numpy()
        if rule.kind == "own":
            picks = self._own(events["user_id"].to_numpy()[positives], item[positives], first, last, draw)
        else:
            picks = np.full(len(positives), -1)
            for _ in range(TRIES if last > first else 0):
                bad = (picks < 0) | (self.items[picks] == item[positives])
                picks[bad] = draw.integers(first, last, int(bad.sum()))
            if last > first:
                picks[self.items[picks] == item[positives]] = -1
        keep = picks >= 0
        positives, picks = positives[keep], picks[keep]
        number = np.arange(len(positives)) - np.searchsorted(positives, positives)
        copied = events.take(positives)
        ids = pc.binary_join_element_wise(copied["event_id"], pa.array([f"n{n}" for n in number], pa.string()), "/")
        drawn = self.table.take(picks)
        columns = {
            name: ids
            if name == "event_id"
            else drawn[name].cast(events.schema.field(name).type)
            if name in {"item_id", *self.facets}
            else _negated(copied[name])
            if name in BEHAVIORS
            else copied[name]
            for name in events.column_names
        }
        negatives = pa.table(columns, schema=events.schema)
        order = np.argsort(np.concatenate([np.arange(events.num_rows), positives]), kind="stable")
        return pa.concat_tables([events, negatives]).take(order).combine_chunks()

    def _revisits(self, events: pa.Table, first: int, last: int) -> np.ndarray:
        """Which events are of an item that the user had before, while there is another such item."""
        pairs, _ = self._pairs(first, last)
        users, items = (events[name].to_numpy().astype(np.int64) for name in ("user_id", "item_id"))
        begin, end = np.searchsorted(pairs[:, 0], users, "left"), np.searchsorted(pairs[:, 0], users, "right")
        had = pd.MultiIndex.from_arrays([users, items]).isin(pd.MultiIndex.from_arrays(pairs.T))
        return had & (end - begin > 1)

    def _pairs(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Distinct (user, item) of the pool's events [first, last), and the position of its first event."""
        both = np.stack([self.users[first:last], self.items[first:last]], axis=1).astype(np.int64)
        if not len(both):
            return both, np.empty(0, np.int64)
        pairs, where = np.unique(both, axis=0, return_index=True)
        return pairs, where + first

    def _own(
        self, users: np.ndarray, items: np.ndarray, first: int, last: int, draw: np.random.Generator
    ) -> np.ndarray:
        """A random earlier event of each user with another item; −1 where there is none."""
        pairs, where = self._pairs(first, last)
        begin, end = np.searchsorted(pairs[:, 0], users, "left"), np.searchsorted(pairs[:, 0], users, "right")
        picks = np.full(len(users), -1)
        for _ in range(TRIES):
            open_ = (picks < 0) & (end > begin)
            at = begin + (draw.uniform(size=len(users)) * (end - begin)).astype(np.int64)
            at = np.minimum(at, max(len(pairs) - 1, 0))
            fits = np.zeros(len(users), dtype=bool)
            fits[open_] = pairs[at[open_], 1] != items[open_]
            picks[fits] = where[at[fits]]
        return picks


def _negated(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """False where the positive knows the behavior, null where it does not."""
    return pc.if_else(pc.is_valid(values), pa.scalar(False), pa.scalar(None, pa.bool_()))
