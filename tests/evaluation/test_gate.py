from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core.errors import ConfigError
from core.hours import Hour
from evaluation.gate import Scored, falls_behind, judge
from evaluation.gate_decision import GateDecision, ModelVersion
from evaluation.policy import Calibration, Guardrail, Margins, Policy, load_policy

START = Hour.parse("2026-03-02T10")
POLICY = Policy(min_hours=3, max_hours=6, min_samples=500, min_users=20)
CANDIDATE = ModelVersion("2", "gaussian_clock", START.key)
CHAMPION = ModelVersion("1", "hour_embedding", START.key)


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


def window(hours: int, ours: float, theirs: float) -> dict[Hour, Scored]:
    return {
        START + n: Scored(predictions(START + n, ours, 1), predictions(START + n, theirs, 2))
        for n in range(1, hours + 1)
    }


def test_a_better_candidate_is_promoted_with_a_sentence_that_says_why() -> None:
    decision = judge(POLICY, CANDIDATE, CHAMPION, window(4, 0.95, 0.3))
    assert decision.verdict == "promote", decision.reason
    assert "replaces hour_embedding (version 1): AUC +0." in decision.reason
    assert len(decision.hourly) == 4


def test_a_hopeless_candidate_is_turned_down_early_and_an_undecided_one_at_the_end() -> None:
    assert judge(POLICY, CANDIDATE, CHAMPION, window(4, 0.1, 0.9)).verdict == "keep"
    assert judge(POLICY, CANDIDATE, CHAMPION, window(4, 0.5, 0.5)).verdict == "wait"
    last = judge(POLICY, CANDIDATE, CHAMPION, window(6, 0.5, 0.5))
    assert last.verdict == "keep"
    assert "does not pass" in last.reason


def test_a_fresher_state_of_the_same_variant_need_only_not_be_worse() -> None:
    fresher = ModelVersion("3", "hour_embedding", START.key)
    policy = POLICY.model_copy(
        update={"same_variant": POLICY.another_variant.model_copy(update={"auc_margin": -0.2, "uauc_margin": -0.2})}
    )
    assert judge(policy, fresher, CHAMPION, window(6, 0.6, 0.6)).verdict == "promote"


def test_hours_that_a_version_was_trained_on_do_not_count() -> None:
    trained_later = ModelVersion("2", "gaussian_clock", (START + 3).key)
    decision = judge(POLICY, trained_later, CHAMPION, window(5, 0.9, 0.1))
    assert decision.verdict == "wait"
    assert decision.hours == ((START + 4).key, (START + 5).key)


def test_too_few_samples_wait_and_in_the_end_keep_the_champion() -> None:
    small = {
        h: Scored(s.candidate.slice(0, 50), s.reference.slice(0, 50))
        for h, s in window(6, 0.9, 0.4).items()
        if s.reference is not None
    }
    assert judge(POLICY, CANDIDATE, CHAMPION, dict(list(small.items())[:4])).verdict == "wait"
    assert judge(POLICY, CANDIDATE, CHAMPION, small).verdict == "keep"


@pytest.mark.parametrize("damage", ["nan", "one label", "other rows", "no champion rows", "other users"])
def test_a_broken_evaluation_never_promotes(damage: str) -> None:
    hours = window(4, 0.9, 0.4)
    first = START + 1
    ours, theirs = hours[first].candidate, hours[first].reference
    assert theirs is not None
    if damage == "nan":
        hours[first] = Scored(ours.set_column(3, "score", pa.array([float("nan")] * len(ours), pa.float32())), theirs)
    elif damage == "one label":
        zero = pa.array([0] * len(ours), pa.int8())
        hours = {
            h: Scored(s.candidate.set_column(2, "label", zero), s.reference.set_column(2, "label", zero))
            for h, s in hours.items()
            if s.reference is not None
        }
    elif damage == "other rows":
        hours[first] = Scored(ours, predictions(START + 99, 0.4, 2))
    elif damage == "other users":
        hours[first] = Scored(ours, theirs.set_column(1, "user_id", pa.array(range(len(theirs)))))
    else:
        hours[first] = Scored(ours, None)
    decision = judge(POLICY, CANDIDATE, CHAMPION, hours)
    assert decision.verdict == "refuse"
    assert decision.reason.startswith("The evaluation is broken")


