"""A page that draws a clock: 24 hours by top values, with the Gaussian window of a chosen time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from core.documents import JsonObject
from core.errors import NotReadyError
from core.hours import Hour
from core.page_table import Column, Row, Table
from core.page_template import svg, words, write_page
from events.ids import log_ids
from feature_repo.retrieval import ClockFeatures
from stats.circle import circular_distance, normal_density

if TYPE_CHECKING:
    from markupsafe import Markup

EVERYONE = "everyone"
SHOWN_VALUES = 12
SIGMA_HOURS = 1.0
PAGE = """
<section class="banner calm"><p class="lead">{{ who }}: {{ events|number(0) }} events in the window, clock as of {{ as_of }} UTC.
At {{ moment }} local time the ranker sees: {% for facet, values in now.items() %}<strong>{{ facet|words }}</strong>
{{ values|join(", ") or "nothing" }}{% if not loop.last %}; {% endif %}{% endfor %}.</p></section>
{% for facet, drawing in drawings.items() %}<section><h2>{{ facet|words }}</h2>{{ drawing }}</section>{% endfor %}
<section><h2>Slots</h2>{{ table }}<p class="soft">Top values by score (likes and finishes less skips and dislikes), score in brackets.
The curve is the weight of each hour at the chosen time: a Gaussian, σ = {{ sigma }} h, of the shortest way around the clock.</p></section>
"""


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


def write_clock_page(features: ClockFeatures, user: int | None, moment: str = "08:30") -> Path:
    """Draw the clock of a user, or of everybody, as the online store holds it.

    The page calls the user as the source's log does.

    Args:
        features: of the source.
        user: the platform's number of the user; None for the population.
        moment: local time HH:MM whose Gaussian window is drawn.

    Returns:
        The page's path.

    Raises:
        NotReadyError: there are no clocks, or the user has none.
    """
    at = features.clock.require_state().as_of
    rows = features.population(at) if user is None else features.get_clock([user], at)
    who = "Everybody" if user is None else f"User {log_ids(features.events.root, 'user', [user])[user]}"
    if not rows.num_rows:
        raise _no_events(features, who, at)
    hours, minutes = map(int, moment.split(":"))
    now = hours + minutes / 60
    path = features.settings.reports_dir / "clocks" / f"{EVERYONE if user is None else user}.html"
    slots = _slots(features, rows)
    weights = _weights(features, now)
    blended = {facet: _blend(slots, facet, weights) for facet in features.facets}
    write_page(
        path, f"Interest clock of {who[0].lower()}{who[1:]}", PAGE, home="../index.html", who=who, moment=moment, sigma=SIGMA_HOURS,
        events=sum(slot.events for slot in slots), as_of=at,
        now={facet: list(values)[: features.settings.top_k] for facet, values in blended.items()},
        drawings={facet: _draw(features, slots, facet, weights, who, moment) for facet in features.facets},
        table=_table(features, slots),
    )  # fmt: skip
    return path


def _slots(features: ClockFeatures, rows: pa.Table) -> list[ClockSlot]:
    return [
        ClockSlot(
            row["slot"], row["events"], Hour(row["as_of"]),
            {f: list(zip(row[f"{f}_values"], row[f"{f}_scores"], strict=True)) for f in features.facets},
        )
        for row in rows.to_pylist()
    ]  # fmt: skip


def _table(features: ClockFeatures, slots: Sequence[ClockSlot]) -> Table:
    columns = [
        Column("slot"),
        Column("events"),
        *(Column(words(f), words=True) for f in features.facets),
        Column("as of"),
    ]
    rows = [
        Row(
            [
                _slot_name(features, slot.number), f"{slot.events}",
                *(", ".join(f"{value} ({score:g})" for value, score in slot.tops[f]) for f in features.facets), slot.as_of.key,
            ]
        )
        for slot in slots
    ]  # fmt: skip
    return Table(columns, rows)


def _slot_name(features: ClockFeatures, slot: int) -> str:
    day, number = divmod(slot, features.settings.slots_per_day)
    start = number * features.settings.slot_minutes
    return f"{start // 60:02d}:{start % 60:02d}" + (" weekend" if day else "")


def _weights(features: ClockFeatures, now: float) -> np.ndarray:
    """Gaussian weight of each slot of a day at local time ``now``."""
    width = features.settings.slot_minutes / 60
    gap = (np.arange(features.settings.slots_per_day) + 0.5) * width - now
    return normal_density(circular_distance(gap), SIGMA_HOURS) * width


def _blend(slots: Sequence[ClockSlot], facet: str, weights: np.ndarray) -> dict[str, float]:
    """Values by their share in the Gaussian-weighted slots, largest first."""
    shares: dict[str, float] = defaultdict(float)
    for slot in slots:
        total = sum(score for _, score in slot.tops[facet])
        for value, score in slot.tops[facet]:
            shares[value] += weights[slot.number % len(weights)] * score / total
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


def _draw(
    features: ClockFeatures, slots: Sequence[ClockSlot], facet: str, weights: np.ndarray, who: str, moment: str
) -> Markup:
    import matplotlib.pyplot as plt

    totals: dict[str, float] = defaultdict(float)
    for slot in slots:
        for value, score in slot.tops[facet]:
            totals[value] += score
    shown = sorted(totals, key=lambda v: (-totals[v], v))[:SHOWN_VALUES]
    grid = np.zeros((len(shown), len(weights)))
    for slot in slots:
        for value, score in slot.tops[facet]:
            if value in shown:
                grid[shown.index(value), slot.number % len(weights)] += score
    figure, (top, axes) = plt.subplots(
        2, 1, figsize=(8, 1.4 + 0.3 * max(len(shown), 1)), height_ratios=[1, max(len(shown), 1) * 0.5], sharex=True
    )
    ticks = np.arange(0, len(weights) + 1, max(len(weights) // 8, 1)) - 0.5
    top.fill_between(np.arange(len(weights)), weights, color="#1f5fa8", alpha=0.25, step="mid")
    top.set_yticks([])
    top.set_title(f"weight at {moment}", fontsize=8, loc="left", color="#5a6675")
    axes.imshow(grid, aspect="auto", cmap="Blues")
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.set_xticks(
        ticks, [f"{int((t + 0.5) * features.settings.slot_minutes // 60):02d} h" for t in ticks], fontsize=8
    )
    for each in (top, axes):
        each.spines[["top", "right", "left"]].set_visible(False)
    best = "; ".join(f"{value}: most at slot {int(grid[n].argmax())}" for n, value in enumerate(shown[:5]))
    return svg(figure, f"{who}: scores of {facet} over the day. {best}", "Darker: a higher score in that slot.")


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
