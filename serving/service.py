"""An engine behind a bounded queue, a thread that refreshes it, and its metrics for Prometheus.

A request waits in the queue for one of a few threads. A thread that is free takes all that wait, up to a number, and ranks
them together, which costs less than each alone; nothing waits for others to come. A request that does not fit is refused at
once, and one that takes too long is abandoned, so that a burst does not slow down the requests being answered.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from core.garbage import collect_seldom, settle
from core.settings import Settings
from serving.engine import NoChampionError, RankingEngine
from serving.schemas import RankBody
from serving.stages import PAST, Ranked, RankRequest

log = logging.getLogger("serving.service")

DEFAULT_COUNT = 50
FUTURE = timedelta(hours=48)
"""How far a request's time may be after the platform's."""
SWITCH_SECONDS = 0.0005
"""Time after which a thread that refreshes or writes the log yields to requests (Python's default is ten times longer)."""
LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0)
TOGETHER_BUCKETS = (1, 2, 4, 8, 16, 32, 64)

Waiting = tuple[RankRequest, Future[Ranked]]
"""A request, and where its answer goes."""


class RefusedError(Exception):
    """A request is answered with an error instead of a ranking."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(reason)
        self.status, self.body, self.headers = status, {"error": reason, **more}, headers


class ServingMetrics:
    """Metrics of the service for Prometheus."""

    def __init__(self, service: RankingService) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "clock_rank_answers", "Answers by status and variant.", ["status", "variant"], registry=self.registry
        )
        self.degraded = Counter(
            "clock_rank_degraded", "Answers that something was missing for.", ["kind"], registry=self.registry
        )
        self.seconds = Histogram(
            "clock_rank_seconds", "Time to an answer.", buckets=LATENCY_BUCKETS, registry=self.registry
        )
        self.together = Histogram(
            "clock_rank_together", "Requests ranked together.", buckets=TOGETHER_BUCKETS, registry=self.registry
        )
        engine = service.engine
        for name, text, read in (
            ("clock_rank_pending", "Requests being ranked or waiting.", lambda: service.pending),
            ("clock_features_as_of_seconds", "Hour from whose start the features hold, seconds since 1970.",
             lambda: engine.snapshot.as_of.start.timestamp() if engine.snapshot.as_of else 0),
            ("clock_lane_sample_seconds", "Newest sample in the champion's parameters, seconds since 1970; 0: the registered ones rank.",
             lambda: engine.snapshot.newest_sample),
            ("clock_catalog_items", "Items that can be ranked.", lambda: engine.snapshot.items),
            ("clock_problems", "How many parts could not be refreshed; /model names them.", lambda: len(engine.problems)),
            ("clock_journal_dropped", "Rows of the request log that were dropped.",
             lambda: engine.request_log.dropped if engine.request_log else 0),
            ("clock_exposures_unlogged", "Exposures that could not be written.", lambda: engine.unlogged),
        ):  # fmt: skip
            Gauge(name, text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RankingService:
    """An engine, the queue in front of it, and the thread that refreshes it."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.engine = settings, RankingEngine(settings)
        self.pool = ThreadPoolExecutor(settings.serving_threads, thread_name_prefix="rank")
        self.pending = 0
        self._waiting: deque[Waiting] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="refresh", daemon=True)
        self.metrics = ServingMetrics(self)

    def start(self) -> None:
        """Load everything once, then refresh it in a thread."""
        import torch

        torch.set_num_threads(1)  # requests share the cores
        sys.setswitchinterval(SWITCH_SECONDS)
        self.engine.refresh()
        settle()
        collect_seldom()  # in worker processes too, which have no command line; the hundreds of lists of a clock are no garbage
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests being ranked, write the log, and stop."""
        self._stop.set()
        self._thread.join(30)
        self.pool.shutdown(wait=True)
        self.engine.close()

    def _keep_fresh(self) -> None:
        while not self._stop.wait(self.settings.serving_refresh_seconds):
            try:
                self.engine.refresh()
            except Exception:  # the service keeps its current state
                log.exception("refreshing failed")

    async def rank(self, request: RankRequest) -> Ranked:
        """Rank within the queue's bounds and the time limit.

        Raises:
            RefusedError: 503 if the queue is full or there is no champion, 504 if ranking takes too long.
        """
        limit = self.settings.serving_threads + self.settings.serving_queue
        with self._lock:
            if self.pending >= limit:
                raise RefusedError(
                    503, f"{limit} requests are waiting already; try again in a second", {"Retry-After": "1"}
                )
            self.pending += 1
        answer: Future[Ranked] = Future()
        answer.add_done_callback(self._done)
        self._waiting.append((request, answer))
        self.pool.submit(self._rank_waiting)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), self.settings.serving_timeout_ms / 1000)
        except TimeoutError:
            raise RefusedError(504, f"not ranked within {self.settings.serving_timeout_ms} ms") from None
        except NoChampionError as error:
            raise RefusedError(503, str(error), {"Retry-After": "10"}) from None

    def _rank_waiting(self) -> None:
        """Rank what waits; nothing may be left, as each request calls this once and one call may rank several."""
        taken: list[Waiting] = []
        with self._lock:
            while self._waiting and len(taken) < self.settings.serving_together:
                request, answer = self._waiting.popleft()
                if answer.set_running_or_notify_cancel():  # else it took too long
                    taken.append((request, answer))
        if taken:
            self.metrics.together.observe(len(taken))
            self._answer(taken)

    def _answer(self, taken: Sequence[Waiting]) -> None:
        """Rank requests together; if that fails, each alone, so that one fails no other."""
        try:
            ranked = self.engine.rank_many([request for request, _ in taken])
        except Exception as error:
            if len(taken) == 1:
                taken[0][1].set_exception(error)
            else:
                for one in taken:
                    self._answer([one])
            return
        for (_, answer), result in zip(taken, ranked, strict=True):
            answer.set_result(result)

    def _done(self, answer: Future[Ranked]) -> None:
        del answer
        with self._lock:
            self.pending -= 1

    def request_of(self, body: RankBody) -> RankRequest:
        """Turn a body into a checked request.

        Raises:
            RefusedError: 422 if a limit is exceeded, or the time is too far from the platform's.
        """
        most = self.settings.serving_candidates
        candidates = tuple(body.candidates) if isinstance(body.candidates, list) else None
        for name, items in (("candidates", candidates or ()), ("exclude", body.exclude)):
            if len(items) > most:
                raise RefusedError(422, f"{name}: {len(items)} items; at most {most}")
        if body.count is not None and body.count > most:
            raise RefusedError(422, f"count: {body.count}; at most {most}")
        at = self._time(body.time)
        local = at.astimezone(ZoneInfo(body.zone)) if body.zone else at
        minutes = int(local.replace(tzinfo=UTC).timestamp() // 60)
        return RankRequest(
            request_id=body.request_id or uuid.uuid4().hex, user=body.user, at=at, local_minutes=minutes,
            candidates=candidates,
            count=body.count or (len(candidates) if candidates is not None else DEFAULT_COUNT), exclude=tuple(body.exclude),
            context=body.context_texts,
        )  # fmt: skip

    def _time(self, time: datetime | None) -> datetime:
        """The request's time, checked against the platform's now: the wall clock's or, if a log is replayed, the log's."""
        hour = self.engine.snapshot.as_of
        now = datetime.now(UTC) if self.settings.live or hour is None else hour.start
        if time is None:
            return now
        if not now - PAST <= time <= now + FUTURE:
            raise RefusedError(
                422, f"time: {time.isoformat()} is not between {PAST.total_seconds() / 3600:.0f} h before and "
                f"{FUTURE.total_seconds() / 3600:.0f} h after the platform's now, {now.isoformat(timespec='seconds')}"
            )  # fmt: skip
        return time
