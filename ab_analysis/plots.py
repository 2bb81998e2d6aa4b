"""Plots of an experiment's report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ab_analysis.analysis import Analysis
from ab_analysis.experiment import Experiment
from ab_analysis.results import MetricResult, SegmentResult
from core.page_template import svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

GOOD, BAD, NEUTRAL, INK, ACCENT = "#14703c", "#a4262c", "#5a6675", "#1c2430", "#1f5fa8"
PALETTE = ("#1f5fa8", "#b35a00", "#14703c", "#7a3e9d")


def forest(
    experiment: Experiment, analysis: Analysis, titles: Mapping[str, str], side: Callable[[MetricResult], int]
) -> Markup:
    """Lifts with their intervals: thick for one look, thin for all looks and comparisons, hollow without adjustment.

    Args:
        experiment: content of the experiment file.
        analysis: its results.
        titles: metric → title.
        side: 1 for a result that is shown to be better, −1 for worse, 0 for neither.
    """
    import matplotlib.pyplot as plt

    rows = [r for r in analysis.results if r.headline and math.isfinite(r.rel_effect_ci[0])]
    plain = {(r.metric, r.variant): r for r in analysis.results if r.method == "welch"}
    figure, axes = plt.subplots(figsize=(8, 0.46 * len(rows) + 1.1))
    for y, r in enumerate(reversed(rows)):
        color = {1: GOOD, -1: BAD, 0: NEUTRAL}[side(r)]
        if r.adjusted_ci and math.isfinite(r.adjusted_ci[0]):
            axes.plot([100 * v for v in r.adjusted_ci], [y, y], color=color, lw=1)
        axes.plot([100 * v for v in r.rel_effect_ci], [y, y], color=color, lw=3)
        axes.plot(100 * r.rel_effect, y, "o", color=color, ms=5)
        base = plain.get((r.metric, r.variant))
        if base and r.method != "welch" and math.isfinite(base.rel_effect_ci[0]):
            axes.plot([100 * v for v in base.rel_effect_ci], [y - 0.24] * 2, color="#b8c0ca", lw=1.4)
            axes.plot(100 * base.rel_effect, y - 0.24, "o", mfc="white", mec="#b8c0ca", ms=4)
        if r.truth is not None:
            axes.plot(100 * r.truth, y, "D", mfc="none", mec=ACCENT, ms=8)
    axes.axvline(0, color=INK, lw=0.8)
    several = len(experiment.treatments) > 1
    names = [f"{titles[r.metric]}{f' ({r.variant})' if several else ''}" for r in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel("lift, %" + ("   (diamond: true effect)" if experiment.truth else ""))
    axes.spines[["top", "right", "left"]].set_visible(False)
    text = "; ".join(f"{n}: {r.rel_effect:+.2%}" for n, r in zip(names, reversed(rows), strict=True))
    caption = (
        f"Thick: {experiment.confidence:.0%} interval of one look. Thin: all planned looks and primary comparisons together. "
        "Grey below: without adjustment by the pre-period."
    )
    return svg(figure, f"Lifts with intervals. {text}", caption)


def so_far(experiment: Experiment, analysis: Analysis, titles: Mapping[str, str]) -> Markup:
    """The cumulative effect after each day, with the interval of the stopping rule."""
    return _lines(
        experiment, analysis, titles,
        lambda p: (p.so_far.rel_effect, *p.so_far.rel_effect_ci), lambda p: p.so_far_ci,
        "Effect so far by day", "Band: interval of the stopping rule, which holds on all days together. Thin lines: one look.",
    )  # fmt: skip


def daily(experiment: Experiment, analysis: Analysis, titles: Mapping[str, str]) -> Markup:
    """The effect of each day alone."""
    return _lines(
        experiment, analysis, titles,
        lambda p: (p.daily.rel_effect, *p.daily.rel_effect_ci), lambda _: (math.nan, math.nan),
        "Effect of each day", "Users exposed so far. The first and the last day may be incomplete.",
    )  # fmt: skip


def _lines(experiment, analysis, titles, value, band, alt, caption) -> Markup:  # type: ignore[no-untyped-def]
    import matplotlib.pyplot as plt

    metrics = list(dict.fromkeys(p.metric for p in analysis.points))
    figure, panels = plt.subplots(1, len(metrics), figsize=(8, 2.9), squeeze=False, layout="constrained")
    for axes, metric in zip(panels[0], metrics, strict=True):
        for color, variant in zip(PALETTE, experiment.treatments, strict=False):
            points = [p for p in analysis.points if p.metric == metric and p.variant == variant]
            points = [p for p in points if math.isfinite(value(p)[1]) and abs(value(p)[2] - value(p)[1]) < 2]
            days = [p.day for p in points]
            middle, low, high = ([100 * value(p)[n] for p in points] for n in range(3))
            axes.plot(days, middle, color=color, marker="o", ms=3, label=variant)
            for edge in (low, high):
                axes.plot(days, edge, color=color, lw=0.7)
            lower, upper = ([100 * band(p)[n] for p in points] for n in range(2))
            axes.fill_between(days, lower, upper, color=color, alpha=0.15, lw=0)
        axes.axhline(0, color=INK, lw=0.8)
        _finish(axes, f"{titles[metric]}, lift in %")
    panels[0][0].legend(frameon=False, fontsize=8)
    return svg(figure, alt, caption)


def segments(rows: Sequence[SegmentResult], titles: Mapping[str, str]) -> Markup:
    """Lifts of segments: grey as measured, colored shrunk."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.1))
    for y, s in enumerate(reversed(rows)):
        axes.plot([100 * v for v in s.rel_effect_ci], [y, y], color="#d3d9e0", lw=4)
        axes.plot(100 * s.rel_effect, y, "|", color=NEUTRAL, ms=9)
        axes.plot([100 * v for v in s.shrunk_ci], [y, y], color=ACCENT, lw=1.6)
        axes.plot(100 * s.shrunk, y, "o", color=ACCENT, ms=4)
    axes.axvline(0, color=INK, lw=0.8)
    names = [f"{s.value} ({s.segment.replace('_', ' ')}), {titles[s.metric]}" for s in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xlabel("lift, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    text = "; ".join(f"{n}: {s.shrunk:+.2%}" for n, s in zip(names, reversed(rows), strict=True))
    return svg(figure, f"Shrunk lifts by segment. {text}", "Grey: as measured. Blue: shrunk toward the common effect.")


def distributions(analysis: Analysis, titles: Mapping[str, str]) -> Markup:
    """Share of users by value of the primary metrics, one line per variant."""
    import matplotlib.pyplot as plt

    histograms = analysis.histograms
    figure, panels = plt.subplots(1, len(histograms), figsize=(8, 2.7), squeeze=False, layout="constrained")
    for axes, (metric, histogram) in zip(panels[0], histograms.items(), strict=True):
        for color, (variant, counts) in zip((NEUTRAL, *PALETTE), histogram.users.items(), strict=False):
            total = sum(counts) or 1
            edges = [n * histogram.width for n in range(len(counts) + 1)]
            axes.stairs([100 * c / total for c in counts], edges, color=color, label=variant, lw=1.3)
        axes.set_ylabel("% of users", fontsize=8)
        _finish(axes, titles[metric], dates=False)
    panels[0][0].legend(frameon=False, fontsize=8)
    return svg(figure, "Distribution of the primary metrics by variant", "The last class takes the top 1 %.")


def _finish(axes: Axes, title: str, *, dates: bool = True) -> None:
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.tick_params(axis="x", rotation=45 if dates else 0)
    axes.spines[["top", "right"]].set_visible(False)
