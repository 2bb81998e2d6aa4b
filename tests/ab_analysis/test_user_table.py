"""The user table and the daily series against a loop over the events, over random logs."""

from __future__ import annotations

import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.metrics import load_catalog
from ab_analysis.series import daily_points, drift, make_post_days
from ab_analysis.user_table import Counts, make_tables
from core.engine import engine
from core.errors import DataError
from core.hours import Hour
from core.settings import load_settings
from core.sql_engine import Engine
from events.schema import event_schema, exposure_schema
from tests.ab_analysis.helpers import sides

START = datetime(2026, 3, 6, tzinfo=UTC)
UNTIL = Hour.parse("2026-03-12T00")
ZONE = timedelta(hours=8)
BASE: dict[str, Any] = {
    "name": "test", "variants": {"a": 0.5, "b": 0.5}, "control": "a", "start": START, "pre_days": 4,
    "primary": ("active_days", "duration_hours"),
    "secondary": ("likes", "skips", "retained_day_1", "skip_rate", "heavy", "capped", "winsorised"),
    "metrics": {
        "heavy": {"of": "duration_hours", "at_least": 0.1},
        "capped": {"of": "plays", "cap": 3},
        "winsorised": {"of": "plays", "winsorise": 0.8},
    },
    "segments": {"habit": {"of": "active_days", "edges": [1, 2]}, "taste": {"top": "genre"}},
}  # fmt: skip

# (user, minutes from four days before the start, seconds played, like, skip, genre)
events = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 10 * 24 * 60 - 1), st.integers(0, 900), st.booleans(), st.booleans(),
              st.sampled_from(["rock", "jazz", None])),
    min_size=1, max_size=60,
)  # fmt: skip
# user → (variant, minutes from the start)
exposures = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["a", "b", "b", "a", "other"]), st.integers(-300, 6 * 24 * 60 - 1)),
    min_size=4,
    max_size=24,
)


def write_log(folder: Path, rows: list[Any], met: list[Any], experiment: str = "test") -> tuple[list[Path], list[Path]]:
    first = START - timedelta(days=4)
    schema = event_schema(["genre"])
    table = pa.Table.from_pylist(
        [
            {
                "event_id": str(n), "user_id": u, "item_id": 1, "timestamp": first + timedelta(minutes=m),
                "local_time": (first + timedelta(minutes=m) + ZONE).replace(tzinfo=None), "genre": g,
                "played_seconds": float(p), "duration_seconds": 900.0, "finish": p > 800, "like": like, "skip": skip,
                "dislike": False, "share": None,
            }
            for n, (u, m, p, like, skip, g) in enumerate(rows)
        ],
        schema=schema,
    )  # fmt: skip
    seen = pa.Table.from_pylist(
        [
            {"experiment": experiment, "variant": v, "user_id": u, "timestamp": START + timedelta(minutes=m)}
            for u, v, m in met
        ],
        schema=exposure_schema(),
    )
    pq.write_table(table, folder / "events.parquet")
    pq.write_table(seen, folder / "exposures.parquet")
    return [folder / "events.parquet"], [folder / "exposures.parquet"]


def plan_of(**changes: Any) -> ExperimentPlan:
    return ExperimentPlan(Experiment(**{**BASE, **changes}), load_catalog(), ("genre",))


