"""What the query builder hands to whoever runs it: statements and queries, as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class SqlFunctions(Protocol):
    """What engines spell differently; see ``core.engine.Engine``."""

    dialect: str

    def hour_number(self, instant: str) -> str: ...
    def hour_start(self, number: str) -> str: ...
    def weekday(self, moment: str) -> str: ...
    def sorted_by(self, columns: str) -> str: ...


@dataclass(frozen=True)
class Statement:
    """A table that is to be computed, or with ``view`` a query that is to have a name.

    Attributes:
        name: of the table.
        sql: the query.
        view: whether it is computed wherever it is used.
        by: columns by whose values a cluster keeps the table's rows together.
    """

    name: str
    sql: str
    view: bool = False
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """A SELECT, and what has to be made, in this order, before it can run."""

    sql: str
    needs: tuple[Statement, ...] = ()
