"""What an experiment on the users of a plain table could find: a table of the time before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ab_analysis.clusters import read_assigned
from ab_analysis.power import Design, PlanRow, plan_row
from ab_analysis.table_spec import TableSpec, check_power
from ab_analysis.table_users import prepare_users, told_errors
from core.errors import ConfigError, DataError
from core.sql_engine import Engine


def power_of_table(
    db: Engine, path: Path, spec: TableSpec, design: Design, units: int | None = None
) -> tuple[list[PlanRow], list[str]]:
    """Plan on a table of users, without variants.

    Args:
        db: runs the queries.
        path: of the table.
        spec: its metrics; ``variant`` is empty.
        design: what is planned.
        units: users (clusters, where they are assigned) that the experiment will have; default: those of the table.

    Returns:
        A row per metric and method, in which users are clusters where these are assigned; and the metrics without a row, which
        are the same for every user, or 0 on average.

    Raises:
        ConfigError: a column does not exist, or a number is out of its range.
        DataError: what a row holds cannot be analyzed.
    """
    check_power(design.power, design.minimum_effect)
    if spec.quantiles:
        raise ConfigError("--quantile cannot be planned: its error is known only where two variants are compared")
    if units is not None and units < 2:
        raise ConfigError(f"--users {units}: at least 2")
    with told_errors(db, path):
        specs, cells = read_assigned(db, prepare_users(db, path, spec), spec)
    moments = cells.of() if cells.cells else None
    if moments is None or moments.count < 2:
        raise DataError(f"{path.name} has fewer than two {'clusters' if spec.cluster else 'users'}")
    if units is not None:
        design = replace(design, taken=units / moments.count)
    rows = [
        row
        for t in specs
        for adjusted in ((False, True) if t.covariates else (False,))
        if (row := plan_row(design, t, moments, adjusted=adjusted))
    ]
    return rows, [t.metric for t in specs if t.metric not in {row.metric for row in rows}]


def design_of(shares: Mapping[str, float] | None, control: str | None, **options: float) -> Design:
    """The design for shares of variants; without shares two equal ones.

    Args:
        shares: variant → share.
        control: one of the variants; default: the first.
        options: further attributes.

    Raises:
        ConfigError: there are fewer than two variants, or the control is none of them.
    """
    shares = shares or {"control": 1.0, "treatment": 1.0}
    control = control or next(iter(shares))
    if len(shares) < 2:
        raise ConfigError(f"--shares names {len(shares)} variant; at least two are compared")
    if control not in shares:
        raise ConfigError(f"--control {control}: --shares names {', '.join(shares)}")
    return Design(shares, control, **options)
