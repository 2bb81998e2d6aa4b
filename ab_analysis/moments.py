"""Sufficient statistics of users: count, means and co-moments by group, computed by the engine in one pass.

All tests are functions of these; the users themselves never leave the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from core.duck import double, identifier, is_finite, quoted, round_to_int
from core.errors import DataError
from core.sql_engine import Engine

BITS = 43
"""Bits of a column's largest value: products of two take 86 bits, and their sum over a billion users fits 38 digits."""
SHARED_BITS = 8
"""A group gets its own scale if its largest value has this many bits less than the largest of all users."""
ORDINARY_RANGE = 100
"""Columns with values beyond 2^±this are measured in their own unit: a double could not hold their fourth powers."""
SMALLEST_UNIT, LARGEST_UNIT = -1074, 1023
"""Exponents of the powers of two that a double can hold."""


@dataclass(frozen=True)
class Moments:
    """Statistics of a group of users.

    Attributes:
        columns: what was measured, k names.
        count: users.
        means: shape (k,).
        comoments: Σ (x − x̄)(y − ȳ), shape (k, k); NaN for pairs that were not requested.
        units: column → what 1 in ``means`` stands for, a power of two; 1 for columns that are not in it.
    """

    columns: tuple[str, ...]
    count: int
    means: np.ndarray
    comoments: np.ndarray
    units: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Moments) -> Moments:
        """The moments of two groups together (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        if not self.count or not other.count:
            return other if not self.count else self
        if self.units != other.units:
            self, other = align(self, other)  # noqa: PLW0642
        count = self.count + other.count
        gap = other.means - self.means
        return Moments(
            self.columns,
            count,
            self.means + gap * (other.count / count),
            self.comoments + other.comoments + np.outer(gap, gap) * (self.count * other.count / count),
            self.units,
        )

    def at(self, name: str) -> int:
        return self.columns.index(name)

    def unit(self, name: str) -> float:
        """What 1 of a column stands for."""
        return self.units.get(name, 1.0)

    def mean(self, name: str) -> float:
        """Mean of a column, in its unit."""
        return float(self.means[self.at(name)])

    def variance(self, name: str) -> float:
        """Sample variance of a column, in its unit."""
        return float(self.comoments[self.at(name), self.at(name)]) / max(self.count - 1, 1)

    def block(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """Co-moments of columns, shape (left, right)."""
        return self.comoments[np.ix_([self.at(n) for n in left], [self.at(n) for n in right])]

    def with_combination(self, name: str, weights: Mapping[str, float]) -> Moments:
        """Add the column Σ weight · column."""
        vector = np.zeros(len(self.columns))
        for column, weight in weights.items():
            vector[self.at(column)] = weight
        weighted = vector != 0
        covariances = self.comoments[:, weighted] @ vector[weighted]
        square = float(vector[weighted] @ covariances[weighted])
        return Moments(
            (*self.columns, name),
            self.count,
            np.append(self.means, self.means[weighted] @ vector[weighted]),
            np.block([[self.comoments, covariances[:, None]], [covariances[None, :], np.array([[square]])]]),
            {**self.units, name: self.unit(next(iter(weights)))},
        )

    def combined_variance(self, weights: Mapping[str, float]) -> float:
        """Sample variance of Σ weight · column."""
        names, vector = list(weights), np.array(list(weights.values()))
        return float(vector @ self.block(names, names) @ vector) / max(self.count - 1, 1)


def align(*groups: Moments) -> list[Moments]:
    """Convert groups to the same units, the largest of each column, so that their figures can be compared."""
    if all(g.units == groups[0].units for g in groups):
        return list(groups)
    nonempty = [g for g in groups if g.count]
    units = {c: max(g.unit(c) for g in nonempty) for c in {c for g in nonempty for c in g.units}}
    aligned = []
    for g in groups:
        factors = np.array([g.unit(c) / units.get(c, 1.0) for c in g.columns])
        aligned.append(
            replace(g, means=g.means * factors, comoments=g.comoments * factors[:, None] * factors, units=units)
        )
    return aligned


def no_users(columns: Sequence[str]) -> Moments:
    """Moments of a group without users."""
    k = len(columns)
    return Moments(tuple(columns), 0, np.zeros(k), np.zeros((k, k)))


@dataclass(frozen=True)
class Cells:
    """Moments of every combination of groups that users are in.

    Attributes:
        by: names of the group columns, the variant first.
        cells: values of the group columns → moments.
    """

    by: tuple[str, ...]
    cells: dict[tuple[str, ...], Moments]

    def of(self, **groups: str) -> Moments:
        """Moments of all users with these values of group columns, such as ``of(variant="a")``; empty if there are none."""
        chosen = no_users(next(iter(self.cells.values())).columns)
        for key, moments in self.cells.items():
            if all(key[self.by.index(name)] == value for name, value in groups.items()):
                chosen += moments
        return chosen

    def values(self, name: str) -> list[str]:
        """Values of a group column, in order."""
        return sorted({key[self.by.index(name)] for key in self.cells})


def pairs_of(blocks: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """Each pair of columns within a block, once."""
    pairs = {tuple(sorted(pair)): None for block in blocks for pair in combinations_with_replacement(block, 2)}
    return [(a, b) for a, b in pairs]


def read_moments(
    db: Engine, table: str, by: Sequence[str], blocks: Sequence[Sequence[str]], ranges: Ranges | None = None
) -> Cells:
    """Moments of a table of users, in two passes: the first finds the largest values, the second sums.

    Args:
        db: has the table.
        table: its name.
        by: group columns, the variant first.
        blocks: columns whose co-moments are needed together, one block per metric.
        ranges: of these columns, if they were read already: the first pass.

    Raises:
        DataError: a user's value is NaN, infinite or missing.
    """
    columns = tuple(sorted({name for block in blocks for name in block}))
    pairs = pairs_of(blocks)
    sums = exact_sums(db, table, by, [*((c,) for c in columns), *pairs], ranges)
    cells = {}
    for key, (count, values) in sums.items():
        total = dict(zip(columns, values, strict=False))
        units = _units(columns, pairs, values)
        comoments = np.full((len(columns), len(columns)), np.nan)
        for (a, b), product in zip(pairs, values[len(columns) :], strict=True):
            i, j = columns.index(a), columns.index(b)
            unit = Fraction(units.get(a, 1.0)) * Fraction(units.get(b, 1.0))
            comoments[i, j] = comoments[j, i] = float((product - total[a] * total[b] / count) / unit)
        means = np.array([float(total[c] / count / Fraction(units.get(c, 1.0))) for c in columns])
        cells[key] = Moments(columns, count, means, comoments, units)
    return Cells(tuple(by), cells)


def _units(columns: Sequence[str], pairs: Sequence[tuple[str, str]], values: Sequence[Fraction]) -> dict[str, float]:
    """Units of the columns whose fourth powers a double cannot hold, so that they become numbers around 1."""
    squares = {a: q for (a, b), q in zip(pairs, values[len(columns) :], strict=True) if a == b and q}
    bits = {c: (q.numerator.bit_length() - q.denominator.bit_length()) // 2 for c, q in squares.items()}
    return {
        c: math.ldexp(1.0, min(max(n, SMALLEST_UNIT), LARGEST_UNIT)) for c, n in bits.items() if abs(n) > ORDINARY_RANGE
    }


def exact_sums(
    db: Engine, table: str, by: Sequence[str], terms: Sequence[tuple[str, ...]], ranges: Ranges | None = None
) -> dict[tuple[str, ...], tuple[int, list[Fraction]]]:
    """Sums of columns and of products of two columns by group, without rounding.

    Every column is scaled by a power of two so that its largest value takes ``BITS`` bits, rounded to integers, and summed
    as such: the result depends neither on the order of the users nor on the engine, and there is no cancellation. Counts
    are exact; other values keep ``BITS`` bits of the column's largest (of its range, if that is far from 0). A group whose
    values are much smaller than the largest of all has its own scales, so that an outlier elsewhere costs it no precision.

    Args:
        db: has the table.
        table: its name.
        by: group columns.
        terms: single columns, and pairs of columns whose products are summed.
        ranges: of the columns, by the same groups, if they were read already.

    Returns:
        Group → number of users, and a sum per term; groups in order.

    Raises:
        DataError: a user's value is NaN, infinite or missing.
    """
    columns = sorted({name for term in terms for name in term})
    groups_by_scales: dict[tuple[_Scale, ...], list[tuple[Any, ...]]] = {}
    for group, scales in _scales(ranges or read_ranges(db, table, by, columns), columns).items():
        groups_by_scales.setdefault(scales, []).append(group)
    sums: dict[tuple[str, ...], tuple[int, list[Fraction]]] = {}
    for scales, groups in groups_by_scales.items():
        where = "" if len(groups_by_scales) == 1 else f" WHERE {_any_of(by, groups)}"
        sums |= _sums_at(db, f"{table}{where}", by, terms, dict(zip(columns, scales, strict=True)))
    return dict(sorted(sums.items()))


def _sums_at(
    db: Engine, source: str, by: Sequence[str], terms: Sequence[tuple[str, ...]], scales: Mapping[str, _Scale]
) -> dict[tuple[str, ...], tuple[int, list[Fraction]]]:
    """``exact_sums`` of groups that share their scales. Aliases keep users' column names from colliding with ours."""
    aliases = {c: f"c{n}" for n, c in enumerate(scales)}
    names = [f"g{n}" for n in range(len(by))]
    selected = [f"{identifier(name)} AS {alias}" for name, alias in zip(by, names, strict=True)]
    selected += [f"{round_to_int(s.apply(identifier(c)))} AS {aliases[c]}" for c, s in scales.items()]
    required_terms = list(dict.fromkeys([*((c,) for c in scales), *terms]))
    sums = [f"CAST(sum({' * '.join(aliases[c] for c in t)}) AS STRING) AS t{n}" for n, t in enumerate(required_terms)]
    rows = db.rows(
        f"SELECT {', '.join([*names, 'count(*) AS n', *sums])} FROM (SELECT {', '.join(selected)} FROM {source}) "
        f"whole_numbers GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}"
    )
    totals = {}
    for row in rows:
        key, count = tuple(str(v) for v in row[: len(by)]), int(row[len(by)])
        centered = {
            t: Fraction(int(v)) / Fraction(2) ** sum(scales[c].exponent for c in t)
            for t, v in zip(required_terms, row[len(by) + 1 :], strict=True)
        }
        totals[key] = (count, [_around_zero(t, centered, scales, count) for t in terms])
    return totals


