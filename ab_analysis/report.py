"""The report of an experiment: one self-contained page, its JSON and its CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ab_analysis import plots, report_tables
from ab_analysis.analysis import Analysis, analyze
from ab_analysis.decision import guardrail_state, side
from ab_analysis.experiment import Experiment, ExperimentPlan, RegisteredExperiment, load_named, make_plan
from ab_analysis.report_file import AboutExperiment
from ab_analysis.results import MetricResult, plain
from ab_analysis.user_table import build_user_table
from core.engine import engine
from core.errors import PlatformError
from core.files import read_json, write_json, write_text
from core.hours import Hour
from core.page_template import write_page
from core.settings import Settings
from events.store import EventStore

TEMPLATE = Path(__file__).with_name("report.html")
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
    with engine(settings) as db:
        kept = settings.experiment_days_dir / experiment.name
        counts = build_user_table(db, store, plan, until, kept=kept, with_days=with_days)
        registered = _register(settings.reports_dir / "ab" / experiment.name, experiment)
        analysis = analyze(db, plan, counts, registered=registered, seed=settings.seed, with_days=with_days)
        return plan, analysis, list(db.queries)


def write_report(settings: Settings, experiment: Experiment, until: Hour) -> Report:
    """Analyze an experiment as of an hour and write page, JSON and CSV: the same data give the same bytes on any later day.

    After the experiment's end the report is also written as ``final``.

    Args:
        settings: name the workspace.
        experiment: content of the experiment file.
        until: hour up to which events count, exclusive; at most the experiment's end.

    Raises:
        ConfigError: the file names a metric, column or segment that does not exist.
        NotReadyError: nobody was exposed yet, or too few users.
        DataError: a metric is not a number for some users.
    """
    ended = experiment.end_hour is not None and until >= experiment.end_hour
    if experiment.end_hour is not None:
        until = min(until, experiment.end_hour)
    folder = settings.reports_dir / "ab" / experiment.name
    plan, analysis, queries = analyze_experiment(settings, experiment, until)
    stems = [until.key, *(["final"] if ended else [])]
    for stem in stems:
        write_json(folder / f"{stem}.json", {**analysis.as_json(), "about": _about(experiment).model_dump()})
        write_text(folder / f"{stem}.csv", as_csv(analysis))
    write_pages(folder, stems, plan, analysis, queries)
    return Report(analysis, folder / f"{until.key}.html")


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


def write_pages(folder: Path, stems: list[str], plan: ExperimentPlan, analysis: Analysis, queries: list[str]) -> None:
    """Write the page of an analysis under each of the names; its plots are drawn once."""
    experiment = plan.experiment
    titles = {name: m.title or name.replace("_", " ") for name, m in plan.metrics.items()}

    def toward(result: MetricResult) -> int:
        return side(plan, result)

    guardrails = [
        (r, guardrail_state(plan, r), experiment.guardrails[r.metric].max_worse)
        for r in analysis.results
        if r.headline and r.role == "guardrail"
    ]
    has_points = any(p.so_far.known for p in analysis.points)
    planned = max(round(analysis.planned_days), 1)
    context: dict[str, Any] = {
        "experiment": experiment, "analysis": analysis, "decision": analysis.decision, "warnings": analysis.warnings,
        "planned": planned, "day": min(max(math.ceil(analysis.elapsed_days), 1), planned), "titles": titles,
        "worse": report_tables.worse_secondary(plan, analysis, titles), "powers": report_tables.powers(analysis, titles),
        "forest": plots.forest(experiment, analysis, titles, toward), "effects": report_tables.effects(plan, analysis, titles),
        "methods": report_tables.methods(plan, analysis, titles), "minimum": f"{experiment.minimum_effect:.2%}",
        "definitions": {n: m.definition for n, m in plan.metrics.items()}, "guardrails": guardrails,
        "so_far": plots.so_far(experiment, analysis, titles) if has_points else None,
        "daily": plots.daily(experiment, analysis, titles) if has_points else None,
        "segment_plot": plots.segments(analysis.segments, titles) if analysis.segments else None,
        "segments": report_tables.segments(analysis.segments, titles) if analysis.segments else None,
        "same": report_tables.same_in_segments(analysis.segments, titles, experiment.confidence),
        "distributions": plots.distributions(analysis, titles) if analysis.histograms else None,
        "rule": RULES[experiment.stopping.rule], "queries": [LONG_LIST.sub(r"read_parquet([\1, …, \2])", q) for q in queries],
        "content": yaml.safe_dump(experiment.model_dump(mode="json", exclude_unset=True), sort_keys=False),
    }  # fmt: skip
    template = TEMPLATE.read_text(encoding="utf-8")
    for stem in stems:
        path = folder / f"{stem}.html"
        write_page(path, f"Experiment {experiment.name}", template, home="../index.html", stem=stem, **context)


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
