"""The users of an experiment, from exposures and events: metrics from exposure on, covariates from before the start.

It creates these tables in DuckDB; a cluster, if there is one, computes what they are made of:

=============  ======================================================================================
``user_day``   day rows of the users (``user_days``); from closed days only if asked for, and of days from the start on
``users``      one row per user: variant, ``exposure_day``, metrics, ``<metric>_pre``, ``is_new``, segments
=============  ======================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from scipy.stats import chi2_contingency

from ab_analysis.closed_days import ClosedDays, UnkeptDaysError
from ab_analysis.experiment import Experiment
from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.metrics import condition_sql
from ab_analysis.moments import check_known
from ab_analysis.source_files import SourceFiles
from ab_analysis.user_rows import UserTally, assign_users, create_user_rows, source_files
from ab_analysis.user_segments import create_top_values, range_sql
from ab_analysis.user_shares import create_in_shares
from core.duck import identifier
from core.errors import DataError, NotReadyError
from core.hours import Hour, hour_range
from core.spark import SparkEngine
from core.sql_engine import Engine
from events.store import EventStore

log = logging.getLogger("ab_analysis.user_table")


@dataclass(frozen=True)
class Counts:
    """How many users are analyzed, how many were left out, and what is missing.

    Attributes:
        until: hour up to which exposures and events count, exclusive.
        assigned: variant → users in exactly one variant, before trigger and population.
        analyzed: variant → users in the table.
        crossed: users seen in two variants, left out.
        unknown: users seen in variants that the file does not name, left out.
        early: users who were exposed before the start, left out.
        new_users: users in the table without events before the start.
        missing_hours: hours of the experiment and its pre-period that were not ingested.
        met_by_held_out: other experiment → users of a holdout's control who met it; empty for an experiment that is no holdout.
        others: other experiment with users in common → p-value of "its variants are spread evenly over ours".
    """

    until: Hour
    assigned: dict[str, int]
    analyzed: dict[str, int]
    crossed: int
    unknown: int
    early: int
    new_users: int
    missing_hours: tuple[str, ...] = ()
    others: dict[str, float] = field(default_factory=dict)
    met_by_held_out: dict[str, int] = field(default_factory=dict)


def build_user_table(
    db: Engine,
    store: EventStore,
    plan: ExperimentPlan,
    until: Hour,
    *,
    kept: Path | None = None,
    with_days: bool = True,
    cluster: SparkEngine | None = None,
) -> Counts:
    """Create the tables from a source's partitions.

    Args:
        db: where to create them.
        store: events and exposures of the source.
        plan: the experiment and its metrics.
        until: hour up to which exposures and events count, exclusive.
        kept: the experiment's folder of ``closed_days``, which then only the events of the last day are added to; without
            it all events are read. The tables are the same.
        with_days: whether ``user_day`` is needed.
        cluster: reads the partitions, and computes the rows of each user; None: ``db`` does.

    Raises:
        NotReadyError: nobody was exposed to the experiment yet.
    """
    first = _first_hour(plan)
    hours = store.digests(first, until)
    if not hours:
        raise _nobody(plan.experiment, until)
    counts = None
    if kept:
        counts = _from_closed_days(db, store, plan, until, hours, kept, with_days=with_days, cluster=cluster)
    if counts is None:
        exposures = store.exposure_files(hours)
        events = store.event_files(hours) or [store.partition(min(hours)) / "events.parquet"]
        counts = make_tables(db, plan, until, events=events, exposures=exposures, cluster=cluster)
    missing = [hour.key for hour in hour_range(max(first, store.first_hour()), until) if hour not in hours]
    return replace(counts, missing_hours=tuple(missing))


def rows_to_read(db: Engine, store: EventStore, plan: ExperimentPlan, until: Hour, kept: Path) -> int:
    """Events and rows of users that ``build_user_table`` reads, about.

    Args:
        db: DuckDB.
        store: events and exposures of the source.
        plan: the experiment and its metrics.
        until: hour up to which exposures and events count, exclusive.
        kept: the experiment's folder of ``closed_days``.
    """
    return ClosedDays(db, store, plan, kept).rows_to_read(store.digests(_first_hour(plan), until), until)


def _first_hour(plan: ExperimentPlan) -> Hour:
    return Hour.of(plan.experiment.start_time - timedelta(days=plan.experiment.pre_days))


def _from_closed_days(
    db: Engine,
    store: EventStore,
    plan: ExperimentPlan,
    until: Hour,
    hours: dict[Hour, str],
    kept: Path,
    *,
    with_days: bool,
    cluster: SparkEngine | None,
) -> Counts | None:
    """The tables from what closed days add and the events of the hours since; None if it is not to be had."""
    name = plan.experiment.name
    try:
        with ClosedDays(db, store, plan, kept, cluster).up_to(hours, until, with_days=with_days) as closed:
            if closed is None:
                return None
            since = [hour for hour in hours if hour >= closed.until]
            events = store.event_files(since) or [store.partition(max(hours)) / "events.parquet"]
            files = source_files(plan, until, events, store.exposure_files(since), closed)
            return _make_tables(db, plan, until, files, with_days=with_days, cluster=cluster)
    except UnkeptDaysError as error:
        log.warning("experiment %s is computed from all its events, as its days cannot be kept: %s", name, error)
        return None


def make_tables(
    db: Engine,
    plan: ExperimentPlan,
    until: Hour,
    *,
    events: Sequence[Path],
    exposures: Sequence[Path] | None,
    cluster: SparkEngine | None = None,
) -> Counts:
    """Create the tables from Parquet files of events and exposures (columns as in ``events.schema``).

    Args:
        db: where to create them.
        plan: the experiment and its metrics.
        until: hour up to which exposures and events count, exclusive.
        events: files of events.
        exposures: files of exposures; None: everybody is exposed to the control by their first event since the start.
        cluster: reads the files, and computes the rows of each user; None: ``db`` does.

    Raises:
        NotReadyError: nobody was exposed to the experiment yet.
        DataError: the engine cannot compute one of the experiment's expressions, or a metric is not a number for some users.
    """
    if exposures is not None and not exposures:
        raise _nobody(plan.experiment, until)
    return _make_tables(db, plan, until, source_files(plan, until, events, exposures or ()), cluster=cluster)


def _make_tables(
    db: Engine,
    plan: ExperimentPlan,
    until: Hour,
    files: Mapping[str, SourceFiles],
    *,
    with_days: bool = True,
    cluster: SparkEngine | None,
) -> Counts:
    experiment = plan.experiment
    sources = {name: f"({source.select(db)}) f" for name, source in files.items()}
    if cluster:
        tally = create_in_shares(db, cluster, plan, until, files, with_days=with_days)
    else:
        tally = assign_users(db, experiment, until, sources)
    if not sum(tally.assigned[variant] for variant in experiment.variants):
        raise _nobody(experiment, until)
    if not cluster:
        tally.unmeasured = create_user_rows(db, plan, until, sources, with_days=with_days)
    check_known(tally.unmeasured)
    try:
        _users(db, plan)
        analyzed = dict(db.rows("SELECT variant, count(*) AS n FROM users GROUP BY variant"))
    except db.errors as error:
        population = f"population, '{experiment.population}', cannot be computed"
        raise DataError(f"experiment '{experiment.name}': {population}: {str(error).splitlines()[0]}") from None
    new_users = int(db.scalar("SELECT count(*) FROM users WHERE is_new"))
    others, met = _others(tally, experiment)
    return Counts(
        until,
        {variant: tally.assigned[variant] for variant in experiment.variants},
        {variant: int(analyzed.get(variant, 0)) for variant in experiment.variants},
        tally.crossed, tally.unknown, tally.early, new_users, others=others, met_by_held_out=met,
    )  # fmt: skip


def _nobody(experiment: Experiment, until: Hour) -> NotReadyError:
    return NotReadyError(f"nobody was exposed to '{experiment.name}' before {until}: the log has no such experiment")


def _users(db: Engine, plan: ExperimentPlan) -> None:
    """Create ``users``: base with capped metrics and segments, without users outside the population."""
    experiment = plan.experiment
    columns = [c for name in plan.metrics for c in _derived(db, plan, name)]
    joins = ""
    for name, segment in experiment.segments.items():
        if segment.of is not None:
            columns.append(f"{range_sql(segment)} AS {identifier(name)}")
        else:
            assert segment.top is not None
            create_top_values(db, name, segment.top)
            joins += f" LEFT JOIN {identifier('top_' + name)} ON {identifier('top_' + name)}.user_id = b.user_id"
            columns.append(f"coalesce({identifier('top_' + name)}.top_value, 'none') AS {identifier(name)}")
    selected = ", ".join(["b.*", *columns])
    db.view("everybody", f"SELECT {selected} FROM base b{joins}")
    where = f" WHERE {condition_sql(experiment.population)}" if experiment.population else ""
    db.view("users", f"SELECT * FROM everybody{where}")


def _derived(db: Engine, plan: ExperimentPlan, name: str) -> list[str]:
    metric = plan.metrics[name]
    if metric.kind == "at_least":
        return [
            f"CASE WHEN b.{metric.of}{s} >= {metric.at_least!r} THEN 1.0 ELSE 0.0 END AS {name}{s}"
            for s in ("", "_pre")
        ]
    if metric.kind == "cap":
        return [f"least(b.{metric.of}{s}, {metric.cap!r}) AS {name}{s}" for s in ("", "_pre")]
    if metric.kind == "winsorise":
        caps = db.rows(
            "SELECT "
            + ", ".join(
                f"percentile_cont({metric.winsorise!r}) WITHIN GROUP (ORDER BY {metric.of}{s}) AS q{s}"
                for s in ("", "_pre")
            )
            + " FROM base"
        )[0]
        return [
            f"least(b.{metric.of}{s}, {float(c or 0)!r}) AS {name}{s}" for s, c in zip(("", "_pre"), caps, strict=True)
        ]
    return []


def _others(tally: UserTally, experiment: Experiment) -> tuple[dict[str, float], dict[str, int]]:
    """For each other experiment with users in common: p-value of its variants being spread evenly; and whom a holdout did not keep."""
    rows = [(other, theirs, ours, n) for (other, theirs, ours), n in tally.others.items()]
    p_values = {}
    for other in sorted({r[0] for r in rows}):
        shared = [r for r in rows if r[0] == other]
        theirs, ours = sorted({r[1] for r in shared}), sorted({r[2] for r in shared})
        if len(theirs) > 1 and len(ours) > 1:
            table = [[sum(r[3] for r in shared if r[1:3] == (t, o)) for o in ours] for t in theirs]
            p_values[other] = float(chi2_contingency(table).pvalue)
    met: dict[str, int] = {}
    for name, _, side, users in rows if experiment.holdout else ():
        if side == experiment.control:
            met[name] = met.get(name, 0) + users
    return p_values, dict(sorted(met.items()))