def brute(rows: list[Any], met: list[Any], until: Hour = UNTIL) -> dict[int, dict[str, Any]]:
    """The users by a loop."""
    first = START - timedelta(days=4)
    log = [(u, first + timedelta(minutes=m), p, like, skip, g) for u, m, p, like, skip, g in rows]
    log = [e for e in log if e[1] < until.start]
    seen: dict[int, dict[str, datetime]] = {}
    for u, v, m in met:
        at = START + timedelta(minutes=m)
        if at < until.start:
            seen.setdefault(u, {})[v] = min(at, seen.get(u, {}).get(v, at))
    users = {}
    for u, variants in seen.items():
        known = {v: at for v, at in variants.items() if v in "ab"}
        if len(known) != 1 or min(variants.values()) < START:
            continue
        ((variant, exposed),) = known.items()
        after = [e for e in log if e[0] == u and e[1] >= exposed]
        before = [e for e in log if e[0] == u and e[1] < START]
        users[u] = {"variant": variant, "exposed": exposed, "after": after, "before": before}
        for suffix, events_of_side in (("", after), ("_pre", before)):
            users[u] |= {
                f"active_days{suffix}": len({(e[1] + ZONE).date() for e in events_of_side}),
                f"duration_hours{suffix}": sum(e[2] for e in events_of_side) / 3600,
                f"plays{suffix}": len(events_of_side),
                f"likes{suffix}": sum(e[3] for e in events_of_side),
                f"skips{suffix}": sum(e[4] for e in events_of_side),
                f"capped{suffix}": min(len(events_of_side), 3),
                f"heavy{suffix}": float(sum(e[2] for e in events_of_side) / 3600 >= 0.1),
            }
        days = sorted({(e[1] + ZONE).date() for e in after})
        start_day = days[0] if days else exposed.date()
        over = start_day + timedelta(days=1) <= (until.start - timedelta(hours=36)).date()
        users[u]["retained_day_1_eligible"] = float(over)
        users[u]["retained_day_1"] = float(over and start_day + timedelta(days=1) in days)
        users[u]["is_new"] = not before
        genres = [e[5] for e in before if e[5]]
        users[u]["taste"] = min(set(genres), key=lambda g: (-genres.count(g), g)) if genres else "none"
        n: Any = users[u]["active_days_pre"]
        users[u]["habit"] = "under 1" if n < 1 else "1 to under 2" if n < 2 else "2 or more"
    return users


def tables(
    db: Engine, folder: Path, rows: list[Any], met: list[Any], plan: ExperimentPlan, until: Hour = UNTIL
) -> Counts:
    log, seen = write_log(folder, rows, met)
    return make_tables(db, plan, until, events=log, exposures=seen)


@pytest.mark.slow
@hypothesis_settings(max_examples=40, deadline=None)
@given(events, exposures)
def test_the_user_table_is_what_a_loop_over_the_events_gives(rows: list[Any], met: list[Any]) -> None:
    expected = brute(rows, met)
    with tempfile.TemporaryDirectory() as name, engine(load_settings(var=Path(name) / "var")) as db:
        if not expected:
            return
        counts = tables(db, Path(name), rows, met, plan_of())
        users_by_id = {r["user_id"]: r for r in db.arrow("SELECT * FROM users").to_pylist()}
    assert set(users_by_id) == set(expected)
    for user, e in expected.items():
        for column in e.keys() - {"exposed", "before", "after"}:
            assert users_by_id[user][column] == pytest.approx(e[column]), (user, column)
    plays = [e["plays"] for e in expected.values()]
    cap = float(np.quantile(plays, 0.8))
    assert {u: r["winsorised"] for u, r in users_by_id.items()} == pytest.approx(
        {u: min(e["plays"], cap) for u, e in expected.items()}
    )
    assert counts.analyzed == {v: sum(e["variant"] == v for e in expected.values()) for v in "ab"}


