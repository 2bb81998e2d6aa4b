"""Pages about models: a gate decision, and the life of the champion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.documents import JsonObject
from core.files import read_json
from core.hours import Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import svg, words, write_page
from core.settings import Settings
from evaluation.gate import GateCheck, GateDecision
from evaluation.metrics import JUDGED
from events.store import EventStore
from model_registry.registry import ALIASES, CHAMPION, Move, Registry
from model_registry.store import experiment_name, open_mlflow, open_registry
from pages.gate_checks import SLICE, STYLE, checks_table
from pages.index import interfaces

if TYPE_CHECKING:
    from markupsafe import Markup

GATE = """
<section class="banner {{ tone }}"><p class="lead"><strong>{{ decision.verdict|words }}</strong>:
{{ decision.reason }}</p></section>
<section><h2>Checks</h2>{% if checks %}{{ checks }}{% else %}<p>No check was made yet.</p>{% endif %}
{% if slices %}<details><summary>Slices that passed: {{ slices.rows|length }}</summary>{{ slices }}</details>{% endif %}
{% if checks %}<p class="soft">
Differences are candidate minus {{ "champion" if decision.champion else "popularity" }}. {{ how }}</p>{% endif %}</section>
{% if figures %}<section><h2>Figures</h2>{{ figures }}
<p class="soft">UAUC compares scores of different hours, so it falls where a ranker learns from the user's own past; session AUC
compares only what was shown together. The policy says which of them are checked.</p></section>{% endif %}
{% if hourly %}<section><h2>Hour by hour</h2>{{ hourly }}</section>{% endif %}
<section><h2>Versions</h2><p>Candidate: {{ decision.candidate.variant }}, version {{ decision.candidate.version }}, trained until
{{ decision.candidate.trained_until }}.<br>Champion: {% if decision.champion %}{{ decision.champion.variant }}, version
{{ decision.champion.version }}, trained until {{ decision.champion.trained_until }}
{%- else %}none yet; compared with popularity{% endif %}.</p>
<p class="soft">Hours compared: {{ decision.hours|join(", ") or "none" }}. Intervals are clustered by user and corrected for
looking every hour; those of slices for the number of slices.</p></section>
"""
MODEL = """
<section class="banner calm"><p class="lead">{% if champion %}Champion: <strong>{{ champion.variant }}</strong>, version
{{ champion.version }}, trained until {{ champion.hour }}.{% else %}No champion yet.{% endif %}</p>
{% if last %}<p>The gate's last decision: {{ last.verdict|words }}. {{ last.reason }}
<a href="gate/{{ last_at }}.html">Gate at {{ last_at }}</a></p>{% endif %}</section>
{% if aliases.rows %}<section><h2>Versions</h2>{{ aliases }}</section>{% endif %}
{% if checks %}<section><h2>Checks of {{ judged_at }}</h2><p>{{ judged.reason }}</p>{{ checks }}
{% if slices %}<details><summary>Slices that passed: {{ slices.rows|length }}</summary>{{ slices }}</details>{% endif %}
<p class="soft">The last decision that came to figures, <a href="gate/{{ judged_at }}.html">in full</a>. {{ how }}</p></section>{% endif %}
<section><h2>AUC day by day</h2>{{ daily }}</section>
{% if sessions %}<section><h2>Session AUC day by day</h2>{{ sessions }}</section>{% endif %}
<section><h2>Moves of the champion</h2>{{ moves }}
{% if other_moves.rows %}
<details><summary>Moves of the other aliases: {{ other_moves.rows|length }}</summary>{{ other_moves }}</details>
{% endif %}</section>
{% if importance %}<section><h2>What the ranker rests on</h2>{{ importance }}
<p class="soft">{{ importance_of.variant }} as trained until {{ importance_of.state }}, on
{{ "{:,}".format(importance_of.rows) }} samples of {{ importance_of.day }}: how much AUC is lost when one input is shuffled among
them, with its 95 % interval. Inputs that say the same share their importance.</p></section>{% endif %}
<section><h2>Drift</h2>{% if drift %}{{ drift }}{% else %}<p class="soft">No day was reported yet.</p>{% endif %}</section>
"""
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
        tone=TONES.get(decision.verdict, ""), figures=_figures(decision),
        hourly=_hourly(decision.hourly) if decision.hourly else None, how=HOW, **_tables(decision.checks),
    )  # fmt: skip
    return path


def _tables(checks: Sequence[GateCheck]) -> dict[str, Any]:
    """The tables of the checks, under the templates' names for them: slices that passed stand apart. None where there are none."""
    folded = [check for check in checks if SLICE in check.name and check.passed]
    first = [check for check in checks if check not in folded]
    return {
        "checks": checks_table(first) if first else None,
        "slices": checks_table(folded) if folded else None,
    }


