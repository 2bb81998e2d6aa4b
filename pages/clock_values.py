"""An interest clock as values: its slots, what each facet says by hour, and how a window of time weighs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.hours import Hour
from core.page_template import share
from pages.clock_colors import COLORS, EMPTY, GRAY
from stats.circle import circular_distance, gaussian, normal_density
from training.config import RankerConfig

OTHERS = "all others"
NO_INTEREST = "no interest"
"""Of hours without events, and of those in which no value has a positive score."""
CURVE_STEPS = 288
"""Times of day at which the window itself is drawn."""
SIGMAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Widths of the window that a reader can choose, hours; the ranker's own is among them."""
SMALLEST_WEIGHT, SMALLEST_LIFT = 0.005, 1.05
"""Of a value that is named as seen, and as taken more often than all day."""


@dataclass(frozen=True)
class ClockSlot:
    """A slot of a clock.

    Attributes:
        number: of the slot; those of the weekend, where it is kept apart, follow those of the other days.
        events: in the window.
        as_of: hour at whose start the slot holds; None where it only borrows, from the user's day and everybody's clock.
        tops: facet → its top values and their scores, best first.
    """

    number: int
    events: int
    as_of: Hour | None
    tops: dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class OtherClock:
    """A clock to compare with.

    Attributes:
        name: what it is, such as "a week ago".
        slots: of it; none where there were no events.
        past: whether it is the same user's at an earlier hour.
        users: how many it is the clock of; None where that is not counted.
    """

    name: str
    slots: list[ClockSlot]
    past: bool = False
    users: int | None = None


@dataclass(frozen=True)
class FacetClock:
    """What a clock says of a facet on one kind of day.

    Attributes:
        name: of the facet.
        values: those that are shown; ``OTHERS`` and ``NO_INTEREST`` stand for what is left, where there is any.
        colors: number of each value's color, the same on every page of the source.
        scores: of each value in each slot, shape (slots of a day, values).
        shares: the scores as shares of their slot, as the ranker weighs them.
        compared: shares of each clock that this one is compared with.
    """

    name: str
    values: tuple[str, ...]
    colors: tuple[int, ...]
    scores: np.ndarray
    shares: np.ndarray
    compared: tuple[np.ndarray, ...]

    def seen(self, weights: np.ndarray, count: int) -> list[tuple[str, float]]:
        """The top values in a window with their weights, largest first.

        Args:
            weights: of each slot.
            count: of values at most.
        """
        return self._top(weights @ self.shares, count, SMALLEST_WEIGHT)

    def lifted(self, weights: np.ndarray, events: np.ndarray, prior: float, count: int) -> list[tuple[str, float]]:
        """The values that the user takes more often in a window than all day, and how many times, largest first.

        ``matched_clock`` starts from this ratio, before it learns. What it borrows from everybody is left out, and where weekends
        have slots of their own, "all day" is this kind of day here and all days there.

        Args:
            weights: of each slot.
            events: in each slot.
            prior: events at the day's rate that every window starts with.
            count: of values at most.
        """
        window = weights * len(weights)
        day = self.scores.sum(axis=0) / events.sum()
        now = (window @ self.scores + prior * day) / (window @ events + prior)
        return self._top(np.divide(now, day, out=np.zeros_like(day), where=day > 0), count, SMALLEST_LIFT)

    def _top(self, figures: np.ndarray, count: int, least: float) -> list[tuple[str, float]]:
        pairs = zip(self.values, map(float, figures), strict=True)
        named = [(value, figure) for value, figure in pairs if value not in {OTHERS, NO_INTEREST} and figure >= least]
        return sorted(named, key=lambda pair: -pair[1])[:count]


@dataclass(frozen=True)
class DayClock:
    """A clock of one kind of day.

    Attributes:
        name: "working days" or "weekends"; empty where all days share one clock.
        events: in each slot of a day.
        facets: in the source's order.
    """

    name: str
    events: np.ndarray
    facets: list[FacetClock]


@dataclass(frozen=True)
class ItemScores:
    """A model's scores of an item for the user.

    Attributes:
        item: id in the log.
        values: its facets' values.
        scores: by time of day, the times evenly spaced from midnight.
        title: what people call it; empty where nobody tells.
    """

    item: str
    values: tuple[str, ...]
    scores: tuple[float, ...]
    title: str = ""

    @property
    def name(self) -> str:
        """Its title, with the id that tells two of one title apart; else the id."""
        return f"{self.title} ({self.item})" if self.title else self.item


def window_weights(config: RankerConfig, hours: float, sigma: float) -> np.ndarray:
    """Weight of each slot of a day, as ``training.time_modules`` weighs them.

    Args:
        config: for the slots.
        hours: local time.
        sigma: standard deviation of the window, hours.
    """
    return normal_density(circular_distance(centers(config) - hours), sigma) * config.slot_minutes / 60


def window_curve(hours: float, sigma: float) -> np.ndarray:
    """The window itself, 1 at its middle, at ``CURVE_STEPS`` times of day.

    Args:
        hours: local time of its middle.
        sigma: its standard deviation, hours.
    """
    times = (np.arange(CURVE_STEPS) + 0.5) * 24 / CURVE_STEPS
    return gaussian(circular_distance(times - hours), sigma)


def centers(config: RankerConfig) -> np.ndarray:
    """Local time of each slot's center, hours."""
    return (np.arange(config.slots_per_day) + config.slot_centre) * config.slot_minutes / 60


