"""SQL of what a cell of a log says: a moment, a wall clock, yes or no, a finite number; null where it says nothing of it."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import expressions as exp

from core.duck import quoted, texts
from core.id_text import BLANK_CLASS, WHOLE_NUMBER
from events.mapping_times import Timestamp

FINITE = "clock_finite"
"""DuckDB macro: a number, null where it is infinite or no number at all."""

WALL_CLOCK = r"[0-9]{1,6}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?)?"
ISO = WALL_CLOCK + r" ?(Z|z|UTC|GMT|[+-](0?[0-9]|1[0-5])(:?[0-5][0-9](:?[0-5][0-9])?)?| [A-Za-z_]+/[A-Za-z0-9_/+-]+)?"
"""Times that mean one moment to everybody: an abbreviation such as CST is of several zones."""

SPELLINGS = {
    "^([0-9-]+)t": r"\1 ", ",": ".", " ?(Z|z|UTC|GMT)$": "+00", " ([+-][0-9:]+)$": r"\1",
    "([+-])([0-9]|[0-9]:?[0-9]{2})$": r"\10\2",
}  # fmt: skip
"""What differs between how people and DuckDB write times of ISO 8601."""

MISSING_WORDS = ("nan", "null", "none", "(null)", "<na>", "#n/a", "undefined", "\\n", "nat")

SEVERAL = r"[^|]\|[^|]"
"""A text has a | between parts of it, as lists of genres are written."""

CLOCK_OFFSET = r"[+-]?[0-9]{1,2}:[0-9]{2}|[+-][0-9]{4}"
"""Hours and minutes from UTC; four digits with a sign are no minutes, as no clock is 16 hours from UTC."""

CLEAR_ZONE = r"\b(UTC|GMT|Z)\b|[A-Za-z_]+/[A-Za-z_]+"
"""What a format's %Z may stand for: DuckDB reads abbreviations as well, and takes CST for Chicago's."""


PRINTED_TEXT, JSON_TEXT = r"""([\[{,:]\s*)'([^'"\\]*)'""", r'\1"\2"'
"""A text in an object or a list, as Python prints it, and as JSON has it."""
PRINTED_WORDS = {"None": "null", "nan": "null", "True": "true", "False": "false"}

HALF_DAY = r"(?i)[0-9] ?[ap]\.?m\.?$"
"""How times of a clock of twelve hours end; no zone is called so."""

FORMATS = (
    "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y%m%d%H%M%S", "%a %b %d %H:%M:%S %z %Y", "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p", "%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %I:%M %p", "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p",
)  # fmt: skip
"""What logs write that is not ISO 8601, the more likely first; with AM and PM, the month comes first."""


def timestamp_sql(column: str, rule: Timestamp, kind: str = "VARCHAR") -> str:
    """SQL of an instant (TIMESTAMPTZ, null where unreadable); naive times are in the session's zone.

    Args:
        column: SQL of the cell.
        rule: how the moment is written.
        kind: DuckDB type of the cell.
    """
    if rule.format:
        text = f"CAST({column} AS VARCHAR)"
        moment = f"CAST(try_strptime({text}, {quoted(rule.format)}) AS TIMESTAMPTZ)"
        if "%Z" not in rule.format:
            return moment
        return f"CASE WHEN regexp_matches({text}, {quoted(CLEAR_ZONE)}) THEN {moment} END"
    if rule.unit == "iso":
        if kind.startswith(("TIMESTAMP", "DATE")):
            moment = f"TRY_CAST({column} AS TIMESTAMPTZ)"
            return f"CASE WHEN isfinite({moment}) THEN {moment} END"
        text = f"trim(CAST({column} AS VARCHAR))"
        return f"CASE WHEN regexp_full_match({text}, {quoted(ISO)}) THEN {cast_time(text, 'TIMESTAMPTZ')} END"
    number = number_of_microseconds(column, rule.unit, kind, rule.origin_us)
    return f"CASE WHEN abs({number}) < 2.5e17 THEN make_timestamptz(CAST({number} AS BIGINT)) END"


def number_of_microseconds(column: str, unit: str, kind: str = "VARCHAR", origin_us: int = 0) -> str:
    """SQL of microseconds since 1970 of a number of seconds, milliseconds, microseconds or nanoseconds, a double."""
    micros = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}[unit]
    cell = f"CAST({column} AS VARCHAR)" if kind.startswith(("TIMESTAMP", "DATE", "BOOL")) else column
    return f"(round(TRY_CAST({cell} AS DOUBLE) * {micros}) + {origin_us})"


def wall_clock_sql(column: str, rule: Timestamp, kind: str) -> str:
    """SQL of a time without an offset as it is written, where its zone's clock can show it twice or never; else null."""
    nothing = "CAST(NULL AS TIMESTAMP)"
    if rule.zone in FIXED_ZONES or (rule.unit != "iso" and not rule.format):
        return nothing
    if rule.format:
        naive = not any(code in rule.format for code in ("%z", "%Z"))
        return f"try_strptime(CAST({column} AS VARCHAR), {quoted(rule.format)})" if naive else nothing
    if kind.startswith(("TIMESTAMP", "DATE")):
        return nothing if "TIME ZONE" in kind else f"TRY_CAST({column} AS TIMESTAMP)"
    text = f"trim(CAST({column} AS VARCHAR))"
    return f"CASE WHEN regexp_full_match({text}, {quoted(WALL_CLOCK)}) THEN {cast_time(text, 'TIMESTAMP')} END"


def cast_time(text: str, kind: str) -> str:
    """SQL of a time of ISO 8601, also as DuckDB does not read it: a comma, ``t`` and ``z``, a space before the offset."""
    plain = text
    for pattern, new in SPELLINGS.items():
        plain = f"regexp_replace({plain}, {quoted(pattern)}, {quoted(new)})"
    return f"coalesce(TRY_CAST({text} AS {kind}), TRY_CAST({plain} AS {kind}))"


def offset_minutes_sql(text: str) -> str:
    """SQL of an offset from UTC (DOUBLE, null where unreadable): minutes, or hours and minutes as times have them (``+05:30``, ``-0700``).

    Args:
        text: SQL of the cell's text, without blanks around it.
    """
    hours = f"TRY_CAST(regexp_extract({text}, '^[+-]?([0-9]{{1,2}}):?[0-9]{{2}}$', 1) AS DOUBLE)"
    minutes = f"{hours} * 60 + TRY_CAST(right({text}, 2) AS DOUBLE)"
    return f"""CASE WHEN regexp_full_match({text}, {quoted(CLOCK_OFFSET)}) THEN CASE WHEN starts_with({text}, '-') THEN -1 ELSE 1 END
        * ({minutes}) ELSE TRY_CAST({text} AS DOUBLE) END"""


FIXED_ZONES = {"UTC", "Etc/UTC", "GMT", "Etc/GMT"}


def boolean_sql(sql: str) -> str:
    """SQL of a behavior's value: true, false, or null for what is neither (2, -1, 0.5, words)."""
    text = f"lower(trim(CAST(({sql}) AS VARCHAR)))"
    return f"""CASE WHEN {text} IN ('true', 't', 'yes', 'y', 'on') THEN true WHEN {text} IN ('false', 'f', 'no', 'n', 'off') THEN false
        WHEN TRY_CAST({text} AS DOUBLE) = 1 THEN true WHEN TRY_CAST({text} AS DOUBLE) = 0 THEN false END"""


def content(text: str) -> str:
    """SQL of a text without the blanks around it; null where it has nothing else."""
    return f"nullif(regexp_replace({text}, {quoted(f'^{BLANK_CLASS}+|{BLANK_CLASS}+$')}, '', 'g'), '')"


def is_missing_word(text: str) -> str:
    """SQL: a text is what programs write for a value that is missing."""
    return f"lower({text}) IN ({texts([MISSING_WORDS])})"


def unless_missing(text: str) -> str:
    """SQL of an id that only ties rows together, null where it is a word for a missing one, which would tie what is not one."""
    return f"CASE WHEN NOT {is_missing_word(text)} THEN {text} END"


def is_nested(text: str) -> str:
    """SQL: a text is a whole object or list, as JSON has it or as DuckDB prints a nested value."""
    return f"(regexp_full_match({text}, '(?s)\\{{.*\\}}|\\[.*\\]') AND (json_valid({text}) OR regexp_matches({text}, '[,:=]')))"


def holds_several(text: str) -> str:
    """SQL: a text is ``SEVERAL``."""
    return f"regexp_matches({text}, {quoted(SEVERAL)})"


def is_taken_apart(column: exp.Column) -> bool:
    """Whether an expression takes a part of a column's cell as of JSON."""
    return isinstance(column.parent, exp.JSONExtract | exp.JSONExtractScalar)


def only_json(cell: str) -> str:
    """SQL of a text that is JSON, or as Python prints an object or a list; null of others, so that one is no error of the whole log."""
    listed = f"regexp_replace({cell}, {quoted(PRINTED_TEXT)}, {quoted(JSON_TEXT)}, 'g')"
    words = listed
    for printed, new in PRINTED_WORDS.items():
        pattern, json_word = rf"([\[{{,:]\s*){printed}\b", rf"\1{new}"
        words = f"regexp_replace({words}, {quoted(pattern)}, {quoted(json_word)}, 'g')"
    return f"(CASE {' '.join(f'WHEN json_valid({text}) THEN {text}' for text in (cell, listed, words))} END)"


def whole_number(text: str) -> str:
    """SQL: a text is an integer of 64 bits as one writes it, perhaps as pandas writes it beside empty cells (7.0)."""
    return (
        f"(regexp_full_match({text}, {quoted(WHOLE_NUMBER)}) AND TRY_CAST({without_point(text)} AS BIGINT) IS NOT NULL)"
    )


def without_point(text: str) -> str:
    """SQL of a text without the zeros behind a point at its end: 7 of 7.0."""
    return f"regexp_replace({text}, '\\.0+$', '')"


def number_id(text: str) -> str:
    """SQL of an id of a log whose ids are whole numbers: 7 of 7.0; another text as it is."""
    return f"CASE WHEN {whole_number(text)} THEN {without_point(text)} ELSE {text} END"


def position_sql(text: str) -> str:
    """SQL of a place in a list (INTEGER), null where a text is not a whole number from 0 on."""
    number = f"TRY_CAST({text} AS DOUBLE)"
    return f"CASE WHEN {number} = trunc({number}) AND {number} BETWEEN 0 AND {2**31 - 1} THEN CAST({number} AS INTEGER) END"


def finite(sql: str) -> str:
    """SQL of a number, null where it is infinite or no number at all.

    >>> finite("a / b")
    'CASE WHEN isfinite(CAST(a / b AS DOUBLE)) THEN a / b END'
    """
    return f"CASE WHEN isfinite(CAST({sql} AS DOUBLE)) THEN {sql} END"


def _by_macro(number: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=FINITE, expressions=[number])


def finite_tree(tree: exp.Expr, guard: Callable[[exp.Expr], exp.Expr] = _by_macro) -> exp.Expr:
    """The expression with every operation that can leave the numbers (x/0, a logarithm, a power) made null there.

    Args:
        tree: the expression; it is changed.
        guard: a number, null where it is infinite or no number at all; by default DuckDB's macro ``FINITE``.
    """
    for node in reversed(
        list(tree.find_all(exp.Div, exp.IntDiv, exp.Mod, exp.Pow, exp.Exp, exp.Ln, exp.Log, exp.Sqrt))
    ):
        if isinstance(node, exp.Div | exp.IntDiv | exp.Mod):  # whole numbers over 0 are an error, not infinite
            node.set("expression", exp.Nullif(this=exp.paren(node.expression.copy()), expression=exp.Literal.number(0)))
        guarded = guard(node.copy())
        tree = guarded if node is tree else tree
        node.replace(guarded)
    return tree


def filled(column: str) -> str:
    """SQL: a cell has content.

    >>> filled("c0") == f"({content('CAST(c0 AS VARCHAR)')} IS NOT NULL)"
    True
    """
    return f"({content(f'CAST({column} AS VARCHAR)')} IS NOT NULL)"
