"""The decision in one sentence, from checks, primary metrics and guardrails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ab_analysis.checks import ExperimentCheck
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.results import MetricResult
from ab_analysis.stopping import comparisons_of
from core.hours import Hour

OF_HOLDOUT = {
    "Ship:": "What was tried and shipped helps in all:",
    "Stop:": "What was tried and shipped harms in all:",
    "Keep running:": "What was tried and shipped in all:",
    "A person decides:": "What was tried and shipped in all:",
    "No effect was shown:": "No effect was shown of what was tried and shipped in all:",
}
"""How a holdout's sentence begins instead: it decides on no variant, but shows the effect of all other experiments together."""
Verdict = Literal["ship", "stop", "keep_running", "no_effect", "person", "no_conclusion"]
BEST_FIRST: tuple[Verdict, ...] = ("ship", "person", "keep_running", "stop", "no_effect")
"""Of several treatments the first of these is the experiment's verdict."""


@dataclass(frozen=True)
class ExperimentDecision:
    """What to do.

    Attributes:
        verdict: ``ship`` (a primary metric is better, none is worse, guardrails hold), ``stop`` (a primary metric is
            worse or a guardrail is broken), ``keep_running``, ``no_effect`` (the end is reached and no effect was shown),
            ``person`` (better, but a guardrail is undecided at the end), ``no_conclusion`` (a check failed).
        sentence: the reason; with several treatments it names the one that the verdict is about, and the others' verdicts.
        variant: the treatment that the verdict is about, None if it is about no single one.
        harmful: treatments in which a primary metric is worse or a guardrail is broken, also where another one decides.
    """

    verdict: Verdict
    sentence: str
    variant: str | None = None
    harmful: tuple[str, ...] = ()


def decide(
    plan: ExperimentPlan, results: Sequence[MetricResult], checks: Sequence[ExperimentCheck], until: Hour
) -> ExperimentDecision:
    """Decide from the headline rows under the stopping rule.

    Only absolute effects and their direction count, so that a metric may be negative or around 0. Of several treatments the
    best decides; but while an experiment runs that stops by itself, one that does harm does, as all of its arms are served or none.

    Args:
        plan: the experiment and its metrics.
        results: all rows of the analysis.
        checks: one that failed leads to no conclusion.
        until: the hour as of which the data were analyzed.
    """
    if failed := [c for c in checks if c.level == "fail"]:
        return ExperimentDecision("no_conclusion", f"No conclusion: {failed[0].text}")
    experiment = plan.experiment
    rows = [r for r in results if r.headline]
    ended = experiment.end_hour is not None and until >= experiment.end_hour
    primary = [r for r in rows if r.role == "primary"]
    if ended and experiment.stopped and primary and all(r.adjusted_ci is None for r in primary):
        text = f"No conclusion: it was stopped on {experiment.stopped}, before the first look that its rule allows."
        return ExperimentDecision("no_conclusion", text)
    decisions = [
        _decide_variant(plan, v, [r for r in rows if r.variant == v], ended=ended) for v in experiment.treatments
    ]
    if experiment.holdout:
        decisions = [replace(d, sentence=_of_holdout(d.sentence)) for d in decisions]
    stops_any = experiment.automatic_stop and not ended

    def rank(decision: ExperimentDecision) -> tuple[bool, int, float]:
        spared = not (stops_any and decision.verdict == "stop")
        return spared, BEST_FIRST.index(decision.verdict), -_first_gain(plan, decision, rows)

    harmful = tuple(d.variant for d in decisions if d.variant and d.verdict == "stop")
    chosen = replace(min(decisions, key=rank), harmful=harmful)
    if len(decisions) == 1:
        return chosen
    others = "; ".join(f"{d.variant}: {d.verdict.replace('_', ' ')}" for d in decisions if d.variant != chosen.variant)
    return replace(chosen, sentence=f"{chosen.variant}: {chosen.sentence} Others: {others}.")


def _of_holdout(sentence: str) -> str:
    """A decision's sentence as that of a holdout.

    >>> _of_holdout("Ship: active days up +2.00%.")
    'What was tried and shipped helps in all: active days up +2.00%.'
    """
    begins = next(start for start in OF_HOLDOUT if sentence.startswith(start))
    return OF_HOLDOUT[begins] + sentence.removeprefix(begins)


def _first_gain(plan: ExperimentPlan, decision: ExperimentDecision, rows: Sequence[MetricResult]) -> float:
    first = plan.experiment.primary[0]
    return next((_gain(plan, r) for r in rows if r.variant == decision.variant and r.metric == first), 0.0)


def _gain(plan: ExperimentPlan, result: MetricResult) -> float:
    """The effect, positive if it is for the better; all variants are compared with the same control."""
    sign = 1 if plan.metrics[result.metric].better == "up" else -1
    return sign * result.effect if math.isfinite(result.effect) else 0.0


def side(plan: ExperimentPlan, result: MetricResult) -> int:
    """1: shown to be better, −1: shown to be worse, 0: neither; under the stopping rule and over all comparisons."""
    if result.adjusted_effect_ci is None:
        return 0
    low, high = result.adjusted_effect_ci
    direction = 1 if low > 0 else -1 if high < 0 else 0
    if plan.experiment.stopping.rule == "fixed" and result.role == "primary":
        # Holm is more powerful than the simultaneous interval, and holds the same error.
        direction = int(math.copysign(1, result.effect)) if result.p_adjusted < 1 - plan.experiment.confidence else 0
    return direction if plan.metrics[result.metric].better == "up" else -direction


