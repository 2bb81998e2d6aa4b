"""Pages about models: a gate decision, and the life of the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.charts import chart_scripts
from core.documents import JsonObject
from core.files import read_json
from core.hours import Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import INTERACTIVE, number, write_page
from core.settings import Settings
from evaluation.gate_decision import GateCheck, GateDecision
from evaluation.metrics import JUDGED
from events.store import EventStore
from model_registry.registry import CHAMPION, Move
from model_registry.store import open_registry
from pages import model_charts
from pages.daily_figures import daily_figures
from pages.gate_checks import SLICE, STYLE, checks_table
from pages.model_history import (
    BY_HOUR,
    MEASURED_DAYS,
    by_hour_of_day,
    calibration,
    overall,
    recent_predictions,
    timeline,
)
from pages.model_tables import (
    bounds,
    calibration_table,
    days_table,
    decimals,
    hours_table,
    overall_table,
    slices_table,
)
from pages.model_versions import versions_table

GATE = """
<section class="banner {{ tone }}"><p class="lead"><strong>{{ decision.verdict|words }}</strong>:
{{ decision.reason }}</p></section>
<section><h2>Checks</h2>{% if checks %}{{ checks }}{% else %}<p>No check was made yet.</p>{% endif %}
{% if slices %}<details><summary>Slices that passed: {{ slices.rows|length }}</summary>{{ slices }}</details>{% endif %}
{% if checks %}<p class="soft">
Differences are candidate minus {{ reference }}. {{ how }}</p>{% endif %}</section>
{% if figures %}<section><h2>Figures</h2>{{ figures }}
<p class="soft">UAUC compares scores of different hours, so it falls where a ranker learns from the user's own past; session AUC
compares only what was shown together. The policy says which of them are checked.</p></section>{% endif %}
{% if hourly_chart %}<section><h2>Hour by hour</h2><div class="pair">{{ hourly_chart }}<div>{{ hourly }}</div></div></section>{% endif %}
<section><h2>Versions</h2><p>Candidate: {{ decision.candidate.variant }}, version {{ decision.candidate.version }}, trained until
{{ decision.candidate.trained_until }}.<br>Champion: {% if decision.champion %}{{ decision.champion.variant }}, version
{{ decision.champion.version }}, trained until {{ decision.champion.trained_until }}
{%- else %}none yet; compared with popularity{% endif %}.</p>
<p class="soft">Hours compared: {{ decision.hours|join(", ") or "none" }}. Intervals are clustered by user and corrected for
looking every hour; those of slices for the number of slices.</p></section>
"""
MODEL = Path(__file__).with_name("model.html")
HOW = (
    "Margins of differences share one unit; other figures are drawn by how many limits they are from their limit. "
    "Left of the line is the wrong side."
)
TONES = {"promote": "calm", "wait": "open", "keep": "open"}
"""Of the banner, by verdict; any other one asks for a person."""


def write_gate_page(path: Path, hour: Hour, decision: GateDecision) -> Path:
    """The page of a decision: verdict, differences, hours, checks."""
    write_page(
        path, f"Gate at {hour} UTC", GATE, style=STYLE, home="../index.html", decision=decision,
        tone=TONES.get(decision.verdict, ""), figures=_figures(decision), reference=_reference(decision), how=HOW,
        **_hourly(decision.hourly, _reference(decision)), **_tables(decision.checks),
    )  # fmt: skip
    return path


def _reference(decision: GateDecision) -> str:
    """What the candidate was compared with."""
    return "champion" if decision.champion else "popularity"


def _tables(checks: Sequence[GateCheck]) -> dict[str, Any]:
    """The tables of the checks, under the templates' names for them: slices that passed stand apart. None where there are none."""
    folded = [check for check in checks if SLICE in check.name and check.passed]
    first = [check for check in checks if check not in folded]
    return {
        "checks": checks_table(first) if first else None,
        "slices": checks_table(folded) if folded else None,
    }


def write_model_page(settings: Settings) -> Path:
    """The champion's page: lineages on one time axis, checks, slices, hours of the day, calibration, days, moves, drift.

    Raises:
        NotReadyError: MLflow does not answer.
    """
    models = open_registry(settings)
    hours = EventStore(settings.events_dir).hours()
    models.record_moves_by_hand(hours[-1] if hours else None)
    champion = models.get(CHAMPION)
    lineage = models.lineage(champion) if champion else None
    moves = models.moves()
    decisions = {
        path.stem: GateDecision.from_json(read_json(path))
        for path in sorted((settings.reports_dir / "gate").glob("*.json"), reverse=True)
    }
    last_at = next(iter(decisions), None)
    judged_at = next((at for at, decision in decisions.items() if decision.checks), None)
    judged = decisions[judged_at] if judged_at else None
    drift = [read_json(p) for p in sorted((settings.reports_dir / "drift").glob("*.json"), reverse=True)[:30]]
    reports = sorted((settings.reports_dir / "importance").glob("*.json"))
    importance = read_json(reports[-1]) if reports else None
    path = settings.reports_dir / "model.html"
    versions = models.client.search_model_versions(f"name = '{models.name}'")
    lineages = timeline(settings, moves, {str(v.version): v.tags.get("variant", "") for v in versions})
    write_page(
        path, f"Model {models.name}", MODEL.read_text(encoding="utf-8"), style=STYLE, home="index.html",
        scripts=(INTERACTIVE, chart_scripts(settings.var)),
        moves=_moves([m for m in moves if m.alias == CHAMPION]), lineages=model_charts.lineages(lineages),
        aliases=versions_table(settings, models), other_moves=_moves([m for m in moves if m.alias != CHAMPION]), drift=_drift(drift),
        importance=importance_table(importance["inputs"]) if importance else None, importance_of=importance,
        champion={"version": champion.version, **lineage._asdict()} if champion and lineage else None,
        **_daily(settings, moves), last=decisions[last_at] if last_at else None, last_at=last_at, judged=judged, judged_at=judged_at,
        tone=TONES.get(decisions[last_at].verdict, "") if last_at else "", how=HOW, days=MEASURED_DAYS,
        checks=checks_table([c for c in judged.checks if not (c.passed and SLICE in c.name)]) if judged else None,
        slice_table=slices_table(judged.checks) if judged else None,
        **_recent(settings, [lineage.variant if lineage else settings.baseline_variant, settings.candidate_variant]),
    )  # fmt: skip
    if champion is not None:
        models.client.set_model_version_tag(models.name, str(champion.version), "report", path.as_uri())
    return path


