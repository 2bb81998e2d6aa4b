"""Declared metrics: a user's value, as SQL over one event or as a rule over other metrics.

Every metric is built from *additive* parts, a number per user and local day that is summed over days: ``sum`` of an
expression, ``count`` of a condition, ``days`` on which a condition held. The other kinds are made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import duckdb
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, model_validator
from sqlglot import expressions as exp

from core.documents import did_you_mean, load_document
from core.duck import identifier
from core.errors import ConfigError
from core.expressions import parse_expression
from events.cells import finite_tree
from events.schema import BEHAVIORS

CATALOG = Path(__file__).with_name("metrics.yaml")
EVENT_COLUMNS = {
    "event_id": "VARCHAR",
    "item_id": "BIGINT",
    "played_seconds": "DOUBLE",
    "duration_seconds": "DOUBLE",
    "local_hour": "BIGINT",
    **dict.fromkeys(BEHAVIORS, "BOOLEAN"),
}
"""Columns that an expression may read in addition to the source's facets, with their types in DuckDB."""
LARGEST = "1e15"
"""Largest value of one event; sums are exact to ten decimals."""
KINDS = ("sum", "count", "days", "retained", "ratio", "quantile", "winsorise", "cap", "at_least")


class Metric(BaseModel):
    """One metric. Exactly one of the kinds is given.

    Attributes:
        sum: SQL of a number, summed over a user's events.
        count: SQL condition; events that meet it.
        days: SQL condition; local days with an event that meets it.
        retained: N; share of users active on local day N after their first, among those whose day N is over.
        ratio: two metrics; sum of the first over sum of the second over all users (delta method).
        quantile: of the users' values of ``of``.
        winsorise: (or ``winsorize``) values of ``of`` above this quantile of all users count as that quantile.
        cap: values of ``of`` above this number count as the number.
        at_least: share of users whose ``of`` reaches this number.
        better: the direction that is good.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=False)

    title: str = ""
    description: str = ""
    unit: str = ""
    better: Literal["up", "down"] = "up"
    sum: str | None = None
    count: str | None = None
    days: str | None = None
    retained: int | None = Field(None, ge=1, le=90)
    ratio: tuple[str, str] | None = None
    of: str | None = None
    quantile: float | None = Field(None, gt=0, lt=1)
    winsorise: float | None = Field(None, gt=0.5, lt=1, validation_alias=AliasChoices("winsorise", "winsorize"))
    cap: float | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Metric:
        kinds = [k for k in KINDS if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}; got {' and '.join(kinds) or 'none'}")
        derived = kinds[0] in {"quantile", "winsorise", "cap", "at_least"}
        if derived != (self.of is not None):
            raise ValueError(f"{kinds[0]} {'needs' if derived else 'takes no'} 'of', the metric it is made of")
        for kind in ("sum", "count", "days"):
            if (text := getattr(self, kind)) is not None:
                check_expression(text, kind)
        return self

    @cached_property
    def kind(self) -> str:
        return next(k for k in KINDS if getattr(self, k) is not None)

    @property
    def additive(self) -> bool:
        return self.kind in {"sum", "count", "days"}

    @property
    def parts(self) -> tuple[str, ...]:
        """Metrics that this one is made of."""
        return (*(self.ratio or ()), *((self.of,) if self.of else ()))

    def per_day(self) -> str:
        """SQL of an additive metric over one user's events of one local day; exact, whatever the order of the events.

        A sum is null if an event's value is NaN, infinite or beyond ``LARGEST``.
        """
        if self.sum is not None:
            value = f"CAST({to_sql(self.sum)} AS DOUBLE)"
            exact = f"sum(CASE WHEN abs({value}) <= {LARGEST} THEN CAST({value} AS DECIMAL(28, 10)) END)"
            return f"CASE WHEN count(*) FILTER (WHERE abs({value}) > {LARGEST}) = 0 THEN coalesce({exact}, 0) END"
        if self.count is not None:
            return f"CAST(count(*) FILTER (WHERE {condition_sql(self.count)}) AS INTEGER)"
        assert self.days is not None
        return f"max(CASE WHEN {condition_sql(self.days)} THEN 1 ELSE 0 END)"

    def merged(self, column: str) -> str:
        """SQL of an additive metric on one local day, over what parts of the day gave; of the same type.

        Args:
            column: the parts' values.
        """
        if self.days is not None:
            return f"max({column})"
        return f"CAST(sum({column}) AS INTEGER)" if self.count is not None else self.total(column)

    def total(self, column: str) -> str:
        """SQL of an additive metric over days; null where a day's value is.

        Args:
            column: the days' values.
        """
        if self.sum is not None:
            return f"CASE WHEN count(*) = count({column}) THEN sum({column}) END"
        return f"CAST(sum({column}) AS BIGINT)"

    @property
    def definition(self) -> str:
        """How the metric is computed, for the report."""
        text = {
            "sum": f"sum of {self.sum} over the user's events",
            "count": f"events where {self.count}",
            "days": f"local days with an event where {self.days}",
            "retained": f"active on local day {self.retained} after the first, among users whose day {self.retained} is over",
            "ratio": f"sum of {' / sum of '.join(self.ratio or ())} over all users",
            "quantile": f"{self.quantile} quantile of the users' {self.of}",
            "winsorise": f"{self.of}, values above the {self.winsorise} quantile of all users set to it",
            "cap": f"{self.of}, values above {self.cap} set to it",
            "at_least": f"share of users with {self.of} of at least {self.at_least}",
        }[self.kind]
        return f"{text[0].upper()}{text[1:]}."

    @property
    def in_words(self) -> str:
        """What a user's value is, as its author describes it; else how it is computed."""
        return self.description or self.definition


