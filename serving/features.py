"""Feast's online features with a deadline: with a slow or missing store, requests are answered without features."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures, Features
from serving.catalog import UNKNOWN_ID

log = logging.getLogger("serving.features")

READERS = 4
WARM_SECONDS = 60
FAILURES_TO_REST, REST_SECONDS = 3, 1.0
"""After this many failures in a row the store is not asked for this long, so that requests do not wait in vain."""


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

    def read(self, users: Sequence[int], as_of: Hour, deadline_ms: float | None = None) -> Features:
        """Features of users as of an hour.

        Args:
            users: integer ids.
            as_of: hour at whose start the features hold.
            deadline_ms: time limit, milliseconds; default: the setting's.

        Raises:
            FeatureStoreUnavailableError: the store is unavailable or slow, or was a moment ago.
        """
        if time.monotonic() < self._resting_until:
            raise FeatureStoreUnavailableError("the feature store was away a moment ago")
        job = self._pool.submit(self._read, list(users), as_of)
        try:
            features = job.result((deadline_ms or self.settings.serving_feature_ms) / 1000)
            self._failures = 0
            return features
        except FutureTimeoutError:
            job.cancel()  # if it has not begun, it must not keep the readers busy
            reason = f"the feature store took longer than {self.settings.serving_feature_ms} ms"
        except Exception as error:  # whatever the reason, ranking goes on without features
            reason = f"the feature store failed: {type(error).__name__}"
            log.warning("reading features: %s", error)
        self._failures += 1
        if self._failures >= FAILURES_TO_REST:
            self._resting_until = time.monotonic() + REST_SECONDS
        raise FeatureStoreUnavailableError(reason)

    def warm(self, as_of: Hour) -> None:
        """Open every reader's store and read once, so that no request has to wait for it; failures are logged."""
        barrier = threading.Barrier(READERS)

        def read_one() -> None:
            barrier.wait(WARM_SECONDS)
            self._read([UNKNOWN_ID], as_of)

        for job in [self._pool.submit(read_one) for _ in range(READERS)]:
            try:
                job.result(WARM_SECONDS)
            except Exception as error:  # requests will report it
                log.warning("opening the feature store: %s", error)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, users: list[int], as_of: Hour) -> Features:
        store = self.store
        try:
            return store.online(users, as_of)
        except Exception:
            with self._opening:
                self._opened = None  # a connection that broke is not used again
            raise


def open_features(settings: Settings) -> ClockFeatures:
    """The source's feature store.

    Raises:
        NotReadyError: the source has no events yet.
    """
    events = EventStore(settings.events_dir)
    if events.hours():
        return ClockFeatures(settings, events)
    raise NotReadyError(f"{settings.workspace} has no events yet; run 'make demo', or ingest a log")
