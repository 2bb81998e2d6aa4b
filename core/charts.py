"""Charts of pages: Vega-Altair's, drawn into the page as SVG, and by Vega's scripts once a reader can see them.

The scripts stand in the page once, compressed. Colors are the page's own variables: a chart is light or dark as the page is.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from core.documents import JsonObject
from core.files import write_atomically

if TYPE_CHECKING:
    from core.vega import alt

STATIC_WIDTH = 680
"""Pixels of the drawing that stands in the page until scripts draw it as wide as the screen."""
STILL_WIDTH = 420
"""Pixels of a drawing that stays: its texts can still be read where a phone makes it smaller."""
SMALLEST, LARGEST = 1e-290, 1e290
"""Numbers between which, but for 0, a chart is drawn."""
COORDINATES = re.compile(r' (?:d|transform|x1?|y1?|x2|y2|width|height)="[^"]*"')
LONG_FRACTION = re.compile(r"(\.\d\d)\d+(?!e)")
SCRIPT = Path(__file__).with_name("charts.js")
INK, SOFT, LINE, GOOD, BAD, ACCENT = (f"var(--{name})" for name in ("ink", "soft", "line", "good", "bad", "accent"))
SERIES = (ACCENT, "var(--second)", "var(--third)", "var(--fourth)")
"""Colors of the arms of an experiment, the lines of a chart."""
CONFIG: JsonObject = {
    "aria": False,  # a chart has one description; its parts are hidden from screen readers
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
        still: drawn once, ``STILL_WIDTH`` wide, for pages of which so many are written that each does without scripts.
    """

    drawing: alt.TopLevelMixin
    description: str
    caption: str = ""
    scale: str = ""
    still: bool = False

    def __html__(self) -> Markup:
        spec: JsonObject = {**self.drawing.to_dict(validate=False), "config": CONFIG}
        if self.still:
            spec["width"] = STILL_WIDTH
            figure = Markup('<figure class="chart still"><div role="img" aria-label="{}"><div aria-hidden="true">{}</div></div>'
                            "<figcaption>{}</figcaption></figure>")  # fmt: skip
            return figure.format(self.description, draw_svg(spec), self.caption)
        figure = Markup(
            '<figure class="chart"{}><div role="img" aria-label="{}"><div data-chart aria-hidden="true">{}</div></div>'
            '<script type="application/json">{}</script><figcaption>{}</figcaption></figure>'
        )
        scale = Markup(' data-scale="{}"').format(self.scale) if self.scale else ""
        return figure.format(scale, self.description, draw_svg(spec), script_json(spec), self.caption)


def is_drawable(value: float) -> bool:
    """Whether a chart can place a number: Vega's own arithmetic fails near the smallest and the largest ones there are.

    >>> [is_drawable(value) for value in (0.0, -2.5, 1e-310, float("inf"), float("nan"))]
    [True, True, False, False, False]
    """
    return value == 0 or SMALLEST < abs(value) < LARGEST


def sparkline(values: Sequence[float], description: str) -> Markup:
    """A line as high as a row of a table, with the line of 0; its last point stands out.

    Args:
        values: at equal steps, at least two.
        description: what it shows, for those who cannot see it and for the pointer.
    """
    from core.vega import alt, inline_data

    points = inline_data([{"step": step, "value": value, "zero": 0} for step, value in enumerate(values)])
    x, y = alt.X("step:Q", axis=None), alt.Y("value:Q", axis=None)
    base = alt.Chart(points).encode(x=x)
    drawing = alt.layer(
        base.mark_line(color=LINE, strokeWidth=1).encode(y=alt.Y("zero:Q", axis=None)),
        base.mark_line(color=ACCENT, strokeWidth=1.5).encode(y=y),
        base.mark_circle(color=ACCENT, size=30, opacity=1)
        .encode(y=y)
        .transform_filter(f"datum.step == {len(values) - 1}"),
    ).properties(width=90, height=22)
    # Checked, unlike a page's charts: its specification stands in no page, where tests would check it.
    still = draw_svg({**drawing.to_dict(), "config": CONFIG, "padding": 2})
    markup = Markup('<span role="img" aria-label="{0}" title="{0}"><span aria-hidden="true">{1}</span></span>')
    return markup.format(description, still)


def draw_svg(spec: JsonObject) -> Markup:
    """A Vega-Lite specification as SVG, with coordinates to a hundredth of a pixel: they are most of its bytes."""
    import vl_convert

    def rounded(attribute: re.Match[str]) -> str:
        return LONG_FRACTION.sub(r"\1", attribute.group())

    return Markup(COORDINATES.sub(rounded, vl_convert.vegalite_to_svg(spec)))  # noqa: S704 # nosec B704


def script_json(content: Any) -> Markup:
    """JSON that may stand in a script element, whatever texts it holds."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704 # nosec B704


def chart_scripts(var: Path) -> Markup:
    """What draws the charts of a page, once for all of them: Vega-Embed, compressed, and when to draw.

    Args:
        var: folder of the workspaces, where it exists: the scripts are kept in its ``cache``, as making them takes longer
            than most pages.
    """
    packed = base64.b64encode(_packed_scripts(var)).decode()
    return Markup('<script type="application/gzip" id="vega">{}</script>\n<script>{}</script>').format(
        packed,
        Markup(SCRIPT.read_text(encoding="utf-8")),  # noqa: S704 # nosec B704
    )


def _packed_scripts(var: Path) -> bytes:
    path = var / "cache" / f"vega-{version('vl-convert-python')}.js.gz"
    try:
        packed = path.read_bytes()
        gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):  # not made yet, or damaged
        packed = _make_scripts()
        if var.is_dir():
            with suppress(OSError):  # not writable: they are made each time
                write_atomically(path, lambda target: target.write_bytes(packed))
    return packed


@lru_cache(maxsize=1)
def _make_scripts() -> bytes:
    import vl_convert

    return gzip.compress(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").encode(), mtime=0)
