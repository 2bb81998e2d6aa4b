"""An experiment from elsewhere: a plain table with one row per user, analyzed by the same statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

from ab_analysis import clusters
from ab_analysis.checks import (
    MIN_SEGMENT_USERS,
    ExperimentCheck,
    UntestedSegment,
    sample_ratio,
    untested_segments,
    withheld_lifts,
)
from ab_analysis.cluster_strata import ClusterStrata, Stratified, measure_stratified
from ab_analysis.comparisons import Comparison, TableResult, read_comparisons
from ab_analysis.effect import Effect, from_estimates
from ab_analysis.inference import Method, MetricSpec, compare, measure
from ab_analysis.moments import Cells, Moments
from ab_analysis.quantiles import estimate_quantile
from ab_analysis.table_spec import TableSpec
from ab_analysis.table_users import CLUSTER, MISSING, TableUsers, prepare_users, told_errors
from core.errors import ConfigError, DataError
from core.sql_engine import Engine

REFUSED_P_VALUE = 1e-4
"""A covariate that differs between variants with a p-value below this was measured after exposure, or the groups are not
comparable: adjusting by it would hide an effect, or create one."""


@dataclass(frozen=True)
class TableData:
    """What the passes over a table give.

    Attributes:
        specs: the metrics.
        cells: metric → moments of what was assigned, users or clusters, by variant and strata.
        segments: segment → moments by variant and its values.
        quantiles: (name, variant) → the quantile and its standard error.
        clustered: whether clusters were assigned.
        checks: what was limited or left out.
        stratified: (metric, variant) → post-stratified estimates, where clusters were assigned.
    """

    specs: Sequence[MetricSpec]
    cells: Mapping[str, Cells]
    segments: Mapping[str, Cells]
    quantiles: Mapping[tuple[str, str], tuple[float, float]]
    clustered: bool = False
    checks: Sequence[ExperimentCheck] = ()
    stratified: Mapping[tuple[str, str], Stratified | None] = field(default_factory=dict)

    def units(self, metric: str | None = None) -> dict[str, int]:
        """Variant → what was assigned to it, of a metric, else of the first one."""
        cells = self.cells[metric] if metric else next(iter(self.cells.values()))
        return {v: cells.of(variant=v).count for v in cells.values("variant")}


def analyze_table(db: Engine, path: Path, spec: TableSpec) -> tuple[list[TableResult], list[ExperimentCheck]]:
    """Analyze a CSV or Parquet table.

    Args:
        db: runs the queries.
        path: a file, or a folder of Parquet parts.
        spec: what to analyze.

    Returns:
        Rows in the order of the metrics; checks.

    Raises:
        ConfigError: a column does not exist, or a covariate is itself an outcome.
        DataError: a value is not a number, a user appears twice, a variant has no users, or a covariate differs between
            the variants (measured after exposure).
    """
    with told_errors(db, path):
        data = _read(db, path, spec)
    return analyze_data(data, spec, path)


def _read(db: Engine, path: Path, spec: TableSpec) -> TableData:
    users = prepare_users(db, path, spec)
    checks = list(users.checks)
    if users.excluded:
        text = f"{users.excluded:,} users were in more than one variant and are left out; find out why they were."
        checks.append(ExperimentCheck("users in two variants", "warn", text))
    if spec.cluster:
        clusters.refuse_crossed(db, spec.cluster)
    specs, cells = clusters.read_assigned(db, users, spec)
    segments = {
        segment: clusters.read_clusters(db, ("variant", segment), specs) if spec.cluster else cells
        for segment in spec.segments
    }
    cluster = CLUSTER if spec.cluster else None
    quantiles = {
        (name, v): estimate_quantile(db, replace(quantile, table="table_users", cluster=cluster), v)
        for name, quantile in spec.quantiles.items()
        for v in cells.values("variant")
    }
    return TableData(
        specs, {t.metric: cells for t in specs} or {"": cells}, segments, quantiles, bool(spec.cluster), checks,
        _stratified(db, users, spec, cells.values("variant")) if spec.cluster and spec.strata else {},
    )  # fmt: skip


def _stratified(
    db: Engine, users: TableUsers, spec: TableSpec, variants: Sequence[str]
) -> dict[tuple[str, str], Stratified | None]:
    """(metric, variant) → the post-stratified estimates of clusters."""
    specs = [t for t in users.specs if "post_stratified" in t.methods]
    if not (specs and spec.control in variants):
        return {}
    strata = ClusterStrata(db, specs, spec.strata)
    return {
        (metric, v): estimates
        for v in variants
        if v != spec.control
        for metric, estimates in strata.compare(spec.control, v).items()
    }


def analyze_data(data: TableData, spec: TableSpec, path: Path) -> tuple[list[TableResult], list[ExperimentCheck]]:
    """Compare the variants of a table that was read.

    Args:
        data: from a table of users or of summaries.
        spec: what to analyze.
        path: of the table, for messages.

    Raises:
        ConfigError: the planned shares name other variants.
        DataError: a variant has no users, or a covariate differs between the variants.
    """
    counts, planned = _shares(spec, data, path)
    treatments = [v for v in counts if v != spec.control]
    for t in data.specs:
        _refuse_late_covariates(spec, t, data.cells[t.metric], treatments)
    comparisons = []
    for t, v in product(data.specs, treatments):
        cells = data.cells[t.metric]
        sides = [cells.of(variant=side) for side in (spec.control, v)]
        for method in t.methods:
            if method == "post_stratified" and data.clustered:
                at = partial(measure_stratified, data.stratified[t.metric, v])
            else:
                at = partial(measure, t, method, cells, spec.control, v, strata=spec.strata)
            comparisons.append(_comparison(data, t, v, method, at, sides))
    first = next(iter(data.cells.values()))
    for name, v in product(spec.quantiles, treatments):
        at = partial(_quantile, data, name, spec.control, v)
        of_control, of_variant = (clusters.users_of(first.of(variant=side)) for side in (spec.control, v))
        assigned = (counts[spec.control], counts[v]) if data.clustered else None
        comparisons.append(
            Comparison(name, v, "quantile", of_control, of_variant, at, clusters=assigned, additive=False)
        )
    in_segments, untested = _in_segments(spec, data, treatments)
    users = sum(clusters.users_of(first.of(variant=v)) for v in counts)
    rows = read_comparisons(spec, [*comparisons, *in_segments], users)
    checks = [
        sample_ratio(planned, counts, "clusters" if data.clustered else ""),
        *_alike(list(counts)),
        *_nothing_to_adjust(data),
        *data.checks,
    ]
    if data.clustered:
        checks += clusters.check_clusters(spec.cluster or "", spec.control, first, spec.confidence)
    checks += withheld_lifts(list(dict.fromkeys(r.metric for r in rows if not r.segment and r.effect.lift_withheld)))
    checks += untested_segments(untested)
    return rows, checks


def _comparison(
    data: TableData,
    t: MetricSpec,
    variant: str,
    method: Method,
    at: Callable[[float], Effect],
    sides: Sequence[Moments],
    segment: tuple[str, str | None] | None = None,
) -> Comparison:
    users = [clusters.users_of(side) for side in sides]
    return Comparison(
        t.metric, variant, method, users[0], users[1], at, decides=segment is not None or method == t.headline, segment=segment,
        clusters=(sides[0].count, sides[1].count) if data.clustered else None, additive=t.denominator in {None, clusters.USERS},
    )  # fmt: skip


def _quantile(data: TableData, name: str, control: str, variant: str, confidence: float) -> Effect:
    (first, first_error), (second, second_error) = data.quantiles[name, control], data.quantiles[name, variant]
    return from_estimates(first, second, first_error, second_error, confidence)


def _shares(spec: TableSpec, data: TableData, path: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Number of users (of clusters, if they were assigned) and planned share of each variant."""
    counts = data.units()
    if not counts:
        raise DataError(f"{path.name} has no rows")
    if spec.control not in counts:
        raise DataError(f"no user has {spec.variant} = '{spec.control}' (the variants are {', '.join(counts)})")
    if len(counts) < 2:
        raise DataError(f"every user has {spec.variant} = '{spec.control}': there is nothing to compare")
    planned = dict(spec.shares or dict.fromkeys(counts, 1.0))
    if absent := sorted(set(planned) - set(counts)):
        raise DataError(f"no user has {spec.variant} = {', '.join(map(repr, absent))}: a variant without users")
    if extra := sorted(set(counts) - set(planned)):
        raise ConfigError(f"--shares names no share for {', '.join(extra)}")
    return counts, planned