@pytest.mark.slow
@hypothesis_settings(max_examples=25, deadline=None)
@example([(0, 0, 1, False, False, "rock"), (0, 5760, 1, False, False, "rock")], [0] * 8)  # the covariate explains all
@given(events, st.lists(st.integers(0, 4 * 24 * 60), min_size=8, max_size=8))
def test_the_series_of_every_day_is_a_table_built_for_that_day(rows: list[Any], offsets: list[int]) -> None:
    """Running sums against every user's values summed anew for each day."""
    met = [(u, "ab"[u % 2], m) for u, m in enumerate(offsets)]
    everybody = brute(rows, met)
    with tempfile.TemporaryDirectory() as name, engine(load_settings(var=Path(name) / "var")) as db:
        tables(db, Path(name), rows, met, plan_of())
        make_post_days(db, ("duration_hours",), UNTIL)
        points = daily_points(db, plan_of().experiment, "duration_hours", UNTIL)
    assert [p.day for p in points] == [
        d.date() for d in pd.date_range((START + timedelta(minutes=min(offsets))).date(), date(2026, 3, 11))
    ]
    for point in points:
        frame = []
        for e in everybody.values():
            if e["exposed"].date() <= point.day:
                days = [
                    (min(max((x[1] + ZONE).date(), e["exposed"].date()), (UNTIL - 1).day), x[2]) for x in e["after"]
                ]
                so_far, today = (
                    sum(p for d, p in days if keep(d)) / 3600 for keep in (point.day.__ge__, point.day.__eq__)
                )
                frame.append((e["variant"], so_far, today, e["duration_hours_pre"]))
        data = pd.DataFrame(frame, columns=["variant", "y", "d", "x"])
        assert point.users == tuple(int((data.variant == v).sum()) for v in "ab")
        for column, effect in (("y", point.so_far), ("d", point.daily)):
            if min(point.users) < 2:
                continue
            whole = compare(
                MetricSpec(column, column, covariates=("x",)), *sides(data, (column, "x")), 0.95, adjusted=True
            )
            widths = [e.se if e.known else 0.0 for e in (effect, whole)]
            if max(widths) > 1e-6:  # where a covariate explains everything, what is left is rounding
                assert effect.effect == pytest.approx(whole.effect, abs=1e-8)
                assert effect.se == pytest.approx(whole.se, rel=1e-5, abs=1e-8)


ROWS = [(u, 60 * h, 100 + u, h % 3 == 0, h % 5 == 0, "rock") for u in range(8) for h in range(0, 238, 3 + u)]
MET = [(u, "ab"[u % 2], 30 * u) for u in range(8)]


def test_users_are_left_out_and_counted_by_reason(tmp_path: Path) -> None:
    met = [*MET, (0, "b", 500), (1, "z", 500), (2, "a", -60)]
    with engine(load_settings(var=tmp_path)) as db:
        counts = tables(db, tmp_path, ROWS, met, plan_of())
    assert (counts.crossed, counts.unknown, counts.early) == (1, 1, 1)
    assert counts.assigned == {"a": 2, "b": 4}
    assert counts.analyzed == counts.assigned


def test_a_trigger_moves_the_exposure_to_the_first_event_that_meets_it(tmp_path: Path) -> None:
    with engine(load_settings(var=tmp_path)) as db:
        counts = tables(db, tmp_path, ROWS, MET, plan_of(trigger="local_hour BETWEEN 6 AND 9 AND genre = 'rock'"))
        seen = {r["user_id"]: r["exposure"] for r in db.arrow("SELECT * FROM seen").to_pylist()}
        plays = dict(db.rows("SELECT user_id, plays FROM users"))
    for u, e in brute(ROWS, MET).items():
        met = [x[1] for x in e["after"] if 6 <= (x[1] + ZONE).hour <= 9]
        assert seen.get(u) == (met[0] if met else None)
        if met:
            assert plays[u] == sum(x[1] >= met[0] for x in e["after"])
    assert sum(counts.analyzed.values()) == len(seen)


def test_a_population_is_chosen_by_what_was_known_before(tmp_path: Path) -> None:
    rows = [r for r in ROWS if r[0] != 3 or r[1] > 4 * 24 * 60]
    with engine(load_settings(var=tmp_path)) as db:
        counts = tables(db, tmp_path, rows, MET, plan_of(population="NOT is_new AND plays_pre >= 10"))
        users = {r[0] for r in db.rows("SELECT user_id FROM users")}
    expected = {u for u, e in brute(rows, MET).items() if e["plays_pre"] >= 10}
    assert users == expected
    assert 3 not in users
    assert sum(counts.assigned.values()) == 8


def test_two_experiments_that_share_users_unevenly_are_noticed(tmp_path: Path) -> None:
    rows, met = ROWS[:40], [(u, "ab"[u % 2], u) for u in range(400)]
    log, seen = write_log(tmp_path, rows, met)
    for name, variants in (("uneven", "xy"), ("even", "xxyy")):
        folder = tmp_path / name
        folder.mkdir()
        _, more = write_log(folder, rows, [(u, variants[u % len(variants)], u) for u in range(400)], name)
        seen += more
    with engine(load_settings(var=tmp_path)) as db:
        counts = make_tables(db, plan_of(), UNTIL, events=log, exposures=seen)
    assert counts.others["uneven"] < 1e-9
    assert counts.others["even"] > 0.5


