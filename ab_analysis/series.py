"""The experiment day by day: the effect so far, the effect of each day, and whether it fades (novelty).

One pass over users' days: a day adds y to the user's sum s and (s + y)² − s² to the sum of squares, so the statistics of
every day are running sums of what the days add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction

import numpy as np

from ab_analysis.effect import UNKNOWN, Effect
from ab_analysis.experiment import Experiment
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.moments import Moments, exact_sums, no_users, read_moments
from ab_analysis.stopping import interval_multiplier
from core.hours import Hour
from core.sql_engine import Engine

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Point:
    """A metric of one variant on one day.

    Attributes:
        day: local day of the users (events outside of the experiment's days count on the first or last day).
        users: number of users exposed so far, control and treatment.
        so_far: effect on the sum from exposure to this day; ``daily``: on this day alone. Adjusted by the metric's own
            pre-period where there is one.
        so_far_ci: relative interval of ``so_far`` under the stopping rule.
    """

    metric: str
    variant: str
    day: date
    users: tuple[int, int]
    so_far: Effect
    so_far_ci: tuple[float, float]
    daily: Effect


def make_post_days(db: Engine, metrics: tuple[str, ...], until: Hour) -> None:
    """Create ``post_day``: user, variant, day, metrics from exposure on.

    Args:
        db: has the tables of ``user_table``.
        metrics: names of additive metrics.
        until: hour up to which events count, exclusive.
    """
    last = ((until - 1).day - EPOCH).days
    sums = ", ".join(f"sum(d.{m}) AS {m}" for m in metrics)
    db.table(
        "post_day",
        f"""SELECT u.user_id, u.variant, greatest(least(d.local_day, {last}), u.exposure_day) AS day, {sums}
        FROM user_day d JOIN users u ON u.user_id = d.user_id WHERE d.phase = 1
        GROUP BY u.user_id, u.variant, greatest(least(d.local_day, {last}), u.exposure_day)""",
    )


def daily_points(db: Engine, experiment: Experiment, metric: str, until: Hour) -> list[Point]:
    """Effects of each day, and up to each day, on an additive metric. Needs ``post_day`` and ``users``."""
    db.view(
        "changes",
        f"""SELECT CAST(p.day AS BIGINT) AS day, p.variant, CAST(p.{metric} AS DOUBLE) AS y, u.{metric}_pre AS x,
        CAST(coalesce(sum(p.{metric}) OVER (PARTITION BY p.user_id ORDER BY p.day
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS DOUBLE) AS before
        FROM post_day p JOIN users u ON u.user_id = p.user_id""",
    )
    db.view("arrivals", f"SELECT CAST(exposure_day AS BIGINT) AS day, variant, {metric}_pre AS x FROM users")
    added = exact_sums(db, "changes", ("day", "variant"), [("y",), ("y", "y"), ("y", "x"), ("before", "y")])
    exposed = exact_sums(db, "arrivals", ("day", "variant"), [("x",), ("x", "x")])
    sums = {(int(day), v): _Day(y, yy, yx, 2 * by + yy) for (day, v), (_, (y, yy, yx, by)) in added.items()}
    arrived = {(int(day), v): (Fraction(n), *values) for (day, v), (n, values) in exposed.items()}
    days = range(min(day for day, _ in arrived), ((until - 1).day - EPOCH).days + 1)
    tested = MetricSpec(metric, "y", covariates=("x",))
    totals = {v: (_Day(), (Fraction(0),) * 3) for v in experiment.variants}
    points = []
    for day in days:
        of_day, cumulative = {}, {}
        for variant in experiment.variants:
            running, users = totals[variant]
            added_today = sums.get((day, variant), _Day())
            arriving = arrived.get((day, variant), (Fraction(0),) * 3)
            running, users = (
                running + added_today,
                (users[0] + arriving[0], users[1] + arriving[1], users[2] + arriving[2]),
            )
            totals[variant] = (running, users)
            of_day[variant] = _moments(users, added_today.y, added_today.yy, added_today.yx)
            cumulative[variant] = _moments(users, running.y, running.grown, running.yx)
        day_date = EPOCH + timedelta(days=day)
        look = experiment.elapsed_days(min(Hour.of_day(day_date) + 24, until))
        multiplier = interval_multiplier(experiment, look, 1)
        for variant in experiment.treatments:
            so_far, daily = (
                compare(tested, group[experiment.control], group[variant], experiment.confidence, adjusted=True)
                for group in (cumulative, of_day)
            )
            interval = so_far.widened(multiplier)[1] if multiplier and so_far.known else (math.nan, math.nan)
            counts = (cumulative[experiment.control].count, cumulative[variant].count)
            points.append(Point(metric, variant, day_date, counts, so_far, interval, daily))
    return points


@dataclass(frozen=True)
class _Day:
    """What users' days add: Σy, Σy², Σyx, and ``grown``, the growth of the squares of the users' sums."""

    y: Fraction = Fraction(0)
    yy: Fraction = Fraction(0)
    yx: Fraction = Fraction(0)
    grown: Fraction = Fraction(0)

    def __add__(self, other: _Day) -> _Day:
        return _Day(self.y + other.y, self.yy + other.yy, self.yx + other.yx, self.grown + other.grown)


def _moments(users: tuple[Fraction, Fraction, Fraction], y: Fraction, yy: Fraction, xy: Fraction) -> Moments:
    """Moments of (y, x) from sums; users is (count, Σx, Σx²)."""
    n, x, xx = users
    if n < 1:
        return no_users(("y", "x"))
    cross = float(xy - x * y / n)
    comoments = np.array([[float(yy - y * y / n), cross], [cross, float(xx - x * x / n)]])
    return Moments(("y", "x"), int(n), np.array([float(y / n), float(x / n)]), comoments)


def drift(db: Engine, experiment: Experiment, metric: str, until: Hour) -> Mapping[str, Effect]:
    """How each treatment's effect on a user's daily value changed from the experiment's first half to the second.

    The change of the treatment's value minus the change of the control's; an effect that fades is below 0. Only users
    exposed in the first half count; each user is one observation, so that their days need not be independent.

    Returns:
        Treatment → change.
    """
    first = int(db.scalar("SELECT min(exposure_day) FROM users"))
    last = ((until - 1).day - EPOCH).days
    middle = (first + last) // 2
    if middle <= first or last <= middle:
        return dict.fromkeys(experiment.treatments, UNKNOWN)
    db.view(
        "drifts",
        f"""SELECT u.user_id, u.variant,
        CAST(coalesce(sum(p.{metric}) FILTER (WHERE p.day > {middle}), 0) AS DOUBLE) / {last - middle}
        - CAST(coalesce(sum(p.{metric}) FILTER (WHERE p.day <= {middle}), 0) AS DOUBLE) / ({middle} - u.exposure_day + 1) AS change
        FROM users u LEFT JOIN post_day p ON p.user_id = u.user_id WHERE u.exposure_day <= {middle}
        GROUP BY u.user_id, u.variant, u.exposure_day""",
    )
    cells = read_moments(db, "drifts", ("variant",), [("change",)])
    tested = MetricSpec(metric, "change")
    control = cells.of(variant=experiment.control)
    return {
        v: compare(tested, control, cells.of(variant=v), experiment.confidence, adjusted=False)
        for v in experiment.treatments
    }
