"""Self-contained HTML pages: one style, no network, values escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from core.files import write_text
from core.page_table import TABLE_STYLE

STYLE = f"""
:root {{ --ink: #1c2430; --soft: #566270; --line: #d9dfe6; --good: #14703c; --bad: #a4262c; --accent: #1f5fa8; --paper: #ffffff;
  --ground: #f4f6f9; --calm: #f1f9f4; --alarm: #fdf3f3; --open: #f2f6fb;
  --second: #a34f00; --third: #14703c; --fourth: #7a3e9d; color-scheme: light dark }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6eaf0; --soft: #a3aebb; --line: #38424f; --good: #63c58d; --bad: #f0888d;
  --accent: #85b6f2; --paper: #1a212b; --ground: #11161d; --calm: #16281e; --alarm: #2d1a1c; --open: #17222f;
  --second: #f0a35e; --third: #63c58d; --fourth: #c79be6 }} }}
* {{ box-sizing: border-box }} [hidden] {{ display: none !important }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 }}
main {{ max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }}
h1 {{ font-size: 1.6rem; margin: .5rem 0; overflow-wrap: anywhere }}
h2 {{ font-size: 1.15rem; margin: .2rem 0 .6rem }} h3 {{ font-size: 1rem }}
section, .card {{ background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem; margin: 1rem 0 }}
.lead {{ font-size: 1.15rem; margin: .2rem 0 }} .soft {{ color: var(--soft) }} .good {{ color: var(--good) }} .bad {{ color: var(--bad) }}
.banner {{ border-left: .35rem solid var(--bad); background: var(--alarm) }}
.banner.calm {{ border-color: var(--good); background: var(--calm) }}
.banner.open {{ border-color: var(--accent); background: var(--open) }}
abbr {{ cursor: help }} dt {{ margin-top: .4rem }} dd {{ margin-left: 1rem }} summary {{ cursor: pointer; color: var(--accent) }}
.facts {{ display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .2rem 0; padding: 0; list-style: none }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem }} .pair > * {{ min-width: 0 }}
{TABLE_STYLE}
figure svg {{ max-width: 100%; height: auto }} figure {{ margin: 0 }} figcaption {{ color: var(--soft); margin-bottom: .6rem }}
.chart [data-chart] {{ display: block !important; width: 100%; overflow: hidden }}
#vg-tooltip-element.vg-tooltip {{ background: var(--ink); color: var(--paper); border: 0; border-radius: .4rem;
  font: .85rem/1.4 system-ui, sans-serif }}
#vg-tooltip-element.vg-tooltip td {{ border: 0; padding: 0 .3rem; text-align: left; color: inherit; white-space: normal }}
#vg-tooltip-element table {{ width: auto }}
a {{ color: var(--accent) }}
code, pre {{ font: .85rem/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }}
@media print {{ body {{ background: none }} section {{ break-inside: avoid-page }}
  details::details-content {{ content-visibility: visible; block-size: auto }} }}
