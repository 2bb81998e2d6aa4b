"""The geometry of a clock's drawing: 24 hours around, midnight at the top, as SVG paths that the page's style colors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stats.circle import gaussian

COLORS = (
    "#2f6db5", "#d9730d", "#1f9170", "#c2387e", "#7d5cc0", "#a58a00", "#2398c4", "#b5332a", "#6b8f23", "#8a5638", "#4b5f9e", "#d7719b",
)  # fmt: skip
"""Of values; a value beyond them shares the last entry of a legend, which is gray."""
RING, INNER_RING = (60.0, 102.0), (42.0, 56.0)
"""Radii between which a clock is drawn, and one to compare it with."""
WINDOW = (104.5, 122.0)
"""Radii between which the Gaussian window is drawn."""
LABELS = 131.0
SMALLEST_SHARE = 0.005
"""Of a slot's scores that is drawn."""
FAINTEST = 0.3
"""Opacity of a slot that weighs nothing."""


@dataclass(frozen=True)
class Segment:
    """A value's part of a slot.

    Attributes:
        path: SVG path data.
        color: number of the value's color.
        title: what the pointer shows.
    """

    path: str
    color: int
    title: str


@dataclass(frozen=True)
class SlotDrawing:
    """A slot of a ring.

    Attributes:
        number: within the day.
        outline: path of the whole slot, which is what an empty one shows.
        segments: its values, the largest share outside; none where there are no events.
    """

    number: int
    outline: str
    segments: list[Segment]


def draw_ring(
    shares: np.ndarray, values: Sequence[str], colors: Sequence[int], titles: Sequence[str], radii: tuple[float, float]
) -> list[SlotDrawing]:
    """A ring with a sector for each slot, divided by the values' shares.

    Args:
        shares: of each value in each slot, shape (slots of a day, values); a slot without events has only zeros.
        values: their names.
        colors: number of each value's color.
        titles: what each slot is called.
        radii: inner and outer.
    """
    inner, outer = radii
    turn = math.tau / len(shares)
    slots = []
    for number, slot in enumerate(shares):
        edge, segments = outer, []
        for value in sorted(np.flatnonzero(slot > SMALLEST_SHARE).tolist(), key=lambda v: (-slot[v], v)):
            # Equal shares take equal areas, wherever in the ring they are.
            below = math.sqrt(max(edge**2 - slot[value] * (outer**2 - inner**2), inner**2))
            path = _sector(below, edge, turn * number, turn * (number + 1))
            segments.append(Segment(path, colors[value], f"{titles[number]}: {values[value]} {slot[value]:.0%}"))
            edge = below
        slots.append(SlotDrawing(number, _sector(inner, outer, turn * number, turn * (number + 1)), segments))
    return slots


def slot_opacity(weights: np.ndarray) -> list[float]:
    """How strongly each slot is drawn: the one with the largest weight fully."""
    return [round(FAINTEST + (1 - FAINTEST) * float(weight), 3) for weight in weights / weights.max()]


def draw_window(sigma: float) -> str:
    """Path of the Gaussian window around midnight: the page turns it to the time of day.

    Args:
        sigma: standard deviation, hours.
    """
    inner, outer = WINDOW
    reach = min(3.5 * sigma, 12.0)
    gaps = np.linspace(-reach, reach, 61)
    curve = [_point(inner + (outer - inner) * gaussian(gap, sigma), gap * math.tau / 24) for gap in gaps]
    turn = reach * math.tau / 24
    half = f"A{inner} {inner} 0 0 0 "  # in two halves: no arc is a whole circle
    return f"M{'L'.join(curve)}L{_point(inner, turn)}{half}{_point(inner, 0)}{half}{_point(inner, -turn)}Z"


def hour_labels(step: int = 3) -> list[tuple[str, float, float]]:
    """Text and place of the hours that are written around the clock."""
    angles = ((hour, hour * math.tau / 24) for hour in range(0, 24, step))
    return [(f"{hour:02d}", round(LABELS * math.sin(a), 1), round(-LABELS * math.cos(a), 1)) for hour, a in angles]


def _sector(inner: float, outer: float, start: float, end: float) -> str:
    return (
        f"M{_point(outer, start)}A{outer:.4g} {outer:.4g} 0 0 1 {_point(outer, end)}"
        f"L{_point(inner, end)}A{inner:.4g} {inner:.4g} 0 0 0 {_point(inner, start)}Z"
    )


def _point(radius: float, angle: float) -> str:
    """A point at a clockwise angle from the top, radians."""
    return f"{radius * math.sin(angle):.2f} {-radius * math.cos(angle):.2f}"