def _in_segments(
    spec: TableSpec, data: TableData, treatments: Sequence[str]
) -> tuple[list[Comparison], list[UntestedSegment]]:
    rows: list[Comparison] = []
    untested: list[UntestedSegment] = []
    for segment, cells in data.segments.items():
        for key in cells.values(segment):
            value = key[1:] if key.startswith("v") else None
            for t, v in product(data.specs, treatments):
                sides = [cells.of(variant=side, **{segment: key}) for side in (spec.control, v)]
                users = (clusters.users_of(sides[0]), clusters.users_of(sides[1]))
                if min(users) < MIN_SEGMENT_USERS:
                    untested.append(UntestedSegment(segment, value, v, *users))
                    continue
                method: Method = "cuped" if t.covariates else "welch"
                at = partial(compare, t, sides[0], sides[1], adjusted=bool(t.covariates))
                rows.append(_comparison(data, t, v, method, at, sides, (segment, value)))
    return rows, list(dict.fromkeys(untested))


def _alike(variants: Sequence[str]) -> list[ExperimentCheck]:
    """Variants whose names differ only in case or spaces: perhaps one variant, written in two ways."""
    groups: dict[str, list[str]] = {}
    for v in variants:
        groups.setdefault("".join(v.split()).casefold(), []).append(v)
    pairs = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    if not pairs:
        return []
    text = (
        f"Variants {'; '.join(pairs)} are compared as different ones; if they are one, write them alike in the table."
    )
    return [ExperimentCheck("variants alike", "warn", text)]


