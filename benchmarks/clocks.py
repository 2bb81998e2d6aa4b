"""Speed and memory of the clocks: 20 M events of 200 k users over 30 days, three facets of 50, 12 and 8 values."""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.result import Result, in_own_process, timed
from core.engine import engine
from core.files import digest_file, digest_text, write_json
from core.garbage import settle
from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import Settings, load_settings
from events.mapping import Negatives
from events.schema import event_schema
from events.source_properties import SourceProperties
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization
from feature_repo.online import encode_cells, write_cells
from feature_repo.rebuild import Rebuild
from feature_repo.repository import TRAINING_SERVICE
from feature_repo.retrieval import ClockFeatures

START = Hour.parse("2026-03-02T00")
FACETS = {"genre": 50, "mood": 12, "language": 8}
ITEMS = 50_000
EVENTS, EVENTS_A_USER, DAYS = 20_000_000, 100, 30
READ_USERS = 2_000
SAMPLES, SESSION = 2_000_000, 8
PEER_EVENTS = 5_000_000
"""pandas runs on this many events, and its time is scaled."""


def write_log(
    settings: Settings,
    events: int,
    users: int,
    hours: int,
    *,
    session: int = 1,
    zones: int = 1,
    negatives: Negatives | None = None,
) -> EventStore:
    """Write an event store of random events, equally many in every hour, values by Zipf's law.

    Args:
        settings: name the workspace.
        events: total number of events.
        users: number of users.
        hours: number of hours, from ``START`` on.
        session: mean number of a user's events in an hour in which they have any.
        zones: number of time zones, an hour apart, over which the users are spread.
        negatives: how negatives are drawn; None: the log says what was not liked.
    """
    store, rng, per_hour = EventStore(settings.events_dir), np.random.default_rng(1), events // hours
    store.declare(SourceProperties("bench", (*FACETS,), ("finish", "like", "skip"), negatives))
    for n in range(hours):
        active = rng.integers(0, users, max(per_hour // session, 1))
        write_hour(store, START + n, random_events(rng, START + n, per_hour, active, zones=zones))
    return store


def random_events(
    rng: np.random.Generator,
    hour: Hour,
    count: int,
    active: np.ndarray,
    *,
    zones: int = 1,
    finished: float = 0.5,
) -> pa.Table:
    """Random events of an hour in their order, values by Zipf's law.

    Args:
        rng: draws them.
        hour: in which they happen.
        count: number of events.
        active: ids of the users whose events they are, each event one of them at random.
        zones: number of time zones, an hour apart, over which the users are spread.
        finished: share of the events that are finishes; 1 in a log of positives only.
    """
    moments = (hour.number * 3600 + np.sort(rng.integers(0, 3600, count))) * 1_000_000
    finish = rng.uniform(size=count) < finished
    who = rng.choice(active, count)
    none = np.zeros(count, bool)
    columns: dict[str, object] = {
        "event_id": pa.array([f"{hour.number}-{n}" for n in range(count)]),
        "user_id": who,
        "item_id": rng.integers(0, ITEMS, count),
        "timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
        "local_time": pa.array(moments + who % zones * 3_600_000_000, pa.timestamp("us")),
        "played_seconds": pa.nulls(count, pa.float64()),
        "duration_seconds": pa.nulls(count, pa.float64()),
        "finish": finish,
        "like": rng.uniform(size=count) < 0.05,
        "skip": ~finish & (rng.uniform(size=count) < 0.5),
        "dislike": none,
        "share": none,
    }
    for facet, size in FACETS.items():
        values = pa.array([f"{facet}-{n:02d}" for n in range(size)])
        columns[facet] = values.take(pa.array(rng.zipf(1.6, count) % size))
    schema = event_schema([*FACETS])
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def write_hour(store: EventStore, hour: Hour, events: pa.Table) -> None:
    """Write an hour of an event store without ingesting it."""
    folder = store.partition(hour)
    folder.mkdir(parents=True)
    pq.write_table(events, folder / "events.parquet", compression="zstd")
    digest = digest_text(digest_file(folder / "events.parquet"))
    write_json(folder / "manifest.json", {"hour": hour.key, "rows": events.num_rows, "digest": digest})


def rebuild_here(settings: Settings, until: Hour) -> None:
    """Rebuild every view as of an hour, without its history."""
    ClockState(settings, EventStore(settings.events_dir)).rebuild(until, history=False)


def refresh_here(settings: Settings, as_of: Hour) -> None:
    """Refresh every view as of the next hour."""
    ClockState(settings, EventStore(settings.events_dir)).refresh(as_of)


def rows_here(settings: Settings, until: Hour) -> None:
    """Compute only the users' clock rows as of an hour, and the sums below them, the way a rebuild writes them."""
    clock = ClockState(settings, EventStore(settings.events_dir))
    hours = list(hour_range(START, until))
    with engine(settings) as running:
        run = Rebuild(clock, running, until, clock.store.changes.position(), hours, history=False)
        run.read()
        run.write_slots()


def rebuild(var: Path, until: Hour, days: int = DAYS) -> tuple[float, float]:
    """Seconds and peak memory (GB) of a rebuild."""
    return in_own_process(rebuild_here, load_settings(var=var, source="bench", window_days=days), until)


def with_pandas(settings: Settings, store: EventStore, events: int) -> float:
    """Seconds for only the clock rows in idiomatic pandas, Parquet to Parquet, scaled from ``PEER_EVENTS``."""
    share = min(1.0, PEER_EVENTS / events)
    users = max(1, int(events // EVENTS_A_USER * share))
    files = [str(file) for file in store.event_files(store.hours()[: DAYS * DAY_HOURS])]

    def work() -> None:
        frame = pd.read_parquet(files, filters=[("user_id", "<", users)])
        keys = ["user_id", "slot"]
        frame["slot"] = frame["local_time"].dt.hour
        frame["score"] = frame["finish"].astype(int) + frame["like"].astype(int) - frame["skip"].astype(int)
        rows = frame.groupby(keys)[["finish", "like", "skip"]].sum()
        rows["events"] = frame.groupby(keys).size()
        for facet in FACETS:
            tops = frame.groupby([*keys, facet], observed=True)["score"].agg(["sum", "count"]).reset_index()
            tops = tops[tops["sum"] > 0].sort_values(
                [*keys, "sum", "count", facet], ascending=[True, True, False, False, True]
            )
            tops = tops.groupby(keys).head(3).rename(columns={facet: "values", "sum": "scores", "count": "counts"})
            lists = tops.groupby(keys)[["values", "scores", "counts"]].agg(list)
            rows = rows.join(lists.add_prefix(f"{facet}_"))
        rows.reset_index().to_parquet(settings.var / "pandas.parquet", compression="zstd")

    return timed(work, 1) / share


def refreshes(settings: Settings, store: EventStore, until: Hour) -> list[float]:
    """Seconds of each refresh over a day, which includes folding bases."""
    clock, seconds = ClockState(settings, store), []
    for hour in hour_range(until + 1, until + 1 + DAY_HOURS):
        begun = time.perf_counter()
        clock.refresh(hour)
        seconds.append(time.perf_counter() - begun)
    return seconds


def bench_clocks(scale: float) -> list[Result]:
    """Clock rows from events, a full rebuild, the next day's refreshes, writing changed slots to SQLite, and reads."""
    events = int(EVENTS * scale)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        hours = DAYS * 24
        store = write_log(settings, events // hours * (hours + DAY_HOURS), events // EVENTS_A_USER, hours + DAY_HOURS)
        until = START + hours
        rows, _ = in_own_process(rows_here, settings, until)
        seconds, memory = rebuild(settings.var, until)
        pandas = with_pandas(settings, store, events)
        refreshed = refreshes(settings, store, until)
        mean, slowest = float(np.mean(refreshed)), max(refreshed)
        features = ClockFeatures(settings, store)
        return [
            Result(
                "clock_rebuild",
                rows,
                "s",
                "pandas, the same rows, scaled from 5 M events",
                pandas,
                pandas / rows,
            ),
            Result("clock_rebuild_whole", seconds, "s", "the clock rows alone", rows, rows / seconds),
            Result("clock_rebuild_memory", memory, "GB", "the bar", 2.5, 2.5 / memory),
            Result("clock_refresh", mean, "s", "the rebuild; mean of 24 hours", seconds, seconds / mean),
            Result("clock_refresh_slowest", slowest, "s", "their mean", mean, mean / slowest),
            bench_materialize(features, until + DAY_HOURS),
            *bench_reads(features, until + DAY_HOURS),
        ]


def bench_materialize(features: ClockFeatures, hour: Hour) -> Result:
    """Write the changed slots of an hour to SQLite through Feast; the peer writes those users' complete clocks."""
    changed, online = features.changed("clock_slots", hour), Materialization(features)
    ours = timed(lambda: online.write_clock(changed, hour), 1)
    users = changed["user_id"].unique()
    all_slots = pa.concat_tables(t.filter(pc.is_in(t["user_id"], users)) for t in features.latest("clock_slots", hour))
    peer = timed(lambda: online.write_clock(all_slots, hour), 1)
    return Result("feast_materialize", ours, "s", f"all slots of the {len(users)} users", peer, peer / ours)


def bench_reads(features: ClockFeatures, hour: Hour) -> list[Result]:
    """Read the clock of one user and of 100; the peer is a Feast view with one row per (user, slot) and one feature per list."""
    users = sorted(features.changed("clock_slots", hour)["user_id"].unique().to_pylist())[:READ_USERS]
    rows = pa.concat_tables(
        t.filter(pc.is_in(t["user_id"], pa.array(users))) for t in features.latest("clock_slots", hour)
    )
    write_cells(features.store, "clock", encode_cells(rows, features.facets, features.settings), hour)
    by_slot = _by_slot(features, rows)
    rng = np.random.default_rng(2)
    settle()  # as the ranking service does after loading
    results = []
    for count, repeats in ((1, 400), (100, 60)):
        user_lists = [rng.choice(users, count, replace=False).tolist() for _ in range(repeats)]
        ours, peer = (_latencies(read, user_lists) for read in (lambda u: features.get_clock(u, hour), by_slot))
        for name, percentile in (("p50", 50), ("p99", 99)):
            a, b = (float(np.percentile(times, percentile)) * 1000 for times in (ours, peer))
            results.append(Result(f"feast_online_read_{count}_{name}", a, "ms", "a row a (user, slot)", b, b / a))
    return results


def _latencies(read: Any, user_lists: list[list[int]]) -> list[float]:
    read(user_lists[0])
    seconds = []
    for users in user_lists:
        begun = time.perf_counter()
        read(users)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _by_slot(features: ClockFeatures, rows: pa.Table) -> Any:
    """Write rows into a plain Feast view keyed by (user, slot); returns its reader."""
    from feast import FeatureView

    store, settings = features.store, features.settings
    plain = store.get_feature_view("clock_slots")
    view = FeatureView(
        name="by_slot", entities=[store.get_entity("user"), store.get_entity("slot")], schema=plain.schema,
        source=plain.batch_source, ttl=timedelta(days=60),
    )  # fmt: skip
    store.apply([view])
    store.write_to_online_store("by_slot", rows.to_pandas())
    names = [f"by_slot:{f.name}" for f in view.features]
    slots = range(settings.slots)

    def read(users: list[int]) -> Any:
        keys = [{"user_id": user, "slot": slot} for user in users for slot in slots]
        return store.get_online_features(features=names, entity_rows=keys).to_dict()

    return read


def bench_join(scale: float) -> Result:
    """Clocks of samples by Feast's point-in-time join, once per user and hour; pandas joins every sample, slot by slot."""
    events = int(SAMPLES * scale)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench", window_days=DAYS)
        store = write_log(settings, events, events // EVENTS_A_USER, DAYS * 24, session=SESSION)
        ClockState(settings, store).rebuild(START + DAYS * 24)
        features = ClockFeatures(settings, store)
        samples = pa.concat_tables(store.read(hour).select(["user_id", "timestamp"]) for hour in store.hours())
        hours = pc.divide(samples["timestamp"].cast(pa.int64()), 3600 * 1_000_000)
        samples = pa.table({"user_id": samples["user_id"], "hour": hours})
        references = features.references(TRAINING_SERVICE)["clock_slots"]

        def ours() -> int:
            keys = samples.group_by(["user_id", "hour"]).aggregate([])
            return int(features._join(features._with_known_slots(keys), "clock_slots", references).num_rows)

        def with_merge_asof() -> None:
            rows = pd.concat(pd.read_parquet(part) for part in features.clock.logs["clock_slots"].parts())
            rows = rows.sort_values("as_of")
            left = samples.to_pandas().sort_values("hour")
            for slot in range(settings.slots):
                of_slot = rows[rows["slot"] == slot]
                pd.merge_asof(left, of_slot, left_on="hour", right_on="as_of", by="user_id", tolerance=24 * (DAYS + 1))

        seconds, peer = timed(ours, 1), timed(with_merge_asof, 1)
    return Result("point_in_time_join", seconds, "s", "pandas merge_asof, slot by slot", peer, peer / seconds)


def bench_window(scale: float) -> list[Result]:
    """A day's refreshes, a quarter of the users: with a window of 90 days beside 30, and with users all over the world."""
    mean = {}
    for name, days, zones in (("30 days", 30, 1), ("90 days", 90, 1), ("world", 30, 24)):
        per_hour, hours = int(EVENTS / 4 * scale) // (30 * 24), days * 24
        with tempfile.TemporaryDirectory() as folder:
            settings = load_settings(var=Path(folder), source="bench", window_days=days)
            users = int(EVENTS / 4 / EVENTS_A_USER * scale)
            store = write_log(settings, per_hour * (hours + DAY_HOURS), users, hours + DAY_HOURS, zones=zones)
            rebuild(settings.var, START + hours, days)
            mean[name] = float(np.mean(refreshes(settings, store, START + hours)))
    here = mean["30 days"]
    return [
        Result("clock_refresh_90_days", mean["90 days"], "s", "30 days", here, here / mean["90 days"]),
        Result("clock_refresh_24_zones", mean["world"], "s", "one time zone", here, here / mean["world"]),
    ]