def test_the_first_champion_has_to_beat_popularity() -> None:
    good = judge(POLICY, CANDIDATE, None, window(4, 0.95, 0.2))
    assert good.verdict == "promote"
    assert "against the popularity baseline" in good.reason
    assert judge(POLICY, CANDIDATE, None, window(6, 0.5, 0.5)).verdict == "keep"


@pytest.mark.parametrize(
    ("by", "column", "bad", "good", "named"),
    [
        ("local_hour", "local_hour", 8, 9, "local hour = 8"),
        ("facet", "facet_genre", "jazz", "rock", "genre = jazz"),
        ("facet_genre", "facet_genre", "jazz", None, "genre = jazz"),
        ("facet", "facet_genre", "spot_the_difference", "rock", "genre = spot the difference"),
    ],
)
def test_a_slice_that_gets_much_worse_stops_a_promotion(by: str, column: str, bad: Any, good: Any, named: str) -> None:
    """A candidate better in two thirds of the rows and no better than chance in the others."""
    policy = POLICY.model_copy(update={"guardrails": (Guardrail(by=by, max_drop=0.01, min_samples=100),)})
    hours = {}
    for n in range(1, 5):
        skilled, chance, theirs = (predictions(START + n, skill, 1, 3000) for skill in (0.95, 0.0, 0.3))
        worse = np.arange(3000) % 3 == 0
        score = np.where(worse, chance["score"].to_numpy(), skilled["score"].to_numpy())
        sliced = pa.array([bad if w else good for w in worse])
        ours = skilled.set_column(3, "score", pa.array(score)).append_column(column, sliced)
        hours[START + n] = Scored(ours, theirs)
    assert judge(POLICY, CANDIDATE, CHAMPION, hours).verdict == "promote"
    decision = judge(policy, CANDIDATE, CHAMPION, hours)
    assert decision.verdict == "keep"
    assert named in decision.reason


@pytest.mark.parametrize("metric", ["auc", "uauc", "gauc"])
def test_a_slice_of_one_user_is_not_judged(metric: Any) -> None:
    def alone(table: pa.Table) -> pa.Table:
        users = table["user_id"].to_numpy()
        return table.set_column(1, "user_id", pa.array(np.where(users % 6 == 0, 60, users))).append_column(
            "facet_genre", pa.array(np.where(users % 6 == 0, "rare", "usual"))
        )

    hours = window(4, 0.95, 0.3)
    policy = POLICY.model_copy(
        update={"guardrails": (Guardrail(by="facet", metric=metric, max_drop=0.01, min_samples=100),)}
    )
    of_one = {h: Scored(alone(s.candidate), alone(s.reference)) for h, s in hours.items() if s.reference is not None}
    decision = judge(policy, CANDIDATE, CHAMPION, of_one)
    assert decision.verdict == "promote", decision.reason
    assert [c.name for c in decision.checks if "where" in c.name] == [f"{metric} where genre = usual"]


@pytest.mark.parametrize("metric", ["auc", "uauc"])
@pytest.mark.parametrize("values", [[None], ["jazz", "rock"]])
def test_a_guardrail_of_which_no_slice_is_large_enough_holds(metric: Any, values: list[str | None]) -> None:
    def sliced(table: pa.Table) -> pa.Table:
        column = pa.array([values[n % len(values)] for n in range(len(table))], pa.string())
        return table.append_column("facet_genre", column)

    guardrail = Guardrail(by="facet", metric=metric, max_drop=0.01, min_samples=10**6)
    policy = POLICY.model_copy(update={"guardrails": (guardrail,)})
    hours = window(4, 0.95, 0.3)
    of_few = {h: Scored(sliced(s.candidate), sliced(s.reference)) for h, s in hours.items() if s.reference is not None}
    decision = judge(policy, CANDIDATE, CHAMPION, of_few)
    assert decision.verdict == "promote", decision.reason
    assert not [check for check in decision.checks if "where" in check.name]


