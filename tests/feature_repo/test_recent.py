"""Recent behaviors: against a loop over the log, and the same online after hourly steps and late events."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from core.settings import Settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.recent import LISTS, recent_behaviors
from feature_repo.retrieval import ClockFeatures
from tests.feature_repo.test_clock import START
from tests.feature_repo.test_stores import CUT, filled, stores

__all__ = ["stores"]
LENGTH = 7


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    chosen = request.getfixturevalue("stores") if request.param == "redis" else {}
    return filled(tmp_path_factory.mktemp("recent"), history_length=LENGTH, history_days=2, **chosen)


def by_a_loop(settings: Settings, user: int, hour: int) -> list[tuple[int, int, int]]:
    """(item, local minute, UTC hour) of the last liked or finished events of the two days before the hour."""
    store = EventStore(settings.events_dir)
    rows = [r for h in store.hours() for r in store.read(h).to_pylist() if r["user_id"] == user]
    behaviors = []
    for r in sorted(rows, key=lambda r: (r["timestamp"], r["item_id"])):
        at = int(r["timestamp"].timestamp()) // 3600
        score = sum(w * bool(r[b]) for b, w in settings.score_weights.items())
        if score > 0 and hour - 48 <= at < hour:
            minutes = pd.Timestamp(r["local_time"]).value // 60_000_000_000
            behaviors.append((r["item_id"], minutes, at))
    return behaviors[-LENGTH:]


@pytest.mark.slow
def test_histories_are_the_last_good_events_before_the_hour(settings: Settings) -> None:
    clock = ClockState(settings, EventStore(settings.events_dir))
    hours = [START.number + n for n in (1, 20, 47, CUT, CUT + 3)]
    keys = pa.table({"user_id": np.repeat([1, 2, 3, 4, 99], len(hours)), "hour": np.tile(hours, 5)})
    histories = {(r["user_id"], r["hour"]): r for r in recent_behaviors(clock, keys).to_pylist()}
    seen = 0
    for user, hour in zip(keys["user_id"].to_pylist(), keys["hour"].to_pylist(), strict=True):
        expected = by_a_loop(settings, user, hour)
        row = histories.get((user, hour), {name: [] for name in LISTS})
        assert list(zip(row["items"], row["minutes"], row["hours"], strict=True)) == expected
        seen += len(expected) == LENGTH
    assert seen > 3


@pytest.mark.slow
def test_online_histories_are_the_offline_ones_after_hourly_steps_and_late_events(settings: Settings) -> None:
    at = START + CUT + 3
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    users = [4, 99, 1, 2, 3]
    offline = features.historical(pa.table({"user_id": users, "hour": [at.number] * 5})).history
    online = features.online(users, at).history
    assert online.num_rows == 4
    assert online.equals(offline)


def test_a_history_ends_in_the_online_store_too(settings: Settings) -> None:
    """Nothing is written while a user is away; what is too old is left out when it is read."""
    later = START + CUT + 40
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    offline = recent_behaviors(features.clock, pa.table({"user_id": [1, 2, 3, 4], "hour": [later.number] * 4}))
    online = features.online([1, 2, 3, 4], later).history
    kept = {r["user_id"]: r["items"] for r in offline.to_pylist()}
    assert {r["user_id"]: r["items"] for r in online.to_pylist()} == kept
    assert sum(map(len, kept.values())) < 4 * LENGTH