def _any_of(by: Sequence[str], groups: Sequence[tuple[Any, ...]]) -> str:
    """SQL condition for the rows of groups."""

    def equal(name: str, value: Any) -> str:
        if value is None:
            return f"{identifier(name)} IS NULL"
        return f"{identifier(name)} = {quoted(value) if isinstance(value, str) else repr(value)}"

    return " OR ".join(f"({' AND '.join(map(equal, by, group))})" for group in groups)


def _around_zero(
    term: tuple[str, ...], centered: Mapping[tuple[str, ...], Fraction], scales: Mapping[str, _Scale], count: int
) -> Fraction:
    """The sum of a term's values, from the sums of their distances to the centers."""
    centers = [Fraction(scales[c].center) for c in term]
    if len(term) == 1:
        return centered[term] + count * centers[0]
    a, b = centers
    return centered[term] + a * centered[(term[1],)] + b * centered[(term[0],)] + count * a * b


@dataclass(frozen=True)
class _Scale:
    """x becomes round((x − center) · 2^exponent)."""

    center: float
    exponent: int

    def apply(self, column: str) -> str:
        value = f"CAST({column} AS DOUBLE)"
        moved = f"({value} - {double(self.center)})" if self.center else value
        first = min(self.exponent, LARGEST_UNIT)  # denormal values need a factor that a double cannot hold
        factors = [first, *([self.exponent - first] if self.exponent > first else [])]
        return " * ".join([moved, *(double(math.ldexp(1.0, n)) for n in factors)])


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest values of columns, by group.

    Attributes:
        columns: k names.
        groups: values of the group columns → (smallest, largest) of each column.
    """

    columns: tuple[str, ...]
    groups: dict[tuple[Any, ...], tuple[tuple[float, float], ...]]

    def largest(self, column: str) -> float:
        """The largest value of all groups; 0 without any."""
        at = self.columns.index(column)
        return max((ends[at][1] for ends in self.groups.values()), default=0.0)


def read_ranges(db: Engine, table: str, by: Sequence[str], columns: Sequence[str]) -> Ranges:
    """Smallest and largest values of columns in each group, in one pass.

    Args:
        db: has the table.
        table: its name.
        by: group columns.
        columns: of numbers.

    Raises:
        DataError: names the columns with values that are not finite numbers.
    """
    values = [f"CAST({identifier(c)} AS DOUBLE)" for c in columns]
    parts = [f"{identifier(name)} AS g{n}" for n, name in enumerate(by)]
    parts += [f"count({v}) AS k{n}, min({v}) AS l{n}, max({v}) AS h{n}" for n, v in enumerate(values)]
    select, by_groups = ", ".join([*parts, "count(*) AS n"]), ", ".join(map(identifier, by))
    groups = {}
    for *row, users in db.rows(f"SELECT {select} FROM {table} GROUP BY {by_groups}"):
        figures = row[len(by) :]
        ends = list(zip(figures[1::3], figures[2::3], strict=True))
        if any(count < users for count in figures[::3]) or not all(math.isfinite(end) for pair in ends for end in pair):
            check_known(_count_unknown(db, table, columns))
        groups[tuple(row[: len(by)])] = tuple((float(low), float(high)) for low, high in ends)
    return Ranges(tuple(columns), groups)


def _count_unknown(db: Engine, table: str, columns: Sequence[str]) -> dict[str, int]:
    """Column → users whose value is not a finite number."""
    values = [f"CAST({identifier(c)} AS DOUBLE)" for c in columns]
    counts = [f"count(*) FILTER (WHERE {v} IS NULL OR NOT {is_finite(v)}) AS b{n}" for n, v in enumerate(values)]
    return dict(zip(columns, map(int, db.rows(f"SELECT {', '.join(counts)} FROM {table}")[0]), strict=True))


def _scales(ranges: Ranges, columns: Sequence[str]) -> dict[tuple[Any, ...], tuple[_Scale, ...]]:
    """The scale of each column in each group."""
    at = [ranges.columns.index(c) for c in columns]
    overall = []
    for n in at:
        ends = [group[n] for group in ranges.groups.values()]
        overall.append(_scale(min((low for low, _ in ends), default=0.0), max((high for _, high in ends), default=0.0)))
    return {
        group: tuple(_scale(*ends[n], whole) for n, whole in zip(at, overall, strict=True))
        for group, ends in ranges.groups.items()
    }


def _scale(low: float, high: float, overall: _Scale | None = None) -> _Scale:
    """The scale of values in [low, high]; that of all users if it costs this group at most ``SHARED_BITS``."""
    largest_value = max(abs(low), abs(high))
    center = low / 2 + high / 2 if high - low < largest_value / 64 else 0.0
    largest = max(abs(low - center), abs(high - center))
    scale = _Scale(center, BITS - math.frexp(largest or largest_value)[1])
    if overall is None:
        return scale if largest else _Scale(center, BITS)
    if not largest_value or scale.exponent - overall.exponent <= SHARED_BITS:
        return overall
    return scale


def unknown_values(db: Engine, table: str, columns: Sequence[str]) -> dict[str, int]:
    """Columns of a table that are null for some users → number of these users."""
    counted = [f"count(DISTINCT CASE WHEN {c} IS NULL THEN user_id END)" for c in columns]
    counts = db.rows(f"SELECT {', '.join(counted)} FROM {table}")[0] if columns else ()
    return {column: int(n) for column, n in zip(columns, counts, strict=True) if n}


def check_known(counts: Mapping[str, int]) -> None:
    """Refuse columns that are not known for every user.

    Args:
        counts: column → users for whom it is not.

    Raises:
        DataError: names the columns and the users.
    """
    if bad := [f"{c} ({n:,} users)" for c, n in counts.items() if n]:
        raise DataError(
            f"not a finite number (null, NaN or infinite): {', '.join(bad)}; a user without events counts 0, "
            "a user whose value is unknown must be left out"
        )
