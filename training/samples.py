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
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.documents import JsonObject
from core.engine import engine, on_spark
from core.files import (
    digest_file,
    digest_json,
    read_json,
    replaced_directory,
    temporary_directory,
    write_json,
    write_parquet,
)
from core.hours import Hour
from core.settings import Settings
from core.spark import SparkEngine, divided
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from feature_repo.served import prefer_served
from feature_repo.shrinkage import Shrinkage
from training.ahead import start
from training.batch import HourKeys, SampleTables
from training.negatives import sampled_events
from training.ranker import Ranker
from training.sample_files import (
    FILES,
    ROW_GROUP,
    attribute_files,
    count_rows,
    read_part_of_tables,
    read_tables,
    samples_digest,
    writing_samples,
)
from training.spark_samples import SparkSampleBuilder
from training.tensors import DecodedHour

log = logging.getLogger("training.samples")

HOURS_A_CORE = 8
"""A cluster whose cores each have so many hours to build builds them side by side, fewer together, hour by hour."""
KEYS_AT_ONCE = 20_000
"""Distinct (user, hour) of one point-in-time join: bounds memory."""


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


@dataclass(frozen=True)
class HoursBuilder:
    """A task of an executor: builds the samples of hours.

    Attributes:
        settings: of the workspace.
        root: of their folders; nobody reads it, so that a task that outlives its driver harms nothing.
    """

    settings: Settings
    root: Path

    def __call__(self, hours: Sequence[Hour]) -> None:
        """Build hours, ascending."""
        alone = self.settings.model_copy(update={"engine": "duckdb"})
        store = SampleStore(alone, EventStore(alone.events_dir))
        store.features = ClockFeatures(alone, store.events, from_log=True)
        store.write(hours, self.root)


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
        self._last_read: HourSamples | None = None
        self._last_part: tuple[HourSamples, np.ndarray] | None = None
        self._ahead: tuple[Hour, Future[HourSamples]] | None = None

    @cached_property
    def features(self) -> ClockFeatures:
        """The feature store, opened on first use."""
        return ClockFeatures(self.settings, self.events)

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
        with writing_samples(self.root):
            return self._build_alone(stale)

    def _build_alone(self, stale: Sequence[Hour]) -> int:
        drawn_as_told = (self.negatives, self.negative_hours) == (
            self.events.source.negatives,
            self.settings.window_hours,
        )
        special = self.settings.shrinkage or self.settings.features_as_served or not drawn_as_told
        if not special and on_spark(self.settings, partial(self.events.count, stale)):
            return self._build_on_spark(stale)
        return self.write(stale, self.root)

    def write(self, hours: Sequence[Hour], root: Path) -> int:
        """Build the samples of hours in this process.

        Args:
            hours: ascending.
            root: of their folders.

        Returns:
            Hours built.
        """
        done = keys = 0
        chunk: list[tuple[Hour, pa.Table]] = []
        for hour, table in sampled_events(self.settings, self.events, hours, self.negatives, self.negative_hours):
            chunk.append((hour, table))
            keys += len(pc.unique(table["user_id"]))
            if keys >= KEYS_AT_ONCE:
                done += self._write(chunk, root)
                log.info("samples: %d of %d hours", done, len(hours))
                chunk, keys = [], 0
        return done + self._write(chunk, root)

    def _build_on_spark(self, stale: Sequence[Hour]) -> int:
        """Let executors build the hours: no row of theirs comes to this process."""
        if stale:
            with engine(self.settings) as running:
                assert isinstance(running, SparkEngine)
                if len(stale) >= running.cores * HOURS_A_CORE:
                    self._build_in_tasks(running, stale)
                else:
                    builder = SparkSampleBuilder(self.features, running)
                    builder.build({hour: self._inputs(hour) for hour in stale}, self.root)
        return len(stale)

    def _build_in_tasks(self, running: SparkEngine, stale: Sequence[Hour]) -> None:
        """Let each task build some hours as one process builds all, and put them in place."""
        self.features.check_known(stale[0])
        self.root.mkdir(parents=True, exist_ok=True)
        with temporary_directory("spark-", self.root) as folder:
            running.run_tasks(HoursBuilder(self.settings, folder), divided(stale, running.cores))
            for hour in stale:
                with replaced_directory(self.folder(hour)) as target:
                    for file in (folder / self.folder(hour).name).iterdir():
                        file.rename(target / file.name)

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

    def _write(self, parts: list[tuple[Hour, pa.Table]], root: Path) -> int:
        if not parts:
            return 0
        anybody = any(table.num_rows for _, table in parts)
        complete = with_features(self.features, parts) if anybody else [without_features(table) for _, table in parts]
        for (hour, table), tables in zip(parts, complete, strict=True):
            with replaced_directory(root / self.folder(hour).name) as target:
                for name, rows in zip(FILES, tables, strict=False):
                    write_parquet(target / f"{name}.parquet", rows, row_group=ROW_GROUP)
                attributes = {"user": tables.user_attributes, "item": tables.item_attributes}
                for owner, file in attribute_files(target).items():
                    if attributes[owner].num_columns:
                        write_parquet(file, attributes[owner])
                digest = samples_digest(target)
                write_json(
                    target / "meta.json", {"inputs": self._inputs(hour), "rows": table.num_rows, "digest": digest}
                )
        return len(parts)


def with_features(features: ClockFeatures, parts: Sequence[tuple[Hour, pa.Table]]) -> list[SampleTables]:
    """Samples of hours with their features as of the start of each hour, by one point-in-time join.

    Args:
        features: of the source.
        parts: hours with their samples, as ``sampled_events`` gives them; at least one sample.
    """
    joined = features.historical(_keys(parts, "user_id"))
    if features.settings.features_as_served:
        joined = prefer_served(features.settings, joined, [hour for hour, _ in parts])
    items = features.attributes("item", _keys(parts, "item_id"))
    tables = (joined.slots, joined.profiles, joined.history, joined.attributes, items)
    return [SampleTables(samples, *(_rows_of(table, hour) for table in tables)) for hour, samples in parts]


def without_features(samples: pa.Table) -> SampleTables:
    """No samples, which have nobody's features."""
    nobody = pa.table({"user_id": pa.array([], pa.int64())})
    return SampleTables(samples, nobody, nobody, nobody)


def _rows_of(rows: pa.Table, hour: Hour) -> pa.Table:
    """An hour's rows; nothing of a table without columns."""
    if not rows.num_columns:
        return rows
    return rows.filter(pc.equal(rows["hour"], hour.number)).drop_columns(["hour"]).combine_chunks()


def _keys(parts: Sequence[tuple[Hour, pa.Table]], key: str) -> pa.Table:
    """The distinct ids of each hour's samples, with the hour's number."""
    return pa.concat_tables(
        pa.table({key: ids, "hour": pa.array([hour.number] * len(ids), pa.int64())})
        for hour, table in parts
        if len(ids := pc.unique(table[key]))
    )
