"""A page that draws a clock as a clock: 24 hours by top values, and a Gaussian window that turns to any time of day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from core.documents import JsonObject
from core.errors import NotReadyError
from core.hours import Hour
from core.page_table import Column, Row, Table
from core.page_template import share, words, write_page
from events.ids import log_ids
from feature_repo.retrieval import ClockFeatures
from pages.clock_drawing import (
    COLORS,
    FAINTEST,
    INNER_RING,
    RING,
    SlotDrawing,
    draw_ring,
    draw_window,
    hour_labels,
    slot_opacity,
)
from stats.circle import circular_distance, normal_density
from training.config import RankerConfig, load_ranker_config

EVERYONE = "everyone"
OTHERS = "all others"
NO_EVENTS = "hours without events"
GRAY = len(COLORS)
"""Number of the color of whatever has no color of its own."""
SIGMAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Widths of the window that a reader can choose, hours; the ranker's own is among them."""
FOLDER = Path(__file__).parent
TONES = "".join(
    f".v{n} {{ --tone: {color} }} .facet:has(.k{n}:hover) .tone:not(.v{n}) {{ opacity: .15 }}\n"
    for n, color in enumerate((*COLORS, "#8b95a1"))
) + "".join(
    f"@media (prefers-color-scheme: dark) {{ .v{n} {{ --tone: color-mix(in srgb, {color} 72%, white) }} }}\n"
    for n, color in enumerate(COLORS)
)  # fmt: skip


@dataclass(frozen=True)
class ClockSlot:
    """A slot of a clock.

    Attributes:
        number: of the slot; those of the weekend, where it is kept apart, follow those of the other days.
        events: in the window.
        as_of: hour at whose start the slot holds.
        tops: facet → its top values and their scores, best first.
    """

    number: int
    events: int
    as_of: Hour
    tops: dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class FacetClock:
    """What a clock says of a facet on one kind of day.

    Attributes:
        name: of the facet.
        values: those that are shown; ``OTHERS`` and ``NO_EVENTS`` stand for what is left, where there is any.
        colors: number of each value's color, the same on every page of the source.
        shares: of each value in each slot's scores, shape (slots of a day, values), as the ranker weighs them.
        compared: the same of the clock that this one is compared with; None without one.
    """

    name: str
    values: tuple[str, ...]
    colors: tuple[int, ...]
    shares: np.ndarray
    compared: np.ndarray | None

    def seen(self, weights: np.ndarray, count: int) -> list[tuple[str, float]]:
        """The top values in a window with their weights, largest first.

        Args:
            weights: of each slot.
            count: of values at most.
        """
        weighted = zip(self.values, weights @ self.shares, strict=True)
        named = [(value, float(w)) for value, w in weighted if value not in {OTHERS, NO_EVENTS} and w >= 0.005]
        return sorted(named, key=lambda pair: -pair[1])[:count]


@dataclass(frozen=True)
class DayClock:
    """A clock of one kind of day.

    Attributes:
        name: "working days" or "weekends"; empty where all days share one clock.
        facets: in the source's order.
    """

    name: str
    facets: list[FacetClock]


@dataclass(frozen=True)
class LegendRow:
    """A value in a window: its weight, and in the clock that is compared."""

    name: str
    color: int
    share: float
    compared: float | None


