"""How long an experiment must run: power from a source's own history, with and without CUPED."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ab_analysis.analysis import metric_specs
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.moments import read_moments
from ab_analysis.power import Design, PlanRow, plan_row
from ab_analysis.user_table import make_tables
from core.errors import NotReadyError
from core.hours import Hour
from core.spark import SparkEngine
from core.sql_engine import Engine
from events.store import EventStore


def plan_from_history(
    db: Engine,
    store: EventStore,
    plan: ExperimentPlan,
    durations: Sequence[int],
    until: Hour | None = None,
    held_out: float = 0.0,
    cluster: SparkEngine | None = None,
) -> list[PlanRow]:
    """Pretend that an experiment of each length ended at ``until``, and measure how its metrics vary.

    Everybody who was active in that time would have been in it, from their first event on.

    Args:
        db: runs the queries, those over users at least.
        store: events of the source.
        plan: the experiment and its metrics.
        durations: lengths to compare, days.
        until: end of the pretended experiments, exclusive; default: the end of the log.
        held_out: share of all users whom holdouts keep from the experiment.
        cluster: runs those over events; None: ``db`` does.

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
        rows += _of_length(db, store, plan, days, until, held_out, cluster)
    return rows


def _of_length(
    db: Engine,
    store: EventStore,
    plan: ExperimentPlan,
    days: int,
    until: Hour,
    held_out: float,
    cluster: SparkEngine | None,
) -> list[PlanRow]:
    start = (until - 24 * days).start
    pretended = plan.experiment.model_copy(update={"start": start, "end": None, "trigger": plan.experiment.trigger})
    pretended_plan = ExperimentPlan(pretended, plan.metrics, plan.facets)
    first = Hour.of(start - timedelta(days=pretended.pre_days))
    files = store.event_files(h for h in store.hours() if first <= h < until)
    counts = make_tables(db, pretended_plan, until, events=files, exposures=None, cluster=cluster)
    users = sum(counts.analyzed.values())
    if users < 2:
        raise NotReadyError(f"fewer than two users in the {days} days before {until}")
    specs = metric_specs(pretended_plan, with_new_users=0 < counts.new_users < users)
    moments = read_moments(db, "users", ("variant",), [t.columns for t in specs.values()]).of()
    return [
        row
        for t in specs.values()
        for adjusted in ((False, True) if t.covariates else (False,))
        if (row := plan_row(Design.of(pretended, held_out), t, moments, days, adjusted=adjusted))
    ]
