"""People who react: the same draws for every ranker, hour by hour, resumable; a better ranker keeps them longer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from core.settings import load_settings
from events.ingest import ingest
from events.store import EventStore
from simulation.app import App, Impressions
from simulation.config import SimulatorConfig
from simulation.log import AppLog
from simulation.truth import UserTotals, perfect_truth, taste_entropy
from simulation.visits import Slates, Visits, best, first_policy, perfect_policy, timeless_policy
from tests.conftest import NOW

CONFIG = SimulatorConfig(
    days=6, users=150, items=90, ids="number", drift=0.3, experiment={"start_day": 2},
    zones={"Asia/Shanghai": 0.6, "Asia/Kolkata": 0.2, "America/New_York": 0.2},
)  # fmt: skip
HOURS = 72


def equal(one: Impressions, other: Impressions) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Impressions))


def test_hours_hold_their_own_impressions_in_order_and_can_be_resumed_anywhere() -> None:
    app = App(CONFIG)
    whole = Visits(app, CONFIG.first_hour)
    stepped = Visits(app, CONFIG.first_hour)
    rank = perfect_policy(app)
    seen = 0
    for _ in range(HOURS):
        hour, shown = whole.next, whole.simulate_hour(rank)
        again = Visits(app, CONFIG.first_hour)
        again.restore(stepped.state())
        stepped = again
        assert equal(shown, stepped.simulate_hour(rank))
        assert (shown.moment >= hour.start.timestamp()).all()
        assert (shown.moment < (hour + 1).start.timestamp()).all()
        assert (np.diff(shown.moment) >= 0).all()
        seen += len(shown.user)
    assert seen > 3000


def test_a_start_in_the_middle_of_a_day_has_that_days_later_sessions_only() -> None:
    app = App(CONFIG)
    start = CONFIG.first_hour + 30
    visits = Visits(app, start)
    shown = visits.simulate_hour(first_policy(app))
    assert (shown.moment >= start.start.timestamp()).all()
    days = visits.planned_day
    assert dict(zip(app.zone_names, days.tolist(), strict=True)) == {
        "Asia/Shanghai": 1,
        "Asia/Kolkata": 1,
        "America/New_York": 1,
    }


def test_the_first_slate_meets_the_same_candidates_and_moods_under_every_ranker() -> None:
    app, asked = App(CONFIG), {}
    for name, policy in (("first", first_policy), ("perfect", perfect_policy)):
        slates: list[Slates] = []
        rank = policy(app)

        def watched(shown: Slates, rank=rank, slates=slates) -> np.ndarray:  # type: ignore[no-untyped-def]
            slates.append(shown)
            return rank(shown)

        visits = Visits(app, CONFIG.first_hour)
        for _ in range(12):
            visits.simulate_hour(watched)
        asked[name] = [s for s in slates if s.slate == 0]
        for s in slates:
            candidates_of_slates = [row[row >= 0] for row in s.candidates]
            assert all(len(np.unique(row)) == len(row) for row in candidates_of_slates)
            assert (app.release_day[s.candidates[s.candidates >= 0]] <= s.day.max()).all()
    assert len(asked["first"]) > 1
    pairs = list(zip(asked["first"], asked["perfect"], strict=True))
    assert all(np.array_equal(a.candidates, b.candidates) and np.array_equal(a.user, b.user) for a, b in pairs)


def test_no_item_comes_twice_in_a_session_and_attention_falls_with_the_position() -> None:
    app = App(CONFIG)
    visits = Visits(app, CONFIG.first_hour)
    rank = first_policy(app)
    parts = [visits.simulate_hour(rank) for _ in range(HOURS)]
    session, item, position = (np.concatenate([getattr(p, n) for p in parts]) for n in ("session", "item", "position"))
    assert len(np.unique(np.stack([session, item]), axis=1).T) == len(session)
    by_place = np.bincount(position % CONFIG.reaction.slate, minlength=CONFIG.reaction.slate)
    assert by_place[0] > by_place[4] > by_place[9]


def test_best_takes_the_highest_scores_and_no_absent_candidate() -> None:
    none = np.zeros(2)
    slates = Slates(none, none, 0, none, none, none, none, np.array([[5, -1, 7], [-1, -1, 2]]))
    shown = best(slates, np.array([[0.1, 9.0, 0.2], [1.0, 1.0, 0.0]]), 2)
    assert shown.tolist() == [[7, 5], [2, -1]]


@pytest.mark.slow
def test_a_perfect_clock_brings_people_back_and_keeps_them_longer() -> None:
    truth = perfect_truth(CONFIG.model_copy(update={"users": 600}))
    better, worse = truth["perfect_clock"], truth["first_policy"]
    assert better["duration_hours"]["rel_effect"] > 0.05  # type: ignore[index]
    assert better["active_days"]["rel_effect"] > 0  # type: ignore[index]
    assert worse["duration_hours"]["rel_effect"] < 0  # type: ignore[index]


def test_tastes_are_narrow_for_a_user_and_wide_for_everybody_and_drift() -> None:
    entropy = taste_entropy(CONFIG)
    for bits in entropy.values():
        assert max(bits["own"]) < min(bits["all"])
        assert min(bits["own"][9:22]) < min(bits["own"][3:5])
    app, user = App(CONFIG.model_copy(update={"days": 20})), np.arange(150)
    weeks = [np.stack([app.facet_taste(user, h, 0, day=d) for h in (8.0, 22.0)]) for d in (1, 8, 15)]
    moved = [np.abs(w - weeks[0]).max(axis=(0, 2)) > 0.5 for w in weeks]
    assert not moved[0].any()
    assert 0.1 < moved[1].mean() < moved[2].mean()


def test_a_quiet_holiday_brings_fewer() -> None:
    quiet = CONFIG.model_copy(
        update={"reaction": CONFIG.reaction.model_copy(update={"holidays": (1,), "holiday_activity": 0.3})}
    )
    counts = []
    for config in (CONFIG, quiet):
        app = App(config)
        visits = Visits(app, config.first_hour)
        shown = [visits.simulate_hour(timeless_policy(app)) for _ in range(48)]
        counts.append(sum(len(np.unique(s.user)) for s in shown[24:]))
    assert counts[1] < 0.7 * counts[0]


def test_the_whole_log_of_visits_is_ingested_and_totals_agree_with_it(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    config = CONFIG.model_copy(update={"dirt": CONFIG.dirt.model_copy(update={"damaged": 0.0})})
    log = AppLog(config, settings.workspace / "app", served=True)
    visits, totals = Visits(log.app, config.first_hour), UserTotals(log.app)
    rank = first_policy(log.app)
    for _ in range(30):
        hour, shown = visits.next, visits.simulate_hour(rank)
        first = log.write_visits(hour, shown).read_bytes()
        assert log.write_visits(hour, shown).read_bytes() == first
        totals.add(shown)
    account = ingest(str(log.prepare()), [str(log.root / "log")], settings, now=NOW)
    store = EventStore(settings.events_dir)
    assert account.rows_in == account.kept + account.duplicates
    finishes, seconds = 0, 0.0
    for hour in store.hours():
        events = store.read(hour)
        finishes += sum(events["finish"].to_pylist())
        seconds += sum(events["played_seconds"].to_pylist())
    # an item that was played to nine tenths counts as finished in the log
    assert finishes == pytest.approx(totals.values["finishes"].sum(), rel=0.01)
    assert seconds / 3600 == pytest.approx(totals.values["duration_hours"].sum())
