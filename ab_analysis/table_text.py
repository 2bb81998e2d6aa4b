"""The result of a table: as objects for a file, and as lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ab_analysis.comparisons import TableResult
from ab_analysis.results import plain
from ab_analysis.table_spec import CORRECTION_NAMES, TableSpec

EFFECT_KEYS = ("control", "treatment", "effect", "effect_ci", "rel_effect", "rel_effect_ci", "p_value")
MOST_DIGITS = 1000
"""Shares from here on are written with a power of ten."""


def as_object(row: TableResult, spec: TableSpec) -> dict[str, Any]:
    """A row in JSON's types; keys of what was not asked for are left out.

    Args:
        row: of the result.
        spec: what was asked.
    """
    shown: dict[str, Any] = {
        "metric": row.metric, "variant": row.variant, "method": row.method, "n_control": row.n_control,
        "n_treatment": row.n_treatment, **{key: getattr(row.effect, key) for key in EFFECT_KEYS},
    }  # fmt: skip
    if row.clusters:
        shown |= {"clusters_control": row.clusters[0], "clusters_treatment": row.clusters[1]}
    if spec.reads_together:
        a = row.adjusted
        shown |= {
            "p_adjusted": a.p_value if a else None, "adjusted_effect_ci": a.effect_ci if a else None,
            "adjusted_ci": a.rel_effect_ci if a else None,
        }  # fmt: skip
    if spec.power is not None:
        power = row.power
        shown |= {
            "detectable": power.detectable if power else None,
            "detectable_effect": power.detectable_effect if power else None,
        }
        if spec.minimum_effect is not None:
            shown |= {"power": power.power if power else None, "users_needed": power.users_needed if power else None}
    if row.segment:
        shown |= {"segment": row.segment[0], "segment_value": row.segment[1]}
    return {key: plain(value) for key, value in shown.items()}


def text_table(rows: Sequence[TableResult], spec: TableSpec) -> list[str]:
    """The rows as lines; where intervals for all comparisons or looks were asked for, these.

    Args:
        rows: the result.
        spec: what was asked.
    """
    width, variant_width = (max(map(len, [key, *(getattr(r, key) for r in rows)])) + 2 for key in ("metric", "variant"))
    level = f"{spec.confidence * 100:g}% interval"
    head = f"{'metric':<{width}}{'variant':<{variant_width}}{'method':<16}{'control':>12}{'treatment':>12}{'lift':>11}"
    head += f"   {level:<22}{'p':>9}"
    if spec.power is not None:
        head += f"{'detectable':>12}"
    if spec.minimum_effect is not None:
        head += f"{'power':>7}{'users needed':>14}"
    return [head, *(_line(r, spec, width, variant_width) for r in rows)]


def _line(row: TableResult, spec: TableSpec, width: int, variant_width: int) -> str:
    name = f"{row.metric:<{width}}{row.variant:<{variant_width}}{row.method:<16}"
    group = ""
    if row.segment:
        segment, value = row.segment
        group = f"  where {segment} = {'(no value)' if value is None else value}"
    e = row.effect
    if not math.isfinite(e.effect):
        return f"{name}   cannot be tested: the same value for every user, too few users, or nothing in the denominator{group}"
    shown, note = row.reading(spec), "  not counted" if spec.reads_together and not row.adjusted else ""
    lift = _percent(e.rel_effect) if math.isfinite(e.rel_effect) else "–"
    line = f"{name}{e.control:>12.5g}{e.treatment:>12.5g}{lift:>11}"
    line += f"   {_interval(shown.rel_effect_ci):<22}{_or_dash(shown.p_value, '.3g'):>9}"
    if spec.power is not None:
        line += f"{_or_dash(row.power.detectable if row.power else math.nan, '.2%'):>12}"
    if spec.minimum_effect is not None:
        needed = row.power.users_needed if row.power else None
        line += f"{_or_dash(row.power.power if row.power else math.nan, '.0%'):>7}{'–' if needed is None else f'{needed:,}':>14}"
    return line + group + note


def told_reading(spec: TableSpec, rows: Sequence[TableResult]) -> str:
    """How the intervals and p-values are to be read, in a sentence; empty for two-sided ones of one comparison and one look."""
    parts = []
    if spec.alternative != "two-sided":
        parts.append(f"they ask whether the variant is {spec.alternative} than the control")
    if spec.correction:
        counted = {
            segments: sum(r.adjusted is not None for r in rows if bool(r.segment) == segments)
            for segments in (False, True)
        }
        several = f" (and apart from them for the {counted[True]} in segments)" if counted[True] else ""
        comparisons = f"{counted[False]} comparison{'' if counted[False] == 1 else 's'}"
        parts.append(f"they are corrected for {comparisons}{several} by {CORRECTION_NAMES[spec.correction]}")
    if spec.planned_users:
        parts.append(f"they hold at every look, and are the narrowest at {spec.planned_users:,} users")
    return f"Intervals and p-values: {', '.join(parts)}." if parts else ""


def _percent(share: float) -> str:
    """A share as people read it; beyond a hundred thousand percent with its power of ten.

    >>> _percent(-0.125), _percent(3.45e305)
    ('-12.50%', '+3.45e+307%')
    """
    return f"{share:+.2%}" if abs(share) < MOST_DIGITS else f"{share * 100:+.3g}%"


def _interval(bounds: tuple[float, float]) -> str:
    """An interval of lifts, open to a side where it is one-sided.

    >>> _interval((0.01, 0.03)), _interval((0.01, math.inf)), _interval((math.nan, math.nan))
    ('[+1.00%, +3.00%]', '[+1.00%, ∞)', '–')
    """
    low, high = bounds
    if any(map(math.isnan, bounds)):
        return "–"
    return f"{'(−∞' if math.isinf(low) else '[' + _percent(low)}, {'∞)' if math.isinf(high) else _percent(high) + ']'}"


def _or_dash(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"
