"""A log as studies read it: its samples, kept in memory by the hour, and as one frame that comparisons slice by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.files import digest_json, write_parquet
from core.hours import Hour
from core.settings import Settings, load_settings
from events.mapping import Negatives
from events.store import EventStore
from training.batch import HourKeys
from training.config import RankerConfig, label_of, load_ranker_config
from training.ranker import Ranker
from training.samples import SampleStore
from training.tensors import LOG_EVENTS_SCALE, hour_keys

Changes: TypeAlias = Mapping[str, Any]
"""Settings, or values of a ranker's config file, that differ from the defaults; the model that they go to checks them."""

NEGATIVES = ("popularity", "own")
PER_POSITIVE, NEGATIVES_SEED = 4, 7
NEGATIVE_HOURS = 24 * 30
"""Negatives are drawn from this many hours whatever the clock's window, so that settings are compared on the same samples."""
EVALUATED_DAYS = {"simulator": 7, "kuairand": 4}
DEFAULT_EVALUATED_DAYS = 42
"""The last days of a log, or its second half where the log is shorter than twice as long."""


@dataclass(frozen=True)
class Log:
    """A log with its clocks, as studies read it.

    Attributes:
        var: folder of the workspace.
        source: name of the source.
        negatives: how negatives are drawn; empty: the log has its own negatives.
        changes: settings that differ from the defaults, such as ``window_days``.
    """

    var: Path
    source: str
    negatives: str = ""
    changes: Changes = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        var = self.var / digest_json(dict(self.changes))[:8] if self.changes else self.var
        return load_settings(**{**self.changes, "var": var, "source": self.source})

    @property
    def samples(self) -> SampleStore:
        settings = self.settings
        store = SampleStore(settings, EventStore(settings.events_dir))
        if self.negatives:
            store.root = settings.training_dir / f"samples-{self.negatives}"
            store.negative_hours = NEGATIVE_HOURS
            store.negatives = Negatives.model_validate(
                {"per_positive": PER_POSITIVE, "kind": self.negatives, "seed": NEGATIVES_SEED}
            )
        return store

    @property
    def title(self) -> str:
        return f"{self.source}, {self.negatives} negatives" if self.negatives else self.source


_cached_hours: dict[str, list[tuple[Hour, HourKeys]]] = {}


def hours_of(log: Log) -> list[tuple[Hour, HourKeys]]:
    """The hours that have samples, as keys with everything that any ranker reads; the last log's stay in memory."""
    key = key_of(log)
    if key not in _cached_hours:
        _cached_hours.clear()
        store = log.samples
        everything = new_ranker(load_ranker_config(log.settings, "matched_clock"), store)
        drawn = ((hour, store.read(hour).tables) for hour in store.events.hours())
        _cached_hours[key] = [
            (hour, hour_keys(tables, everything)) for hour, tables in drawn if tables.samples.num_rows
        ]
    return _cached_hours[key]


def new_ranker(config: RankerConfig, store: SampleStore) -> Ranker:
    """An untrained ranker that reads everything that a log's samples have."""
    return Ranker(config, store.facets, store.heads, store.context, store.attributes)


def evaluated_from(source: str, hours: np.ndarray) -> int:
    """First hour that studies of a source evaluate.

    Args:
        source: whose log it is.
        hours: numbers of the hours of its samples.
    """
    return first_evaluated_hour(hours, EVALUATED_DAYS.get(source, DEFAULT_EVALUATED_DAYS))


def first_evaluated_hour(hours: np.ndarray, days: int) -> int:
    """First hour of the last ``days``, but none of the log's first half: there a ranker has hardly been trained.

    Args:
        hours: numbers of the hours of a log's samples.
        days: to evaluate.

    >>> first_evaluated_hour(np.array([0, 14 * 24 - 1]), 42), first_evaluated_hour(np.array([0, 100 * 24 - 1]), 42)
    (168, 1392)
    """
    return max(int(hours.max()) + 1 - 24 * days, half_of(hours))


def half_of(hours: np.ndarray) -> int:
    """First hour of a log's second half, given the hours of its samples."""
    first, end = int(hours.min()), int(hours.max()) + 1
    return first + (end - first) // 2


def key_of(log: Log) -> str:
    """Digest of what identifies a log: its folder, source, negatives and changed settings."""
    return digest_json([str(log.var), log.source, log.negatives, dict(log.changes)])


def frame_path(log: Log) -> Path:
    """File of a log's samples as one frame."""
    return log.samples.root / "frame.parquet"


def write_frame(log: Log) -> None:
    """Write what comparisons slice by, one row per sample: user, label, hour, local hour and weekday, activity, item's age."""
    path = frame_path(log)
    if path.exists():
        return
    store = log.samples
    seen: dict[int, int] = {}
    tables = []
    for hour, keys in hours_of(log):
        head = store.heads.index(label_of(store.heads))
        first = np.array([seen.setdefault(int(i), hour.number) for i in keys.items])
        moment = keys.moment
        tables.append(
            pa.table(
                {
                    "hour": np.full(len(keys), hour.number),
                    "user": keys.users,
                    "label": keys.labels[:, head].astype(np.int8),
                    "known": keys.known[:, head],
                    "day": keys.minutes // 1440,
                    "local_hour": moment.hours.numpy().astype(np.int8),
                    "weekday": moment.weekday.numpy().astype(np.int8),
                    "events": np.rint(np.expm1(keys.dense[:, 0].astype(np.float64) * LOG_EVENTS_SCALE)).astype(
                        np.int32
                    ),
                    "item_age": (hour.number - first).astype(np.int32),
                }
            )
        )
    write_parquet(path, pa.concat_tables(tables))


def read_frame(log: Log) -> dict[str, np.ndarray]:
    """Columns of ``write_frame``."""
    write_frame(log)
    table = pq.read_table(frame_path(log))
    return {name: table[name].to_numpy() for name in table.column_names}
