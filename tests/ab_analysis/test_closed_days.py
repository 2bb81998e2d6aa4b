"""Looks that keep what closed days add, beside looks that read every event: the same to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.series import make_post_days
from ab_analysis.user_table import build_user_table, rows_to_read
from core.duck import connection
from core.duck_engine import DuckEngine
from core.engine import engine
from core.errors import DataError, NotReadyError
from core.hours import Hour
from core.settings import Settings, load_settings
from core.sql_engine import Engine
from events.schema import exposure_schema
from events.source_properties import SourceProperties
from events.store import EventStore
from tests.ab_analysis.test_user_table import START, UNTIL, plan_of

FIRST = START - timedelta(days=4)
ZONES = (-26, -11, 0, 8, 14, 26)
"""Hours from UTC; 26 is the most that a log can tell."""
TRIGGER = "local_hour BETWEEN 6 AND 9"
PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half a day later": {"start": START + timedelta(hours=11, minutes=30)},
    "triggered": {"trigger": TRIGGER, "segments": {}},
    "other metrics": {
        "primary": ("plays",), "secondary": ("finishes", "retained_day_2"), "segments": {"taste": {"top": "genre"}},
        "metrics": {"retained_day_2": {"retained": 2}},
    },
    "another name": {"name": "other", "population": "NOT is_new"},
    "no pre-period": {"pre_days": 0, "segments": {}},
}  # fmt: skip

HARMS = ("nothing", "nothing", "nothing", "index", "cut", "lost", "partitions")
GENRES = ("rock", "jazz", "folk", None)
LOOKS = 7


def random_rows(rng: np.random.Generator, number: int, first: int = 0) -> list[Any]:
    """Events: user, minutes from four days before the start, seconds played, like, genre, hours from UTC."""
    return [
        (
            int(rng.integers(0, 14)), int(rng.integers(first, 9 * 24 * 60)), int(rng.integers(0, 900)),
            bool(rng.random() < 0.3), GENRES[rng.integers(len(GENRES))], int(rng.choice(ZONES)),
        )
        for _ in range(number)
    ]  # fmt: skip


def random_exposures(rng: np.random.Generator, number: int) -> list[Any]:
    """Exposures: experiment, user, variant, minutes from the start; most users meet one variant only."""
    met = []
    for _ in range(number):
        user = int(rng.integers(0, 14))
        variant = "ab"[user % 2] if rng.random() < 0.9 else rng.choice(["a", "b", "z"])
        met.append((rng.choice(["test", "test", "other"]), user, variant, int(rng.integers(-60, 5 * 24 * 60))))
    return met


def open_store(root: Path) -> EventStore:
    store = EventStore(root)
    store.declare(SourceProperties("test", ("genre",), ("finish", "like", "skip"), None))
    return store


def ingest(store: EventStore, rows: Sequence[Any], met: Sequence[Any], batch: int) -> None:
    """Write rows into their hours, which may be closed already."""
    by_hour: dict[Hour, tuple[list[Any], list[Any]]] = {}
    for n, (user, minute, seconds, like, genre, zone) in enumerate(rows):
        moment = FIRST + timedelta(minutes=minute)
        by_hour.setdefault(Hour.of(moment), ([], []))[0].append(
            {
                "event_id": f"{batch}-{n}", "user_id": user, "item_id": 1, "timestamp": moment, "genre": genre,
                "local_time": (moment + timedelta(hours=zone)).replace(tzinfo=None), "played_seconds": seconds / 7,
                "duration_seconds": 900.0, "finish": seconds > 800, "like": like, "skip": seconds < 30,
                "dislike": False, "share": None,
            }
        )  # fmt: skip
    for experiment, user, variant, minute in met:
        moment = START + timedelta(minutes=minute)
        row = {"experiment": experiment, "variant": variant, "user_id": user, "timestamp": moment}
        by_hour.setdefault(Hour.of(moment), ([], []))[1].append(row)
    for hour, (events, exposures) in by_hour.items():
        store.merge(
            hour,
            pa.Table.from_pylist(events, schema=store.event_schema),
            pa.Table.from_pylist(exposures, schema=exposure_schema()),
        )


def tables(db: Engine, store: EventStore, plan: ExperimentPlan, until: Hour, kept: Path | None) -> Any:
    """Everything that an analysis reads: counts, users, and users' days; or why there is nothing to read."""
    try:
        counts = build_user_table(db, store, plan, until, kept=kept)
    except (NotReadyError, DataError) as error:
        return str(error)
    make_post_days(db, tuple(m for m in plan.experiment.primary if plan.metrics[m].additive), until)
    users, days = (db.arrow(f"SELECT * FROM {table} ORDER BY ALL").to_pylist() for table in ("users", "post_day"))
    return counts, users, days


