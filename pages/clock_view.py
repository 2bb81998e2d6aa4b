"""What the page of a clock shows, as values: the clock by facet, its window at a time, and what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from core.hours import Hour
from core.page_table import Cell, Column, Group, Row, Table
from core.page_template import share, words
from pages.clock_drawing import COLORS, FAINTEST, INNER_RING, RING, SlotDrawing, draw_ring, draw_window, slot_opacity
from stats.circle import circular_distance, normal_density
from training.config import RankerConfig

OTHERS = "all others"
NO_EVENTS = "hours without events"
GRAY = len(COLORS)
"""Number of the color of whatever has no color of its own."""
SIGMAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Widths of the window that a reader can choose, hours; the ranker's own is among them."""
NONE_YET = "no events"
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
    """

    name: str
    slots: list[ClockSlot]
    past: bool


@dataclass(frozen=True)
class FacetClock:
    """What a clock says of a facet on one kind of day.

    Attributes:
        name: of the facet.
        values: those that are shown; ``OTHERS`` and ``NO_EVENTS`` stand for what is left, where there is any.
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
        named = [(value, figure) for value, figure in pairs if value not in {OTHERS, NO_EVENTS} and figure >= least]
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
    """

    item: str
    values: tuple[str, ...]
    scores: tuple[float, ...]


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


def window_weights(config: RankerConfig, hours: float, sigma: float) -> np.ndarray:
    """Weight of each slot of a day, as ``training.time_modules`` weighs them.

    Args:
        config: for the slots.
        hours: local time.
        sigma: standard deviation of the window, hours.
    """
    return normal_density(circular_distance(_centers(config) - hours), sigma) * config.slot_minutes / 60


def _centers(config: RankerConfig) -> np.ndarray:
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
        own, *compared = (
            [slot for slot in clock if slot.number // per_day == number]
            for clock in (slots, *(other.slots for other in others))
        )
        events = np.zeros(per_day)
        for slot in own:
            events[slot.number % per_day] = slot.events
        days.append(
            DayClock(name, events, [_facet_clock(facet, per_day, own, everybody, compared) for facet in facets])
        )
    return days


def _facet_clock(
    facet: str,
    per_day: int,
    slots: Sequence[ClockSlot],
    everybody: Sequence[ClockSlot],
    compared: Sequence[Sequence[ClockSlot]],
) -> FacetClock:
    named = _by_score(slots, facet)[: len(COLORS)]
    usual = {value: n for n, value in enumerate(_by_score(everybody, facet)[: len(COLORS)])}
    free = (n for n in range(len(COLORS)) if n not in {usual.get(value) for value in named})
    colors = {value: usual[value] if value in usual else next(free) for value in named}
    named = sorted(named, key=colors.__getitem__)
    scores, *others = (_scores(clock, facet, named, per_day) for clock in (slots, *compared))
    tables = [_shares(table) for table in (scores, *others)]
    used = [n for n in range(len(named) + 2) if n < len(named) or any(table[:, n].any() for table in tables)]
    values = [*named, OTHERS, NO_EVENTS]
    return FacetClock(
        facet,
        tuple(values[n] for n in used),
        tuple(colors.get(values[n], GRAY) for n in used),
        np.pad(scores, ((0, 0), (0, 1)))[:, used],
        tables[0][:, used],
        tuple(table[:, used] for table in tables[1:]),
    )


def _by_score(slots: Sequence[ClockSlot], facet: str) -> list[str]:
    """A facet's values, the one with the largest scores over the day first."""
    totals: dict[str, float] = defaultdict(float)
    for slot in slots:
        for value, score in slot.tops[facet]:
            totals[value] += score
    return sorted(totals, key=lambda value: (-totals[value], value))


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
        seen=_in_words(facet.seen(weights, top_k)),
    )


