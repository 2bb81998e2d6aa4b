"""Runs in an engine what the query builder writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from core.settings import Settings
from core.sql_engine import Engine
from feature_repo.query_builder import ClockQueryBuilder
from feature_repo.statements import Query, Statement


class Executor:
    """An engine with the query builder of a source.

    Args:
        engine: where the tables are computed.
        settings: slots, weights, top k.
        facets: of the source, in their order.
    """

    def __init__(self, engine: Engine, settings: Settings, facets: Sequence[str]) -> None:
        self.engine = engine
        self.build = ClockQueryBuilder(engine, settings, facets)

    def run(self, *statements: Statement | Iterable[Statement]) -> None:
        """Make tables and views, in this order."""
        for statement_or_many in statements:
            for statement in [statement_or_many] if isinstance(statement_or_many, Statement) else statement_or_many:
                if statement.view:
                    self.engine.view(statement.name, statement.sql)
                else:
                    self.engine.table(statement.name, statement.sql, statement.by)

    def prepare(self, query: Query) -> str:
        """Make what a query needs; returns its SELECT, which holds until the same tables are made again."""
        self.run(query.needs)
        return query.sql

    def arrow(self, query: Query) -> pa.Table:
        """Result of a query."""
        return self.engine.arrow(self.prepare(query))

    def read_files(self, name: str, files: Sequence[Path]) -> None:
        """View ``name`` of the events of Parquet files, as ``ClockQueryBuilder.read`` writes it."""
        self.run(self.build.read(name, self.engine.files(files) if files else None))
