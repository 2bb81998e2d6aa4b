"""Vega-Altair without its check of each part of a chart against Vega-Lite's schema, which takes a third of a page's time.

Our charts are made by our code: tests check whole charts instead, in the pages where readers find them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import altair as alt
from altair.utils.schemapi import disable_debug_mode

disable_debug_mode()

__all__ = ["alt", "inline_data"]


def inline_data(rows: Iterable[dict[str, Any]]) -> alt.Data:
    """Rows of a chart, which stand in its specification.

    As a tuple: with each step of making a chart Altair copies what it has, but for tuples.
    """
    return alt.Data(values=tuple(rows))