@dataclass(frozen=True)
class FacetDrawing:
    """A facet's dial and legend, as the page shows them first."""

    name: str
    summary: str
    outer: list[SlotDrawing]
    inner: list[SlotDrawing]
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
        events: in the clock's window of ``window_days`` before ``as_of``.
        compared: what the inner ring is; empty without one.
        moment: local time HH:MM, ``minutes`` after midnight.
        sigma: of the ranker, hours; one of ``sigmas``, which have a drawing each in ``windows``.
        opacity: of each slot of a day.
        bars: events of each slot of a day, the most being 1; ``busiest`` says it in words.
    """

    events: int
    window_days: int
    as_of: Hour
    compared: str
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
    shares: list[list[float]]
    compared: list[list[float]] | None


@dataclass(frozen=True)
class ClockData:
    """What the page's script reads, under the names that it uses.

    Attributes:
        centers: local time of each slot's center, hours.
        slotHours: a slot's width.
        facets: of every kind of day, one after the other.
    """

    centers: list[float]
    slotHours: float  # noqa: N815
    sigmas: list[float]
    windows: list[str]
    faintest: float
    topCount: int  # noqa: N815
    unnamed: list[str]
    facets: list[FacetData]


def write_clock_page(features: ClockFeatures, user: int | None, moment: str = "08:30") -> Path:
    """Draw the clock of a user, or of everybody, as the online store holds it.

    The page calls the user as the source's log does. A user's clock is compared with everybody's.

    Args:
        features: of the source.
        user: the platform's number of the user; None for the population.
        moment: local time HH:MM at which the hand stands first.

    Returns:
        The page's path.

    Raises:
        NotReadyError: there are no clocks, or the user has none.
    """
    at = features.clock.require_state().as_of
    everybody = read_slots(features, features.population(at))
    slots = everybody if user is None else read_slots(features, features.get_clock([user], at))
    who = "Everybody" if user is None else f"User {log_ids(features.events.root, 'user', [user])[user]}"
    if not slots:
        raise _no_events(features, who, at)
    compared = "" if user is None else "everybody"
    config = load_ranker_config(features.settings, "gaussian_clock")
    days = day_clocks(features.facets, config, slots, everybody, everybody if compared else None)
    path = features.settings.reports_dir / "clocks" / f"{EVERYONE if user is None else user}.html"
    page = clock_page(
        days, slots, config, moment, as_of=at, compared=compared, window_days=features.settings.window_days
    )
    write_page(
        path, f"Interest clock of {who[0].lower()}{who[1:]}", (FOLDER / "clock.html").read_text(encoding="utf-8"),
        style=(FOLDER / "clock.css").read_text(encoding="utf-8") + TONES, home="../index.html", page=page, labels=hour_labels(),
        data=asdict(clock_data(days, page, config)), script=Markup((FOLDER / "clock.js").read_text(encoding="utf-8")),  # noqa: S704 # nosec B704
        table=_table(features, slots),
    )  # fmt: skip
    return path


def read_slots(features: ClockFeatures, rows: pa.Table) -> list[ClockSlot]:
    """The slots of a clock from rows as ``ClockFeatures`` reads them."""
    return [
        ClockSlot(
            row["slot"], row["events"], Hour(row["as_of"]),
            {f: list(zip(row[f"{f}_values"], row[f"{f}_scores"], strict=True)) for f in features.facets},
        )
        for row in rows.to_pylist()
    ]  # fmt: skip


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
    compared: Sequence[ClockSlot] | None,
) -> list[DayClock]:
    """A clock by kind of day and facet, as shares of each slot.

    Args:
        facets: of the source.
        config: for the slots.
        slots: of the clock.
        everybody: slots of everybody's clock, whose order of values decides the colors.
        compared: slots of the clock to compare with.
    """
    per_day = config.slots_per_day
    days = []
    for number, name in enumerate(("working days", "weekends") if config.split_weekend else ("",)):
        of_day = [s for s in slots if s.number // per_day == number]
        like = None if compared is None else [s for s in compared if s.number // per_day == number]
        days.append(DayClock(name, [_facet_clock(f, per_day, of_day, everybody, like) for f in facets]))
    return days


def _facet_clock(
    facet: str,
    per_day: int,
    slots: Sequence[ClockSlot],
    everybody: Sequence[ClockSlot],
    compared: Sequence[ClockSlot] | None,
) -> FacetClock:
    named = _by_score(slots, facet)[: len(COLORS)]
    usual = {value: n for n, value in enumerate(_by_score(everybody, facet)[: len(COLORS)])}
    free = (n for n in range(len(COLORS)) if n not in {usual.get(value) for value in named})
    colors = [usual[value] if value in usual else next(free) for value in named]
    order = sorted(range(len(named)), key=colors.__getitem__)
    named, colors = [named[n] for n in order], [colors[n] for n in order]
    tables = [
        _shares(slots, facet, named, per_day),
        *([] if compared is None else [_shares(compared, facet, named, per_day)]),
    ]
    kept = [*range(len(named)), *(len(named) + n for n in (0, 1) if any(t[:, len(named) + n].any() for t in tables))]
    values = [*named, OTHERS, NO_EVENTS]
    return FacetClock(
        facet, tuple(values[n] for n in kept), tuple([*colors, GRAY, GRAY][n] for n in kept), tables[0][:, kept],
        tables[1][:, kept] if compared is not None else None,
    )  # fmt: skip


def _by_score(slots: Sequence[ClockSlot], facet: str) -> list[str]:
    """A facet's values, the one with the largest scores over the day first."""
    totals: dict[str, float] = defaultdict(float)
    for slot in slots:
        for value, score in slot.tops[facet]:
            totals[value] += score
    return sorted(totals, key=lambda value: (-totals[value], value))


def _shares(slots: Sequence[ClockSlot], facet: str, named: Sequence[str], per_day: int) -> np.ndarray:
    """Shares of each slot's scores: of the named values, of all others, and 1 in the last column where there are no scores."""
    shares = np.zeros((per_day, len(named) + 2))
    place = {value: n for n, value in enumerate(named)}
    for slot in slots:
        for value, score in slot.tops[facet]:
            shares[slot.number % per_day, place.get(value, len(named))] += score
    totals = shares.sum(axis=1, keepdims=True)
    shares[:, -1] = totals[:, 0] == 0
    return shares / np.where(totals > 0, totals, 1)


