"""A facet's dial, drawn by Vega-Altair: 24 hours around, with the Gaussian window as a hand that turns.

The page's script tells it what the reader chose by signals: ``minutes`` after midnight, ``sigma`` in hours, the weights of slots
(``emphasis``, the largest being 1) and of the times in between (``curve``), the clock that is ``compared``, and the value that the
pointer is on (``highlight``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core.charts import ACCENT, INK, SOFT, Chart
from core.page_template import words
from pages.clock_colors import color_scale
from pages.clock_values import FacetClock, window_curve, window_weights
from training.config import RankerConfig

if TYPE_CHECKING:
    from core.vega import alt

RADIUS = 150
"""Of a dial, pixels; all other radii are parts of it."""
RING, INNER_RING, WINDOW, HAND, LABELS = (0.45, 0.77), (0.32, 0.42), (0.785, 0.91), (0.28, 0.85), 0.955
"""Where a clock is drawn, one to compare it with, the Gaussian window, and the hand; at which radius the hours are written."""
HAND_WIDTH = 0.05
"""Hours that the hand is wide."""
SMALLEST_SHARE = 0.005
"""Of a slot's scores that is drawn."""
FAINTEST, FADED = 0.3, 0.15
"""Opacity of a slot that weighs nothing, and of values beside the one that the pointer is on."""
CLOCK_TIME = "timeFormat(datetime(2000, 0, 1, 0, round(60 * datum.start)), '%H:%M')"
"""Expression of ``start``, hours, as a time of day."""


@dataclass(frozen=True)
class Hand:
    """Where the hand stands first.

    Attributes:
        minutes: after local midnight.
        sigma: of the window, hours.
    """

    minutes: int
    sigma: float


def dial(
    facet: FacetClock, number: int, compared: Sequence[str], config: RankerConfig, hand: Hand, summary: str
) -> Chart:
    """A facet's dial, midnight at the top: a sector for each slot, parted by the shares of its values.

    Equal shares take equal areas, the largest outside. Inside is the ring of a clock to compare with, outside the Gaussian window
    with its hand.

    Args:
        facet: the clock's.
        number: of the dial on its page.
        compared: names of the clocks in ``facet.compared``.
        config: for the slots.
        hand: where it stands first.
        summary: the dial in words.
    """
    from core.vega import alt

    weights = window_weights(config, hand.minutes / 60, hand.sigma)
    signals = {
        "minutes": hand.minutes, "sigma": hand.sigma, "compared": 0, "highlight": {"dial": -1, "value": ""},
        "emphasis": _rounded(weights / weights.max()), "curve": _rounded(window_curve(hand.minutes / 60, hand.sigma)),
        "clocks": ["this clock", *compared],
    }  # fmt: skip
    drawing = (
        alt.layer(_slots(facet, number, config), _window(), *_hand(), *_texts())
        .add_params(*(alt.param(name=name, value=value) for name, value in signals.items()))
        .properties(width=2 * RADIUS, height=2 * RADIUS, padding=0, autosize="none")
    )
    return Chart(drawing, summary)


def _slots(facet: FacetClock, number: int, config: RankerConfig) -> Any:
    from core.vega import alt, inline_data

    rows = [
        {"clock": clock, "slot": int(slot), "value": facet.values[value], "share": round(float(shares[slot, value]), 4)}
        for clock, shares in enumerate((facet.shares, *facet.compared))
        for slot, value in zip(*np.nonzero(shares > SMALLEST_SHARE), strict=True)
    ]
    hours = config.slot_minutes / 60
    return (
        alt.Chart(inline_data(rows))
        .transform_filter("datum.clock == 0 || datum.clock == toNumber(compared) + 1")
        .transform_stack(
            stack="share", groupby=["clock", "slot"], as_=["low", "high"],
            sort=[alt.SortField("share", "ascending"), alt.SortField("value", "descending")],
        )
        .transform_calculate(
            start=f"datum.slot * {hours}", end=f"(datum.slot + 1) * {hours}", inner=_area("low"), outer=_area("high"),
            strength=f"(highlight.dial == {number} && highlight.value != datum.value ? {FADED} : 1)"
            f" * ({FAINTEST} + {1 - FAINTEST:.2f} * emphasis[datum.slot])",
            of="clocks[datum.clock]",
        )
        .transform_calculate(at=CLOCK_TIME)
        .mark_arc(stroke="var(--paper)", strokeWidth=0.7)
        .encode(
            **_sector(), color=alt.Color("value:N", scale=color_scale(facet.values, facet.colors), legend=None),
            opacity=alt.Opacity("strength:Q", scale=None, legend=None),
            tooltip=[
                alt.Tooltip("of:N", title="of"), alt.Tooltip("at:N", title="from"), alt.Tooltip("value:N", title=words(facet.name)),
                alt.Tooltip("share:Q", format=".0%"),
            ],
        )
    )  # fmt: skip