def test_a_guardrail_on_a_column_that_is_not_there_promotes_nothing() -> None:
    policy = POLICY.model_copy(update={"guardrails": (Guardrail(by="facet_mood", max_drop=0.01),)})
    decision = judge(policy, CANDIDATE, CHAMPION, window(4, 0.95, 0.3))
    assert decision.verdict == "refuse"
    assert "slices by facet_mood" in decision.reason


def test_drift_and_the_policy_can_ask_for_a_person() -> None:
    hours = window(4, 0.95, 0.3)
    assert judge(POLICY, CANDIDATE, CHAMPION, hours, drift_share=0.9).verdict == "needs_person"
    assert judge(POLICY, CANDIDATE, CHAMPION, hours, drift_share=0.1).verdict == "promote"
    asks = POLICY.model_copy(update={"require_approval": True})
    assert judge(asks, CANDIDATE, CHAMPION, hours).verdict == "needs_person"


def test_a_candidate_that_is_too_old_is_not_promoted() -> None:
    decision = judge(POLICY, CANDIDATE, CHAMPION, window(4, 0.95, 0.3), now=START + 100)
    assert decision.verdict == "keep"
    assert "100 hours ago" in decision.reason


def test_a_badly_calibrated_candidate_is_not_promoted() -> None:
    hours = {
        h: Scored(
            s.candidate.set_column(3, "score", pa.array((s.candidate["score"].to_numpy() * 0.2).astype(np.float32))),
            s.reference,
        )
        for h, s in window(4, 0.95, 0.3).items()
    }
    decision = judge(POLICY, CANDIDATE, CHAMPION, hours)
    assert decision.verdict == "keep"
    assert "calibration error" in decision.reason


@pytest.mark.slow
def test_looking_every_hour_does_not_inflate_the_error() -> None:
    """Equal models, looked at in every hour from the 3rd to the 6th, 600 comparisons: at most 2.5 % promoted
    in truth; 4.5 % leaves more than three standard errors of room."""
    small = Policy(min_hours=3, max_hours=6, min_samples=100, min_users=20)
    promoted = 0
    for trial in range(600):
        at = START + 1000 * trial
        versions = ModelVersion("2", "a", at.key), ModelVersion("1", "b", at.key)
        hours = {
            at + n: Scored(predictions(at + n, 0.5, 1, 120), predictions(at + n, 0.5, 2, 120)) for n in range(1, 7)
        }
        for seen in range(3, 7):
            decision = judge(small, *versions, {h: hours[h] for h in list(hours)[:seen]})
            promoted += decision.verdict == "promote"
            if decision.verdict != "wait":
                break
    assert promoted / 600 <= 0.045


def test_a_champion_that_falls_behind_is_taken_back_only_beyond_doubt() -> None:
    policy = Policy(min_hours=1, max_hours=6, rollback_hours=4)
    assert falls_behind(policy, window(3, 0.1, 0.9)) is None
    assert "below its predecessor" in str(falls_behind(policy, window(6, 0.1, 0.9)))
    assert falls_behind(policy, window(6, 0.9, 0.1)) is None


@pytest.mark.slow
def test_hourly_looks_hardly_ever_take_an_equal_champion_back() -> None:
    """With a plain interval at each look some 8 of these 100 went back within a day."""
    policy, taken_back = Policy(min_hours=1, max_hours=6), 0
    for champion in range(100):
        hours = [START + 100 * champion + n for n in range(24)]
        day = {h: Scored(predictions(h, 0.5, 1, rows=40), predictions(h, 0.5, 2, rows=40)) for h in hours}
        looks = ({h: day[h] for h in hours[:n]} for n in range(policy.rollback_hours, 25))
        taken_back += any(falls_behind(policy, look) for look in looks)
    assert taken_back <= 2


@pytest.mark.parametrize(
    ("text", "message"), [("min_huors: 3\n", "min_huors"), ("{min_hours: 9, max_hours: 3}", "below min_hours")]
)
def test_a_typo_in_the_policy_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_policy(path)


