"""An hour of a million events as DAG runs: ingestion, clocks, online store, training, gate; and Airflow's own overhead."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.result import Result
from core.hours import Hour
from core.settings import Settings, load_settings

log = logging.getLogger("benchmarks.hour_cycle")

START = Hour.parse("2026-03-02T00")
HISTORY_HOURS = 12
HISTORY_EVENTS, EVENTS, USERS, ITEMS = 50_000, 1_000_000, 200_000, 20_000
FACETS = {"genre": 50, "mood": 12, "language": 8}
VARIANTS = ("hour_embedding", "matched_clock")
TIMEOUT_SECONDS = 1800
MAPPING = """
source: bench
paths: ['log/{hour}.parquet']
columns: {event_id: event_id, user_id: uid, item_id: track, played_seconds: played, duration_seconds: length}
timestamp: {column: ts, unit: s, zone: UTC}
local_time: {zone: Europe/Berlin}
facets: {genre: genre, mood: mood, language: language}
behaviors: {finish: played_seconds / duration_seconds >= 0.9, like: liked, skip: played_seconds < 5}
"""


def write_hour(folder: Path, hour: Hour, events: int, users: int) -> None:
    """Write an hour of raw log: activity differs between users, items are drawn by popularity; seeded by the hour."""
    rng = np.random.default_rng(hour.number)
    item = np.minimum(rng.zipf(1.3, events), ITEMS) - 1
    user = (users * rng.random(events) ** 2).astype(np.int64)
    length = 120 + item % 180
    played = np.where(rng.random(events) < 0.35 + 0.2 * ((item + user) % 7 == 0), length, rng.random(events) * length)
    columns = {
        "event_id": [f"{hour.number}-{n}" for n in range(events)],
        "uid": [f"u{n}" for n in user], "track": [f"t{n}" for n in item],
        "ts": int(hour.start.timestamp()) + np.sort(rng.integers(0, 3600, events)),
        "played": played.round(1), "length": length, "liked": rng.random(events) < 0.05,
        **{name: [f"{name}{n}" for n in (item * 7919 + k) % size] for k, (name, size) in enumerate(FACETS.items())},
    }  # fmt: skip
    (folder / "log").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "log" / f"{hour.key}.parquet")


class Memory(threading.Thread):
    """Measures the peak memory of this process's children together, bytes; by proportional set size, so shared pages count once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ended = 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(1):
            total = 0
            for process in psutil.Process(os.getpid()).children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.peak = max(self.peak, total)


def bench_hour_cycle(scale: float) -> list[Result]:
    """Duration of the cycle, its memory, and the share of the time in which no task ran."""
    with tempfile.TemporaryDirectory() as folder:
        settings = prepare(Path(folder), scale)
        return _cycle(settings)


def prepare(folder: Path, scale: float) -> Settings:
    """Prepare a workspace with a history of twelve small hours and the raw log of an hour of a million events."""
    from operations.processes import with_free_ports
    from operations.services import migrate_airflow
    from pipeline.history import build_history
    from pipeline.source import Source, save_source

    settings = load_settings(var=folder / "var", source="bench", variants=VARIANTS)
    settings = load_settings(**{**settings.model_dump(include=settings.model_fields_set), **with_free_ports(settings)})
    settings.workspace.mkdir(parents=True)
    (folder / "bench.yaml").write_text(MAPPING)
    users = int(USERS * scale)
    for n in range(HISTORY_HOURS):
        write_hour(folder, START + n, int(HISTORY_EVENTS * scale), users)
    write_hour(folder, START + HISTORY_HOURS, int(EVENTS * scale), users)
    save_source(settings, Source(str(folder / "bench.yaml"), (str(folder / "log" / "{hour}.parquet"),)))
    build_history(settings, START + HISTORY_HOURS)
    migrate_airflow(settings)
    return settings


def _cycle(settings: Settings) -> list[Result]:
    from operations.airflow_driver import HOURLY, start_airflow
    from operations.processes import wait_for

    hour = START + HISTORY_HOURS
    with ExitStack() as stack:
        begun = time.monotonic()
        api = start_airflow(settings, stack)
        started = time.monotonic() - begun
        memory = Memory()
        memory.start()
        begun = time.monotonic()
        api.trigger("ingest_hour", partition=hour.key)

        def through() -> bool:
            runs = api.runs(*HOURLY)
            if any(r.state == "failed" for r in runs):
                raise RuntimeError(f"a DAG run failed: {[(r.dag_id, r.state) for r in runs]}")
            return {r.dag_id for r in runs if r.state == "success"} == set(HOURLY)

        wait_for(through, f"hour {hour} to run through Airflow", TIMEOUT_SECONDS)
        wall = time.monotonic() - begun
        memory.ended.set()
        tasks = [t for r in api.runs(*HOURLY) for t in api.tasks(r.dag_id, r.run_id)]
    spent = {f"{t.dag_id}.{t.task_id}": t.seconds or 0.0 for t in tasks}
    for name, seconds in spent.items():
        log.info("%-40s %6.1f s", name, seconds)
    busy = _covered([(t.start, t.end) for t in tasks if t.start and t.end])
    return [
        Result("airflow_start", started, "s", "the cycle", wall, wall / started),
        Result("hour_cycle", wall, "s", "bar", 90.0, 90.0 / wall),
        Result("hour_cycle_memory", memory.peak / 1e9, "GB", "bar", 4.0, 4e9 / memory.peak),
        Result("hour_cycle_overhead", 100 * (1 - busy / wall), "%", "bar", 25.0, 25 / (100 * (1 - busy / wall))),
    ]


def _covered(spans: list[tuple[datetime, datetime]]) -> float:
    """Seconds that at least one of the spans covers."""
    spans = sorted(spans)
    total, until = timedelta(), spans[0][0]
    for start, end in spans:
        total += max(timedelta(), end - max(start, until))
        until = max(until, end)
    return total.total_seconds()
