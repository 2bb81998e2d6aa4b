"""Colors of a clock's values: one for light, one for dark pages, the same on every page of a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.vega import alt

COLORS = (
    "#2f6db5", "#d9730d", "#1f9170", "#c2387e", "#7d5cc0", "#a58a00", "#2398c4", "#b5332a", "#6b8f23", "#8a5638", "#4b5f9e", "#d7719b",
)  # fmt: skip
GRAY, EMPTY = len(COLORS), len(COLORS) + 1
"""Number of the color of all values that have none of their own, and of hours without an interest."""


def tone(color: int) -> str:
    """CSS of the color with a number."""
    return f"var(--tone-{color})"


def tone_style() -> str:
    """CSS that a page needs for ``tone``: the colors, and a class ``v<number>`` for what is filled with one."""
    light = " ".join(f"--tone-{n}: {color};" for n, color in enumerate(COLORS))
    dark = " ".join(f"--tone-{n}: color-mix(in srgb, {color} 72%, white);" for n, color in enumerate(COLORS))
    filled = " ".join(f".v{n} {{ background: {tone(n)} }}" for n in range(EMPTY + 1))
    return (
        f":root {{ {light} --tone-{GRAY}: #8b95a1; --tone-{EMPTY}: var(--line) }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{filled}\n"
    )


def color_scale(values: Sequence[str], colors: Sequence[int]) -> alt.Scale:
    """A chart's scale from values to the colors with these numbers."""
    from core.vega import alt

    return alt.Scale(domain=list(values), range=[tone(color) for color in colors])