def day_clocks(
    facets: Sequence[str],
    config: RankerConfig,
    slots: Sequence[ClockSlot],
    everybody: Sequence[ClockSlot],
    others: Sequence[OtherClock] = (),
) -> list[DayClock]:
    """A clock by kind of day and facet, as shares of each slot.

    Args:
        facets: of the source.
        config: for the slots.
        slots: of the clock.
        everybody: slots of everybody's clock, whose order of values decides the colors.
        others: clocks to compare with.
    """
    per_day = config.slots_per_day
    days = []
    for number, name in enumerate(("working days", "weekends") if config.split_weekend else ("",)):
        shown, *compared = (
            [slot for slot in clock if slot.number // per_day == number]
            for clock in (slots, *(other.slots for other in others))
        )
        events = np.zeros(per_day)
        for slot in shown:
            events[slot.number % per_day] = slot.events
        past = [slot for other, kept in zip(others, compared, strict=True) if other.past for slot in kept]
        facet_clocks = [_facet_clock(facet, per_day, shown, past, everybody, compared) for facet in facets]
        days.append(DayClock(name, events, facet_clocks))
    return days


def _facet_clock(
    facet: str,
    per_day: int,
    slots: Sequence[ClockSlot],
    past: Sequence[ClockSlot],
    everybody: Sequence[ClockSlot],
    compared: Sequence[Sequence[ClockSlot]],
) -> FacetClock:
    named = list(dict.fromkeys([*_by_score(slots, facet), *_by_score(past, facet)]))[: len(COLORS)]
    usual = {value: n for n, value in enumerate(_by_score(everybody, facet)[: len(COLORS)])}
    free = (n for n in range(len(COLORS)) if n not in {usual.get(value) for value in named})
    colors = {value: usual[value] if value in usual else next(free) for value in named}
    named = sorted(named, key=colors.__getitem__)
    scores, *others = (_scores(clock, facet, named, per_day) for clock in (slots, *compared))
    tables = [_shares(table) for table in (scores, *others)]
    used = [n for n in range(len(named) + 2) if n < len(named) or any(table[:, n].any() for table in tables)]
    values = [*named, OTHERS, NO_INTEREST]
    return FacetClock(
        facet,
        tuple(values[n] for n in used),
        tuple(EMPTY if values[n] == NO_INTEREST else colors.get(values[n], GRAY) for n in used),
        np.pad(scores, ((0, 0), (0, 1)))[:, used],
        tables[0][:, used],
        tuple(table[:, used] for table in tables[1:]),
    )


def _by_score(slots: Sequence[ClockSlot], facet: str) -> list[str]:
    """A facet's values, the one with the largest scores over the day first."""
    totals = _totals(slots, facet)
    return sorted(totals, key=lambda value: (-totals[value], value))


def leading_values(slots: Sequence[ClockSlot], facet: str, count: int = 2) -> list[tuple[str, float]]:
    """A facet's values with the largest scores over the day, each with its share of all scores that the slots keep."""
    totals = _totals(slots, facet)
    return [(value, totals[value] / sum(totals.values())) for value in _by_score(slots, facet)[:count]]


def _totals(slots: Sequence[ClockSlot], facet: str) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for slot in slots:
        for value, score in slot.tops[facet]:
            totals[value] += score
    return totals


def _scores(slots: Sequence[ClockSlot], facet: str, named: Sequence[str], per_day: int) -> np.ndarray:
    """Scores of each slot: of the named values, and of all others in the last column."""
    scores = np.zeros((per_day, len(named) + 1))
    column = {value: n for n, value in enumerate(named)}
    for slot in slots:
        for value, score in slot.tops[facet]:
            scores[slot.number % per_day, column.get(value, len(named))] += score
    return scores


def _shares(scores: np.ndarray) -> np.ndarray:
    """Scores as shares of their slot, and one more column that is 1 where a slot has none."""
    totals = scores.sum(axis=1, keepdims=True)
    return np.hstack([scores / np.where(totals > 0, totals, 1), totals == 0])


def slot_name(number: int, config: RankerConfig) -> str:
    """A slot by the time at which it starts."""
    weekend, of_day = divmod(number, config.slots_per_day)
    start = of_day * config.slot_minutes
    return f"{start // 60:02d}:{start % 60:02d}" + (" weekend" if weekend else "")


def time_of(number: int, count: int) -> str:
    """One of some evenly spaced times of day, HH:MM."""
    hours, minutes = divmod(number * 1440 // count, 60)
    return f"{hours:02d}:{minutes:02d}"


def events_by_slot(slots: Sequence[ClockSlot], config: RankerConfig) -> np.ndarray:
    """Events in each slot of a day, weekends that have slots of their own among them."""
    events = np.zeros(config.slots_per_day)
    for slot in slots:
        events[slot.number % config.slots_per_day] += slot.events
    return events


def busiest_time(slots: Sequence[ClockSlot], config: RankerConfig) -> str:
    """Local time HH:MM of the middle of the slot of a day with the most events."""
    start = int(events_by_slot(slots, config).argmax()) * config.slot_minutes + config.slot_minutes // 2
    return f"{start // 60:02d}:{start % 60:02d}"


def slot_names(config: RankerConfig) -> list[str]:
    """The slots of a day by the times at which they start."""
    return [slot_name(number, config) for number in range(config.slots_per_day)]


def in_words(weights: Sequence[tuple[str, float]]) -> str:
    """Values with their weights as people read them."""
    return ", ".join(f"{value}\u00a0{share(weight)}" for value, weight in weights) or "nothing"
