"""Thin slots borrow from the user's whole day, and that from everybody's clock.

The score of value v in a slot becomes ``score(v) + λ_day · d(v)`` with
``d(v) = (score_day(v) + λ_population · r(v)) / (events_day + λ_population)`` and ``r(v)`` the population's score of v
an event in that slot: λ are pseudo-events. A full slot hardly changes, an empty one shows the user's day, and
a new user sees what everybody likes at that hour. This is the posterior mean of a hierarchical
Dirichlet-multinomial (Minka 2000, "Estimating a Dirichlet distribution"), whose λ are fitted by the
likelihood of a day's events given the days before it. Only what the store holds is read, the top values of
each level, so it applies at retrieval and needs no rebuild.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from core.engine import engine
from core.errors import NotReadyError
from core.files import read_json, write_json
from core.hours import Hour, hour_range
from core.settings import Settings
from core.sql_engine import Engine
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.executor import Executor
from feature_repo.schemas import LISTS
from feature_repo.sql import event_score_sql

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("feature_repo.shrinkage")

HELD_OUT_HOURS = 24
MOST_GROUPS = 200_000
"""Groups of events of equal counts that priors are fitted on: bounds memory and time."""
LOG_LIMITS = (-5.0, 12.0)
"""Range of log λ that is searched."""


@dataclass(frozen=True)
class Prior:
    """Strength of a facet's priors, and what they gained on the held-out day.

    Attributes:
        day: λ_day, pseudo-events.
        population: λ_population, pseudo-events.
        gain: mean log-likelihood of an event, nats, above that of the slots with almost no prior (λ = e⁻⁵).
        events: held-out events that were fitted on.
    """

    day: float
    population: float
    gain: float
    events: int


@dataclass(frozen=True)
class Shrinkage:
    """The fitted priors of a source.

    Attributes:
        as_of: key of the hour before which the events lie that they were fitted on.
        top_k: values that a slot keeps.
        priors: by facet.
    """

    as_of: str
    top_k: int
    priors: dict[str, Prior]

    @staticmethod
    def path(settings: Settings) -> Path:
        """File that keeps the priors."""
        return settings.features_dir / "shrinkage.json"

    @classmethod
    def load(cls, settings: Settings, facets: Sequence[str]) -> Shrinkage:
        """The fitted priors.

        Args:
            settings: of the workspace.
            facets: of the source.

        Raises:
            NotReadyError: they were never fitted, or for other facets.
        """
        path = cls.path(settings)
        kept = read_json(path) if path.exists() else None
        if kept is None or set(kept["priors"]) != set(facets):
            raise NotReadyError("CLOCK_SHRINKAGE is on but its strength is not fitted: run 'clock features fit'")
        priors = {facet: Prior(**prior) for facet, prior in kept["priors"].items()}
        return cls(kept["as_of"], settings.top_k, {facet: priors[facet] for facet in facets})


def shrink(fitted: Shrinkage, keys: pa.Table, slots: pa.Table, profile: pa.Table, everyone: pa.Table) -> pa.Table:
    """Clock rows with shrunk scores, one for every key and slot that has anything to show.

    Args:
        fitted: the priors.
        keys: distinct (user_id, hour).
        slots: clock rows (user_id, hour, slot, lists of each facet, events).
        profile: whole-day rows (user_id, hour, lists, events).
        everyone: population rows (hour, slot, lists, events).

    Returns:
        Rows in the columns of ``slots``, by user, hour and slot.
    """
    import polars as pl

    people = _frame(keys).select("user_id", "hour")
    places = _frame(everyone).select("slot").unique()
    base = people.join(places, how="cross")
    active = _day_events(profile)
    result = base.join(_totals(slots), on=["user_id", "hour", "slot"], how="left")
    for facet, prior in fitted.priors.items():
        s = _long(slots, facet, ["user_id", "hour", "slot"]).rename({"score": "score_s", "count": "count_s"})
        d = _long(profile, facet, ["user_id", "hour"]).rename({"score": "score_d", "count": "count_d"})
        p = _long(everyone, facet, ["hour", "slot"], events=True)
        p = p.with_columns(rate=pl.col("score") / pl.col("all_events")).drop("score", "count", "all_events")
        values = pl.concat(
            [
                s.select("user_id", "hour", "slot", "value"),
                d.select("user_id", "hour", "value")
                .join(places, how="cross")
                .select("user_id", "hour", "slot", "value"),
                people.join(p, on="hour").select("user_id", "hour", "slot", "value"),
            ]
        ).unique()
        day = (pl.col("score_d").fill_null(0) + prior.population * pl.col("rate").fill_null(0)) / (
            pl.col("events_d").fill_null(0) + prior.population
        )
        scored = (
            values.join(s, on=["user_id", "hour", "slot", "value"], how="left")
            .join(d, on=["user_id", "hour", "value"], how="left")
            .join(active, on=["user_id", "hour"], how="left")
            .join(p, on=["hour", "slot", "value"], how="left")
            .with_columns(score=pl.col("score_s").fill_null(0) + prior.day * day, count=pl.col("count_s").fill_null(0))
            .filter(pl.col("score") > 0)
            .sort(["user_id", "hour", "slot", "score", "count", "value"], descending=[False] * 3 + [True, True, False])
        )
        lists = scored.group_by(["user_id", "hour", "slot"], maintain_order=True).agg(
            pl.col("value").head(fitted.top_k).alias(f"{facet}_values"),
            pl.col("score").head(fitted.top_k).alias(f"{facet}_scores"),
            pl.col("count").head(fitted.top_k).alias(f"{facet}_counts"),
        )
        result = result.join(lists, on=["user_id", "hour", "slot"], how="left")
    named = [f"{facet}_{name}" for facet in fitted.priors for name in LISTS]
    filled = result.with_columns(pl.col(named).fill_null([]), pl.col("events").fill_null(0))
    shown = filled.filter(pl.any_horizontal([pl.col(f"{facet}_values").list.len() > 0 for facet in fitted.priors]))
    order = ["user_id", "hour", "slot", *named, "events", "as_of"]
    return _plain(shown.sort("user_id", "hour", "slot").select(order).to_arrow())


def _frame(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _totals(slots: pa.Table) -> pl.DataFrame:
    import polars as pl

    if slots.num_rows:
        return _frame(slots).select("user_id", "hour", "slot", "events", "as_of")
    return pl.DataFrame(schema=dict.fromkeys(("user_id", "hour", "slot", "events", "as_of"), pl.Int64))


def _day_events(profile: pa.Table) -> pl.DataFrame:
    """Events of each user's whole day, those without a value that they liked included."""
    import polars as pl

    if profile.num_rows:
        return _frame(profile).select("user_id", "hour", events_d="events")
    return pl.DataFrame(schema=dict.fromkeys(("user_id", "hour", "events_d"), pl.Int64))


