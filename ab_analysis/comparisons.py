"""Comparisons of a table's variants, and how they are read: on which sides, for how many of them, at how many looks, with which power."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ab_analysis.effect import NORMAL, Effect, one_sided
from ab_analysis.inference import Method
from ab_analysis.multiplicity import adjust, error_levels
from ab_analysis.table_spec import TableSpec
from stats.sequential import mixture_limit, mixture_p_value

MOST_USERS = 1e15
"""Number of users from which on none is told: nobody has them."""


@dataclass(frozen=True)
class Comparison:
    """One metric of one variant against the control, by one method, before anything is asked of it.

    Attributes:
        at: the effect, with two-sided intervals of a confidence.
        decides: whether it is counted where several comparisons are corrected: one method per metric.
        segment: column and value, None for all users; a value of None: users without one.
        clusters: of the control and the variant, if they and not the users were assigned.
        additive: whether the users' values add up to something, as those of a ratio or a quantile do not.
    """

    metric: str
    variant: str
    method: Method
    n_control: int
    n_treatment: int
    at: Callable[[float], Effect]
    decides: bool = True
    segment: tuple[str, str | None] | None = None
    clusters: tuple[int, int] | None = None
    additive: bool = True


@dataclass(frozen=True)
class Adjusted:
    """What holds for all comparisons and all looks together; the p-value is below the error exactly where the intervals leave 0 out."""

    p_value: float
    effect_ci: tuple[float, float]
    rel_effect_ci: tuple[float, float]


NOT_COUNTED = Adjusted(math.nan, (math.nan, math.nan), (math.nan, math.nan))


@dataclass(frozen=True)
class PowerOfRow:
    """What a test of this size can find.

    Attributes:
        detectable: smallest true lift that it finds with the power asked for; NaN where no lift is given.
        detectable_effect: the same in the metric's unit.
        power: probability of finding the minimum effect; ``users_needed``: users of the control and the variant together that it
            would take, None where nobody has so many. NaN and None unless a minimum effect was given.
    """

    detectable: float
    detectable_effect: float
    power: float = math.nan
    users_needed: int | None = None


@dataclass(frozen=True)
class TableResult:
    """A row of the result.

    Attributes:
        effect: with the intervals and the p-value of one look and one comparison.
        adjusted: the same for all of them; None where neither a correction nor looks were asked for, and for methods that do not
            decide.
        power: None unless it was asked for.
        segment, clusters, additive: as of the comparison.
    """

    metric: str
    variant: str
    method: Method
    n_control: int
    n_treatment: int
    effect: Effect
    segment: tuple[str, str | None] | None = None
    clusters: tuple[int, int] | None = None
    adjusted: Adjusted | None = None
    power: PowerOfRow | None = None
    additive: bool = True

    def reading(self, spec: TableSpec) -> Adjusted:
        """What is shown: of all comparisons and looks together where that was asked for, unknown where this one does not count."""
        if spec.reads_together:
            return self.adjusted or NOT_COUNTED
        return Adjusted(self.effect.p_value, self.effect.effect_ci, self.effect.rel_effect_ci)


def read_comparisons(spec: TableSpec, comparisons: Sequence[Comparison], users: int) -> list[TableResult]:
    """The rows of the result, in the order of the comparisons. Those of all users and those of segments are corrected separately.

    Args:
        spec: what was asked.
        comparisons: of the table.
        users: of all variants together.
    """
    read: dict[int, TableResult] = {}
    for of_segments in (False, True):
        family = [n for n, c in enumerate(comparisons) if (c.segment is not None) == of_segments]
        read |= dict(zip(family, _read_family(spec, [comparisons[n] for n in family], users), strict=True))
    return [read[n] for n in range(len(comparisons))]


def _read_family(spec: TableSpec, comparisons: Sequence[Comparison], users: int) -> list[TableResult]:
    error, information = 1 - spec.confidence, users / spec.planned_users if spec.planned_users else None
    effects = [_effect(spec, c, error) for c in comparisons]
    counted = [n for n, (c, e) in enumerate(zip(comparisons, effects, strict=True)) if c.decides and e.known]
    adjusted = _adjusted(spec, comparisons, effects, information) if spec.reads_together else {}
    first_error = error / len(counted) if spec.correction and counted else error
    limit = _limit(spec, first_error, information)
    return [
        TableResult(
            c.metric, c.variant, c.method, c.n_control, c.n_treatment, e, c.segment, c.clusters, adjusted.get(n),
            _power(spec, c, e, limit) if spec.power is not None and e.known else None, c.additive,
        )
        for n, (c, e) in enumerate(zip(comparisons, effects, strict=True))
    ]  # fmt: skip


def _effect(spec: TableSpec, comparison: Comparison, error: float) -> Effect:
    """The effect with the intervals of an error, on the sides that are tested."""
    if spec.alternative == "two-sided":
        return comparison.at(1 - error)
    return one_sided(comparison.at(1 - 2 * error), spec.alternative)


def _adjusted(
    spec: TableSpec, comparisons: Sequence[Comparison], effects: Sequence[Effect], information: float | None
) -> dict[int, Adjusted]:
    """Number of a comparison → its reading among all of them and at all looks."""
    error = 1 - spec.confidence

    def p_value(effect: Effect) -> float:
        return effect.p_value if information is None else mixture_p_value(information, error, effect.z)

    read = [
        n for n, (c, e) in enumerate(zip(comparisons, effects, strict=True))
        if e.known and (e.se > 0 or information is None) and (c.decides or not spec.correction)
    ]  # fmt: skip
    p_values = {str(n): p_value(effects[n]) for n in read}
    levels = dict.fromkeys(p_values, error)
    if spec.correction:
        p_values, levels = (
            adjust(p_values, spec.correction),
            error_levels(p_values, spec.correction, error),
        )
    adjusted = {}
    for n in read:
        level = levels[str(n)]
        if information is None:
            at_level = _effect(spec, comparisons[n], level)
            intervals = at_level.effect_ci, at_level.rel_effect_ci
        else:
            intervals = effects[n].widened(mixture_limit(information, level, tuned_for=error))
        adjusted[n] = Adjusted(p_values[str(n)], *intervals)
    return adjusted


def _limit(spec: TableSpec, error: float, information: float | None) -> float:
    """Standard errors beyond which an effect is found."""
    if information is not None:
        return mixture_limit(information, error, tuned_for=1 - spec.confidence)
    return NORMAL.inv_cdf(1 - (error / 2 if spec.alternative == "two-sided" else error))


def _power(spec: TableSpec, comparison: Comparison, effect: Effect, limit: float) -> PowerOfRow:
    assert spec.power is not None
    smallest = (limit + NORMAL.inv_cdf(spec.power)) * effect.se
    scale = abs(effect.control) if math.isfinite(effect.rel_effect) else math.nan
    detectable = smallest / scale if scale else math.nan
    if spec.minimum_effect is None or not effect.se > 0 or not scale > 0:
        return PowerOfRow(detectable, smallest)
    shift = spec.minimum_effect * scale / effect.se
    power = NORMAL.cdf(shift - limit) + (NORMAL.cdf(-shift - limit) if spec.alternative == "two-sided" else 0.0)
    times = detectable / spec.minimum_effect
    users = (comparison.n_control + comparison.n_treatment) * times * times  # a power overflows with an error
    return PowerOfRow(detectable, smallest, power, math.ceil(users) if users < MOST_USERS else None)
