"""An experiment's result: checks, every metric of every variant against the control, segments, and the decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ab_analysis import checks as check
from ab_analysis.changes import RegisteredExperiment
from ab_analysis.checks import (
    MIN_SEGMENT_USERS,
    ExperimentCheck,
    UntestedSegment,
    untested_segments,
    withheld_lifts,
)
from ab_analysis.decision import ExperimentDecision, decide
from ab_analysis.effect import UNKNOWN, Effect
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.histograms import Histogram, read_histograms
from ab_analysis.inference import Method, MetricSpec, compare, measure
from ab_analysis.model_covariate import add_model_covariates
from ab_analysis.moments import Cells, read_moments
from ab_analysis.multiplicity import Correction, adjust
from ab_analysis.quantiles import Quantile, compare_quantiles
from ab_analysis.results import MetricResult, Novelty, SegmentResult, plain
from ab_analysis.segments import MeasuredSegment, shrink_segments
from ab_analysis.series import Point, daily_points, drift, make_post_days
from ab_analysis.stopping import comparisons_of, interval_multiplier
from ab_analysis.user_segments import segment_labels
from ab_analysis.user_table import Counts
from core.documents import JsonObject
from core.errors import NotReadyError
from core.sql_engine import Engine

CORRECTIONS: dict[str, Correction] = {"primary": "holm", "secondary": "fdr_bh", "guardrail": "holm"}
"""How the p-values of a role are adjusted for their number."""


@dataclass(frozen=True)
class Analysis:
    """The result of an experiment as of an hour."""

    experiment: str
    until: str
    elapsed_days: float
    planned_days: float
    users: dict[str, int]
    decision: ExperimentDecision
    checks: tuple[ExperimentCheck, ...]
    results: tuple[MetricResult, ...]
    segments: tuple[SegmentResult, ...]
    novelty: tuple[Novelty, ...]
    points: tuple[Point, ...]
    histograms: dict[str, Histogram]
    new_users: int

    def as_json(self) -> JsonObject:
        """Plain values for JSON, figures to 12 significant digits; unknown ones are null."""
        cleaned: JsonObject = plain(self)
        return cleaned

    def of(self, metric: str, method: str | None = None) -> list[MetricResult]:
        """Results of a metric, one per treatment; by default those that decide."""
        rows = [r for r in self.results if r.metric == metric]
        return [r for r in rows if (r.headline if method is None else r.method == method)]

    @property
    def warnings(self) -> list[ExperimentCheck]:
        """Checks that did not pass, the worst first."""
        return sorted((c for c in self.checks if c.warns), key=lambda c: c.level)


def metric_specs(plan: ExperimentPlan, *, with_new_users: bool) -> dict[str, MetricSpec]:
    """The columns and covariates that each metric of the experiment needs; quantiles are not among them.

    Args:
        plan: the experiment and its metrics.
        with_new_users: whether some users, but not all, have no pre-period; being new is then a covariate.
    """
    new_user = ("new_user",) if with_new_users else ()
    specs = {}
    for name in plan.experiment.tested_metrics:
        metric = plan.metrics[name]
        if metric.kind == "quantile":
            continue
        if name in plan.experiment.covariates:
            covariates = tuple(f"{c}_pre" for c in plan.experiment.covariates[name])
        elif metric.ratio:
            covariates = tuple(f"{c}_pre" for c in metric.ratio)
        else:
            covariates = () if metric.kind == "retained" else (f"{name}_pre",)
        columns = metric.ratio or ((name, f"{name}_eligible") if metric.kind == "retained" else (name, None))
        specs[name] = MetricSpec(name, columns[0], columns[1], (*covariates, *new_user) if covariates else ())
    return specs


def _with_methods(
    plan: ExperimentPlan, specs: Mapping[str, MetricSpec], has_pre: Mapping[str, bool]
) -> dict[str, MetricSpec]:
    """The metrics with the methods that their data allow; the last method is the headline."""
    chosen: dict[str, MetricSpec] = {}
    for name in plan.experiment.tested_metrics:
        if plan.metrics[name].kind == "quantile":
            chosen[name] = MetricSpec(name, plan.metrics[name].of or name, methods=("quantile",))
            continue
        spec = specs[name]
        methods: list[Method] = ["post_stratified"] if plan.experiment.strata and spec.denominator is None else []
        methods.append("welch")
        if has_pre.get(name):
            methods.append("cuped")
        if spec.model_covariate:
            methods.append("cupac")
        chosen[name] = replace(spec, methods=tuple(methods))
    return chosen


def analyze(
    db: Engine,
    plan: ExperimentPlan,
    counts: Counts,
    *,
    registered: RegisteredExperiment | None = None,
    seed: int = 0,
    with_days: bool = True,
) -> Analysis:
    """Analyze an experiment whose tables are in the engine (``user_table``).

    Args:
        db: holds ``users`` and, for the series of days, ``user_day``.
        plan: the experiment and its metrics.
        counts: from ``build_user_table``.
        registered: the experiment file at its first report.
        seed: for the models behind ``model_covariates``.
        with_days: whether to compute the series of days and novelty, on which no decision rests.

    Raises:
        NotReadyError: a variant has fewer than two users; the message says whether the experiment file is another one by now.
    """
    experiment = plan.experiment
    if too_small := [v for v, n in counts.analyzed.items() if n < 2]:
        raise NotReadyError(
            f"variant {too_small} of '{experiment.name}' has fewer than two users before {counts.until}; "
            + _why_too_small(experiment, counts, registered)
        )
    specs = metric_specs(plan, with_new_users=0 < counts.new_users < sum(counts.analyzed.values()))
    table = "users"
    if experiment.model_covariates:
        features = [*(f"{m}_pre" for m in plan.additive), "new_user"]
        modeled = [m for m in experiment.model_covariates if m in specs and specs[m].denominator is None]
        if columns := add_model_covariates(db, modeled, features, seed):
            table = "users_with_models"
            for name, column in zip(modeled, columns, strict=True):
                specs[name] = replace(specs[name], model_covariate=column)
    pre_specs = {n: MetricSpec(n, f"{n}_pre") for n in specs if plan.metrics[n].additive}
    blocks = [t.columns for t in (*specs.values(), *pre_specs.values())]
    cells = read_moments(db, table, ("variant", *experiment.segments), blocks)
    everybody = cells.of()
    has_pre = {
        n: any(everybody.variance(c) > 0 for c in t.covariates if c != "new_user")
        for n, t in specs.items()
        if t.covariates
    }
    specs = _with_methods(plan, specs, has_pre)
    effects = _effects(db, plan, cells, specs)
    results = _results(plan, specs, effects, counts)
    segments, untested = _segments(experiment, cells, specs)
    multiplier = interval_multiplier(experiment, experiment.elapsed_days(counts.until), 1)
    series_metrics = [m for m in experiment.primary if plan.metrics[m].additive]
    points: list[Point] = []
    novelty: list[Novelty] = []
    if series_metrics and with_days:
        make_post_days(db, tuple(series_metrics), counts.until)
        for metric in series_metrics:
            points += daily_points(db, experiment, metric, counts.until)
            novelty += [
                Novelty(metric, v, e.effect, e.effect_ci, e.p_value)
                for v, e in drift(db, experiment, metric, counts.until).items()
                if e.known
            ]
    checks = [
        check.sample_ratio(experiment.variants, counts.assigned),
        check.pre_period(experiment, cells, (t for n, t in pre_specs.items() if has_pre.get(n))),
        check.exposure_days(db, experiment),
        *check.counted(experiment, counts),
        check.looks(experiment, counts, allowed=multiplier is not None),
        *check.edited(registered, experiment),
        *check.nothing_to_adjust(plan, has_pre),
        *_constant(results),
        *withheld_lifts(list(dict.fromkeys(m for m, _, _, e in effects if e.lift_withheld))),
        *untested_segments(untested, "ok"),
        *_fading(experiment, novelty),
    ]
    return Analysis(
        experiment=experiment.name, until=counts.until.key,
        elapsed_days=experiment.elapsed_days(counts.until), planned_days=experiment.planned_days,
        users=counts.analyzed, decision=decide(plan, results, checks, counts.until), checks=tuple(checks),
        results=tuple(results), segments=tuple(segments), novelty=tuple(novelty),
        points=tuple(points),
        histograms=read_histograms(db, "users", {m: plan.metrics[m].sum is None for m in series_metrics}),
        new_users=counts.new_users,
    )  # fmt: skip


def _why_too_small(experiment: Experiment, counts: Counts, registered: RegisteredExperiment | None) -> str:
    """What may be the reason that a variant has no users, and what to do."""
    changed = registered.changed_keys(experiment) if registered else []
    if registered and {"variants", "start"} & {*changed}:
        planned = ", ".join(map(str, registered.content.get("variants", {})))
        return (
            f"the experiment file differs from registered.json, which holds it as it was at its first report ({', '.join(changed)}; "
            f"its variants were {planned}): put the file back, or give the changed experiment a name and a start of its own"
        )
    others = f" ({counts.unknown:,} users are in variants that it does not name)" if counts.unknown else ""
    return (
        f"wait until more are exposed, or look whether exposures name the variants as the experiment file does{others}"
    )


def _effects(
    db: Engine, plan: ExperimentPlan, cells: Cells, specs: Mapping[str, MetricSpec]
) -> list[tuple[str, str, Method, Effect]]:
    """(metric, variant, method, effect) for every method that the metrics declare."""
    experiment = plan.experiment
    effects: list[tuple[str, str, Method, Effect]] = []
    for (name, spec), variant in product(specs.items(), experiment.treatments):
        sides = experiment.control, variant, experiment.confidence
        for method in spec.methods:
            if method == "quantile":
                metric = plan.metrics[name]
                assert metric.of is not None
                assert metric.quantile is not None
                effect = compare_quantiles(db, Quantile(metric.of, metric.quantile), *sides)
            else:
                effect = measure(spec, method, cells, *sides, experiment.strata)
            effects.append((name, variant, method, effect))
    return effects


def _results(
    plan: ExperimentPlan,
    specs: Mapping[str, MetricSpec],
    effects: Sequence[tuple[str, str, Method, Effect]],
    counts: Counts,
) -> list[MetricResult]:
    experiment = plan.experiment
    p_adjusted: dict[str, float] = {}
    for role, correction in CORRECTIONS.items():
        p_adjusted |= adjust(
            {f"{n}/{v}": e.p_value for n, v, m, e in effects if experiment.role(n) == role and specs[n].headline == m},
            correction,
        )
    elapsed = experiment.elapsed_days(counts.until)
    welch = {(n, v): e for n, v, m, e in effects if m == "welch"}
    results = []
    for name, variant, method, e in effects:
        role, base = experiment.role(name), welch.get((name, variant), UNKNOWN)
        multiplier = interval_multiplier(experiment, elapsed, comparisons_of(experiment, role))
        chosen = specs[name].headline == method
        absolute, relative = e.widened(multiplier) if multiplier and e.known else (None, None)
        results.append(
            MetricResult(
                metric=name, variant=variant, role=role, method=method, headline=chosen,
                n_control=counts.analyzed[experiment.control], n_treatment=counts.analyzed[variant],
                control=e.control, treatment=e.treatment, effect=e.effect, effect_ci=e.effect_ci,
                rel_effect=e.rel_effect, rel_effect_ci=e.rel_effect_ci,
                adjusted_ci=relative, adjusted_effect_ci=absolute,
                p_value=e.p_value, p_adjusted=p_adjusted[f"{name}/{variant}"] if chosen else math.nan,
                variance_reduction=1 - (e.se / base.se) ** 2 if e.known and base.known and base.se else 0.0,
                detectable=e.detectable(experiment.power) / abs(e.control) if math.isfinite(e.rel_effect) else math.nan,
                power=e.power(experiment.minimum_effect * e.control) if math.isfinite(e.rel_effect) else math.nan,
                truth=experiment.truth.get(name),
            )
        )  # fmt: skip
    return results


def _segments(
    experiment: Experiment, cells: Cells, specs: Mapping[str, MetricSpec]
) -> tuple[list[SegmentResult], list[UntestedSegment]]:
    rows: list[MeasuredSegment] = []
    untested: list[UntestedSegment] = []
    for segment in experiment.segments:
        for name in (m for m in experiment.primary if specs[m].headline != "quantile"):
            for variant in experiment.treatments:
                for value in _in_order(experiment, segment, cells):
                    sides = [cells.of(variant=v, **{segment: value}) for v in (experiment.control, variant)]
                    users = (sides[0].count, sides[1].count)
                    if min(users) < MIN_SEGMENT_USERS:
                        untested.append(UntestedSegment(segment, value, variant, *users))
                        continue
                    effect = compare(
                        specs[name], sides[0], sides[1], experiment.confidence, adjusted="cuped" in specs[name].methods
                    )
                    measured = MeasuredSegment(segment, value, name, variant, *users, effect)
                    if measured.has_lift:
                        rows.append(measured)
                    else:
                        untested.append(UntestedSegment(segment, value, variant, *users, metric=name))
    return shrink_segments(rows), list(dict.fromkeys(untested))


def _in_order(experiment: Experiment, segment: str, cells: Cells) -> list[str]:
    rule, values = experiment.segments[segment], cells.values(segment)
    return [label for label in segment_labels(rule) if label in values] if rule.of else values


def _constant(results: Sequence[MetricResult]) -> list[ExperimentCheck]:
    same = sorted({r.metric for r in results if r.headline and not math.isfinite(r.effect)})
    if not same:
        return []
    text = f"{', '.join(same)} cannot be tested: the same value for (almost) every user, or nothing in the denominator."
    return [ExperimentCheck("metric without variation", "warn", text)]


def _fading(experiment: Experiment, novelty: Sequence[Novelty]) -> list[ExperimentCheck]:
    adjusted = adjust({f"{n.metric} ({n.variant})": n.p_value for n in novelty}, "holm")
    moving = [k for k, p in adjusted.items() if p < 1 - experiment.confidence]
    if not moving:
        return []
    text = (
        f"The daily effect on {', '.join(moving)} changed between the first half and the second: novelty or learning."
    )
    return [ExperimentCheck("novelty", "warn", text)]
