"""A/B statistics on simulated apps, where the truth is a run of all users in both arms."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from studies.ab_draws import both_methods, share_explained


class AppFigures(TypedDict):
    """Of one metric: the share of intervals of each method that cover the truth, and the variance saved."""

    coverage: dict[str, float]
    saved: float
    saved_by_theory: float


class OnTheApp(TypedDict):
    """Figures of each metric over simulated apps."""

    runs: int
    metrics: dict[str, AppFigures]


APP_METRICS = ("active_days", "duration_hours", "finishes")


def on_the_app(runs: int, seed: int) -> OnTheApp:
    """On simulated apps with different seeds: do intervals cover the effect that a run of all users in both arms shows?"""
    from simulation.config import SimulatorConfig

    covered = {m: {"welch": 0, "cuped": 0} for m in APP_METRICS}
    saved: dict[str, list[float]] = {m: [] for m in APP_METRICS}
    theory: dict[str, list[float]] = {m: [] for m in APP_METRICS}
    for n in range(runs):
        config = SimulatorConfig(seed=seed + n, days=14, users=800, items=300, experiment={"start_day": 7})
        users, truth = _app_users(config)
        for m in APP_METRICS:
            values = np.column_stack([users[m], users[f"{m}_pre"], users["new"]])
            effects = both_methods(m, values, users["treated"])
            for method, e in effects.items():
                covered[m][method] += e.rel_effect_ci[0] <= truth[m] <= e.rel_effect_ci[1]
            saved[m].append(1 - (effects["cuped"].se / effects["welch"].se) ** 2)
            theory[m].append(share_explained(values[:, 0], values[:, 1:]))
    return {
        "runs": runs,
        "metrics": {
            m: {"coverage": {k: c / runs for k, c in covered[m].items()}, "saved": float(np.mean(saved[m])),
                "saved_by_theory": float(np.mean(theory[m]))}
            for m in APP_METRICS
        },
    }  # fmt: skip


def _app_users(config: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Exposed users' metrics before and in the experiment, and the true relative effects."""
    from simulation.app import App
    from simulation.truth import experiment_truth, user_totals

    app = App(config)
    after = user_totals(app, config.end_hour)
    pre_metrics = {m: np.zeros(config.users) for m in APP_METRICS}
    for day in range(config.experiment.start_day):
        shown = app.day(day)
        np.add.at(pre_metrics["duration_hours"], shown.user, shown.played / 3600)
        np.add.at(pre_metrics["finishes"], shown.user, shown.finish)
        pre_metrics["active_days"][np.unique(shown.user)] += 1
    exposed, values = after.exposed, after.values
    users = {m: values[m][exposed] for m in APP_METRICS} | {f"{m}_pre": pre_metrics[m][exposed] for m in APP_METRICS}
    users["new"] = (pre_metrics["active_days"][exposed] == 0).astype(float)
    users["treated"] = (app.variant == config.experiment.treatment)[exposed]
    truth = experiment_truth(config, config.end_hour)
    return users, {m: truth[m]["rel_effect"] for m in APP_METRICS}
