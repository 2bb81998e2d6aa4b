"""The decision in one sentence, from checks, primary metrics and guardrails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ab_analysis.checks import ExperimentCheck
from ab_analysis.experiment import ExperimentPlan
from ab_analysis.results import MetricResult
from core.hours import Hour

Verdict = Literal["ship", "stop", "keep_running", "no_effect", "person", "no_conclusion"]


@dataclass(frozen=True)
class ExperimentDecision:
    """What to do.

    Attributes:
        verdict: ``ship`` (a primary metric is better, none is worse, guardrails hold), ``stop`` (a primary metric is
            worse or a guardrail is broken), ``keep_running``, ``no_effect`` (the end is reached and nothing was found),
            ``person`` (better, but a guardrail is undecided at the end), ``no_conclusion`` (a check failed).
        variant: the treatment that is meant, where one is.
        sentence: why.
    """

    verdict: Verdict
    sentence: str
    variant: str | None = None


def decide(
    plan: ExperimentPlan, results: Sequence[MetricResult], checks: Sequence[ExperimentCheck], until: Hour
) -> ExperimentDecision:
    """Read the headline rows under the stopping rule.

    Everything rests on the absolute effects and their direction, so that a metric may be negative or around 0.
    """
    if failed := [c for c in checks if c.level == "fail"]:
        return ExperimentDecision("no_conclusion", f"No conclusion: {failed[0].text}")
    experiment = plan.experiment
    rows = [r for r in results if r.headline]
    ended = experiment.end_hour is not None and until >= experiment.end_hour
    decisions = [_of_variant(plan, v, [r for r in rows if r.variant == v], ended=ended) for v in experiment.treatments]
    order: list[Verdict] = ["ship", "person", "keep_running", "stop", "no_effect"]
    best = min(decisions, key=lambda d: (order.index(d.verdict), -_gain_of(plan, d, rows)))
    if len(decisions) == 1:
        return best
    others = "; ".join(f"{d.variant}: {d.verdict.replace('_', ' ')}" for d in decisions if d is not best)
    return ExperimentDecision(best.verdict, f"{best.variant}: {best.sentence} Others: {others}.", best.variant)


def _gain_of(plan: ExperimentPlan, decision: ExperimentDecision, rows: Sequence[MetricResult]) -> float:
    first = plan.experiment.primary[0]
    return next((_gain(plan, r) for r in rows if r.variant == decision.variant and r.metric == first), 0.0)


def _gain(plan: ExperimentPlan, result: MetricResult) -> float:
    """Effect, positive where it is for the better; every variant's is against the same control."""
    sign = 1 if plan.metrics[result.metric].better == "up" else -1
    return sign * result.effect if math.isfinite(result.effect) else 0.0


def side(plan: ExperimentPlan, result: MetricResult) -> int:
    """1: shown to be better, −1: shown to be worse, 0: neither, under the stopping rule and for all comparisons."""
    if result.adjusted_effect_ci is None:
        return 0
    low, high = result.adjusted_effect_ci
    up = 1 if low > 0 else -1 if high < 0 else 0
    if plan.experiment.stopping.rule == "fixed" and result.role == "primary":
        # Holm is more powerful than the simultaneous interval, and holds the same error.
        up = int(math.copysign(1, result.effect)) if result.p_adjusted < 1 - plan.experiment.confidence else 0
    return up if plan.metrics[result.metric].better == "up" else -up


def guardrail_state(plan: ExperimentPlan, result: MetricResult) -> Literal["holds", "broken", "undecided"]:
    """Where the interval of a guardrail's harm lies against its margin, both in the metric's unit.

    The margin is ``max_worse`` of the control's size, |control|; with 0 any harm that is shown breaks it.
    """
    if result.adjusted_effect_ci is None or not all(map(math.isfinite, result.adjusted_effect_ci)):
        return "undecided"
    low, high = result.adjusted_effect_ci
    least, most = (-high, -low) if plan.metrics[result.metric].better == "up" else (low, high)
    margin = plan.experiment.guardrails[result.metric].max_worse * abs(result.control)
    return "broken" if least > margin else "holds" if most <= margin else "undecided"