def _area(share: str) -> str:
    """Expression of the squared radius that a part of a slot reaches to, in the outer ring for the clock and in the inner one else."""
    (inner, outer), (inner_compared, outer_compared) = RING, INNER_RING
    return (
        f"datum.clock == 0 ? {inner**2:.4f} + datum.{share} * {outer**2 - inner**2:.4f}"
        f" : {inner_compared**2:.4f} + datum.{share} * {outer_compared**2 - inner_compared**2:.4f}"
    )


def _window() -> Any:
    from core.vega import alt

    steps, (inner, outer) = len(window_curve(0.0, 1.0)), WINDOW
    return (
        alt.Chart(alt.sequence(0, steps, as_="step"))
        .transform_filter("curve[datum.step] > 0.002")
        .transform_calculate(
            start=f"datum.step * 24 / {steps}", end=f"(datum.step + 1) * 24 / {steps}", inner=f"{inner**2:.4f}",
            outer=f"pow({inner} + {outer - inner:.2f} * curve[datum.step], 2)",
        )
        .mark_arc(color=ACCENT, opacity=0.4)
        .encode(**_sector())
    )  # fmt: skip


def _hand() -> list[Any]:
    from core.vega import alt, inline_data

    point = alt.Chart(inline_data([{}])).transform_calculate(
        start=f"minutes / 60 - {HAND_WIDTH / 2}", end=f"minutes / 60 + {HAND_WIDTH / 2}", middle="minutes / 60",
        inner=f"{HAND[0] ** 2:.4f}", outer=f"{HAND[1] ** 2:.4f}",
    )  # fmt: skip
    knob = point.mark_text(text="●", fontSize=19, color=INK, baseline="middle")
    return [
        point.mark_arc(color=INK).encode(**_sector()),
        knob.encode(theta=_theta("middle:Q"), radius=_radius("outer:Q")),
    ]


def _texts() -> list[Any]:
    from core.vega import alt, inline_data

    hours = [{"start": hour, "radius": LABELS**2, "text": f"{hour:02d}"} for hour in range(0, 24, 3)]
    around = alt.Chart(inline_data(hours)).mark_text(fontSize=12, color=SOFT, baseline="middle")
    middle = alt.Chart(inline_data([{}]))
    middle = middle.transform_calculate(start="minutes / 60", sigma="'σ ' + sigma + ' h'").transform_calculate(
        at=CLOCK_TIME
    )
    place = {"x": alt.value(RADIUS), "y": alt.value(RADIUS)}
    return [
        around.encode(theta=_theta("start:Q"), radius=_radius("radius:Q"), text="text:N"),
        middle.mark_text(fontSize=20, fontWeight=600, color=INK, dy=-7).encode(text="at:N", **place),
        middle.mark_text(fontSize=13, color=SOFT, dy=13).encode(text="sigma:N", **place),
    ]


def _sector() -> dict[str, Any]:
    """Encodings of a mark that goes from ``start`` to ``end``, hours, and from ``inner`` to ``outer``, squared radii."""
    return {"theta": _theta("start:Q"), "theta2": "end:Q", "radius": _radius("inner:Q"), "radius2": "outer:Q"}


def _theta(field: str) -> alt.Theta:
    from core.vega import alt

    return alt.Theta(field, stack=None, scale=alt.Scale(domain=[0, 24], nice=False))


def _radius(field: str) -> alt.Radius:
    from core.vega import alt

    return alt.Radius(field, stack=None, scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0, RADIUS]))


def _rounded(numbers: np.ndarray) -> list[float]:
    return [round(float(number), 3) for number in numbers]
