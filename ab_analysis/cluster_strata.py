"""Post-stratified means of users in clusters: each stratum's mean is weighted by all its users, and errors are over the clusters.

A group's estimate is Σ_s w_s ȳ_s. A cluster's influence on it is z_c = Σ_s w_s Σ_{i in c and s} (y_i − ȳ_s) / n_s, and its variance
Σ_c z_c²: that of a regression on the strata with cluster-robust errors. Each stratum's part is corrected by G_s/(G_s − 1) for its
G_s clusters, which is exact where clusters lie within strata (Cameron & Miller 2015, doi:10.3368/jhr.50.2.317; Cochran 1977, ch. 11).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ab_analysis.effect import UNKNOWN, Effect
from ab_analysis.inference import Estimate, MetricSpec, coefficients, unit_of, welch
from ab_analysis.moments import Cells, Moments, align, read_moments
from ab_analysis.table_users import CLUSTER
from core.duck import double, identifier, quoted
from core.sql_engine import Engine

VARIANT = "variant"


@dataclass(frozen=True)
class Stratified:
    """Estimates of both groups of a comparison, in a unit of their own.

    Attributes:
        control, treatment: with as many units as the group has clusters in the strata that are kept.
        unit: what 1 stands for.
    """

    control: Estimate
    treatment: Estimate
    unit: float

    def effect(self, confidence: float) -> Effect:
        """The comparison with intervals of a confidence."""
        return welch(self.control, self.treatment, confidence).in_units_of(self.unit)


@dataclass(frozen=True)
class _Stratum:
    """A stratum that both groups of a comparison have.

    Attributes:
        values: of the strata columns.
        share: of the users of both groups.
        sides: moments of control and treatment, in the same units.
        clusters: of control and treatment.
    """

    values: tuple[str, ...]
    share: float
    sides: tuple[Moments, Moments]
    clusters: tuple[int, int]


class ClusterStrata:
    """Post-stratified estimates of a table whose clusters were assigned.

    Args:
        db: has ``table_users``.
        specs: of means that are post-stratified, over users.
        strata: columns.
    """

    def __init__(self, db: Engine, specs: Sequence[MetricSpec], strata: Sequence[str]) -> None:
        self.db, self.specs, self.strata = db, specs, tuple(strata)
        self.by = (VARIANT, *strata)
        self.cells: Cells = read_moments(db, "table_users", self.by, [t.columns for t in specs])
        groups = ", ".join(map(identifier, self.by))
        rows = db.rows(
            f"SELECT {groups}, count(DISTINCT {identifier(CLUSTER)}) AS n FROM table_users GROUP BY {groups}"
        )
        self.clusters = {tuple(map(str, row[:-1])): int(row[-1]) for row in rows}

    def compare(self, control: str, treatment: str) -> dict[str, Stratified | None]:
        """Metric → both estimates; None where no stratum has two clusters of both groups. The users of such strata are left out."""
        strata = self._common(control, treatment)
        if not strata:
            return dict.fromkeys([t.metric for t in self.specs])
        thetas = {t.metric: self._theta(t, strata) for t in self.specs}
        variances = [
            self._variances(variant, side, strata, thetas) for side, variant in enumerate((control, treatment))
        ]
        read: dict[str, Stratified | None] = {}
        for t in self.specs:
            sides = []
            for side in (0, 1):
                moved = sum(theta * _everybody(strata, name) for name, theta in thetas[t.metric].items())
                mean = sum(s.share * _adjusted_mean(t, thetas[t.metric], s.sides[side]) for s in strata) + moved
                count, variance = variances[side][t.metric]
                sides.append(Estimate(count, mean, variance * count, variance * count))
            read[t.metric] = Stratified(sides[0], sides[1], unit_of(t, strata[0].sides[0]))
        return read

    def _common(self, control: str, treatment: str) -> list[_Stratum]:
        keys = sorted({key[1:] for key in self.cells.cells})
        kept = [
            key for key in keys
            if min(self.clusters.get((control, *key), 0), self.clusters.get((treatment, *key), 0)) >= 2
        ]  # fmt: skip
        if not kept:
            return []
        aligned = align(*(self.cells.cells[variant, *key] for key in kept for variant in (control, treatment)))
        users = sum(m.count for m in aligned)
        return [
            _Stratum(
                key, (a.count + b.count) / users, (a, b), (self.clusters[control, *key], self.clusters[treatment, *key])
            )
            for key, a, b in zip(kept, aligned[::2], aligned[1::2], strict=True)
        ]

    def _theta(self, spec: MetricSpec, strata: Sequence[_Stratum]) -> dict[str, float]:
        """Coefficients of the covariates over all users: any fixed ones leave the effect unbiased."""
        if not spec.covariates:
            return {}
        control, treatment = (_pooled([s.sides[side] for s in strata]) for side in (0, 1))
        return coefficients(spec, control, treatment)

    def _variances(
        self, variant: str, side: int, strata: Sequence[_Stratum], thetas: Mapping[str, Mapping[str, float]]
    ) -> dict[str, tuple[int, float]]:
        """Metric → clusters of a group and the variance of its estimate."""
        db, names = self.db, [f"z{n}" for n in range(len(self.specs))]
        rows = []
        for s in strata:
            clusters, moments = s.clusters[side], s.sides[side]
            weight = s.share / moments.count * math.sqrt(clusters / (clusters - 1))
            means = [_adjusted_mean(t, thetas[t.metric], moments) for t in self.specs]
            rows.append(f"({', '.join([*map(quoted, s.values), *map(double, (weight, *means))])})")
        keys = [f"k{n}" for n in range(len(self.by) - 1)]
        columns = ", ".join([*keys, "weight", *(f"m{n}" for n in range(len(self.specs)))])
        joined = " AND ".join(f"u.{identifier(name)} = s.{key}" for name, key in zip(self.by[1:], keys, strict=True))
        moments = strata[0].sides[side]
        sums = ", ".join(
            f"sum(s.weight * ({_adjusted_value(t, thetas[t.metric], moments)} - s.m{n})) AS {name}"
            for n, (t, name) in enumerate(zip(self.specs, names, strict=True))
        )
        db.table(
            "cluster_influence",
            f"SELECT u.variant AS variant, {sums} FROM table_users u JOIN (VALUES {', '.join(rows)}) AS s({columns}) ON {joined} "
            f"WHERE u.variant = {quoted(variant)} GROUP BY u.variant, u.{identifier(CLUSTER)}",
        )
        influence = read_moments(db, "cluster_influence", (VARIANT,), [(name,) for name in names]).of(variant=variant)
        return {
            t.metric: (influence.count, _sum_of_squares(influence, name))
            for t, name in zip(self.specs, names, strict=True)
        }


def measure_stratified(estimates: Stratified | None, confidence: float) -> Effect:
    """The effect of a comparison; ``UNKNOWN`` where it could not be estimated."""
    return estimates.effect(confidence) if estimates else UNKNOWN


def _pooled(sides: Sequence[Moments]) -> Moments:
    return sum(sides[1:], sides[0])


def _everybody(strata: Sequence[_Stratum], name: str) -> float:
    """Mean of a column over the users of both groups."""
    return _pooled([side for s in strata for side in s.sides]).mean(name)


def _adjusted_mean(spec: MetricSpec, theta: Mapping[str, float], moments: Moments) -> float:
    return moments.mean(spec.numerator) - sum(t * moments.mean(name) for name, t in theta.items())


def _adjusted_value(spec: MetricSpec, theta: Mapping[str, float], moments: Moments) -> str:
    """SQL of a user's value without what the covariates predict, in the units of the moments."""
    terms = [f"u.{identifier(spec.numerator)} / {double(moments.unit(spec.numerator))}"]
    terms += [f"{double(t)} * (u.{identifier(name)} / {double(moments.unit(name))})" for name, t in theta.items()]
    return " - ".join(terms)


def _sum_of_squares(moments: Moments, name: str) -> float:
    unit = moments.unit(name)
    return float(moments.block([name], [name])[0, 0] + moments.count * moments.mean(name) ** 2) * unit * unit
