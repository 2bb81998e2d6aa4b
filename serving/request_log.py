"""The log of requests, answers and the features that were read, written without delaying requests.

``requests`` has one row per request: its candidates sorted by score, the model that ranked, and why. Features are written
once per user and hour (``feature_repo.served``). ``shadow`` has another model's scores of the same candidates.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.hours import Hour
from core.settings import Settings
from feature_repo.retrieval import Features
from feature_repo.served import KINDS, read_parts, write_part

log = logging.getLogger("serving.request_log")

REQUESTS = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("at", pa.timestamp("us", tz="UTC")),
        pa.field("user", pa.string()),
        pa.field("user_id", pa.int64()),
        pa.field("local_minutes", pa.int64()),
        pa.field("features_as_of", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("experiment", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("degraded", pa.string()),
        pa.field("items", pa.list_(pa.int64())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("shown", pa.int64()),
        pa.field("context", pa.string()),
    ]
)
SHADOW = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("version", pa.string()),
        pa.field("items", pa.list_(pa.int64())),
        pa.field("scores", pa.list_(pa.float32())),
    ]
)
READERS = pa.schema([pa.field("user_id", pa.int64())])


class RequestRow(TypedDict):
    """A row of ``REQUESTS``."""

    request_id: str
    at: datetime
    user: str
    user_id: int
    local_minutes: int
    features_as_of: int
    version: str
    experiment: str
    variant: str
    degraded: str | None
    items: np.ndarray
    scores: np.ndarray
    shown: int
    context: str | None


class ShadowRow(TypedDict):
    """A row of ``SHADOW``."""

    request_id: str
    version: str
    items: np.ndarray
    scores: np.ndarray


PENDING_LIMIT = 20_000
FLUSH_SECONDS = 2.0


class RequestLog:
    """Collects rows and writes them in a separate thread; rows over the limit are dropped and counted."""

    def __init__(self, settings: Settings, *, flush_seconds: float = FLUSH_SECONDS) -> None:
        self.settings, self.flush_seconds = settings, flush_seconds
        self.dropped = 0
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._rows: dict[tuple[Hour, str], list[RequestRow | ShadowRow]] = defaultdict(list)
        self._features: dict[Hour, list[tuple[list[int], Features]]] = defaultdict(list)
        self._pending = 0
        # Process ids are reused, and the same in many containers. A part's name must be unique, or it would replace other rows.
        self._writer, self._number = uuid.uuid4().hex[:16], 0
        self._read: dict[Hour, set[int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def add(self, hour: Hour, kind: str, rows: Sequence[RequestRow | ShadowRow]) -> None:
        """Add rows to ``requests`` or ``shadow``.

        Args:
            hour: hour of the requests.
            kind: ``requests`` or ``shadow``.
            rows: in the columns of that kind.
        """
        with self._lock:
            if self._pending + len(rows) > PENDING_LIMIT:
                self.dropped += len(rows)
                return
            self._rows[hour, kind] += rows
            self._pending += len(rows)

    def add_features(self, hour: Hour, users: Sequence[int], features: Features) -> None:
        """Add features as of an hour; users whose features are in the log already are left out."""
        with self._lock:
            if hour not in self._read:
                self._read = {h: seen for h, seen in self._read.items() if h > hour - 3} | {hour: set()}
            new_users = [user for user in users if user not in self._read[hour]]
            if not new_users or self._pending + len(new_users) > PENDING_LIMIT:
                return
            self._read[hour].update(new_users)
            self._features[hour].append((new_users, features))
            self._pending += len(new_users)

    def flush(self) -> None:
        """Write the rows collected so far."""
        with self._writing:
            with self._lock:
                rows, features_by_hour = self._rows, self._features
                self._rows, self._features, self._pending = defaultdict(list), defaultdict(list), 0
            for (hour, kind), logged in rows.items():
                schema = REQUESTS if kind == "requests" else SHADOW
                self._write(hour, kind, pa.Table.from_pylist(logged, schema=schema))
            for hour, parts in features_by_hour.items():
                readers = [user for users, _ in parts for user in users]
                self._write(hour, "readers", pa.table({"user_id": readers}, schema=READERS))
                for kind in KINDS:
                    tables = [
                        _of_users(table, users)
                        for users, features in parts
                        if (table := getattr(features, kind)).num_rows
                    ]
                    if tables:
                        self._write(hour, kind, pa.concat_tables(tables))

    def close(self) -> None:
        """Write the remaining rows and stop."""
        self._stop.set()
        self._thread.join(30)
        self.flush()

    def _write(self, hour: Hour, kind: str, rows: pa.Table) -> None:
        self._number += 1
        write_part(self.settings, hour, kind, rows, f"{self._writer}-{self._number:06d}")

    def _run(self) -> None:
        while not self._stop.wait(self.flush_seconds):
            try:
                self.flush()
            except OSError as error:  # on a full disk the log loses rows; ranking goes on
                log.warning("the request log could not be written: %s", error)


def read_requests(settings: Settings, hour: Hour) -> pa.Table:
    """The requests of an hour, ordered by time; of one that was sent again only the last answer counts."""
    rows = read_parts(settings, hour, "requests")
    if not rows.num_rows:
        return REQUESTS.empty_table()
    rows = rows.sort_by("at")  # parts are named by who wrote them: another process may have answered first
    numbered = rows.append_column("row", pa.array(range(rows.num_rows)))
    last = numbered.group_by("request_id").aggregate([("row", "max")])["row_max"]
    return rows.take(last.combine_chunks()).sort_by([("at", "ascending"), ("request_id", "ascending")])


def _of_users(rows: pa.Table, users: list[int]) -> pa.Table:
    return rows.filter(pc.is_in(rows["user_id"], pa.array(users, pa.int64())))
