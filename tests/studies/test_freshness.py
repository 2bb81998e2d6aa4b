"""The study of newer features: they are those that the lane would have put online."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from core.settings import load_settings
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from feature_repo.running import RunningHour
from studies.freshness import MINUTES, FreshRun, FreshTables
from studies.lab import Lab
from studies.log import hours_of, new_ranker
from studies.replay import Run
from training.config import load_ranker_config


@pytest.mark.slow
def test_newer_features_are_those_of_the_lane(small: Lab, tmp_path: Path) -> None:
    (log,) = small.logs()
    fresh = FreshTables(log)
    hours = [hour for hour, _ in hours_of(log)]
    hour = max(hours[len(hours) // 2 :], key=lambda h: fresh.events.manifest(h).rows)
    fresh.write([hour])
    settings = load_settings(var=tmp_path / "var", source="simulator")
    shutil.copytree(log.settings.events_dir, settings.events_dir)
    advance(settings, hour)
    events = fresh.events.read(hour)
    part = 60 // MINUTES // 2
    cut = pa.scalar(hour.start.replace(minute=part * MINUTES), events["timestamp"].type)
    rows = RunningHour(ClockFeatures(settings, EventStore(settings.events_dir))).rows(
        events.filter(pc.less(events["timestamp"], cut))
    )
    slots, profiles, history = (
        table.filter(pc.equal(table["part"], part))
        for table in (
            pq.read_table(fresh.root / hour.key / f"{name}.parquet") for name in ("slots", "profiles", "history")
        )
    )
    assert len(slots) > 3
    names = [name for name in rows.clocks.column_names if name != "event_timestamp"]
    pairs = [(r["user_id"], r["slot"]) for r in slots.to_pylist()]
    assert pairs == [(r["user_id"], r["slot"]) for r in rows.clocks.to_pylist()]
    assert slots.select(names).to_pylist() == rows.clocks.select(names).to_pylist()
    assert history.drop_columns("part").equals(rows.behaviors)
    ranker = new_ranker(load_ranker_config(log.settings, "matched_clock"), log.samples)
    plain, newer = dict(hours_of(log))[hour], fresh.keys(hour, ranker)
    assert np.array_equal(newer.items, plain.items)
    assert np.array_equal(newer.labels, plain.labels)
    first = plain.minutes % 60 < MINUTES
    assert np.array_equal(newer.dense[first], plain.dense[first])
    activity = dict(zip(*(rows.activity[n].to_pylist() for n in ("user_id", "events")), strict=True))
    at = (plain.minutes % 60 // MINUTES == part) & np.isin(plain.users, profiles["user_id"].to_numpy())
    assert at.any()
    told = np.expm1(newer.dense[at, 0].astype(np.float64) * 5)
    assert np.allclose(told, [activity[user] for user in plain.users[at]], rtol=1e-4)


@pytest.mark.slow
def test_a_ranker_that_is_served_newer_features_is_trained_as_always(small: Lab) -> None:
    (log,) = small.logs()
    fresh = FreshTables(log)
    fresh.write([hour for hour, _ in hours_of(log) if hour.number >= fresh.first])
    base = Run("gaussian_clock", 1)
    plain, served = (run.score(log) for run in (base, FreshRun(base, "served")))
    numbers = np.concatenate([np.full(len(keys), hour.number) for hour, keys in hours_of(log)])
    early = numbers < fresh.first
    assert np.array_equal(plain[early], served[early])
    assert not np.array_equal(plain[~early], served[~early])
