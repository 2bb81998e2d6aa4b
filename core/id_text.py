"""How ids are written, in SQL, files and requests alike: blanks at a text's ends are no part of it, and 7.0 is 7 among numbers."""

from __future__ import annotations

import re

_RANGES = (
    (0x01, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x61C, 0x61C), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200F),
    (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
"""Spaces of any width (also none), tabs, line ends and other controls, joiners, marks of direction and byte order."""
BLANKS = "".join(chr(code) for first, last in _RANGES for code in range(first, last + 1))
BLANK_CLASS = "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in _RANGES) + "]"
"""The same as a class of DuckDB's regular expressions."""
_DIGITS = r"(0|-?[1-9][0-9]*)"
WHOLE_NUMBER = _DIGITS + r"(\.0+)?"
"""A whole number as one writes it, perhaps as pandas writes it beside empty cells (7.0); 007 is text."""
_INT64 = range(-(2**63), 2**63)
_LONGEST_INT64 = len(str(_INT64.start))


def parse_int64(text: str) -> int | None:
    """The integer of 64 bits that a text is; None where it is none, or is written otherwise than the platform writes it.

    >>> parse_int64("-9223372036854775808"), parse_int64("9223372036854775808"), parse_int64("007")
    (-9223372036854775808, None, None)
    """
    if len(text) > _LONGEST_INT64 or not re.fullmatch(_DIGITS, text):
        return None
    number = int(text)
    return number if number in _INT64 else None


def without_point(text: str) -> str:
    """A whole number without the zeros behind its point; any other text as it is.

    >>> without_point("7.0"), without_point("7.50"), without_point("007.0")
    ('7', '7.50', '007.0')
    """
    return text.partition(".")[0] if re.fullmatch(WHOLE_NUMBER, text) else text


def strip_blanks(text: str) -> str:
    r"""A text without the blanks at its ends.

    >>> strip_blanks("\ufeff\tAnn Lee\u00a0")
    'Ann Lee'
    """
    return text.strip(BLANKS)
