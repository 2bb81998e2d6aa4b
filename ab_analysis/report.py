"""The report of an experiment: one self-contained page, its JSON and its CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from ab_analysis import report_charts, report_tables
from ab_analysis.analysis import Analysis, analyze
from ab_analysis.changes import ExperimentChange, RegisteredExperiment, read_changes
from ab_analysis.decision import guardrail_state
from ab_analysis.experiment import Experiment, load_named
from ab_analysis.experiment_plan import ExperimentPlan, make_plan
from ab_analysis.reading import PRIOR_SD, read_effects
from ab_analysis.report_file import FINAL, AboutExperiment
from ab_analysis.results import plain
from ab_analysis.user_table import build_user_table, rows_to_read
from core.charts import Chart, chart_scripts
from core.engine import cluster_beside, local_engine
from core.errors import NotReadyError, PlatformError
from core.files import read_json, write_json, write_text
from core.hours import Hour, day_hours
from core.page_template import INTERACTIVE, write_page
from core.settings import Settings
from events.store import EventStore

TEMPLATE = Path(__file__).with_name("report.html")
STYLE = """
#effects { font-size: .94rem } .close { color: var(--second); font-weight: 600 }
"""
RULES = {
    "fixed": "one look, at the end",
    "always_valid": "any number of looks, for ever (confidence sequence: Robbins 1970, Waudby-Smith et al. 2024)",
    "group_sequential": "daily looks up to the planned end (O'Brien-Fleming spending: Lan & DeMets 1983)",
}
LONG_LIST = re.compile(r"read_parquet\(\[('[^']*'), .*?, ('[^']*')\]\)")


@dataclass(frozen=True)
class Report:
    """A written report."""

    analysis: Analysis
    page: Path


def analyze_experiment(
    settings: Settings, experiment: Experiment, until: Hour, *, with_days: bool = True
) -> tuple[ExperimentPlan, Analysis, list[str]]:
    """Analyze an experiment as of an hour, without writing a report.

    Args:
        settings: name the workspace.
        experiment: content of the experiment file.
        until: hour up to which events count, exclusive.
        with_days: whether to compute the series of days and novelty, on which no decision rests: it costs what the
            experiment's days hold, the rest what the last day holds.

    Returns:
        The plan, the analysis, and the queries that were run.

    Raises:
        PlatformError: as ``write_report``.
    """
    store = EventStore(settings.events_dir)
    plan = make_plan(settings, experiment, tuple(store.facets))
    kept = settings.experiment_days_dir / experiment.name
    with (
        local_engine(settings) as db,
        cluster_beside(settings, partial(rows_to_read, db, store, plan, until, kept)) as cluster,
    ):
        counts = build_user_table(db, store, plan, until, kept=kept, with_days=with_days, cluster=cluster)
        registered = _register(settings.reports_dir / "ab" / experiment.name, experiment)
        analysis = analyze(db, plan, counts, registered=registered, seed=settings.seed, with_days=with_days)
        return plan, analysis, list(db.queries)


def write_report(settings: Settings, experiment: Experiment, until: Hour) -> Report:
    """Analyze an experiment as of an hour and write page, JSON and CSV: the same data give the same bytes on any later day.

    After the experiment's end the report is also written as ``final``; that of an end that holds no more, as a stop was undone, goes.

    Args:
        settings: name the workspace.
        experiment: content of the experiment file.
        until: hour up to which events count, exclusive; at most the experiment's end.

    Raises:
        ConfigError: the file names a metric, column or segment that does not exist.
        NotReadyError: nobody was exposed yet, or too few users, or the log ends on an earlier day.
        DataError: a metric is not a number for some users.
    """
    ended = experiment.end_hour is not None and until >= experiment.end_hour
    if experiment.end_hour is not None:
        until = min(until, experiment.end_hour)
    last = EventStore(settings.events_dir).require_hours()[-1]
    if until > day_hours(last.day)[-1] + 1:
        raise NotReadyError(
            f"no report as of {until} yet: the log ends with {last}; give a day up to {last.day}, or if nothing happened since, "
            "close the hours by 'clock events close'"
        )
    folder = settings.reports_dir / "ab" / experiment.name
    plan, analysis, queries = analyze_experiment(settings, experiment, until)
    stems = [until.key, *([FINAL] if ended else [])]
    if not ended:
        _remove_premature(folder, experiment)
    for stem in stems:
        write_json(folder / f"{stem}.json", {**analysis.as_json(), "about": _about(experiment).model_dump()})
        write_text(folder / f"{stem}.csv", as_csv(analysis))
    changes = read_changes(settings.experiments_dir, experiment.name)
    write_pages(folder, stems, plan, analysis, queries, changes, var=settings.var)
    return Report(analysis, folder / f"{until.key}.html")


def _remove_premature(folder: Path, experiment: Experiment) -> None:
    """Remove a final report that is of another end than the experiment's: pages would go on to show it as the newest."""
    final = folder / f"{FINAL}.json"
    if final.exists() and (experiment.end_hour is None or read_json(final)["until"] != experiment.end_hour.key):
        for suffix in (".html", ".csv", ".json"):
            final.with_suffix(suffix).unlink(missing_ok=True)


@dataclass(frozen=True)
class ReportOutcome:
    """The outcome of reporting one experiment; if ``report`` is None, ``reason`` says why."""

    experiment: str
    report: Report | None
    reason: str = ""


