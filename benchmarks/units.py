"""Unit costs: bytes per event, user and id, and what a report reads of a day. ``clock ops capacity`` uses them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.clocks import write_log
from benchmarks.experiments import user_table, write_events
from benchmarks.hour_cycle import HISTORY_HOURS, START, VARIANTS, prepare
from benchmarks.result import Result
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization, advance
from feature_repo.retrieval import ClockFeatures
from training.state_info import read_info

VARIANT = VARIANTS[-1]
REGULARS, REGULAR_EVENTS = 4_000, 500
AB_EVENTS, AB_USERS = 5_000_000, 500_000
NAN = float("nan")


def bench_units(scale: float) -> list[Result]:
    """The bytes that the steps of an hour of a million events write, and the core-seconds of an experiment's user table."""
    from pipeline.source import ingest_hour
    from pipeline.training import build_samples, train_variant

    hour = START + HISTORY_HOURS
    with tempfile.TemporaryDirectory() as folder:
        settings = prepare(Path(folder), scale)
        ingest_hour(settings, hour)
        advance(settings, hour + 1)
        build_samples(settings, hour, hour)
        train_variant(settings, VARIANT, hour)
        store, training = EventStore(settings.events_dir), settings.training_dir
        rows = store.read(hour).num_rows
        raw = _bytes(Path(folder) / "log" / f"{hour.key}.parquet") / rows
        event = _bytes(store.partition(hour)) / rows
        results = [Result("bytes_event", event, "B", "the raw log's Parquet", raw, raw / event)]
        state = training / "states" / VARIANT / f"hour={hour.key}"
        sizes = {
            "bytes_samples_event": _bytes(training / "samples" / f"hour={hour.key}") / rows,
            "bytes_model_id": _bytes(state) / sum(read_info(state).tables.values()),
        }
        table = Path(folder) / "ab"
        table.mkdir()
        events = write_events(table, int(AB_EVENTS * scale), int(AB_USERS * scale))
        cost = _cores(lambda: user_table(table, events)) / (AB_EVENTS * scale) * 1e6
        results.append(Result("cpu_ab", cost, "core-s/M", "none", NAN, NAN))
        sizes |= _of_regulars(Path(folder) / "regulars", scale)
        return results + [Result(name, value, "B", "none", NAN, NAN) for name, value in sizes.items()]


def _cores(step: Callable[[], object]) -> float:
    """Core-seconds of this process's threads."""
    begun = time.process_time()
    step()
    return time.process_time() - begun


def _bytes(*roots: Path) -> int:
    return sum(
        p.stat().st_size for root in roots for p in ([root] if root.is_file() else root.rglob("*")) if p.is_file()
    )


def _of_regulars(var: Path, scale: float) -> dict[str, float]:
    """Bytes per user with ``REGULAR_EVENTS`` in the window, of clocks on disk and online; and bytes of changes per event."""
    settings = load_settings(var=var, source="bench", variants=VARIANTS)
    users, hours = int(REGULARS * scale), settings.window_hours
    per_hour = users * REGULAR_EVENTS // hours
    store = write_log(settings, per_hour * (hours + 1), users, hours + 1)
    clock = ClockState(settings, store)
    clock.rebuild(START + hours, history=False)
    roots = [log.root for log in clock.logs.values()]
    before = _bytes(*roots)
    clock.refresh(START + hours + 1)
    return {
        "bytes_changes_event": (_bytes(*roots) - before) / per_hour,
        "bytes_clock_user": _bytes(clock.root / "sums") / users,
        "bytes_online_user": _online(settings, var),
    }


def _online(settings: Settings, folder: Path) -> float:
    """Bytes per user in Redis with clock, profile, activity and history online."""
    import redis

    from tests.servers import redis_server

    redis_folder = folder / "redis"
    redis_folder.mkdir()
    with redis_server(redis_folder) as (url, _):
        host, port = url.split(":")
        server = redis.Redis(host=host, port=int(port))
        explicit = settings.model_dump(include=settings.model_fields_set)
        online = load_settings(**{**explicit, "online_store": "redis", "redis_url": url})
        features = ClockFeatures(online, EventStore(online.events_dir))
        until = features.clock.as_of
        assert until is not None
        Materialization(features).materialize_all(until)
        users = [key for key in cast("Any", server).scan_iter(count=1000) if b"user_id" in key]
        return float(np.mean([cast("Any", server).memory_usage(key) for key in users]))
