"""Charts of pages: Vega-Altair's, drawn into the page as SVG, and by Vega's scripts once a reader can see them.

The scripts stand in the page once, compressed. Colors are the page's own variables: a chart is light or dark as the page is.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from core.documents import JsonObject

if TYPE_CHECKING:
    import altair as alt

STATIC_WIDTH = 680
"""Pixels of the drawing that stands in the page until scripts draw it as wide as the screen."""
SCRIPT = Path(__file__).with_name("charts.js")
INK, SOFT, LINE, GOOD, BAD, ACCENT = (f"var(--{name})" for name in ("ink", "soft", "line", "good", "bad", "accent"))
SERIES = (ACCENT, "var(--second)", "var(--third)", "var(--fourth)")
"""Colors of the arms of an experiment, the lines of a chart."""
CONFIG: JsonObject = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None, "continuousWidth": STATIC_WIDTH},
    "axis": {
        "labelColor": SOFT, "titleColor": SOFT, "gridColor": LINE, "domainColor": LINE, "tickColor": LINE, "labelFontSize": 12,
        "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 150,
    },
    "legend": {"labelColor": INK, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12, "orient": "top"},
    "header": {"labelColor": INK, "titleColor": SOFT, "labelFontSize": 13, "labelFontWeight": "bold"},
    "title": {"color": INK, "fontSize": 13, "anchor": "start"},
    "text": {"color": INK},
    "rule": {"color": INK},
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart; Jinja renders it where it is named.

    Attributes:
        drawing: of Altair.
        description: what it shows, for those who cannot see it; every figure is also in a table.
        caption: shown below it.
        scale: ``relative`` or ``absolute`` where the reader chooses between two charts.
    """

    drawing: alt.TopLevelMixin
    description: str
    caption: str = ""
    scale: str = ""

    def __html__(self) -> Markup:
        import vl_convert

        spec: JsonObject = {**self.drawing.to_dict(), "config": CONFIG}
        still = vl_convert.vegalite_to_svg(spec)
        figure = Markup(
            '<figure class="chart"{}><div role="img" aria-label="{}"><div data-chart aria-hidden="true">{}</div></div>'
            '<script type="application/json">{}</script><figcaption>{}</figcaption></figure>'
        )
        scale = Markup(' data-scale="{}"').format(self.scale) if self.scale else ""
        return figure.format(scale, self.description, Markup(still), script_json(spec), self.caption)  # noqa: S704 # nosec B704


def script_json(content: Any) -> Markup:
    """JSON that may stand in a script element, whatever texts it holds."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704 # nosec B704


@lru_cache(maxsize=1)
def chart_scripts() -> Markup:
    """What draws the charts of a page, once for all of them: Vega-Embed, compressed, and when to draw."""
    import vl_convert

    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    packed = base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()
    return Markup('<script type="application/gzip" id="vega">{}</script>\n<script>{}</script>').format(
        packed,
        Markup(SCRIPT.read_text(encoding="utf-8")),  # noqa: S704 # nosec B704
    )
