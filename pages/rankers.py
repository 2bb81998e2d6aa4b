"""Pages about models: a gate decision, and the life of the champion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.documents import JsonObject
from core.files import read_json
from core.hours import Hour
from core.page_table import Cell, Column, Row, Table
from core.page_template import number, svg, words, write_page
from core.settings import Settings
from evaluation.gate import GateCheck, GateDecision
from evaluation.metrics import JUDGED
from events.store import EventStore
from model_registry.registry import CHAMPION, Move

if TYPE_CHECKING:
    from markupsafe import Markup

GATE = """
<section class="banner {{ 'calm' if decision.verdict == 'promote' else '' }}"><p class="lead"><strong>{{ decision.verdict|words }}</strong>:
{{ decision.reason }}</p></section>
{% if forest %}<section><h2>Differences</h2>{{ forest }}</section>{% endif %}
{% if figures %}<section><h2>Figures</h2>{{ figures }}
<p class="soft">UAUC compares scores of different hours, so it falls where a ranker learns from the user's own past; session AUC
compares only what was shown together. The policy says which of them are checked.</p></section>{% endif %}
{% if hourly %}<section><h2>Hour by hour</h2>{{ hourly }}</section>{% endif %}
<section><h2>Checks</h2>{% if checks %}{{ checks }}{% else %}<p>No check was made yet.</p>{% endif %}</section>
<section><h2>Versions</h2><p>Candidate: {{ decision.candidate.variant }}, version {{ decision.candidate.version }}, trained until
{{ decision.candidate.trained_until }}.<br>Champion: {% if decision.champion %}{{ decision.champion.variant }}, version
{{ decision.champion.version }}, trained until {{ decision.champion.trained_until }}
{% else %}none yet; compared with popularity{% endif %}.</p>
<p class="soft">Hours compared: {{ decision.hours|join(", ") or "none" }}. Intervals are clustered by user and corrected for
looking every hour; those of slices for the number of slices.</p></section>
"""
MODEL = """
<section class="banner calm"><p class="lead">{% if champion %}Champion: <strong>{{ champion.variant }}</strong>, version
{{ champion.version }}, trained until {{ champion.hour }}.{% else %}No champion yet.{% endif %}</p></section>
<section><h2>AUC day by day</h2>{{ daily }}</section>
<section><h2>Session AUC day by day</h2>{{ sessions }}</section>
<section><h2>Moves</h2>{{ moves }}</section>
{% if slices %}<section><h2>Slices of the last decision with figures</h2>{{ slices }}</section>{% endif %}
<section><h2>Drift</h2>{% if drift %}{{ drift }}{% else %}<p class="soft">No day was reported yet.</p>{% endif %}</section>
"""


def write_gate_page(path: Path, hour: Hour, decision: GateDecision) -> Path:
    """The page of a decision: verdict, differences, hours, checks."""
    shown = [c for c in decision.checks if c.interval is not None]
    write_page(
        path, f"Gate at {hour} UTC", GATE, home="../index.html", decision=decision, checks=_checks(decision.checks),
        forest=_forest(shown) if shown else None, figures=_figures(decision),
        hourly=_hourly(decision.hourly) if decision.hourly else None,
    )  # fmt: skip
    return path


def write_model_page(settings: Settings) -> Path:
    """The champion's page: metrics over time, moves on the time axis, slices, drift.

    Raises:
        NotReadyError: MLflow does not answer.
    """
    from model_registry.store import open_registry

    models = open_registry(settings)
    hours = EventStore(settings.events_dir).hours()
    models.record_moves_by_hand(hours[-1] if hours else None)
    champion = models.get(CHAMPION)
    moves = models.moves()
    decisions = [read_json(p) for p in sorted((settings.reports_dir / "gate").glob("*.json"))]
    sliced = [
        [GateCheck.from_json(c) for c in d["checks"] if c["interval"] and " where " in c["name"]] for d in decisions
    ]
    shown = next((s for s in reversed(sliced) if s), [])
    drift = [read_json(p) for p in sorted((settings.reports_dir / "drift").glob("*.json"), reverse=True)[:30]]
    path = settings.reports_dir / "model.html"
    means = _daily_means(settings)
    write_page(
        path, f"Model {models.name}", MODEL, home="index.html", moves=_moves(moves), drift=_drift(drift),
        champion={"variant": champion.tags["variant"], "version": champion.version, "hour": champion.tags["hour"]} if champion else None,
        daily=_daily(means["auc"], moves, "AUC"), sessions=_daily(means["session_auc"], moves, "session AUC"),
        slices=_forest(shown) if shown else None,
    )  # fmt: skip
    if champion is not None:
        models.client.set_model_version_tag(models.name, str(champion.version), "report", path.as_uri())
    return path


def _checks(checks: Sequence[GateCheck]) -> Table | None:
    """The checks, those that failed first; None where there are none."""
    columns = [Column("check"), Column("value"), Column("interval"), Column("limit"), Column("")]
    rows = [
        Row(
            [
                words(c.name), number(c.value), f"{number(c.interval[0])} to {number(c.interval[1])}" if c.interval else "",
                number(c.limit), Cell("passed", "good") if c.passed else Cell("failed", "bad"),
            ],
            strong=not c.passed,
        )
        for c in sorted(checks, key=lambda c: c.passed)
    ]  # fmt: skip
    return Table(columns, rows) if rows else None


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


def _forest(checks: list[GateCheck]) -> Markup:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.26 * len(checks) + 1))
    for at, c in enumerate(reversed(checks)):
        assert c.interval is not None
        color = "#14703c" if c.passed else "#a4262c"
        axes.plot(c.interval, [at, at], color=color, lw=1.6)
        axes.plot(c.value, at, "o", color=color, ms=4)
        axes.plot(c.limit, at, "|", color="#1c2430", ms=9)
    axes.axvline(0, color="#5a6675", lw=0.7)
    axes.set_yticks(range(len(checks)), [c.name.replace("_", " ") for c in reversed(checks)], fontsize=7)
    axes.set_xlabel("candidate minus champion (tick: limit)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    text = "; ".join(f"{c.name}: {c.value:+.4f}" for c in checks)
    return svg(figure, f"Differences with their intervals and limits. {text}")


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
    from model_registry.store import experiment_name, open_mlflow

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
