"""The tables beside a clock: what time modules make of a moment, items' scores, how the clock changed, its slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from core.page_table import Cell, Column, Group, Row, Table
from core.page_template import words
from pages.clock_values import (
    NO_INTEREST,
    ClockSlot,
    DayClock,
    FacetClock,
    ItemScores,
    OtherClock,
    events_by_slot,
    in_words,
    leading_values,
    slot_name,
    time_of,
    window_weights,
)
from training.config import RankerConfig

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
        "naive_clock": ("this slot alone", lambda _, facet: in_words(facet.seen(slot, top_k))),
        "gaussian_clock": ("the window", lambda _, facet: in_words(facet.seen(weights, top_k))),
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
    """Scores of items at a time, best first, and what they are over the day.

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
        swatch = Markup('<span class="swatched"><b class="key v{0}"></b><span data-item="{0}">{1}</span></span>')
        name = Cell(swatch.format(number, item.name))
        score = Cell(Markup("<span data-score>{}</span>").format(f"{item.scores[now]:.3f}"))
        extremes = [f"{score:.3f}" for score in (min(item.scores), max(item.scores))]
        rows.append(Row([name, ", ".join(item.values), score, *extremes, time_of(int(np.argmax(item.scores)), times)]))
    columns = [
        Column("item"), Column("is", words=True), Column("score now"), Column("least"), Column("most"), Column("best at"),
    ]  # fmt: skip
    return Table(columns, rows, caption=f"Scores lie between {least:.2f} and {most:.2f} over the day")


def segments_table(facets: Sequence[str], config: RankerConfig, segments: Sequence[OtherClock]) -> Table:
    """Segments: how many users and events, when they are busiest, and what leads over the day.

    Args:
        facets: of the source.
        config: for the slots.
        segments: with their users; everybody first.
    """
    hint = "The values with the largest scores over the day, each with its share of all scores"
    columns = [
        Column("segment"), Column("users"), Column("events"), Column("busiest"),
        *(Column(words(facet), hint, words=True) for facet in facets),
    ]  # fmt: skip
    rows = []
    for number, clock in enumerate(segments):
        events = events_by_slot(clock.slots, config)
        cells = [Cell(f"{count:,}", sort=count) for count in (clock.users or 0, int(events.sum()))]
        tops = [in_words(leading_values(clock.slots, facet)) for facet in facets]
        rows.append(Row([clock.name, *cells, slot_name(int(events.argmax()), config), *tops], strong=number == 0))
    return Table(columns, rows, name="segments")


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
            number: [
                clock[number][facet][0][0] if clock.get(number, {}).get(facet) else NO_INTEREST for clock in clocks
            ]
            for number in range(config.slots)
        }
        changed = [number for number, values in tops.items() if len(set(values)) > 1]
        filled = sum(set(values) != {NO_INTEREST} for values in tops.values())
        rows.append(Group(f"{words(facet)}: another leads in {len(changed)} of {filled} hours with an interest"))
        rows += [Row([slot_name(number, config), *tops[number]]) for number in changed]
    return Table(
        [Column("hour"), *(Column(name, words=True) for name in (*(p.name for p in past), "now"))], rows, name="changes"
    )


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
                Cell(f"{slot.events:,}", sort=slot.events),
                *(", ".join(f"{value} ({score:g})" for value, score in slot.tops[facet]) for facet in facets),
                slot.as_of.key if slot.as_of else "borrowed",
            ]
        )
        for slot in slots
    ]
    return Table(columns, rows, name="slots")
