"""What is true in the simulated app: effects of experiments and rankers, tastes, and the best AUC a ranker can reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
from sklearn.metrics import roc_auc_score

from core.hours import Hour
from simulation.app import FACETS, App, Impressions
from simulation.config import SimulatorConfig
from simulation.visits import Rank, Visits, first_policy, perfect_policy, timeless_policy

METRICS = ("active_days", "duration_hours", "finishes", "likes", "skips")
DAY_SECONDS = 86400
ENTROPY_USERS = 500
"""Number of users over whom the entropy of tastes is averaged."""


class UserTotals:
    """Each user's metrics over impressions: ``values`` by metric, and who was ``exposed``; shape (users,) each.

    Any impression exposes its user, so add only those from an experiment's start on.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.exposed = np.zeros(app.config.users, dtype=bool)
        self._sums = {name: np.zeros(app.config.users) for name in METRICS[1:]}
        self._first = app.config.first_hour.number // 24 - 1
        self._days = np.zeros((app.config.users, app.config.days + 4), dtype=bool)

    def add(self, shown: Impressions, until: Hour | None = None) -> None:
        """Add impressions; those at or after the start of ``until`` are left out."""
        counted = slice(None) if until is None else shown.moment < until.start.timestamp()
        user = shown.user[counted]
        self.exposed[user] = True
        day = (shown.moment[counted] + self._offsets(user, shown.moment[counted])) // DAY_SECONDS
        self._days[user, (day.astype(int) - self._first).clip(0, self._days.shape[1] - 1)] = True
        parts = (shown.played / 3600, shown.finish, shown.like, shown.played < 5)
        for name, values in zip(METRICS[1:], parts, strict=True):
            self._sums[name] += np.bincount(user, weights=values[counted], minlength=len(self.exposed))

    @property
    def values(self) -> dict[str, np.ndarray]:
        return {"active_days": self._days.sum(axis=1).astype(float), **self._sums}

    def _offsets(self, user: np.ndarray, moment: np.ndarray) -> np.ndarray:
        """Each user's offset from UTC at noon of a moment's day, seconds."""
        days, day_index = np.unique((moment // DAY_SECONDS).astype(np.int64), return_inverse=True)
        noons = [datetime.fromtimestamp(int(day) * DAY_SECONDS + DAY_SECONDS // 2, UTC) for day in days]
        table = np.empty((len(self.app.zone_names), len(days)))
        for row, name in enumerate(self.app.zone_names):
            gaps = (noon.astimezone(ZoneInfo(name)).utcoffset() for noon in noons)
            table[row] = [gap.total_seconds() if gap else 0.0 for gap in gaps]
        return table[self.app.zone[user], day_index]


def user_totals(app: App, end: Hour) -> UserTotals:
    """Totals of an app without a ranker, from its experiment's start to ``end`` (exclusive)."""
    totals = UserTotals(app)
    for day in range(app.config.experiment.start_day, app.config.days):
        totals.add(app.day(day), end)
    return totals


def compare(arms: Mapping[str, UserTotals], control: str) -> dict[str, dict[str, dict[str, float]]]:
    """Means and effects over the users who are exposed in all arms.

    Args:
        arms: arm → each user's totals in it.
        control: the arm that the others are compared with.

    Returns:
        Arm → metric → ``mean``, ``effect`` (difference from the control's mean) and ``rel_effect``.
    """
    users = np.logical_and.reduce([arm.exposed for arm in arms.values()])
    control_means = {name: float(values[users].mean()) for name, values in arms[control].values.items()}
    effects: dict[str, dict[str, dict[str, float]]] = {}
    for arm, totals in arms.items():
        effects[arm] = {}
        for name, values in totals.values.items():
            mean = float(values[users].mean())
            rel = mean / control_means[name] - 1 if control_means[name] else float("nan")
            effects[arm][name] = {"mean": mean, "effect": mean - control_means[name], "rel_effect": rel}
    return effects


def experiment_truth(config: SimulatorConfig, end: Hour) -> dict[str, dict[str, float]]:
    """The planted experiment's true effect up to ``end``, from simulating every user in both arms with the same draws.

    Returns:
        Metric → control mean, treatment mean, effect and relative effect over the exposed users.
    """
    rule = config.experiment
    arms = {name: user_totals(App(config, arm=name), end) for name in (rule.control, rule.treatment)}
    effects = compare(arms, rule.control)
    return {
        name: {
            "control": effects[rule.control][name]["mean"], "treatment": effect["mean"], "effect": effect["effect"],
            "rel_effect": effect["rel_effect"],
        }
        for name, effect in effects[rule.treatment].items()
    }  # fmt: skip


def live_truth(
    config: SimulatorConfig,
    policies: Mapping[str, Callable[[App], Rank]],
    control: str,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """True effects of policies from the experiment's start on, from simulating all users under each with the same draws.

    Before the start all users are under the app's first policy.

    Args:
        config: parameters of the app.
        policies: name → policy of an app.
        control: the policy that the others are compared with.
        progress: called with a line after each policy.

    Returns:
        As ``compare``.
    """
    app, arms = App(config), {}
    start, end = config.first_hour + 24 * config.experiment.start_day, config.end_hour
    before = Visits(app, config.first_hour)
    for _ in range(start.number - config.first_hour.number):
        before.simulate_hour(first_policy(app))
    for name, policy in policies.items():
        visits, rank, arms[name] = Visits(app, start), policy(app), UserTotals(app)
        visits.restore(before.state())
        while visits.next < end:
            arms[name].add(visits.simulate_hour(rank))
        progress(f"{name}: {int(arms[name].exposed.sum())} users simulated to {end}")
    return compare(arms, control)


def perfect_truth(config: SimulatorConfig, progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """What time of day is worth: the true effect of a perfect clock over a ranker that is perfect except for the time."""
    policies = {"timeless": timeless_policy, "perfect_clock": perfect_policy, "first_policy": first_policy}
    return {"control": "timeless", **live_truth(config, policies, "timeless", progress)}


def attainable_auc(config: SimulatorConfig, day: int = 1) -> float:
    """AUC of the true probability of a finish on one day's impressions: no ranker can do better."""
    shown = App(config).day(day)
    return float(roc_auc_score(shown.finish, shown.chance))


def taste_entropy(config: SimulatorConfig, day: int = 1) -> dict[str, dict[str, list[float]]]:
    """Facet → entropy in bits of the taste by local hour: ``own`` (mean over users) and ``all`` (all users' together).

    A taste is the softmax of a user's logits over the facet's values. All users' taste together is wide at every hour, what
    one user wants at an hour is narrow: the gap is what a user-level clock can know and an hour embedding cannot.
    """
    app = App(config)
    users, hours = np.arange(min(config.users, ENTROPY_USERS)), np.arange(24) + 0.5
    entropies = {}
    for f, facet in enumerate(FACETS):
        logits = np.stack([app.facet_taste(users, hour, f, day=day) for hour in hours])
        share = np.exp(logits - logits.max(axis=2, keepdims=True))
        share /= share.sum(axis=2, keepdims=True)
        entropies[facet] = {
            "own": _entropy(share).mean(axis=1).round(3).tolist(), "all": _entropy(share.mean(axis=1)).round(3).tolist(),
        }  # fmt: skip
    return entropies


def _entropy(share: np.ndarray) -> np.ndarray:
    entropy: np.ndarray = -(share * np.log2(np.maximum(share, 1e-12))).sum(axis=-1)
    return entropy
