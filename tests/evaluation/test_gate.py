from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core.errors import ConfigError
from core.hours import Hour
from evaluation.gate import Contender, Policy, judge, load_policy

START = Hour.parse("2026-03-02T10")
POLICY = Policy(min_hours=3, max_hours=6, min_samples=500, min_users=20)
CANDIDATE = Contender("2", "gaussian_clock", START.key)
CHAMPION = Contender("1", "hour_embedding", START.key)


def predictions(hour: Hour, skill: float, seed: int = 0, rows: int = 600) -> pa.Table:
    """Predictions of an hour with more or less skill; the labels depend on the hour alone."""
    rng = np.random.default_rng([1, hour.number])
    users, signal = rng.integers(0, 60, rows), rng.normal(size=rows)
    labels = rng.uniform(size=rows) < 1 / (1 + np.exp(-signal))
    noise = np.random.default_rng([2, seed, hour.number]).normal(size=rows)
    return pa.table(
        {
            "event_id": [f"{hour.number}-{n}" for n in range(rows)],
            "user_id": users,
            "label": labels.astype(np.int8),
            "score": (1 / (1 + np.exp(-(skill * signal + (1 - skill) * noise)))).astype(np.float32),
        }
    )


def window(hours: int, ours: float, theirs: float) -> dict[Hour, tuple[pa.Table, pa.Table | None]]:
    return {
        START + n: (predictions(START + n, ours, 1), predictions(START + n, theirs, 2)) for n in range(1, hours + 1)
    }


def test_a_better_candidate_is_promoted_with_a_sentence_that_says_why() -> None:
    decision = judge(POLICY, CANDIDATE, CHAMPION, window(4, 0.9, 0.4))
    assert decision.verdict == "promote"
    assert "replaces hour_embedding (version 1): AUC +0." in decision.reason


def test_a_worse_or_equal_candidate_is_kept_out() -> None:
    for skill in (0.2, 0.5):
        decision = judge(POLICY, CANDIDATE, CHAMPION, window(4, skill, 0.5))
        assert decision.verdict == "keep"
        assert "stays" in decision.reason


def test_hours_that_a_version_was_trained_on_do_not_count() -> None:
    trained_later = Contender("2", "gaussian_clock", (START + 3).key)
    decision = judge(POLICY, trained_later, CHAMPION, window(5, 0.9, 0.1))
    assert decision.verdict == "wait"
    assert decision.hours == ((START + 4).key, (START + 5).key)


def test_too_few_samples_wait_and_in_the_end_keep_the_champion() -> None:
    small = {h: (a.slice(0, 50), b.slice(0, 50)) for h, (a, b) in window(6, 0.9, 0.4).items() if b is not None}
    assert judge(POLICY, CANDIDATE, CHAMPION, dict(list(small.items())[:4])).verdict == "wait"
    assert judge(POLICY, CANDIDATE, CHAMPION, dict(small)).verdict == "keep"


@pytest.mark.parametrize("damage", ["nan", "one label", "other rows", "no champion rows"])
def test_a_broken_evaluation_never_promotes(damage: str) -> None:
    hours = window(4, 0.9, 0.4)
    first = START + 1
    ours, theirs = hours[first]
    if damage == "nan":
        hours[first] = (ours.set_column(3, "score", pa.array([float("nan")] * len(ours), pa.float32())), theirs)
    elif damage == "one label":
        zero = pa.array([0] * len(ours), pa.int8())
        hours = {
            h: (a.set_column(2, "label", zero), b.set_column(2, "label", zero))
            for h, (a, b) in hours.items()
            if b is not None
        }
    elif damage == "other rows":
        hours[first] = (ours, predictions(START + 99, 0.4, 2))
    else:
        hours[first] = (ours, None)
    decision = judge(POLICY, CANDIDATE, CHAMPION, hours)
    assert decision.verdict == "refuse"
    assert decision.reason.startswith("The evaluation is broken")


def test_the_first_champion_has_to_beat_chance() -> None:
    good = {h: (a, None) for h, (a, _) in window(4, 0.9, 0.4).items()}
    chance = {h: (predictions(h, 0.0, 1), None) for h in good}
    assert judge(POLICY, CANDIDATE, None, dict(good)).verdict == "promote"
    assert judge(POLICY, CANDIDATE, None, dict(chance)).verdict == "keep"


def test_equal_models_are_hardly_ever_promoted() -> None:
    """Under no difference a promotion needs the AUC interval above 0: 2.5 % of looks; here 400 looks."""
    small = Policy(min_hours=3, max_hours=6, min_samples=100, min_users=20)
    promoted = 0
    for trial in range(400):
        hours = {
            START + n: (
                predictions(START + 1000 * trial + n, 0.5, 1, 150),
                predictions(START + 1000 * trial + n, 0.5, 2, 150),
            )
            for n in (1, 2, 3)
        }
        promoted += judge(small, CANDIDATE, CHAMPION, dict(hours)).verdict == "promote"
    assert promoted / 400 <= 0.05


def test_a_typo_in_the_policy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("min_huors: 3\n")
    with pytest.raises(ConfigError, match="min_huors"):
        load_policy(path)