def _of_variant(plan: ExperimentPlan, variant: str, rows: Sequence[MetricResult], *, ended: bool) -> ExperimentDecision:
    primary = [r for r in rows if r.role == "primary"]
    states = {r.metric: guardrail_state(plan, r) for r in rows if r.role == "guardrail"}
    broken = [m for m, s in states.items() if s == "broken"]
    undecided = [m for m, s in states.items() if s == "undecided"]
    worse = [r for r in primary if side(plan, r) < 0]
    better = [r for r in primary if side(plan, r) > 0]
    if broken or worse:
        why = f"guardrail {_list(broken)} is worse by more than its margin" if broken else _said(plan, worse)
        return ExperimentDecision("stop", f"Stop: {why}.", variant)
    if better and not undecided:
        return ExperimentDecision("ship", f"Ship: {_said(plan, better)}{_and(plan, primary, better)}.", variant)
    if better:
        open_ = f"guardrail {_list(undecided)} is not shown to hold"
        if ended:
            return ExperimentDecision("person", f"A person decides: {_said(plan, better)}, but {open_}.", variant)
        return ExperimentDecision("keep_running", f"Keep running: {_said(plan, better)}, but {open_} yet.", variant)
    if ended:
        return ExperimentDecision("no_effect", f"No effect was shown: {_found_out(plan, primary)}.", variant)
    return ExperimentDecision("keep_running", f"Keep running: {_neither(primary)}.", variant)


def _found_out(plan: ExperimentPlan, primary: Sequence[MetricResult]) -> str:
    parts = [
        f"{_words(r.metric)} {_change(r)}, where an effect of {_size(r)} had a chance of "
        f"{plan.experiment.power:.0%} to be found"
        for r in primary
        if math.isfinite(r.effect)
    ]
    return "; ".join(parts) or "nothing could be tested"


def _list(metrics: Sequence[str]) -> str:
    return ", ".join(map(_words, metrics))


def _said(plan: ExperimentPlan, rows: Sequence[MetricResult]) -> str:
    parts = []
    for r in rows:
        one_look = plan.experiment.stopping.rule == "fixed"
        word = "up" if r.effect > 0 else "down"
        extra = f", p = {r.p_adjusted:.2g} for all primary metrics" if one_look else ""
        parts.append(f"{_words(r.metric)} {word} {_change(r)} ({_interval(r, one_look=one_look)}{extra})")
    return ", ".join(parts)


def _and(plan: ExperimentPlan, primary: Sequence[MetricResult], better: Sequence[MetricResult]) -> str:
    rest = [r for r in primary if r not in better]
    guarded = "; every guardrail holds" if plan.experiment.guardrails else ""
    return (f"; {', '.join(_words(r.metric) for r in rest)} not shown to change" if rest else "") + guarded


def _neither(primary: Sequence[MetricResult]) -> str:
    known = [r for r in primary if math.isfinite(r.effect)]
    if not known:
        return "nothing can be tested yet"
    parts = []
    for r in known:
        open_ = "" if r.adjusted_ci else ", one look"
        parts.append(f"{_words(r.metric)} {_change(r)} ({_interval(r, one_look=not r.adjusted_ci)}{open_})")
    return f"not shown to change so far: {', '.join(parts)}"


def _change(result: MetricResult) -> str:
    """The lift; where none can be given, the effect in the metric's unit."""
    return _percent(result.rel_effect) if math.isfinite(result.rel_effect) else f"by {result.effect:+.4g}"


def _interval(result: MetricResult, *, one_look: bool) -> str:
    if math.isfinite(result.rel_effect):
        low, high = result.rel_effect_ci if one_look else result.adjusted_ci or result.rel_effect_ci
        return f"{_percent(low)} to {_percent(high)}"
    low, high = result.effect_ci if one_look else result.adjusted_effect_ci or result.effect_ci
    return f"{low:+.4g} to {high:+.4g}"


def _size(result: MetricResult) -> str:
    return f"{result.detectable:.2%}" if math.isfinite(result.detectable) else "such a size"


def _percent(value: float) -> str:
    return f"{value:+.2%}" if math.isfinite(value) else "?"


def _words(metric: str) -> str:
    return metric.replace("_", " ")