def write_reports(settings: Settings, names: Sequence[str], until: Hour) -> Iterator[ReportOutcome]:
    """Report experiments of the workspace one by one; one that cannot be reported does not stop the others.

    Raises:
        PlatformError: the only experiment named cannot be reported.
    """
    for name in names:
        try:
            report = write_report(settings, load_named(settings.experiments_dir, name), until)
        except PlatformError as error:
            if len(names) == 1:
                raise
            yield ReportOutcome(name, None, str(error))
        else:
            yield ReportOutcome(name, report)


def _about(experiment: Experiment) -> AboutExperiment:
    """What the overview shows of an experiment without reading its file."""
    return AboutExperiment(**experiment.model_dump(mode="json", include=set(AboutExperiment.model_fields)))


def _register(folder: Path, experiment: Experiment) -> RegisteredExperiment:
    """The experiment as it was at its first report, which later edits are compared with."""
    path = folder / "registered.json"
    if not path.exists():
        write_json(path, asdict(RegisteredExperiment.of(experiment)))
    return RegisteredExperiment(**read_json(path))


def write_pages(
    folder: Path,
    stems: list[str],
    plan: ExperimentPlan,
    analysis: Analysis,
    queries: list[str],
    changes: Sequence[ExperimentChange] = (),
    *,
    var: Path,
) -> None:
    """Write the page of an analysis under each of the names; its charts are drawn once.

    Args:
        folder: of the experiment's reports.
        stems: names of the page.
        plan: the experiment and its metrics.
        analysis: what the page shows.
        queries: that were run.
        changes: of the experiment's file.
        var: folder of the workspaces.
    """
    experiment, points = plan.experiment, analysis.points
    titles = {name: m.title or name.replace("_", " ") for name, m in plan.metrics.items()}
    readings = read_effects(plan, analysis, titles)
    guardrails = [
        (r, guardrail_state(plan, r), experiment.guardrails[r.metric].max_worse)
        for r in analysis.results
        if r.headline and r.role == "guardrail"
    ]
    planned, several = max(round(analysis.planned_days), 1), len(experiment.treatments) > 1
    context: dict[str, Any] = {
        "experiment": experiment, "analysis": analysis, "decision": analysis.decision, "warnings": analysis.warnings,
        "planned": planned, "day": min(max(math.ceil(analysis.elapsed_days), 1), planned), "titles": titles,
        "shares": {v: s / sum(experiment.variants.values()) for v, s in experiment.variants.items()},
        "worse": report_tables.worse_secondary(readings), "secondary": len(experiment.secondary),
        "power": report_tables.power(plan, analysis, titles),
        "exposures": _drawn(report_charts.exposures(experiment, points)) if points else None,
        "lifts": _drawn(report_charts.lifts(experiment, readings)),
        "absolute": [_drawn(chart) for chart in report_charts.effects(experiment, readings)],
        "effects": report_tables.effects(experiment, readings, {name: m.in_words for name, m in plan.metrics.items()}),
        "methods": report_tables.methods(
            experiment, analysis.results, titles, confidence=experiment.confidence, power=experiment.power,
            minimum_effect=experiment.minimum_effect,
        ),
        "users": sum(analysis.users.values()), "prior": PRIOR_SD, "several": several,
        "metrics": {n: plan.metrics[n] for n in plan.metrics}, "guardrails": guardrails,
        "so_far": [_drawn(chart) for chart in report_charts.so_far(experiment, points, titles)],
        "daily": [_drawn(chart) for chart in report_charts.daily(experiment, points, titles)],
        "segment_chart": _drawn(report_charts.segments(analysis.segments, titles, several=several)),
        "segment_names": list(dict.fromkeys(s.segment for s in analysis.segments)),
        "segments": report_tables.segments(analysis.segments, titles) if analysis.segments else None,
        "same": report_tables.same_in_segments(analysis.segments, titles, experiment.confidence),
        "distributions": [_drawn(chart) for chart in report_charts.distributions(experiment, analysis.histograms, titles)],
        "changes": report_tables.changes(changes) if changes else None, "has_plan": (folder / "plan.html").exists(),
        "rule": RULES[experiment.stopping.rule], "queries": [LONG_LIST.sub(r"read_parquet([\1, …, \2])", q) for q in queries],
        "content": yaml.safe_dump(experiment.model_dump(mode="json", exclude_unset=True), sort_keys=False),
    }  # fmt: skip
    template, scripts = TEMPLATE.read_text(encoding="utf-8"), (INTERACTIVE, chart_scripts(var))
    for stem in stems:
        path, title = folder / f"{stem}.html", f"Experiment {experiment.name}"
        write_page(path, title, template, home="../index.html", style=STYLE, scripts=scripts, stem=stem, **context)


def _drawn(chart: Chart | None) -> Markup | None:
    """A chart's markup, drawn once for all names of a page."""
    return chart.__html__() if chart else None


def as_csv(analysis: Analysis) -> str:
    """The results as CSV, one row per metric, variant and method."""
    rows = [plain(r) for r in analysis.results]
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    flat = [{k: v for key, value in row.items() for k, v in _flat(key, value)} for row in rows]
    table.writerow(flat[0])
    table.writerows(["" if v is None else v for v in row.values()] for row in flat)
    return buffer.getvalue()


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    if key.endswith("_ci"):
        low, high = value or (None, None)
        return [(f"{key}_low", low), (f"{key}_high", high)]
    return [(key, value)]
