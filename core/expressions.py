"""SQL that a person writes in a mapping or an experiment: one value over the columns of a row, at a bounded cost."""

from __future__ import annotations

from functools import cache

import duckdb
import sqlglot
from sqlglot import expressions as exp

from core.documents import one_line
from core.errors import ConfigError

QUOTING = "; names with spaces or signs are written in double quotes, as in '\"rating:float\" >= 4'"
LONGEST_EXPRESSION = 5_000
LONGEST_TEXT = 100
"""Characters that a padded text may have, and one that takes the place of another."""
UNBOUNDED = (
    exp.Query, exp.UDTF, exp.Explode, exp.Columns, exp.Star, exp.Comprehension, exp.Lambda, exp.GenerateSeries,
    exp.GenerateDateArray, exp.GenerateTimestampArray, exp.Repeat, exp.Space, exp.Format, exp.Placeholder, exp.Parameter,
    exp.PositionalColumn,
)  # fmt: skip
"""What an expression over one row needs not: queries, rows or lists made from nothing, text of any length, columns by number.
Without them the memory and time that an expression takes are bounded by the row."""
GROWING = (exp.Replace, exp.RegexpReplace, exp.Hex, exp.LowerHex, exp.ToBase64)
"""Make a text longer by a factor: one in another, twenty deep, would fill the memory."""
CHANGING = (
    exp.Rand,
    exp.Uuid,
    exp.CurrentDate,
    exp.CurrentTime,
    exp.CurrentTimestamp,
    exp.CurrentDatetime,
    exp.Localtime,
    exp.Localtimestamp,
)
"""What is another value each time: the same log would not give the same events again, nor the same report."""
ALSO_BOUNDED = frozenset({
    "strip_accents", "nfc_normalize", "url_decode", "list_extract", "list_element", "array_extract", "struct_extract",
    "map_extract_value", "json_extract_path_text", "date_part", "datepart",
})  # fmt: skip
"""DuckDB's own functions whose text or list is no longer than their arguments."""
FIXED_SIZE = (
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
    "FLOAT", "DOUBLE", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "INTERVAL",
)  # fmt: skip


def parse_expression(text: str, where: str) -> exp.Expression:
    """Parse one scalar SQL expression over columns, whose cost is bounded and whose value is the same every time.

    Args:
        text: the expression, in DuckDB's words.
        where: the key that holds it, for messages.

    Raises:
        ConfigError: it cannot be read, or holds a query, an aggregate, or something whose cost or value is not bounded by
            the row.
    """
    shown = one_line(text)
    if len(text) > LONGEST_EXPRESSION:
        raise ConfigError(
            f"{where}: an expression has at most {LONGEST_EXPRESSION:,} characters, this one has {len(text):,}"
        )
    try:
        tree = sqlglot.parse_one(f"SELECT {text}", read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{where}: cannot read the expression '{shown}': {reason}{QUOTING}") from None
    except RecursionError:
        raise ConfigError(f"{where}: the expression is nested too deeply") from None
    simple = isinstance(tree, exp.Select) and len(tree.expressions) == 1 and set(_parts(tree)) == {"expressions"}
    nested = sum(1 for _ in tree.find_all(exp.Select)) > 1 or tree.find(exp.Alias) is not None
    if not simple or nested or tree.find(exp.Subquery, exp.AggFunc, exp.Window, exp.Star, exp.Table) is not None:
        raise ConfigError(f"{where}: '{shown}' must be one expression over the columns of a row{QUOTING}")
    expression: exp.Expression = tree.expressions[0]
    _check_bounded(expression, shown, where)
    return expression


def _parts(tree: exp.Expression) -> list[str]:
    return [name for name, value in tree.args.items() if value]


def _check_bounded(tree: exp.Expression, text: str, where: str) -> None:
    growing = [call for call in tree.find_all(exp.Pad, *GROWING) if _grows_without_bound(call)]
    if unbounded := tree.find(*UNBOUNDED) or next(iter(growing), None):
        raise ConfigError(
            f"{where}: '{text}' holds {unbounded.sql(dialect='duckdb')}; use the columns of the row, without queries, lists "
            "that are generated, or repeated text"
        )
    if changing := tree.find(*CHANGING):
        raise ConfigError(f"{where}: '{text}' holds {changing.sql(dialect='duckdb')}, which is another value each time")
    for call in tree.find_all(exp.Anonymous):
        if call.name.lower() == "age" and len(call.expressions) == 1:
            raise ConfigError(f"{where}: '{text}': age() of one time is another value each day; give it two")
        if call.name.lower() not in bounded_functions():
            raise ConfigError(
                f"{where}: '{text}' calls {call.name}(), which is unknown, or whose cost or value the row does not bound; "
                "use SQL's own functions"
            )


def _grows_without_bound(call: exp.Expr) -> bool:
    if isinstance(call, exp.Pad):
        width = call.expression
        return not width.is_int or int(width.name) > LONGEST_TEXT
    if not _lengthens(call):
        return False
    above = call.parent
    while above is not None:
        if isinstance(above, GROWING) and _lengthens(above):
            return True
        above = above.parent
    return isinstance(call, exp.Replace | exp.RegexpReplace) and not _is_short(call.args.get("replacement"))


def _lengthens(call: exp.Expr) -> bool:
    """Whether a call can make a text longer: a replacement by nothing, or by as much as it replaces, does not."""
    if not isinstance(call, exp.Replace | exp.RegexpReplace):
        return True
    new, old = call.args.get("replacement"), call.expression
    if new is None:
        return False
    if not (isinstance(new, exp.Literal) and isinstance(old, exp.Literal)):
        return True
    if isinstance(call, exp.RegexpReplace):
        return bool(new.name)
    return len(new.name) > len(old.name)


def _is_short(new: exp.Expression | None) -> bool:
    return new is None or (isinstance(new, exp.Literal) and len(new.name) <= LONGEST_TEXT)


@cache
def bounded_functions() -> frozenset[str]:
    """DuckDB's functions that SQL's parser does not know, whose result has a fixed size and depends on its arguments only."""
    with duckdb.connect(config={"threads": 1}) as con:
        rows = con.execute(
            """SELECT function_name FROM duckdb_functions() WHERE function_type = 'scalar' GROUP BY function_name
            HAVING bool_and(stability = 'CONSISTENT' AND return_type IN (SELECT unnest($1)))""",
            [list(FIXED_SIZE)],
        ).fetchall()
    return frozenset(str(row[0]).lower() for row in rows) | ALSO_BOUNDED


@cache
def reserved_words() -> frozenset[str]:
    """Words of SQL that cannot be the name of a column unless it is quoted, in lower case."""
    with duckdb.connect(config={"threads": 1}) as con:
        rows = con.execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'").fetchall()
    return frozenset(str(row[0]).lower() for row in rows)
