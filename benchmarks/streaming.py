"""The lane between two hours: how old features online, and samples in the parameters that rank, are when rows come at a steady rate."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.hour_cycle import HISTORY_EVENTS, HISTORY_HOURS, MAPPING, START, USERS, write_hour
from benchmarks.result import Result
from core.files import write_json
from core.hours import Hour, hour_range
from core.settings import Settings, load_settings
from model_registry.registry import CHAMPION
from serving.models import record_file
from streaming.lane import Lane
from training.model import load_model
from training.running import PublishedParameters
from training.trainer import Trainer

RATE, SECONDS = 1_000, 60
EARLIER_ROWS = 500_000
"""Rows that the hour has already in the second measurement."""
VARIANT, TRAINED_HOURS = "matched_clock", 3
TRAIN_SECONDS = 10.0
"""How often the lane trains here: several times within the measurement."""
MEAN_AGE = 1800.0
"""Seconds that features of the hour's start are old on average, plus what the hour's run takes."""


def bench_streaming(scale: float) -> list[Result]:
    """Seconds from a row's writing to its user's features online, and into what ranks; 1,000 rows a second of 200,000 users."""
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
        trains = {"streaming_train": True, "streaming_train_seconds": TRAIN_SECONDS}
        settings = load_settings(**{**settings.model_dump(exclude_unset=True), **trains})
        results += _parameters(settings, folder, until, users, rate)
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


def _followed(
    lane: Lane, log: Path, rows: Sequence[bytes], rate: int, learned: Callable[[int], int] | None = None
) -> np.ndarray:
    """Append rows at a rate while the lane follows.

    Args:
        lane: looks at the log.
        log: file of the hour.
        rows: to append.
        rate: rows a second.
        learned: of how many of the rows the parameters have learned, given how many a look has taken; default: that is not waited for.

    Returns:
        Seconds from each row's writing to the end of the look that took it, or after which the parameters had learned of it.
    """
    written = np.zeros(len(rows))

    def write() -> None:
        begun = time.monotonic()
        with log.open("ab") as file:
            for start in range(0, len(rows), max(rate // 10, 1)):
                part = rows[start : start + max(rate // 10, 1)]
                time.sleep(max(begun + start / rate - time.monotonic(), 0))
                file.writelines(part)
                file.flush()
                written[start : start + len(part)] = time.monotonic()

    writer = threading.Thread(target=write)
    writer.start()
    ages, taken = [], 0
    while taken < len(rows):
        here = int((written > 0).sum())  # rows that the look can see
        if here == taken and learned is None:
            time.sleep(0.05)
            continue
        if not lane.step():
            time.sleep(0.05)
        here = here if learned is None else learned(here)
        ages.append(time.monotonic() - written[taken:here])
        taken = max(taken, here)
    writer.join()
    return np.concatenate(ages)


def _parameters(settings: Settings, folder: Path, hour: Hour, users: int, rate: int) -> list[Result]:
    """Seconds from a row's writing until the parameters that learned from it are in memory, as serving loads them."""
    trainer = Trainer(settings, VARIANT)
    trainer.train(hour - 1, start=hour - TRAINED_HOURS, save_every=TRAINED_HOURS)
    state = trainer.states.folder(hour - 1)
    write_json(record_file(settings), {CHAMPION: {"version": "1", "folder": str(state)}})
    registered, published = load_model(state), PublishedParameters(settings)
    rows, log = _rows(folder, hour, rate * SECONDS, users)
    moments = np.array([int(row.split(b",")[3]) for row in rows])
    last: tuple[str, int] = ("", 0)

    lane = Lane(settings)

    def learned(taken: int) -> int:
        nonlocal last
        parameters = published.read(hour).get("1")
        if parameters is not None and parameters.name != last[0]:
            published.load(parameters, registered)
            until = datetime.fromisoformat(parameters.until).timestamp()
            waiting = lane.status.events - parameters.samples  # of users whom the log has had before
            everything = waiting < trainer.config.batch_size  # what does not fill a batch waits for the next rows
            last = parameters.name, taken if everything else int(np.searchsorted(moments[:taken], until, side="right"))
        return last[1]

    ages = _followed(lane, log, rows, rate, learned)
    return [
        Result(
            f"stream_parameters_p{q}",
            value := float(np.percentile(ages, q)),
            "s",
            "parameters of the hour before",
            MEAN_AGE,
            MEAN_AGE / value,
        )
        for q in (50, 99)
    ]
