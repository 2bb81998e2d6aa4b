"""What is decided of several treatments."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import pytest

from ab_analysis.decision import ExperimentDecision, decide
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import load_catalog
from ab_analysis.results import MetricResult
from core.hours import Hour

SERVED = {
    "name": "arms", "variants": {"now": 2, "a": 1, "b": 1}, "control": "now", "start": "2026-03-02", "end": "2026-03-15",
    "primary": ("likes",), "secondary": (), "guardrails": {"skip_rate": {"max_worse": 0.02}},
    "models": {"now": "champion", "a": "challenger", "b": "candidate"}, "automatic_stop": True,
}  # fmt: skip
RUNNING, END = Hour.parse("2026-03-08T00"), Hour.parse("2026-03-16T00")
UP, DOWN, OPEN = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
HOLDS, BROKEN = (-0.01, 0.01), (0.05, 0.15)


def row(metric: str, variant: str, role: str, interval: tuple[float, float]) -> MetricResult:
    """The row that decides; control 1, so that the effect is the lift."""
    effect = sum(interval) / 2
    return MetricResult(
        metric, variant, role, "welch", headline=True, n_control=100, n_treatment=100, control=1.0, treatment=1 + effect,
        effect=effect, effect_ci=interval, rel_effect=effect, rel_effect_ci=interval, adjusted_ci=interval,
        adjusted_effect_ci=interval, p_value=0.1, p_adjusted=0.1, variance_reduction=0.0, detectable=0.1, power=math.nan,
    )  # fmt: skip


def decided(
    a: tuple[float, float],
    b: tuple[float, float],
    skips_of_b: tuple[float, float] = HOLDS,
    until: Hour = RUNNING,
    **keys: Any,
) -> ExperimentDecision:
    plan = ExperimentPlan(Experiment(**{**SERVED, **keys}), load_catalog(), ())
    likes = [row("likes", "a", "primary", a), row("likes", "b", "primary", b)]
    skips = [row("skip_rate", "a", "guardrail", HOLDS), row("skip_rate", "b", "guardrail", skips_of_b)]
    return decide(plan, [*likes, *skips], [], until)


@pytest.mark.parametrize(("a", "other"), [(OPEN, "keep running"), (UP, "ship"), (DOWN, "stop")])
def test_one_harmful_treatment_is_the_verdict_where_an_experiment_stops_by_itself(
    a: tuple[float, float], other: str
) -> None:
    decision = decided(a, (-0.25, -0.05))
    assert (decision.verdict, decision.variant) == ("stop", "b")
    assert decision.sentence == f"b: Stop: likes down -15.00% (-25.00% to -5.00%). Others: a: {other}."


def test_a_guardrail_that_one_treatment_breaks_is_enough() -> None:
    decision = decided(UP, UP, skips_of_b=BROKEN)
    assert decision.sentence == "b: Stop: guardrail skip rate is worse by more than its margin. Others: a: ship."


def test_elsewhere_and_at_the_end_the_best_treatment_is_the_verdict_and_the_harmful_one_is_named() -> None:
    for decision in (decided(UP, DOWN, automatic_stop=False), decided(UP, DOWN, until=END)):
        assert (decision.verdict, decision.variant) == ("ship", "a")
        assert decision.sentence.endswith("Others: b: stop.")
        assert decision.harmful == ("b",)
    assert decided(UP, DOWN, until=END - 1).verdict == "stop"
    assert decided(UP, DOWN, until=END, end=date(2026, 3, 20)).verdict == "stop"
    assert decided(OPEN, OPEN).verdict == "keep_running"
    assert decided(OPEN, OPEN).harmful == ()
