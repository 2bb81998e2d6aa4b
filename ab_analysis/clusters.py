"""Clusters that were assigned to variants as a whole, such as households or shops: their users are not independent.

A mean per user is the ratio of two sums per cluster, the values' and the users', and its error is the delta method's over clusters
(Deng, Knoblich & Lu 2018, doi:10.1145/3219819.3219919): that of a regression with cluster-robust errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ab_analysis.checks import ALARM, ExperimentCheck
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.moments import Cells, Moments, read_moments
from ab_analysis.table_spec import TableSpec
from ab_analysis.table_users import CLUSTER, TableUsers
from core.duck import identifier
from core.errors import DataError
from core.sql_engine import Engine

USERS = "\x1fusers"
"""Column with the number of a cluster's users."""
FEW_CLUSTERS = 30
"""With fewer clusters in a variant, the error of their sums is itself too uncertain (Cameron & Miller 2015,
doi:10.3368/jhr.50.2.317)."""


def of_clusters(spec: MetricSpec) -> MetricSpec:
    """The metric over sums of clusters: a mean becomes a ratio to the users, and covariates are adjusted for together with them."""
    covariates = (*spec.covariates, USERS) if spec.covariates else ()
    return replace(spec, denominator=spec.denominator or USERS, covariates=covariates)


def users_of(moments: Moments) -> int:
    """Users of a group whose moments are of users or of clusters."""
    return round(moments.mean(USERS) * moments.count) if USERS in moments.columns and moments.count else moments.count


def refuse_crossed(db: Engine, name: str) -> None:
    """Check that all users of a cluster are in one variant.

    Args:
        db: has ``table_users``.
        name: of the column, for messages.

    Raises:
        DataError: those of some cluster are in two.
    """
    cluster = identifier(CLUSTER)
    crossed = f"SELECT {cluster} FROM table_users GROUP BY {cluster} HAVING count(DISTINCT variant) > 1"
    if n := db.scalar(f"SELECT count(*) FROM ({crossed}) crossed"):
        raise DataError(
            f"{n:,} values of '{name}' have users in two variants: it is not what was assigned. Name the column that was, or leave "
            "--cluster out if users were"
        )


def read_clusters(db: Engine, by: Sequence[str], specs: Sequence[MetricSpec]) -> Cells:
    """Moments of the clusters' sums.

    Args:
        db: has ``table_users``.
        by: group columns, the variant first.
        specs: from ``of_clusters``.
    """
    columns = sorted({c for t in specs for c in t.columns} - {USERS})
    groups = ", ".join(map(identifier, by))
    sums = "".join(f", sum({identifier(c)}) AS {identifier(c)}" for c in columns)
    db.table(
        "table_clusters",
        f"SELECT {groups}, count(*) AS {identifier(USERS)}{sums} FROM table_users GROUP BY {groups}, {identifier(CLUSTER)}",
    )
    return read_moments(db, "table_clusters", by, [(USERS,), *((*t.columns, USERS) for t in specs)])


def read_assigned(db: Engine, users: TableUsers, spec: TableSpec) -> tuple[list[MetricSpec], Cells]:
    """The metrics of what was assigned, and its moments: of users by all groups, of clusters by the variant alone.

    Args:
        db: has ``table_users``.
        users: what it holds.
        spec: what to analyze.
    """
    if not spec.cluster:
        return users.specs, read_moments(db, "table_users", users.by, [t.columns for t in users.specs], users.ranges)
    specs = [of_clusters(t) for t in users.specs]
    return specs, read_clusters(db, ("variant",), specs)


def check_clusters(name: str, control: str, cells: Cells, confidence: float) -> list[ExperimentCheck]:
    """Whether there are enough clusters, and whether those of the variants have as many users.

    Args:
        name: of the column.
        control: name of the control.
        cells: moments by variant.
        confidence: of intervals.
    """
    checks, sides = [], {v: cells.of(variant=v) for v in cells.values("variant")}
    if few := {v: side.count for v, side in sides.items() if side.count < FEW_CLUSTERS}:
        listed = ", ".join(f"{count:,} of '{v}'" for v, count in few.items())
        text = f"Few clusters ({listed}; {FEW_CLUSTERS} or more are safe): the intervals may be too narrow."
        checks.append(ExperimentCheck("clusters", "warn", text))
    size = MetricSpec("users", USERS)
    for v, side in sides.items():
        moved = compare(size, sides[control], side, confidence, adjusted=False)
        if v != control and moved.known and moved.p_value < ALARM:
            text = (
                f"The clusters ({name}) of '{v}' have {moved.treatment:,.4g} users each and those of '{control}' {moved.control:,.4g} "
                f"(p = {moved.p_value:.2g}): the variant changes who is in the table, and the compared users are not alike."
            )
            checks.append(ExperimentCheck("cluster sizes", "warn", text, moved.p_value))
    return checks