def test_an_effect_that_fades_is_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows, met = [], []
    for u in range(300):
        treated = u % 2
        met.append((u, "ab"[treated], 0))
        for day in range(10):
            extra = 1.5 if treated and 4 <= day < 7 else 0
            rows += [
                (u, 1440 * day + int(m), 300, False, False, "rock")
                for m in rng.integers(0, 900, rng.poisson(2 + extra))
            ]
    with engine(load_settings(var=tmp_path)) as db:
        tables(db, tmp_path, rows, met, plan_of())
        make_post_days(db, ("duration_hours",), UNTIL)
        trend = drift(db, plan_of().experiment, "duration_hours", UNTIL)["b"]
    assert trend.effect < 0
    assert trend.p_value < 1e-6


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    rows = [(0, 6000, 100, False, False, "rock"), (1, 6000, 100, False, False, "rock")]
    log, seen = write_log(tmp_path, rows, MET)
    table = pq.read_table(log[0])
    at = table.column_names.index("played_seconds")
    broken = table.set_column(at, "played_seconds", pa.array([float("nan"), float("inf")]))
    pq.write_table(broken, log[0])
    with engine(load_settings(var=tmp_path)) as db, pytest.raises(DataError, match=r"duration_hours \(2 users\)"):
        make_tables(db, plan_of(segments={}), UNTIL, events=log, exposures=seen)


def test_a_day_is_a_users_own_day(tmp_path: Path) -> None:
    """23:00 UTC is the next day in a zone eight hours ahead."""
    rows = [(0, 4 * 1440 + 15 * 60, 10, False, False, None), (0, 4 * 1440 + 17 * 60, 10, False, False, None)]
    with engine(load_settings(var=tmp_path)) as db:
        tables(db, tmp_path, rows, [(0, "a", 0), (1, "b", 0)], plan_of(), Hour.of(START) + 24)
        assert db.rows("SELECT active_days FROM users ORDER BY user_id") == [(2.0,), (0.0,)]
        make_post_days(db, ("active_days",), Hour.of(START) + 24)
        assert db.rows("SELECT day FROM post_day")[0][0] == (date(2026, 3, 6) - date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("condition", "true_for"),
    [
        ("played_seconds / (played_seconds - 10) >= 0.9", {20}),
        ("(played_seconds - 10) / (played_seconds - 10) >= 0.9", {0, 20}),
        ("NOT (played_seconds / (played_seconds - 10) < 0.9)", {20}),
        ("item_id % (item_id - item_id) = 0", set()),
        ("exp(played_seconds * 100) > 1", set()),
        ("sqrt(played_seconds - 10) >= 0", {10, 20}),
        ("1 / ((played_seconds - 10) / (played_seconds - 10)) = 1", {0, 20}),
    ],
)
def test_what_is_not_finite_makes_no_condition_true(tmp_path: Path, condition: str, true_for: set[int]) -> None:
    """Of events with 0, 10 and 20 seconds; NaN is the largest number to DuckDB and to Spark."""
    rows = [(u, 6000 + n, 10 * n, False, False, None) for u in range(4) for n in range(3)]
    events, exposures = write_log(tmp_path, rows, [(u, "ab"[u % 2], 0) for u in range(4)])
    plan = plan_of(metrics={"m": {"count": condition}, "d": {"days": condition}}, secondary=("m", "d"))
    triggered = plan_of(trigger=condition)
    with engine(load_settings(var=tmp_path, source="test")) as db:
        make_tables(db, plan, UNTIL, events=events, exposures=exposures)
        assert db.rows("SELECT DISTINCT m, d FROM users") == [(len(true_for), float(bool(true_for)))]
    with engine(load_settings(var=tmp_path, source="test")) as db:
        counts = make_tables(db, triggered, UNTIL, events=events, exposures=exposures)
    assert sum(counts.analyzed.values()) == (4 if true_for else 0)
