"""Numbers as texts and JSON have them."""

from __future__ import annotations

import math


def finite(value: float) -> float | None:
    """The value, or None where it is not a number: JSON holds null, never NaN.

    >>> finite(0.5), finite(float("nan")), finite(float("inf"))
    (0.5, None, None)
    """
    return float(value) if math.isfinite(value) else None


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number.

    >>> is_number("1e3"), is_number("nan"), is_number("3 min")
    (True, True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True