def _figures(decision: GateDecision) -> Table | None:
    """Both sides of every metric with their difference, whether the policy checks it or not; None before any was computed."""
    figures = decision.figures
    if figures is None:
        return None
    columns = [
        Column("metric"),
        Column("candidate"),
        Column(_reference(decision)),
        Column("difference"),
        Column("interval"),
    ]
    rows = []
    for metric, title in JUDGED.items():
        difference = figures.difference(metric)
        if difference is not None:
            sides = (decimals(getattr(side, metric)) for side in (figures.candidate, figures.rival))
            rows.append(Row([title, *sides, decimals(difference.value, "+"), bounds(difference.interval, "+")]))
    return Table(columns, rows)


def _moves(moves: Sequence[Move]) -> Table:
    """What moved the aliases, the newest first."""
    columns = [
        Column("when (UTC)"),
        Column("hour"),
        Column("alias"),
        Column("from"),
        Column("to"),
        Column("who", words=True),
        Column("why", words=True),
    ]
    rows = [
        Row([m.at[:16].replace("T", " "), m.hour or "", m.alias, m.previous or "", m.version or "", m.who, m.reason])
        for m in reversed(moves)
    ]
    return Table(columns, rows)


def importance_table(inputs: Sequence[JsonObject]) -> Table:
    """Each input's permutation importance, the largest first."""
    columns = [Column("input"), Column("of"), Column("AUC lost"), Column("95 % interval")]
    rows = []
    for i in inputs:
        interval = (i["low"], i["high"]) if i["low"] is not None else (math.nan, math.nan)
        rows.append(Row([i["name"], i["of"], decimals(i["auc_drop"], "+"), bounds(interval, "+")]))
    return Table(columns, rows)


def _drift(days: Sequence[JsonObject]) -> Table | None:
    """Which columns drifted on each day; None where no day was reported."""
    columns = [
        Column("day"), Column("columns"), Column("drifted"), Column("which", words=True), Column("within hours of day", words=True),
    ]  # fmt: skip
    rows = [
        Row(
            [
                Cell(d["day"], link=f"drift/{d['day']}.html"), f"{d['columns']}", f"{len(d['drifted'])}", ", ".join(d["drifted"]),
                "; ".join(f"{hour} h: {', '.join(names)}" for hour, names in sorted(d["hours"].items()) if names),
            ]
        )
        for d in days
    ]  # fmt: skip
    return Table(columns, rows) if rows else None


def _hourly(hourly: Mapping[str, tuple[float, float]], reference: str) -> dict[str, Any]:
    """AUCs of every hour compared as a chart and as a table, the newest hour first, under the template's names for them."""
    columns = [Column("hour (UTC)"), Column("candidate"), Column(reference), Column("difference")]
    rows = [
        Row([hour, number(candidate), number(other), decimals(candidate - other, "+")])
        for hour, (candidate, other) in reversed([*hourly.items()])
    ]  # fmt: skip
    return {"hourly_chart": model_charts.hour_by_hour(hourly, reference), "hourly": Table(columns, rows)}


def _daily(settings: Settings, moves: Sequence[Move]) -> dict[str, Any]:
    """What was measured on each day, under the template's names for it, with the hours at which the champion moved."""
    at = [move.hour for move in moves if move.alias == CHAMPION and move.hour]
    figures = daily_figures(settings, settings.variants)
    charts = [model_charts.daily([f for f in figures if f.metric == m], at, title) for m, title in JUDGED.items()]
    return {"daily": [chart for chart in charts if chart], "days_table": days_table(figures) if figures else None}


def _recent(settings: Settings, variants: Sequence[str]) -> dict[str, Any]:
    """What the last days' predictions say of some variants, under the template's names for it."""
    tables = recent_predictions(settings, variants)
    if not tables:
        return dict.fromkeys(("overall", "hours", "hours_table", "calibration", "calibration_table"))
    hours = [figure for variant, table in tables.items() for figure in by_hour_of_day(variant, table)]
    bins = [each for variant, table in tables.items() for each in calibration(variant, table)]
    charts = [model_charts.by_hour(hours, metric, JUDGED[metric]) for metric in BY_HOUR]
    return {
        "overall": overall_table([figure for variant, table in tables.items() for figure in overall(variant, table)]),
        "hours": [chart for chart in charts if chart],
        "hours_table": hours_table(hours),
        "calibration": model_charts.calibration(bins),
        "calibration_table": calibration_table(bins),
    }
