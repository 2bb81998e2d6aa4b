"""How many cells of clocks a second go into Redis, beside Feast's own way from a data frame."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa

from benchmarks.clocks import START, write_log
from benchmarks.result import Result, timed
from core.hours import DAY_HOURS
from core.settings import load_settings
from feature_repo.clock import ClockState
from feature_repo.online import empty_clock, encode_cells, write_cells
from feature_repo.retrieval import ClockFeatures

USERS, EVENTS_A_USER, DAYS, SESSION = 40_000, 40, 3, 4


def bench_online_write(scale: float) -> Result:
    """Cells a second of whole clocks, from Arrow rows to Redis; the peer is Feast's ``write_to_online_store``."""
    from tests.servers import redis_server

    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as (url, _):
        settings = load_settings(var=Path(folder), source="bench", online_store="redis", redis_url=url)
        users, hours = int(USERS * scale), DAYS * DAY_HOURS
        log = write_log(settings, users * EVENTS_A_USER, users, hours, session=SESSION)
        ClockState(settings, log).rebuild(START + hours)
        features = ClockFeatures(settings, log)
        rows = pa.concat_tables(features.latest("clock_slots", START + hours))

        def ours() -> int:
            return write_cells(features.store, "clock", encode_cells(rows, features.facets, settings), START + hours)

        write_cells(features.store, "clock", encode_cells(rows.slice(0, 1000), features.facets, settings), START)
        speed = rows.num_rows / timed(ours, 1)
        empty = empty_clock(settings)
        cells = [{"user_id": user, **empty, **filled} for user, filled in encode_cells(rows, features.facets, settings)]
        frame = pd.DataFrame(cells).assign(event_timestamp=pd.Timestamp((START + hours + 1).start))
        peer = rows.num_rows / timed(lambda: features.store.write_to_online_store("clock", frame), 1)
    return Result(
        "online_write", speed, "/s", "Feast's write_to_online_store, cells made beforehand", peer, speed / peer
    )
