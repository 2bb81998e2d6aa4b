"""Reports of a day: drift, experiments, and the index page that links everything."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ab_analysis.assignment import check_workspace_layers
from ab_analysis.experiment import Experiment, find_experiments, load_named
from ab_analysis.report import write_report
from ab_analysis.report_file import FINAL
from core import duck
from core.alerts import send_alert
from core.duck import file_list, identifier
from core.errors import ConfigError, NotReadyError
from core.files import read_json, write_json
from core.hours import Hour, day_hours, hour_range
from core.logs import log_context
from core.settings import Settings
from events.schema import OWNERS
from events.store import EventStore
from pipeline.experiment_changes import log_end

if TYPE_CHECKING:
    from evaluation.drift import Drift
    from evaluation.metrics import MetricValue

log = logging.getLogger("pipeline.reports")

REFERENCE_DAYS = 7
EXAMPLE_CLOCKS = 2
MOST_VALUES = 100
"""An attribute with more values is not compared from day to day."""


@log_context(day="day")
def report_drift(settings: Settings, day: date) -> Drift:
    """Drift of a day by Evidently's tests: features, labels and the champion's predictions.

    The reference is the last week that the champion was trained on, or, without a champion, the week before
    the day. A day that is not over is compared with the same UTC hours of day. More drift than the policy allows raises
    an alert, and the gate asks a person.

    Raises:
        NotReadyError: too few events on either side.
    """
    from evaluation.drift import compare_days, like_hours
    from evaluation.policy import load_policy
    from model_registry.store import open_registry
    from pages.drift import write_drift_page
    from pipeline.promotion import own_policy

    store = EventStore(settings.events_dir)
    models, variant, end = open_registry(settings), settings.baseline_variant, day_hours(day)[0]
    if champion := models.get("champion"):
        variant, trained_until = models.lineage(champion)
        end = min(end, trained_until + 1)
    hours = [hour for hour in day_hours(day) if store.has(hour)]
    before_hours = like_hours(hour_range(end - 24 * REFERENCE_DAYS, end), hours)
    if not hours:
        raise NotReadyError(f"no events of {day}")
    current = _frame(settings, store, hours, variant)
    before = _frame(settings, store, before_hours, variant)
    folder = settings.reports_dir / "drift"
    categories, numbers = _attributes_compared(store, current, before)
    comparison = compare_days(
        str(day), current, before, categorical=[*store.facets, *categories, "finish"],
        numerical=[*_numbers(current, before), *numbers],
        html=folder / f"{day}.html", hour="local_hour", seed=settings.seed,
    )  # fmt: skip
    drift, limit = comparison.drift, load_policy(own_policy(settings)).max_drift_share
    write_drift_page(
        comparison, f"the same hours of day from {before_hours[0]} to {before_hours[-1]} UTC", limit, settings.var
    )
    write_json(folder / f"{day}.json", asdict(drift))
    log.info(
        "drift of %s: %d of %d columns (%s)", day, len(drift.drifted), drift.columns, ", ".join(drift.drifted) or "none"
    )
    if drift.share > limit:
        send_alert(settings, f"{drift.share:.0%} of the columns drifted on {day}", columns=drift.drifted, limit=limit)
    return drift


def _frame(settings: Settings, store: EventStore, hours: list[Hour], variant: str) -> pd.DataFrame:
    """Events of hours with their attributes, and the prediction that the variant made of them before it trained on them."""
    from training.trainer import prediction_file

    files = store.event_files(hours)
    if not files:
        raise NotReadyError(f"no events from {hours[0]} to {hours[-1]}")
    scored = [p for h in hours if (p := prediction_file(settings, variant, h)).exists()]
    tables = [owner for owner in OWNERS if store.attribute_fields(owner) and store.attribute_file(owner).exists()]
    attributes = "".join(f", {owner}s.* EXCLUDE ({owner}_id, event_timestamp)" for owner in tables)
    joins = " ".join(
        f"""ASOF LEFT JOIN read_parquet({file_list([store.attribute_file(owner)])}) {owner}s ON {owner}s.{owner}_id = e.{owner}_id
        AND date_trunc('hour', e.timestamp) >= {owner}s.event_timestamp"""
        for owner in tables
    )
    source = f"read_parquet({file_list(scored)})" if scored else "(SELECT '' AS event_id, 0.0 AS score WHERE false)"
    with duck.connection(settings) as con:
        events = f"read_parquet({file_list(files)}, union_by_name = true)"
        written = {row[0] for row in con.execute(f"DESCRIBE SELECT * FROM {events}").fetchall()}
        columns = ", ".join(f"e.{identifier(f)}" for f in (*store.facets, *store.source.context) if f in written)
        return con.sql(
            f"""SELECT {columns}{attributes}, CAST(e.finish AS VARCHAR) AS finish, e.played_seconds, hour(e.local_time) AS local_hour,
            p.score AS prediction FROM {events} e {joins}
            LEFT JOIN {source} p ON p.event_id = e.event_id
            ORDER BY e.timestamp, e.event_id"""
        ).df()


def _attributes_compared(store: EventStore, *sides: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Categories and numbers among attributes and context that are compared; ids in disguise have too many values.

    What only one side has, such as context that the log began to tell, cannot be compared.
    """
    fields, known = store.source.attributes, [column for column in sides[0] if all(column in side for side in sides)]
    told = [*store.source.categories, *(field.column for field in fields if field.type == "category")]
    values = {name: pd.concat([side[name] for side in sides]).nunique() for name in told if name in known}
    numbers = [field.column for field in fields if field.type == "number" and field.column in known]
    for name in numbers:
        for side in sides:
            side[name] = pd.to_numeric(side[name], errors="coerce")
    return (
        [name for name, count in values.items() if 0 < count <= MOST_VALUES],
        [name for name in numbers if all(side[name].notna().any() for side in sides)],
    )