@contextmanager
def both(settings: Settings) -> Iterator[tuple[Engine, Engine]]:
    with engine(settings) as kept, engine(settings) as whole:
        yield kept, whole


def damage(store: EventStore, root: Path, harm: str) -> None:
    items = sorted(root.glob("*/*/*.parquet"))
    if harm == "index" and (root / "index.json").exists():
        (root / "index.json").write_text("{", encoding="utf-8")
    if harm == "cut":
        for path in items[::3]:
            path.write_bytes(path.read_bytes()[:-9])
    if harm == "lost":
        for path in items[::2]:
            shutil.rmtree(path.parent)
    if harm == "partitions":
        for hour in store.hours()[:10]:
            shutil.rmtree(store.partition(hour))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_a_look_is_what_all_events_give(seed: int, tmp_path: Path) -> None:
    """Late events and exposures, looks back, edits, experiments that share days, damage, partitions that are removed."""
    rng = np.random.default_rng(seed)
    settings = load_settings(var=tmp_path, source="test")
    store = open_store(settings.events_dir)
    ingest(store, random_rows(rng, 150), random_exposures(rng, 25), 0)
    compared = 0
    for batch in range(1, LOOKS + 1):
        ingest(store, random_rows(rng, int(rng.integers(0, 12))), random_exposures(rng, int(rng.integers(0, 4))), batch)
        plan = plan_of(**PLANS[rng.choice([*PLANS, *["plain", "triggered"] * 3])])
        until = Hour.of(START) + int(rng.integers(10, 5 * 24))
        root = settings.experiment_days_dir / plan.experiment.name
        damage(store, root, rng.choice(HARMS))
        with both(settings) as (kept, whole):
            expected = tables(whole, store, plan, until, None)
            assert tables(kept, store, plan, until, root) == expected
        compared += not isinstance(expected, str)
    assert compared > LOOKS / 2


@pytest.fixture
def log(tmp_path: Path) -> tuple[Settings, EventStore]:
    rng = np.random.default_rng(1)
    settings = load_settings(var=tmp_path, source="test")
    store = open_store(settings.events_dir)
    ingest(store, random_rows(rng, 150), [("test", u, "ab"[u % 2], 60 * u) for u in range(12)], 0)
    return settings, store


def compare(log: tuple[Settings, EventStore], until: Hour = UNTIL, **changes: Any) -> Any:
    """The tables, after a look that keeps days was seen to give what all events give."""
    settings, store = log
    plan = plan_of(**changes)
    with both(settings) as (kept, whole):
        expected = tables(whole, store, plan, until, None)
        assert tables(kept, store, plan, until, settings.experiment_days_dir / "test") == expected
    return expected


def items(settings: Settings) -> dict[str, int]:
    """Kind and day of every item that holds what one day adds → the file that it is."""
    names = {path.parent: path.stat().st_ino for path in settings.experiment_days_dir.glob("test/*/*/*.parquet")}
    sums = {"spans", "recent", "all-exposures", "all-tastes"}
    return {
        f"{p.parent.name} {p.name[: len('2026-11-23')]}": ino for p, ino in names.items() if p.parent.name not in sums
    }


def changed(log: tuple[Settings, EventStore], before: dict[str, int]) -> set[str]:
    after = items(log[0])
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_a_late_event_lets_only_its_day_be_computed_again(log: tuple[Settings, EventStore]) -> None:
    compare(log)
    before = items(log[0])
    assert {name for name in before if name.startswith("days")} == {f"days 2026-03-{day:02d}" for day in range(2, 11)}
    ingest(log[1], [(3, 5 * 24 * 60, 60, True, "rock", 0)], [], 1)
    compare(log)
    assert changed(log, before) == {f"{kind} 2026-03-07" for kind in ("exposures", "arrivals", "days")}
    before = items(log[0])
    compare(log)
    assert changed(log, before) == set()


