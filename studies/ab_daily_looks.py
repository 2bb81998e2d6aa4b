"""Daily looks at simulated experiments without an effect: how often each stopping rule finds one."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import numpy as np

from ab_analysis.experiment import Experiment, Stopping
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.stopping import interval_multiplier
from studies.ab_draws import ALPHA, Parameters, moments

DAYS = 14


class DailyLooks(TypedDict):
    """By stopping rule: the limits for |z| of each day (None: no look), and the share of false alarms of each method."""

    limits: dict[str, list[float | None]]
    false_alarms: dict[str, dict[str, float]]
    replications: int


RULES = ("fixed", "always_valid", "group_sequential")


def daily_looks(p: Parameters, habit: float) -> DailyLooks:
    """False alarms without an effect, if somebody looks on each of 14 days and stops at the first difference.

    Args:
        p: sizes.
        habit: 1: users differ permanently, as people do; 0: every day is independent, where repeated looks do most harm.
    """
    rng = np.random.default_rng(p.seed + 7)
    start = datetime(2026, 3, 2, tzinfo=UTC)
    base: dict[str, Any] = {
        "name": "looks", "variants": {"a": 1, "b": 1}, "control": "a", "start": start, "confidence": 1 - ALPHA,
        "end": (start + timedelta(days=DAYS - 1)).date(),
    }  # fmt: skip
    limits: dict[str, list[float]] = {}
    for rule in RULES:
        e = Experiment(**base, stopping=Stopping(rule=rule))
        limits[rule] = [interval_multiplier(e, d, 1) or math.inf for d in range(1, DAYS + 1)]
    limits["naive"] = [limits["fixed"][-1]] * DAYS
    t = MetricSpec("y", "y", covariates=("x",))
    alarms = {rule: {"welch": 0, "cuped": 0} for rule in limits}
    for _ in range(p.replications):
        level = 1 + habit * (rng.gamma(1.5, 1 / 1.5, p.users) - 1)
        treated = rng.uniform(size=p.users) < 0.5
        days = rng.poisson(level[:, None], (p.users, DAYS)).cumsum(axis=1)
        before = rng.poisson(level * DAYS)
        z: dict[str, list[float]] = {"welch": [], "cuped": []}
        for d in range(DAYS):
            values = np.column_stack([days[:, d], before]).astype(float)
            sides = [moments(values[flag], ("y", "x")) for flag in (~treated, treated)]
            for method, adjusted in (("welch", False), ("cuped", True)):
                z[method].append(abs(compare(t, sides[0], sides[1], 1 - ALPHA, adjusted=adjusted).z))
        for rule, limit in limits.items():
            for method, z_values in z.items():
                alarms[rule][method] += any(v > bound for v, bound in zip(z_values, limit, strict=True))
    return {
        "limits": {k: [None if math.isinf(v) else v for v in values] for k, values in limits.items()},
        "false_alarms": {rule: {m: n / p.replications for m, n in c.items()} for rule, c in alarms.items()},
        "replications": p.replications,
    }