class Catalog(RootModel[dict[str, Metric]]):
    """Named metrics."""


def load_catalog(*paths: Path) -> dict[str, Metric]:
    """The built-in metrics and those of metrics files, which replace built-in ones of the same name.

    Args:
        paths: metrics files; those that do not exist are skipped.

    Raises:
        ConfigError: a file is wrong.
    """
    catalog: dict[str, Metric] = {}
    for path in (CATALOG, *(p for p in paths if p.exists())):
        catalog |= load_document(path, Catalog, what="metrics file").root
    return catalog


def closure(names: Iterable[str], catalog: Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics and all metrics that they are made of, parts first.

    Args:
        names: of the metrics.
        catalog: all known metrics.

    Raises:
        ValueError: a metric or a part is not in the catalog, or a part is not additive.
    """
    required: dict[str, Metric] = {}
    for name in names:
        if name not in catalog:
            raise ValueError(
                f"unknown metric '{name}'{did_you_mean(name, catalog)} (choose from {', '.join(sorted(catalog))})"
            )
        metric = catalog[name]
        for part in metric.parts:
            if part in catalog and not catalog[part].additive:
                raise ValueError(f"metric '{name}' is made of '{part}', which is not a sum, a count or days")
        required |= closure(metric.parts, catalog)
        required[name] = metric
    return required


def check_expression(text: str, where: str) -> exp.Expression:
    """Parse SQL over one event, by SQL's own functions.

    Args:
        text: the expression, in DuckDB's SQL.
        where: key of the file that has it, for messages.

    Raises:
        ValueError: says what is wrong.
    """
    try:
        tree = parse_expression(text, where)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if unknown_function := tree.find(exp.Anonymous):
        raise ValueError(f"{where}: '{text}' calls {unknown_function.name}(), which is not one of SQL's own functions")
    return tree


NUMBERS = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DOUBLE|FLOAT|DECIMAL.*)$")


def check_types(expressions: Mapping[str, tuple[str, bool]], columns: Mapping[str, str]) -> None:
    """Check the types of expressions before any event is read: numbers for sums, conditions elsewhere.

    Args:
        expressions: key of the file → (expression, whether it must be a number).
        columns: column of the events → its type in DuckDB.

    Raises:
        ValueError: names the first expression that has another type, or that the engine rejects.
    """
    if not expressions:
        return
    table = ", ".join(f"CAST(NULL AS {result_type}) AS {identifier(name)}" for name, result_type in columns.items())
    with duckdb.connect(config={"threads": 1, "memory_limit": "100MB"}) as con:
        for where, (text, numeric) in expressions.items():
            try:
                result_type = str(con.execute(f"DESCRIBE SELECT {to_sql(text)} FROM (SELECT {table})").fetchall()[0][1])
            except duckdb.Error as error:
                raise ValueError(f"{where}: '{text}' cannot be computed: {str(error).splitlines()[0]}") from None
            if numeric and not NUMBERS.match(result_type) and result_type != "BOOLEAN":
                raise ValueError(f"{where}: '{text}' gives {result_type}, not a number")
            if not numeric and result_type != "BOOLEAN" and not NUMBERS.match(result_type):
                raise ValueError(f"{where}: '{text}' gives {result_type}, not a condition (true or false)")


def columns_of(text: str) -> set[str]:
    """Names of the columns that an expression reads."""
    return {column.name for column in parse_expression(text, "expression").find_all(exp.Column)}


def to_sql(text: str) -> str:
    """An expression, in parentheses, every name in quotes.

    Args:
        text: the expression, in DuckDB's SQL.
    """
    return f"({parse_expression(text, 'expression').sql(dialect='duckdb', identify=True)})"


def condition_sql(text: str) -> str:
    """A condition, in parentheses, every name in quotes; what is not finite in it, such as x/0, is unknown.

    Otherwise 0/0 would be at least 0.9: NaN is the largest number to DuckDB. In a sum such a value is refused.

    Args:
        text: the condition, in DuckDB's SQL.
    """
    return f"({finite_tree(parse_expression(text, 'expression'), _finite).sql(dialect='duckdb', identify=True)})"


def _finite(number: exp.Expr) -> exp.Expr:
    """The number where it is one, in SQL that holds it once."""
    guarded: exp.Expr = exp.cast(number, "DOUBLE")
    for value in ("Infinity", "-Infinity", "NaN"):
        guarded = exp.Nullif(this=guarded, expression=exp.cast(exp.Literal.string(value), "DOUBLE"))
    return guarded
