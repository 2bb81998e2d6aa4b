"""Does the offline order of rankers predict the order of their online effects?

Every world's rankers are compared offline by their progressive AUC and UAUC on the last days of the history, and online by
simulating all users under each of them, with the same draws (``closed_loop.worlds``). Within a world the two orders are
compared by Kendall's τ.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.stats import kendalltau

from closed_loop.worlds import FrozenModelWorld
from core.charts import Chart
from core.page_template import words
from core.settings import Settings
from studies.charts import dots
from studies.study import Section, Study

VARIANTS = ("none", "hour_embedding", "naive_clock", "adaptive_clock", "gaussian_clock", "matched_clock")
OFFLINE, ONLINE = ("auc", "uauc"), ("active_days", "duration_hours")
LUCKS = 3
CODE = 1
"""Version of the computation; raising it computes all parts again."""


def run(settings: Settings, worlds: int) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    study = Study(settings, "offline_online")
    results = []
    for number in range(worlds):
        parameters = {"world": number, "variants": VARIANTS, "lucks": LUCKS, "code": CODE}
        results.append(study.part(f"world-{number}", parameters, partial(_world, settings, number)))
    return _report(study, results)


def _world(settings: Settings, number: int) -> dict[str, dict[str, float]]:
    """Variant → offline metrics, and online effects on ``none`` (mean over lucks)."""
    world = FrozenModelWorld(settings, number, VARIANTS)
    means: dict[str, dict[str, list[float]]] = {v: {m: [] for m in ONLINE} for v in VARIANTS}
    for luck in range(1, LUCKS + 1):
        runs = {v: world.run(v, luck) for v in VARIANTS}
        exposed = np.logical_and.reduce([r.exposed for r in runs.values()])
        for v, r in runs.items():
            for m in ONLINE:
                means[v][m].append(float(r.values[m][exposed].mean()))
    base = {m: np.mean(means["none"][m]) for m in ONLINE}
    return {v: {**world.offline[v], **{m: float(np.mean(means[v][m]) / base[m] - 1) for m in ONLINE}} for v in VARIANTS}


def _report(study: Study, outcomes: list[dict[str, dict[str, float]]]) -> tuple[str, str]:
    taus = {
        (a, b): [
            float(kendalltau([w[v][a] for v in VARIANTS], [w[v][b] for v in VARIANTS]).statistic) for w in outcomes
        ]
        for a in OFFLINE
        for b in ONLINE
    }
    mean = {v: {m: float(np.mean([w[v][m] for w in outcomes])) for m in (*OFFLINE, *ONLINE)} for v in VARIANTS}
    rows = tuple(
        (words(v), f"{mean[v]['auc']:.4f}", f"{mean[v]['uauc']:.4f}", f"{mean[v]['active_days']:+.2%}",
         f"{mean[v]['duration_hours']:+.2%}")
        for v in VARIANTS
    )  # fmt: skip
    orders = tuple(
        (a.upper(), b.replace("_", " "), f"{np.mean(t):+.2f}", ", ".join(f"{x:+.2f}" for x in t))
        for (a, b), t in taus.items()
    )
    best = {m: max(VARIANTS, key=lambda v: mean[v][m]) for m in (*OFFLINE, *ONLINE)}
    tau = float(np.mean(taus["auc", "duration_hours"]))
    verb = "predicts" if tau > 0.6 else "predicts only in part" if tau > 0.2 else "does not predict"
    conclusion = (
        f"In the simulated app the offline order {verb} the online one: Kendall's τ of AUC with duration {tau:+.2f}, with active days "
        f"{np.mean(taus['auc', 'active_days']):+.2f}, over {len(outcomes)} worlds. Best offline: {words(best['auc'])}; best for duration: "
        f"{words(best['duration_hours'])}."
    )
    sections = [
        Section("Rankers", "Means over the worlds; online effects are against none, all users under each ranker.",
                ("ranker", "AUC", "UAUC", "active days", "duration"), rows, [_chart(outcomes)]),
        Section("Orders", "Kendall's τ of the offline with the online order: mean, and each world.",
                ("offline", "online", "mean", "worlds"), orders),
    ]  # fmt: skip
    results = {"means": mean, "tau": {f"{a} with {b}": t for (a, b), t in taus.items()}, "worlds": outcomes}
    page = study.write(conclusion, sections, results, f"make study NAME=offline_online SEEDS={len(outcomes)}")
    return conclusion, str(page)


def _chart(results: list[dict[str, dict[str, float]]]) -> Chart:
    return dots(
        {v: [(world[v]["auc"], world[v]["duration_hours"] * 100) for world in results] for v in VARIANTS},
        "progressive AUC", "effect on duration against none, %", "Offline AUC and online duration of each ranker in each world",
        "One dot is a ranker in a world.",
    )  # fmt: skip
