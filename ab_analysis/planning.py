"""How long an experiment must run: power from a source's own history, with and without CUPED."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import tea_tasting as tt

from ab_analysis.analysis import metric_specs
from ab_analysis.experiment import ExperimentPlan
from ab_analysis.inference import ADJUSTMENT, MetricSpec, coefficients
from ab_analysis.moments import Moments, no_users, read_moments
from ab_analysis.user_table import make_tables
from core.duck import quoted
from core.errors import NotReadyError
from core.hours import Hour
from core.sql_engine import Engine
from events.store import EventStore

FEWEST = 4
"""Users of a control and a treatment together that a plan asks for at least."""


@dataclass(frozen=True)
class PlanRow:
    """What an experiment of a given length could detect.

    Attributes:
        users: number of users that would be in it, all variants together: those in its share of its layer.
        mean, sd: of the metric; for ``cuped`` the sd is that after the adjustment.
        detectable: smallest true relative effect of one treatment that is detected with the experiment's power.
        users_needed: number of users that detecting the experiment's minimum effect takes.
        power: probability of detecting the minimum effect.
        variance_reduction: by the covariates, 1 − ρ².
    """

    metric: str
    method: str
    days: int
    users: int
    mean: float
    sd: float
    variance_reduction: float
    detectable: float
    users_needed: int
    power: float


def plan_from_history(
    db: Engine, store: EventStore, plan: ExperimentPlan, durations: Sequence[int], until: Hour | None = None
) -> list[PlanRow]:
    """Pretend that an experiment of each length ended at ``until``, and measure how its metrics vary.

    Everybody who was active in that time would have been in it, from their first event on.

    Args:
        db: runs the queries.
        store: events of the source.
        plan: the experiment and its metrics.
        durations: lengths to compare, days.
        until: end of the pretended experiments, exclusive; default: the end of the log.

    Raises:
        NotReadyError: the log is shorter than a duration.
    """
    hours = store.require_hours()
    until = until or hours[-1] + 1
    rows = []
    for days in durations:
        if (until - 24 * days) < hours[0]:
            raise NotReadyError(
                f"the log begins at {hours[0]}: {days} days before {until} are missing; plan fewer --days"
            )
        rows += _of_length(db, store, plan, days, until)
    return rows


def _of_length(db: Engine, store: EventStore, plan: ExperimentPlan, days: int, until: Hour) -> list[PlanRow]:
    start = (until - 24 * days).start
    pretended = plan.experiment.model_copy(update={"start": start, "end": None, "trigger": plan.experiment.trigger})
    pretended_plan = ExperimentPlan(pretended, plan.metrics, plan.facets)
    first = Hour.of(start - timedelta(days=pretended.pre_days))
    files = store.event_files(h for h in store.hours() if first <= h < until)
    db.view("history", f"SELECT * FROM {db.files(files)}")
    exposures = f"""(SELECT {quoted(pretended.name)} AS experiment, {quoted(pretended.control)} AS variant, user_id,
        min(timestamp) AS timestamp FROM history WHERE timestamp >= {db.instant(start)} GROUP BY user_id) first_events"""
    counts = make_tables(db, pretended_plan, until, events=files, exposures=exposures)
    users = sum(counts.analyzed.values())
    if users < 2:
        raise NotReadyError(f"fewer than two users in the {days} days before {until}")
    specs = metric_specs(pretended_plan, with_new_users=0 < counts.new_users < users)
    moments = read_moments(db, "users", ("variant",), [t.columns for t in specs.values()]).of()
    return [
        row
        for t in specs.values()
        for adjusted in ((False, True) if t.covariates else (False,))
        if (row := plan_row(pretended_plan, t, moments, days, adjusted=adjusted))
    ]


def plan_row(plan: ExperimentPlan, spec: MetricSpec, moments: Moments, days: int, *, adjusted: bool) -> PlanRow | None:
    """Power of one metric on users like these; None where the metric does not vary.

    Solved by tea-tasting, with the normal distribution: its noncentral t has no value for the users of a real app.
    """
    experiment = plan.experiment
    if not moments.variance(spec.numerator) > 0 or not moments.mean(spec.numerator):
        return None
    covariate = None
    if adjusted:
        theta = coefficients(spec, no_users(moments.columns), moments)
        if not theta:
            return None
        moments, covariate = moments.with_combination(ADJUSTMENT, theta), ADJUSTMENT
    names = [n for n in (spec.numerator, spec.denominator, covariate) if n]
    aggregates = moments.aggregates(*names)
    share = min(experiment.variants[v] for v in experiment.treatments)
    control = experiment.variants[experiment.control]
    total = sum(experiment.variants.values())
    layer = experiment.layer
    users = moments.count if layer is None else round(moments.count * (layer.end - layer.start))
    in_pair = users * (share + control) / total

    def metric(effect: float | None = None, users: int = max(int(in_pair), FEWEST)) -> tt.RatioOfMeans:
        return tt.RatioOfMeans(
            spec.numerator, spec.denominator, covariate, alpha=1 - experiment.confidence, ratio=share / control,
            power=experiment.power, use_t=False, rel_effect_size=effect, n_obs=users,
        )  # fmt: skip

    smallest = metric().solve_power_from_aggregates(aggregates, "rel_effect_size")[0]
    power = metric(experiment.minimum_effect).solve_power_from_aggregates(aggregates, "power")[0]
    of_fewest = metric(experiment.minimum_effect, FEWEST).solve_power_from_aggregates(aggregates, "power")[0]
    needed = FEWEST
    if of_fewest.power < experiment.power:  # else the solver, which looks at no fewer users, has no solution
        needed = metric(experiment.minimum_effect).solve_power_from_aggregates(aggregates, "n_obs")[0].n_obs
    variance = aggregates.ratio_var(spec.numerator, spec.denominator)
    residual_variance = variance
    if covariate:
        residual_variance -= aggregates.ratio_cov(spec.numerator, spec.denominator, covariate, None)
    mean = aggregates.mean(spec.numerator) / aggregates.mean(spec.denominator)
    unit = moments.unit(spec.numerator) / (moments.unit(spec.denominator) if spec.denominator else 1.0)
    return PlanRow(
        spec.metric, "cuped" if adjusted else "welch", days, users, float(mean) * unit,
        math.sqrt(max(residual_variance, 0.0)) * unit,
        1 - residual_variance / variance, abs(float(smallest.rel_effect_size)), math.ceil(needed * total / (share + control)),
        float(power.power),
    )  # fmt: skip
