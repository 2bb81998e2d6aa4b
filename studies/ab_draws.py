"""Simulated experiments whose truth is known, and every method of analysis on their sufficient statistics.

Users have a heavy-tailed activity (gamma) that is the same before and in the experiment; a fifth of them are new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ab_analysis.effect import Effect
from ab_analysis.inference import MetricSpec, compare, post_stratified
from ab_analysis.moments import Cells, Moments

ALPHA = 0.05
COLUMNS = ("y", "x", "new", "events", "events_x", "kept")
METHODS: dict[str, tuple[MetricSpec, bool]] = {
    "mean, welch": (MetricSpec("y", "y"), False),
    "mean, cuped": (MetricSpec("y", "y", covariates=("x", "new")), True),
    "ratio, delta method": (MetricSpec("r", "y", "events"), False),
    "ratio, cuped": (MetricSpec("r", "y", "events", ("x", "events_x", "new")), True),
    "proportion, welch": (MetricSpec("kept", "kept"), False),
}
STRATA = 4


@dataclass(frozen=True)
class Parameters:
    """Size and effect of the simulated experiments."""

    replications: int = 2000
    users: int = 2000
    lift: float = 0.12
    seed: int = 20260324


def draw(rng: np.random.Generator, p: Parameters, lift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the users of one experiment.

    Returns:
        Values of ``COLUMNS``, shape (users, 6); whether each is treated, and their stratum, shape (users,).
    """
    habit = rng.gamma(1.5, 1.0, p.users)
    treated = rng.uniform(size=p.users) < 0.5
    new = rng.uniform(size=p.users) < 0.2
    events_x = np.where(new, 0, rng.poisson(4 * habit))
    events = 1 + rng.poisson(4 * habit * (1 + lift * treated))
    y = rng.gamma(2.0, 0.5, p.users) * (1 + lift / 2 * treated) * events
    x = rng.gamma(2.0, 0.5, p.users) * events_x
    kept = (
        rng.uniform(size=p.users) < np.minimum((0.3 + 0.1 * np.minimum(habit, 3)) * (1 + lift * treated), 1)
    ).astype(float)
    stratum = np.where(new, 0, 1 + np.minimum(events_x // 4, STRATA - 2))
    return np.column_stack([y, x, new.astype(float), events, events_x, kept]).astype(float), treated, stratum


def moments(values: np.ndarray, columns: tuple[str, ...] = COLUMNS) -> Moments:
    """Sufficient statistics of a sample, shape (users, columns)."""
    centered = values - values.mean(axis=0)
    return Moments(columns, len(values), values.mean(axis=0), centered.T @ centered)


def effects_by_method(values: np.ndarray, treated: np.ndarray, stratum: np.ndarray) -> dict[str, Effect]:
    """Each method's effect on drawn users; the arguments are what ``draw`` returns."""
    control, treatment = moments(values[~treated]), moments(values[treated])
    effects = {
        name: compare(spec, control, treatment, 1 - ALPHA, adjusted=adjusted)
        for name, (spec, adjusted) in METHODS.items()
    }
    cells: dict[tuple[str, ...], Moments] = {
        (side, str(s)): moments(values[(treated == flag) & (stratum == s)])
        for side, flag in (("a", False), ("b", True))
        for s in range(STRATA)
        if ((treated == flag) & (stratum == s)).any()
    }
    spec = MetricSpec("y", "y")
    effects["mean, post-stratified"] = post_stratified(
        spec, Cells(("variant", "s"), cells), ("s",), "a", "b", 1 - ALPHA
    )
    return effects


def share_explained(y: np.ndarray, x: np.ndarray) -> float:
    """R² of a regression: the share of the variance that CUPED removes in theory."""
    design = np.column_stack([np.ones(len(y)), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - residual.var() / y.var())


def true_effects(rng: np.random.Generator, p: Parameters, lift: float) -> dict[str, float]:
    """True relative effects: expectations of many users in both arms; the quantile's by drawing them."""
    habit = rng.gamma(1.5, 1.0, p.users)
    events = [1 + 4 * habit * (1 + lift * t) for t in (0, 1)]
    kept = [np.minimum((0.3 + 0.1 * np.minimum(habit, 3)) * (1 + lift * t), 1) for t in (0, 1)]
    value_per_event = rng.gamma(2.0, 0.5, p.users)
    values = [value_per_event * (1 + lift / 2 * t) * (1 + rng.poisson(4 * habit * (1 + lift * t))) for t in (0, 1)]
    tops = [float(np.quantile(y, 0.9)) for y in values]
    mean = float((1 + lift / 2) * events[1].mean() / events[0].mean() - 1)
    return {
        **dict.fromkeys(("mean, welch", "mean, cuped", "mean, post-stratified"), mean),
        **dict.fromkeys(("ratio, delta method", "ratio, cuped"), lift / 2),
        "proportion, welch": float(kept[1].mean() / kept[0].mean() - 1),
        "quantile 0.9": tops[1] / tops[0] - 1,
    }


def both_methods(metric: str, values: np.ndarray, treated: np.ndarray) -> dict[str, Effect]:
    """Effects by Welch and by CUPED.

    Args:
        metric: its name.
        values: of each user the metric, the same before, and whether the user is new, shape (users, 3).
        treated: shape (users,).
    """
    sides = [moments(values[treated == flag], ("y", "x", "new")) for flag in (False, True)]
    tested = MetricSpec(metric, "y", covariates=("x", "new"))
    return {
        method: compare(tested, sides[0], sides[1], 1 - ALPHA, adjusted=adjusted)
        for method, adjusted in (("welch", False), ("cuped", True))
    }
