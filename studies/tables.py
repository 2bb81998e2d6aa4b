"""Tables and curves that the studies of rankers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.page_template import svg
from evaluation.metrics import JUDGED
from studies.paired import SHOWN, Figure
from studies.study import Section

if TYPE_CHECKING:
    from markupsafe import Markup

COLORS = ("#1f5fa8", "#b35a00", "#14703c", "#7a3e9d", "#a4262c", "#5a6675", "#1c2430", "#008b8b")
BASE = "the base"


def words(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ")


def join_names(names: Sequence[str]) -> str:
    """``a, b and c``."""
    plain = [words(n) for n in names]
    return plain[0] if len(plain) == 1 else f"{', '.join(plain[:-1])} and {plain[-1]}" if plain else ""


def against_base(
    title: str,
    text: str,
    values: Mapping[str, Mapping[str, Figure]],
    gaps: Mapping[str, Mapping[str, Figure]],
    base: str,
    plot: Markup | None = None,
) -> Section:
    """A section with one row per setting: its metrics, and their differences from a base setting's.

    Args:
        title, text, plot: of the section.
        values: setting → metric → figure.
        gaps: setting → metric → difference from the base.
        base: name of the base setting.
    """
    rows = tuple(
        (
            words(name),
            *(metrics[m].text for m in SHOWN),
            *(gaps[name][m].signed if name in gaps else BASE for m in SHOWN),
        )
        for name, metrics in values.items()
    )
    titles = JUDGED.values()
    columns = ("", *(f"{t} (95 %)" for t in titles), *(f"{t} less that of {words(base)}" for t in titles))
    return Section(title, text, columns, rows, plot)


def curves(
    lines: Mapping[str, Sequence[tuple[float, Figure]]], x: str, y: str, alt: str, *, log: bool = False
) -> Markup:
    """Draw one line per name, with its intervals."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.4))
    for (name, points), color in zip(lines.items(), COLORS * 3, strict=False):
        positions = [p for p, _ in points]
        axes.plot(positions, [f.value for _, f in points], marker="o", ms=3, color=color, label=words(name))
        axes.fill_between(
            positions,
            [f.interval[0] for _, f in points],
            [f.interval[1] for _, f in points],
            color=color,
            alpha=0.12,
            lw=0,
        )
    if log:
        axes.set_xscale("log")
        ticks = sorted({p for points in lines.values() for p, _ in points})
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure, alt)


def forest(sides: Mapping[str, Mapping[str, Figure]], alt: str) -> Markup:
    """Draw differences with their intervals, one row per name, and one panel per kind of difference."""
    import matplotlib.pyplot as plt

    names = list(next(iter(sides.values())))
    figure, drawn = plt.subplots(
        1, len(sides), figsize=(4.5 * len(sides), 0.32 * len(names) + 1), sharey=True, squeeze=False
    )
    for axes, (x, gaps) in zip(drawn[0], sides.items(), strict=True):
        for y, name in enumerate(reversed(names)):
            gap = gaps[name]
            axes.plot(gap.interval, [y, y], color=COLORS[0], lw=2)
            axes.plot(gap.value, y, "o", color=COLORS[0], ms=5)
        axes.axvline(0, color="#1c2430", lw=0.8)
        axes.set_yticks(range(len(names)), [words(n) for n in reversed(names)])
        axes.set_xlabel(x)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return svg(figure, alt)


def verdict(gaps: Mapping[str, Mapping[str, Figure]], base: str) -> str:
    """Which settings are better or worse than the base in AUC: their interval does not include 0."""
    better = [name for name, gap in gaps.items() if gap["auc"].above]
    worse = [name for name, gap in gaps.items() if gap["auc"].interval[1] < 0]
    parts = []
    if better:
        parts.append(f"{join_names(better)} {'is' if len(better) == 1 else 'are'} better than {words(base)} in AUC")
    if worse:
        parts.append(f"{join_names(worse)} {'is' if len(worse) == 1 else 'are'} worse")
    return ", ".join(parts) or f"no difference from {words(base)} is established in AUC"
