"""The chart of an hour's cost against the log's length, the service's users and the hour's events."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.files import read_json, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROWTH = ("endurance_impressions", "endurance_positives", "population", "traffic")
"""What the names of the benches' figures begin with."""
FIGURE = re.compile(rf"(?P<bench>{'|'.join(GROWTH)})_(?P<step>[a-z]+)_(?P<size>[\d.]+)[dM]")
COLORS = ("#1f5fa8", "#b35a00", "#14703c", "#7a3e9d", "#a4262c", "#5a6675")


@dataclass(frozen=True)
class Panel:
    """A part of the chart.

    Attributes:
        benches: bench → style of its lines.
        axis: what grows.
        bar: a step may cost at most so many times what it costs at the reference.
    """

    benches: Mapping[str, str]
    axis: str
    bar: float


PANELS = (
    Panel(
        {"endurance_impressions": "-", "endurance_positives": ":"}, "days of log (dotted: a log of positives only)", 1.1
    ),
    Panel({"population": "-"}, "million users with clocks, the same hour", 1.25),
    Panel({"traffic": "-"}, "million events in the hour: cost per event", 1.1),
)

Curve = dict[float, float]
"""Size → cost, as a multiple of the cost at the reference."""


def curves(results: Path) -> dict[str, dict[str, Curve]]:
    """Bench → step → its curve, of the results that there are.

    Args:
        results: ``results.json`` of the benches.
    """
    drawn: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(dict))
    if not results.exists():
        return drawn
    for result in read_json(results):
        if figure := FIGURE.fullmatch(result["name"]):
            drawn[figure["bench"]][figure["step"]][float(figure["size"])] = result["value"] / result["peer_value"]
    return drawn


def draw_growth(results: Path, target: Path) -> bool:
    """Draw the chart as SVG.

    Args:
        results: ``results.json`` of the benches.
        target: the file to write.

    Returns:
        Whether there was anything to draw; else no file is written.
    """
    import matplotlib.pyplot as plt

    drawn = curves(results)
    panels = [panel for panel in PANELS if panel.benches.keys() & drawn.keys()]
    if not panels:
        return False
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.3 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw(axis, panel, drawn)
    axes[0][0].set_ylabel("core-seconds, of those at the reference")
    axes[0][-1].legend(frameon=False, fontsize=8)
    with plt.rc_context({"svg.hashsalt": "growth"}):  # the same results give the same bytes
        write_atomically(target, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))
    plt.close(figure)
    return True


def _draw(axis: Axes, panel: Panel, drawn: Mapping[str, Mapping[str, Curve]]) -> None:
    for bench, style in panel.benches.items():
        for color, (step, curve) in zip(COLORS, drawn.get(bench, {}).items(), strict=False):
            sizes = sorted(curve)
            label = step if style == "-" else None
            axis.plot(sizes, [curve[size] for size in sizes], style, marker="o", ms=3, color=color, label=label)
    axis.axhline(panel.bar, color="#5a6675", lw=0.8, ls="--")
    axis.set_xscale("log", base=2)
    ticks = sorted({size for bench in panel.benches for curve in drawn.get(bench, {}).values() for size in curve})
    axis.set_xticks(ticks, [f"{size:g}" for size in ticks])
    axis.minorticks_off()
    axis.set_xlabel(panel.axis)
    axis.set_ylim(0, max(1.4, axis.get_ylim()[1]))
    axis.spines[["top", "right"]].set_visible(False)
