"""Recent behaviors kept as state: whatever comes late or changes, they are what a scan of the log gives."""

from __future__ import annotations

import shutil
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.engine import engine
from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import load_settings
from events.schema import event_schema
from events.source_properties import SourceProperties
from events.store import EventStore
from feature_repo.behavior_state import KEPT_HOURS, BehaviorState, read_behaviors
from feature_repo.recent import last_before
from feature_repo.state import ClockStorage

START = Hour.parse("2026-03-02T00")
LENGTH, DAYS, USERS = 3, 3, 3
Event = tuple[int, int, int, bool]
"""Hour since ``START``, minute, user, whether they liked the item."""

event = st.tuples(
    st.integers(0, 95), st.integers(0, 59), st.integers(1, USERS), st.sampled_from([True, True, True, False])
)


def source(folder: Path) -> ClockStorage:
    settings = load_settings(var=folder / "var", source="test", history_length=LENGTH, history_days=DAYS)
    store = EventStore(settings.events_dir)
    store.declare(SourceProperties("test", ("genre",), ("like",), None))
    return ClockStorage(settings, store)


def write_hours(clock: ClockStorage, log: list[Event]) -> None:
    """Write every hour of a log whole, in the place of what it held."""
    by_hour = defaultdict(list)
    for event in log:
        by_hour[event[0]].append(event)
    schema = event_schema(["genre"])
    for hour, rows in by_hour.items():
        moments = [(START + hour).start + timedelta(minutes=minute) for _, minute, _, _ in rows]
        values = {
            "event_id": [f"{hour}-{n}" for n in range(len(rows))],
            "user_id": [user for *_, user, _ in rows],
            "item_id": [minute * 100 + n for n, (_, minute, *_) in enumerate(rows)],
            "timestamp": moments,
            "local_time": [moment.replace(tzinfo=None) for moment in moments],
            "like": [liked for *_, liked in rows],
        }
        columns = [pa.array(values.get(f.name, [None] * len(rows)), f.type) for f in schema]
        shutil.rmtree(clock.store.partition(START + hour), ignore_errors=True)
        clock.store.merge(START + hour, pa.table(columns, schema=schema))


def histories(clock: ClockStorage, as_of: Hour) -> tuple[pa.Table, pa.Table]:
    """At each hour of the day before: from the state, and from a scan."""
    hours = [at.number for at in hour_range(as_of - KEPT_HOURS, as_of + 1)]
    users = np.arange(1, USERS + 1)
    keys = pa.table({"user_id": np.repeat(users, len(hours)), "hour": np.tile(hours, USERS)})
    state = BehaviorState(clock)
    state.bring_to(as_of)
    with engine(clock.settings) as running:
        scanned = read_behaviors(clock, running, hour_range(START, as_of))
    reach = DAY_HOURS * DAYS
    return last_before(state.read(users), keys, LENGTH, reach), last_before(scanned, keys, LENGTH, reach)


@pytest.mark.slow
@given(
    st.lists(event, max_size=5) | st.lists(event, min_size=80, max_size=200), st.lists(event, min_size=3, max_size=30),
    st.lists(st.integers(1, 40), min_size=2, max_size=4), st.data(),
)  # fmt: skip
@hypothesis_settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_state_gives_the_histories_of_a_scan_at_each_hour_of_its_last_day(
    tmp_path_factory: pytest.TempPathFactory, log: list[Event], late: list[Event], steps: list[int], data: st.DataObject
) -> None:
    """The log grows by a few hours at a time; hours that were read get late events, and likes are taken back."""
    clock = source(tmp_path_factory.mktemp("state"))
    at = 0
    for step in steps:
        begun, at = at, at + step
        write_hours(clock, [e for e in log if begun <= e[0] < at])
        kept, scanned = histories(clock, START + at)
        assert kept.equals(scanned)
        arrived = [e for e in late if e[0] < at and data.draw(st.booleans())]
        log = [(*e[:3], e[3] and data.draw(st.booleans())) if e in log[::5] else e for e in log] + arrived
        write_hours(clock, [e for e in log if e[0] < at])
        kept, scanned = histories(clock, START + at)
        assert kept.equals(scanned)


LOG: list[Event] = [(n, n % 60, 1 + n % USERS, n % 4 > 0) for n in range(90)]


def test_a_damaged_file_is_written_again_from_the_log(tmp_path: Path) -> None:
    clock = source(tmp_path)
    write_hours(clock, LOG)
    histories(clock, START + 90)
    path = BehaviorState(clock).path
    path.write_bytes(b"x" * path.stat().st_size)
    kept, scanned = histories(clock, START + 90)
    assert kept.num_rows
    assert kept.equals(scanned)


def test_other_settings_write_the_state_again(tmp_path: Path) -> None:
    clock = source(tmp_path)
    write_hours(clock, LOG)
    histories(clock, START + 90)
    longer = ClockStorage(clock.settings.model_copy(update={"history_length": 5}), clock.store)
    state = BehaviorState(longer)
    state.bring_to(START + 90)
    reach = DAY_HOURS * DAYS
    now = pa.table({"user_id": [1, 2, 3], "hour": [(START + 90).number] * 3})
    assert [len(row) for row in last_before(state.read(np.arange(1, 4)), now, 5, reach)["items"].to_pylist()] == [5] * 3


def test_an_hour_reads_its_own_events_alone(tmp_path: Path) -> None:
    """Every older file is gone, and the state moves on."""
    clock = source(tmp_path)
    write_hours(clock, LOG)
    state = BehaviorState(clock)
    state.bring_to(START + 89)
    for hour in range(89):
        (clock.store.partition(START + hour) / "events.parquet").unlink()
    state.bring_to(START + 90)
    last = state.read(np.array([1 + 89 % USERS]))
    assert last["hours"].to_pylist()[-1] == (START + 89).number