"""
INTERACTIVE = Markup("<script>{}</script>").format(
    Markup(Path(__file__).with_name("page.js").read_text(encoding="utf-8"))  # noqa: S704 # nosec B704
)
"""Makes tables with a name sort, filter and copy, and follow the reader's choices."""
UNKNOWN = "–"
LIVE_BEGIN, LIVE_END = Markup("<!-- live -->"), Markup("<!-- /live -->")
"""Around what a server of the pages replaces by what it knows at that moment."""
BASE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style }}</style></head><body><main>
{% if home %}<p class="soft"><a href="{{ home }}">All reports</a></p>{% endif %}<h1>{{ title }}</h1>
{{ body }}</main>{% for script in scripts %}
{{ script }}{% endfor %}</body></html>
"""


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def percent(value: float | None, digits: int = 2) -> str:
    """A signed share: ``+1.25%``; ``UNKNOWN`` where it is not a number."""
    return f"{value:+.{digits}%}" if _known(value) else UNKNOWN


def share(value: float | None, digits: int = 0) -> str:
    """A share: ``12%``."""
    return f"{value:.{digits}%}" if _known(value) else UNKNOWN


def number(value: float | None, digits: int = 4) -> str:
    """A number with decimals, or without where it is whole: ``0.7161``, ``8,023``."""
    if not _known(value):
        return UNKNOWN
    assert value is not None
    return f"{value:,.0f}" if abs(value) >= 1 and float(value).is_integer() else f"{value:,.{digits}f}"


def figure(value: float | None) -> str:
    """A number with four significant digits."""
    return f"{value:,.4g}" if _known(value) else UNKNOWN


def signed(value: float | None, unit: str = "") -> str:
    """A difference with three significant digits and its unit: ``+0.512 hours``."""
    return f"{value:+,.3g}{f' {unit}' if unit else ''}" if _known(value) else UNKNOWN


def signed_interval(bounds: tuple[float | None, float | None] | None, unit: str = "") -> str:
    """An interval of differences: ``+0.21 to +0.6 hours``; an end that is infinite is open."""
    return (
        f"{_open(bounds[0]) or signed(bounds[0])} to {_open(bounds[1]) or signed(bounds[1], unit)}"
        if bounds
        else "not yet"
    )


def _open(bound: float | None) -> str:
    """Sign of an infinite end of an interval, empty for another.

    >>> _open(float("-inf")), _open(0.5)
    ('−∞', '')
    """
    return "" if bound is None or not math.isinf(bound) else "∞" if bound > 0 else "−∞"


def total(value: float | None) -> str:
    """A difference that is counted over many: ``+1,234``."""
    return f"{value:+,.0f}" if value is not None and _known(value) and abs(value) >= 100 else signed(value)


def p_value(value: float | None) -> str:
    """A p-value with two significant digits."""
    return f"{value:.2g}" if _known(value) else UNKNOWN


def p_cell(value: float | None) -> str:
    """A p-value as a table shows it: none below a ten-thousandth, where no test's assumptions hold."""
    return "< 0.0001" if value is not None and _known(value) and value <= 0.0001 else p_value(value)


def p_told(value: float | None) -> str:
    """A p-value in a sentence, as ``p_cell`` shows it in a table.

    >>> p_told(0.0123), p_told(1e-9)
    ('p = 0.012', 'p < 0.0001')
    """
    shown = p_cell(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def interval(bounds: tuple[float | None, float | None] | None) -> str:
    """An interval of signed shares: ``+0.51% to +6.77%``; an end that is infinite is open."""
    return " to ".join(_open(bound) or percent(bound) for bound in bounds) if bounds else "not yet"


def words(value: object) -> str:
    """A name without underscores."""
    return str(value).replace("_", " ")


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": percent, "share": share, "number": number, "figure": figure, "p": p_value, "interval": interval, "words": words,
    }  # fmt: skip
    return environment


def write_page(
    path: Path,
    title: str,
    template: str,
    *,
    home: str | None = None,
    style: str = "",
    scripts: Sequence[Markup] = (),
    **context: Any,
) -> None:
    """Render a page and write it atomically.

    Args:
        path: the HTML file.
        title, template, home, style, scripts, context: as of ``render_page``.
    """
    write_text(path, render_page(title, template, home=home, style=style, scripts=scripts, **context))


def render_part(template: str, **context: Any) -> Markup:
    """A part of a page as HTML; every value in it is escaped."""
    return Markup(_environment().from_string(template).render(**context))  # noqa: S704 # nosec B704


def render_page(
    title: str,
    template: str,
    *,
    home: str | None = None,
    style: str = "",
    scripts: Sequence[Markup] = (),
    **context: Any,
) -> str:
    """A page as HTML; every value in it is escaped.

    Args:
        title: of the page.
        template: Jinja template of the body.
        home: link to the list of all reports, relative to the page; None: no link.
        style: CSS of this kind of page, after everybody's.
        scripts: script elements that stand at its end.
        context: values of the template.
    """
    body = render_part(template, **context)
    css = Markup(STYLE + style)  # noqa: S704 # nosec B704
    return _environment().from_string(BASE).render(title=title, body=body, home=home, style=css, scripts=scripts)
