"""What promotion compares with where there is no champion."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from pipeline.promotion import PopularityScores


def test_an_item_s_score_is_its_popularity_in_the_window_and_0_without_events(app_settings: Settings) -> None:
    store = EventStore(app_settings.events_dir)
    since = store.hours()[30]
    events = pa.concat_tables([store.read(hour) for hour in store.hours() if hour < since])
    items, finished = events["item_id"].to_numpy(), events["finish"].to_numpy(zero_copy_only=False)
    asked = pa.table({"item_id": [-7, *items[:50], 10**9], "score": np.zeros(52)})
    scores = PopularityScores(app_settings, since).of(asked)["score"].to_pylist()
    assert scores[0] == scores[-1] == 0
    assert scores[1:-1] == pytest.approx([finished[items == item].mean() for item in items[:50]])
    assert PopularityScores(app_settings, Hour(0)).of(asked)["score"].to_pylist() == [0] * 52