def _nothing_to_adjust(data: TableData) -> list[ExperimentCheck]:
    """Covariates without any variation, by which nothing is adjusted."""
    everybody = {metric: cells.of() for metric, cells in data.cells.items()}
    constant = dict.fromkeys(
        c
        for t in data.specs
        for c in t.covariates
        if not c.endswith((MISSING, clusters.USERS)) and not everybody[t.metric].variance(c) > 0
    )
    if not constant:
        return []
    text = f"Covariate {', '.join(constant)} is empty or the same for every user: nothing is adjusted by it."
    return [ExperimentCheck("covariates", "warn", text)]


def _refuse_late_covariates(spec: TableSpec, t: MetricSpec, cells: Cells, treatments: Sequence[str]) -> None:
    control = cells.of(variant=spec.control)
    for c in (c for c in t.covariates if c != clusters.USERS):
        for v in treatments:
            mean = clusters.of_clusters(MetricSpec(c, c)) if spec.cluster else MetricSpec(c, c)
            moved = compare(mean, control, cells.of(variant=v), spec.confidence, adjusted=False)
            if moved.known and math.isfinite(moved.p_value) and moved.p_value < REFUSED_P_VALUE:
                raise DataError(
                    f"covariate '{c}' differs between '{spec.control}' and '{v}' (p = {moved.p_value:.1g}): it was measured "
                    "after exposure, or the groups were not alike before. Adjusting by it would be wrong; leave it out, or "
                    "mend the table"
                )