def test_the_built_in_policy_is_valid() -> None:
    assert load_policy().guardrails


def with_scores(scored: Scored, ours: np.ndarray, theirs: np.ndarray) -> Scored:
    return Scored(*(scored.candidate.set_column(3, "score", pa.array(s)) for s in (ours, theirs)))


def test_the_policy_says_which_metrics_are_checked_and_all_are_shown() -> None:
    """A candidate whose scores fall by the hour: within an hour it ranks as well as before, over hours it does not."""
    sinking = {}
    for n, scored in enumerate(window(6, 0.9, 0.4).values(), 1):
        assert scored.reference is not None
        ours, theirs = (t["score"].to_numpy() for t in (scored.candidate, scored.reference))
        labels = scored.candidate["label"].to_numpy()
        keep = (labels == 1) == (
            np.arange(len(labels)) % 7 < n
        )  # more positives in later hours, which get lower scores
        sunk = (ours / n).astype(np.float32)
        sinking[START + n] = Scored(
            *(t.filter(pa.array(keep)) for t in (with_scores(scored, sunk, theirs).candidate, scored.reference))
        )
    verdicts = {}
    for checked in ("uauc", "session_auc"):
        margins = Margins(auc_margin=-1, **{f"{checked}_margin": 0.0})
        lenient = Calibration(max_error=1, ratio=(0.0, 9.0))
        policy = POLICY.model_copy(update={"another_variant": margins, "calibration": lenient})
        decision = judge(policy, CANDIDATE, CHAMPION, sinking)
        verdicts[checked] = decision.verdict
        names = {c.name for c in decision.checks if c.name.endswith("_difference")}
        assert names == {"auc_difference", f"{checked}_difference"}
        assert decision.figures is not None
        assert decision.figures.session_auc_difference is not None
        assert decision.figures.session_auc_difference.value > 0 > decision.figures.uauc_difference.value
    assert verdicts == {"uauc": "keep", "session_auc": "promote"}


def test_a_session_auc_that_is_asked_for_and_undefined_promotes_nothing() -> None:
    policy = POLICY.model_copy(update={"another_variant": Margins(auc_margin=0, session_auc_margin=-0.1)})
    alone = {}
    for hour, scored in window(6, 0.9, 0.4).items():
        assert scored.reference is not None
        requests = pa.array([f"r{n}" for n in range(600)])
        alone[hour] = Scored(scored.candidate.append_column("request_id", requests), scored.reference)
    decision = judge(policy, CANDIDATE, CHAMPION, alone)
    assert decision.verdict == "keep"
    assert decision.figures is not None
    assert decision.figures.session_auc_difference is decision.figures.candidate.session_auc is None


def test_a_decision_of_a_version_without_session_auc_is_read() -> None:
    content = json.loads(json.dumps(judge(POLICY, CANDIDATE, CHAMPION, window(6, 0.6, 0.2)).as_json()))
    del content["figures"]["session_auc_difference"], content["figures"]["candidate"]["session_auc"]
    del content["figures"]["rival"]["session_auc"]
    figures = GateDecision.from_json(content).figures
    assert figures is not None
    assert figures.session_auc_difference is figures.rival.session_auc is None


def test_a_policy_file_that_asks_for_auc_and_uauc_only_checks_these(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("another_variant: {auc_margin: 0.0, uauc_margin: -0.01}\n")
    assert load_policy(path).another_variant == Margins(auc_margin=0.0, uauc_margin=-0.01, session_auc_margin=None)
    path.write_text("min_hours: 4\n")
    assert load_policy(path).another_variant == Margins(auc_margin=0.0, uauc_margin=-0.01, session_auc_margin=None)


def test_a_decision_survives_its_json_form() -> None:
    hours = window(6, 0.6, 0.2)
    for champion in (CHAMPION, None):
        decision = judge(POLICY, CANDIDATE, champion, hours)
        assert decision.checks
        assert GateDecision.from_json(json.loads(json.dumps(decision.as_json()))) == decision
