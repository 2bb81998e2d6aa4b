"""The page of a clock: what it shows first, without its script, and what the script reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.charts import Chart
from core.page_template import words
from pages.clock_charts import events_by_time
from pages.clock_dial import Hand, dial
from pages.clock_values import (
    CURVE_STEPS,
    NO_INTEREST,
    OTHERS,
    SIGMAS,
    SMALLEST_LIFT,
    SMALLEST_WEIGHT,
    ClockSlot,
    DayClock,
    FacetClock,
    ItemScores,
    OtherClock,
    centers,
    events_by_slot,
    in_words,
    slot_names,
    window_weights,
)
from training.config import RankerConfig


@dataclass(frozen=True)
class LegendRow:
    """A value in a window: its weight, and that in the first clock that is compared; None without one."""

    name: str
    color: int
    share: float
    compared: float | None


@dataclass(frozen=True)
class FacetView:
    """A facet's dial and legend, as the page shows them first.

    Attributes:
        name: of the facet.
        dial: 24 hours around.
        legend: a row for each value.
        seen: the top values of the window in words.
    """

    name: str
    dial: Chart
    legend: list[LegendRow]
    seen: str


@dataclass(frozen=True)
class DayView:
    """The dials of one kind of day."""

    name: str
    facets: list[FacetView]


@dataclass(frozen=True)
class ClockPage:
    """What the page shows before its script runs, and without it.

    Attributes:
        events: in the clock.
        compared: what the inner rings are; the first one is shown.
        moment: local time HH:MM, ``minutes`` after midnight.
        sigma: of the ranker, hours; one of ``sigmas``.
        by_time: events by time of day.
        days: the dials.
    """

    events: int
    compared: list[str]
    moment: str
    minutes: int
    sigma: float
    sigmas: list[float]
    by_time: Chart
    days: list[DayView]


@dataclass(frozen=True)
class FacetData:
    """A facet as the script reads it: see ``FacetClock``."""

    values: list[str]
    scores: list[list[float]]
    shares: list[list[float]]
    compared: list[list[list[float]]]
    events: list[float]


@dataclass(frozen=True)
class ClockData:
    """What the page's script reads.

    Attributes:
        centers: local time of each slot's center, hours.
        slot_hours: a slot's width.
        sigmas: widths of the window, hours.
        curve_steps: times of day at which the window itself is drawn.
        top_count: how many values are named, those of ``unnamed`` never.
        smallest_weight, smallest_lift: below which a value is not named as seen, or as taken more often than all day.
        prior: events at the day's rate that a window starts with: see ``FacetClock.lifted``.
        facets: of every kind of day, one after the other.
        items: scores of items by time of day, the times evenly spaced from midnight.
    """

    centers: list[float]
    slot_hours: float
    sigmas: list[float]
    curve_steps: int
    top_count: int
    unnamed: list[str]
    smallest_weight: float
    smallest_lift: float
    prior: float
    facets: list[FacetData]
    items: list[list[float]]


def clock_page(
    days: Sequence[DayClock],
    slots: Sequence[ClockSlot],
    config: RankerConfig,
    moment: str,
    others: Sequence[OtherClock] = (),
) -> ClockPage:
    """What a clock's page shows first.

    Args:
        days: the clock by kind of day.
        slots: the same clock's.
        config: of the ranker with the Gaussian clock.
        moment: local time HH:MM.
        others: what it is compared with.
    """
    hours, minutes = map(int, moment.split(":"))
    hand = Hand(60 * hours + minutes, config.sigma_hours)
    events = events_by_slot(slots, config)
    names = [other.name for other in others]
    numbers = itertools.count()
    return ClockPage(
        events=int(events.sum()), compared=names, moment=moment, minutes=hand.minutes, sigma=hand.sigma,
        sigmas=sorted({*SIGMAS, hand.sigma}), by_time=events_by_time(events, slot_names(config)),
        days=[
            DayView(day.name, [_view(facet, next(numbers), names, config, hand) for facet in day.facets]) for day in days
        ],
    )  # fmt: skip


def _view(facet: FacetClock, number: int, compared: Sequence[str], config: RankerConfig, hand: Hand) -> FacetView:
    weights = window_weights(config, hand.minutes / 60, hand.sigma)
    marks = weights @ facet.compared[0] if facet.compared else None
    legend = [
        LegendRow(value, facet.colors[n], float(weight), None if marks is None else float(marks[n]))
        for n, (value, weight) in enumerate(zip(facet.values, weights @ facet.shares, strict=True))
    ]
    pairs = zip(slot_names(config), facet.shares.argmax(axis=1), strict=True)
    summary = f"{words(facet.name)} that leads by hour: {_runs([(name, facet.values[n]) for name, n in pairs])}"
    chart = dial(facet, number, compared, config, hand, summary)
    return FacetView(facet.name, chart, legend, in_words(facet.seen(weights, config.top_k)))


def _runs(leaders: Sequence[tuple[str, str]]) -> str:
    """Hours in words, those in a row that have the same value as one."""
    starts = [n for n, (_, value) in enumerate(leaders) if n == 0 or value != leaders[n - 1][1]]
    return "; ".join(f"from {leaders[n][0]} {leaders[n][1]}" for n in starts)


def clock_data(
    days: Sequence[DayClock], page: ClockPage, config: RankerConfig, prior: float, items: Sequence[ItemScores]
) -> ClockData:
    """What the page's script reads."""

    def rows(shares: np.ndarray) -> list[list[float]]:
        return [[round(float(cell), 4) for cell in row] for row in shares]

    return ClockData(
        centers=[float(center) for center in centers(config)],
        slot_hours=config.slot_minutes / 60,
        sigmas=page.sigmas,
        curve_steps=CURVE_STEPS,
        top_count=config.top_k,
        unnamed=[OTHERS, NO_INTEREST],
        smallest_weight=SMALLEST_WEIGHT,
        smallest_lift=SMALLEST_LIFT,
        prior=prior,
        facets=[
            FacetData(
                list(facet.values),
                rows(facet.scores),
                rows(facet.shares),
                [rows(shares) for shares in facet.compared],
                day.events.tolist(),
            )
            for day in days
            for facet in day.facets
        ],
        items=[[round(score, 4) for score in item.scores] for item in items],
    )
