"""Sufficient statistics of users: count, means and co-moments by group, computed by the engine in one pass.

Everything that is tested is a function of these; the users themselves never leave the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import tea_tasting as tt
import tea_tasting.aggr

from core.duck import identifier
from core.engine import Engine
from core.errors import DataError

BITS = 43
"""Of a column's largest value: products of two take 86 bits, and a billion users' sum of them fits the engines' 38 digits."""


@dataclass(frozen=True)
class Moments:
    """Statistics of a group of users.

    Attributes:
        columns: what was measured, k names.
        count: users.
        means: shape (k,).
        comoments: Σ (x − x̄)(y − ȳ), shape (k, k); NaN for pairs that nobody asked for.
    """

    columns: tuple[str, ...]
    count: int
    means: np.ndarray
    comoments: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        """Two groups as one (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        gap = other.means - self.means
        return Moments(
            self.columns,
            count,
            self.means + gap * (other.count / count),
            self.comoments + other.comoments + np.outer(gap, gap) * (self.count * other.count / count),
        )

    def at(self, name: str) -> int:
        return self.columns.index(name)

    def mean(self, name: str) -> float:
        return float(self.means[self.at(name)])

    def variance(self, name: str) -> float:
        """Sample variance."""
        return float(self.comoments[self.at(name), self.at(name)]) / max(self.count - 1, 1)

    def block(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """Co-moments of columns, shape (left, right)."""
        return self.comoments[np.ix_([self.at(n) for n in left], [self.at(n) for n in right])]

    def with_combination(self, name: str, weights: Mapping[str, float]) -> Moments:
        """Add the column Σ weight · column."""
        vector = np.zeros(len(self.columns))
        for column, weight in weights.items():
            vector[self.at(column)] = weight
        used = vector != 0
        across = self.comoments[:, used] @ vector[used]
        own = float(vector[used] @ across[used])
        return Moments(
            (*self.columns, name),
            self.count,
            np.append(self.means, self.means[used] @ vector[used]),
            np.block([[self.comoments, across[:, None]], [across[None, :], np.array([[own]])]]),
        )

    def aggregates(self, *names: str) -> tea_tasting.aggr.Aggregates:
        """As tea-tasting takes them."""
        n = max(self.count - 1, 1)
        pairs = [(a, b) for a in names for b in names if a < b]
        return tt.aggr.Aggregates(
            count_=self.count,
            mean_={a: self.mean(a) for a in names},
            var_={a: self.variance(a) for a in names},
            cov_={(a, b): float(self.comoments[self.at(a), self.at(b)]) / n for a, b in pairs},
        )


def no_users(columns: Sequence[str]) -> Moments:
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
        """Users of the given groups together; no users where there are none."""
        found = no_users(next(iter(self.cells.values())).columns)
        for key, moments in self.cells.items():
            if all(key[self.by.index(name)] == value for name, value in groups.items()):
                found += moments
        return found

    def values(self, name: str) -> list[str]:
        """Values of a group column, in order."""
        return sorted({key[self.by.index(name)] for key in self.cells})


def pairs_of(blocks: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """Each pair of columns that stands in a block, once."""
    found = {tuple(sorted(pair)): None for block in blocks for pair in combinations_with_replacement(block, 2)}
    return [(a, b) for a, b in found]


def read_moments(db: Engine, table: str, by: Sequence[str], blocks: Sequence[Sequence[str]]) -> Cells:
    """Moments of a table of users, in one pass after one that looks for the largest values.

    Args:
        db: where the table is.
        table: its name.
        by: group columns, the variant first.
        blocks: columns whose co-moments are needed together, one block a metric.

    Raises:
        DataError: a column holds NaN, infinity or nothing for a user.
    """
    columns = tuple(sorted({name for block in blocks for name in block}))
    pairs = pairs_of(blocks)
    sums = exact_sums(db, table, by, [*((c,) for c in columns), *pairs])
    cells = {}
    for key, (count, values) in sums.items():
        total = dict(zip(columns, values, strict=False))
        comoments = np.full((len(columns), len(columns)), np.nan)
        for (a, b), product in zip(pairs, values[len(columns) :], strict=True):
            i, j = columns.index(a), columns.index(b)
            comoments[i, j] = comoments[j, i] = float(product - total[a] * total[b] / count)
        cells[key] = Moments(columns, count, np.array([float(total[c] / count) for c in columns]), comoments)
    return Cells(tuple(by), cells)


def exact_sums(
    db: Engine, table: str, by: Sequence[str], terms: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], tuple[int, list[Fraction]]]:
    """Sums of columns and of products of two columns by group, without rounding.

    Every column is scaled by a power of two so that its largest value takes ``BITS`` bits, rounded to whole numbers, and
    summed as such: the result does not depend on the order of the users, nor on the engine, and nothing cancels. Counts are
    exact; other values keep ``BITS`` bits of the column's largest (of its range, where that lies far from 0).

    Returns:
        Group → users, and a value a term; groups in order.

    Raises:
        DataError: a column holds NaN, infinity or nothing for a user.
    """
    columns = sorted({name for term in terms for name in term})
    scales = dict(zip(columns, _scales(db, table, columns), strict=True))
    whole = ", ".join(f"{db.round_to_int(s.apply(db, identifier(c)))} AS {identifier(c)}" for c, s in scales.items())
    groups = ", ".join(identifier(name) for name in by)
    needed = list(dict.fromkeys([*((c,) for c in columns), *terms]))
    sums = ", ".join(f"CAST(sum({' * '.join(map(identifier, t))}) AS STRING) AS t{n}" for n, t in enumerate(needed))
    rows = db.rows(
        f"SELECT {groups}, count(*) AS n, {sums} FROM (SELECT {groups}, {whole} FROM {table}) whole_numbers "
        f"GROUP BY {groups} ORDER BY {groups}"
    )
    found = {}
    for row in rows:
        key, count = tuple(str(v) for v in row[: len(by)]), int(row[len(by)])
        inside = {
            t: Fraction(int(v)) / Fraction(2) ** sum(scales[c].exponent for c in t)
            for t, v in zip(needed, row[len(by) + 1 :], strict=True)
        }
        found[key] = (count, [_around_zero(t, inside, scales, count) for t in terms])
    return found


def _around_zero(
    term: tuple[str, ...], inside: Mapping[tuple[str, ...], Fraction], scales: Mapping[str, _Scale], count: int
) -> Fraction:
    """A sum of what was measured, from the sums of what was measured around the centers."""
    centers = [Fraction(scales[c].center) for c in term]
    if len(term) == 1:
        return inside[term] + count * centers[0]
    a, b = centers
    return inside[term] + a * inside[(term[1],)] + b * inside[(term[0],)] + count * a * b


@dataclass(frozen=True)
class _Scale:
    """x becomes round((x − center) · 2^exponent)."""

    center: float
    exponent: int

    def apply(self, db: Engine, column: str) -> str:
        value = f"CAST({column} AS DOUBLE)"
        moved = f"({value} - {db.double(self.center)})" if self.center else value
        return f"{moved} * {db.double(math.ldexp(1.0, self.exponent))}"


def _scales(db: Engine, table: str, columns: Sequence[str]) -> list[_Scale]:
    """How each column is scaled; ``DataError`` names the columns with values that are no numbers."""
    if not columns:
        return []
    parts = []
    for n, c in enumerate(columns):
        v = f"CAST({identifier(c)} AS DOUBLE)"
        known = f"CASE WHEN abs({v}) <= 1e300 THEN {v} END"
        parts.append(
            f"count(*) FILTER (WHERE {v} IS NULL OR abs({v}) > 1e300) AS b{n}, min({known}) AS l{n}, max({known}) AS h{n}"
        )
    (row,) = db.rows(f"SELECT {', '.join(parts)} FROM {table}")
    _raise_unknown(dict(zip(columns, row[::3], strict=True)))
    return [_scale(float(low or 0.0), float(high or 0.0)) for low, high in zip(row[1::3], row[2::3], strict=True)]


def _scale(low: float, high: float) -> _Scale:
    far = max(abs(low), abs(high))
    center = (low + high) / 2 if high - low < far / 64 else 0.0
    largest = max(abs(low - center), abs(high - center))
    return _Scale(center, min(BITS - math.frexp(largest)[1], 1000))


def check_known(db: Engine, table: str, columns: Sequence[str]) -> None:
    """``DataError`` names the columns that are null for some users."""
    if not columns:
        return

    def counted(what: str, wanted: Sequence[str]) -> dict[str, int]:
        sql = ", ".join(
            what.format(f"CASE WHEN {c} IS NULL THEN user_id END") + f" AS b{n}" for n, c in enumerate(wanted)
        )
        return dict(zip(wanted, db.rows(f"SELECT {sql} FROM {table}")[0], strict=True))

    if bad := [c for c, n in counted("count({})", columns).items() if n]:
        _raise_unknown(counted("count(DISTINCT {})", bad))  # users; dear on Spark, so only where it is needed


def _raise_unknown(counts: Mapping[str, int]) -> None:
    if bad := [f"{c} ({n:,} users)" for c, n in counts.items() if n]:
        raise DataError(
            f"not a finite number (null, NaN or infinite): {', '.join(bad)}; a user without events counts 0, "
            "a user whose value is unknown must be left out"
        )
