"""The study of UAUC: the bias where the truth is known, and the gate on candidates whose worth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.settings import Settings
from evaluation.metrics import session_auc, uauc
from studies import uauc as study
from studies.uauc import CASES, CHECKS, Impressions, RankerSpec, World

WEEK = World(users=600, hours=24 * 7, visit_chance=0.04, shown=2)


def test_a_users_own_past_rate_ranks_nothing_within_sessions_and_has_a_uauc_far_below_a_half() -> None:
    seen = Impressions.draw(WEEK, np.random.default_rng(1))
    follows = seen.predictions(seen.running_rate)
    assert session_auc(follows).value == 0.5
    assert uauc(follows).interval()[1] < 0.4
    constant = seen.predictions(1 / (1 + np.exp(-seen.user_logit)))
    assert session_auc(constant).value == uauc(constant).value == 0.5


def test_following_the_users_rate_costs_uauc_what_it_does_not_cost_session_auc() -> None:
    """The same guess of the items' appeal, with and without the user's rate so far."""
    rng = np.random.default_rng(2)
    seen = Impressions.draw(WEEK, rng)
    without, following = (
        seen.predictions(seen.scores(RankerSpec(0.5, user), np.random.default_rng(3))) for user in ("none", "running")
    )
    gaps = {metric: metric(following) - metric(without) for metric in (uauc, session_auc)}
    assert gaps[uauc].interval()[1] < -0.05
    assert gaps[session_auc].value == pytest.approx(0, abs=1e-12)


def test_running_rates_know_nothing_of_the_hour_that_they_score() -> None:
    """An oracle that counts row by row."""
    seen = Impressions.draw(World(users=20, hours=40, visit_chance=0.3, shown=3), np.random.default_rng(4))
    usual = study._mean_rate(np.array([study.MEAN_LOGIT]))[0]
    for row in range(0, len(seen.user), 17):
        before = (seen.user == seen.user[row]) & (seen.hour < seen.hour[row])
        expected = (seen.label[before].sum() + study.PRIOR * usual) / (before.sum() + study.PRIOR)
        assert seen.running_rate[row] == pytest.approx(expected)


@pytest.mark.slow
def test_the_study_writes_its_figures_and_continues_where_it_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "BIAS_WORLD", World(users=200, hours=0, visit_chance=0.04, shown=2))
    monkeypatch.setattr(study, "TRUTH_WORLD", World(users=2000, hours=8, visit_chance=0.3, shown=6, history=9))
    monkeypatch.setattr(study, "GATE_WORLD", World(users=250, hours=8, visit_chance=0.3, shown=6, history=9))
    monkeypatch.setattr(study, "CASES", (CASES[1], CASES[4]))
    conclusion, page = study.run(settings, replications=4)
    results = json.loads((Path(page).parent / "results.json").read_text())
    better, worse = (results["gate"][case.title] for case in (CASES[1], CASES[4]))
    assert (better["deserved"], worse["deserved"]) == (True, False)
    assert better["promoted"]["session AUC"] > 0
    assert set(worse["promoted"]) == set(CHECKS)
    assert "session AUC of 0.500" in conclusion
    first = Path(page).read_bytes()
    monkeypatch.setattr(study, "promotions", lambda *_: pytest.fail("computed again"))
    study.run(settings, replications=4)
    assert Path(page).read_bytes() == first
