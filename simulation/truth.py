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
ASKED_USERS = 500
"""Users over whom the entropy of tastes is averaged."""


class UserTotals:
    """Each user's metrics over impressions: ``values`` by metric, and who was ``exposed``; shape (users,) each.

    A user is exposed by any impression, so add those from an experiment's start on.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.exposed = np.zeros(app.config.users, dtype=bool)
        self._sums = {name: np.zeros(app.config.users) for name in METRICS[1:]}
        self._first = app.config.first_hour.number // 24 - 1
        self._days = np.zeros((app.config.users, app.config.days + 4), dtype=bool)

    def add(self, shown: Impressions, until: Hour | None = None) -> None:
        """Count impressions in, those before ``until`` only."""
        inside = slice(None) if until is None else shown.moment < until.start.timestamp()
        user = shown.user[inside]
        self.exposed[user] = True
        day = (shown.moment[inside] + self._offsets(user, shown.moment[inside])) // DAY_SECONDS
        self._days[user, (day.astype(int) - self._first).clip(0, self._days.shape[1] - 1)] = True
        parts = (shown.played / 3600, shown.finish, shown.like, shown.played < 5)
        for name, values in zip(METRICS[1:], parts, strict=True):
            self._sums[name] += np.bincount(user, weights=values[inside], minlength=len(self.exposed))

    @property
    def values(self) -> dict[str, np.ndarray]:
        return {"active_days": self._days.sum(axis=1).astype(float), **self._sums}

    def _offsets(self, user: np.ndarray, moment: np.ndarray) -> np.ndarray:
        """Each user's offset from UTC at noon of a moment's day, seconds."""
        days, at = np.unique((moment // DAY_SECONDS).astype(np.int64), return_inverse=True)
        noons = [datetime.fromtimestamp(int(day) * DAY_SECONDS + DAY_SECONDS // 2, UTC) for day in days]
        table = np.empty((len(self.app.zone_names), len(days)))
        for row, name in enumerate(self.app.zone_names):
            gaps = (noon.astimezone(ZoneInfo(name)).utcoffset() for noon in noons)
            table[row] = [gap.total_seconds() if gap else 0.0 for gap in gaps]
        return table[self.app.zone[user], at]


def user_totals(app: App, end: Hour) -> UserTotals:
    """Totals of an app without a ranker, from its experiment's start to ``end``."""
    totals = UserTotals(app)
    for day in range(app.config.experiment.start_day, app.config.days):
        totals.add(app.day(day), end)
    return totals


def compare(arms: Mapping[str, UserTotals], control: str) -> dict[str, dict[str, dict[str, float]]]:
    """Arm → metric → mean, and effect on the control's mean, over the users that are exposed in all arms."""
    users = np.logical_and.reduce([arm.exposed for arm in arms.values()])
    before = {name: float(values[users].mean()) for name, values in arms[control].values.items()}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for arm, totals in arms.items():
        found[arm] = {}
        for name, values in totals.values.items():
            mean = float(values[users].mean())
            rel = mean / before[name] - 1 if before[name] else float("nan")
            found[arm][name] = {"mean": mean, "effect": mean - before[name], "rel_effect": rel}
    return found


def experiment_truth(config: SimulatorConfig, end: Hour) -> dict[str, dict[str, float]]:
    """The planted experiment's true effect up to ``end``, by running every user in both arms on the same draws.

    Returns:
        metric → control mean, treatment mean, effect and relative effect over the exposed users.
    """
    rule = config.experiment
    arms = {name: user_totals(App(config, arm=name), end) for name in (rule.control, rule.treatment)}
    found = compare(arms, rule.control)
    return {
        name: {
            "control": found[rule.control][name]["mean"], "treatment": after["mean"], "effect": after["effect"],
            "rel_effect": after["rel_effect"],
        }
        for name, after in found[rule.treatment].items()
    }  # fmt: skip


def live_truth(
    config: SimulatorConfig,
    policies: Mapping[str, Callable[[App], Rank]],
    control: str,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, dict[str, float]]]:
    """True effects of policies from the experiment's start on: all users under each of them, on the same draws.

    Before the start everybody is under the app's first policy.
    """
    app, arms = App(config), {}
    start, end = config.first_hour + 24 * config.experiment.start_day, config.end_hour
    before = Visits(app, config.first_hour)
    for _ in range(start.number - config.first_hour.number):
        before.hour(first_policy(app))
    for name, policy in policies.items():
        visits, rank, arms[name] = Visits(app, start), policy(app), UserTotals(app)
        visits.restore(before.state())
        while visits.next < end:
            arms[name].add(visits.hour(rank))
        progress(f"{name}: {int(arms[name].exposed.sum())} users lived to {end}")
    return compare(arms, control)


def perfect_truth(config: SimulatorConfig, progress: Callable[[str], None] = lambda _: None) -> dict[str, object]:
    """What time of day is worth: the true effect of a perfect clock over a ranker that is perfect but for the time."""
    policies = {"timeless": timeless_policy, "perfect_clock": perfect_policy, "first_policy": first_policy}
    return {"control": "timeless", **live_truth(config, policies, "timeless", progress)}


def attainable_auc(config: SimulatorConfig, day: int = 1) -> float:
    """AUC of the true probability of a finish on one day's impressions: no ranker can do better."""
    shown = App(config).day(day)
    return float(roc_auc_score(shown.finish, shown.chance))


def taste_entropy(config: SimulatorConfig, day: int = 1) -> dict[str, dict[str, list[float]]]:
    """Facet → entropy in bits of the users' taste by local hour, ``own`` (a user's, averaged) and ``all`` (everybody's).

    A taste is the softmax of a user's logits over the facet's values. Everybody's is wide at every hour; what a user wants
    at an hour is narrow: the gap is what a user-level clock can know and an hour embedding cannot.
    """
    app = App(config)
    users, hours = np.arange(min(config.users, ASKED_USERS)), np.arange(24) + 0.5
    found = {}
    for f, facet in enumerate(FACETS):
        logits = np.stack([app.facet_taste(users, hour, f, day=day) for hour in hours])
        share = np.exp(logits - logits.max(axis=2, keepdims=True))
        share /= share.sum(axis=2, keepdims=True)
        found[facet] = {
            "own": _entropy(share).mean(axis=1).round(3).tolist(), "all": _entropy(share.mean(axis=1)).round(3).tolist(),
        }  # fmt: skip
    return found


def _entropy(share: np.ndarray) -> np.ndarray:
    entropy: np.ndarray = -(share * np.log2(np.maximum(share, 1e-12))).sum(axis=-1)
    return entropy
