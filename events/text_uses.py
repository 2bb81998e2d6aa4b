"""Whether an expression of a mapping takes a column for text, although its cells are numbers: 007 and ids of 19 digits stay whole."""

from __future__ import annotations

from sqlglot import expressions as exp

from core.numbers import is_number
from events.cells import is_taken_apart

OF_TEXT = (
    exp.DPipe, exp.Concat, exp.ConcatWs, exp.Substring, exp.Bracket, exp.Left, exp.Right, exp.Length, exp.Upper, exp.Lower,
    exp.Trim, exp.Replace, exp.RegexpReplace, exp.RegexpExtract, exp.RegexpLike, exp.RegexpFullMatch, exp.RegexpSplit, exp.Like,
    exp.ILike, exp.SimilarTo, exp.SplitPart, exp.Split, exp.StartsWith, exp.EndsWith, exp.Contains, exp.StrPosition, exp.Pad,
    exp.Reverse, exp.StrToTime, exp.MD5, exp.Translate, exp.Ascii, exp.Unicode,
)  # fmt: skip
"""Operations whose first argument, or each of them, is text."""
OF_TEXT_BY_NAME = frozenset({
    "prefix", "suffix", "strip_accents", "try_strptime", "strlen", "nfc_normalize", "url_decode",
})  # fmt: skip
OF_ALL_ARGUMENTS = (exp.DPipe, exp.Concat, exp.ConcatWs)


def is_text_use(column: exp.Column, *, as_text: bool) -> bool:
    """Whether an expression takes a column for text.

    Args:
        column: of the expression.
        as_text: the expression's value is used as text.
    """
    used: exp.Expr = column
    while _is_passed_on(used) and not _stands_beside_words(used):
        assert used.parent is not None
        used = used.parent
    parent = used.parent
    if parent is None or isinstance(parent, exp.Select):  # as it is parsed
        return as_text
    if isinstance(parent, exp.Cast):
        return not parent.to.is_type(*exp.DataType.NUMERIC_TYPES, exp.DType.BOOLEAN)
    if isinstance(parent, exp.Anonymous):
        return parent.name.lower() in OF_TEXT_BY_NAME
    of_text = isinstance(parent, OF_TEXT) and (used.arg_key == "this" or isinstance(parent, OF_ALL_ARGUMENTS))
    return of_text or _stands_beside_words(used) or is_taken_apart(column)


def _is_passed_on(used: exp.Expr) -> bool:
    """Whether the operation around a value gives the value itself."""
    parent = used.parent
    if isinstance(parent, exp.Nullif | exp.Paren):
        return used.arg_key == "this"
    if isinstance(parent, exp.If):
        return used.arg_key in {"true", "false"}
    if isinstance(parent, exp.Case):
        return used.arg_key in {"ifs", "default"}
    return isinstance(parent, exp.Coalesce)


def _stands_beside_words(used: exp.Expr) -> bool:
    """Whether a value is compared with texts that are no numbers, or one of them takes its place."""
    parent = used.parent
    if not isinstance(parent, exp.Predicate | exp.Coalesce | exp.Nullif | exp.Case | exp.If):
        return False
    beside = [*parent.iter_expressions()]
    if isinstance(parent, exp.Case) and used.arg_key == "this":
        beside = [choice.this for choice in parent.args["ifs"]]
    return any(isinstance(each, exp.Literal) and each.is_string and not is_number(each.name) for each in beside)