def clock_page(
    days: Sequence[DayClock],
    slots: Sequence[ClockSlot],
    config: RankerConfig,
    moment: str,
    *,
    as_of: Hour,
    compared: str,
    window_days: int,
) -> ClockPage:
    """What a clock's page shows first.

    Args:
        days: the clock by kind of day.
        slots: the same clock's.
        config: of the ranker with the Gaussian clock.
        moment: local time HH:MM.
        as_of: hour at whose start the clock holds.
        compared: what it is compared with; empty: nothing.
        window_days: that the clock looks back.
    """
    hours, minutes = map(int, moment.split(":"))
    weights = window_weights(config, hours + minutes / 60, config.sigma_hours)
    sigmas = sorted({*SIGMAS, config.sigma_hours})
    events = np.zeros(config.slots_per_day)
    for slot in slots:
        events[slot.number % config.slots_per_day] += slot.events
    titles = [_slot_name(n, config.slot_minutes) for n in range(config.slots_per_day)]
    return ClockPage(
        events=int(events.sum()), window_days=window_days, as_of=as_of, compared=compared,
        moment=moment, minutes=60 * hours + minutes, sigma=config.sigma_hours, sigmas=sigmas, windows=[draw_window(s) for s in sigmas],
        opacity=slot_opacity(weights), bars=[round(float(bar), 3) for bar in events / events.max()],
        busiest=f"most at {titles[int(events.argmax())]}, {int(events.max()):,}",
        days=[DayDrawing(day.name, [_draw(facet, weights, titles, config.top_k) for facet in day.facets]) for day in days],
    )  # fmt: skip


def _draw(facet: FacetClock, weights: np.ndarray, titles: Sequence[str], top_k: int) -> FacetDrawing:
    drawn = [n for n, value in enumerate(facet.values) if value != NO_EVENTS]
    values, colors = [facet.values[n] for n in drawn], [facet.colors[n] for n in drawn]

    def ring(shares: np.ndarray, radii: tuple[float, float]) -> list[SlotDrawing]:
        return draw_ring(shares[:, drawn], values, colors, titles, radii)

    compared = None if facet.compared is None else weights @ facet.compared
    legend = [
        LegendRow(value, facet.colors[n], float(weight), None if compared is None else float(compared[n]))
        for n, (value, weight) in enumerate(zip(facet.values, weights @ facet.shares, strict=True))
    ]
    most = [(title, facet.values[n]) for title, n in zip(titles, facet.shares.argmax(axis=1), strict=True)]
    return FacetDrawing(
        facet.name, f"{words(facet.name)} that leads by hour: {_runs(most)}", ring(facet.shares, RING),
        [] if facet.compared is None else ring(facet.compared, INNER_RING), legend,
        ", ".join(f"{value} {share(weight)}" for value, weight in facet.seen(weights, top_k)) or "nothing",
    )  # fmt: skip


def _runs(most: Sequence[tuple[str, str]]) -> str:
    """Hours in words, those in a row that have the same value as one."""
    starts = [n for n, (_, value) in enumerate(most) if n == 0 or value != most[n - 1][1]]
    return "; ".join(f"from {most[n][0]} {most[n][1]}" for n in starts)


def clock_data(days: Sequence[DayClock], page: ClockPage, config: RankerConfig) -> ClockData:
    """What the page's script reads."""

    def rows(shares: np.ndarray) -> list[list[float]]:
        return [[round(float(cell), 4) for cell in row] for row in shares]

    facets = [
        FacetData(list(facet.values), rows(facet.shares), None if facet.compared is None else rows(facet.compared))
        for day in days
        for facet in day.facets
    ]
    return ClockData(
        [float(center) for center in _centers(config)], config.slot_minutes / 60, page.sigmas, page.windows, FAINTEST, config.top_k,
        [OTHERS, NO_EVENTS], facets,
    )  # fmt: skip


def _table(features: ClockFeatures, slots: Sequence[ClockSlot]) -> Table:
    columns = [
        Column("slot"),
        Column("events"),
        *(Column(words(f), words=True) for f in features.facets),
        Column("as of"),
    ]
    per_day = features.settings.slots_per_day
    rows = [
        Row(
            [
                _slot_name(slot.number % per_day, features.settings.slot_minutes) + (" weekend" if slot.number >= per_day else ""),
                f"{slot.events:,}",
                *(", ".join(f"{value} ({score:g})" for value, score in slot.tops[f]) for f in features.facets), slot.as_of.key,
            ]
        )
        for slot in slots
    ]  # fmt: skip
    return Table(columns, rows)


def _slot_name(number: int, slot_minutes: int) -> str:
    start = number * slot_minutes
    return f"{start // 60:02d}:{start % 60:02d}"


def clock_json(features: ClockFeatures, users: Sequence[int], at: Hour) -> list[JsonObject]:
    """Clocks of users as plain objects, for the command line; ``user`` is the log's id.

    Args:
        features: of the source.
        users: the platform's numbers.
        at: the running hour.

    Raises:
        NotReadyError: none of the users has a clock.
    """
    names = log_ids(features.events.root, "user", users)
    rows = features.get_clock(users, at).drop_columns(["hour"]).to_pylist()
    if not rows:
        raise _no_events(features, ", ".join(names.values()), at)
    return [{"user": names[row["user_id"]], **row, "as_of": Hour(row["as_of"]).key} for row in rows]


def _no_events(features: ClockFeatures, who: str, at: Hour) -> NotReadyError:
    active = features.most_active(1)
    example = f"; one that has is {log_ids(features.events.root, 'user', active)[active[0]]}" if active else ""
    return NotReadyError(f"{who} has no event in the {features.settings.window_days} days before {at}{example}")
