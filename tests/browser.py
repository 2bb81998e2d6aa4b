"""A browser for the pages, and how every page is looked at."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from jsonschema import Draft7Validator
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
SHEET_WIDTH = 794
"""Of A4, in CSS pixels."""
SECONDS = 120
"""That anything in a page may take: other workers of the tests may have both cores."""
Scheme = Literal["light", "dark"]
ONLY_VIOLATIONS = {"resultTypes": ["violations"]}
"""What passes is checked, too, and not described node by node, which takes as long again."""
CHART = re.compile(r'<script type="application/json">(.*?)</script>', re.DOTALL)
CUT = "e => e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1"


def launched() -> Iterator[Browser]:
    """The browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (make services)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(
    chromium: Browser,
    path: Path,
    width: int = 1300,
    scheme: Scheme = "light",
    *,
    scripts: bool = True,
    follow: bool = False,
    fragment: str = "",
) -> Iterator[Page]:
    """A page on a screen of some width; it must say nothing to the console and ask for nothing but itself.

    Args:
        chromium: the browser.
        path: the page.
        width: of the screen.
        scheme: that the reader prefers.
        scripts: whether they run.
        follow: a link to a page beside it may be followed.
        fragment: of the address, with its ``#``.
    """
    asked: list[str] = []
    said: list[str] = []
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts)
    page.set_default_timeout(SECONDS * 1000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri() + fragment)
    yield page
    page.close()
    inline = ("blob:", "data:")  # what the page made itself
    asked_for = {url.split("#")[0] for url in asked if not url.startswith(inline)} - {path.as_uri()}
    assert {url for url in asked_for if not (follow and url.startswith(path.parent.as_uri()))} == set()
    assert said == []


def fits_every_screen(chromium: Browser, path: Path) -> None:
    """Asserts that a page is no wider than a wide and a narrow screen, light and dark, cuts no cell off, and that everybody can use it.

    The last by axe-core: names, roles, headings, contrast. Every chart follows Vega-Lite's schema, and those in view are drawn,
    with some width.
    """
    from axe_playwright_python.sync_playwright import Axe

    has_valid_charts(path)

    # Each page is opened in one scheme and then seen in the other one, as when the reader's evening begins.
    screens: tuple[tuple[int, tuple[Scheme, Scheme]], ...] = ((1300, ("light", "dark")), (400, ("dark", "light")))
    for width, schemes in screens:
        with opened(chromium, path, width, schemes[0]) as page:
            page.locator("details").evaluate_all("all => all.forEach(e => e.open = true)")
            for scheme in schemes:
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
                cut = page.locator("main :is(td, li, dd, p, svg)").evaluate_all(
                    f"all => all.filter({CUT}).map(e => e.outerHTML.slice(0, 200))"
                )
                assert cut == [], (path, width)
                draw_charts(page)
                answer = Axe().run(page, options=ONLY_VIOLATIONS).response["violations"]
                violations = [(v["id"], v["nodes"][0]["html"][:300]) for v in answer]
                assert violations == [], (path.name, width, scheme, violations)
    prints_everything(chromium, path)


def has_valid_charts(path: Path) -> None:
    """Asserts that the specification of every chart of a page follows Vega-Lite's schema; pages are made without that check.

    But for the page's configuration: the schema knows no variables as colors.
    """
    for spec in map(json.loads, CHART.findall(path.read_text(encoding="utf-8"))):
        assert spec.pop("config")
        schema_of_charts().validate(spec)


@lru_cache(maxsize=1)
def schema_of_charts() -> Draft7Validator:
    """What checks a chart's specification."""
    from jsonschema import Draft7Validator

    from core.vega import alt

    return Draft7Validator(alt.load_schema())


def prints_everything(chromium: Browser, path: Path) -> None:
    """Asserts that a page on paper is no wider than a sheet, cuts no cell off, and shows what is folded on the screen."""
    with opened(chromium, path, SHEET_WIDTH) as page:
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= SHEET_WIDTH, path
        cut = page.locator("main :is(td, li, dd, p)").evaluate_all(
            f"all => all.filter({CUT}).map(e => e.outerHTML.slice(0, 200))"
        )
        assert cut == [], path
        folded = page.locator("details:not([open]) > :not(summary)").evaluate_all(
            "all => all.filter(e => getComputedStyle(e).display !== 'none' && !e.checkVisibility()).map(e => e.outerHTML.slice(0, 200))"
        )
        assert folded == [], path


def draw_charts(page: Page) -> None:
    """Scroll to every chart that a reader can see and wait until it is drawn, as wide as its place."""
    for holder in page.locator("[data-chart]:visible").all():
        holder.scroll_into_view_if_needed()
        page.wait_for_function("e => e.dataset.chart === 'drawn'", arg=holder.element_handle())
        assert holder.locator("svg").evaluate("e => e.getBoundingClientRect().width") > 200