def guardrail_state(plan: ExperimentPlan, result: MetricResult) -> Literal["holds", "broken", "undecided"]:
    """Compare the interval of a guardrail's harm with its margin, both in the metric's unit.

    The margin is ``max_worse`` times |control|; with 0, any harm that is shown breaks the guardrail.
    """
    if result.adjusted_effect_ci is None or not all(map(math.isfinite, result.adjusted_effect_ci)):
        return "undecided"
    low, high = result.adjusted_effect_ci
    least, most = (-high, -low) if plan.metrics[result.metric].better == "up" else (low, high)
    margin = plan.experiment.guardrails[result.metric].max_worse * abs(result.control)
    return "broken" if least > margin else "holds" if most <= margin else "undecided"


def _decide_variant(
    plan: ExperimentPlan, variant: str, rows: Sequence[MetricResult], *, ended: bool
) -> ExperimentDecision:
    primary = [r for r in rows if r.role == "primary"]
    states = {r.metric: guardrail_state(plan, r) for r in rows if r.role == "guardrail"}
    broken = [m for m, s in states.items() if s == "broken"]
    undecided = [m for m, s in states.items() if s == "undecided"]
    worse = [r for r in primary if side(plan, r) < 0]
    better = [r for r in primary if side(plan, r) > 0]
    if broken or worse:
        harm = f"guardrail {_names(broken)} is worse by more than its margin" if broken else _changes(plan, worse)
        return ExperimentDecision("stop", f"Stop: {harm}.", variant)
    if better and not undecided:
        return ExperimentDecision(
            "ship", f"Ship: {_changes(plan, better)}{_unchanged_and_guardrails(plan, primary, better)}.", variant
        )
    if better:
        undecided_guardrails = f"guardrail {_names(undecided)} is not shown to hold"
        if ended:
            return ExperimentDecision(
                "person", f"A person decides: {_changes(plan, better)}, but {undecided_guardrails}.", variant
            )
        return ExperimentDecision(
            "keep_running", f"Keep running: {_changes(plan, better)}, but {undecided_guardrails} yet.", variant
        )
    if ended:
        return ExperimentDecision("no_effect", f"No effect was shown: {_undetected_effects(plan, primary)}.", variant)
    return ExperimentDecision("keep_running", f"Keep running: {_undecided_effects(primary)}.", variant)


def _undetected_effects(plan: ExperimentPlan, primary: Sequence[MetricResult]) -> str:
    parts = [
        f"{_words(r.metric)} {_change(r)}, where an effect of {_detectable(r)} had a chance of "
        f"{plan.experiment.power:.0%} of being detected"
        for r in primary
        if math.isfinite(r.effect)
    ]
    return "; ".join(parts) or "nothing could be tested"


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(map(_words, metrics))


def _changes(plan: ExperimentPlan, rows: Sequence[MetricResult]) -> str:
    parts = []
    holm = (
        " by Holm" if comparisons_of(plan.experiment, "primary") > 1 else ""
    )  # the table's is Bonferroni's, as its intervals are
    for r in rows:
        word = "up" if r.effect > 0 else "down"
        p_value = f", p = {r.p_adjusted:.2g}{holm}" if plan.experiment.stopping.rule == "fixed" else ""
        parts.append(f"{_words(r.metric)} {word} {_change(r)} ({_interval(r)}{p_value})")
    return ", ".join(parts)


def _unchanged_and_guardrails(
    plan: ExperimentPlan, primary: Sequence[MetricResult], better: Sequence[MetricResult]
) -> str:
    unchanged = [r for r in primary if r not in better]
    guardrails = "; every guardrail holds" if plan.experiment.guardrails else ""
    return (f"; {', '.join(_words(r.metric) for r in unchanged)} not shown to change" if unchanged else "") + guardrails


def _undecided_effects(primary: Sequence[MetricResult]) -> str:
    testable = [r for r in primary if math.isfinite(r.effect)]
    if not testable:
        return "nothing can be tested yet"
    parts = []
    for r in testable:
        single_look = "" if r.adjusted_ci else ", one look"
        parts.append(f"{_words(r.metric)} {_change(r)} ({_interval(r)}{single_look})")
    return f"not shown to change so far: {', '.join(parts)}"


def _change(result: MetricResult) -> str:
    """The lift; if it is withheld, the effect in the metric's unit."""
    return _percent(result.rel_effect) if math.isfinite(result.rel_effect) else f"by {result.effect:+.4g}"


def _interval(result: MetricResult) -> str:
    """The interval for all looks and primary comparisons together, as the p-value is; of one look before the rule allows any."""
    if math.isfinite(result.rel_effect):
        low, high = result.adjusted_ci or result.rel_effect_ci
        return f"{_percent(low)} to {_percent(high)}"
    low, high = result.adjusted_effect_ci or result.effect_ci
    return f"{low:+.4g} to {high:+.4g}"


def _detectable(result: MetricResult) -> str:
    return f"{result.detectable:.2%}" if math.isfinite(result.detectable) else "such a size"


def _percent(value: float) -> str:
    return f"{value:+.2%}" if math.isfinite(value) else "?"


def _words(metric: str) -> str:
    return metric.replace("_", " ")
