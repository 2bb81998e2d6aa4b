"""Samples of users for the tests of statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ab_analysis.moments import Moments


def people(users: int = 3000, lift: float = 0.1, seed: int = 4, share: float = 0.5) -> pd.DataFrame:
    """Users with a habit: duration, active days, what both were before, a group."""
    rng = np.random.default_rng(seed)
    variant = np.where(rng.uniform(size=users) < share, "b", "a")
    habit = rng.gamma(3, 1, users)
    treated = variant == "b"
    return pd.DataFrame(
        {
            "user": np.arange(users),
            "variant": variant,
            "duration": habit * (1 + lift * treated) + rng.normal(0, 1, users),
            "duration_pre": habit + rng.normal(0, 0.5, users),
            "days": 1 + rng.poisson(habit),
            "days_pre": rng.poisson(habit),
            "group": np.where(habit < 2, "light", np.where(habit < 4, "middle", "heavy")),
        }
    )


def moments_of(frame: pd.DataFrame, columns: tuple[str, ...]) -> Moments:
    values = frame[list(columns)].to_numpy(dtype=float)
    centered = values - values.mean(axis=0)
    return Moments(columns, len(values), values.mean(axis=0), centered.T @ centered)


def sides(frame: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Moments, Moments]:
    """Control ``a`` and treatment ``b``."""
    return moments_of(frame[frame.variant == "a"], columns), moments_of(frame[frame.variant == "b"], columns)