def test_a_late_exposure_touches_the_days_from_it_on(log: tuple[Settings, EventStore]) -> None:
    compare(log)
    before = items(log[0])
    ingest(log[1], [], [("test", 5, "b", 3 * 24 * 60)], 1)  # they met it earlier
    compare(log)
    assert changed(log, before) == {f"{kind} 2026-03-09" for kind in ("exposures", "arrivals", "days")}
    before = items(log[0])
    ingest(log[1], [], [("test", 13, "b", 3 * 24 * 60)], 2)
    compare(log)
    assert {name for name in changed(log, before) if name.startswith("days")} == {
        f"days 2026-03-{day:02d}" for day in range(9, 11)
    }


def test_an_edit_that_changes_no_value_of_a_user_computes_nothing_again(log: tuple[Settings, EventStore]) -> None:
    compare(log)
    before = items(log[0])
    edited: dict[str, Any] = {
        "confidence": 0.9,
        "segments": {"habit": {"of": "active_days", "edges": [3]}, "taste": {"top": "genre"}},
    }
    compare(log, **edited)
    assert changed(log, before) == set()
    compare(log, secondary=("finishes",))
    assert {name for name in changed(log, before) if name.startswith("days")} == {
        name for name in before if name.startswith("days")
    }


class Interrupted(DuckEngine):
    """Is interrupted after some items."""

    left = 20

    def write(self, sql: str, folder: Path) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().write(sql, folder)


def test_work_that_is_interrupted_goes_on_where_it_was(log: tuple[Settings, EventStore]) -> None:
    settings, store = log
    with connection(settings) as con, pytest.raises(KeyboardInterrupt):
        tables(Interrupted(con), store, plan_of(), UNTIL, settings.experiment_days_dir / "test")
    before = items(settings)
    assert len(before) == Interrupted.left
    compare(log)
    assert before.items() <= items(settings).items()


def test_values_that_are_no_numbers_are_refused_for_users_of_the_experiment_only(
    log: tuple[Settings, EventStore],
) -> None:
    ingest(log[1], [(99, minute, float("nan"), True, "rock", 0) for minute in (600, 6 * 24 * 60)], [], 1)
    assert not isinstance(compare(log), str)
    ingest(log[1], [(3, minute, float("nan"), True, "rock", 0) for minute in (600, 6 * 24 * 60)], [], 2)
    assert "duration_hours (1 users)" in compare(log)


def test_days_that_cannot_be_kept_are_read_from_the_events(
    log: tuple[Settings, EventStore], caplog: pytest.LogCaptureFixture
) -> None:
    ingest(log[1], [(3, 5 * 24 * 60, 60, True, "rock", -72)], [], 1)
    compare(log)
    assert "local times of 2026-03-07 are more than 2 days before UTC" in caplog.text
    settings, store = log
    plan = plan_of(metrics={"m": {"sum": "CAST(genre AS INT)"}}, secondary=("m",))
    with engine(settings) as db:
        refused = tables(db, store, plan, UNTIL, settings.experiment_days_dir / "test")
    assert "metric 'm', 'CAST(genre AS INT)', cannot be computed for an event" in refused


def test_a_look_reads_the_days_that_are_not_kept_and_the_users_that_are(log: tuple[Settings, EventStore]) -> None:
    settings, store = log
    plan, until, kept = plan_of(), UNTIL + 5, settings.experiment_days_dir / "test"
    events = {hour: store.count([hour]) for hour in store.hours() if hour < until}
    with engine(settings) as db:
        assert rows_to_read(db, store, plan, until, kept) == sum(events.values())
        tables(db, store, plan, until, kept)
        users = db.scalar(f"SELECT count(*) FROM read_parquet('{kept}/spans/*/*.parquet')")
        today = sum(n for hour, n in events.items() if hour >= UNTIL)
        assert rows_to_read(db, store, plan, until, kept) == today + users
    ingest(store, [(3, 5 * 24 * 60, 60, True, "rock", 0)], [], 1)
    with engine(settings) as db:
        since = sum(store.count([hour]) for hour in events if hour.day >= date(2026, 3, 7))
        assert rows_to_read(db, store, plan, until, kept) == since + users
    compare(log)
    other = plan_of(secondary=("finishes",))
    with engine(settings) as db:
        assert rows_to_read(db, store, other, until, kept) == sum(store.count([hour]) for hour in events) + users