def write_model_page(settings: Settings) -> Path:
    """The champion's page: metrics over time, moves on the time axis, slices, drift.

    Raises:
        NotReadyError: MLflow does not answer.
    """
    models = open_registry(settings)
    hours = EventStore(settings.events_dir).hours()
    models.record_moves_by_hand(hours[-1] if hours else None)
    champion = models.get(CHAMPION)
    moves = models.moves()
    decisions = {
        path.stem: GateDecision.from_json(read_json(path))
        for path in sorted((settings.reports_dir / "gate").glob("*.json"), reverse=True)
    }
    last_at = next(iter(decisions), None)
    judged_at = next((at for at, decision in decisions.items() if decision.checks), None)
    drift = [read_json(p) for p in sorted((settings.reports_dir / "drift").glob("*.json"), reverse=True)[:30]]
    reports = sorted((settings.reports_dir / "importance").glob("*.json"))
    importance = read_json(reports[-1]) if reports else None
    path = settings.reports_dir / "model.html"
    means = _daily_means(settings)
    write_page(
        path, f"Model {models.name}", MODEL, style=STYLE, home="index.html", moves=_moves([m for m in moves if m.alias == CHAMPION]),
        aliases=_aliases(models, settings), other_moves=_moves([m for m in moves if m.alias != CHAMPION]), drift=_drift(drift),
        importance=_importance(importance["inputs"]) if importance else None, importance_of=importance,
        champion={"variant": champion.tags["variant"], "version": champion.version, "hour": champion.tags["hour"]} if champion else None,
        daily=_daily(means["auc"], moves, "AUC"),
        sessions=_daily(means["session_auc"], moves, "session AUC") if any(means["session_auc"].values()) else None,
        last=decisions[last_at] if last_at else None, last_at=last_at, judged=decisions[judged_at] if judged_at else None,
        judged_at=judged_at, how=HOW, **_tables(decisions[judged_at].checks if judged_at else ()),
    )  # fmt: skip
    if champion is not None:
        models.client.set_model_version_tag(models.name, str(champion.version), "report", path.as_uri())
    return path


def _figures(decision: GateDecision) -> Table | None:
    """Both sides of every metric with their difference, whether the policy checks it or not; None before any was computed."""
    figures = decision.figures
    if figures is None:
        return None
    rival = "champion" if decision.champion else "popularity"
    columns = [Column("metric"), Column("candidate"), Column(rival), Column("difference"), Column("interval")]
    rows = []
    for metric, title in JUDGED.items():
        difference = figures.difference(metric)
        if difference is not None:
            low, high = difference.interval
            sides = (f"{getattr(side, metric):.4f}" for side in (figures.candidate, figures.rival))
            rows.append(Row([title, *sides, f"{difference.value:+.4f}", f"{low:+.4f} to {high:+.4f}"]))
    return Table(columns, rows)


