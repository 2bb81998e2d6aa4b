"""Vega-Altair without its check of each part of a chart against Vega-Lite's schema, which takes a third of a page's time.

Our charts are made by our code: tests check whole charts instead, in the pages where readers find them.
"""

from __future__ import annotations

import altair as alt
from altair.utils.schemapi import disable_debug_mode

disable_debug_mode()

__all__ = ["alt"]
