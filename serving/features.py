"""Feast's online features under a deadline: a slow or missing store costs an answer its features, never the answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures, Features

log = logging.getLogger("serving.features")

READERS = 4
WARM_SECONDS = 60
NOBODY = -1
"""A user that no log has."""
FAILURES_TO_REST, REST_SECONDS = 3, 1.0
"""After so many failures in a row the store is left alone for so long: requests do not wait for it in vain."""


class FeatureStoreUnavailableError(Exception):
    """The feature store did not answer in time, or at all."""


class OnlineFeatures:
    """Reads features of users with a deadline."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="features")
        self._opening = threading.Lock()
        self._opened: ClockFeatures | None = None
        self._resting_until = 0.0
        self._failures = 0

    @property
    def store(self) -> ClockFeatures:
        """The feature store, opened on first use: one for all threads, because Feast remembers one registry a process.

        Raises:
            NotReadyError: the source has no events yet.
        """
        with self._opening:
            if self._opened is None:
                self._opened = open_features(self.settings)
            return self._opened

    def read(self, users: Sequence[int], at: Hour, deadline_ms: float | None = None) -> Features:
        """Features of users as of ``at``.

        Raises:
            FeatureStoreUnavailableError: the store is away, slow, or was a moment ago.
        """
        if time.monotonic() < self._resting_until:
            raise FeatureStoreUnavailableError("the feature store was away a moment ago")
        job = self._pool.submit(self._read, list(users), at)
        try:
            found = job.result((deadline_ms or self.settings.serving_feature_ms) / 1000)
            self._failures = 0
            return found
        except Late:
            job.cancel()  # one that did not begin must not keep the readers busy
            reason = f"the feature store took longer than {self.settings.serving_feature_ms} ms"
        except Exception as error:  # whatever it is, ranking goes on without features
            reason = f"the feature store failed: {type(error).__name__}"
            log.warning("reading features: %s", error)
        self._failures += 1
        if self._failures >= FAILURES_TO_REST:
            self._resting_until = time.monotonic() + REST_SECONDS
        raise FeatureStoreUnavailableError(reason)

    def warm(self, at: Hour) -> None:
        """Open every reader's store and read once, so that no request pays for it; a store that is away is left alone."""
        barrier = threading.Barrier(READERS)

        def read_one() -> None:
            barrier.wait(WARM_SECONDS)
            self._read([NOBODY], at)

        for job in [self._pool.submit(read_one) for _ in range(READERS)]:
            try:
                job.result(WARM_SECONDS)
            except Exception as error:  # requests find out in their time
                log.warning("opening the feature store: %s", error)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, users: list[int], at: Hour) -> Features:
        store = self.store
        try:
            return store.online(users, at)
        except Exception:
            with self._opening:
                self._opened = None  # a connection that broke is not used again
            raise


def open_features(settings: Settings) -> ClockFeatures:
    """The source's features, for what happens beside requests."""
    events = EventStore(settings.events_dir)
    if events.hours():
        return ClockFeatures(settings, events)
    raise NotReadyError(f"{settings.workspace} has no events yet; run 'make demo', or ingest a log")
