"""What an experiment that is not begun yet can be expected to find, and whom it shares its users with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ab_analysis.assignment import check_workspace_layers, concurrent_holdouts
from ab_analysis.experiment import Experiment, find_experiments, load_experiment
from ab_analysis.experiment_plan import ExperimentPlan, make_plan
from ab_analysis.planning import plan_from_history
from ab_analysis.power import PlanRow
from core.engine import cluster_beside, local_engine
from core.errors import ConfigError, NotReadyError
from core.hours import DAY_HOURS
from core.settings import Settings
from events.store import EventStore

WEEKS = (7, 14, 28)
"""Lengths, days, that are compared with the planned one."""
LONGEST = 90
"""Days of the log that a plan reads at most."""


@dataclass(frozen=True)
class Overlap:
    """Another experiment that runs on some of the same days.

    Attributes:
        name: of it.
        shared: share of the users of this experiment who are in the other one too, 0 to 1.
        from_day, to_day: the days in common; the last is None where neither has an end.
        metrics: that both test as primary ones.
    """

    name: str
    shared: float
    from_day: str
    to_day: str | None
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class MetricForecast:
    """What an experiment of some length finds of a metric, by the better of the methods.

    Attributes:
        row: by the method that decides; ``plain`` without the users' past.
    """

    row: PlanRow
    plain: PlanRow

    @property
    def is_enough(self) -> bool:
        return self.row.users >= self.row.users_needed


@dataclass(frozen=True)
class ExperimentPreview:
    """The plan of an experiment.

    Attributes:
        plan: the experiment with its metrics.
        forecasts: by metric in the experiment's order, then by length.
        days: lengths that are compared, days; the planned one is among them where the log is long enough.
        planned: the planned length, days.
        unplanned: metrics of which nothing can be said, for being a quantile, the same for every user, or 0 on average.
        overlaps: with other experiments.
        warnings: sentences.
    """

    plan: ExperimentPlan
    forecasts: list[MetricForecast]
    days: list[int]
    planned: int
    unplanned: list[str]
    overlaps: list[Overlap]
    warnings: list[str]

    def of_metric(self, metric: str) -> list[MetricForecast]:
        """Forecasts of a metric, the shortest length first."""
        return [f for f in self.forecasts if f.row.metric == metric]

    def sentence(self, metric: str) -> str:
        """In words whether the planned length is enough for a metric, and else which is."""
        effect = f"{self.plan.experiment.minimum_effect:.2%}".replace(".00%", "%")
        forecasts = self.of_metric(metric)
        if not forecasts:
            return f"nothing can be said of {metric}"
        at = next((f for f in forecasts if f.row.days == self.planned), forecasts[-1])
        enough = next((f.row.days for f in forecasts if f.is_enough), None)
        detectable = f"{at.row.days} days find an effect of {effect} with a power of {at.row.power:.0%}"
        if at.is_enough:
            rest = "" if enough == at.row.days or enough is None else f"; {enough} days are enough"
        elif enough is not None:
            rest = f"; {enough} days are enough"
        else:
            rest = f"; {at.row.users_needed:,} users are needed, {at.row.days} days have {at.row.users:,}"
        return detectable + rest

    @property
    def is_enough(self) -> bool:
        """Whether the planned length has the power that was asked for, for every primary metric."""
        return all(
            any(f.is_enough for f in self.of_metric(m) if f.row.days <= self.planned)
            for m in self.plan.experiment.primary
        )


def preview_experiment(settings: Settings, experiment: Experiment) -> ExperimentPreview:
    """Plan an experiment from the source's own history; one that is too short or empty is said in the warnings.

    Raises:
        ConfigError: a metric, column or segment does not exist, or another experiment claims the same users of its layer.
    """
    check_workspace_layers(settings, experiment)
    store = EventStore(settings.events_dir)
    plan = make_plan(settings, experiment, tuple(store.facets))
    planned = max(round(experiment.planned_days), 1)
    hours = store.hours()
    logged = (hours[-1].number + 1 - hours[0].number) // DAY_HOURS if hours else 0
    longest = min(logged, LONGEST)
    days = sorted({length for length in (*WEEKS, planned) if length <= longest} or ({longest} if longest else set()))
    rows: list[PlanRow] = []
    holdouts = concurrent_holdouts(settings, experiment)
    warnings = _warnings(experiment, planned)
    warnings += [f"{h.held_out:.1%} of the users are held out by '{h.name}' and will not be in it." for h in holdouts]
    if not days:
        warnings.append("The log holds no whole day yet, so nothing can be planned from it.")
    else:
        try:
            with local_engine(settings) as db, cluster_beside(settings, partial(store.count, hours)) as cluster:
                held_out = sum(h.held_out for h in holdouts)
                rows = plan_from_history(db, store, plan, days, held_out=held_out, cluster=cluster)
        except NotReadyError as error:
            warnings.append(f"Nothing could be planned: {error}.")
        if planned not in days:
            warnings.append(f"The log has {logged} days: a length of {planned} days cannot be tried on it.")
    if hours and experiment.start_time < hours[-1].start:
        warnings.append(f"It starts before the end of the log ({hours[-1]}): what people did since then counts.")
    forecasts = _forecasts(experiment, rows)
    return ExperimentPreview(
        plan, forecasts, days, planned, [m for m in experiment.tested_metrics if rows and m not in {r.metric for r in rows}],
        find_overlaps(settings, experiment), warnings,
    )  # fmt: skip


def _forecasts(experiment: Experiment, rows: Sequence[PlanRow]) -> list[MetricForecast]:
    by_length: dict[tuple[str, int], list[PlanRow]] = {}
    for row in rows:
        by_length.setdefault((row.metric, row.days), []).append(row)
    order = {metric: place for place, metric in enumerate(experiment.tested_metrics)}
    return [
        MetricForecast(min(methods, key=lambda r: r.users_needed), welch)
        for _, methods in sorted(by_length.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        if (welch := next((r for r in methods if r.method == "welch"), None))
    ]


def _warnings(experiment: Experiment, planned: int) -> list[str]:
    warnings = []
    if experiment.end is None:
        rule = experiment.stopping.rule
        warnings.append(
            f"It has no last day; the plan and the rule '{rule}' assume {planned} days."
            if rule == "fixed"
            else f"It has no last day; {planned} days are assumed."
        )
    if planned % 7:
        warnings.append(f"{planned} days are not whole weeks: some days of the week count more often than others.")
    return warnings


def find_overlaps(settings: Settings, experiment: Experiment) -> list[Overlap]:
    """Other experiments of the workspace that run on some of the same days, those with the most users in common first.

    A holdout shares its users with every other experiment but for those it holds out, and is not among them.
    Those whose files are wrong are passed over: ``check_workspace_layers`` names them.
    """
    overlaps = []
    for path in find_experiments(settings.experiments_dir).values():
        try:
            other = load_experiment(path)
        except ConfigError:
            continue
        ends = [day for e in (experiment, other) if (day := e.stopped or e.end)]
        start, end = max(experiment.start_time, other.start_time), min(ends, default=None)
        if (
            other.name == experiment.name
            or experiment.holdout
            or other.holdout
            or (end is not None and end < start.date())
        ):
            continue
        same_layer = experiment.layer and other.layer and experiment.layer.name == other.layer.name
        width = other.layer.end - other.layer.start if other.layer else 1.0
        metrics = tuple(m for m in experiment.primary if m in other.primary)
        overlaps.append(
            Overlap(other.name, 0.0 if same_layer else width, str(start.date()), str(end) if end else None, metrics)
        )
    return sorted(overlaps, key=lambda o: (-o.shared, o.name))
