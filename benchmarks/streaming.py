"""The lane between two hours: how old features online are when rows come at a steady rate, early and late in the hour."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.hour_cycle import HISTORY_EVENTS, HISTORY_HOURS, MAPPING, START, USERS, write_hour
from benchmarks.result import Result
from core.hours import Hour, hour_range
from core.settings import load_settings
from streaming.lane import Lane

RATE, SECONDS = 1_000, 60
EARLIER_ROWS = 500_000
"""Rows that the hour has already in the second measurement."""
MEAN_AGE = 1800.0
"""Seconds that features of the hour's start are old on average, plus what the hour's run takes."""


def bench_streaming(scale: float) -> list[Result]:
    """Seconds from a row's writing to its user's features online; 1,000 rows a second of 200,000 users."""
    from feature_repo.materialization import advance
    from pipeline.source import Source, ingest_history, save_source

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load_settings(var=folder / "var", source="bench", duckdb_memory="4GB")
        (folder / "mapping.yaml").write_text(MAPPING)
        until, users = START + HISTORY_HOURS, int(USERS * scale)
        for hour in hour_range(START, until):
            write_hour(folder, hour, int(HISTORY_EVENTS * scale), users)
        save_source(settings, Source(str(folder / "mapping.yaml")))
        ingest_history(settings, None)
        advance(settings, until)
        (folder / "mapping.yaml").write_text(MAPPING.replace(".parquet", ".csv"))
        rows, log = _rows(folder, until, int((EARLIER_ROWS + 2 * RATE * SECONDS) * scale), users)
        lane = Lane(settings)
        rate, count = max(int(RATE * scale), 10), int(RATE * SECONDS * scale)
        results = []
        ages = _followed(lane, log, rows[:count], rate)
        results += _ages("early", ages, "features of the hour's start")
        with log.open("ab") as file:
            file.writelines(rows[count:-count])
        begun = time.process_time()
        lane.step()
        caught_up = time.process_time() - begun
        many = len(rows) - 2 * count
        results.append(Result("stream_catch_up", many / caught_up, "rows/core-s", "rows at once", many, float("nan")))
        late = _followed(lane, log, rows[-count:], rate)
        results += _ages("late", late, f"{len(rows) - count:,} rows of the hour before", float(np.median(ages)))
    return results


def _ages(name: str, ages: np.ndarray, label: str, other: float = MEAN_AGE) -> list[Result]:
    return [
        Result(f"stream_age_{name}_p{q}", value := float(np.percentile(ages, q)), "s", label, other, other / value)
        for q in (50, 99)
    ]


def _rows(folder: Path, hour: Hour, count: int, users: int) -> tuple[list[bytes], Path]:
    """Lines of an hour's log as CSV, and the file, which holds their header alone."""
    write_hour(folder, hour, count, users)
    table = pq.read_table(folder / "log" / f"{hour.key}.parquet")
    whole = folder / "whole.csv"
    pa_csv.write_csv(table, whole)
    header, *rows = whole.read_bytes().splitlines(keepends=True)
    log = folder / "log" / f"{hour.key}.csv"
    log.write_bytes(header)
    return rows, log


def _followed(lane: Lane, log: Path, rows: Sequence[bytes], rate: int) -> np.ndarray:
    """Append rows at a rate while the lane follows; seconds from each row's writing to the end of the look that took it."""
    written, done = np.zeros(len(rows)), threading.Event()

    def write() -> None:
        begun = time.monotonic()
        with log.open("ab") as file:
            for start in range(0, len(rows), max(rate // 10, 1)):
                part = rows[start : start + max(rate // 10, 1)]
                time.sleep(max(begun + start / rate - time.monotonic(), 0))
                file.writelines(part)
                file.flush()
                written[start : start + len(part)] = time.monotonic()
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    ages, taken = [], 0
    while taken < len(rows):
        here = int((written > 0).sum())  # rows that the look can see
        if here == taken:
            time.sleep(0.05)
            continue
        lane.step()
        ages.append(time.monotonic() - written[taken:here])
        taken = here
    writer.join()
    return np.concatenate(ages)
