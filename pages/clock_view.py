"""The page of a clock: what it shows first, without its script, and what the script reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.page_template import words
from pages.clock_drawing import FAINTEST, INNER_RING, RING, SlotDrawing, draw_ring, draw_window, slot_opacity
from pages.clock_values import (
    NO_EVENTS,
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
    in_words,
    slot_name,
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
class FacetDrawing:
    """A facet's dial and legend, as the page shows them first.

    Attributes:
        name: of the facet.
        summary: the dial in words.
        outer: the clock's ring.
        inner: a ring of each clock that is compared.
        legend: a row for each value.
        seen: the top values of the window in words.
    """

    name: str
    summary: str
    outer: list[SlotDrawing]
    inner: list[list[SlotDrawing]]
    legend: list[LegendRow]
    seen: str


@dataclass(frozen=True)
class DayDrawing:
    """The dials of one kind of day."""

    name: str
    facets: list[FacetDrawing]


@dataclass(frozen=True)
class ClockPage:
    """What the page shows before its script runs, and without it.

    Attributes:
        events: in the clock.
        compared: what the inner rings are; the first one is shown.
        moment: local time HH:MM, ``minutes`` after midnight.
        sigma: of the ranker, hours; one of ``sigmas``, which have a drawing each in ``windows``.
        opacity: of each slot of a day.
        bars: events of each slot of a day, the most being 1; ``busiest`` says it in words.
    """

    events: int
    compared: list[str]
    moment: str
    minutes: int
    sigma: float
    sigmas: list[float]
    windows: list[str]
    opacity: list[float]
    bars: list[float]
    busiest: str
    days: list[DayDrawing]


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
        sigmas: widths of the window, hours; ``windows`` has the drawing of each.
        faintest: opacity of a slot that weighs nothing.
        top_count: how many values are named, those of ``unnamed`` never.
        smallest_weight, smallest_lift: below which a value is not named as seen, or as taken more often than all day.
        prior: events at the day's rate that a window starts with: see ``FacetClock.lifted``.
        facets: of every kind of day, one after the other.
        items: scores of items by time of day, the times evenly spaced from midnight.
    """

    centers: list[float]
    slot_hours: float
    sigmas: list[float]
    windows: list[str]
    faintest: float
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
    weights = window_weights(config, hours + minutes / 60, config.sigma_hours)
    sigmas = sorted({*SIGMAS, config.sigma_hours})
    events = np.zeros(config.slots_per_day)
    for slot in slots:
        events[slot.number % config.slots_per_day] += slot.events
    titles = [slot_name(n, config) for n in range(config.slots_per_day)]
    return ClockPage(
        events=int(events.sum()), compared=[other.name for other in others],
        moment=moment, minutes=60 * hours + minutes, sigma=config.sigma_hours, sigmas=sigmas, windows=[draw_window(s) for s in sigmas],
        opacity=slot_opacity(weights), bars=[round(float(bar), 3) for bar in events / max(events.max(), 1)],
        busiest=f"most at {titles[int(events.argmax())]}, {int(events.max()):,}",
        days=[DayDrawing(day.name, [_draw(facet, weights, titles, config.top_k) for facet in day.facets]) for day in days],
    )  # fmt: skip


def _draw(facet: FacetClock, weights: np.ndarray, titles: Sequence[str], top_k: int) -> FacetDrawing:
    drawn = [n for n, value in enumerate(facet.values) if value != NO_EVENTS]
    values, colors = [facet.values[n] for n in drawn], [facet.colors[n] for n in drawn]

    def ring(shares: np.ndarray, radii: tuple[float, float]) -> list[SlotDrawing]:
        return draw_ring(shares[:, drawn], values, colors, titles, radii)

    compared = weights @ facet.compared[0] if facet.compared else None
    legend = [
        LegendRow(value, facet.colors[n], float(weight), None if compared is None else float(compared[n]))
        for n, (value, weight) in enumerate(zip(facet.values, weights @ facet.shares, strict=True))
    ]
    leaders = [(title, facet.values[n]) for title, n in zip(titles, facet.shares.argmax(axis=1), strict=True)]
    return FacetDrawing(
        name=facet.name,
        summary=f"{words(facet.name)} that leads by hour: {_runs(leaders)}",
        outer=ring(facet.shares, RING),
        inner=[ring(shares, INNER_RING) for shares in facet.compared],
        legend=legend,
        seen=in_words(facet.seen(weights, top_k)),
    )


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
        windows=page.windows,
        faintest=FAINTEST,
        top_count=config.top_k,
        unnamed=[OTHERS, NO_EVENTS],
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
