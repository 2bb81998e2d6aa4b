"""What is true in the simulated app: the experiment's effect, and the best AUC a ranker can reach."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from sklearn.metrics import roc_auc_score

from core.hours import Hour
from events.simulator.app import App
from events.simulator.config import SimulatorConfig

METRICS = ("active_days", "duration_hours", "finishes", "likes", "skips")


def user_totals(app: App, end: Hour) -> dict[str, np.ndarray]:
    """Each user's metrics from the first exposure to ``end``, shape (users,); exposure in ``exposed``."""
    config = app.config
    totals = {name: np.zeros(config.users) for name in METRICS}
    exposed = np.zeros(config.users, dtype=bool)
    days: set[tuple[int, int]] = set()
    for day in range(config.experiment.start_day, config.days):
        shown = app.day(day)
        inside = shown.moment < end.start.timestamp()
        user = shown.user[inside]
        exposed[user] = True
        local = shown.moment[inside] + _offsets(app, day)[user]
        days.update(zip(user.tolist(), (local // 86400).astype(int).tolist(), strict=True))
        for name, values in {
            "duration_hours": shown.played / 3600,
            "finishes": shown.finish,
            "likes": shown.like,
            "skips": shown.played < 5,
        }.items():
            np.add.at(totals[name], user, values[inside])
    for user_id, _ in days:
        totals["active_days"][user_id] += 1
    return {**totals, "exposed": exposed}


def experiment_truth(config: SimulatorConfig, end: Hour) -> dict[str, dict[str, float]]:
    """The experiment's true effect up to ``end``, by running every user in both arms on the same draws.

    Returns:
        metric → control mean, treatment mean, effect and relative effect over the exposed users.
    """
    arms = {
        name: user_totals(App(config, arm=name), end)
        for name in (config.experiment.control, config.experiment.treatment)
    }
    control, treatment = arms[config.experiment.control], arms[config.experiment.treatment]
    users = control["exposed"] & treatment["exposed"]
    truth = {}
    for name in METRICS:
        before, after = float(control[name][users].mean()), float(treatment[name][users].mean())
        truth[name] = {
            "control": before,
            "treatment": after,
            "effect": after - before,
            "rel_effect": after / before - 1 if before else float("nan"),
        }
    return truth


def attainable_auc(config: SimulatorConfig, day: int = 1) -> float:
    """AUC of the true probability of a finish on one day's impressions: no ranker can do better."""
    shown = App(config).day(day)
    return float(roc_auc_score(shown.finish, shown.chance))


def _offsets(app: App, day: int) -> np.ndarray:
    """Each user's offset from UTC at noon of a day, seconds."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    date = app.config.day(day)
    offsets = []
    for name in app.zone_names:
        gap = datetime(date.year, date.month, date.day, 12, tzinfo=ZoneInfo(name)).utcoffset()
        offsets.append((gap or timedelta()).total_seconds())
    return np.array(offsets)[app.zone]
