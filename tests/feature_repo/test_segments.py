"""A segment's clock is everybody's clock of a log that has the segment's users only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.segments import MOST_VALUES, SegmentClock, segment_clocks
from tests.conftest import NOW, write_mapping

START, HOURS = Hour.parse("2026-03-02T00"), 60
UNTIL = START + HOURS
RARE = (1, 2, 3, 4)
"""Users of a device that too few have for a segment."""
USERS = "users: {path: users.csv, key: uid, attributes: {device: device, visits: {column: visits, type: number}, plan: plan, city: city}}\n"


def log_of(rows: int = 900) -> pd.DataFrame:
    """Users 1 to 80, of whom the first ones do much more than the last ones."""
    rng = np.random.default_rng(3)
    at = pd.Timestamp(START.start) + pd.to_timedelta(np.sort(rng.integers(0, HOURS * 3600, rows)), unit="s")
    user = np.minimum(rng.geometric(0.04, rows), 80)
    return pd.DataFrame(
        {
            "uid": user, "track": rng.integers(1, 30, rows), "ts": [t.isoformat() for t in at], "length": 100,
            "played": rng.choice([100, 50, 3], rows), "genre": rng.choice(["rock", "jazz", "folk", "soul", "pop"], rows),
        }
    )  # fmt: skip


def workspace(folder: Path, log: pd.DataFrame, *, refreshed: int = 0) -> Settings:
    """Clocks of a log; the last hours of them come by refreshes, so that the sums have deltas."""
    folder.mkdir()
    log.to_csv(folder / "log.csv", index=False)
    users = pd.DataFrame({"uid": range(1, 81), "visits": range(1, 81), "plan": "free"})
    users["device"] = ["car" if n in RARE else ["phone", "tv"][n % 2] for n in users["uid"]]
    users["city"] = [f"city-{n % (MOST_VALUES + 1)}" for n in users["uid"]]
    users.to_csv(folder / "users.csv", index=False)
    settings = load_settings(var=folder / "var", source="test")
    mapping = write_mapping(folder, USERS)
    ingest(str(mapping), [str(folder / "log.csv")], settings, now=NOW, close=(START, UNTIL))
    clock = ClockState(settings, EventStore(settings.events_dir))
    clock.rebuild(UNTIL - refreshed, history=False)
    for hour in range(refreshed):
        clock.refresh(UNTIL - refreshed + hour + 1)
    return settings


def everybody(settings: Settings) -> pa.Table:
    (part,) = ClockState(settings, EventStore(settings.events_dir)).logs["population_clock"].parts()
    return pq.read_table(part).sort_by("slot")


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    return log_of()


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory, log: pd.DataFrame) -> dict[str, SegmentClock]:
    settings = workspace(tmp_path_factory.mktemp("segments") / "all", log, refreshed=3)
    clocks = segment_clocks(settings, EventStore(settings.events_dir))
    return {clock.name: clock for clock in clocks}


def test_segments_are_by_activity_and_by_attributes_that_have_a_few_values(
    segments: dict[str, SegmentClock], log: pd.DataFrame
) -> None:
    counts = log["uid"].value_counts()
    kinds = {name: clock.users for name, clock in segments.items()}
    assert list(kinds) == ["everybody", "light users", "regular users", "heavy users", "device: phone", "device: tv"]
    assert kinds["everybody"] == len(counts)
    assert kinds["light users"] + kinds["regular users"] + kinds["heavy users"] == len(counts)
    assert kinds["device: phone"] == sum(user % 2 == 0 and user not in RARE for user in counts.index)


@pytest.mark.parametrize("name", ["everybody", "device: phone", "light users", "heavy users"])
def test_a_segments_clock_is_everybodys_clock_of_a_log_of_its_users(
    segments: dict[str, SegmentClock], log: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    clock = segments[name]
    counts = log["uid"].value_counts()
    members = {
        "everybody": counts.index, "device: phone": [user for user in counts.index if user % 2 == 0 and user not in RARE],
        "light users": counts.index[counts <= np.quantile(counts, 0.5, method="lower")],
        "heavy users": counts.index[counts > np.quantile(counts, 0.9, method="lower")],
    }[name]  # fmt: skip
    assert 0 < len(members) == clock.users
    alone = everybody(workspace(tmp_path / "alone", log[log["uid"].isin(members)]))
    columns = [c for c in alone.column_names if c not in {"as_of", "event_timestamp"}]
    rows = clock.rows.sort_by("slot").select(columns).to_pylist()
    assert rows == [row for row in alone.select(columns).to_pylist() if row["events"]]
    assert sum(row["events"] for row in rows) == sum(log["uid"].isin(members))
