"""What the same hour costs after a short log and after a long one: core-seconds of every hourly step."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.clocks import START, write_log
from benchmarks.result import Result
from core.hours import DAY_HOURS, Hour
from core.settings import Settings, load_settings
from events.mapping import Negatives
from events.store import EventStore

log = logging.getLogger("benchmarks.endurance")

LOG_DAYS = (32, 64, 128)
"""From a full window on: before, an hour has no events that leave it, and a user fewer slots than later."""
USERS, EVENTS_AN_HOUR, SESSION = 10_000, 1_000, 4
MEASURED_HOURS = range(9, 14)
"""Hours after the log that count; those before them warm up: the first reads everything once."""
VARIANTS = ("long_term_clock", "matched_clock")
NEGATIVES = Negatives(per_positive=2, kind="popularity", seed=7)

Step = Callable[[], object]


def bench_endurance(scale: float) -> list[Result]:
    """Median core-seconds of a step for the same hour after 32, 64 and 128 days of log; the peer is the shortest log.

    Core-seconds, not seconds: what else the machine does leaves them as they are.
    """
    results = []
    for kind, positives_only in (("impressions", False), ("positives", True)):
        cost = {days: hour_costs(days, scale, positives_only=positives_only) for days in LOG_DAYS}
        for days in LOG_DAYS[1:]:
            for step, seconds in cost[days].items():
                short = cost[LOG_DAYS[0]][step]
                name = f"endurance_{kind}_{step}_{days}d"
                results.append(Result(name, seconds, "s", f"{LOG_DAYS[0]} days of log", short, short / seconds))
    return results


def hour_costs(days: int, scale: float, *, positives_only: bool) -> dict[str, float]:
    """Median core-seconds of every step of an hour after so many days of log.

    Args:
        days: of log before the measured hours.
        scale: share of the users and the events.
        positives_only: whether the log holds positives alone, so that negatives are drawn.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", variants=VARIANTS)
        begun = time.monotonic()
        hours, users = days * DAY_HOURS, int(USERS * scale)
        per_hour = int(EVENTS_AN_HOUR * scale)
        end = hours + MEASURED_HOURS.stop
        write_log(
            settings, per_hour * end, users, end, session=SESSION, negatives=NEGATIVES if positives_only else None
        )
        _prepare(settings, START + hours)
        log.info("%d days of log: prepared in %.0f s", days, time.monotonic() - begun)
        costs = defaultdict(list)
        for hour in (START + hours + n for n in range(MEASURED_HOURS.stop)):
            for name, step in _steps(settings, hour).items():
                begun = time.process_time()
                step()
                costs[name].append(time.process_time() - begun)
        return {name: float(np.median(seconds[MEASURED_HOURS.start :])) for name, seconds in costs.items()}


def _prepare(settings: Settings, until: Hour) -> None:
    """Clocks with their whole past, and the online store, as of an hour."""
    from feature_repo.clock import ClockState
    from feature_repo.retrieval import ClockFeatures

    store = EventStore(settings.events_dir)
    ClockState(settings, store).rebuild(until)
    ClockFeatures(settings, store).materialize_all(until)


def _steps(settings: Settings, hour: Hour) -> dict[str, Step]:
    """The steps of the hour's cycle in their order, by name."""
    from feature_repo.retrieval import advance
    from pipeline.training import build_samples

    return {
        "samples": lambda: build_samples(settings, hour, hour),
        "clocks": lambda: advance(settings, hour + 1),
    }
