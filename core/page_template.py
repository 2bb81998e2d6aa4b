"""Self-contained HTML pages: one style, no network, values escaped, plots as inline SVG."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from core.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { --ink: #1c2430; --soft: #5a6675; --line: #d9dfe6; --good: #14703c; --bad: #a4262c; --accent: #1f5fa8; --paper: #ffffff }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #f4f6f9; margin: 0 }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
section, .card { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem; margin: 1rem 0 }
.lead { font-size: 1.15rem } .soft { color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad) }
.banner { border-left: .35rem solid var(--bad); background: #fdf3f3 } .banner.calm { border-color: var(--good); background: #f1f9f4 }
.banner.open { border-color: var(--accent); background: #f2f6fb } .headline td { font-weight: 600 } abbr { cursor: help }
caption { text-align: left; padding-bottom: .4rem } dt { margin-top: .4rem } dd { margin-left: 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .35rem .45rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 600 }
svg { max-width: 100%; height: auto } figure { margin: 0 } figcaption { color: var(--soft) } a { color: var(--accent) }
code, pre { font: .85rem/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }
@media (max-width: 40rem) { figure { overflow-x: auto } figure svg { max-width: none; width: 40rem } }
@media print { body { background: none } section { break-inside: avoid } }
"""
UNKNOWN = "–"
BASE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body><main>
{% if home %}<p class="soft"><a href="{{ home }}">All reports</a></p>{% endif %}<h1>{{ title }}</h1>
{{ body }}</main></body></html>
"""


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v, digits=2: f"{v:+.{digits}%}" if _known(v) else UNKNOWN
    environment.filters["share"] = lambda v, digits=0: f"{v:.{digits}%}" if _known(v) else UNKNOWN
    environment.filters["number"] = lambda v, digits=4: f"{v:,.{digits}f}" if _known(v) else UNKNOWN
    environment.filters["figure"] = lambda v: f"{v:,.4g}" if _known(v) else UNKNOWN
    environment.filters["p"] = lambda v: f"{v:.2g}" if _known(v) else UNKNOWN
    environment.filters["words"] = lambda v: str(v).replace("_", " ")
    return environment


def write_page(path: Path, title: str, template: str, *, home: str | None = None, **context: Any) -> None:
    """Render a page and write it atomically; every value in it is escaped.

    Args:
        path: the HTML file.
        title: of the page.
        template: Jinja template of the body.
        home: link to the list of all reports, relative to the page; None: no link.
        context: values of the template.
    """
    environment = _environment()
    body = Markup(environment.from_string(template).render(**context))  # noqa: S704 # nosec B704
    text = environment.from_string(BASE).render(title=title, body=body, home=home, style=Markup(STYLE))  # noqa: S704 # nosec B704
    write_text(path, text)


def svg(figure: Figure, alt: str, caption: str = "") -> Markup:
    """A figure as inline SVG; the figure is closed.

    Args:
        figure: of matplotlib.
        alt: description for those who cannot see it.
        caption: shown below it.
    """
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(
        "<svg", '<svg role="img" aria-label="' + str(escape(alt)) + '"', 1
    )
    return Markup("<figure>") + Markup(drawing) + Markup(f"<figcaption>{escape(caption)}</figcaption></figure>")  # noqa: S704 # nosec B704