def _aliases(models: Registry, settings: Settings) -> Table:
    """Who stands behind each alias, with links to the versions in MLflow, which lead on to the runs that trained them."""
    mlflow = dict(interfaces(settings))["MLflow"].rstrip("/")
    versions = {alias: version for alias in ALIASES if (version := models.get(alias))}
    rows = [
        Row(
            [
                alias,
                Cell(str(version.version), link=f"{mlflow}/#/models/{models.name}/versions/{version.version}"),
                words(version.tags["variant"]),
                version.tags["hour"],
            ]
        )
        for alias, version in versions.items()
    ]
    return Table([Column("alias"), Column("version"), Column("time module", words=True), Column("trained until")], rows)


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


def _importance(inputs: Sequence[JsonObject]) -> Table:
    """Each input's permutation importance, the largest first."""
    columns = [Column("input"), Column("of"), Column("AUC lost"), Column("95 % interval")]
    rows = [Row([i["name"], i["of"], f"{i['auc_drop']:+.4f}", f"{i['low']:+.4f} to {i['high']:+.4f}"]) for i in inputs]
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


def _places_of_moves(moves: Sequence[Move], days: Sequence[str]) -> list[float]:
    """Where the champion's moves are on an axis with one unit per day; moves without an hour or on other days are left out."""
    dated = [Hour.parse(move.hour) for move in moves if move.alias == CHAMPION and move.hour]
    return [
        days.index(str(hour.day)) + (hour.number - Hour.of_day(hour.day).number) / 24
        for hour in dated
        if str(hour.day) in days
    ]


def _hourly(hourly: dict[str, tuple[float, float]]) -> Markup:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 2.6))
    for at, name in enumerate(("candidate", "champion")):
        axes.plot(range(len(hourly)), [pair[at] for pair in hourly.values()], marker="o", ms=3, label=name)
    axes.set_xticks(range(len(hourly)), [h[5:] for h in hourly], rotation=60, fontsize=7)
    axes.set_ylabel("AUC")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure, "AUC of candidate and champion in every hour compared")


WEIGHTS = {"auc": "samples", "session_auc": "session_samples"}
"""Metrics that are drawn by day: what weighs an hour in a day's mean. Both are logged for every hour."""


def _daily_means(settings: Settings) -> dict[str, dict[str, dict[str, float]]]:
    """Metric of ``WEIGHTS`` → variant → day → mean of its progressive predictions."""
    client = open_mlflow(settings)
    means: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in WEIGHTS}
    for variant in settings.variants:
        experiment = client.get_experiment_by_name(experiment_name(settings, variant))
        runs: list[Any] = client.search_runs([experiment.experiment_id], max_results=2000) if experiment else []
        for metric, weight in WEIGHTS.items():
            points = means[metric].setdefault(variant, {})
            for run in runs:
                history, weighing = (client.get_metric_history(run.info.run_id, name) for name in (metric, weight))
                weights = {m.step: m.value for m in weighing}
                total = sum(weights.get(m.step, 0) for m in history)
                if total:
                    points[run.data.tags["day"]] = sum(m.value * weights.get(m.step, 0) for m in history) / total
    return means


def _daily(series: dict[str, dict[str, float]], moves: list[Move], title: str) -> Markup:
    """A metric of every variant a day, with the hours at which the champion moved.

    Args:
        series: variant → day → the metric's mean.
        moves: of the champion.
        title: of the metric.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3))
    days = sorted({day for points in series.values() for day in points})[-60:]
    for variant, points in series.items():
        ordered = [d for d in days if d in points]
        axes.plot(
            [days.index(d) for d in ordered], [points[d] for d in ordered], marker="o", ms=2.5, lw=1, label=variant
        )
    for at in _places_of_moves(moves, days):
        axes.axvline(at, color="#1f5fa8", lw=0.8, ls="--")
    step = max(len(days) // 12, 1)
    axes.set_xticks(range(0, len(days), step), days[::step])
    axes.tick_params(axis="x", rotation=45, labelsize=7)
    axes.set_ylabel(f"{title}, mean over hours")
    axes.legend(frameon=False, fontsize=7, ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(
        figure,
        f"{title} of every variant a day; dashed lines: the champion moved",
        "Each hour was predicted before training on it.",
    )
