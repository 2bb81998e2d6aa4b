"""The rows of an experiment's users, computed by a cluster: some users a task, by DuckDB, as one process computes all.

What there is of a user, events, exposures and rows of closed days, comes to one task. The tables of the tasks are written to
a folder, from which the driver's DuckDB takes them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ab_analysis.experiment_plan import ExperimentPlan
from ab_analysis.source_files import LACKING, SourceFiles, share_selects
from ab_analysis.user_rows import UserTally, assign_users, create_user_rows
from core.errors import DataError
from core.files import temporary_directory
from core.hours import Hour
from core.spark import SparkEngine
from core.spark_exchange import exchange
from core.sql_engine import Engine

log = logging.getLogger("ab_analysis.user_shares")


@dataclass
class ShareSummary:
    """What a task tells the driver.

    Attributes:
        tally: of its users.
        queries: that it ran.
        refused: why the experiment cannot be computed; empty if it can.
    """

    tally: UserTally = field(default_factory=UserTally)
    queries: list[str] = field(default_factory=list)
    refused: str = ""


@dataclass(frozen=True)
class ShareWriter:
    """A task of an executor: computes the tables of the users whose rows it has, and writes them.

    Attributes:
        plan: the experiment and its metrics.
        until: hour up to which events count, exclusive.
        sources: name → table, see ``user_rows.source_files``.
        tables: queries that are written, by name.
        with_days: as ``create_user_rows`` takes it.
        root: folder in which each share has one.
    """

    plan: ExperimentPlan
    until: Hour
    sources: Mapping[str, str]
    tables: Mapping[str, str]
    with_days: bool
    root: Path

    def __call__(self, number: int, running: Engine) -> ShareSummary:
        """Write the tables of a share."""
        summary = ShareSummary(queries=running.queries)
        try:
            summary.tally = assign_users(running, self.plan.experiment, self.until, self.sources)
            summary.tally.unmeasured = create_user_rows(
                running, self.plan, self.until, self.sources, with_days=self.with_days
            )
        except DataError as error:
            if isinstance(error.__context__, LACKING):
                raise
            summary.refused = str(error)
            return summary
        for name, sql in self.tables.items():
            running.write(sql, self.root / name / str(number))
        return summary


def create_in_shares(
    db: Engine,
    cluster: SparkEngine,
    plan: ExperimentPlan,
    until: Hour,
    files: Mapping[str, SourceFiles],
    *,
    with_days: bool = True,
) -> UserTally:
    """Create ``base``, ``user_day`` (of days from exposure on) and ``favorites``, of ``user_rows``.

    Args:
        db: where to create them.
        cluster: computes them.
        plan: the experiment and its metrics.
        until: hour up to which exposures and events count, exclusive.
        files: what they are made from.
        with_days: whether ``user_day`` is needed.

    Raises:
        DataError: an expression of the experiment cannot be computed.
    """
    named = {f"of_{name}": source for name, source in files.items()}
    selects = share_selects(db, cluster, named, cluster.partitions)
    tables = {"base": "SELECT * FROM base"}
    if plan.top_facets:
        tables["favorites"] = "SELECT * FROM favorites"
    if with_days:
        tables["user_day"] = "SELECT * FROM user_day WHERE phase = 1"
    parent = cluster.settings.workspace / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory("shares-", parent) as root:
        writer = ShareWriter(plan, until, dict(zip(files, named, strict=True)), tables, with_days, root)
        summaries = exchange(cluster, selects, cluster.partitions, writer)
        if refused := next((summary.refused for summary in summaries if summary.refused), None):
            raise DataError(refused)
        log.info("%s: executors computed its users in %d shares", plan.experiment.name, len(summaries))
        if summaries:
            db.queries += [*(sqls[0] for sqls in selects.values()), *summaries[0].queries]
            for name in tables:
                db.table(name, f"SELECT * FROM {db.files(sorted(root.glob(f'{name}/*/*.parquet')))}")
    return sum((summary.tally for summary in summaries), UserTally())