def _long(table: pa.Table, facet: str, keys: list[str], *, events: bool = False) -> pl.DataFrame:
    """One row per (key, value) with score and count, and with the key's events where asked."""
    import polars as pl

    kinds = {**dict.fromkeys(keys, pl.Int64), "value": pl.String, "score": pl.Float64, "count": pl.Int64}
    if not table.num_rows:
        return pl.DataFrame(schema={**kinds, **({"all_events": pl.Int64} if events else {})})
    lists = {"value": f"{facet}_values", "score": f"{facet}_scores", "count": f"{facet}_counts"}
    rows = _frame(table.select([*keys, *lists.values(), "events"])).filter(pl.col(f"{facet}_values").list.len() > 0)
    rows = rows.select(*keys, *(pl.col(c).alias(n) for n, c in lists.items()), pl.col("events").alias("all_events"))
    selected = [*kinds, *(["all_events"] if events else [])]
    return rows.explode(list(lists)).select(selected).cast(kinds)  # type: ignore[arg-type]


def _plain(table: pa.Table) -> pa.Table:
    """Lists and strings in Arrow's plain types, as the other readers give them."""
    kinds = {pa.large_string(): pa.string()}
    fields = [
        field.with_type(pa.list_(kinds.get(field.type.value_type, field.type.value_type)))
        if pa.types.is_large_list(field.type)
        else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def fit(settings: Settings, as_of: Hour | None = None) -> Shrinkage:
    """Fit the strength of the priors on the last day before an hour, and keep it.

    Args:
        settings: of the workspace.
        as_of: hours from this one on are not read; default the clocks' own hour.

    Returns:
        The fitted priors, as they are kept.

    Raises:
        NotReadyError: too little history: nothing before the held-out day.
    """
    store = EventStore(settings.events_dir)
    clock = ClockState(settings, store)
    at = as_of or clock.require_state().as_of
    cut = at - HELD_OUT_HOURS
    before = clock.store.event_files(list(hour_range(cut - settings.window_hours, cut)))
    day = clock.store.event_files(list(hour_range(cut, at)))
    if not before or not day:
        raise NotReadyError(f"fitting needs events both in the day before {at} and before that day")
    priors = {}
    with engine(settings, lambda: store.count(hour_range(cut - settings.window_hours, at))) as running:
        executor = Executor(running, settings, store.facets)
        executor.read_files("before", before)
        executor.read_files("held_out", day)
        for facet in store.facets:
            priors[facet] = _fit_facet(running, settings, facet)
            log.info(
                "%s: λ day %.2f, λ population %.2f, gain %.4f nats an event",
                facet,
                *list(asdict(priors[facet]).values())[:3],
            )
    fitted = Shrinkage(at.key, settings.top_k, priors)
    write_json(Shrinkage.path(settings), asdict(fitted))
    return fitted


def _fit_facet(running: Engine, settings: Settings, facet: str) -> Prior:
    """Maximize the likelihood of the held-out events that users liked (positive score)."""
    from scipy.optimize import minimize

    for name in ("before", "held_out"):
        running.view(
            f"good_{name}",
            f"""SELECT user_id, slot, "{facet}" AS value FROM {name}
            WHERE "{facet}" IS NOT NULL AND {event_score_sql(settings.score_weights)} > 0""",
        )
    for name, keys in (("cs", "user_id, slot, value"), ("ns", "user_id, slot"), ("cd", "user_id, value"),
                       ("nd", "user_id"), ("cp", "slot, value"), ("np", "slot")):  # fmt: skip
        running.table(name, f"SELECT {keys}, count(*) AS n FROM good_before GROUP BY {keys}")
    running.table(
        "groups_held_out",
        """SELECT coalesce(cs.n, 0) AS cs, coalesce(ns.n, 0) AS ns, coalesce(cd.n, 0) AS cd, coalesce(nd.n, 0) AS nd,
            CAST(cp.n AS DOUBLE) / np.n AS p, count(*) AS w
        FROM good_held_out t JOIN cp ON cp.slot = t.slot AND cp.value = t.value JOIN np ON np.slot = t.slot
        LEFT JOIN cs ON cs.user_id = t.user_id AND cs.slot = t.slot AND cs.value = t.value
        LEFT JOIN ns ON ns.user_id = t.user_id AND ns.slot = t.slot
        LEFT JOIN cd ON cd.user_id = t.user_id AND cd.value = t.value LEFT JOIN nd ON nd.user_id = t.user_id
        GROUP BY cs.n, ns.n, cd.n, nd.n, cp.n, np.n""",
    )
    every = max(-(-int(running.scalar("SELECT count(*) FROM groups_held_out")) // MOST_GROUPS), 1)
    rows = running.arrow(  # one of so many neighbors in their order: of each kind as large a share
        f"""SELECT cs, ns, cd, nd, p, w FROM (
            SELECT *, row_number() OVER (ORDER BY cs, ns, cd, nd, p, w) AS place FROM groups_held_out) g
        WHERE place % {every} = {every // 2} ORDER BY place"""
    )
    cs, ns, cd, nd, p, w = (rows[c].to_numpy().astype(np.float64) for c in ("cs", "ns", "cd", "nd", "p", "w"))
    if not len(w):
        raise NotReadyError(f"no held-out event has a known {facet} that was seen before; fit later")

    def loss(logs: np.ndarray) -> float:
        day, population = np.exp(logs)
        prior = (cd + population * p) / (nd + population)
        return -float(w @ np.log((cs + day * prior) / (ns + day)) / w.sum())

    start = np.array([1.0, 2.0])
    optimum = minimize(loss, start, method="L-BFGS-B", bounds=[LOG_LIMITS, LOG_LIMITS])
    day, population = np.exp(optimum.x)
    gain = loss(np.array([LOG_LIMITS[0], optimum.x[1]])) - float(optimum.fun)
    return Prior(float(day), float(population), gain, int(w.sum()))