def _numbers(*sides: pd.DataFrame) -> list[str]:
    columns = ("played_seconds", "local_hour", "prediction")
    return [c for c in columns if all(side[c].notna().any() for side in sides)]


def due_experiments(settings: Settings, until: Hour) -> list[str]:
    """Experiments to report as of an hour: those that run, and those that ended and have no final report yet.

    An experiment whose file is wrong is due too: its report fails, by name, and the others' do not.
    """
    folder = settings.experiments_dir
    return [name for name in find_experiments(folder) if _is_due(settings, _load_if_right(folder, name), until)]


def _load_if_right(folder: Path, name: str) -> Experiment | None:
    try:
        return load_named(folder, name)
    except ConfigError:
        return None


def _is_due(settings: Settings, experiment: Experiment | None, until: Hour) -> bool:
    if experiment is None:
        return True
    return experiment.start_time < until.start and not _is_final(settings, experiment, until)


def _is_final(settings: Settings, experiment: Experiment, until: Hour) -> bool:
    """Whether the experiment's final report stands, and is what a report as of ``until`` would write again."""
    final = settings.reports_dir / "ab" / experiment.name / f"{FINAL}.json"
    ended = experiment.end_hour is not None and until > experiment.end_hour
    return ended and final.exists() and read_json(final)["until"] == (experiment.end_hour or until).key


@dataclass(frozen=True)
class ReportSummary:
    """What an experiment's report says; before anybody was exposed there is neither verdict nor page."""

    experiment: str
    verdict: str | None
    sentence: str
    report: str | None


@log_context(experiment="name", hour="until")
def report_experiment(settings: Settings, name: str, until: Hour) -> ReportSummary:
    """Report one experiment of the workspace as of an hour; before anybody was exposed the sentence says so.

    Raises:
        ConfigError: the file is wrong, its name is not its experiment's, or another experiment claims the same users of
            its layer.
    """
    experiment = load_named(settings.experiments_dir, name)
    check_workspace_layers(settings, experiment)
    try:
        written = write_report(settings, experiment, until)
    except NotReadyError as error:
        log.warning("%s: %s", name, error)
        return ReportSummary(name, None, str(error), None)
    decision = written.analysis.decision
    log.info("experiment %s: %s", name, decision.sentence)
    if decision.harmful or decision.verdict == "no_conclusion":
        told = f"stop {', '.join(decision.harmful)}" if decision.harmful else decision.verdict
        send_alert(settings, f"experiment {name}: {told}", sentence=decision.sentence, report=str(written.page))
    return ReportSummary(name, decision.verdict, decision.sentence, str(written.page))


class ChangeReport(NamedTuple):
    """What was written after a change of an experiment: its report, None without a log, and the page to look at."""

    summary: ReportSummary | None
    page: str


def report_change(settings: Settings, name: str) -> ChangeReport:
    """Write an experiment's report after a person changed it, and the pages that list experiments."""
    end = log_end(settings)
    summary = report_experiment(settings, name, end) if end else None
    overview = list_experiments(settings)
    return ChangeReport(summary, summary.report if summary and summary.report else overview)


def list_experiments(settings: Settings) -> str:
    """Write the index of experiments, whose path it returns, and the first page."""
    from ab_analysis.overview import write_overview
    from pages.index import write_index

    overview = str(write_overview(settings))
    write_index(settings)
    return overview


class DueReport(NamedTuple):
    """A report that is due: of an experiment, as of the start of the hour ``until``, written as its key."""

    experiment: str
    until: str


def past_reports(settings: Settings, name: str | None, first: date, last: date) -> list[DueReport]:
    """Every report that is due at the end of days from ``first`` to ``last``.

    An experiment whose file is wrong is listed once, for the last day: its report fails, by name.

    Raises:
        ConfigError: the days are the wrong way round, or there is no such experiment.
    """
    if last < first:
        raise ConfigError(f"the last day {last} lies before the first, {first}")
    folder = settings.experiments_dir
    if name:
        load_named(folder, name)
    experiments = {n: _load_if_right(folder, n) for n in ([name] if name else find_experiments(folder))}
    due: dict[DueReport, None] = {}
    for offset in range((last - first).days + 1):
        until = day_hours(first + timedelta(days=offset))[-1] + 1
        for n, e in experiments.items():
            if e is None:
                due[DueReport(n, (day_hours(last)[-1] + 1).key)] = None
            elif e.start_time < until.start:
                due[DueReport(n, min(until, e.end_hour or until).key)] = None
    return list(due)


def report_clocks(settings: Settings) -> list[str]:
    """Draw the clocks of everybody and of the most active users; ``clock features page`` draws any other."""
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import write_clock_page

    features = ClockFeatures(settings, EventStore(settings.events_dir))
    return [str(write_clock_page(features, user)) for user in (None, *features.most_active(EXAMPLE_CLOCKS))]


def variant_metrics(settings: Settings, start: Hour, end: Hour) -> dict[str, dict[str, MetricValue]]:
    """Variant → metrics with intervals on its progressive predictions of hours [start, end), each made before training."""
    from evaluation.metrics import with_intervals
    from evaluation.prediction_table import as_predictions
    from training.trainer import read_predictions

    metrics = {}
    for variant in settings.variants:
        table = read_predictions(settings, variant, start, end)
        if table.num_rows:
            metrics[variant] = with_intervals(as_predictions(table))
    return metrics
