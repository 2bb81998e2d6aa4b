"""The true effects of a closed loop's arms, from the logs of its worlds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd

from core import duck
from core.duck import file_list, quoted
from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore

TRUTH_METRICS = {
    "active_days": "count(DISTINCT CAST(e.local_time AS DATE))",
    "duration_hours": "sum(e.played_seconds) / 3600",
    "finishes": "count(*) FILTER (WHERE e.finish)",
    "likes": 'count(*) FILTER (WHERE e."like")',
    "skips": "count(*) FILTER (WHERE e.skip)",
}
"""Metric → SQL over a user's events ``e`` since the exposure."""


class TrueEffect(TypedDict):
    """An arm's mean, its relative effect on the control, and that effect's standard error."""

    mean: float
    rel_effect: float
    rel_se: float


def first_exposures(settings: Settings, experiment: str) -> pd.DataFrame:
    """When each user was first exposed to an experiment.

    Args:
        settings: name the workspace.
        experiment: name of the experiment.

    Returns:
        Columns ``user_id`` and ``exposed`` (time), one row per user, by user.

    Raises:
        NotReadyError: nobody was exposed yet.
    """
    store = EventStore(settings.events_dir)
    files = store.exposure_files()
    if not files:
        raise NotReadyError(f"nobody in {settings.workspace} was exposed to an experiment")
    with duck.connection(settings) as con:
        return con.sql(
            f"""SELECT user_id, min("timestamp") AS exposed FROM read_parquet({file_list(files)})
            WHERE experiment = {quoted(experiment)} GROUP BY user_id ORDER BY user_id"""
        ).df()


def world_totals(settings: Settings, exposures: pd.DataFrame, end: Hour) -> pd.DataFrame:
    """Each exposed user's metrics in a world's log.

    Args:
        settings: name the world's workspace.
        exposures: of ``first_exposures``; events count from a user's exposure on.
        end: hour up to which events count, exclusive.

    Returns:
        Columns ``user_id`` and the metrics of ``TRUTH_METRICS``, in the order of ``exposures``.
    """
    store = EventStore(settings.events_dir)
    first = Hour.of(exposures["exposed"].min().to_pydatetime())
    files = store.event_files(h for h in store.hours() if first <= h < end)
    sums = ", ".join(f"coalesce({sql}, 0) AS {name}" for name, sql in TRUTH_METRICS.items())
    with duck.connection(settings) as con:
        con.register("exposures", exposures)
        return con.sql(
            f"""SELECT x.user_id, {sums} FROM exposures x
            LEFT JOIN read_parquet({file_list(files)}) e ON e.user_id = x.user_id AND e."timestamp" >= x.exposed
            GROUP BY x.user_id ORDER BY x.user_id"""
        ).df()


def true_effects(
    arms: Sequence[str], arm_of_user: np.ndarray, totals: Sequence[pd.DataFrame]
) -> dict[str, dict[str, TrueEffect]]:
    """The effect of each arm over all users: in world n, every user is n arms further than in the real one.

    Args:
        arms: names, the control first.
        arm_of_user: each user's arm in the real world, by its number, shape (users,).
        totals: of ``world_totals``, one per world, the real one first.

    Returns:
        Arm → metric → effect.
    """
    effects: dict[str, dict[str, TrueEffect]] = {arm: {} for arm in arms}
    for metric in TRUTH_METRICS:
        in_world = [world[metric].to_numpy() for world in totals]
        in_arm = [np.choose((number - arm_of_user) % len(arms), in_world) for number in range(len(arms))]
        control_mean = float(in_arm[0].mean())
        for arm, values in zip(arms, in_arm, strict=True):
            mean = float(values.mean())
            if control_mean:
                ratio = mean / control_mean
                se = float((values - ratio * in_arm[0]).std(ddof=1)) / np.sqrt(len(values)) / control_mean
            else:
                ratio = se = float("nan")
            effects[arm][metric] = {"mean": mean, "rel_effect": ratio - 1, "rel_se": se}
    return effects
