"""Tables that the studies of rankers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.page_template import words
from evaluation.metrics import JUDGED
from studies.paired import SHOWN, Figure
from studies.study import Section

BASE = "the base"


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
) -> Section:
    """A section with one row per setting: its metrics, and their differences from a base setting's.

    Args:
        title, text: of the section.
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
    return Section(title, text, columns, rows)


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