def _in_words(weights: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{value}\u00a0{share(weight)}" for value, weight in weights) or "nothing"


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
        centers=[float(center) for center in _centers(config)],
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


SENTENCES = {
    "none": "does not look at the time.",
    "hour_embedding": "only knows the hour of day: one learned vector for it, the same for every user.",
    "cyclic": "only knows the time of day, as a sine and a cosine, the same for every user.",
    "adaptive_clock": "mixes all hours with events, by weights that it learned for each pair of hours.",
    "long_term_clock": "reads the user's last behaviors instead of the clock: those that suit the candidate and the time of day.",
}
"""What time modules make of a time, where the clock alone does not tell it."""


def modules_table(
    days: Sequence[DayClock], variants: Sequence[str], config: RankerConfig, moment: str, prior: float
) -> Table | None:
    """What each time module makes of a clock at a time, where the clock tells it; None where it does for none.

    The page's script finds the cells by their ``data-module``.

    Args:
        days: the clock by kind of day.
        variants: that are trained.
        config: of the ranker with the Gaussian clock.
        moment: local time HH:MM.
        prior: see ``FacetClock.lifted``.
    """
    hours, minutes = map(int, moment.split(":"))
    weights = window_weights(config, hours + minutes / 60, config.sigma_hours)
    slot = np.zeros(config.slots_per_day)
    slot[(hours * 60 + minutes) // config.slot_minutes] = 1
    top_k = config.top_k

    def lifted(day: DayClock, facet: FacetClock) -> str:
        lifts = facet.lifted(weights, day.events, prior, top_k) if day.events.any() else []
        return ", ".join(f"{value}\u00a0×{lift:.1f}" for value, lift in lifts) or "nothing"

    tells: dict[str, tuple[str, Callable[[DayClock, FacetClock], str]]] = {
        "naive_clock": ("this slot alone", lambda _, facet: _in_words(facet.seen(slot, top_k))),
        "gaussian_clock": ("the window", lambda _, facet: _in_words(facet.seen(weights, top_k))),
        "matched_clock": ("more often than all day", lifted),
    }
    rows: list[Row | Group] = []
    for variant, (what, tell) in tells.items():
        if variant not in variants:
            continue
        for day in days:
            name = f"{words(variant)}: {what}" + (f", {day.name}" if day.name else "")
            cells = [_live_cell(variant, tell(day, facet)) for facet in day.facets]
            rows.append(Row([name, *cells]))
    names = [words(facet.name) for facet in days[0].facets]
    return Table([Column("time module"), *(Column(name, words=True) for name in names)], rows) if rows else None


def _live_cell(variant: str, text: str) -> Cell:
    return Cell(Markup('<span data-module="{}">{}</span>').format(variant, text))


def items_table(items: Sequence[ItemScores], moment: str) -> Table:
    """Scores of items at a time, best first, and over the day as a line.

    The page's script finds the rows by the item's number in ``data-item``.

    Args:
        items: with scores at the same times of day.
        moment: local time HH:MM.
    """
    hours, minutes = map(int, moment.split(":"))
    times = len(items[0].scores)
    now = (hours * 60 + minutes) * times // 1440
    least, most = min(min(item.scores) for item in items), max(max(item.scores) for item in items)
    rows = []
    for number in sorted(range(len(items)), key=lambda n: -items[n].scores[now]):
        item = items[number]
        points = " ".join(f"{n},{(most - score) / max(most - least, 1e-9):.3f}" for n, score in enumerate(item.scores))
        line = Markup(
            '<svg class="line" viewBox="0 0 {0} 1" preserveAspectRatio="none" role="img" aria-label="{1}">'
            '<line class="now" x1="{2}" x2="{2}" y2="1"/><polyline points="{3}"/></svg>'
        ).format(
            times - 1,
            f"{min(item.scores):.3f} to {max(item.scores):.3f}, best at {_clock_time(int(np.argmax(item.scores)), times)}",
            now,
            points,
        )
        name = Cell(Markup('<span data-item="{}">{}</span>').format(number, item.item))
        score = Cell(Markup("<span data-score>{}</span>").format(f"{item.scores[now]:.3f}"))
        rows.append(Row([name, ", ".join(item.values), score, Cell(line)]))
    columns = [
        Column("item"),
        Column("is", words=True),
        Column("score now"),
        Column("00 to 24 h", words=True),
    ]
    return Table(columns, rows, caption=f"Scores lie between {least:.2f} and {most:.2f} over the day")


def _clock_time(number: int, times: int) -> str:
    minutes = number * 1440 // times
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def changes_table(
    facets: Sequence[str], config: RankerConfig, slots: Sequence[ClockSlot], others: Sequence[OtherClock]
) -> Table | None:
    """Slots whose top value is another than it was, by facet; None where nothing is known of the past.

    Args:
        facets: of the source.
        config: for the slots.
        slots: of the clock.
        others: of which those of the past count, the oldest first.
    """
    past = [other for other in others if other.past]
    if not past:
        return None
    clocks = [{slot.number: slot.tops for slot in clock} for clock in (*(other.slots for other in past), slots)]
    rows: list[Row | Group] = []
    for facet in facets:
        tops = {
            number: [clock[number][facet][0][0] if clock.get(number, {}).get(facet) else NONE_YET for clock in clocks]
            for number in range(config.slots)
        }
        changed = [number for number, values in tops.items() if len(set(values)) > 1]
        filled = sum(set(values) != {NONE_YET} for values in tops.values())
        rows.append(Group(f"{words(facet)}: another leads in {len(changed)} of {filled} hours with events"))
        rows += [Row([slot_name(number, config), *tops[number]]) for number in changed]
    return Table([Column("hour"), *(Column(name, words=True) for name in (*(p.name for p in past), "now"))], rows)


def slots_table(facets: Sequence[str], config: RankerConfig, slots: Sequence[ClockSlot]) -> Table:
    """Every slot's events and top values with their scores."""
    columns = [
        Column("slot"),
        Column("events"),
        *(Column(words(facet), words=True) for facet in facets),
        Column("as of"),
    ]
    rows = [
        Row(
            [
                slot_name(slot.number, config),
                f"{slot.events:,}",
                *(", ".join(f"{value} ({score:g})" for value, score in slot.tops[facet]) for facet in facets),
                slot.as_of.key if slot.as_of else "borrowed",
            ]
        )
        for slot in slots
    ]
    return Table(columns, rows)


def slot_name(number: int, config: RankerConfig) -> str:
    """A slot by the time at which it starts."""
    weekend, of_day = divmod(number, config.slots_per_day)
    start = of_day * config.slot_minutes
    return f"{start // 60:02d}:{start % 60:02d}" + (" weekend" if weekend else "")
